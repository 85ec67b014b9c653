//! Flags of what a part serves of itself, and of leading among several of its kind; under upstream's names.

use clap::{ArgAction, Args};
use keles_auth::durations::GoDuration;
use keles_reconcile::Election;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where a part serves over TLS, and who may ask.
#[derive(Args, Clone)]
#[command(next_help_heading = "Serving")]
pub struct SecureFlags {
    /// Port of health, metrics and status over HTTPS [default: 10259 for the scheduler, 10257 for the controllers]; 0: not served.
    #[arg(long)]
    pub secure_port: Option<u16>,
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Certificate to serve with [default: a self-signed one].
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Folder to keep the self-signed certificate in [default: memory].
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// Authorities of client certificates [default: those the API server publishes in kube-system/extension-apiserver-authentication].
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Kubeconfig of the user who asks whose a token is and what a user may [default: --kubeconfig].
    #[arg(long, visible_alias = "authorization-kubeconfig")]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Paths that everybody may ask; a trailing * covers what is below.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// Serve CPU profiles at /debug/pprof and the verbosity at /debug/flags/v.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: bool,
}

impl SecureFlags {
    /// `None`: nothing is served.
    pub fn address(&self, default_port: u16) -> Option<SocketAddr> {
        let port = self.secure_port.unwrap_or(default_port);
        (port != 0).then_some(SocketAddr::new(self.bind_address, port))
    }
}

/// Who of several works.
#[derive(Args, Clone)]
#[command(next_help_heading = "Leader election")]
pub struct LeaderFlags {
    /// Work only while holding a lease, so that of several of this part one works.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: bool,
    /// How long others wait for a leader that no longer renews.
    #[arg(long, default_value = "15s")]
    pub leader_elect_lease_duration: GoDuration,
    /// How long a leader that cannot renew goes on; less than the lease's duration.
    #[arg(long, default_value = "10s")]
    pub leader_elect_renew_deadline: GoDuration,
    /// How often is tried to take or renew the lease; less than the deadline.
    #[arg(long, default_value = "2s")]
    pub leader_elect_retry_period: GoDuration,
    /// Kind of object the election is held on.
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    pub leader_elect_resource_lock: String,
    /// Name of the lease [default: kube-scheduler or kube-controller-manager].
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
}

/// What was given contradicts itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LeaderError {
    #[error("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline")]
    Lease,
    #[error("--leader-elect-renew-deadline must be greater than --leader-elect-retry-period times 1.2")]
    Deadline,
    #[error("--leader-elect-retry-period must be greater than zero")]
    Retry,
}

/// Tries are spread by up to this part of their period; upstream's figure.
const JITTER: f64 = 1.2;

impl LeaderFlags {
    /// `None`: no election.
    pub fn election(&self, component: &str, identity: &str) -> Result<Option<Election>, LeaderError> {
        if !self.leader_elect {
            return Ok(None);
        }
        let (lease, renew, retry): (Duration, Duration, Duration) = (self.leader_elect_lease_duration.0, self.leader_elect_renew_deadline.0, self.leader_elect_retry_period.0);
        if retry.is_zero() {
            return Err(LeaderError::Retry);
        }
        if lease <= renew {
            return Err(LeaderError::Lease);
        }
        if renew <= retry.mul_f64(JITTER) {
            return Err(LeaderError::Deadline);
        }
        let name = self.leader_elect_resource_name.as_deref().unwrap_or(component);
        let own = Election::new(&self.leader_elect_resource_namespace, name, identity);
        Ok(Some(Election { lease_duration: lease, renew_deadline: renew, retry_period: retry, ..own }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        leader: LeaderFlags,
        #[command(flatten)]
        secure: SecureFlags,
    }
    fn parse(args: &[&str]) -> Cli {
        Cli::parse_from([&["part"], args].concat())
    }

    #[test]
    fn an_election_has_upstreams_times_and_contradictions_are_refused() {
        let of = |args: &[&str]| parse(args).leader.election("kube-scheduler", "me");
        let own = of(&[]).unwrap().expect("on by default");
        assert_eq!((own.namespace.as_str(), own.name.as_str(), own.lease_duration.as_secs()), ("kube-system", "kube-scheduler", 15));
        assert!(of(&["--leader-elect=false"]).unwrap().is_none());
        assert_eq!(of(&["--leader-elect-lease-duration=10s"]).unwrap_err(), LeaderError::Lease);
        assert_eq!(of(&["--leader-elect-retry-period=9s"]).unwrap_err(), LeaderError::Deadline);
        assert_eq!(of(&["--leader-elect-resource-name=other"]).unwrap().unwrap().name, "other");
    }

    #[test]
    fn a_port_of_zero_serves_nothing() {
        assert_eq!(parse(&[]).secure.address(10259), Some("0.0.0.0:10259".parse().unwrap()));
        assert_eq!(parse(&["--secure-port=7", "--bind-address=127.0.0.1"]).secure.address(10259), Some("127.0.0.1:7".parse().unwrap()));
        assert_eq!(parse(&["--secure-port=0"]).secure.address(10259), None);
    }
}
