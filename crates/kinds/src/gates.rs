//! The fields of v1.36 whose features are off by default, and which the API server therefore takes out of what is written.
//!
//! One row a gate; a kind names the rows and their place in [`keles_registry::Kind::GATED`]. A pod spec is one table for pods and for all that
//! make them. Absent on purpose: `clusterTrustBundle` sources (ClusterTrustBundleProjection), which are off upstream and work here; node settings
//! and claims, whose rules are their kinds' own.

use keles_registry::gates::Gated;

const fn off(gate: &'static str, paths: &'static [&'static [&'static str]]) -> Gated {
    Gated { gate, paths, empties: false }
}

/// Rows below a pod spec.
pub const POD_SPEC: &[Gated] = &[
    Gated {
        gate: "ContainerStopSignals",
        paths: &[&["containers", "[]", "lifecycle", "stopSignal"], &["initContainers", "[]", "lifecycle", "stopSignal"], &["ephemeralContainers", "[]", "lifecycle", "stopSignal"]],
        empties: true,
    },
    off("GenericWorkload", &[&["schedulingGroup"]]),
    off("PodCertificateRequest", &[&["volumes", "[]", "projected", "sources", "[]", "podCertificate"]]),
];

/// Rows below a pod's status.
pub const POD_STATUS: &[Gated] = &[off("DRANodeAllocatableResources", &[&["nodeAllocatableResourceClaimStatuses"]])];

/// Rows below a Lease's spec (KEP-4355).
pub const LEASE: &[Gated] = &[off("CoordinatedLeaderElection", &[&["strategy"], &["preferredHolder"]])];

/// Rows below a CSIDriver's spec.
pub const CSI_DRIVER: &[Gated] = &[off("VolumeLimitScaling", &[&["preventPodSchedulingIfMissing"]])];

/// Rows below a ResourceSlice's spec.
pub const RESOURCE_SLICE: &[Gated] = &[
    off(
        "DRAListTypeAttributes",
        &[
            &["devices", "[]", "attributes", "{}", "bools"],
            &["devices", "[]", "attributes", "{}", "ints"],
            &["devices", "[]", "attributes", "{}", "strings"],
            &["devices", "[]", "attributes", "{}", "versions"],
        ],
    ),
    off("DRANodeAllocatableResources", &[&["devices", "[]", "nodeAllocatableResourceMappings"]]),
];

/// Rows of a PodGroup. What its status says of claims belongs to those of its spec.
pub const POD_GROUP: &[Gated] = &[
    off("TopologyAwareWorkloadScheduling", &[&["spec", "schedulingConstraints"]]),
    off("DRAWorkloadResourceClaims", &[&["spec", "resourceClaims"], &["status", "resourceClaimStatuses"]]),
    off("WorkloadAwarePreemption", &[&["spec", "disruptionMode"]]),
    off("WorkloadAwarePreemption", &[&["spec", "priorityClassName"]]),
    off("WorkloadAwarePreemption", &[&["spec", "priority"]]),
];

/// Rows below a Workload's spec: the same of the groups it describes.
pub const WORKLOAD: &[Gated] = &[
    off("TopologyAwareWorkloadScheduling", &[&["podGroupTemplates", "[]", "schedulingConstraints"]]),
    off("DRAWorkloadResourceClaims", &[&["podGroupTemplates", "[]", "resourceClaims"]]),
    off("WorkloadAwarePreemption", &[&["podGroupTemplates", "[]", "disruptionMode"]]),
    off("WorkloadAwarePreemption", &[&["podGroupTemplates", "[]", "priorityClassName"]]),
    off("WorkloadAwarePreemption", &[&["podGroupTemplates", "[]", "priority"]]),
];
