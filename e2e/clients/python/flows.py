"""The common flows of the Python client against a cluster: one function a flow, each in a namespace of its own.

Usage: flows.py KUBECONFIG. Prints a line a flow; ends with 1 when one failed. Nothing here sleeps: flows wait on watches."""

import base64
import datetime
import json
import sys
import threading
import traceback

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import portforward, stream

IMAGE = "e2e/web:v1"
WITHIN_SECONDS = 60


def pod(name, **spec):
    container = client.V1Container(name="c", image=IMAGE, **spec)
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels={"app": name}),
        spec=client.V1PodSpec(termination_grace_period_seconds=1, restart_policy="Never", containers=[container]),
    )


def wait_for(list_call, ns, name, holds, **kwargs):
    """The object once `holds`, by watching it from a list."""
    w = watch.Watch()
    for event in w.stream(list_call, ns, field_selector=f"metadata.name={name}", timeout_seconds=WITHIN_SECONDS, **kwargs):
        if holds(event["object"]):
            w.stop()
            return event["object"]
    raise AssertionError(f"{name}: not within {WITHIN_SECONDS} s")


def running(ns, name):
    def ready(p):
        return any(c.type == "Ready" and c.status == "True" for c in p.status.conditions or [])

    return wait_for(client.CoreV1Api().list_namespaced_pod, ns, name, ready)


def refused(status, call, *args, **kwargs):
    """The Status of a call that must fail with this code."""
    try:
        call(*args, **kwargs)
    except ApiException as e:
        assert e.status == status, (e.status, e.body)
        return client.ApiClient()._ApiClient__deserialize(json.loads(e.body), "V1Status")
    raise AssertionError(f"{call.__name__} was not refused with {status}")


def crud(ns):
    """Create, read, replace, three patches, conflict, delete."""
    v1 = client.CoreV1Api()
    made = v1.create_namespaced_config_map(ns, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data={"k": "1"}))
    assert made.metadata.uid and isinstance(made.metadata.creation_timestamp, datetime.datetime)
    assert refused(409, v1.create_namespaced_config_map, ns, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a"))).reason == "AlreadyExists"
    read = v1.read_namespaced_config_map("a", ns)
    read.data["k"] = "2"
    replaced = v1.replace_namespaced_config_map("a", ns, read)
    assert replaced.data == {"k": "2"} and replaced.metadata.resource_version != made.metadata.resource_version
    assert refused(409, v1.replace_namespaced_config_map, "a", ns, read).reason == "Conflict"
    assert v1.patch_namespaced_config_map("a", ns, {"data": {"m": "3"}}).data == {"k": "2", "m": "3"}
    assert v1.patch_namespaced_config_map("a", ns, [{"op": "remove", "path": "/data/m"}]).data == {"k": "2"}
    assert v1.list_namespaced_config_map(ns, label_selector="x=y").items[0].metadata.name == "a"
    assert v1.delete_namespaced_config_map("a", ns)["status"] == "Success"
    gone = refused(404, v1.read_namespaced_config_map, "a", ns)
    assert (gone.reason, gone.message, gone.details.kind) == ("NotFound", 'configmaps "a" not found', "configmaps")
    dry = v1.create_namespaced_config_map(ns, client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="d-")), dry_run="All")
    assert dry.metadata.name.startswith("d-")
    refused(404, v1.read_namespaced_config_map, dry.metadata.name, ns)


def every_list(ns):
    """Every list call of the client that takes no argument decodes into its model."""
    count = 0
    for group in [getattr(client, n) for n in dir(client) if n.endswith("Api") and n[-4].isdigit()]:
        api = group()
        for name in dir(api):
            if not name.startswith("list_") or name.endswith("_with_http_info") or "namespaced" in name or "component_status" in name:
                continue
            if (group, name) == (client.EventsV1Api, "list_event_for_all_namespaces"):
                continue  # The model wants an eventTime, which events of core/v1 do not have, upstream's neither.
            if (group, name) == (client.StorageV1Api, "list_csi_node"):
                continue  # The model wants drivers; a node without any has null there, upstream's too.
            try:
                listed = getattr(api, name)()
            except ApiException as e:
                # The client knows versions that no server serves by default.
                assert e.status == 404, (group.__name__, name, e.status, e.body)
                continue
            assert listed.metadata.resource_version, (group.__name__, name)
            count += 1
    assert count > 55, count


