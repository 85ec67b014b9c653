use super::*;
use crate::flags::{Cli, Role};
use clap::{CommandFactory, Parser};

fn understood(yaml: &str) -> Result<Understood, Refusal> {
    flags(&serde_yaml_ng::from_str(&format!("kind: {KIND}\napiVersion: {API_VERSION}\n{yaml}")).expect("YAML"), Path::new("/etc/node"))
}

fn written_as(yaml: &str) -> Vec<String> {
    understood(yaml).unwrap_or_else(|why| panic!("{yaml}: {why}")).flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

#[test]
fn rows_are_in_order_and_each_flag_is_one_of_the_agent() {
    assert!(FIELDS.is_sorted_by(|a, b| a.0 < b.0) && NOT_BUILT.is_sorted());
    let mut all = Cli::command();
    all.build();
    let agent = all.find_subcommand("kubelet").expect("a role");
    let longs: Vec<&str> = agent.get_arguments().filter_map(|arg| arg.get_long()).collect();
    for (field, is) in FIELDS {
        if let Flag(name, _) = is {
            assert!(longs.contains(name), "{field}: --{name}");
        }
    }
}

/// As kubeadm writes it, zero values and all.
const OF_KUBEADM: &str = r#"
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"#;

#[test]
fn what_kubeadm_writes_is_taken() {
    let understood = understood(OF_KUBEADM).expect("taken");
    assert_eq!(understood.without_effect, ["cgroupDriver", "logging.options"]);
    let flags: Vec<String> = understood.flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
    let wanted = [
        "--anonymous-auth=false",
        "--client-ca-file=/etc/kubernetes/pki/ca.crt",
        "--cluster-dns=10.96.0.10",
        "--cluster-domain=cluster.local",
        "--healthz-bind-address=127.0.0.1",
        "--healthz-port=10248",
        "--v=0",
        "--rotate-certificates=true",
        "--pod-manifest-path=/etc/node/manifests",
    ];
    assert_eq!(flags, wanted);
    let parsed = Cli::try_parse_from(["keles", "kubelet", "--kubeconfig=k"].into_iter().map(str::to_owned).chain(flags)).unwrap_or_else(|why| panic!("{why}"));
    let Role::Kubelet(agent) = parsed.role else { panic!("the agent's role") };
    assert!(agent.rotate_certificates && !agent.anonymous_auth);
}

#[test]
fn each_form_becomes_the_flags_own() {
    let cases: &[(&str, &[&str])] = &[
        ("evictionHard: {memory.available: 100Mi, nodefs.available: 10%}", &["--eviction-hard=memory.available<100Mi,nodefs.available<10%"]),
        ("systemReserved: {cpu: 200m, memory: 1Gi}", &["--system-reserved=cpu=200m,memory=1Gi"]),
        ("allowedUnsafeSysctls: [net.core.*, kernel.msg*]", &["--allowed-unsafe-sysctls=net.core.*", "--allowed-unsafe-sysctls=kernel.msg*"]),
        ("staticPodURLHeader: {A: [x, y]}", &["--manifest-url-header=A:x", "--manifest-url-header=A:y"]),
        (
            "registerWithTaints: [{key: a, value: b, effect: NoSchedule}, {key: c, effect: NoExecute}]",
            &["--register-with-taints=a=b:NoSchedule", "--register-with-taints=c:NoExecute"],
        ),
        (
            "shutdownGracePeriodByPodPriority: [{priority: 100, shutdownGracePeriodSeconds: 20}, {shutdownGracePeriodSeconds: 5}]",
            &["--shutdown-grace-period-by-pod-priority=100=20", "--shutdown-grace-period-by-pod-priority=0=5"],
        ),
        ("reservedMemory: [{numaNode: 0, limits: {memory: 1Gi, hugepages-2Mi: 2Mi}}]", &["--reserved-memory=0:memory=1Gi,hugepages-2Mi=2Mi"]),
        ("maxPods: 0\npodPidsLimit: -1\ncpuCFSQuota: false\nresolvConf: \"\"", &["--pod-max-pids=-1", "--cpu-cfs-quota=false"]),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 30s}", &["--max-container-restart-period=30s"]),
        ("enforceNodeAllocatable: [pods]\ntlsCipherSuites: []", &["--enforce-node-allocatable=pods"]),
    ];
    for (yaml, flags) in cases {
        let written = written_as(yaml);
        assert_eq!(written, *flags, "{yaml}");
        let args = ["keles", "kubelet", "--kubeconfig=k"].into_iter().map(str::to_owned).chain(written);
        let Ok(Cli { role: Role::Kubelet(agent), .. }) = Cli::try_parse_from(args) else { panic!("{yaml}: no flags of the agent") };
        agent.node.limits().unwrap_or_else(|why| panic!("{yaml}: {why}"));
    }
}

#[test]
fn thresholds_may_stand_beside_the_defaults() {
    let merged = written_as("mergeDefaultEvictionSettings: true\nevictionHard: {memory.available: 1Gi}");
    assert_eq!(merged, ["--eviction-hard=memory.available<1Gi,imagefs.available<5%,imagefs.inodesFree<5%,nodefs.available<5%,nodefs.inodesFree<5%"]);
}

#[test]
fn what_is_unknown_or_not_built_is_refused_by_name() {
    let refused = |yaml: &str| understood(yaml).expect_err(yaml).to_string();
    assert_eq!(refused("maxPodz: 3"), "unknown field \"maxPodz\"");
    assert_eq!(refused("logging: {colour: red}"), "unknown field \"logging.colour\"");
    assert_eq!(refused("memorySwap: 3"), "memorySwap: 3 is not an object");
    assert_eq!(refused("tlsCipherSuites: [TLS_AES_128_GCM_SHA256]"), "tlsCipherSuites is not built, leave it out (docs/STATUS.md)");
    assert_eq!(refused("readOnlyPort: 10255"), "readOnlyPort: 10255 is not built, only 0 is (docs/STATUS.md)");
    assert_eq!(refused("evictionHard: [a]"), "evictionHard: [\"a\"] is not a map of texts");
    let other: Mapping = serde_yaml_ng::from_str("kind: KubeletConfiguration\napiVersion: v2").expect("YAML");
    assert_eq!(flags(&other, Path::new("/")), Err(Refusal::Version("v2".into())));
}
