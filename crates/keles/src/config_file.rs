//! `--config FILE`: a YAML file whose keys are the flags' names. What stands on the command line wins.

use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("--config needs the path of a YAML file")]
    NoPath,
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not a YAML mapping of flag names: {source}", path.display())]
    Parse { path: PathBuf, source: serde_yaml_ng::Error },
    #[error("{}: {key} must be a string, a number, true, false or a list of those", path.display())]
    Value { path: PathBuf, key: String },
}

/// The arguments with the file's flags put in, behind the role and before the rest.
pub fn expand(args: Vec<OsString>) -> Result<Vec<OsString>, ConfigFileError> {
    let Some(at) = args.iter().position(|a| a == "--config") else { return Ok(args) };
    let path = PathBuf::from(args.get(at + 1).ok_or(ConfigFileError::NoPath)?);
    let text = std::fs::read_to_string(&path).map_err(|source| ConfigFileError::Read { path: path.clone(), source })?;
    let map: serde_yaml_ng::Mapping = serde_yaml_ng::from_str(&text).map_err(|source| ConfigFileError::Parse { path: path.clone(), source })?;
    let mut rest: Vec<OsString> = args;
    rest.drain(at..at + 2);
    let given = |key: &str, rest: &[OsString]| rest.iter().any(|a| a.to_str().is_some_and(|a| a == format!("--{key}") || a.starts_with(&format!("--{key}="))));
    let mut added = Vec::new();
    for (key, value) in &map {
        let key = key.as_str().unwrap_or_default().to_owned();
        if !given(&key, &rest) {
            added.extend(flags(&key, value).ok_or(ConfigFileError::Value { path: path.clone(), key })?);
        }
    }
    let behind_role = rest.len().min(2);
    rest.splice(behind_role..behind_role, added);
    Ok(rest)
}

/// `key: value` as arguments; `None` for what is no flag value.
fn flags(key: &str, value: &serde_yaml_ng::Value) -> Option<Vec<OsString>> {
    use serde_yaml_ng::Value;
    Some(match value {
        // Said also when false: some are on by default.
        Value::Bool(b) => vec![format!("--{key}={b}").into()],
        Value::String(s) => vec![format!("--{key}={s}").into()],
        Value::Number(n) => vec![format!("--{key}={n}").into()],
        Value::Sequence(all) => all.iter().map(|v| flags(key, v)).collect::<Option<Vec<_>>>()?.concat(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(yaml: &str, args: &[&str]) -> Result<Vec<String>, ConfigFileError> {
        let dir = std::env::temp_dir().join(format!("keles-config-{}-{}", std::process::id(), yaml.len()));
        std::fs::write(&dir, yaml).expect("writes");
        let mut all: Vec<OsString> = args.iter().map(Into::into).collect();
        all.extend(["--config".into(), dir.clone().into_os_string()]);
        let r = expand(all);
        std::fs::remove_file(dir).expect("removes");
        r.map(|a| a.into_iter().map(|s| s.into_string().expect("text")).collect())
    }

    #[test]
    fn the_file_gives_flags_and_the_command_line_wins() {
        let got = expanded("https-listen-port: 7443\nnode-name: a\ndisable: [dns, proxy]\ndisable-agent: true\nseccomp-default: false\n", &["keles", "server", "--node-name", "b"])
            .expect("valid");
        assert_eq!(got, ["keles", "server", "--https-listen-port=7443", "--disable=dns", "--disable=proxy", "--disable-agent=true", "--seccomp-default=false", "--node-name", "b"]);
    }

    #[test]
    fn a_file_that_is_no_mapping_of_values_is_refused_by_name() {
        assert!(matches!(expanded("- a\n", &["keles", "server"]), Err(ConfigFileError::Parse { .. })));
        assert!(matches!(expanded("token: {a: b}\n", &["keles", "server"]), Err(ConfigFileError::Value { key, .. }) if key == "token"));
    }
}