def pages(ns):
    """A list in pages is the list, all of one revision."""
    v1 = client.CoreV1Api()
    for i in range(7):
        v1.create_namespaced_config_map(ns, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"p{i}", labels={"p": "x"})))
    seen, revisions, token = [], set(), None
    while token != "":
        page = v1.list_namespaced_config_map(ns, limit=3, _continue=token, label_selector="p")
        seen += [c.metadata.name for c in page.items]
        revisions.add(page.metadata.resource_version)
        token = page.metadata._continue or ""
        v1.create_namespaced_config_map(ns, client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="between-", labels={"p": "x"})))
    assert seen == [f"p{i}" for i in range(7)] and len(revisions) == 1, (seen, revisions)


def watches(ns):
    """A watch sees what happens, resumes where it was, and says when that is too long ago."""
    v1 = client.CoreV1Api()
    start = v1.list_namespaced_config_map(ns).metadata.resource_version
    v1.create_namespaced_config_map(ns, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="w")))
    v1.patch_namespaced_config_map("w", ns, {"data": {"a": "b"}})
    v1.delete_namespaced_config_map("w", ns)
    seen, w = [], watch.Watch()
    for event in w.stream(v1.list_namespaced_config_map, ns, resource_version=start, timeout_seconds=WITHIN_SECONDS):
        if event["object"].metadata.name == "w":
            seen.append((event["type"], event["object"].metadata.resource_version))
        if event["type"] == "DELETED":
            w.stop()
    assert [t for t, _ in seen] == ["ADDED", "MODIFIED", "DELETED"], seen
    w, again = watch.Watch(), []
    for event in w.stream(v1.list_namespaced_config_map, ns, resource_version=seen[0][1], timeout_seconds=WITHIN_SECONDS):
        again.append(event["type"])
        if len(again) == 2:
            w.stop()
    assert again == ["MODIFIED", "DELETED"], again


def workload(ns):
    """A Deployment in typed models: rolls out, scales by its subresource, is evicted from, goes."""
    apps, v1 = client.AppsV1Api(), client.CoreV1Api()
    template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": "d"}), spec=pod("x").spec)
    template.spec.restart_policy = "Always"
    spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels={"app": "d"}), template=template)
    apps.create_namespaced_deployment(ns, client.V1Deployment(metadata=client.V1ObjectMeta(name="d"), spec=spec))
    available = wait_for(apps.list_namespaced_deployment, ns, "d", lambda d: d.status.available_replicas == 1)
    assert available.spec.strategy.rolling_update.max_surge == "25%" and available.status.observed_generation == 1
    scale = apps.read_namespaced_deployment_scale("d", ns)
    assert (scale.spec.replicas, scale.status.selector) == (1, "app=d")
    apps.patch_namespaced_deployment_scale("d", ns, {"spec": {"replicas": 2}})
    wait_for(apps.list_namespaced_deployment, ns, "d", lambda d: d.status.ready_replicas == 2)
    one = v1.list_namespaced_pod(ns, label_selector="app=d").items[0].metadata
    v1.create_namespaced_pod_eviction(one.name, ns, client.V1Eviction(metadata=client.V1ObjectMeta(name=one.name)))
    wait_for(v1.list_namespaced_pod, ns, one.name, lambda p: p.metadata.deletion_timestamp is not None, resource_version=one.resource_version)
    apps.delete_namespaced_deployment("d", ns, propagation_policy="Foreground")
    wait_for_gone(v1.list_namespaced_pod, ns, label_selector="app=d")


def wait_for_gone(list_call, ns, **kwargs):
    listed = list_call(ns, **kwargs)
    left, w = {i.metadata.name for i in listed.items}, watch.Watch()
    if not left:
        return
    for event in w.stream(list_call, ns, resource_version=listed.metadata.resource_version, timeout_seconds=WITHIN_SECONDS, **kwargs):
        if event["type"] == "DELETED":
            left.discard(event["object"].metadata.name)
        if not left:
            w.stop()
            return
    raise AssertionError(f"still there: {left}")


