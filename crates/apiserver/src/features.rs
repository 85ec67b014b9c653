//! Feature gates: `--feature-gates=Name=true,…`, those of upstream's that change what this server does.
//!
//! One table, [`TABLE`], with upstream's stages and defaults of v1.36. A gate that is not in it is refused: it would seem to be obeyed.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `application/cbor` (KEP-4222).
    Cbor,
    /// `/statusz` (KEP-4827).
    Statusz,
    /// `/flagz` (KEP-4828).
    Flagz,
    /// Impersonation by narrower rights (KEP-5284).
    ConstrainedImpersonation,
}

/// One gate.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    pub feature: Feature,
    pub name: &'static str,
    /// `ALPHA`, `BETA`, or empty once it is general.
    pub stage: &'static str,
    pub on: bool,
}

const TABLE: [Gate; 4] = [
    Gate { feature: Feature::Cbor, name: "CBORServingAndStorage", stage: "ALPHA", on: false },
    Gate { feature: Feature::Flagz, name: "ComponentFlagz", stage: "BETA", on: true },
    Gate { feature: Feature::Statusz, name: "ComponentStatusz", stage: "BETA", on: true },
    Gate { feature: Feature::ConstrainedImpersonation, name: "ConstrainedImpersonation", stage: "BETA", on: true },
];

/// Which features are on.
#[derive(Clone, Debug)]
pub struct Features([Gate; TABLE.len()]);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    #[error("unrecognized feature gate: {0}; known here are AllAlpha, AllBeta, {known}", known = names())]
    Unknown(String),
    #[error("invalid value of {name}: {value}, err: it is neither true nor false")]
    Value { name: String, value: String },
    #[error("missing bool value for {0}")]
    NoValue(String),
}

fn names() -> String {
    TABLE.map(|g| g.name).join(", ")
}

impl Default for Features {
    fn default() -> Self {
        Features(TABLE)
    }
}

impl Features {
    pub fn on(&self, f: Feature) -> bool {
        self.0.iter().any(|g| g.feature == f && g.on)
    }
    pub fn all(&self) -> &[Gate] {
        &self.0
    }
}

impl FromStr for Features {
    type Err = FeatureError;
    /// `AllAlpha` and `AllBeta` first, whatever their place: a gate's own word is stronger.
    fn from_str(text: &str) -> Result<Self, FeatureError> {
        let mut given = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| FeatureError::NoValue(pair.into()))?;
            let on = match value.trim() {
                "true" | "True" | "TRUE" | "t" | "T" | "1" => true,
                "false" | "False" | "FALSE" | "f" | "F" | "0" => false,
                other => return Err(FeatureError::Value { name: name.into(), value: other.into() }),
            };
            given.push((name.trim(), on));
        }
        let mut features = Features::default();
        for (name, on) in &given {
            let stage = match *name {
                "AllAlpha" => "ALPHA",
                "AllBeta" => "BETA",
                _ => continue,
            };
            features.0.iter_mut().filter(|g| g.stage == stage).for_each(|g| g.on = *on);
        }
        for (name, on) in given.iter().filter(|(n, _)| !matches!(*n, "AllAlpha" | "AllBeta")) {
            features.0.iter_mut().find(|g| g.name == *name).ok_or_else(|| FeatureError::Unknown((*name).into()))?.on = *on;
        }
        Ok(features)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed: Vec<String> = self.0.iter().zip(TABLE).filter(|(now, was)| now.on != was.on).map(|(g, _)| format!("{}={}", g.name, g.on)).collect();
        f.write_str(&changed.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_upstreams_and_unknown_ones_are_refused() {
        let on = |text: &str| text.parse::<Features>().map(|f| (f.on(Feature::Cbor), f.on(Feature::Statusz)));
        assert_eq!(on(""), Ok((false, true)));
        assert_eq!(on("CBORServingAndStorage=true,ComponentStatusz=false"), Ok((true, false)));
        assert_eq!(on("CBORServingAndStorage=false,AllAlpha=true"), Ok((false, true)), "a gate's own word is stronger");
        assert_eq!(on("AllBeta=false"), Ok((false, false)));
        assert!(on("Nothing=true").unwrap_err().to_string().starts_with("unrecognized feature gate: Nothing"));
        assert_eq!(on("ComponentFlagz"), Err(FeatureError::NoValue("ComponentFlagz".into())));
        assert_eq!("AllAlpha=true".parse::<Features>().unwrap().to_string(), "CBORServingAndStorage=true");
    }
}
