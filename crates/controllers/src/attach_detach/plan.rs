//! What one node's attachments need next: a pure function over what its pods want, what is attached, and what the node says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a volume that nobody wants any more may stay in use on a node that is not healthy (upstream's maxWaitForUnmountDuration).
pub const MAX_UNMOUNT_WAIT: Duration = Duration::from_secs(6 * 60);

/// A volume that pods of the node want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub unique: String,
    /// Where else it is attached, if it may be at one node only.
    pub taken_by: Option<String>,
}

/// A VolumeAttachment of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Unique name of its volume; `None` when the volume's object is gone.
    pub unique: Option<String>,
    pub attached: bool,
    pub deleting: bool,
    /// How long nobody has wanted it.
    pub unwanted_for: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// `status.volumesInUse`.
    pub in_use: BTreeSet<String>,
    pub healthy: bool,
    /// Taint node.kubernetes.io/out-of-service: nothing of it runs any more, somebody says (KEP-2268).
    pub out_of_service: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Names of attachments to make.
    pub attach: Vec<String>,
    /// Names of attachments whose volume is elsewhere: (name, that node).
    pub refused: Vec<(String, String)>,
    /// Names of attachments to delete, after the node's status no longer shows them.
    pub detach: Vec<String>,
    /// `status.volumesAttached`.
    pub shown: BTreeSet<String>,
    /// When to look again for a volume that does not leave.
    pub again_after: Option<Duration>,
}

/// `wanted` and `there` by the attachment's name.
pub fn plan(wanted: &BTreeMap<String, Wanted>, there: &BTreeMap<String, Attachment>, node: &NodeState) -> Plan {
    let mut plan = Plan::default();
    for (name, attachment) in there {
        let is_wanted = wanted.contains_key(name);
        let held = !is_wanted && attachment.unique.as_ref().is_some_and(|unique| node.in_use.contains(unique));
        let waited = attachment.unwanted_for >= MAX_UNMOUNT_WAIT && !node.healthy;
        let leaves = !is_wanted && (!held || waited || node.out_of_service);
        if held && !leaves && !node.healthy {
            let left = MAX_UNMOUNT_WAIT.saturating_sub(attachment.unwanted_for);
            plan.again_after = Some(plan.again_after.map_or(left, |known| known.min(left)));
        }
        if leaves && !attachment.deleting {
            plan.detach.push(name.clone());
        }
        if attachment.attached && !attachment.deleting && !leaves {
            plan.shown.extend(attachment.unique.clone());
        }
    }
    // One that is going must be gone before it can be made again.
    for (name, volume) in wanted.iter().filter(|(name, _)| !there.contains_key(*name)) {
        match &volume.taken_by {
            Some(other) => plan.refused.push((name.clone(), other.clone())),
            None => plan.attach.push(name.clone()),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(taken_by: Option<&str>) -> BTreeMap<String, Wanted> {
        BTreeMap::from([("a".into(), Wanted { unique: "u".into(), taken_by: taken_by.map(str::to_owned) })])
    }
    fn there(attached: bool, deleting: bool, seconds: u64) -> BTreeMap<String, Attachment> {
        BTreeMap::from([("a".into(), Attachment { unique: Some("u".into()), attached, deleting, unwanted_for: Duration::from_secs(seconds) })])
    }
    fn node(in_use: bool, healthy: bool, out_of_service: bool) -> NodeState {
        NodeState { in_use: in_use.then(|| "u".to_owned()).into_iter().collect(), healthy, out_of_service }
    }
    fn shown() -> BTreeSet<String> {
        ["u".to_owned()].into()
    }

    #[test]
    fn what_is_wanted_is_attached_unless_another_node_has_it() {
        let none = BTreeMap::new();
        assert_eq!(plan(&wanted(None), &none, &node(false, true, false)).attach, ["a"]);
        assert_eq!(plan(&wanted(Some("n2")), &none, &node(false, true, false)), Plan { refused: vec![("a".into(), "n2".into())], ..Plan::default() });
        let standing = plan(&wanted(None), &there(true, false, 0), &node(true, true, false));
        assert_eq!(standing, Plan { shown: shown(), ..Plan::default() });
        assert_eq!(plan(&wanted(None), &there(false, false, 0), &node(false, true, false)), Plan::default(), "not attached yet");
        assert_eq!(plan(&wanted(None), &there(true, true, 0), &node(false, true, false)), Plan::default(), "it has to go first");
    }

    #[test]
    fn what_nobody_wants_is_detached_once_the_node_let_go_or_is_given_up() {
        let nobody = BTreeMap::new();
        let detached = Plan { detach: vec!["a".into()], ..Plan::default() };
        assert_eq!(plan(&nobody, &there(true, false, 0), &node(false, true, false)), detached);
        assert_eq!(plan(&nobody, &there(true, false, 9999), &node(true, true, false)), Plan { shown: shown(), ..Plan::default() }, "a healthy node is waited for");
        let waits = Plan { shown: shown(), again_after: Some(Duration::from_secs(60)), ..Plan::default() };
        assert_eq!(plan(&nobody, &there(true, false, 300), &node(true, false, false)), waits);
        assert_eq!(plan(&nobody, &there(true, false, 360), &node(true, false, false)), detached);
        assert_eq!(plan(&nobody, &there(true, false, 0), &node(true, true, true)), detached, "out of service");
        assert_eq!(plan(&nobody, &there(true, true, 0), &node(false, true, false)), Plan::default(), "asked once");
    }
}
