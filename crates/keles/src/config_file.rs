//! `--config FILE`: a YAML file whose keys are the flags' names, or for `keles kubelet` a KubeletConfiguration. What stands on the command line wins.

use crate::kubelet_configuration::{self, Refusal};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

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
    #[error("{}: a KubeletConfiguration is for `keles kubelet`; flags by their names for the others", .0.display())]
    Role(PathBuf),
    #[error("{}: {refusal}", path.display())]
    Kubelet { path: PathBuf, refusal: Refusal },
}

/// The arguments with the file's flags put in, behind the role and before the rest.
pub fn expand(args: Vec<OsString>) -> Result<Vec<OsString>, ConfigFileError> {
    let Some((path, mut rest)) = take(&args)? else { return Ok(args) };
    let text = std::fs::read_to_string(&path).map_err(|source| ConfigFileError::Read { path: path.clone(), source })?;
    let map: serde_yaml_ng::Mapping = serde_yaml_ng::from_str(&text).map_err(|source| ConfigFileError::Parse { path: path.clone(), source })?;
    let given = |key: &str, rest: &[OsString]| rest.iter().any(|a| a.to_str().is_some_and(|a| a == format!("--{key}") || a.starts_with(&format!("--{key}="))));
    let mut added = Vec::new();
    if map.get("kind").and_then(serde_yaml_ng::Value::as_str) == Some(kubelet_configuration::KIND) {
        if rest.get(1).is_none_or(|role| role != "kubelet") {
            return Err(ConfigFileError::Role(path));
        }
        let whole = std::path::absolute(&path).map_err(|source| ConfigFileError::Read { path: path.clone(), source })?;
        let folder = whole.parent().unwrap_or(Path::new("/"));
        let understood = kubelet_configuration::flags(&map, folder).map_err(|refusal| ConfigFileError::Kubelet { path: path.clone(), refusal })?;
        if !understood.without_effect.is_empty() {
            // Before there are logs.
            eprintln!("keles: {}: no effect here: {} (docs/STATUS.md)", path.display(), understood.without_effect.join(", "));
        }
        added.extend(understood.flags.iter().filter(|(name, _)| !given(name, &rest)).map(|(name, value)| format!("--{name}={value}").into()));
    } else {
        for (key, value) in &map {
            let key = key.as_str().unwrap_or_default().to_owned();
            if !given(&key, &rest) {
                added.extend(flags(&key, value).ok_or(ConfigFileError::Value { path: path.clone(), key })?);
            }
        }
    }
    let behind_role = rest.len().min(2);
    rest.splice(behind_role..behind_role, added);
    Ok(rest)
}

/// The file that `--config` names, and the arguments without it.
fn take(args: &[OsString]) -> Result<Option<(PathBuf, Vec<OsString>)>, ConfigFileError> {
    let joined = |arg: &OsString| arg.to_str().and_then(|arg| arg.strip_prefix("--config=")).map(PathBuf::from);
    let Some(at) = args.iter().position(|arg| arg == "--config" || joined(arg).is_some()) else { return Ok(None) };
    let (path, length) = match joined(&args[at]) {
        Some(path) => (path, 1),
        None => (args.get(at + 1).ok_or(ConfigFileError::NoPath)?.into(), 2),
    };
    let mut rest = args.to_vec();
    rest.drain(at..at + length);
    Ok(Some((path, rest)))
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
    fn the_agent_takes_a_kubelet_configuration_and_the_others_do_not() {
        let yaml = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nmaxPods: 30\nport: 10255\n";
        let got = expanded(yaml, &["keles", "kubelet", "--port=10251"]).expect("valid");
        assert_eq!(got, ["keles", "kubelet", "--max-pods=30", "--port=10251"]);
        assert!(matches!(expanded(yaml, &["keles", "server"]), Err(ConfigFileError::Role(_))));
        assert!(matches!(expanded(&format!("{yaml}x: 1\n"), &["keles", "kubelet"]), Err(ConfigFileError::Kubelet { .. })));
    }

    #[test]
    fn the_file_may_stand_behind_an_equals_sign() {
        let with = |all: &[&str]| take(&all.iter().map(Into::into).collect::<Vec<OsString>>());
        let taken = with(&["keles", "server", "--config=/a/b.yaml", "-v"]).expect("a path").expect("a file");
        assert_eq!(taken, ("/a/b.yaml".into(), ["keles", "server", "-v"].map(OsString::from).to_vec()));
        assert!(with(&["keles", "server"]).expect("none").is_none());
        assert!(matches!(with(&["keles", "--config"]), Err(ConfigFileError::NoPath)));
    }

    #[test]
    fn a_file_that_is_no_mapping_of_values_is_refused_by_name() {
        assert!(matches!(expanded("- a\n", &["keles", "server"]), Err(ConfigFileError::Parse { .. })));
        assert!(matches!(expanded("token: {a: b}\n", &["keles", "server"]), Err(ConfigFileError::Value { key, .. }) if key == "token"));
    }
}
