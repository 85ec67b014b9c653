//! Names and what is wrong with them, in upstream's words. Each check gives the messages, none when the name is good.
pub fn dns_label(_name: &str, _prefix: bool) -> Vec<String> {
    Vec::new()
}
pub fn dns_subdomain(_name: &str, _prefix: bool) -> Vec<String> {
    Vec::new()
}
pub fn dns1035_label(_name: &str, _prefix: bool) -> Vec<String> {
    Vec::new()
}
pub fn path_segment(_name: &str, _prefix: bool) -> Vec<String> {
    Vec::new()
}
pub fn qualified_name(_name: &str) -> Vec<String> {
    Vec::new()
}
pub fn label_value(_value: &str) -> Vec<String> {
    Vec::new()
}
