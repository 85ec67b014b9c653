//! Impersonation over sockets: the general right, and the narrower ones that KEP-5284 splits it into.

use crate::world::{Client, World};
use http::StatusCode;
use keles_apiserver::audit;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Gives the group `helpers` the rules, everywhere.
async fn grant(admin: &Client, name: &str, rules: Value) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let made = admin.post(&format!("{RBAC}/clusterroles"), &role).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "helpers"}, {"kind": "ServiceAccount", "name": "agent", "namespace": "default"}]});
    assert_eq!(admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.status, StatusCode::CREATED);
}

fn identity(mode: &str, resource: &str, names: &[&str]) -> Value {
    json!({"apiGroups": ["authentication.k8s.io"], "resources": [resource], "resourceNames": names, "verbs": [format!("impersonate:{mode}")]})
}
fn action(mode: &str, verb: &str, resource: &str) -> Value {
    json!({"apiGroups": [""], "resources": [resource], "verbs": [format!("impersonate-on:{mode}:{verb}")]})
}

/// A world whose helper, a client with a token, may nothing yet.
async fn helper(configure: impl FnOnce(&mut keles_apiserver::Config)) -> (World, Client, tempfile::NamedTempFile) {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "t,helper,1,helpers\n").unwrap();
    let path = tokens.path().to_owned();
    let w = World::with(|c| {
        c.authentication.token_file = Some(path);
        configure(c);
    })
    .await;
    let client = w.bearer("t");
    (w, client, tokens)
}

#[tokio::test]
async fn a_constrained_right_is_to_be_somebody_and_to_do_one_thing() {
    let (w, helper, _tokens) = helper(|_| {}).await;
    let (admin, as_jane) = (w.admin(), helper.clone().with_header("impersonate-user", "jane"));
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let refusal = |a: &crate::world::Reply| (a.status.as_u16(), a.json()["message"].as_str().unwrap_or_default().to_owned());
    let none = as_jane.get(PODS).await;
    assert_eq!(
        refusal(&none),
        (403, "pods is forbidden: User \"helper\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"default\"".into())
    );
    grant(&admin, "on", json!([action("user-info", "list", "pods")])).await;
    let half = as_jane.get(PODS).await;
    let want = "users.authentication.k8s.io \"jane\" is forbidden: User \"helper\" cannot impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the cluster scope";
    assert_eq!(refusal(&half), (403, want.into()));
    grant(&admin, "be", json!([identity("user-info", "users", &["jane"]), identity("user-info", "groups", &["dev"])])).await;
    let as_her = as_jane.get(PODS).await;
    assert_eq!(refusal(&as_her).1, "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"", "it is she who may not");
    let bind = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "dev"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "dev"}]});
    admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), &bind).await;
    let as_dev = as_jane.clone().with_header("impersonate-group", "dev");
    assert_eq!(as_dev.get(PODS).await.status, StatusCode::OK);
    let delete = as_dev.send(http::Method::DELETE, &format!("{PODS}/x"), "application/json", vec![]).await;
    assert!(refusal(&delete).1.contains("User \"helper\" cannot impersonate-on:user-info:delete resource \"pods\""), "she may, the helper may not as her: {}", delete.text());
    for (group, words) in [("ops", "cannot impersonate:user-info resource \"groups\""), ("system:masters", "impersonating the system:masters group is not allowed")] {
        let a = as_jane.clone().with_header("impersonate-group", group).get(PODS).await;
        assert!(refusal(&a).1.contains(words), "{group}: {}", a.text());
    }
    let extra = as_jane.clone().with_header("impersonate-extra-scopes", "a").get(PODS).await;
    assert!(refusal(&extra).1.contains("must be a domain-prefixed path"), "{}", extra.text());
    let nobody = helper.clone().with_header("impersonate-group", "dev").get(PODS).await;
    let want = "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user name";
    assert_eq!(refusal(&nobody), (400, want.into()));
}

