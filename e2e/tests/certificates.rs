//! A node that joins with a bootstrap token and a KubeletConfiguration alone, as kubeadm's do: its client certificate is approved and issued by itself,
//! renewed before its end, its serving certificate waits for an administrator, and its settings hold.

use keles_e2e::{Cluster, WEB, skip, until};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// With lives of 100 s, begun 5 minutes before they are signed, certificates are renewed a minute after they were issued at the latest.
const RENEWED: Duration = Duration::from_secs(120);
const SETTINGS: &str = r#"
podPidsLimit: 60
registerWithTaints: [{key: joined, value: by-token, effect: PreferNoSchedule}]
systemReserved: {memory: 64Mi}
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
"#;
const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

#[test]
fn a_node_joins_by_a_token_and_keeps_its_certificates_new() {
    if skip() {
        return;
    }
    let mut c = Cluster::start_without_node(&["--enable-bootstrap-token-auth", "--cluster-signing-duration=100s"]);
    c.apply(
        r#"
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData: {token-id: abcdef, token-secret: 0123456789abcdef, usage-bootstrap-authentication: "true"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: joining-nodes-ask}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:node-bootstrapper"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: joining-nodes-are-approved}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes-renew}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes"}]
"#,
    );
    c.join("abcdef.0123456789abcdef", SETTINGS);
    the_token_asked_and_the_node_was_given(&c);
    let joined_with = in_force(&c, "client");
    c.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: c, image: \"{WEB}\"}}]}}\n"));
    c.wait_ready("web");
    the_agents_api_waits_for_an_administrator(&c);
    the_configuration_holds(&c);
    until("another client certificate", RENEWED, || match in_force(&c, "client") {
        now if now != joined_with => Ok(()),
        now => Err(now.display().to_string()),
    });
    assert!(joined_with.exists(), "the old one stays on disk");
    assert!(requests(&c, CLIENT).iter().any(|r| r["spec"]["username"] == "system:node:e2e"), "the node asked as itself");
    c.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: after}}\nspec: {{containers: [{{name: c, image: \"{WEB}\"}}]}}\n"));
    c.wait_ready("after");
}

fn requests(c: &Cluster, signer: &str) -> Vec<Value> {
    let all = c.json(&["get", "csr"])["items"].as_array().expect("a list").clone();
    all.into_iter().filter(|r| r["spec"]["signerName"] == signer).collect()
}

/// The file that is in force.
fn in_force(c: &Cluster, which: &str) -> PathBuf {
    std::fs::read_link(c.certificates().join(format!("kubelet-{which}-current.pem"))).expect("a link")
}

fn the_token_asked_and_the_node_was_given(c: &Cluster) {
    let all = requests(c, CLIENT);
    let first = all.iter().find(|r| r["spec"]["username"] == "system:bootstrap:abcdef").expect("the token's request");
    assert!(first["metadata"]["name"].as_str().expect("a name").starts_with("node-csr-"), "{first}");
    assert_eq!((&first["status"]["conditions"][0]["type"], &first["status"]["conditions"][0]["reason"]), (&"Approved".into(), &"AutoApproved".into()));
    let kubeconfig = c.dir.path().join("joined.kubeconfig");
    assert_eq!(std::fs::metadata(&kubeconfig).expect("written").permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(kubeconfig).expect("written");
    assert!(text.contains("kubelet-client-current.pem") && !text.contains("0123456789abcdef"), "{text}");
    assert!(!c.certificates().join("kubelet-client.key.tmp").exists());
}

fn the_agents_api_waits_for_an_administrator(c: &Cluster) {
    c.try_kubectl(&["logs", "web"]).expect_err("no certificate yet");
    assert!(c.log().contains("no serving certificate available for the kubelet"));
    let name = until("a request for a serving certificate", SOON, || {
        let pending = requests(c, SERVING).into_iter().find(|r| r["status"]["conditions"].is_null());
        pending.and_then(|r| r["metadata"]["name"].as_str().map(str::to_owned)).ok_or_else(|| "none".to_owned())
    });
    c.kubectl(&["certificate", "approve", &name]);
    let log = until("the pod's log", SOON, || c.try_kubectl(&["logs", "web"]));
    assert!(log.contains("serving v1"), "{log}");
    assert!(in_force(c, "server").exists());
    let metrics = c.kubectl(&["get", "--raw", "/api/v1/nodes/e2e/proxy/metrics"]);
    for name in ["client_ttl_seconds", "server_ttl_seconds", "client_expiration_renew_errors 0"] {
        assert!(metrics.contains(&format!("\nkubelet_certificate_manager_{name}")), "{name}");
    }
}

fn the_configuration_holds(c: &Cluster) {
    let taints = c.json(&["get", "node", Cluster::NODE])["spec"]["taints"].clone();
    assert!(taints.as_array().is_some_and(|all| all.iter().any(|t| t["key"] == "joined" && t["value"] == "by-token" && t["effect"] == "PreferNoSchedule")), "{taints}");
    let shown: Value = serde_json::from_str(&c.kubectl(&["get", "--raw", "/api/v1/nodes/e2e/proxy/configz"])).expect("JSON");
    let shown = &shown["kubeletconfig"];
    let two_seconds = json!({"maxContainerRestartPeriod": "2s"});
    assert_eq!((&shown["podPidsLimit"], &shown["rotateCertificates"], &shown["crashLoopBackOff"]), (&60.into(), &true.into(), &two_seconds));
    let fault = c.try_kubectl(&["exec", "web", "--", "sh", "-c", "for i in $(seq 100); do sleep 30 & done; kill $(jobs -p)"]).expect_err("more processes than a pod may have");
    assert!(fault.contains("can't fork"), "{fault}");
    c.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: ends}}\nspec: {{containers: [{{name: c, image: \"{WEB}\", command: [\"false\"]}}]}}\n"));
    // With upstream's usual waits, 10, 20 and 40 s, the fourth restart comes after 70 s.
    until("the fourth restart", SOON, || match c.json(&["get", "pod", "ends"])["status"]["containerStatuses"][0]["restartCount"].as_u64() {
        Some(4..) => Ok(()),
        restarts => Err(format!("{restarts:?}")),
    });
    c.kubectl(&["delete", "pod", "ends", "--now"]);
}
