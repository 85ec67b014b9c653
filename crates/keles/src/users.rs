//! As whom each part of this process speaks to the API server. RBAC applies to them as to anybody.

use keles_apiserver::ApiServer;
use keles_auth::User;

fn client(server: &ApiServer, name: &str, groups: &[&str]) -> kube::Client {
    let user = User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() };
    keles_client::in_process(server.service_for(user))
}

pub fn scheduler(server: &ApiServer) -> kube::Client {
    client(server, "system:kube-scheduler", &[])
}

/// By full user name; a service account (`system:serviceaccount:NAMESPACE:NAME`) comes with its groups.
pub fn named(server: &ApiServer, user: &str) -> kube::Client {
    let account = user.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':'));
    match account {
        Some((namespace, _)) => client(server, user, &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")]),
        None => client(server, user, &[]),
    }
}

pub fn proxy(server: &ApiServer) -> kube::Client {
    client(server, "system:kube-proxy", &[])
}

pub fn node(server: &ApiServer, name: &str) -> kube::Client {
    client(server, &format!("system:node:{name}"), &["system:nodes"])
}

/// The identity that sets up what a cluster of this binary always has (cluster DNS).
pub fn setup(server: &ApiServer) -> kube::Client {
    client(server, "system:keles-setup", &["system:masters"])
}
