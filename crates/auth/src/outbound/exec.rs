//! Credentials that a program of the operator's makes: `users[].user.exec` of a kubeconfig (client.authentication.k8s.io, ExecCredential).
//!
//! The program is run when a credential is first needed, when it is over, and once more when the server refuses it. Its standard input is empty:
//! one that must ask somebody is refused. Source: kubernetes.io "client-go credential plugins".

use super::OutboundError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

const VERSIONS: &[&str] = &["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];
/// A program that takes longer is ended.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    #[serde(default)]
    api_version: String,
    command: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    install_hint: String,
    #[serde(default)]
    pub provide_cluster_info: bool,
    #[serde(default)]
    interactive_mode: String,
}

#[derive(Deserialize, Clone, Debug)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Status {
    expiration_timestamp: Option<String>,
    token: String,
    client_certificate_data: String,
    client_key_data: String,
}

/// What the program said.
#[derive(Debug, PartialEq)]
pub struct Credential {
    pub token: Option<String>,
    /// Certificate chain and key, PEM.
    pub identity: Option<(String, String)>,
    expires: Option<jiff::Timestamp>,
}

pub struct Plugin {
    exec: Exec,
    command: PathBuf,
    /// What it is told of the cluster.
    info: Value,
    held: tokio::sync::Mutex<Option<Arc<Credential>>>,
}