def inside(ns):
    """exec, exit codes, input, attach, port-forward, logs that are followed."""
    v1 = client.CoreV1Api()
    v1.create_namespaced_pod(ns, pod("web"))
    running(ns, "web")

    def run(*command, **kwargs):
        call = client.CoreV1Api(client.ApiClient())  # stream() changes the client it is given
        return stream(call.connect_get_namespaced_pod_exec, "web", ns, command=list(command), stderr=True, stdout=True, **{"stdin": False, "tty": False, **kwargs})

    assert run("hostname") == "web\n"
    session = run("sh", "-c", "read x; echo got $x; echo bad >&2; exit 3", stdin=True, _preload_content=False)
    session.write_stdin("words\n")
    session.run_forever(timeout=WITHIN_SECONDS)
    assert (session.read_stdout(), session.read_stderr(), session.returncode) == ("got words\n", "bad\n", 3)
    assert len(run("sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x")) == 300000
    forward = portforward(client.CoreV1Api(client.ApiClient()).connect_get_namespaced_pod_portforward, "web", ns, ports="8000")
    sock = forward.socket(8000)
    sock.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = b""
    while chunk := sock.recv(4096):
        answer += chunk
    assert answer.endswith(b"v1 web\n"), answer
    lines = watch.Watch().stream(v1.read_namespaced_pod_log, "web", ns)
    assert next(lines) == "serving v1"
    # A line is in the log some time after its answer was read.
    assert any("response:200" in line for line in lines)
    lines.close()
    assert v1.read_namespaced_pod_log("web", ns, tail_lines=1, timestamps=True).count("response:200") == 1
    v1.create_namespaced_pod(ns, pod("cat", stdin=True, stdin_once=True, command=["sh", "-c", "read x; echo got $x"]))
    running(ns, "cat")
    attached = stream(client.CoreV1Api(client.ApiClient()).connect_get_namespaced_pod_attach, "cat", ns, stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
    attached.write_stdin("this\n")
    attached.run_forever(timeout=WITHIN_SECONDS)
    assert "got this" in attached.read_stdout()
    wait_for(v1.list_namespaced_pod, ns, "cat", lambda p: p.status.phase == "Succeeded")


def debugging(ns):
    """Ephemeral containers by their subresource."""
    v1 = client.CoreV1Api()
    v1.create_namespaced_pod(ns, pod("d"))
    running(ns, "d")
    container = {"name": "e", "image": IMAGE, "command": ["sleep", "1000"]}
    patched = v1.patch_namespaced_pod_ephemeralcontainers("d", ns, {"spec": {"ephemeralContainers": [container]}})
    assert patched.spec.ephemeral_containers[0].name == "e"
    wait_for(v1.list_namespaced_pod, ns, "d", lambda p: any(s.state.running for s in p.status.ephemeral_container_statuses or []))


def custom(ns):
    """A definition, its objects by the custom objects API and by the dynamic client, apply, status, scale."""
    group = f"{ns}.keles.dev"
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer", "minimum": 1}}},
            "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
        },
    }
    version = {
        "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"widgets.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"}, "versions": [version]},
    }
    definitions, objects = client.ApiextensionsV1Api(), client.CustomObjectsApi()
    definitions.create_custom_resource_definition(definition)
    w = watch.Watch()
    for event in w.stream(definitions.list_custom_resource_definition, field_selector=f"metadata.name=widgets.{group}", timeout_seconds=WITHIN_SECONDS):
        if any(c.type == "Established" and c.status == "True" for c in event["object"].status.conditions or []):
            w.stop()
    try:
        widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 2}}
        made = objects.create_namespaced_custom_object(group, "v1", ns, "widgets", widget)
        assert made["metadata"]["generation"] == 1
        bad = refused(422, objects.patch_namespaced_custom_object, group, "v1", ns, "widgets", "w", {"spec": {"size": 0}})
        assert bad.details.causes[0].field == "spec.size", bad
        assert objects.patch_namespaced_custom_object_status(group, "v1", ns, "widgets", "w", {"status": {"size": 1}})["status"] == {"size": 1}
        assert objects.get_namespaced_custom_object_scale(group, "v1", ns, "widgets", "w")["spec"]["replicas"] == 2
        widgets = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version=f"{group}/v1", kind="Widget")
        assert widgets.get(name="w", namespace=ns).spec.size == 2
        applied = {**widget, "spec": {"size": 5}}
        try:
            widgets.server_side_apply(body=applied, namespace=ns, name="w", field_manager="other")
            raise AssertionError("a conflict was not told")
        except ConflictError as e:
            assert "OpenAPI-Generator" in str(e.body) and "FieldManagerConflict" in str(e.body), e.body
        assert widgets.server_side_apply(body=applied, namespace=ns, name="w", field_manager="other", force_conflicts=True).spec.size == 5
        widgets.delete(name="w", namespace=ns)
        try:
            widgets.get(name="w", namespace=ns)
            raise AssertionError("deleted and still there")
        except NotFoundError:
            pass
    finally:
        definitions.delete_custom_resource_definition(f"widgets.{group}")


def discovery(ns):
    """The dynamic client finds every kind by what the server says of itself."""
    found = dynamic.DynamicClient(client.ApiClient()).resources
    for version, kind in [("v1", "Pod"), ("apps/v1", "Deployment"), ("rbac.authorization.k8s.io/v1", "Role"), ("autoscaling/v2", "HorizontalPodAutoscaler")]:
        assert found.get(api_version=version, kind=kind).kind == kind
    assert client.VersionApi().get_code().minor == "36"


