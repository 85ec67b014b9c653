//! `keles cri`: the container runtime for node agents of others, and for crictl, over runtime.v1.

use crate::{flags, images, node, server};
use keles_cri_server::Options;
use keles_proxy::table::{Frame, Range};
use keles_runtime::EngineOptions;
use keles_supervise::BoxError;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Of the socket: who may speak to it is root on this machine.
const SOCKET_MODE: u32 = 0o660;

#[derive(Debug, thiserror::Error)]
pub enum CriFlagError {
    #[error("--listen {0:?} must be the path of a socket, with unix:// before it or not")]
    Listen(String),
    #[error("somebody serves at {0} already; stop it or choose another --listen")]
    Served(PathBuf),
    #[error("cannot listen at {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot listen at {address} for streams: {source}")]
    Stream { address: SocketAddr, source: io::Error },
}

pub async fn run(f: Box<flags::Cri>) -> Result<(), BoxError> {
    let stop = server::stop_signal()?;
    let path = socket_path(&f.listen)?;
    let pods = f.ranges.pods();
    std::fs::create_dir_all(&f.data_dir)?;
    let network = node::network(&f.bridge, pods, f.ranges.service_cidr, &f.data_dir).await?;
    let images_dir = images::folder(&f.data_dir);
    let address = SocketAddr::new(f.stream_address, f.stream_port);
    let stream_listener = TcpListener::bind(address).await.map_err(|source| CriFlagError::Stream { address, source })?;
    let own = node::engine_options(&f.data_dir, &f.bridge);
    // No address of a service is ours to refuse: that is the service proxy's.
    let nothing = Range { base: Ipv4Addr::UNSPECIFIED, mask: Ipv4Addr::BROADCAST };
    let options = Options {
        cgroup_parent: format!("{}/cri", own.cgroup_root),
        // Any client may hold containers to processors.
        engine: EngineOptions { cgroup_root: String::new(), cpusets: true, ..own },
        images: keles_images::Images::open_with(&images_dir, f.registries.options()?)?,
        images_dir,
        network,
        pod_cidr: pods.to_string(),
        ports: Frame { table: format!("{}-cri", f.bridge), bridge: f.bridge.clone(), pods: Range { base: pods.base(), mask: pods.mask() }, services: nothing },
        state_dir: f.data_dir.join("cri"),
        stream_listener,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let listener = listen(&path).await?;
    let ready = || tracing::info!(socket = %path.display(), "serving runtime.v1");
    keles_cri_server::serve(options, listener, stop, ready).await?;
    let _ = std::fs::remove_file(&path);
    Ok(())
}

fn socket_path(text: &str) -> Result<PathBuf, CriFlagError> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if Path::new(path).is_absolute() { Ok(path.into()) } else { Err(CriFlagError::Listen(text.to_owned())) }
}

/// Takes the place of a socket that a killed run left, never of one that is served.
async fn listen(path: &Path) -> Result<UnixListener, CriFlagError> {
    let failed = |source| CriFlagError::Socket { path: path.to_owned(), source };
    if UnixStream::connect(path).await.is_ok() {
        return Err(CriFlagError::Served(path.to_owned()));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_by_its_path_or_as_a_url() {
        for text in ["/run/x.sock", "unix:///run/x.sock"] {
            assert_eq!(socket_path(text).expect("good"), Path::new("/run/x.sock"));
        }
        assert!(socket_path("tcp://127.0.0.1:1").is_err());
    }

    #[tokio::test]
    async fn a_socket_that_is_served_is_left_alone_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s.sock");
        let first = listen(&path).await.expect("free");
        assert!(matches!(listen(&path).await, Err(CriFlagError::Served(_))));
        drop(first);
        listen(&path).await.expect("nobody is there");
    }
}
