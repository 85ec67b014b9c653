//! The authorizers in the operator's order, and what the reviews say of them.

use crate::world::World;
use crate::world::peer::Peer;
use http::StatusCode;
use serde_json::{Value, json};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

#[tokio::test]
async fn abac_allows_what_a_line_says_and_the_next_mode_the_rest() {
    let policy = tempfile::NamedTempFile::new().unwrap();
    let line =
        r#"{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"bob","namespace":"*","resource":"secrets","apiGroup":"*","readonly":true}}"#;
    std::fs::write(policy.path(), line).unwrap();
    let w = World::with(|c| {
        c.authorization.modes = vec!["ABAC".into(), "RBAC".into()];
        c.authorization.policy_file = Some(policy.path().into());
    })
    .await;
    let bob = w.admin().with_header("impersonate-user", "bob");
    assert_eq!(bob.get("/api/v1/secrets").await.status, StatusCode::OK);
    let a = bob.get("/api/v1/configmaps").await;
    assert_eq!(a.status, StatusCode::FORBIDDEN);
    let words = "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" at the cluster scope: No policy matched.";
    assert_eq!(a.json()["message"], words);
    let rules = bob.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &json!({"spec": {"namespace": "default"}})).await.json();
    assert!(rules["status"]["resourceRules"].as_array().unwrap().contains(&json!({"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": ["secrets"]})), "{rules}");
}

#[tokio::test]
async fn everybody_may_or_nobody_but_the_masters() {
    let w = World::with(|c| c.authorization.modes = vec!["AlwaysAllow".into()]).await;
    assert_eq!(w.stranger().get("/api/v1/secrets").await.status, StatusCode::OK);
    let w = World::with(|c| c.authorization.modes = vec!["AlwaysDeny".into()]).await;
    assert_eq!(w.stranger().get("/version").await.status, StatusCode::FORBIDDEN);
    assert_eq!(w.admin().get("/version").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_webhook_decides_and_sees_selectors_and_conditions_keep_it_out() {
    let hook = Peer::start(|_, _, said| {
        let spec = &said["spec"];
        let (allowed, denied) = (spec["user"] == "jane", spec["user"] == "mallory");
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": allowed, "denied": denied, "reason": "by the hook"}})
    })
    .await;
    let config = hook.file(
        "authz.yaml",
        &format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- type: Webhook\n  name: hook\n  webhook:\n    timeout: 3s\n    subjectAccessReviewVersion: v1\n    \
             matchConditionSubjectAccessReviewVersion: v1\n    failurePolicy: Deny\n    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: '{}'}}\n    \
             matchConditions: [{{expression: \"has(request.resourceAttributes) && request.resourceAttributes.namespace == 'shop'\"}}]\n- type: RBAC\n  name: rbac\n",
            hook.kubeconfig("/z").display()
        ),
    );
    let w = World::with(|c| c.authorization.config_file = Some(config)).await;
    let as_user = |u: &str| w.admin().with_header("impersonate-user", u);
    assert_eq!(as_user("jane").get("/api/v1/namespaces/shop/pods?fieldSelector=spec.nodeName%3Dn1&labelSelector=a+in+(b,c)").await.status, StatusCode::OK);
    let said = hook.heard();
    let r = &said[0]["spec"]["resourceAttributes"];
    assert_eq!(r["fieldSelector"], json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]}));
    assert_eq!(r["labelSelector"], json!({"requirements": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}));
    let count = hook.heard().len();
    assert_eq!(as_user("jane").get("/api/v1/namespaces/other/pods").await.status, StatusCode::FORBIDDEN, "out of the conditions");
    assert_eq!(hook.heard().len(), count, "it was not asked");
    let refused = as_user("mallory").get("/api/v1/namespaces/shop/pods").await.json();
    assert!(refused["message"].as_str().unwrap().ends_with("in the namespace \"shop\": by the hook"), "{refused}");
    let spec = |user: &str| json!({"spec": {"user": user, "resourceAttributes": {"namespace": "shop", "verb": "get", "resource": "pods"}}});
    assert_eq!(w.admin().post(REVIEWS, &spec("mallory")).await.json()["status"], json!({"allowed": false, "denied": true, "reason": "by the hook"}));
    assert_eq!(w.admin().post(REVIEWS, &spec("jane")).await.json()["status"], json!({"allowed": true, "reason": "by the hook"}));
}

