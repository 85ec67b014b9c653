//! A pod's host name, domain, hosts file and resolver configuration.

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use keles_runtime::resolver::Resolver;

/// RFC 1123 label.
const MAX_HOSTNAME_CHARS: usize = 63;
/// The kernel's limit, which setHostnameAsFQDN must keep.
const MAX_FQDN_CHARS: usize = 64;
/// Cluster DNS as the node is configured.
#[derive(Clone, Debug, Default)]
pub struct ClusterDns {
    pub servers: Vec<std::net::IpAddr>,
    pub domain: String,
}

/// The first label of the pod's host name and its domain (empty without a subdomain).
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let Some(spec) = &pod.spec else { return (String::new(), String::new()) };
    if let Some(whole) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (whole.into(), String::new());
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let hostname = match spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        Some(hostname) => hostname.to_string(),
        None => name.chars().take(MAX_HOSTNAME_CHARS).collect::<String>().trim_end_matches(['-', '.']).to_string(),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = spec.subdomain.as_deref().filter(|name| !name.is_empty()).map(|name| format!("{name}.{namespace}.svc.{cluster_domain}"));
    (hostname, domain.unwrap_or_default())
}

/// What the kernel is told as the host name.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    let as_fqdn = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    if !as_fqdn || domain.is_empty() {
        return Ok(hostname);
    }
    let fqdn = format!("{hostname}.{domain}");
    if fqdn.len() > MAX_FQDN_CHARS {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_FQDN_CHARS} characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

const HOSTS_HEAD: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
const HOST_NETWORK_HEAD: &str = "# Kubernetes-managed hosts file (host network).\n";

/// `/etc/hosts`; `node_hosts` is the node's own file, for pods on its network.
pub fn hosts_file(pod: &Pod, ips: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let mut text = String::new();
    if spec.host_network == Some(true) {
        text.push_str(HOST_NETWORK_HEAD);
        text.push_str(node_hosts);
    } else {
        text.push_str(HOSTS_HEAD);
        let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
        for ip in ips {
            match domain.as_str() {
                "" => text.push_str(&format!("{ip}\t{hostname}\n")),
                domain => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
            }
        }
    }
    if let Some(aliases) = spec.host_aliases.as_ref().filter(|aliases| !aliases.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    text
}

/// `/etc/resolv.conf` by dnsPolicy and dnsConfig, within the limits of the API; `node_file` is the node's own.
pub fn resolver(pod: &Pod, dns: &ClusterDns, node_file: &str) -> Resolver {
    let Some(spec) = &pod.spec else { return Resolver::default() };
    let mut resolver = by_policy(pod, spec, dns, node_file);
    if let Some(config) = &spec.dns_config {
        add(&mut resolver, config);
    }
    resolver.limited()
}

/// The same as a file.
pub fn resolv_conf(pod: &Pod, dns: &ClusterDns, node_file: &str) -> String {
    resolver(pod, dns, node_file).text()
}

fn by_policy(pod: &Pod, spec: &PodSpec, dns: &ClusterDns, node_file: &str) -> Resolver {
    let on_host = spec.host_network == Some(true);
    let node = || Resolver::parse(node_file);
    match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Resolver::default(),
        "ClusterFirst" if on_host => node(),
        "Default" => node(),
        // Without a cluster DNS the node's is better than none.
        _ if dns.servers.is_empty() => node(),
        _ => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &dns.domain;
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(node().searches);
            Resolver { servers: dns.servers.iter().map(ToString::to_string).collect(), searches, options: vec!["ndots:5".into()] }
        }
    }
}

fn add(resolver: &mut Resolver, config: &PodDNSConfig) {
    resolver.servers.extend(config.nameservers.iter().flatten().cloned());
    resolver.searches.extend(config.searches.iter().flatten().map(|search| search.trim_end_matches('.').to_string()));
    for option in config.options.iter().flatten() {
        let name = option.name.clone().unwrap_or_default();
        let text = option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
        match resolver.options.iter_mut().find(|old| old.split(':').next() == Some(name.as_str())) {
            Some(old) => *old = text,
            None => resolver.options.push(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).expect("a pod")
    }

    fn dns() -> ClusterDns {
        ClusterDns { servers: vec!["10.43.0.10".parse().expect("ip")], domain: "cluster.local".into() }
    }

    #[test]
    fn the_hosts_file_has_the_exact_header_and_aliases() {
        let pod = pod(json!({"containers": [], "hostname": "myhost", "subdomain": "mysub", "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["one.local", "two.local"]}]}));
        let text = hosts_file(&pod, &["10.42.0.2".into()], "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.42.0.2\tmyhost.mysub.n.svc.cluster.local\tmyhost\n\n# Entries added by HostAliases.\n192.0.2.1\tone.local\ttwo.local\n"), "{text}");
    }

    #[test]
    fn a_pod_on_the_node_network_keeps_the_nodes_hosts() {
        let pod = pod(json!({"containers": [], "hostNetwork": true}));
        assert_eq!(hosts_file(&pod, &[], "cluster.local", "127.0.0.1 me\n"), "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n");
    }

    #[test]
    fn cluster_first_asks_only_the_cluster_dns() {
        let pod = pod(json!({"containers": []}));
        let text = resolv_conf(&pod, &dns(), "nameserver 192.0.2.99\nsearch corp.example\n");
        assert_eq!(text, "search n.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.43.0.10\noptions ndots:5\n");
    }

    #[test]
    fn dns_config_stands_alone_with_policy_none_and_overrides_options() {
        let config = json!({"nameservers": ["192.0.2.53"], "searches": ["a.local", "b.local"], "options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}]});
        let none = pod(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": config}));
        assert_eq!(resolv_conf(&none, &dns(), "nameserver 192.0.2.99\n"), "search a.local b.local\nnameserver 192.0.2.53\noptions ndots:3 edns0\n");
        let first = pod(json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}));
        assert!(resolv_conf(&first, &dns(), "").ends_with("options ndots:2\n"));
    }

    #[test]
    fn on_the_node_network_the_nodes_dns_is_asked_unless_told_otherwise() {
        let node = "nameserver 192.0.2.99\n";
        assert_eq!(resolv_conf(&pod(json!({"containers": [], "hostNetwork": true})), &dns(), node), node);
        let with = pod(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}));
        assert!(resolv_conf(&with, &dns(), node).contains("nameserver 10.43.0.10\n"));
    }

    #[test]
    fn a_long_name_is_cut_to_a_label() {
        let name = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": []}})).expect("a pod");
        assert_eq!(hostname_and_domain(&pod, "cluster.local").0, "a".repeat(62));
    }

    #[test]
    fn the_kernel_is_told_the_whole_name_when_asked_and_one_it_cannot_hold_is_refused() {
        let name = |subdomain: &str, as_fqdn: bool| {
            let pod = pod(json!({"containers": [], "hostname": "h", "subdomain": subdomain, "setHostnameAsFQDN": as_fqdn}));
            kernel_hostname(&pod, "cluster.local")
        };
        assert_eq!(name("sub", true).as_deref(), Ok("h.sub.n.svc.cluster.local"));
        assert_eq!(name("sub", false).as_deref(), Ok("h"));
        assert_eq!(name("", true).as_deref(), Ok("h"), "without a subdomain there is no longer name");
        let refusal = name(&"s".repeat(50), true).expect_err("longer than the kernel holds");
        assert!(refusal.ends_with("is too long (64 characters is the max, 72 characters requested)"), "{refusal}");
    }
}