impl Plugin {
    /// `folder` is the kubeconfig's: a command with a slash is below it. `cluster` is told when the configuration wants it.
    pub fn new(exec: Exec, folder: &Path, cluster: Value) -> Result<Plugin, String> {
        if !VERSIONS.contains(&exec.api_version.as_str()) {
            return Err(format!("exec: apiVersion {:?} is not supported; there are {VERSIONS:?}", exec.api_version));
        }
        if exec.command.is_empty() {
            return Err("exec: command is required".into());
        }
        if exec.interactive_mode == "Always" {
            return Err("exec: interactiveMode Always needs somebody at a terminal, and a server has none".into());
        }
        let mut spec = json!({"interactive": false});
        if exec.provide_cluster_info {
            spec["cluster"] = cluster;
        }
        let info = json!({"kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec});
        let command = if exec.command.contains('/') { folder.join(&exec.command) } else { PathBuf::from(&exec.command) };
        Ok(Plugin { exec, command, info, held: tokio::sync::Mutex::default() })
    }

    /// The credential of now; another one than `refused`.
    pub async fn credential(&self, refused: Option<&Arc<Credential>>) -> Result<Arc<Credential>, OutboundError> {
        let mut held = self.held.lock().await;
        let good = |c: &&Arc<Credential>| !refused.is_some_and(|r| Arc::ptr_eq(r, c)) && c.expires.is_none_or(|end| jiff::Timestamp::now() < end);
        if let Some(c) = held.as_ref().filter(good) {
            return Ok(c.clone());
        }
        let made = self.run().await.map_err(|why| OutboundError::Exec { command: self.exec.command.clone(), why })?;
        Ok(held.insert(Arc::new(made)).clone())
    }

    async fn run(&self) -> Result<Credential, String> {
        let mut c = tokio::process::Command::new(&self.command);
        c.args(self.exec.args.iter().flatten()).envs(self.exec.env.iter().flatten().map(|v| (&v.name, &v.value)));
        c.env("KUBERNETES_EXEC_INFO", self.info.to_string()).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let hint = if self.exec.install_hint.is_empty() { String::new() } else { format!("\n{}", self.exec.install_hint) };
        let done = tokio::time::timeout(LIMIT, c.output()).await.map_err(|_| format!("no end within {LIMIT:?}"))?.map_err(|e| format!("{e}{hint}"))?;
        if !done.status.success() {
            return Err(format!("failed with {}", done.status));
        }
        self.read(&done.stdout)
    }

    fn read(&self, text: &[u8]) -> Result<Credential, String> {
        let answer: Answer = serde_json::from_slice(text).map_err(|e| format!("decoding stdout: {e}"))?;
        if answer.kind != "ExecCredential" || answer.api_version != self.exec.api_version {
            return Err(format!(
                "exec plugin is configured to use API version {}, plugin returned version {:?}, kind {:?}",
                self.exec.api_version, answer.api_version, answer.kind
            ));
        }
        let s = answer.status.ok_or("exec plugin didn't return a status field")?;
        if s.client_certificate_data.is_empty() != s.client_key_data.is_empty() {
            return Err("exec plugin returned only certificate or key, not both".into());
        }
        if s.token.is_empty() && s.client_key_data.is_empty() {
            return Err("exec plugin didn't return a token or cert/key pair".into());
        }
        let expires = s.expiration_timestamp.map(|t| t.parse().map_err(|e| format!("expirationTimestamp {t:?}: {e}"))).transpose()?;
        Ok(Credential {
            token: (!s.token.is_empty()).then_some(s.token),
            identity: (!s.client_key_data.is_empty()).then_some((s.client_certificate_data, s.client_key_data)),
            expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(script: &str) -> Plugin {
        let exec = json!({"apiVersion": VERSIONS[0], "command": "sh", "args": ["-c", script], "env": [{"name": "WHO", "value": "jane"}], "provideClusterInfo": true});
        Plugin::new(serde_json::from_value(exec).unwrap(), Path::new("/"), json!({"server": "https://s.example"})).expect("a plugin")
    }

    #[tokio::test]
    async fn a_credential_is_kept_until_it_is_over_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count").display().to_string();
        let answer = |more: &str| {
            format!(
                "echo x >> {count}; printf '{{\"kind\":\"ExecCredential\",\"apiVersion\":\"{}\",\"status\":{{\"token\":\"%s-%s\"{more}}}}}' $WHO $(wc -l < {count})",
                VERSIONS[0]
            )
        };
        let p = plugin(&answer(""));
        let first = p.credential(None).await.unwrap();
        assert_eq!(first.token.as_deref(), Some("jane-1"));
        assert!(Arc::ptr_eq(&first, &p.credential(None).await.unwrap()), "kept");
        assert_eq!(p.credential(Some(&first)).await.unwrap().token.as_deref(), Some("jane-2"), "the server refused it");
        let p = plugin(&answer(",\"expirationTimestamp\":\"2000-01-01T00:00:00Z\""));
        assert_eq!(p.credential(None).await.unwrap().token.as_deref(), Some("jane-3"));
        assert_eq!(p.credential(None).await.unwrap().token.as_deref(), Some("jane-4"), "over");
    }

    #[tokio::test]
    async fn what_is_no_credential_is_told_apart() {
        let why = async |script: &str| plugin(script).credential(None).await.unwrap_err().to_string();
        assert!(why("exit 3").await.contains("exit status: 3"));
        assert!(why("echo nothing").await.contains("decoding stdout"));
        assert!(why(&format!("echo '{{\"kind\":\"ExecCredential\",\"apiVersion\":\"{}\",\"status\":{{}}}}'", VERSIONS[0])).await.contains("didn't return a token"));
        assert!(why(&format!("echo '{{\"kind\":\"ExecCredential\",\"apiVersion\":\"{}\"}}'", VERSIONS[1])).await.contains("plugin returned version"));
        assert!(why("test \"$KUBERNETES_EXEC_INFO\" = \"${KUBERNETES_EXEC_INFO#*s.example}\" || exit 7").await.contains("exit status: 7"), "it is told of the cluster");
        let exec = |v: Value| Plugin::new(serde_json::from_value(v).unwrap(), Path::new("/"), Value::Null).err().unwrap_or_default();
        assert!(exec(json!({"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "x"})).contains("not supported"));
        assert!(exec(json!({"apiVersion": VERSIONS[0], "command": "x", "interactiveMode": "Always"})).contains("terminal"));
    }
}
