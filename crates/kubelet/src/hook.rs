//! Lifecycle hooks: exec, httpGet, sleep (tcpSocket is deprecated and does nothing useful; it connects).

use crate::http_get::{self, Target};
use crate::probe::port_of;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use keles_runtime::api::PodRuntime;
use std::time::Duration;

/// A hook that names no limit of its own ends by its container's end.
const MAX_HOOK: Duration = Duration::from_secs(24 * 3600);

/// Runs one hook to its end; the error is the text for the event.
pub async fn run(handler: &LifecycleHandler, container: &Container, container_id: &str, address: &str, runtime: &dyn PodRuntime) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let output = runtime.exec_sync(container_id, command, MAX_HOOK).await.map_err(|error| error.to_string())?;
        if output.exit_code == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        return Err(format!("command '{shown}' exited with {}: {text}", output.exit_code));
    }
    if let Some(action) = &handler.http_get {
        let target = Target::of(action, address, port_of(&action.port, container)?);
        let url = target.url();
        // Whatever is answered, the hook was called: upstream looks at no status either.
        return http_get::get(&target, "kube-lifecycle/1.36").await.map(drop).map_err(|error| format!("Get \"{url}\": {error}"));
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(action.seconds.max(0) as u64)).await;
        return Ok(());
    }
    if let Some(action) = &handler.tcp_socket {
        let port = port_of(&action.port, container)?;
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(address);
        return tokio::net::TcpStream::connect((host, port)).await.map(drop).map_err(|error| error.to_string());
    }
    Ok(())
}
