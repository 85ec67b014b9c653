//! Label and field selectors.
use crate::Status;
use serde_json::Value;
/// A label selector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector;
impl Selector {
    pub fn everything() -> Self {
        Selector
    }
    /// From a query string; `Err` is upstream's text.
    pub fn parse(_text: &str) -> Result<Self, String> {
        Ok(Selector)
    }
    /// From a `LabelSelector` object; null matches nothing, `{}` everything. `Err` is upstream's text.
    pub fn from_object(_selector: &Value) -> Result<Self, String> {
        Ok(Selector)
    }
    pub fn is_everything(&self) -> bool {
        true
    }
    pub fn matches<'l>(&self, _label: impl Fn(&str) -> Option<&'l str>) -> bool {
        true
    }
}
/// A field selector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}
#[derive(Clone, Debug, PartialEq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `!=`
    pub not: bool,
}
impl FieldSelector {
    pub fn parse(_text: &str) -> Result<Self, String> {
        Ok(FieldSelector::default())
    }
    pub fn matches<'v>(&self, _value: impl Fn(&str) -> std::borrow::Cow<'v, str>) -> bool {
        true
    }
}
#[allow(unused)]
type Unused = Status;
