//! Instructions that the API server executes for one create and one apply of 5 KB, and for a create with all defaults given in JSON and protobuf, counted by callgrind.
//!
//! Seconds move with the neighbours of a machine, these do not: two builds can be compared days apart. User space alone is counted, so
//! fsync and the waking of threads are not in it. Needs Debian's valgrind (`make deps`).

use crate::Error;
use crate::api::{namespace_with_account, pod};
use crate::content::{JSON, PODS_PATH, PROTOBUF, ask, deployment, named, sample};
use crate::process::{Meter, Server};
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use std::path::PathBuf;
use std::process::Command;

const WARM_UP: usize = 10;
const ROUNDS: usize = 100;

fn valgrind(out: &str) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--instr-atstart=no", &format!("--callgrind-out-file={out}")]);
    command
}

/// Tells callgrind something, for the server under it.
fn control(s: &Server, what: &[&str]) -> Result<(), Error> {
    let done = Command::new("callgrind_control").args(what).arg(s.id().to_string()).output()?;
    if done.status.success() { Ok(()) } else { Err(format!("callgrind_control {}: {}", what.join(" "), String::from_utf8_lossy(&done.stderr)).into()) }
}

/// Instructions of one of [`ROUNDS`] calls, the first [`WARM_UP`] aside. The `n`th measurement of a server, from 1 on.
async fn count<F>(s: &Server, n: usize, call: impl Fn(usize) -> F) -> Result<f64, Error>
where
    F: Future<Output = Result<(), kube::Error>>,
{
    for i in 0..WARM_UP {
        call(i).await?;
    }
    control(s, &["--instr=on"])?;
    for i in WARM_UP..WARM_UP + ROUNDS {
        call(i).await?;
    }
    control(s, &["--instr=off"])?;
    control(s, &["--dump"])?;
    let dumped = std::fs::read_to_string(s.dir.path().join(format!("callgrind.{n}")))?;
    let total = dumped.lines().find_map(|l| l.strip_prefix("totals: ")).and_then(|t| t.trim().parse::<f64>().ok()).ok_or("callgrind wrote no totals")?;
    Ok(total / ROUNDS as f64)
}

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let dir = tempfile::Builder::new().prefix("keles-bench-").tempdir()?;
    let mut under = valgrind(&dir.path().join("callgrind").to_string_lossy());
    under.arg(&keles);
    let s = Server::under(under, dir).await.map_err(|e| format!("valgrind: {e}; make deps installs it"))?;
    namespace_with_account(&s).await?;
    Meter::settled(&s).await;
    let pods: Api<Pod> = Api::default_namespaced(s.client.clone());
    let deployments: Api<Deployment> = Api::default_namespaced(s.client.clone());
    let create = |i| {
        let pods = pods.clone();
        async move { pods.create(&PostParams::default(), &pod(&format!("p{i}"))).await.map(drop) }
    };
    let apply = |i| {
        let deployments = deployments.clone();
        async move { deployments.patch("web", &PatchParams::apply("bench").force(), &Patch::Apply(deployment(i))).await.map(drop) }
    };
    let (create, apply) = (count(&s, 1, create).await?, count(&s, 2, apply).await?);
    let mut out = format!("create {:.3}, server-side apply {:.3}", create / 1e6, apply / 1e6);
    for (n, word, media) in [(3, "JSON", JSON), (4, "protobuf", PROTOBUF)] {
        let name = |i: usize| format!("{n}-{i:03}");
        let first = name(999);
        let sample = sample(&s, media, &first).await?;
        let create = |i| {
            let (s, body) = (&s, named(&sample, &first, &name(i)));
            async move { ask(s, Method::POST, PODS_PATH, media, body).await.map(drop) }
        };
        out += &format!(", create of all fields in {word} {:.3}", count(&s, n, create).await? / 1e6);
    }
    Ok(format!("{out} million instructions of the API server in user space (callgrind, {ROUNDS} of each)"))
}
