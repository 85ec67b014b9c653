//! `kubelet_volume_stats_*` of `/metrics`: the figures of volumes that pods claimed.
//!
//! Entry point: [`VolumeStats::take`]. Source: kubernetes pkg/kubelet/metrics/collectors/volume_stats.go.

use super::{Api, summary};
use keles_observe::metrics::{Collect, Described, Exposition, Shape, alpha};
use serde_json::Value;
use std::collections::BTreeMap;

/// A family, and where the summary of a volume has its figure.
const FAMILIES: [(Described, &str); 7] = [
    (alpha("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume"), "/capacityBytes"),
    (alpha("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume"), "/availableBytes"),
    (alpha("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume"), "/usedBytes"),
    (alpha("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume"), "/inodes"),
    (alpha("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume"), "/inodesFree"),
    (alpha("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume"), "/inodesUsed"),
    (
        alpha(
            "kubelet_volume_stats_health_status_abnormal",
            "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy",
        ),
        "/volumeHealthStats/abnormal",
    ),
];

/// By namespace and name of the claim.
pub struct VolumeStats(BTreeMap<(String, String), Value>);

impl VolumeStats {
    pub async fn take(api: &Api) -> Self {
        Self(summary::claims(api).await)
    }
}

impl Collect for VolumeStats {
    fn collect(&self, to: &mut Exposition) {
        for (about, place) in &FAMILIES {
            to.family(about, Shape::Gauge, |w| {
                for ((namespace, claim), volume) in &self.0 {
                    let told = volume.pointer(place).and_then(|figure| figure.as_f64().or_else(|| figure.as_bool().map(|is| f64::from(u8::from(is)))));
                    if let Some(figure) = told {
                        w.gauge(&["namespace", "persistentvolumeclaim"], &[namespace, claim], figure);
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_observe::metrics::Format;
    use serde_json::json;

    #[test]
    fn a_claim_shows_what_is_known_of_its_volume() {
        let volume = json!({"capacityBytes": 4096, "usedBytes": 1024, "inodesFree": 7, "volumeHealthStats": {"abnormal": true}, "pvcRef": {"name": "c"}});
        let stats = VolumeStats(BTreeMap::from([(("ns".to_owned(), "c".to_owned()), volume)]));
        let mut out = Exposition::new(Format::Text);
        stats.collect(&mut out);
        let said = out.finish();
        let labels = "{namespace=\"ns\",persistentvolumeclaim=\"c\"}";
        for (name, figure) in [("capacity_bytes", 4096), ("used_bytes", 1024), ("inodes_free", 7), ("health_status_abnormal", 1)] {
            assert!(said.contains(&format!("kubelet_volume_stats_{name}{labels} {figure}\n")), "{name}: {said}");
        }
        assert!(!said.contains("available_bytes"), "{said}");
    }
}