def tokens(ns):
    """A ServiceAccount's token is asked for, reviewed and used; what it may not do is refused."""
    v1, rbac = client.CoreV1Api(), client.RbacAuthorizationV1Api()
    v1.create_namespaced_service_account(ns, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="sa")))
    rbac.create_namespaced_role(ns, client.V1Role(metadata=client.V1ObjectMeta(name="r"), rules=[client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["list"])]))
    rbac.create_namespaced_role_binding(ns, client.V1RoleBinding(
        metadata=client.V1ObjectMeta(name="r"), role_ref=client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="r"),
        subjects=[client.RbacV1Subject(kind="ServiceAccount", name="sa", namespace=ns)]))
    asked = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    token = v1.create_namespaced_service_account_token("sa", ns, asked).status.token
    reviewed = client.AuthenticationV1Api().create_token_review(client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token)))
    assert reviewed.status.user.username == f"system:serviceaccount:{ns}:sa"
    own = client.Configuration.get_default_copy()
    own.cert_file = own.key_file = None
    own.api_key = {"authorization": f"Bearer {token}"}
    theirs = client.CoreV1Api(client.ApiClient(own))
    assert theirs.list_namespaced_pod(ns).items == []
    assert "cannot list resource" in refused(403, theirs.list_namespaced_secret, ns).message
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(verb="list", resource="pods", namespace=ns)))
    assert client.AuthorizationV1Api(client.ApiClient(own)).create_self_subject_access_review(review).status.allowed


def secrets(ns):
    """Bytes survive, stringData is taken in, what is immutable stays."""
    v1 = client.CoreV1Api()
    data = bytes(range(256))
    v1.create_namespaced_secret(ns, client.V1Secret(metadata=client.V1ObjectMeta(name="s"), data={"b": base64.b64encode(data).decode()}, string_data={"t": "é"}, immutable=True))
    read = v1.read_namespaced_secret("s", ns)
    assert base64.b64decode(read.data["b"]) == data and base64.b64decode(read.data["t"]).decode() == "é"
    invalid = refused(422, v1.patch_namespaced_secret, "s", ns, {"stringData": {"t": "x"}})
    assert "field is immutable when `immutable` is set" in invalid.message, invalid.message


def leaders(ns):
    """Two candidates, one leader."""
    led, lost = threading.Event(), []

    def candidate(name):
        lock = ConfigMapLock("lock", ns, name)
        config_ = electionconfig.Config(lock, lease_duration=3, renew_deadline=2, retry_period=1, onstarted_leading=led.set, onstopped_leading=lambda: lost.append(name))
        return leaderelection.LeaderElection(config_)

    threading.Thread(target=candidate("one").run, daemon=True).start()
    assert led.wait(WITHIN_SECONDS)
    record = client.CoreV1Api().read_namespaced_config_map("lock", ns).metadata.annotations["control-plane.alpha.kubernetes.io/leader"]
    assert '"holderIdentity": "one"' in record, record
    assert candidate("two").try_acquire_or_renew() is False


def utils(ns):
    """create_from_yaml, the client's own apply of files."""
    from kubernetes import utils as own
    objects = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}},
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": {"podSelector": {}}},
    ]
    own.create_from_yaml(client.ApiClient(), yaml_objects=objects, namespace=ns)
    service = client.CoreV1Api().read_namespaced_service("s", ns)
    assert service.spec.cluster_ip.startswith("10.") and service.spec.ports[0].target_port == 80
    assert client.BatchV1Api().read_namespaced_cron_job("c", ns).spec.concurrency_policy == "Allow"


FLOWS = [crud, every_list, pages, watches, workload, inside, debugging, custom, discovery, tokens, secrets, leaders, utils]


def main(kubeconfig):
    config.load_kube_config(kubeconfig)
    failed, lock = [], threading.Lock()

    def run(flow):
        ns = f"py-{flow.__name__.replace('_', '-')}"
        try:
            v1 = client.CoreV1Api()
            v1.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=ns)))
            wait_for(v1.list_namespaced_service_account, ns, "default", lambda _: True)
            flow(ns)
            said = f"ok {flow.__name__}"
        except BaseException:
            said = f"FAILED {flow.__name__}: {flow.__doc__}\n{traceback.format_exc()}"
            failed.append(flow)
        with lock:
            print(said, flush=True)

    threads = [threading.Thread(target=run, args=(flow,), daemon=True) for flow in FLOWS]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
