//! Hooks: order, what they are told, what their failure and their time do.

use crate::world::World;
use serde_json::{Value, json};

fn hook(w: &World, point: &str) -> Value {
    let script = format!("cat > {0}/{point}.json; echo {point} >> {0}/order", w.dir.path().display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

/// Of the container's side: what they write lies in its root.
fn inner_hook(w: &World, point: &str, folder: &str) -> Value {
    let script = format!("cat > {folder}/{point}.json; echo {point} >> {folder}/order");
    let _ = w;
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

#[test]
fn hooks_run_in_order_with_the_state_on_their_standard_input() {
    let w = World::new();
    let outside = w.dir.path().display().to_string();
    w.shell("cat /shared/order > /dev/null; echo command >> /shared/order", |s| {
        s["mounts"].as_array_mut().unwrap().push(json!({"destination": "/shared", "type": "bind", "source": outside, "options": ["rbind", "rw"]}));
        s["hooks"] = json!({
            "poststop": hook(&w, "poststop"),
            "poststart": hook(&w, "poststart"),
            "startContainer": inner_hook(&w, "startContainer", "/shared"),
            "createContainer": hook(&w, "createContainer"),
            "createRuntime": hook(&w, "createRuntime"),
            "prestart": hook(&w, "prestart"),
        });
        s["process"]["args"][2] = json!("while [ ! -e /shared/go ]; do usleep 1000; done; echo command >> /shared/order");
    });
    let order = || std::fs::read_to_string(w.path("order")).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    w.begin(&["create"]).fine();
    assert_eq!(order(), ["prestart", "createRuntime", "createContainer"]);
    w.on("start").fine();
    assert_eq!(order()[3..], ["startContainer", "poststart"]);
    let pid = w.state()["pid"].clone();
    std::fs::write(w.path("go"), "").unwrap();
    w.wait_for("the end", || w.status() == "stopped");
    w.on("delete").fine();
    assert_eq!(order()[5..], ["command", "poststop"]);
    let told = |point: &str| -> Value { serde_json::from_str(&std::fs::read_to_string(w.path(&format!("{point}.json"))).unwrap()).unwrap() };
    for (point, status) in
        [("prestart", "creating"), ("createRuntime", "creating"), ("createContainer", "creating"), ("startContainer", "created"), ("poststart", "running"), ("poststop", "stopped")]
    {
        let state = told(point);
        assert_eq!((state["id"].as_str(), state["status"].as_str()), (Some(w.id.as_str()), Some(status)), "{point}");
    }
    assert_eq!((&told("createRuntime")["pid"], &told("poststart")["pid"]), (&pid, &pid));
}

#[test]
fn a_failed_hook_ends_the_container_and_tells_what_it_said() {
    for point in ["prestart", "createRuntime", "createContainer"] {
        let w = World::new();
        let stopped = w.path("stopped").display().to_string();
        w.shell("true", |s| {
            s["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", format!("touch {stopped}")]}]});
            s["hooks"][point] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]);
        });
        w.begin(&["create"]).refused("exit status 3: because");
        assert!(w.path("stopped").exists(), "poststop runs after a failed {point}");
        assert_eq!((w.call(&["list", "-q"]).fine(), w.groups().len()), (String::new(), 0));
    }
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    let w = World::new();
    w.shell("true", |s| s["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}));
    w.begin(&["create"]).refused("did not end within 1 s");
}

#[test]
fn a_failed_start_hook_fails_start() {
    let w = World::new();
    w.shell("true", |s| s["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]}));
    w.begin(&["create"]).fine();
    w.on("start").refused("startContainer");
}
