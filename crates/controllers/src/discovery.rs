//! Which resources the server has: one row a resource in its preferred version, read from the aggregated discovery documents.

use kube::core::discovery::v2::APIGroupDiscoveryList;

/// A resource, built in, custom or aggregated.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
    /// The collection of all namespaces, or of one.
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if self.namespaced && !namespace.is_empty() { format!("{root}/namespaces/{namespace}/{}", self.plural) } else { format!("{root}/{}", self.plural) }
    }
    /// `deployments.apps`, or `pods`.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// What discovery said.
#[derive(Clone, Debug, Default)]
pub struct Discovered {
    pub resources: Vec<Resource>,
    /// Group versions whose resources could not be read (an aggregated server that is down).
    pub stale: Vec<String>,
}

pub async fn discover(client: &kube::Client) -> kube::Result<Discovered> {
    let (core, groups) = futures::try_join!(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated())?;
    let mut found = preferred(core);
    let named = preferred(groups);
    found.resources.extend(named.resources);
    found.stale.extend(named.stale);
    Ok(found)
}

/// Of each resource of a group the first version that has it: versions come in order of preference.
fn preferred(list: APIGroupDiscoveryList) -> Discovered {
    let mut found = Discovered::default();
    for group in list.items {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        let start = found.resources.len();
        for version in group.versions {
            let at = version.version.unwrap_or_default();
            if version.freshness.as_deref() == Some("Stale") {
                found.stale.push(format!("{name}/{at}"));
            }
            for resource in version.resources {
                let plural = resource.resource.unwrap_or_default();
                if found.resources[start..].iter().any(|seen| seen.plural == plural) {
                    continue;
                }
                found.resources.push(Resource {
                    group: name.clone(),
                    version: at.clone(),
                    plural,
                    kind: resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default(),
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs,
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_resource_is_taken_in_the_first_version_that_serves_it() {
        let resource = |plural: &str, kind: &str| json!({"resource": plural, "scope": "Namespaced", "verbs": ["list"], "responseKind": {"kind": kind}});
        let list = json!({"items": [{"metadata": {"name": "x.io"}, "versions": [
            {"version": "v2", "resources": [resource("as", "A")]},
            {"version": "v1", "freshness": "Stale", "resources": [resource("as", "A"), resource("bs", "B")]},
        ]}]});
        let found = preferred(serde_json::from_value(list).expect("a discovery list"));
        let paths: Vec<String> = found.resources.iter().map(|r| r.path("n")).collect();
        assert_eq!(paths, ["/apis/x.io/v2/namespaces/n/as", "/apis/x.io/v1/namespaces/n/bs"]);
        assert_eq!(found.stale, ["x.io/v1"]);
    }
}