#[tokio::test]
async fn accounts_and_nodes_have_modes_of_their_own_and_fixed_groups() {
    let (w, helper, _tokens) = helper(|_| {}).await;
    let admin = w.admin();
    let me = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = |mode: &str| json!({"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": [format!("impersonate-on:{mode}:create")]});
    grant(
        &admin,
        "modes",
        json!([review("serviceaccount"), review("arbitrary-node"), identity("serviceaccount", "serviceaccounts", &["bot"]), identity("arbitrary-node", "nodes", &["n1"])]),
    )
    .await;
    let who = async |name: &str| helper.clone().with_header("impersonate-user", name).post(me, &json!({})).await;
    let bot = who("system:serviceaccount:shop:bot").await.json();
    assert_eq!(bot["status"]["userInfo"]["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]));
    let node = who("system:node:n1").await.json();
    assert_eq!(node["status"]["userInfo"], json!({"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}));
    assert_eq!(who("system:node:n2").await.status, StatusCode::FORBIDDEN);
    let grouped = helper.clone().with_header("impersonate-user", "system:node:n1").with_header("impersonate-group", "dev").post(me, &json!({})).await;
    assert!(grouped.text().contains("cannot impersonate resource"), "only the way of old chooses a node's groups: {}", grouped.text());
}

#[tokio::test]
async fn an_agent_may_be_the_node_its_pod_is_on_and_no_other() {
    let (w, _helper, _tokens) = helper(|_| {}).await;
    let admin = w.admin();
    for account in ["default", "agent"] {
        admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}})).await;
    }
    admin.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
    let made = admin.post("/api/v1/namespaces/default/pods", &crate::world::pod("a", json!({"nodeName": "n1", "serviceAccountName": "agent"}))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": made.json()["metadata"]["uid"]}}});
    let token = admin.post("/api/v1/namespaces/default/serviceaccounts/agent/token", &bound).await.json()["status"]["token"].as_str().unwrap().to_owned();
    let on = json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["impersonate-on:associated-node:get"]});
    let be = json!({"apiGroups": ["authentication.k8s.io"], "resources": ["nodes"], "verbs": ["impersonate:associated-node"]});
    grant(&admin, "agents", json!([on, be])).await;
    let as_node = |n: &str| w.bearer(&token).with_header("impersonate-user", &format!("system:node:{n}"));
    let own = as_node("n1").get("/api/v1/nodes/n1").await;
    assert_eq!(own.status, StatusCode::OK, "{}", own.text());
    let other = as_node("n2").get("/api/v1/nodes/n2").await;
    assert!(other.text().contains("cannot impersonate-on:arbitrary-node:get"), "{}", other.text());
}

#[tokio::test]
async fn audit_tells_by_which_right_and_the_gate_leaves_the_general_one() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: Metadata, resources: [{group: '', resources: [pods]}]}\n")
        .unwrap();
    let path = log.clone();
    let (w, helper, _tokens) = self::helper(|c| c.audit = audit::Options { policy_file: Some(policy), log_path: Some(path), ..audit::Options::default() }).await;
    grant(&w.admin(), "both", json!([action("user-info", "list", "pods"), identity("user-info", "users", &["jane"])])).await;
    helper.clone().with_header("impersonate-user", "jane").get("/api/v1/pods").await;
    w.admin().with_header("impersonate-user", "bob").get("/api/v1/pods").await;
    let events: Vec<Value> = std::fs::read_to_string(&log).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&events[0]["impersonatedUser"]["username"], &events[0]["authenticationMetadata"]), (&json!("jane"), &json!({"impersonationConstraint": "impersonate:user-info"})));

    let (w, helper, _tokens) = self::helper(|c| c.features = "ConstrainedImpersonation=false".parse().unwrap()).await;
    grant(&w.admin(), "both", json!([action("user-info", "list", "pods"), identity("user-info", "users", &["jane"])])).await;
    let a = helper.with_header("impersonate-user", "jane").get("/api/v1/pods").await;
    assert_eq!(a.json()["message"], "users \"jane\" is forbidden: User \"helper\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope");
}
