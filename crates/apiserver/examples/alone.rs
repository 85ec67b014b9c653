//! The API server alone on the embedded store: `alone DATA_DIR KUBECONFIG PORT`. For trying things out; `keles apiserver` is the real one.

use keles_apiserver::{ApiServer, Config};
use keles_pki::{KubeconfigUser, Pki, write_kubeconfig};
use keles_store::embedded::{Embedded, Options};
use std::path::Path;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, data, kubeconfig, port] = args.as_slice() else { return Err("usage: alone DATA_DIR KUBECONFIG PORT".into()) };
    let started = std::time::Instant::now();
    let store = Embedded::open(&Path::new(data).join("store"), Options::default())?;
    let config = Config { port: port.parse()?, ..Config::new(data) };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", config.port)).await?;
    let server = ApiServer::start(config, store).await?;
    let admin = Pki::open(Path::new(data))?.admin()?;
    write_kubeconfig(Path::new(kubeconfig), &format!("https://127.0.0.1:{port}"), Pki::open(Path::new(data))?.ca_pem(), &KubeconfigUser::Certificate(&admin))?;
    println!("ready after {:?}", started.elapsed());
    let shutdown = CancellationToken::new();
    let s = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        s.cancel();
    });
    server.serve(listener, shutdown).await;
    Ok(())
}
