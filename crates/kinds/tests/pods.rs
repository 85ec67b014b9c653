//! Rules of pods that users meet seldom: one line a rule, as `(what the pod says, what is said of it)`.

use keles_api::{Object, Problems};
use keles_kinds::core::{persistent_volume::PersistentVolume, pod::Pod};
use keles_registry::kind::Kind;
use serde_json::{Value, json};

/// A good pod with `change` merged into its spec.
fn pod(change: Value) -> Object {
    let mut o = Object(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": {"serviceAccountName": "a", "containers": [{"name": "c", "image": "i"}]}}),
    );
    merge(&mut o.0["spec"], change);
    Pod::set_defaults(&mut o);
    o
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => change.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v)),
        (into, change) => *into = change,
    }
}

fn problems(o: &Object) -> Vec<String> {
    let mut p = Problems::new();
    Pod::validate(o, &mut p);
    p.iter().map(ToString::to_string).collect()
}

fn warnings(o: &Object) -> Vec<String> {
    let mut w = Vec::new();
    Pod::warnings(o, None, &mut w);
    w
}

/// A pod whose one volume has this source.
fn volume(source: Value) -> Object {
    let mut v = json!({"name": "v"});
    merge(&mut v, source);
    pod(json!({"volumes": [v]}))
}

#[track_caller]
fn check(o: &Object, want: &[&str]) {
    assert_eq!(problems(o), want, "{}", o.0["spec"]);
}

#[test]
fn old_volume_sources_are_checked_still() {
    check(
        &volume(json!({"flexVolume": {"driver": "d", "options": {"a.k8s.io/x": "y"}}})),
        &["spec.volumes[0].flexVolume.options[a.k8s.io/x]: Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved"],
    );
    check(
        &volume(json!({"gcePersistentDisk": {"pdName": "d", "partition": 256}})),
        &["spec.volumes[0].persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive"],
    );
    check(&volume(json!({"iscsi": {"targetPortal": "t", "iqn": "iqn.2001-04.com.example:disk", "lun": 0}})), &[]);
    check(
        &volume(json!({"iscsi": {"targetPortal": "t", "iqn": "iqn.2001-4.com.example", "lun": 0}})),
        &["spec.volumes[0].iscsi.iqn: Invalid value: \"iqn.2001-4.com.example\": must be valid format"],
    );
    check(&volume(json!({"fc": {"targetWWNs": ["a"], "lun": 300}})), &["spec.volumes[0].fc.lun: Invalid value: 300: must be between 0 and 255, inclusive"]);
    check(&volume(json!({"gitRepo": {"repository": "r", "directory": "../x"}})), &["spec.volumes[0].gitRepo.directory: Invalid value: \"../x\": must not contain '..'"]);
    check(
        &volume(json!({"quobyte": {"registry": "host", "volume": "v"}})),
        &["spec.volumes[0].quobyte.registry: Invalid value: \"host\": must be a host:port pair or multiple pairs separated by commas"],
    );
    check(&volume(json!({"storageos": {}})), &["spec.volumes[0].storageos.volumeName: Required value"]);
}

#[test]
fn a_volume_has_one_source_and_a_projection_too() {
    check(&volume(json!({"emptyDir": {}, "cephfs": {}})), &["spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type"]);
    let two = json!({"projected": {"sources": [{"secret": {"name": "s"}, "configMap": {"name": "c"}}]}});
    check(&volume(two), &["spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source"]);
}

#[test]
fn files_of_a_projected_volume_do_not_share_a_path() {
    let item = json!({"path": "f", "fieldRef": {"fieldPath": "metadata.name"}});
    let named = json!({"name": "s", "items": [{"key": "k", "path": "f"}]});
    let o = volume(json!({"projected": {"sources": [{"downwardAPI": {"items": [item, item]}}, {"secret": named}]}}));
    check(&o, &["spec.volumes[0].projected: Invalid value: \"f\": conflicting duplicate paths", "spec.volumes[0].projected: Invalid value: \"s\": conflicting duplicate paths"]);
    assert_eq!(
        warnings(&o),
        [
            "volume \"v\" (Projected): overlapping paths: \"f\" (DownwardAPI) with \"f\" (DownwardAPI)",
            "volume \"v\" (Projected): overlapping paths: \"f\" (Secret \"s\") with \"f\" (DownwardAPI)",
            "volume \"v\" (Projected): overlapping paths: \"f\" (Secret \"s\") with \"f\" (DownwardAPI)",
        ]
    );
}

#[test]
fn a_local_volume_says_which_nodes_have_it() {
    let o = Object(json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/mnt"}}}));
    let mut p = Problems::new();
    PersistentVolume::validate(&o, &mut p);
    assert_eq!(p.aggregate(), "spec.nodeAffinity: Required value: Local volume requires node affinity");
}

#[test]
fn label_values_of_a_mere_preference_only_warn() {
    let term = |value: &str| json!({"matchExpressions": [{"key": "k", "operator": "In", "values": [value]}]});
    let o = pod(json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term("a b")}]}}}));
    check(&o, &[]);
    let at = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values[0]";
    assert!(warnings(&o)[0].starts_with(&format!("{at}: a b is invalid, a valid label must be")), "{:?}", warnings(&o));
    let o = pod(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term("a b")]}}}}));
    assert_eq!(problems(&o).len(), 1);
}

