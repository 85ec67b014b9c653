//! What the entries ask of the storage kinds' API alone.

use keles_e2e::api::{World, condition, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("CSIInlineVolumes should run through the lifecycle of a CSIDriver", |w| operations(w, "storage.k8s.io/v1/csidrivers", false, json!({"attachRequired": false}))),
        case("CSIInlineVolumes should support CSIVolumeSource in Pod API", pods_with_csi_volumes),
        case("CSINodes CSI Conformance should run through the lifecycle of a csinode", |w| operations(w, "storage.k8s.io/v1/csinodes", false, json!({"drivers": []}))),
        case("CSIStorageCapacity should support CSIStorageCapacities API operations", |w| async move {
            w.api_operations("storage.k8s.io/v1/csistoragecapacities", true, |_| json!({"metadata": {}, "storageClassName": "c", "capacity": "1Gi"})).await;
        }),
        case("StorageClasses CSI Conformance should run through the lifecycle of a StorageClass", |w| async move {
            w.api_operations("storage.k8s.io/v1/storageclasses", false, |_| json!({"metadata": {}, "provisioner": "e2e.example.com"})).await;
        }),
        case("VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the lifecycle of a VolumeAttributesClass", |w| async move {
            let object = |_: &str| json!({"metadata": {}, "driverName": "e2e.example.com", "parameters": {"iops": "100"}});
            w.api_operations("storage.k8s.io/v1/volumeattributesclasses", false, object).await;
        }),
        case("VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment", |w| operations(w, ATTACHMENTS, false, attachment())),
        case("VolumeAttachment Conformance should apply changes to a volumeattachment status", attachment_status),
        case("PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC", |w| async move {
            w.api_operations("v1/persistentvolumes", false, volume).await;
            w.api_operations("v1/persistentvolumeclaims", true, |_| claim()).await;
        }),
        case("PersistentVolumes CSI Conformance should apply changes to a pv/pvc status", status_of_volumes_and_claims),
    ]
}

const ATTACHMENTS: &str = "storage.k8s.io/v1/volumeattachments";

fn attachment() -> Value {
    json!({"attacher": "e2e.example.com", "nodeName": "nowhere", "source": {"persistentVolumeName": "v"}})
}

async fn operations(w: World, path: &str, namespaced: bool, spec: Value) {
    w.api_operations(path, namespaced, |_| json!({"metadata": {}, "spec": spec})).await;
}

async fn attachment_status(w: World) {
    let (all, name) = (w.cluster(ATTACHMENTS), w.namespace.as_str());
    let made = all.create(&json!({"metadata": {"name": name}, "spec": attachment()})).await;
    assert_eq!(made["metadata"]["name"], name);
    assert_eq!(all.patch(name, json!({"metadata": {"labels": {"l": "patched"}}})).await["metadata"]["labels"]["l"], "patched");
    let status = format!("{name}/status");
    assert_ne!(all.get(&status).await["status"]["attached"], true);
    assert_eq!(all.patch(&status, json!({"status": {"attached": true}})).await["status"]["attached"], true);
    let mut whole = all.get(&status).await;
    whole["status"]["attached"] = json!(false);
    assert_eq!(all.try_update(&status, &whole).await.expect("updates")["status"]["attached"], false);
    all.delete(name).await;
    all.gone(name).await;
}

/// Pods that name a driver which is not there: the API serves them, the node holds them.
async fn pods_with_csi_volumes(w: World) {
    let volume = json!({"name": "v", "csi": {"driver": "e2e.example.com", "volumeAttributes": {"a": "b"}}});
    let spec = json!({"containers": [with(shell("sleep 3600"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))], "volumes": [volume]});
    let made = w.labelled_pod("p", json!({"labels": {"l": "csi"}}), spec).await;
    let pods = w.pods();
    assert_eq!(made["spec"]["volumes"][0]["csi"]["driver"], "e2e.example.com");
    assert_eq!(pods.get("p").await["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(pods.list("l=csi").await.len(), 1);
    assert_eq!(pods.patch("p", json!({"metadata": {"labels": {"l": "patched"}}})).await["metadata"]["labels"]["l"], "patched");
    pods.delete_with_grace("p", 0).await;
    pods.gone("p").await;
}

const CLASS: &str = "e2e-none";

/// A volume and a claim of a class that no controller binds by itself: `claim` names the volume only where it shall be bound.
fn volume(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "10Mi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": CLASS, "csi": {"driver": "e2e.example.com", "volumeHandle": name}}})
}

fn claim() -> Value {
    json!({"metadata": {}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": format!("{CLASS}-claims"), "resources": {"requests": {"storage": "10Mi"}}}})
}

async fn status_of_volumes_and_claims(w: World) {
    let (volumes, claims, name) = (w.cluster("v1/persistentvolumes"), w.of("v1/persistentvolumeclaims"), w.namespace.as_str());
    volumes.create(&with(volume(name), json!({"metadata": {"name": name, "labels": {"case": name}}}))).await;
    claims.create(&with(claim(), json!({"metadata": {"name": name}}))).await;
    assert_eq!(volumes.list(&format!("case={name}")).await.len(), 1);
    assert_eq!(claims.list("").await.len(), 1);
    let status = format!("{name}/status");
    assert!(matches!(claims.get(&status).await["status"]["phase"].as_str(), Some("Pending")));
    volumes.becomes(&status, "is available", |v| v["status"]["phase"] == "Available").await;
    let word = |w: &str| json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True", "reason": "E2E", "message": w}]}});
    let patched = claims.patch(&status, word("patched")).await;
    assert_eq!(condition(&patched, "StatusPatched")["message"], "patched");
    let patched = volumes.patch(&status, json!({"status": {"message": "patched", "reason": "E2E"}})).await;
    assert_eq!((&patched["status"]["message"], &patched["status"]["reason"]), (&json!("patched"), &json!("E2E")));
    let updated = claims.update(&status, |c| c["status"]["conditions"][0]["message"] = json!("updated")).await;
    assert_eq!(condition(&updated, "StatusPatched")["message"], "updated");
    let updated = volumes.update(&status, |v| v["status"]["message"] = json!("updated")).await;
    assert_eq!(updated["status"]["message"], "updated");
    claims.delete(name).await;
    volumes.delete(name).await;
}
