//! `--vmodule`: more from some files than `-v` says for all.
//!
//! `garbage=8,network*=4`: a pattern (`*`, `?`) over the name of a source file without `.rs`, and klog's number. A `mod.rs` goes by its folder's
//! name, which is what people call it by. The longest-standing rule of klog holds: the first pattern that fits decides.

use super::verbosity_of;
use std::str::FromStr;
use tracing::Metadata;

/// Patterns in the order they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules(Vec<(String, u32)>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("syntax error: {0:?} is not PATTERN=NUMBER")]
pub struct BadModules(String);

impl FromStr for Modules {
    type Err = BadModules;
    fn from_str(text: &str) -> Result<Self, BadModules> {
        let rule = |one: &str| {
            let (pattern, number) = one.split_once('=')?;
            Some((Some(pattern).filter(|p| !p.is_empty())?.to_owned(), number.parse().ok()?))
        };
        let all = text.split(',').filter(|one| !one.is_empty()).map(|one| rule(one).ok_or_else(|| BadModules(one.into())));
        all.collect::<Result<_, _>>().map(Modules)
    }
}

impl std::fmt::Display for Modules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(pattern, number)| format!("{pattern}={number}")).collect();
        f.write_str(&all.join(","))
    }
}

impl Modules {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether an entry that `-v` leaves out is wanted all the same.
    pub(super) fn want(&self, meta: &Metadata<'_>) -> bool {
        let Some(file) = meta.file() else { return false };
        let name = name_of(file);
        self.0.iter().find(|(pattern, _)| fits(pattern.as_bytes(), name.as_bytes())).is_some_and(|(_, number)| *number >= verbosity_of(*meta.level()))
    }
}

fn name_of(file: &str) -> &str {
    let mut parts = file.rsplit('/');
    let last = parts.next().unwrap_or(file).trim_end_matches(".rs");
    if last == "mod" { parts.next().unwrap_or(last) } else { last }
}

/// Shell patterns of `*` and `?`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => fits(rest, name) || name.split_first().is_some_and(|(_, shorter)| fits(pattern, shorter)),
        (Some((b'?', rest)), Some((_, shorter))) => fits(rest, shorter),
        (Some((p, rest)), Some((n, shorter))) => p == n && fits(rest, shorter),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_over_the_files_name() {
        for (pattern, file, expected) in [
            ("garbage", "crates/controllers/src/garbage.rs", true),
            ("garbage", "crates/controllers/src/garbage/graph.rs", false),
            ("aggregation", "crates/apiserver/src/aggregation/mod.rs", true),
            ("g*ph", "crates/controllers/src/garbage/graph.rs", true),
            ("gra?h", "src/graph.rs", true),
            ("gra?", "src/graph.rs", false),
            ("*", "src/any.rs", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name_of(file).as_bytes()), expected, "{pattern} {file}");
        }
    }

    #[test]
    fn a_rule_is_a_pattern_and_a_number() {
        let all: Modules = "garbage=8,network*=4".parse().expect("good");
        assert_eq!(all.to_string(), "garbage=8,network*=4");
        assert!("".parse::<Modules>().expect("nothing").is_empty());
        for bad in ["garbage", "=3", "a=b", "a=-1"] {
            assert_eq!(bad.parse::<Modules>(), Err(BadModules(bad.into())));
        }
    }
}
