//! `keles-bench PATH-TO-keles [start|api|content|instructions|watch|pods|density|crds|oci|unpack]…`: each benchmark prints one line of figures.
//!
//! The server runs as its own process; its CPU time and memory are what the kernel accounts to it, so the client's own work
//! is not in the figures. `start`, `pods`, `density`, `oci` and `unpack` need root. Nothing here is a test: there is no limit that fails.

mod api;
mod content;
mod crds;
mod density;
mod instructions;
mod oci;
mod pods;
mod process;
mod start;
mod unpack;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// One benchmark: its name and its line of figures.
type Bench = (&'static str, fn(PathBuf) -> futures::future::BoxFuture<'static, Result<String, Error>>);

const ALL: &[Bench] = &[
    ("start", |k| Box::pin(start::run(k))),
    ("api", |k| Box::pin(api::run(k))),
    ("content", |k| Box::pin(content::run(k))),
    ("instructions", |k| Box::pin(instructions::run(k))),
    ("watch", |k| Box::pin(watch::run(k))),
    ("pods", |k| Box::pin(pods::run(k))),
    ("density", |k| Box::pin(density::run(k))),
    ("crds", |k| Box::pin(crds::run(k))),
    ("oci", |k| Box::pin(oci::run(k))),
    ("unpack", |k| Box::pin(unpack::run(k))),
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    // Absolute: some is run from other folders and namespaces.
    let Some(keles) = args.next().and_then(|a| std::path::absolute(a).ok()) else {
        eprintln!("usage: keles-bench PATH-TO-keles [start|api|content|instructions|watch|pods|density|crds|oci|unpack]...");
        return ExitCode::FAILURE;
    };
    let only: Vec<String> = args.collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a tokio runtime");
    let mut ok = true;
    for (name, bench) in ALL.iter().filter(|(n, _)| only.is_empty() || only.iter().any(|o| o == n)) {
        match runtime.block_on(bench(keles.clone())) {
            Ok(line) => println!("{name}: {line}"),
            Err(e) => {
                ok = false;
                println!("{name}: failed: {e}");
            }
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The `share`th part of sorted samples: 0.5 is the median.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    sorted[at - 1]
}
