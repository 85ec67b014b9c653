//! The plugins: one file and one row each.

mod default_binder;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod preemption_verdict;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
pub(crate) mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use crate::framework::Plugin;

/// One plugin of the table.
pub struct Row {
    pub name: &'static str,
    /// Of its score in the sum; 0: it does not score.
    pub weight: i64,
    pub plugin: &'static dyn Plugin,
}

/// Every plugin, in the order in which it runs at every point.
pub static ALL: &[Row] = &[
    Row { name: "SchedulingGates", weight: 0, plugin: &scheduling_gates::SchedulingGates },
    Row { name: "PrioritySort", weight: 0, plugin: &priority_sort::PrioritySort },
    Row { name: "NodeUnschedulable", weight: 0, plugin: &node_unschedulable::NodeUnschedulable },
    Row { name: "NodeName", weight: 0, plugin: &node_name::NodeName },
    Row { name: "TaintToleration", weight: 3, plugin: &taint_toleration::TaintToleration },
    Row { name: "NodeAffinity", weight: 2, plugin: &node_affinity::NodeAffinity },
    Row { name: "NodePorts", weight: 0, plugin: &node_ports::NodePorts },
    Row { name: "NodeResourcesFit", weight: 1, plugin: &node_resources_fit::NodeResourcesFit },
    Row { name: "NodeResourcesBalancedAllocation", weight: 1, plugin: &node_resources_balanced_allocation::NodeResourcesBalancedAllocation },
    Row { name: "VolumeRestrictions", weight: 0, plugin: &volume_restrictions::VolumeRestrictions },
    Row { name: "NodeVolumeLimits", weight: 0, plugin: &node_volume_limits::NodeVolumeLimits },
    Row { name: "VolumeBinding", weight: 0, plugin: &volume_binding::PLUGIN },
    Row { name: "VolumeZone", weight: 0, plugin: &volume_zone::VolumeZone },
    Row { name: "DefaultPreemption", weight: 0, plugin: &preemption_verdict::PreemptionVerdict },
    Row { name: "DefaultBinder", weight: 0, plugin: &default_binder::DefaultBinder },
];
