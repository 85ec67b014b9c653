//! What a PersistentVolume is made of, as Go fields: for the message that shows how it changed.

use crate::go_dump::Go::{Bool, Nil, Number, Pointer, Text};
use crate::go_dump::GoField;

const SECRET: &[GoField] = &[("Name", "name", Text), ("Namespace", "namespace", Text)];
const REFERENCE: &[GoField] = &[
    ("Kind", "kind", Text),
    ("Namespace", "namespace", Text),
    ("Name", "name", Text),
    ("UID", "uid", Text),
    ("APIVersion", "apiVersion", Text),
    ("ResourceVersion", "resourceVersion", Text),
    ("FieldPath", "fieldPath", Text),
];
const GCE: &[GoField] = &[("PDName", "pdName", Text), ("FSType", "fsType", Text), ("Partition", "partition", Number), ("ReadOnly", "readOnly", Bool)];
const AWS: &[GoField] = &[("VolumeID", "volumeID", Text), ("FSType", "fsType", Text), ("Partition", "partition", Number), ("ReadOnly", "readOnly", Bool)];
const HOST_PATH: &[GoField] = &[("Path", "path", Text), ("Type", "type", Nil)];
const GLUSTERFS: &[GoField] = &[("EndpointsName", "endpoints", Text), ("Path", "path", Text), ("ReadOnly", "readOnly", Bool), ("EndpointsNamespace", "endpointsNamespace", Nil)];
const NFS: &[GoField] = &[("Server", "server", Text), ("Path", "path", Text), ("ReadOnly", "readOnly", Bool)];
const RBD: &[GoField] = &[
    ("CephMonitors", "monitors", Nil),
    ("RBDImage", "image", Text),
    ("FSType", "fsType", Text),
    ("RBDPool", "pool", Text),
    ("RadosUser", "user", Text),
    ("Keyring", "keyring", Text),
    ("SecretRef", "secretRef", Pointer(SECRET)),
    ("ReadOnly", "readOnly", Bool),
];
const QUOBYTE: &[GoField] =
    &[("Registry", "registry", Text), ("Volume", "volume", Text), ("ReadOnly", "readOnly", Bool), ("User", "user", Text), ("Group", "group", Text), ("Tenant", "tenant", Text)];
const ISCSI: &[GoField] = &[
    ("TargetPortal", "targetPortal", Text),
    ("IQN", "iqn", Text),
    ("Lun", "lun", Number),
    ("ISCSIInterface", "iscsiInterface", Text),
    ("FSType", "fsType", Text),
    ("ReadOnly", "readOnly", Bool),
    ("Portals", "portals", Nil),
    ("DiscoveryCHAPAuth", "chapAuthDiscovery", Bool),
    ("SessionCHAPAuth", "chapAuthSession", Bool),
    ("SecretRef", "secretRef", Pointer(SECRET)),
    ("InitiatorName", "initiatorName", Nil),
];
const FLEX: &[GoField] =
    &[("Driver", "driver", Text), ("FSType", "fsType", Text), ("SecretRef", "secretRef", Pointer(SECRET)), ("ReadOnly", "readOnly", Bool), ("Options", "options", Nil)];
const CINDER: &[GoField] = &[("VolumeID", "volumeID", Text), ("FSType", "fsType", Text), ("ReadOnly", "readOnly", Bool), ("SecretRef", "secretRef", Pointer(SECRET))];
const CEPHFS: &[GoField] = &[
    ("Monitors", "monitors", Nil),
    ("Path", "path", Text),
    ("User", "user", Text),
    ("SecretFile", "secretFile", Text),
    ("SecretRef", "secretRef", Pointer(SECRET)),
    ("ReadOnly", "readOnly", Bool),
];
const FC: &[GoField] = &[("TargetWWNs", "targetWWNs", Nil), ("Lun", "lun", Nil), ("FSType", "fsType", Text), ("ReadOnly", "readOnly", Bool), ("WWIDs", "wwids", Nil)];
const FLOCKER: &[GoField] = &[("DatasetName", "datasetName", Text), ("DatasetUUID", "datasetUUID", Text)];
const AZURE_FILE: &[GoField] = &[("SecretName", "secretName", Text), ("ShareName", "shareName", Text), ("ReadOnly", "readOnly", Bool), ("SecretNamespace", "secretNamespace", Nil)];
const VSPHERE: &[GoField] =
    &[("VolumePath", "volumePath", Text), ("FSType", "fsType", Text), ("StoragePolicyName", "storagePolicyName", Text), ("StoragePolicyID", "storagePolicyID", Text)];
