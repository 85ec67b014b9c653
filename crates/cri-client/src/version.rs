//! How a runtime's version is shown in `nodeInfo.containerRuntimeVersion`.

/// `containerd://1.6.20`. A version that is no semantic one (Debian's `1.6.20~ds1`) shows its numbers only, as upstream does.
pub fn shown(name: &str, version: &str) -> String {
    let plain = version.trim().trim_start_matches('v');
    let numbers: String = plain.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let is_semantic = numbers.len() == plain.len() || plain[numbers.len()..].starts_with(['-', '+']);
    let text = if is_semantic || numbers.is_empty() { plain } else { numbers.trim_end_matches('.') };
    format!("{name}://{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_semantic_version_shows_its_numbers() {
        for (version, text) in [("1.6.20~ds1", "1.6.20"), ("v2.0.0-rc.1", "2.0.0-rc.1"), ("1.7.2", "1.7.2"), ("1.30.0+git1", "1.30.0+git1"), ("odd", "odd")] {
            assert_eq!(shown("containerd", version), format!("containerd://{text}"));
        }
    }
}
