//! Volumes on a real node: live files of API objects, claims and their volumes from birth to removal, through a kill of the server.

use keles_e2e::{Cluster, WEB, skip, until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn volumes_live_as_their_objects_say() {
    if skip() {
        return;
    }
    let mut c = Cluster::start();
    files_follow_their_objects(&c);
    trust_anchors_follow_their_bundles(&c);
    a_claim_is_bound_used_and_protected(&mut c);
    a_waiting_claim_is_bound_where_its_pod_goes(&c);
    what_is_missing_is_said(&c);
}

fn event(c: &Cluster, object: &str, part: &str) {
    until(&format!("an event of {object} with {part:?}"), SOON, || {
        let events =
            c.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={object}"), "-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}"]);
        if events.contains(part) { Ok(()) } else { Err(events) }
    });
}

/// A certificate authority that nobody uses.
const ANCHOR: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBeDCCAR+gAwIBAgIUB5YRJTUwgE8q1dw/L8pIoxzDCMcwCgYIKoZIzj0EAwIw\n\
ETEPMA0GA1UEAwwGc2FtcGxlMCAXDTI2MTEyMTE1NTI1MloYDzIxMjYxMDI4MTU1\n\
MjUyWjARMQ8wDQYDVQQDDAZzYW1wbGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AAQ18UUJqbGDpaFyNGzIdJDmULtsvFH+p0gs5hBxUGGngEQmkA6vYvacDm3rI+73\n\
LzWjW0AKmi+uaZXOhaDaqKzIo1MwUTAdBgNVHQ4EFgQUtR12jtGBPIprZ49+b5Mx\n\
sXOQlE8wHwYDVR0jBBgwFoAUtR12jtGBPIprZ49+b5MxsXOQlE8wDwYDVR0TAQH/\n\
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBuiJfzBTwzoQYYoV40SjZJiTZjWqkn\n\
b7RnIBqw4yh4hAIgGG7TxsOfJa+TZQYXefnIhMHICJ5RfRQ2n8k9SmWEi+8=\n\
-----END CERTIFICATE-----\n";

/// By name and by a signer's labels; bundles that change or come show in the running pod (KEP-3257).
fn trust_anchors_follow_their_bundles(c: &Cluster) {
    let authority = c.kubectl(&["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data.ca\\.crt}"]);
    let bundle = |name: &str, signer: &str, anchors: &str| {
        let spec = serde_json::json!({"signerName": signer, "trustBundle": anchors});
        c.apply(
            &serde_json::json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": {"name": name, "labels": {"live": "yes"}}, "spec": spec})
                .to_string(),
        );
    };
    bundle("own", "", &authority);
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: trusts}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: c, image: {WEB}, volumeMounts: [{{name: trust, mountPath: /trust}}]}}
  volumes:
  - name: trust
    projected:
      sources:
      - clusterTrustBundle: {{name: own, path: own.pem}}
      - clusterTrustBundle: {{signerName: example.com/live, labelSelector: {{matchLabels: {{live: "yes"}}}}, path: signer.pem, optional: true}}
"#
    ));
    c.wait_ready("trusts");
    let shows = |file: &str, anchors: usize| {
        until(&format!("{file} shows {anchors} anchors"), SOON, || {
            let text = c.try_kubectl(&["exec", "trusts", "--", "cat", file])?;
            if text.matches("-----BEGIN CERTIFICATE-----").count() == anchors { Ok(()) } else { Err(text) }
        });
    };
    shows("/trust/own.pem", 1);
    shows("/trust/signer.pem", 0);
    bundle("example.com:live:first", "example.com/live", ANCHOR);
    shows("/trust/signer.pem", 1);
    bundle("example.com:live:second", "example.com/live", &format!("{ANCHOR}{authority}"));
    shows("/trust/signer.pem", 2);
    bundle("own", "", &format!("{ANCHOR}{authority}"));
    shows("/trust/own.pem", 2);
    c.kubectl(&["delete", "pod", "trusts"]);
    c.kubectl(&["delete", "clustertrustbundle", "own", "example.com:live:first", "example.com:live:second"]);
}

