//! Admission that looks at classes, quotas and security standards, through the whole chain.

use crate::world::{Client, Reply, World, pod, with_account};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn merge(c: &Client, path: &str, patch: Value) -> Reply {
    c.send(Method::PATCH, path, "application/merge-patch+json", patch.to_string().into_bytes()).await
}

#[tokio::test]
async fn a_pod_takes_overhead_and_scheduling_from_its_runtime_class() {
    let w = World::start().await;
    let admin = with_account(&w).await;
    let refused = admin.post(PODS, &pod("a", json!({"runtimeClassName": "absent"}))).await;
    assert_eq!((refused.status, refused.json()["message"].as_str()), (StatusCode::FORBIDDEN, Some("pods \"a\" is forbidden: pod rejected: RuntimeClass \"absent\" not found")));
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
    assert_eq!(admin.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.status, StatusCode::CREATED);
    let made = admin.post(PODS, &pod("b", json!({"runtimeClassName": "vm", "nodeSelector": {"disk": "fast"}}))).await.json();
    assert_eq!((&made["spec"]["overhead"], &made["spec"]["nodeSelector"]), (&json!({"cpu": "250m"}), &json!({"disk": "fast", "vm": "yes"})));
    assert!(made["spec"]["tolerations"].as_array().unwrap().iter().any(|t| t["key"] == "vm"));
    for (spec, why) in [
        (json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}), "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"),
        (json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        (json!({"overhead": {"cpu": "1"}}), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
    ] {
        let refused = admin.post(PODS, &pod("c", spec)).await;
        assert_eq!((refused.status, refused.json()["message"].as_str()), (StatusCode::FORBIDDEN, Some(format!("pods \"c\" is forbidden: {why}").as_str())));
    }
}

#[tokio::test]
async fn claims_and_ingresses_get_the_default_class_and_claims_grow_where_it_allows() {
    let w = World::start().await;
    let admin = w.admin();
    let class = |name: &str, expands: bool| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": expands.to_string()}},
               "provisioner": "example.com/p", "allowVolumeExpansion": expands})
    };
    for (name, expands) in [("fixed", false), ("usual", true)] {
        assert_eq!(admin.post("/apis/storage.k8s.io/v1/storageclasses", &class(name, expands)).await.status, StatusCode::CREATED);
    }
    let at = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, spec: Value| {
        let mut c = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        c["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        c
    };
    assert_eq!(admin.post(at, &claim("a", json!({}))).await.json()["spec"]["storageClassName"], "usual");
    assert_eq!(admin.post(at, &claim("b", json!({"storageClassName": ""}))).await.json()["spec"]["storageClassName"], "", "an empty name asks for none");
    assert_eq!(admin.post(at, &claim("c", json!({"storageClassName": "fixed"}))).await.status, StatusCode::CREATED);
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = merge(&admin, &format!("{at}/a"), grow.clone()).await;
    assert_eq!(refused.status.as_u16(), 422, "the kind's own rules come first: a claim that is not bound keeps its spec: {}", refused.text());
    for name in ["a", "c"] {
        merge(&admin, &format!("{at}/{name}/status"), json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})).await;
        merge(&admin, &format!("{at}/{name}"), json!({"spec": {"volumeName": format!("v-{name}")}})).await;
    }
    assert_eq!(merge(&admin, &format!("{at}/a"), grow.clone()).await.status, StatusCode::OK);
    let refused = merge(&admin, &format!("{at}/c"), grow).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text());
    assert!(refused.text().contains("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"));

    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "front", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "example.com/c"}});
    assert_eq!(admin.post("/apis/networking.k8s.io/v1/ingressclasses", &class).await.status, StatusCode::CREATED);
    let ingress =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    assert_eq!(admin.post("/apis/networking.k8s.io/v1/namespaces/default/ingresses", &ingress).await.json()["spec"]["ingressClassName"], "front");
}

