//! Addresses of Services: the ServiceCIDRs they come from and an IPAddress object for each that is taken (KEP-1880).
//!
//! Entry points: [`allocate::take`], [`allocate::give_back`] (for the admission plugin `ServiceAddresses`), [`default_range::run`] (the
//! ServiceCIDR `kubernetes`), [`repair::Repair`]. Invariant: an address is taken by whoever creates its IPAddress, so several servers on one
//! store never give it twice; no table in memory can differ from the store. A write that fails gives its addresses back; what a dying
//! server leaves behind the repair finds.
//! Deliberately absent: node ports (`admission/service_addresses`; [`ports`] is how servers share them out), the finalizer of ServiceCIDRs (`controllers`).

pub mod allocate;
pub mod default_range;
pub mod ports;
pub mod range;
pub mod repair;

use keles_api::{Object, Status};
use keles_auth::User;
use keles_registry::{Call, PatchType, Query, Registry, Request as About, Verb};
use serde_json::Value;

const GROUP: &str = "networking.k8s.io";
const RANGES: &str = "servicecidrs";
const ADDRESSES: &str = "ipaddresses";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// Whom IPAddresses of Services belong to.
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// One write in the server's own name.
struct Write<'a> {
    verb: Verb,
    group: &'a str,
    plural: &'a str,
    namespace: &'a str,
    name: &'a str,
    body: Option<&'a Value>,
}

impl Write<'_> {
    async fn send(&self, registry: &Registry) -> Result<(), Status> {
        self.call(registry, About::default(), None, Query::default()).await
    }
    /// Applies the status as `manager`.
    async fn apply_status(&self, registry: &Registry, manager: &str) -> Result<(), Status> {
        let query = Query(vec![("fieldManager".into(), manager.into()), ("force".into(), "true".into())]);
        self.call(registry, About { subresource: "status".into(), ..About::default() }, Some(PatchType::Apply), query).await
    }
    async fn call(&self, registry: &Registry, about: About, patch_type: Option<PatchType>, query: Query) -> Result<(), Status> {
        let request = About {
            user: User { name: "system:apiserver".into(), groups: vec![keles_auth::MASTERS.into(), keles_auth::AUTHENTICATED.into()], ..User::default() },
            group: self.group.into(),
            version: "v1".into(),
            plural: self.plural.into(),
            namespace: self.namespace.into(),
            name: self.name.into(),
            now: crate::chain::now(),
            ..about
        };
        let body = self.body.map(|b| serde_json::to_vec(b).expect("a JSON tree always encodes").into()).unwrap_or_default();
        let answer = registry.serve(self.verb, Call { request, body, query, patch_type, user_agent: "kube-apiserver".into(), ..Call::default() }).await?;
        if answer.code >= 400 {
            return Err(serde_json::from_slice(&answer.body.collect()).unwrap_or_else(|e: serde_json::Error| Status::internal(e)));
        }
        Ok(())
    }
}

/// Every address a Service has; none for headless ones and those without.
pub fn of_service(s: &Object) -> Vec<std::net::IpAddr> {
    let all = s.at(&["spec", "clusterIPs"]).as_array().map(Vec::as_slice).unwrap_or(&[]);
    let mut texts: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
    if texts.is_empty() {
        texts.push(s.str_at(&["spec", "clusterIP"]));
    }
    texts.iter().filter_map(|ip| ip.parse().ok()).collect()
}
