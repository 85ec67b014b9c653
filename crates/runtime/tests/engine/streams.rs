use crate::lifecycle::wait_for_log;
use crate::world::{LIMIT, World};
use keles_runtime::api::*;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

fn request(script: &str, tty: bool) -> ExecRequest {
    ExecRequest { args: vec!["/bin/sh".into(), "-c".into(), script.into()], tty, stdin: true, stdout: true, stderr: true }
}
async fn all(stream: Option<Box<dyn AsyncRead + Send + Unpin>>) -> String {
    let mut text = String::new();
    tokio::time::timeout(LIMIT, stream.unwrap().read_to_string(&mut text)).await.unwrap().unwrap();
    text
}
/// Reads until `word` was seen.
async fn until(stream: &mut (dyn AsyncRead + Send + Unpin), word: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains(word) {
            let mut part = [0; 1024];
            let n = stream.read(&mut part).await.unwrap();
            assert!(n > 0, "ended without {word:?}: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&part[..n]);
        }
    };
    tokio::time::timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("no {word:?}"));
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn exec_has_the_containers_view_streams_and_exit_code() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, ContainerConfig { env: vec![("A".into(), "b".into())], working_dir: "/tmp/new".into(), ..w.command(&["/bin/sleep", "1000"]) }).await;
    let out = w.exec(&id, "echo $A; pwd; hostname; readlink /proc/1/exe; echo err >&2; cat /proc/self/cgroup | grep -c ':/$'; exit 5").await;
    assert_eq!((String::from_utf8_lossy(&out.stdout).as_ref(), out.stderr.as_slice(), out.exit_code), ("b\n/tmp/new\np\n/bin/busybox\n", &b"err\n"[..], 5).clone_with(&out));
    let mut stream = w.engine.exec(&id, request("cat; exit 4", false)).await.unwrap();
    let mut stdin = stream.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    drop(stdin);
    assert_eq!(all(stream.stdout.take()).await, "typed\n");
    assert_eq!(stream.control.wait().await.unwrap(), 4);
    w.finish().await;
}

/// The number of cgroup lines depends on the host; everything before it does not.
trait CloneWith {
    fn clone_with(self, out: &ExecOutput) -> Self;
}
impl<'a> CloneWith for (&'a str, &'a [u8], i32) {
    fn clone_with(self, out: &ExecOutput) -> Self {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.starts_with(self.0), "{text}");
        (Box::leak(text.into_boxed_str()), self.1, self.2)
    }
}

#[tokio::test]
async fn exec_of_a_missing_command_is_127_and_a_timeout_kills() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    let Err(RuntimeError::Start { message, exit_code }) = w.engine.exec_sync(&id, vec!["nope".into()], LIMIT).await else { panic!() };
    assert_eq!(exit_code, 127);
    assert!(message.contains(r#"exec: "nope": executable file not found in $PATH"#), "{message}");
    let slow = w.engine.exec_sync(&id, vec!["/bin/sleep".into(), "1000".into()], Duration::from_millis(100)).await;
    assert!(matches!(slow, Err(RuntimeError::Timeout(_))));
    let left = w.exec(&id, "ps | grep -c '[s]leep 1000'").await;
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "1", "only the container's own sleep may be left");
    w.finish().await;
}

#[tokio::test]
async fn exec_with_a_terminal_resizes_and_ends() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    let mut stream = w.engine.exec(&id, request("test -t 0 && echo terminal; read x; stty size; echo $TERM; exit 6", true)).await.unwrap();
    assert!(stream.stderr.is_none());
    let mut out = stream.stdout.take().unwrap();
    until(&mut out, "terminal").await;
    stream.control.resize(100, 40).await.unwrap();
    stream.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let rest = all(Some(out)).await;
    assert!(rest.contains("40 100") && rest.contains("xterm"), "{rest}");
    assert_eq!(stream.control.wait().await.unwrap(), 6);
    w.finish().await;
}

#[tokio::test]
async fn attach_feeds_stdin_once_and_shows_output_that_is_logged_too() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let config = ContainerConfig { stdin: true, stdin_once: true, ..w.shell("echo ready; cat; echo bye >&2; exit 2") };
    let id = w.start(&sandbox, config).await;
    wait_for_log(&w, "ready").await;
    let mut stream = w.engine.attach(&id, request("", false)).await.unwrap();
    let mut stdin = stream.stdin.take().unwrap();
    let big = "x".repeat(300_000) + "\n";
    let (out, err) = (stream.stdout.take(), stream.stderr.take());
    let writer = async {
        stdin.write_all(big.as_bytes()).await.unwrap();
        drop(stdin);
    };
    let ((), out, err) = tokio::join!(writer, all(out), all(err));
    assert_eq!((out.len(), err.as_str()), (big.len(), "bye\n"));
    assert_eq!(stream.control.wait().await.unwrap(), 2);
    assert_eq!(w.log_text().replace("bye\n", ""), format!("ready\n{big}"));
    w.finish().await;
}

#[tokio::test]
async fn several_clients_see_the_output_and_one_that_leaves_does_not_stop_it() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let config = ContainerConfig { stdin: true, ..w.shell("echo ready; while read x; do echo got $x; done") };
    let id = w.start(&sandbox, config).await;
    let mut one = w.engine.attach(&id, request("", false)).await.unwrap();
    let mut two = w.engine.attach(&id, request("", false)).await.unwrap();
    one.stdin.as_mut().unwrap().write_all(b"1\n").await.unwrap();
    until(&mut one.stdout.as_mut().unwrap(), "got 1").await;
    until(&mut two.stdout.as_mut().unwrap(), "got 1").await;
    drop(one);
    two.stdin.as_mut().unwrap().write_all(b"2\n").await.unwrap();
    until(&mut two.stdout.as_mut().unwrap(), "got 2").await;
    w.finish().await;
}

#[tokio::test]
async fn a_containers_terminal_is_logged_and_attachable() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let config = ContainerConfig { tty: true, stdin: true, ..w.shell("test -t 1 && test -c /dev/console && echo terminal; read x; stty size; exit 9") };
    let id = w.start(&sandbox, config).await;
    wait_for_log(&w, "terminal").await;
    let mut stream = w.engine.attach(&id, request("", false)).await.unwrap();
    stream.control.resize(90, 30).await.unwrap();
    stream.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    until(&mut stream.stdout.as_mut().unwrap(), "30 90").await;
    assert_eq!(stream.control.wait().await.unwrap(), 9);
    w.finish().await;
}

#[tokio::test]
async fn a_container_without_stdin_reads_the_end_at_once() {
    let w = World::new().await;
    assert_eq!(w.output(w.shell("cat; echo end")).await, "end\n");
    w.finish().await;
}

#[tokio::test]
async fn port_forward_reaches_the_pods_loopback_not_the_hosts() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let netns = w.engine.list_sandboxes().await.unwrap()[0].netns.clone().unwrap();
    let listener = keles_linux::netlink::in_netns(&netns, || std::net::TcpListener::bind("127.0.0.1:8080")).unwrap().unwrap();
    let server = std::thread::spawn(move || {
        use std::io::Write;
        listener.accept().unwrap().0.write_all(b"from the pod").unwrap();
    });
    let mut stream = w.engine.port_forward(&sandbox, 8080).await.unwrap().io;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "from the pod");
    server.join().unwrap();
    assert!(w.engine.port_forward(&sandbox, 8081).await.is_err());
    w.finish().await;
}