#[tokio::test]
async fn pods_must_meet_the_standard_of_their_namespace() {
    let w = World::start().await;
    let admin = with_account(&w).await;
    let bare = admin.post(PODS, &pod("bare", json!({"hostNetwork": true}))).await;
    assert_eq!(bare.status, StatusCode::CREATED, "{}", bare.text());
    let labels = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let raised = merge(&admin, "/api/v1/namespaces/default", labels("baseline")).await;
    assert_eq!(raised.status, StatusCode::OK);
    assert!(
        raised.header("warning").contains("existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\""),
        "{}",
        raised.header("warning")
    );
    let refused = admin.post(PODS, &pod("a", json!({"hostNetwork": true}))).await;
    assert_eq!(
        (refused.status, refused.json()["message"].as_str()),
        (StatusCode::FORBIDDEN, Some("pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"))
    );
    assert_eq!(merge(&admin, &format!("{PODS}/bare"), json!({"metadata": {"labels": {"a": "b"}}})).await.status, StatusCode::OK, "what is there may be changed otherwise");
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let told = admin.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(told.status, StatusCode::CREATED, "workloads are told of, not refused");
    assert_eq!(told.header("warning"), "299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces (hostPID=true)\"");
    let wrong = merge(&admin, "/api/v1/namespaces/default", labels("strict")).await;
    assert_eq!(wrong.status.as_u16(), 422);
    assert!(wrong.json()["message"].as_str().unwrap().contains("must be one of privileged, baseline, restricted"), "{}", wrong.text());
}

#[tokio::test]
async fn a_quota_is_charged_before_an_object_is_stored_and_never_overrun() {
    let w = World::start().await;
    let admin = with_account(&w).await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"configmaps": "5", "pods": "1", "limits.memory": "1Gi"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    assert_eq!(admin.post(quotas, &quota).await.status, StatusCode::CREATED);
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let at = "/api/v1/namespaces/default/configmaps";
    assert_eq!(admin.post(at, &map("unseen")).await.status, StatusCode::CREATED, "a quota that no controller saw yet limits nothing");
    assert_eq!(merge(&admin, &format!("{quotas}/q/status"), json!({"status": {"hard": hard}})).await.status, StatusCode::OK);
    let refused = admin.post(at, &map("early")).await;
    assert_eq!(refused.json()["message"], "configmaps \"early\" is forbidden: status unknown for quota: q, resources: configmaps");
    let zero = json!({"status": {"hard": hard, "used": {"configmaps": "0", "pods": "0", "limits.memory": "0"}}});
    assert_eq!(merge(&admin, &format!("{quotas}/q/status"), zero).await.status, StatusCode::OK);
    let dry = admin.post(&format!("{at}?dryRun=All"), &map("dry")).await;
    assert_eq!(dry.status, StatusCode::CREATED);
    // Twenty at once: exactly as many as fit.
    let all = futures::future::join_all((0..20).map(|i| {
        let admin = admin.clone();
        async move { admin.post(at, &map(&format!("m{i}"))).await.status }
    }))
    .await;
    assert_eq!(all.iter().filter(|s| **s == StatusCode::CREATED).count(), 5);
    assert!(all.iter().all(|s| matches!(*s, StatusCode::CREATED | StatusCode::FORBIDDEN)), "{all:?}");
    assert_eq!(admin.get(&format!("{quotas}/q")).await.json()["status"]["used"]["configmaps"], "5");
    let over = admin.post(at, &map("more")).await;
    assert_eq!(over.json()["message"], "configmaps \"more\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=5, limited: configmaps=5");
    let unstated = admin.post(PODS, &pod("a", json!({}))).await;
    assert_eq!(unstated.json()["message"], "pods \"a\" is forbidden: failed quota: q: must specify limits.memory for: c");
    let limited = json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": "2Gi"}}}]});
    let over = admin.post(PODS, &pod("a", limited)).await;
    assert_eq!(over.json()["message"], "pods \"a\" is forbidden: exceeded quota: q, requested: limits.memory=2Gi, used: limits.memory=0, limited: limits.memory=1Gi");
}

#[tokio::test]
async fn devices_of_others_are_for_claims_of_namespaces_that_say_so() {
    let w = World::start().await;
    let admin = w.admin();
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let spec = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "adminAccess": true}}]}});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "a"}, "spec": spec});
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "a"}, "spec": {"spec": spec}});
    for (path, o) in [(claims.to_owned(), &claim), (claims.replace("claims", "claimtemplates"), &template)] {
        let refused = admin.post(&path, o).await;
        let why =
            "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";
        assert_eq!(refused.status.as_u16(), 422, "{}", refused.text());
        assert!(refused.json()["message"].as_str().unwrap().ends_with(why), "{}", refused.text());
    }
    let labelled = merge(&admin, "/api/v1/namespaces/default", json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}})).await;
    assert_eq!(labelled.status.as_u16(), 200);
    assert_eq!(admin.post(claims, &claim).await.status.as_u16(), 201);
}
