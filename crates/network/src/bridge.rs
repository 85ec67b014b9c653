//! The bridge and the pods' ports on it.

use crate::addresses::{AddressError, Addresses};
use crate::cidr::Cidr;
use keles_linux::netlink::{NetlinkError, Socket, in_netns};
use keles_linux::rtnl;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Ethernet over the machine's own bridge: no encapsulation takes from it.
const MTU_BYTES: u32 = 1500;
/// Name of the interface inside every pod, as all CNI plugins call it.
const POD_INTERFACE: &str = "eth0";
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("cannot {what}: {source}")]
    Netlink { what: String, source: NetlinkError },
    #[error("cannot set {path}: {source}")]
    Sysctl { path: PathBuf, source: std::io::Error },
    #[error("cannot enter the network namespace {path}: {source}")]
    Namespace { path: PathBuf, source: std::io::Error },
    #[error("the range {0} is too small for a bridge and a pod")]
    RangeTooSmall(Cidr),
    #[error("the network thread ended early")]
    Thread,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the bridge, at most 15 bytes: `keles0`.
    pub bridge: String,
    /// This node's share of the cluster's range; its first address is the bridge's.
    pub pod_cidr: Cidr,
    /// Routed to the bridge, so that no service address leaves the machine by the default route.
    pub service_cidr: Cidr,
    /// Folder of the address files.
    pub state_dir: PathBuf,
}

/// The pod network of this node. Cheap to clone.
#[derive(Clone)]
pub struct PodNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    gateway: Ipv4Addr,
    bridge_index: u32,
    addresses: Mutex<Addresses>,
}

impl PodNetwork {
    /// Makes (or finds) the bridge with its address and the service route, and reads the address files.
    pub async fn open(options: Options) -> Result<Self, NetworkError> {
        blocking(move || {
            let gateway = options.pod_cidr.nth(1).filter(|_| options.pod_cidr.size() > 3).ok_or(NetworkError::RangeTooSmall(options.pod_cidr))?;
            let bridge_index = ensure_bridge(&options, gateway)?;
            sysctl("/proc/sys/net/ipv4/ip_forward", "1")?;
            let addresses = Mutex::new(Addresses::open(&options.state_dir, options.pod_cidr)?);
            Ok(PodNetwork { inner: Arc::new(Inner { options, gateway, bridge_index, addresses }) })
        })
        .await
    }
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.gateway
    }
    pub fn bridge(&self) -> &str {
        &self.inner.options.bridge
    }
    /// Gives the pod an address and an interface in the namespace pinned at `netns`. Idempotent.
    pub async fn attach(&self, netns: &Path, pod_uid: &str) -> Result<Ipv4Addr, NetworkError> {
        let (inner, netns, uid) = (self.inner.clone(), netns.to_owned(), pod_uid.to_owned());
        blocking(move || inner.attach(&netns, &uid)).await
    }
    /// Takes interface and address away. Fine when there is none.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        let (inner, uid) = (self.inner.clone(), pod_uid.to_owned());
        blocking(move || inner.detach(&uid)).await
    }
    /// Detaches every pod that `keep` does not name: what a kill left behind.
    pub async fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let gone: Vec<String> = self.inner.lock().pods().filter(|p| !keep(p)).map(str::to_owned).collect();
        for uid in gone {
            self.detach(&uid).await?;
        }
        Ok(())
    }
}

/// The host end of a pod's veth: a name from its address, unique on the node and at most 15 bytes.
fn host_interface(bridge: &str, ip: Ipv4Addr) -> String {
    let prefix: String = bridge.chars().take(6).collect();
    format!("{prefix}v{:08x}", u32::from(ip))
}