/// ConfigMap, Secret, optional ones that come and go, labels; a subPath keeps what it began with.
fn files_follow_their_objects(c: &Cluster) {
    c.kubectl(&["create", "configmap", "live", "--from-literal=a=one"]);
    c.kubectl(&["create", "secret", "generic", "key", "--from-literal=s=one"]);
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: live, labels: {{app: one}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {WEB}
    volumeMounts: [{{name: all, mountPath: /all}}, {{name: map, mountPath: /map}}, {{name: map, mountPath: /part, subPath: a}}, {{name: late, mountPath: /late}}]
  volumes:
  - {{name: map, configMap: {{name: live}}}}
  - {{name: late, configMap: {{name: late, optional: true}}}}
  - name: all
    projected:
      sources: [{{secret: {{name: key}}}}, {{downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}]
"#
    ));
    c.wait_ready("live");
    let shows = |file: &str, wanted: &str| {
        until(&format!("{file} shows {wanted}"), SOON, || {
            let text = c.try_kubectl(&["exec", "live", "--", "cat", file]).unwrap_or_else(|e| e);
            if text.trim() == wanted { Ok(()) } else { Err(text) }
        });
    };
    shows("/map/a", "one");
    c.kubectl(&["patch", "configmap", "live", "-p", r#"{"data":{"a":"two","b":"new"}}"#]);
    shows("/map/a", "two");
    shows("/map/b", "new");
    assert_eq!(c.exec("live", &["cat", "/part"]), "one", "a subPath does not follow");
    c.kubectl(&["patch", "secret", "key", "-p", r#"{"stringData":{"s":"two"}}"#]);
    shows("/all/s", "two");
    c.kubectl(&["label", "--overwrite", "pod", "live", "app=two"]);
    shows("/all/labels", "app=\"two\"");
    c.kubectl(&["create", "configmap", "late", "--from-literal=k=here"]);
    shows("/late/k", "here");
    c.kubectl(&["delete", "configmap", "late"]);
    until("the optional file goes", SOON, || {
        let files = c.exec("live", &["ls", "/late"]);
        if files.trim().is_empty() { Ok(()) } else { Err(files) }
    });
    c.kubectl(&["delete", "pod", "live", "--timeout=60s"]);
}

fn a_claim_is_bound_used_and_protected(c: &mut Cluster) {
    let store = tempfile::tempdir().expect("a folder");
    let path = store.path().display().to_string();
    let node = Cluster::NODE;
    c.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: local-v}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  local: {{path: {path}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: "", resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: user}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{fsGroup: 4321}}
  containers:
  - name: c
    image: {WEB}
    volumeMounts: [{{name: v, mountPath: /v}}, {{name: v, mountPath: /part, subPath: made/here}}, {{name: r, mountPath: /r}}]
  volumes: [{{name: v, persistentVolumeClaim: {{claimName: data}}}}, {{name: r, persistentVolumeClaim: {{claimName: data, readOnly: true}}}}]
"#
    ));
    c.wait_ready("user");
    c.phase("pvc", "data", "Bound");
    c.phase("pv", "local-v", "Bound");
    assert_eq!(c.exec("user", &["sh", "-c", "echo kept > /v/file && stat -c %g /v && echo x > /part/file && cat /v/made/here/file"]), "4321\nx\n");
    assert!(c.try_kubectl(&["exec", "user", "--", "touch", "/r/file"]).expect_err("read-only").contains("Read-only file system"));
    assert_eq!(std::fs::read_to_string(store.path().join("file")).expect("on the node"), "kept\n");
    // Twice in the pod, once on the node: it is shown by one of its names, with its claim.
    let figures = |c: &Cluster| {
        until("the claim in the figures", SOON, || {
            let summary = c.try_kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")])?;
            let summary: serde_json::Value = serde_json::from_str(&summary).map_err(|e| e.to_string())?;
            let of_pod = summary["pods"].as_array().into_iter().flatten().find(|pod| pod["podRef"]["name"] == "user");
            let volumes = of_pod.map(|pod| pod["volume"].clone()).unwrap_or_default();
            let claims: Vec<_> =
                volumes.as_array().into_iter().flatten().filter(|volume| volume["pvcRef"]["name"] == "data" && volume["pvcRef"]["namespace"] == "default").collect();
            let is_shown = claims.len() == 1 && ["v", "r"].iter().any(|name| claims[0]["name"] == *name) && claims[0]["capacityBytes"].is_u64();
            if is_shown { Ok(()) } else { Err(summary.to_string()) }
        });
        let metrics = c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]);
        let capacity = "kubelet_volume_stats_capacity_bytes{namespace=\"default\",persistentvolumeclaim=\"data\"} ";
        assert_eq!(metrics.lines().filter(|line| line.starts_with(capacity)).count(), 1, "{metrics}");
    };
    figures(c);
    c.kill_server();
    c.start_server();
    figures(c);
    // Deleted while used: it waits for the pod.
    c.kubectl(&["delete", "pvc", "data", "--wait=false"]);
    assert_eq!(c.exec_again("user", &["cat", "/v/file"]), "kept\n");
    assert!(c.json(&["get", "pvc", "data"])["metadata"]["deletionTimestamp"].is_string());
    c.kubectl(&["delete", "pod", "user", "--timeout=60s"]);
    c.kubectl(&["wait", "--for=delete", "pvc/data", "--timeout=60s"]);
    c.phase("pv", "local-v", "Released");
    c.kubectl(&["delete", "pv", "local-v", "--timeout=60s"]);
    assert_eq!(std::fs::read_to_string(store.path().join("file")).expect("the pod's end leaves the data"), "kept\n");
}

