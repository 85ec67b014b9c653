//! `--tracing-config-file`: TracingConfiguration of apiserver.config.k8s.io.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where spans go and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// `host:port` of a collector that speaks OTLP over gRPC without TLS.
    pub endpoint: String,
    pub sampling_rate_per_million: u32,
}

/// OTLP's port for gRPC.
const DEFAULT_ENDPOINT: &str = "localhost:4317";
const MILLION: i32 = 1_000_000;
const VERSIONS: [&str; 3] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("unable to read tracing configuration from {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("unable to decode tracing configuration {}: {why}", path.display())]
    Decode { path: PathBuf, why: String },
    #[error("tracing configuration: {0}")]
    Invalid(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i32>,
}

impl Configuration {
    pub fn read(path: &Path) -> Result<Configuration, TraceError> {
        let text = std::fs::read_to_string(path).map_err(|source| TraceError::Read { path: path.into(), source })?;
        let file: File = serde_yaml_ng::from_str(&text).map_err(|e| TraceError::Decode { path: path.into(), why: e.to_string() })?;
        Configuration::new(file)
    }

    fn new(f: File) -> Result<Configuration, TraceError> {
        let invalid = |why: String| Err(TraceError::Invalid(why));
        if f.kind != "TracingConfiguration" || !VERSIONS.contains(&f.api_version.as_str()) {
            return invalid(format!("no kind {:?} is registered for version {:?}", f.kind, f.api_version));
        }
        let rate = f.sampling_rate_per_million.unwrap_or(0);
        if rate < 0 {
            return invalid(format!("tracing.samplingRatePerMillion: Invalid value: {rate}: sampling rate must be positive"));
        }
        if rate > MILLION {
            return invalid(format!("tracing.samplingRatePerMillion: Invalid value: {rate}: sampling rate per million must be less than or equal to one million"));
        }
        let given = f.endpoint.unwrap_or_default();
        let endpoint = given.strip_prefix("http://").unwrap_or(&given).trim_end_matches('/');
        if endpoint.contains("://") || endpoint.contains('/') {
            return invalid(format!("tracing.endpoint: Invalid value: {given:?}: only host:port without TLS is supported"));
        }
        let endpoint = if endpoint.is_empty() { DEFAULT_ENDPOINT } else { endpoint };
        let endpoint = if endpoint.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { endpoint.to_owned() } else { format!("{endpoint}:4317") };
        Ok(Configuration { endpoint, sampling_rate_per_million: rate.unsigned_abs() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Result<Configuration, String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n{more}");
        let file = serde_yaml_ng::from_str(&text).map_err(|e| e.to_string())?;
        Configuration::new(file).map_err(|e| e.to_string())
    }

    #[test]
    fn the_file_is_upstreams_with_its_defaults_and_limits() {
        assert_eq!(read(""), Ok(Configuration { endpoint: "localhost:4317".into(), sampling_rate_per_million: 0 }));
        assert_eq!(read("endpoint: 127.0.0.1:9\nsamplingRatePerMillion: 1000000").unwrap().endpoint, "127.0.0.1:9");
        assert!(read("samplingRatePerMillion: 1000001").unwrap_err().contains("less than or equal to one million"));
        assert!(read("samplingRatePerMillion: -1").unwrap_err().contains("must be positive"));
        assert!(read("endpoint: https://x:1").unwrap_err().contains("without TLS"));
        assert!(read("sampling: 1").is_err(), "unknown fields are refused");
    }
}
