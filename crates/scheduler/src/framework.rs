//! The extension points of a scheduling cycle and of a binding.
//!
//! A plugin implements the points it has something to say at; the defaults say nothing. Points up to Permit run in the cycle, one pod at a time, and
//! must not block; PreBind, Bind and PostBind run in the background, many pods at a time.

use crate::cache::{NodeInfo, PodInfo};
use crate::metrics::Meter;
use crate::storage::Storage;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

pub const MAX_SCORE: i64 = 100;

/// Why a pod cannot go to a node, or anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// In upstream's words; counted over nodes in the message to people.
    pub reasons: Vec<String>,
    /// Whether removing pods could help.
    pub resolvable: bool,
}

impl Rejection {
    pub fn resolvable(reason: impl Into<String>) -> Self {
        Rejection { reasons: vec![reason.into()], resolvable: true }
    }
    pub fn unresolvable(reason: impl Into<String>) -> Self {
        Rejection { reasons: vec![reason.into()], resolvable: false }
    }
}

/// What PreFilter says about the cycle.
#[derive(Debug, PartialEq, Eq)]
pub enum PreFilter {
    /// Run this plugin's Filter on every node.
    Continue,
    /// This plugin has nothing against any node.
    Skip,
    /// Only these nodes can do.
    Nodes(BTreeSet<String>),
}

/// What happened that may make a waiting pod fit.
#[derive(Clone, Debug)]
pub enum Event {
    NodeAdded(Arc<Node>),
    NodeChanged {
        old: Arc<Node>,
        new: Arc<Node>,
    },
    /// A placed pod went away.
    PodRemoved(Arc<PodInfo>),
    /// A claim, a volume or a class came, changed or went; upstream's name of it.
    StorageChanged(&'static str),
}

impl Event {
    /// Upstream's name of it.
    pub fn name(&self) -> &'static str {
        match self {
            Event::NodeAdded(_) => "NodeAdd",
            Event::NodeChanged { .. } => "NodeUpdate",
            Event::PodRemoved(_) => "AssignedPodDelete",
            Event::StorageChanged(name) => *name,
        }
    }
    /// The node as it is now, where the event is about one.
    pub fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Event::NodeAdded(node) | Event::NodeChanged { new: node, .. } => Some(node),
            Event::PodRemoved(_) | Event::StorageChanged(_) => None,
        }
    }
}

/// What plugins remember within one cycle.
#[derive(Default)]
pub struct CycleState {
    pub(crate) meter: Meter,
    /// Absent where nobody keeps storage, as in tests of other plugins.
    pub storage: Option<Storage>,
    /// Every node, for plugins that look beyond the one at hand; kept only for pods that have claims.
    pub nodes: Vec<Arc<NodeInfo>>,
    data: Vec<(&'static str, Box<dyn Any + Send>)>,
}

impl CycleState {
    pub(crate) fn metered(meter: Meter, storage: Option<Storage>) -> CycleState {
        CycleState { meter, storage, nodes: Vec::new(), data: Vec::new() }
    }
    pub fn put<T: Any + Send>(&mut self, plugin: &'static str, value: T) {
        self.data.retain(|(name, _)| *name != plugin);
        self.data.push((plugin, Box::new(value)));
    }
    pub fn get<T: Any>(&self, plugin: &'static str) -> Option<&T> {
        self.data.iter().find(|(name, _)| *name == plugin)?.1.downcast_ref()
    }
}

/// What PreBind, Bind and PostBind work on.
#[derive(Clone)]
pub struct Binding {
    pub client: kube::Client,
    pub pod: Arc<PodInfo>,
    pub node: String,
    pub storage: Option<Storage>,
}

/// Why a binding failed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("binding {pod} to node {node}")]
    Refused {
        pod: String,
        node: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("binding volumes of {pod}: {why}")]
    Volumes { pod: String, why: String },
    #[error("no plugin binds {pod}")]
    NoBinder { pod: String },
}

/// A scheduling plugin.
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Before the pod may enter the active queue.
    fn pre_enqueue(&self, _: &PodInfo) -> Result<(), Rejection> {
        Ok(())
    }
    /// The place in the active queue, lowest first; equals go in order of arrival. The first plugin that has one defines it.
    fn queue_key(&self, _: &PodInfo) -> Option<i64> {
        None
    }
    fn pre_filter(&self, _: &mut CycleState, _: &PodInfo) -> Result<PreFilter, Rejection> {
        Ok(PreFilter::Continue)
    }
    fn filter(&self, _: &CycleState, _: &PodInfo, _: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }
    /// When no node is feasible: what else was tried. Texts are joined into the message.
    fn post_filter(&self, _: &CycleState, _: &PodInfo, _rejections: &[Rejection]) -> Option<String> {
        None
    }
    /// False: this plugin has nothing to score in this cycle.
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, _: &[Arc<NodeInfo>]) -> bool {
        false
    }
    fn score(&self, _: &CycleState, _: &PodInfo, _: &NodeInfo) -> i64 {
        0
    }
    /// Brings the scores of all nodes into 0 to [`MAX_SCORE`].
    fn normalize(&self, _: &mut [i64]) {}
    fn reserve(&self, _: &CycleState, _: &PodInfo, _node: &str) -> Result<(), Rejection> {
        Ok(())
    }
    fn unreserve(&self, _: &PodInfo, _node: &str) {}
    fn permit(&self, _: &CycleState, _: &PodInfo, _node: &str) -> Result<(), Rejection> {
        Ok(())
    }
    fn pre_bind(&self, _: &Binding) -> BoxFuture<'static, Result<(), BindError>> {
        Box::pin(async { Ok(()) })
    }
    /// `None`: some other plugin binds.
    fn bind(&self, _: &Binding) -> Option<BoxFuture<'static, Result<(), BindError>>> {
        None
    }
    fn post_bind(&self, _: &Binding) {}

    /// Whether the event may make a pod fit that this plugin rejected.
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool;
}

/// Scales scores so that the highest is [`MAX_SCORE`]; reversed: so that the lowest raw score gets it.
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if highest == 0 { 0 } else { *score * MAX_SCORE / highest };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}
