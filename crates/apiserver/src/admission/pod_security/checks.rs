//! The Pod Security Standards: one row a check, in the order their findings are told (baseline's, then restricted's, each by name).
//!
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>; the wording is upstream's. A check of `restricted` may stand in
//! for one of `baseline`. What changed with a release is in the rows' `since`, or decided by the minor version a test is given.

use super::policy::{Level, Standard};
use serde_json::Value;
use std::collections::BTreeSet;

/// A pod or a pod template.
pub struct PodView<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

/// Reason and detail of a violation.
type Violation = (String, String);

struct Check {
    name: &'static str,
    level: Level,
    /// First minor version that has it.
    since: u32,
    /// The baseline check that need not run beside it.
    instead_of: &'static str,
    test: fn(&PodView, u32) -> Option<Violation>,
}

const fn baseline(name: &'static str, since: u32, test: fn(&PodView, u32) -> Option<Violation>) -> Check {
    Check { name, level: Level::Baseline, since, instead_of: "", test }
}

const fn restricted(name: &'static str, since: u32, instead_of: &'static str, test: fn(&PodView, u32) -> Option<Violation>) -> Check {
    Check { name, level: Level::Restricted, since, instead_of, test }
}

const CHECKS: &[Check] = &[
    baseline("appArmorProfile", 0, app_armor),
    baseline("capabilities_baseline", 0, capabilities_baseline),
    baseline("hostNamespaces", 0, host_namespaces),
    baseline("hostPathVolumes", 0, host_path_volumes),
    baseline("hostPorts", 0, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, probe_hosts),
    baseline("privileged", 0, privileged),
    baseline("procMount", 0, proc_mount),
    baseline("seLinuxOptions", 0, se_linux),
    baseline("seccompProfile_baseline", 0, seccomp_baseline),
    baseline("sysctls", 0, sysctls),
    baseline("windowsHostProcess", 0, host_process),
    restricted("allowPrivilegeEscalation", 8, "", privilege_escalation),
    restricted("capabilities_restricted", 22, "capabilities_baseline", capabilities_restricted),
    restricted("restrictedVolumes", 0, "hostPathVolumes", restricted_volumes),
    restricted("runAsNonRoot", 0, "", run_as_non_root),
    restricted("runAsUser", 23, "", run_as_user),
    restricted("seccompProfile_restricted", 19, "seccompProfile_baseline", seccomp_restricted),
];

/// What of a pod breaks the standard.
fn found(pod: &PodView, s: Standard) -> Vec<Violation> {
    if s.level == Level::Privileged {
        return Vec::new();
    }
    let minor = s.effective_minor();
    let active: Vec<_> = CHECKS.iter().filter(|c| c.level <= s.level && c.since <= minor).collect();
    active.iter().filter(|c| active.iter().all(|other| other.instead_of != c.name)).filter_map(|c| (c.test)(pod, minor)).collect()
}

fn joined(all: Vec<String>) -> Option<String> {
    (!all.is_empty()).then(|| all.join(", "))
}

/// What breaks the standard as one text, `reason (detail), …`; `None` when nothing does.
pub fn violations(pod: &PodView, s: Standard) -> Option<String> {
    joined(found(pod, s).into_iter().map(|(reason, detail)| format!("{reason} ({detail})")).collect())
}

/// The same without details, for many pods at once.
pub fn reasons(pod: &PodView, s: Standard) -> Option<String> {
    joined(found(pod, s).into_iter().map(|(reason, _)| reason).collect())
}

impl<'a> PodView<'a> {
    fn list(&self, field: &str) -> impl Iterator<Item = &'a Value> {
        self.spec[field].as_array().into_iter().flatten()
    }
    /// All containers, in the order upstream visits them.
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        self.list("initContainers").chain(self.list("containers")).chain(self.list("ephemeralContainers"))
    }
    fn security(&self) -> &'a Value {
        &self.spec["securityContext"]
    }
    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
    /// Names of containers of which `bad` holds.
    fn named(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| bad(c)).map(name).collect()
    }
    /// `pod` and `containers "a", "b"`, whichever broke a rule.
    fn setters(&self, of_pod: bool, containers: &[&str]) -> String {
        let mut all = Vec::new();
        if of_pod {
            all.push("pod".to_owned());
        }
        if !containers.is_empty() {
            all.push(those(containers));
        }
        all.join(" and ")
    }
    fn annotations(&self) -> impl Iterator<Item = (&'a String, &'a str)> {
        self.metadata["annotations"].as_object().into_iter().flatten().map(|(k, v)| (k, v.as_str().unwrap_or_default()))
    }
}