/// A generic ephemeral volume of a class that waits for its consumer.
fn a_waiting_claim_is_bound_where_its_pod_goes(c: &Cluster) {
    let store = tempfile::tempdir().expect("a folder");
    let path = store.path().display().to_string();
    c.apply(&format!(
        r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: waits}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: Pod
metadata: {{name: first}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: {WEB}, volumeMounts: [{{name: v, mountPath: /v}}]}}]
  volumes:
  - name: v
    ephemeral: {{volumeClaimTemplate: {{spec: {{accessModes: [ReadWriteOnce], storageClassName: waits, resources: {{requests: {{storage: 1Mi}}}}}}}}}}
"#
    ));
    event(c, "first", "node(s) didn't find available persistent volumes to bind");
    c.phase("pvc", "first-v", "Pending");
    c.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: waited}}
spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: waits, hostPath: {{path: {path}}}}}
"#
    ));
    c.wait_ready("first");
    c.exec("first", &["sh", "-c", "echo x > /v/file"]);
    assert!(store.path().join("file").exists());
    c.kubectl(&["delete", "pod", "first", "--timeout=60s"]);
    // The pod owned the claim.
    c.kubectl(&["wait", "--for=delete", "pvc/first-v", "--timeout=60s"]);
    c.phase("pv", "waited", "Released");
    c.kubectl(&["delete", "pv", "waited", "--timeout=60s"]);
}

fn what_is_missing_is_said(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: nowhere}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: hand
  local: {{path: /no/such/folder}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: Exists}}]}}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: nowhere}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: hand, resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: lonely}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: "", resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: misses}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: {WEB}, volumeMounts: [{{name: v, mountPath: /v}}]}}]
  volumes: [{{name: v, persistentVolumeClaim: {{claimName: nowhere}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: waits}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: {WEB}, volumeMounts: [{{name: v, mountPath: /v}}]}}]
  volumes: [{{name: v, persistentVolumeClaim: {{claimName: lonely}}}}]
"#
    ));
    event(c, "lonely", "FailedBinding: no persistent volumes available for this claim and no storage class is set");
    event(c, "waits", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.");
    event(c, "misses", "FailedMount: MountVolume.NewMounter initialization failed for volume \"nowhere\" : path \"/no/such/folder\" does not exist");
    c.kubectl(&["delete", "pod", "misses", "waits", "--timeout=60s"]);
    c.kubectl(&["delete", "pvc", "nowhere", "lonely", "--timeout=60s"]);
    c.kubectl(&["delete", "pv", "nowhere", "--timeout=60s"]);
}
