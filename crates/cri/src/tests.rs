//! Bytes made by hand, field by field, as any other implementation of the service would send them.

use crate::*;
use prost::Message;

/// A field's number and wire type (0 varint, 2 length), each below 16 of the first byte or in two.
fn key(number: u32, wire_type: u8) -> Vec<u8> {
    varint(u64::from(number << 3 | u32::from(wire_type)))
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u32, value: u64) -> Vec<u8> {
    [key(field, 0), varint(value)].concat()
}

fn text(field: u32, value: &str) -> Vec<u8> {
    nested(field, &[value.as_bytes().to_vec()])
}

fn nested(field: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    let bytes = parts.concat();
    [key(field, 2), varint(bytes.len() as u64), bytes].concat()
}

fn entry(field: u32, name: &str, value: &str) -> Vec<u8> {
    nested(field, &[text(1, name), text(2, value)])
}

#[test]
fn a_sandbox_is_read_with_all_that_surrounds_it() {
    let options = nested(1, &[number(2, 1), nested(5, &[nested(2, &[number(1, 65536), number(3, 65536)])])]);
    let security = nested(2, &[options, number(6, 1), number(11, 1)]);
    let linux = nested(8, &[text(1, "/kubepods/pod1"), security, entry(3, "kernel.shm_rmid_forced", "1")]);
    let port = nested(5, &[number(1, 1), number(2, 53), number(3, 5353)]);
    let windows = nested(9, &[text(1, "skipped")]);
    let config = nested(1, &[nested(1, &[text(1, "web"), text(2, "uid-1"), text(3, "default"), number(4, 2)]), text(2, "host"), entry(6, "app", "x"), port, linux, windows]);
    let request = RunPodSandboxRequest::decode([config, text(2, "keles")].concat().as_slice()).expect("decodes");
    let config = request.config.expect("there");
    assert_eq!(config.metadata.as_ref().map(|m| (m.name.as_str(), m.uid.as_str(), m.namespace.as_str(), m.attempt)), Some(("web", "uid-1", "default", 2)));
    assert_eq!((config.hostname.as_str(), config.labels["app"].as_str(), request.runtime_handler.as_str()), ("host", "x", "keles"));
    assert_eq!((config.port_mappings[0].protocol(), config.port_mappings[0].container_port, config.port_mappings[0].host_port), (Protocol::Udp, 53, 5353));
    let linux = config.linux.expect("there");
    assert_eq!(linux.sysctls["kernel.shm_rmid_forced"], "1");
    let security = linux.security_context.expect("there");
    assert_eq!((security.privileged, security.supplemental_groups_policy()), (true, SupplementalGroupsPolicy::Strict));
    let options = security.namespace_options.expect("there");
    assert_eq!((options.network(), options.pid(), options.ipc()), (NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod));
    assert_eq!(options.userns_options.expect("there").uids, [IdMapping { host_id: 65536, container_id: 0, length: 65536 }]);
}

#[test]
fn fields_with_high_numbers_and_negative_figures_are_read() {
    let image = nested(2, &[text(1, "sha256:1"), text(18, "hello:1"), text(20, "hello@sha256:2")]);
    let resources = nested(1, &[number(5, (-997i64) as u64), nested(8, &[text(1, "2MB"), number(2, 4096)]), number(10, 99)]);
    let config = ContainerConfig::decode([image, nested(15, &[resources]), nested(17, &[text(1, "v.com/c=1")]), number(18, 36)].concat().as_slice()).expect("decodes");
    let image = config.image.clone().expect("there");
    assert_eq!((image.user_specified_image.as_str(), image.image_ref.as_str()), ("hello:1", "hello@sha256:2"));
    let resources = config.linux.clone().and_then(|linux| linux.resources).expect("there");
    assert_eq!((resources.oom_score_adj, resources.memory_swap_limit_in_bytes), (-997, 99));
    assert_eq!((resources.hugepage_limits[0].page_size.as_str(), resources.hugepage_limits[0].limit), ("2MB", 4096));
    assert_eq!((config.cdi_devices[0].name.as_str(), config.stop_signal()), ("v.com/c=1", Signal::SigrtminPlus1));
}

#[test]
fn a_status_is_written_as_others_read_it() {
    let status = ContainerStatus { id: "c".into(), state: ContainerState::Exited as i32, exit_code: 137, image_id: "i".into(), ..ContainerStatus::default() };
    let written = ContainerStatusResponse { status: Some(status), info: [("pid".to_owned(), "1".to_owned())].into() }.encode_to_vec();
    let by_hand = [nested(1, &[text(1, "c"), number(3, 2), number(7, 137), text(17, "i")]), entry(2, "pid", "1")].concat();
    assert_eq!(written, by_hand);
}

#[test]
fn a_figure_of_nothing_is_not_an_absent_one() {
    let usage = CpuUsage { timestamp: 7, usage_core_nano_seconds: Some(UInt64Value { value: 0 }), ..CpuUsage::default() };
    assert_eq!(usage.encode_to_vec(), [number(1, 7), nested(2, &[])].concat());
    let pressure = PsiData::decode([number(1, 5), [key(2, 1), 1.5f64.to_le_bytes().to_vec()].concat()].concat().as_slice()).expect("decodes");
    assert_eq!((pressure.total, pressure.avg10), (5, 1.5));
}

#[test]
fn credentials_do_not_show_in_logs() {
    let auth = AuthConfig {
        username: "u".into(),
        password: "secret1".into(),
        auth: "secret2".into(),
        identity_token: "secret3".into(),
        registry_token: "secret4".into(),
        ..AuthConfig::default()
    };
    let shown = format!("{:?}", PullImageRequest { auth: Some(auth), ..PullImageRequest::default() });
    assert!(shown.contains("username") && !shown.contains("secret"), "{shown}");
}