#[test]
fn of_two_equal_spread_constraints_the_first_is_named() {
    let one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}});
    check(
        &pod(json!({"topologySpreadConstraints": [one, one]})),
        &["spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\""],
    );
}

#[test]
fn an_affinity_without_selector_matches_no_pod_and_says_so() {
    let o = pod(json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z"}]}}}));
    assert_eq!(warnings(&o), ["spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod"]);
}

#[test]
fn ports_that_collide_are_told_of() {
    let container = |name: &str, port: Value| json!({"name": name, "image": "i", "ports": [port]});
    let o =
        pod(json!({"containers": [container("a", json!({"name": "http", "containerPort": 80})), container("b", json!({"name": "http", "containerPort": 80, "hostPort": 80}))]}));
    assert_eq!(
        warnings(&o),
        [
            "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[1].ports[0]: duplicate port name \"http\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
        ]
    );
}

#[test]
fn a_container_names_the_claims_it_uses() {
    let o = pod(
        json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "x"}], "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}, {"name": "gpu", "request": "r"}, {"name": "fpga"}]}}]}),
    );
    check(
        &o,
        &[
            "spec.containers[0].resources.claims[1]: Duplicate value: \"gpu\"",
            "spec.containers[0].resources.claims[2]: Not found: \"fpga\": must be one of the names in pod.spec.resourceClaims: gpu",
        ],
    );
}

#[test]
fn huge_pages_come_whole_and_not_alone() {
    let o = pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"hugepages-2Mi": "3Mi"}}}]}));
    let found = problems(&o);
    assert!(
        found.contains(&"spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi".into()),
        "{found:?}"
    );
    assert!(found.contains(&"spec.containers[0].resources: Forbidden: HugePages require cpu or memory".into()), "{found:?}");
}

#[test]
fn sysctls_of_a_namespace_need_that_namespace() {
    let o = pod(json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]}}));
    check(&o, &["spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.ip_forward\": may not be specified when 'hostNetwork' is true"]);
}

#[test]
fn the_operating_system_is_one_that_is_known() {
    check(&pod(json!({"os": {"name": "plan9"}})), &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""]);
    check(&pod(json!({"os": {"name": "windows"}, "hostIPC": true})), &["spec.hostIPC: Forbidden: cannot be set for a windows pod"]);
}

#[test]
fn restart_rules_need_a_policy_and_an_action() {
    let o = pod(json!({"containers": [{"name": "c", "image": "i", "restartPolicyRules": [{"exitCodes": {"operator": "In", "values": [1]}}]}]}));
    check(
        &o,
        &[
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"\": supported values: \"Restart\", \"RestartAllContainers\"",
        ],
    );
}

#[test]
fn a_gated_pod_may_be_narrowed_and_not_widened() {
    let mut old = pod(json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}}));
    old.0["metadata"]["resourceVersion"] = "1".into();
    let update = |selector: Value| {
        let mut new = old.clone();
        new.0["spec"]["nodeSelector"] = selector;
        let mut p = Problems::new();
        Pod::validate_update(&new, &old, &mut p);
        p.iter().map(|p| p.detail.clone()).collect::<Vec<_>>()
    };
    assert!(update(json!({"a": "b", "c": "d"})).is_empty());
    assert_eq!(update(json!({"a": "x"})), ["only additions to spec.nodeSelector are allowed (no mutations or deletions)"]);
}

#[test]
fn a_hostname_given_outright_stands_alone_and_is_a_name() {
    let alone = pod(json!({"hostnameOverride": "a.b"}));
    check(&alone, &[]);
    let o = pod(json!({"hostnameOverride": "x".repeat(65), "setHostnameAsFQDN": true, "hostNetwork": true}));
    check(
        &o,
        &[
            "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
            "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
            "spec.hostnameOverride: Too long: may not be more than 64 bytes",
        ],
    );
}

#[test]
fn a_pod_with_its_own_users_is_told_in_the_words_of_go() {
    let o = pod(json!({"hostUsers": false, "hostPID": true}));
    check(&o, &["spec.HostPID: Forbidden: when `hostUsers` is false"]);
}

#[test]
fn an_init_container_that_ends_is_not_restarted_by_a_resize() {
    let init = json!({"name": "i", "image": "i", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]});
    check(
        &pod(json!({"initContainers": [init]})),
        &["spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to 'RestartContainer' for non-sidecar initContainers"],
    );
}

#[test]
fn an_iscsi_name_ends_in_a_name_of_its_own() {
    let with = |iqn: &str| volume(json!({"iscsi": {"targetPortal": "127.0.0.1:3260", "iqn": iqn, "lun": 0}}));
    check(&with("iqn.2001-04.com:disk"), &[]);
    for bad in ["iqn.2001-04.com.example", "iqn.2001-04.com:a,b"] {
        check(&with(bad), &[&format!("spec.volumes[0].iscsi.iqn: Invalid value: {bad:?}: must be valid format")]);
    }
}
