//! `keles`: argv to role to services, nothing else.
//!
//! The shim and OCI roles are taken before anything else runs: they must stay small and single-threaded, so they see neither the
//! allocator's threads nor tokio.

mod addons;
mod config_file;
mod controller_accounts;
mod credentials;
mod cri;
mod datastore_flags;
mod flags;
mod image_flags;
mod images;
mod kubelet_configuration;
mod leading;
mod lifecycle_flags;
mod node;
mod node_certificates;
mod node_flags;
mod observe_flags;
mod oci;
mod part_http;
mod parts;
mod security_flags;
mod server;
mod users;

use clap::{CommandFactory, FromArgMatches};
use flags::{Cli, Role};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "shim") {
        keles_runtime::shim_main(args.into_iter().skip(2));
    }
    if let Some(args) = oci::arguments(&args) {
        keles_runtime::oci_main(args);
    }
    // The allocator asks for huge pages, and an idle server fills a small part of each: they cost it 30 MiB. Containers get them back
    // (`shim_main`). A kernel without the call never gives any.
    let _ = keles_linux::process::allow_huge_pages(false);
    let args = match config_file::expand(args) {
        Ok(args) => args,
        Err(e) => return fail(&e),
    };
    let command = Cli::command();
    let matches = command.clone().get_matches_from(args);
    observe_flags::remember(&command, &matches);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match cli.logs.options() {
        Ok(options) => keles_observe::init_logs(options),
        Err(why) => {
            eprintln!("keles: {why}");
            return ExitCode::FAILURE;
        }
    }
    match run(cli.role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&*e),
    }
}

/// One line a cause, the outermost first.
fn fail(e: &dyn std::error::Error) -> ExitCode {
    eprintln!("keles: {e}");
    let mut cause = e.source();
    while let Some(c) = cause {
        eprintln!("  because {c}");
        cause = c.source();
    }
    ExitCode::FAILURE
}

fn run(role: Role) -> Result<(), keles_supervise::BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("keles").build()?;
    let result = runtime.block_on(async {
        match role {
            Role::Server(f) => server::run(f).await,
            Role::Apiserver(f) => parts::apiserver(f).await,
            Role::Scheduler(f) => parts::scheduler(*f).await,
            Role::ControllerManager(f) => parts::controller_manager(*f).await,
            Role::Kubelet(f) => parts::kubelet(f).await,
            Role::Cri(f) => cri::run(f).await,
            Role::Kubeconfig(f) => credentials::kubeconfig(f),
            Role::Certificate(f) => credentials::certificate(f),
            Role::Proxy(f) => parts::proxy(f).await,
            Role::Load(f) => images::load(f).await,
            Role::Images(f) => images::list(f).await,
            Role::Pull(f) => images::pull(f).await,
            Role::Tag(f) => images::tag(f).await,
            Role::Rmi(f) => images::remove(f).await,
        }
    });
    // Blocking threads (a disk that hangs) must not keep the process: everything that matters has been drained.
    runtime.shutdown_background();
    result
}
