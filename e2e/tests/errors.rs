//! What users see when they are wrong, or may not.

use keles_e2e::{Cluster, skip};
use std::process::Command;

#[test]
fn bad_input_and_strangers_get_a_clear_answer() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    let refused = |yaml: &str, words: &[&str]| {
        let e = c.kubectl_with(&["apply", "-f", "-"], yaml).expect_err(yaml);
        words.iter().for_each(|w| assert!(e.contains(w), "{w} is missing in: {e}"));
    };
    refused("apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: [{name: c}]}\n", &["Bad_Name", "spec.containers[0].image: Required value"]);
    refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatta: {a: b}\n", &["unknown field \"datta\""]);
    refused("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: {}}\n", &["containers"]);
    refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n", &["namespaces \"nowhere\" not found"]);
    assert_eq!(c.try_kubectl(&["get", "pod", "absent"]).expect_err("absent"), "Error from server (NotFound): pods \"absent\" not found");
    assert!(c.try_kubectl(&["get", "pods", "-l", "=="]).is_err());
    let base = format!("https://127.0.0.1:{}", c.port);
    let stranger = |path: &str| {
        String::from_utf8_lossy(&Command::new("curl").args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", &format!("{base}{path}")]).output().expect("curl").stdout).into_owned()
    };
    assert_eq!((stranger("/api/v1/secrets").as_str(), stranger("/readyz").as_str(), stranger("/version").as_str()), ("403", "200", "200"));
    c.kubectl(&["create", "serviceaccount", "reader"]);
    c.kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=pods"]);
    c.kubectl(&["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader"]);
    let can = |verb: &str, what: &str| c.try_kubectl(&["auth", "can-i", verb, what, "--as=system:serviceaccount:default:reader"]).unwrap_or_else(|_| "no".into()).trim().to_owned();
    assert_eq!((can("list", "pods").as_str(), can("delete", "pods").as_str(), can("list", "secrets").as_str()), ("yes", "no", "no"));
    let token = c.kubectl(&["create", "token", "reader"]);
    let with_token = |path: &str| {
        String::from_utf8_lossy(
            &Command::new("curl")
                .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Authorization: Bearer {}", token.trim()), &format!("{base}{path}")])
                .output()
                .expect("curl")
                .stdout,
        )
        .into_owned()
    };
    assert_eq!((with_token("/api/v1/namespaces/default/pods").as_str(), with_token("/api/v1/namespaces/default/secrets").as_str()), ("200", "403"));
}

#[test]
fn what_kubectl_prints_reads_as_users_know_it() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    let header = |args: &[&str]| c.kubectl(args).lines().next().expect("a header").split("  ").map(str::trim).filter(|w| !w.is_empty()).collect::<Vec<_>>().join("|");
    c.kubectl(&["create", "deployment", "d", "--image=keles.invalid/none:v1", "--replicas=1"]);
    assert_eq!(header(&["get", "deploy"]), "NAME|READY|UP-TO-DATE|AVAILABLE|AGE");
    assert_eq!(header(&["get", "nodes"]), "NAME|STATUS|ROLES|AGE|VERSION");
    assert_eq!(header(&["get", "svc"]), "NAME|TYPE|CLUSTER-IP|EXTERNAL-IP|PORT(S)|AGE");
    let explained = c.kubectl(&["explain", "pod.spec"]);
    assert!(explained.contains("restartPolicy") && c.kubectl(&["explain", "pod"]).contains("KIND:       Pod"), "{explained}");
    assert!(c.kubectl(&["api-resources"]).contains("deployments"));
    assert!(c.kubectl(&["version"]).contains("Server Version: v1.36"));
    c.kubectl(&["create", "ns", "gone"]);
    c.kubectl(&["create", "configmap", "x", "-n", "gone", "--from-literal=a=b"]);
    c.kubectl(&["delete", "ns", "gone", "--timeout=60s"]);
    c.kubectl(&["annotate", "deploy", "d", "a=b"]);
    c.kubectl(&["label", "deploy", "d", "x=y"]);
    assert_eq!(c.kubectl(&["get", "deploy", "-l", "x=y", "-o", "name"]), "deployment.apps/d\n");
    c.kubectl(&["delete", "deploy", "d"]);
}