#[tokio::test]
async fn reviews_take_selectors_and_refuse_what_is_no_question() {
    let w = World::start().await;
    let ask = |attributes: Value| {
        let admin = w.admin();
        async move { admin.post(REVIEWS, &json!({"spec": {"user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes": attributes}})).await.json() }
    };
    let pods = json!({"verb": "list", "resource": "pods"});
    let with = |selector: Value| {
        let mut a = pods.clone();
        a["fieldSelector"] = selector;
        a
    };
    assert_eq!(ask(pods.clone()).await["status"]["allowed"], false);
    assert_eq!(ask(with(json!({"rawSelector": "spec.nodeName=n1"}))).await["status"]["allowed"], true);
    assert_eq!(ask(with(json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]}))).await["status"]["allowed"], true);
    assert_eq!(
        ask(with(json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n2"]}]}))).await["status"]["reason"],
        "can only list/watch pods with spec.nodeName field selector"
    );
    let bad = ask(with(json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "In", "values": ["b"]}]}))).await;
    assert_eq!((&bad["code"], &bad["reason"]), (&json!(422), &json!("Invalid")), "{bad}");
    let nothing = w.admin().post(REVIEWS, &json!({"spec": {"user": "jane"}})).await.json();
    assert_eq!(nothing["code"], 422, "{nothing}");
    assert!(nothing["message"].as_str().unwrap().contains("exactly one of nonResourceAttributes or resourceAttributes must be specified"), "{nothing}");
}

#[tokio::test]
async fn a_node_reads_the_secrets_of_the_volumes_that_its_pods_use() {
    let w = World::start().await;
    let admin = w.admin();
    let create = async |path: &str, object: Value| {
        let made = admin.post(path, &object).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    };
    create("/api/v1/namespaces/default/serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let source = json!({"driver": "d.example", "volumeHandle": "h", "nodeStageSecretRef": {"name": "key", "namespace": "storage"}});
    let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "claimRef": {"name": "c", "namespace": "default"}, "csi": source});
    create("/api/v1/persistentvolumes", json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": spec})).await;
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    create("/api/v1/namespaces/default/pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})).await;
    let may = async |node: &str, secret: &str| {
        let attributes = json!({"verb": "get", "resource": "secrets", "namespace": "storage", "name": secret});
        let review = admin.post(REVIEWS, &json!({"spec": {"user": format!("system:node:{node}"), "groups": ["system:nodes"], "resourceAttributes": attributes}})).await;
        review.json()["status"]["allowed"].as_bool()
    };
    assert_eq!(may("n1", "key").await, Some(true));
    assert_eq!(may("n2", "key").await, Some(false), "no pod there uses it");
    assert_eq!(may("n1", "other").await, Some(false));
}

#[tokio::test]
async fn aggregated_roles_follow_labels_and_expressions() {
    let w = World::start().await;
    let admin = w.admin();
    let role = |name: &str, more: Value| {
        let mut o = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
        for (k, v) in more.as_object().unwrap() {
            if k == "labels" { o["metadata"]["labels"] = v.clone() } else { o[k] = v.clone() }
        }
        o
    };
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    admin.post(ROLES, &role("part", json!({"labels": {"tier": "a"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]}))).await;
    let selector = json!([{"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}]);
    admin.post(ROLES, &role("whole", json!({"aggregationRule": {"clusterRoleSelectors": selector}}))).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "whole"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    let jane = admin.clone().with_header("impersonate-user", "jane");
    assert_eq!(jane.get("/api/v1/namespaces/default/secrets/none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(jane.get("/api/v1/secrets").await.status, StatusCode::FORBIDDEN);
}