fn name(v: &Value) -> &str {
    v["name"].as_str().unwrap_or_default()
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<S: AsRef<str>>(all: impl IntoIterator<Item = S>) -> String {
    all.into_iter().map(|s| format!("\"{}\"", s.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`
fn those(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

fn security(container: &Value) -> &Value {
    &container["securityContext"]
}

fn app_armor(pod: &PodView, _: u32) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let bad = |security: &Value| security["appArmorProfile"]["type"].as_str().filter(|t| !matches!(*t, "RuntimeDefault" | "Localhost")).map(str::to_owned);
    let mut values: BTreeSet<String> = bad(pod.security()).into_iter().collect();
    let of_pod = !values.is_empty();
    let containers = pod.named(|c| bad(security(c)).is_some());
    values.extend(pod.containers().filter_map(|c| bad(security(c))));
    let mut details = Vec::new();
    if !values.is_empty() {
        details.push(format!("{} must not set AppArmor profile type to {}", pod.setters(of_pod, &containers), quoted(&values)));
    }
    let annotated: Vec<String> = pod
        .annotations()
        .filter(|(k, v)| k.starts_with(ANNOTATION) && !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/")))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    let count = values.len() + annotated.len();
    details.extend((!annotated.is_empty()).then(|| annotated.join(", ")));
    (count > 0).then(|| (plural("forbidden AppArmor profile", "forbidden AppArmor profiles", count).into(), details.join("; ")))
}

/// What containers add that is not in `allowed`: whose, and which.
fn added<'a>(pod: &PodView<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let adds = |c: &'a Value| security(c)["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str).filter(|k| !allowed.contains(k));
    let containers = pod.containers().filter(|c| adds(c).next().is_some()).map(name).collect();
    (containers, pod.containers().flat_map(adds).collect())
}

fn capabilities_baseline(pod: &PodView, _: u32) -> Option<Violation> {
    const DEFAULTS: &[&str] =
        &["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"];
    let (containers, kinds) = added(pod, DEFAULTS);
    let detail = || format!("{} must not include {} in securityContext.capabilities.add", those(&containers), quoted(&kinds));
    (!containers.is_empty()).then(|| ("non-default capabilities".into(), detail()))
}

fn capabilities_restricted(pod: &PodView, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let keeps = |c: &Value| !security(c)["capabilities"]["drop"].as_array().is_some_and(|d| d.iter().any(|k| k == "ALL"));
    let missing = pod.named(keeps);
    let (containers, kinds) = added(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !missing.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", those(&missing)));
    }
    if !containers.is_empty() {
        details.push(format!("{} must not include {} in securityContext.capabilities.add", those(&containers), quoted(&kinds)));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities".into(), details.join("; ")))
}

fn host_namespaces(pod: &PodView, _: u32) -> Option<Violation> {
    let set: Vec<_> = ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|f| pod.spec[**f] == true).map(|f| format!("{f}=true")).collect();
    (!set.is_empty()).then(|| ("host namespaces".into(), set.join(", ")))
}

fn host_path_volumes(pod: &PodView, _: u32) -> Option<Violation> {
    let bad: Vec<_> = pod.list("volumes").filter(|v| !v["hostPath"].is_null()).map(name).collect();
    (!bad.is_empty()).then(|| ("hostPath volumes".into(), format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad))))
}

fn host_ports(pod: &PodView, _: u32) -> Option<Violation> {
    let ports = |c: &Value| c["ports"].as_array().into_iter().flatten().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).map(|p| p.to_string()).collect::<Vec<_>>();
    let containers = pod.named(|c| !ports(c).is_empty());
    let all: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    if containers.is_empty() {
        return None;
    }
    let word = plural("hostPort", "hostPorts", all.len());
    let list = all.into_iter().collect::<Vec<_>>().join(", ");
    Some((word.into(), format!("{} {} {word} {list}", those(&containers), plural("uses", "use", containers.len()))))
}

fn probe_hosts(pod: &PodView, _: u32) -> Option<Violation> {
    let hosts = |c: &Value| -> Vec<String> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|p| &c[p]);
        let hooks = ["postStart", "preStop"].map(|h| &c["lifecycle"][h]);
        let actions = probes.into_iter().chain(hooks).flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        actions.filter_map(Value::as_str).filter(|h| !h.is_empty()).map(str::to_owned).collect()
    };
    let containers = pod.named(|c| !hosts(c).is_empty());
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let detail = || format!("{} {} probe or lifecycle {} {}", those(&containers), plural("uses", "use", containers.len()), plural("host", "hosts", all.len()), quoted(&all));
    (!containers.is_empty()).then(|| (plural("probe or lifecycle host", "probe or lifecycle hosts", all.len()).into(), detail()))
}

fn privileged(pod: &PodView, _: u32) -> Option<Violation> {
    let bad = pod.named(|c| security(c)["privileged"] == true);
    (!bad.is_empty()).then(|| ("privileged".into(), format!("{} must not set securityContext.privileged=true", those(&bad))))
}

fn proc_mount(pod: &PodView, _: u32) -> Option<Violation> {
    let unusual = |c: &Value| security(c)["procMount"].as_str().filter(|m| *m != "Default").map(str::to_owned);
    let bad = pod.named(|c| unusual(c).is_some());
    let values: BTreeSet<String> = pod.containers().filter_map(unusual).collect();
    (!bad.is_empty()).then(|| ("procMount".into(), format!("{} must not set securityContext.procMount to {}", those(&bad), quoted(&values))))
}

fn se_linux(pod: &PodView, minor: u32) -> Option<Violation> {
    let text = |o: &Value, f: &str| o[f].as_str().unwrap_or_default().to_owned();
    let allowed = |t: &str| matches!(t, "" | "container_t" | "container_init_t" | "container_kvm_t") || (minor >= 31 && t == "container_engine_t");
    let options = |security: &Value| (text(&security["seLinuxOptions"], "type"), text(&security["seLinuxOptions"], "user"), text(&security["seLinuxOptions"], "role"));
    let bad = |security: &Value| {
        let (kind, user, role) = options(security);
        !allowed(&kind) || !user.is_empty() || !role.is_empty()
    };
    let of_pod = bad(pod.security());
    let containers = pod.named(|c| bad(security(c)));
    if !of_pod && containers.is_empty() {
        return None;
    }
    let all: Vec<_> = std::iter::once(pod.security()).chain(pod.containers().map(security)).map(options).collect();
    let kinds: BTreeSet<&str> = all.iter().map(|o| o.0.as_str()).filter(|t| !allowed(t)).collect();
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(&kinds)));
    }
    if all.iter().any(|o| !o.1.is_empty()) {
        what.push("user may not be set".into());
    }
    if all.iter().any(|o| !o.2.is_empty()) {
        what.push("role may not be set".into());
    }
    Some(("seLinuxOptions".into(), format!("{} set forbidden securityContext.seLinuxOptions: {}", pod.setters(of_pod, &containers), what.join("; "))))
}

fn profile(security: &Value) -> Option<&str> {
    security["seccompProfile"]["type"].as_str()
}

/// Who sets a seccomp profile type that is not `allowed`, and to what.
fn seccomp_setters(pod: &PodView, allowed: fn(&str) -> bool) -> Option<Violation> {
    let bad = |security: &Value| profile(security).filter(|t| !allowed(t)).map(str::to_owned);
    let of_pod = bad(pod.security());
    let containers = pod.named(|c| bad(security(c)).is_some());
    let values: BTreeSet<String> = of_pod.iter().cloned().chain(pod.containers().filter_map(|c| bad(security(c)))).collect();
    let detail = || format!("{} must not set securityContext.seccompProfile.type to {}", pod.setters(of_pod.is_some(), &containers), quoted(&values));
    (!values.is_empty()).then(|| ("seccompProfile".into(), detail()))
}

fn seccomp_baseline(pod: &PodView, minor: u32) -> Option<Violation> {
    const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    if minor >= 19 {
        return seccomp_setters(pod, |t| matches!(t, "RuntimeDefault" | "Localhost"));
    }
    let allowed = |v: &str| matches!(v, "" | "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let bad: Vec<_> = pod.annotations().filter(|(k, v)| (*k == OF_POD || k.starts_with(OF_CONTAINER)) && !allowed(v)).map(|(k, v)| format!("{k}={v:?}")).collect();
    (!bad.is_empty()).then(|| ("seccompProfile".into(), format!("forbidden {} {}", plural("annotation", "annotations", bad.len()), bad.join(", "))))
}

fn seccomp_restricted(pod: &PodView, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let explicit = seccomp_setters(pod, |t| matches!(t, "RuntimeDefault" | "Localhost"));
    if explicit.is_some() || profile(pod.security()).is_some() {
        return explicit;
    }
    let open = pod.named(|c| profile(security(c)).is_none());
    let detail = || format!("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", those(&open));
    (!open.is_empty()).then(|| ("seccompProfile".into(), detail()))
}

/// Sysctls that are kept apart between pods, and the minor version since which they are allowed.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &PodView, minor: u32) -> Option<Violation> {
    let set = pod.security()["sysctls"].as_array().into_iter().flatten().map(name);
    let bad: Vec<_> = set.filter(|s| !SYSCTLS.iter().any(|(known, since)| known == s && *since <= minor)).collect();
    (!bad.is_empty()).then(|| (plural("forbidden sysctl", "forbidden sysctls", bad.len()).into(), bad.join(", ")))
}

fn host_process(pod: &PodView, _: u32) -> Option<Violation> {
    let on = |security: &Value| security["windowsOptions"]["hostProcess"] == true;
    let of_pod = on(pod.security());
    let containers = pod.named(|c| on(security(c)));
    let detail = || format!("{} must not set securityContext.windowsOptions.hostProcess=true", pod.setters(of_pod, &containers));
    (of_pod || !containers.is_empty()).then(|| ("hostProcess".into(), detail()))
}

fn privilege_escalation(pod: &PodView, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let bad = pod.named(|c| security(c)["allowPrivilegeEscalation"] != false);
    (!bad.is_empty()).then(|| ("allowPrivilegeEscalation != false".into(), format!("{} must set securityContext.allowPrivilegeEscalation=false", those(&bad))))
}

fn restricted_volumes(pod: &PodView, _: u32) -> Option<Violation> {
    const ALLOWED: &[&str] = &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    let kind = |v: &Value| v.as_object().into_iter().flatten().find(|(k, v)| *k != "name" && !v.is_null()).map_or("unknown".to_owned(), |(k, _)| k.clone());
    let bad: Vec<_> = pod.list("volumes").filter(|v| !ALLOWED.contains(&kind(v).as_str())).collect();
    if bad.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = bad.iter().map(|v| kind(v)).collect();
    let detail = format!(
        "{} {} {} restricted volume {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(bad.iter().map(|v| name(v))),
        plural("uses", "use", bad.len()),
        plural("type", "types", kinds.len()),
        quoted(&kinds)
    );
    Some(("restricted volume types".into(), detail))
}

fn run_as_non_root(pod: &PodView, _: u32) -> Option<Violation> {
    let field = |security: &Value| security["runAsNonRoot"].as_bool();
    let reason = "runAsNonRoot != true";
    let (of_pod, explicit) = (field(pod.security()) == Some(false), pod.named(|c| field(security(c)) == Some(false)));
    if of_pod || !explicit.is_empty() {
        return Some((reason.into(), format!("{} must not set securityContext.runAsNonRoot=false", pod.setters(of_pod, &explicit))));
    }
    let open = pod.named(|c| field(security(c)).is_none() && field(pod.security()) != Some(true));
    (!open.is_empty()).then(|| (reason.into(), format!("pod or {} must set securityContext.runAsNonRoot=true", those(&open))))
}

fn run_as_user(pod: &PodView, _: u32) -> Option<Violation> {
    let root = |security: &Value| security["runAsUser"] == 0;
    let (of_pod, containers) = (root(pod.security()), pod.named(|c| root(security(c))));
    (of_pod || !containers.is_empty()).then(|| ("runAsUser=0".into(), format!("{} must not set runAsUser=0", pod.setters(of_pod, &containers))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(spec: Value, level: Level, minor: Option<u32>) -> String {
        violations(&PodView { metadata: &json!({}), spec: &spec }, Standard { level, minor }).unwrap_or_default()
    }

    #[test]
    fn a_plain_pod_fits_baseline_and_not_restricted() {
        let plain = json!({"containers": [{"name": "nginx"}]});
        assert_eq!(told(plain.clone(), Level::Baseline, None), "");
        assert_eq!(
            told(plain.clone(), Level::Restricted, None),
            "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        assert_eq!(told(plain, Level::Restricted, Some(7)), "runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true)");
    }

    #[test]
    fn what_restricted_asks_for_passes_it() {
        let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
        let pod = json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": own}], "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "m"}}]});
        assert_eq!(told(pod, Level::Restricted, None), "");
    }

    /// Each row: a pod that breaks one check, the level that has it, and the words.
    #[test]
    fn each_check_names_what_broke_it() {
        let with = |security: Value| json!({"securityContext": security, "containers": [{"name": "c"}]});
        let container = |fields: Value| {
            let mut c = json!({"name": "c"});
            c.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            json!({"containers": [c]})
        };
        let of = |security: Value| container(json!({"securityContext": security}));
        for (spec, words) in [
            (of(json!({"appArmorProfile": {"type": "Unconfined"}})), "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")"),
            (
                of(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_ADMIN"]}})),
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (json!({"hostNetwork": true, "hostPID": true, "containers": []}), "host namespaces (hostNetwork=true, hostPID=true)"),
            (json!({"volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]}), "hostPath volumes (volumes \"a\", \"b\")"),
            (container(json!({"ports": [{"hostPort": 90}, {"hostPort": 80}, {"hostPort": 0}]})), "hostPorts (container \"c\" uses hostPorts 80, 90)"),
            (container(json!({"livenessProbe": {"httpGet": {"host": "10.0.0.1"}}})), "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"10.0.0.1\")"),
            (of(json!({"privileged": true})), "privileged (container \"c\" must not set securityContext.privileged=true)"),
            (of(json!({"procMount": "Unmasked"})), "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")"),
            (
                with(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
            ),
            (with(json!({"seccompProfile": {"type": "Unconfined"}})), "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")"),
            (with(json!({"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]})), "forbidden sysctl (kernel.msgmax)"),
            (with(json!({"windowsOptions": {"hostProcess": true}})), "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)"),
        ] {
            assert_eq!(told(spec, Level::Baseline, None), words);
        }
    }

    #[test]
    fn restricted_names_volumes_users_and_explicit_settings() {
        let spec = json!({"securityContext": {"runAsNonRoot": false, "runAsUser": 0, "seccompProfile": {"type": "Localhost"}}, "volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "nfs": {}}],
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "runAsUser": 0, "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(
            told(spec, Level::Restricted, None),
            "restricted volume types (volumes \"a\", \"b\" use restricted volume types \"hostPath\", \"nfs\"), \
             runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod and container \"c\" must not set runAsUser=0)"
        );
    }

    #[test]
    fn the_version_decides_which_sysctls_and_types_are_allowed() {
        let rmem = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert_eq!(told(rmem.clone(), Level::Baseline, Some(31)), "forbidden sysctl (net.ipv4.tcp_rmem)");
        assert_eq!(told(rmem, Level::Baseline, Some(32)), "");
        let engine = json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}});
        assert!(!told(engine.clone(), Level::Baseline, Some(30)).is_empty());
        assert_eq!(told(engine, Level::Baseline, Some(31)), "");
        let old = json!({"containers": [{"name": "c"}]});
        let view = PodView { metadata: &json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}), spec: &old };
        assert!(violations(&view, Standard { level: Level::Baseline, minor: Some(18) }).is_some());
        assert!(violations(&view, Standard { level: Level::Baseline, minor: Some(19) }).is_none());
    }
}