const AZURE_DISK: &[GoField] = &[
    ("DiskName", "diskName", Text),
    ("DataDiskURI", "diskURI", Text),
    ("CachingMode", "cachingMode", Nil),
    ("FSType", "fsType", Nil),
    ("ReadOnly", "readOnly", Nil),
    ("Kind", "kind", Nil),
];
const PHOTON: &[GoField] = &[("PdID", "pdID", Text), ("FSType", "fsType", Text)];
const PORTWORX: &[GoField] = &[("VolumeID", "volumeID", Text), ("FSType", "fsType", Text), ("ReadOnly", "readOnly", Bool)];
const SCALE_IO: &[GoField] = &[
    ("Gateway", "gateway", Text),
    ("System", "system", Text),
    ("SecretRef", "secretRef", Pointer(SECRET)),
    ("SSLEnabled", "sslEnabled", Bool),
    ("ProtectionDomain", "protectionDomain", Text),
    ("StoragePool", "storagePool", Text),
    ("StorageMode", "storageMode", Text),
    ("VolumeName", "volumeName", Text),
    ("FSType", "fsType", Text),
    ("ReadOnly", "readOnly", Bool),
];
const LOCAL: &[GoField] = &[("Path", "path", Text), ("FSType", "fsType", Nil)];
const STORAGE_OS: &[GoField] = &[
    ("VolumeName", "volumeName", Text),
    ("VolumeNamespace", "volumeNamespace", Text),
    ("FSType", "fsType", Text),
    ("ReadOnly", "readOnly", Bool),
    ("SecretRef", "secretRef", Pointer(REFERENCE)),
];
const CSI: &[GoField] = &[
    ("Driver", "driver", Text),
    ("VolumeHandle", "volumeHandle", Text),
    ("ReadOnly", "readOnly", Bool),
    ("FSType", "fsType", Text),
    ("VolumeAttributes", "volumeAttributes", Nil),
    ("ControllerPublishSecretRef", "controllerPublishSecretRef", Pointer(SECRET)),
    ("NodeStageSecretRef", "nodeStageSecretRef", Pointer(SECRET)),
    ("NodePublishSecretRef", "nodePublishSecretRef", Pointer(SECRET)),
    ("ControllerExpandSecretRef", "controllerExpandSecretRef", Pointer(SECRET)),
    ("NodeExpandSecretRef", "nodeExpandSecretRef", Pointer(SECRET)),
];

/// Go's `PersistentVolumeSource`, whose fields stand in the spec of a PersistentVolume.
pub const SOURCE: &[GoField] = &[
    ("GCEPersistentDisk", "gcePersistentDisk", Pointer(GCE)),
    ("AWSElasticBlockStore", "awsElasticBlockStore", Pointer(AWS)),
    ("HostPath", "hostPath", Pointer(HOST_PATH)),
    ("Glusterfs", "glusterfs", Pointer(GLUSTERFS)),
    ("NFS", "nfs", Pointer(NFS)),
    ("RBD", "rbd", Pointer(RBD)),
    ("Quobyte", "quobyte", Pointer(QUOBYTE)),
    ("ISCSI", "iscsi", Pointer(ISCSI)),
    ("FlexVolume", "flexVolume", Pointer(FLEX)),
    ("Cinder", "cinder", Pointer(CINDER)),
    ("CephFS", "cephfs", Pointer(CEPHFS)),
    ("FC", "fc", Pointer(FC)),
    ("Flocker", "flocker", Pointer(FLOCKER)),
    ("AzureFile", "azureFile", Pointer(AZURE_FILE)),
    ("VsphereVolume", "vsphereVolume", Pointer(VSPHERE)),
    ("AzureDisk", "azureDisk", Pointer(AZURE_DISK)),
    ("PhotonPersistentDisk", "photonPersistentDisk", Pointer(PHOTON)),
    ("PortworxVolume", "portworxVolume", Pointer(PORTWORX)),
    ("ScaleIO", "scaleIO", Pointer(SCALE_IO)),
    ("Local", "local", Pointer(LOCAL)),
    ("StorageOS", "storageos", Pointer(STORAGE_OS)),
    ("CSI", "csi", Pointer(CSI)),
];
