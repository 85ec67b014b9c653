//! A CustomResourceDefinition, read for what it serves; schemas are left where they are until somebody needs them.

use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Definition {
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: Spec,
    #[serde(deserialize_with = "or_default")]
    pub status: Status,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub generation: i64,
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub finalizers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    #[serde(deserialize_with = "or_default")]
    pub scope: String,
    #[serde(deserialize_with = "or_default")]
    pub names: Names,
    #[serde(deserialize_with = "or_default")]
    pub versions: Vec<Version>,
    pub conversion: Option<Conversion>,
    #[serde(deserialize_with = "or_default")]
    pub preserve_unknown_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Names {
    #[serde(deserialize_with = "or_default")]
    pub plural: String,
    #[serde(deserialize_with = "or_default")]
    pub singular: String,
    #[serde(deserialize_with = "or_default")]
    pub short_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub list_kind: String,
    #[serde(deserialize_with = "or_default")]
    pub categories: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Version {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub served: bool,
    #[serde(deserialize_with = "or_default")]
    pub storage: bool,
    #[serde(deserialize_with = "or_default")]
    pub deprecated: bool,
    pub deprecation_warning: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub subresources: Subresources,
    #[serde(deserialize_with = "or_default")]
    pub selectable_fields: Vec<SelectableField>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Subresources {
    pub status: Option<Value>,
    pub scale: Option<Scale>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Scale {
    #[serde(deserialize_with = "or_default")]
    pub spec_replicas_path: String,
    #[serde(deserialize_with = "or_default")]
    pub status_replicas_path: String,
    pub label_selector_path: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SelectableField {
    #[serde(deserialize_with = "or_default")]
    pub json_path: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Conversion {
    #[serde(deserialize_with = "or_default")]
    pub strategy: String,
    pub webhook: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    #[serde(deserialize_with = "or_default")]
    pub accepted_names: Names,
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "or_default")]
    pub stored_versions: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    #[serde(deserialize_with = "or_default")]
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
}

impl Definition {
    /// From the bytes of a stored definition.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
    pub fn is_true(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|c| c.kind == condition && c.status == "True")
    }
    pub fn condition(&self, condition: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.kind == condition)
    }
    pub fn storage_version(&self) -> Option<&Version> {
        self.spec.versions.iter().find(|v| v.storage)
    }
    pub fn is_namespaced(&self) -> bool {
        self.spec.scope == "Namespaced"
    }
    pub fn converts_by_webhook(&self) -> bool {
        self.spec.conversion.as_ref().is_some_and(|c| c.strategy == "Webhook")
    }
}

/// Go reads null as the zero value.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_as_good_as_nothing() {
        let d = Definition::read(br#"{"metadata":{"name":"a","annotations":null,"finalizers":null},"spec":{"group":"g","names":{"plural":"p","kind":"K","shortNames":null},"versions":[{"name":"v1","served":true,"storage":true,"subresources":null}]},"status":{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":["v1"]}}"#).unwrap();
        assert_eq!((d.spec.group.as_str(), d.spec.versions[0].name.as_str(), d.status.stored_versions.len()), ("g", "v1", 1));
        assert!(!d.is_true("Established") && d.status.conditions.is_empty());
    }
}