/// A locally administered MAC from the address, as the bridge CNI plugin derives it, so that ARP caches stay true.
fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let o = ip.octets();
    [0x0a, 0x58, o[0], o[1], o[2], o[3]]
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn attach(&self, netns: &Path, uid: &str) -> Result<Ipv4Addr, NetworkError> {
        let ip = self.lock().allocate(uid)?;
        let netns_error = |source| NetworkError::Namespace { path: netns.to_owned(), source };
        let ns = std::fs::File::open(netns).map_err(netns_error)?;
        let mut socket = Socket::route().map_err(failed("open a netlink socket"))?;
        let name = host_interface(&self.options.bridge, ip);
        let pair = || rtnl::veth(&name, self.bridge_index, POD_INTERFACE, mac_of(ip), ns.as_raw_fd(), MTU_BYTES);
        if let Err(e) = socket.transact(vec![pair()]) {
            // A pair of this name is either ours, attached before (then the pod side is there), or a dead pod's whose file was lost.
            if e.errno() != Some(EEXIST) {
                return Err(failed(format!("make the interface {name} of pod {uid}"))(e));
            }
            if !self.pod_side_exists(netns)? {
                self.delete_interface(&mut socket, &name)?;
                socket.transact(vec![pair()]).map_err(failed(format!("make the interface {name} of pod {uid}")))?;
            }
        }
        if let Some(port) = rtnl::link(&mut socket, &name).map_err(failed(format!("find {name}")))? {
            socket.transact(vec![rtnl::hairpin(port.index)]).map_err(failed(format!("set hairpin mode of {name}")))?;
        }
        let (gateway, prefix) = (self.gateway, self.options.pod_cidr.prefix());
        in_netns(netns, move || configure_pod_side(ip, prefix, gateway)).map_err(netns_error)?.map_err(failed(format!("configure {POD_INTERFACE} of pod {uid}")))?;
        Ok(ip)
    }

    fn pod_side_exists(&self, netns: &Path) -> Result<bool, NetworkError> {
        in_netns(netns, || Socket::route().and_then(|mut s| rtnl::link(&mut s, POD_INTERFACE)))
            .map_err(|source| NetworkError::Namespace { path: netns.to_owned(), source })?
            .map(|l| l.is_some())
            .map_err(failed("look for the pod's interface"))
    }

    fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        let Some(ip) = self.lock().of(uid) else { return Ok(()) };
        let mut socket = Socket::route().map_err(failed("open a netlink socket"))?;
        self.delete_interface(&mut socket, &host_interface(&self.options.bridge, ip))?;
        Ok(self.lock().release(uid)?)
    }

    fn delete_interface(&self, socket: &mut Socket, name: &str) -> Result<(), NetworkError> {
        let Some(link) = rtnl::link(socket, name).map_err(failed(format!("find {name}")))? else { return Ok(()) };
        match socket.transact(vec![rtnl::delete_link(link.index)]) {
            Err(e) if e.errno() != Some(ENODEV) => Err(failed(format!("delete {name}"))(e)),
            _ => Ok(()),
        }
    }
}

/// The address has no route to its range and everything goes by the gateway, so that an answer between two pods of the node passes the node's
/// IP stack, where a service's translation is undone, and not straight over the bridge.
fn configure_pod_side(ip: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
    let mut socket = Socket::route()?;
    let Some(eth0) = rtnl::link(&mut socket, POD_INTERFACE)? else {
        return Err(NetlinkError::Io { what: "find the pod's interface", source: std::io::Error::from_raw_os_error(ENODEV) });
    };
    socket.transact(vec![
        rtnl::set_up(eth0.index),
        rtnl::address_without_route(eth0.index, ip, prefix),
        rtnl::route(gateway, 32, eth0.index, None, None),
        rtnl::route(Ipv4Addr::UNSPECIFIED, 0, eth0.index, Some(gateway), None),
    ])
}

fn ensure_bridge(options: &Options, gateway: Ipv4Addr) -> Result<u32, NetworkError> {
    let name = &options.bridge;
    let mut socket = Socket::route().map_err(failed("open a netlink socket"))?;
    match socket.transact(vec![rtnl::bridge(name, mac_of(gateway), MTU_BYTES)]) {
        Err(e) if e.errno() != Some(EEXIST) => return Err(failed(format!("make the bridge {name}"))(e)),
        _ => {}
    }
    let missing = || failed(format!("find the bridge {name}"))(NetlinkError::Io { what: "link", source: std::io::Error::from_raw_os_error(ENODEV) });
    let index = rtnl::link(&mut socket, name).map_err(failed(format!("find the bridge {name}")))?.ok_or_else(missing)?.index;
    let services = options.service_cidr;
    socket
        .transact(vec![rtnl::set_up(index), rtnl::address(index, gateway, options.pod_cidr.prefix()), rtnl::route(services.base(), services.prefix(), index, None, Some(gateway))])
        .map_err(failed(format!("configure the bridge {name}")))?;
    // NodePorts on 127.0.0.1 are translated to pod addresses and leave by this bridge.
    sysctl(&format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1")?;
    // Pods of one node answer each other through the gateway on purpose; redirects would tell them not to.
    sysctl(&format!("/proc/sys/net/ipv4/conf/{name}/send_redirects"), "0")?;
    Ok(index)
}

fn failed(what: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Netlink { what, source }
}

fn sysctl(path: &str, value: &str) -> Result<(), NetworkError> {
    if std::fs::read_to_string(path).is_ok_and(|v| v.trim() == value) {
        return Ok(());
    }
    std::fs::write(path, value).map_err(|source| NetworkError::Sysctl { path: path.into(), source })
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, NetworkError> + Send + 'static) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(NetworkError::Thread))
}
