//! Flags of where the state is kept, under upstream's names and k3s's.

use clap::Args;
use keles_auth::durations::GoDuration;
use keles_store::embedded::{Embedded, Options as EmbeddedOptions};
use keles_store::etcd::{Etcd, Options, OptionsError, PREFIX, TlsFiles};
use keles_store::{Store, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Args, Clone)]
#[command(next_help_heading = "Datastore")]
pub struct DatastoreFlags {
    /// An etcd (3.4 or later) that several servers share: etcd://HOST:PORT or http://HOST:PORT, with TLS https://HOST:PORT, its members separated by
    /// commas. Absent: the embedded store in the data folder, for one server.
    #[arg(long, alias = "etcd-servers")]
    pub datastore_endpoint: Option<String>,
    /// Authorities that etcd's certificate may be of, in PEM [default: those that the machine trusts].
    #[arg(long, alias = "datastore-cafile", requires = "datastore_endpoint")]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate that is shown to etcd, in PEM.
    #[arg(long, alias = "datastore-certfile", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its private key.
    #[arg(long, alias = "datastore-keyfile", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Where in etcd the keys lie; clusters that share an etcd have one each (below another than the default as PREFIX/registry/...).
    #[arg(long, default_value = PREFIX)]
    pub etcd_prefix: String,
    /// How long history is kept for watches and lists in pages, at least; 0: for ever.
    #[arg(long, default_value = "5m")]
    pub etcd_compaction_interval: GoDuration,
}

#[derive(Debug, thiserror::Error)]
pub enum DatastoreError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DatastoreFlags {
    /// The store they name; that of others is waited for.
    pub async fn open(&self, data_dir: &Path) -> Result<Arc<dyn Store>, DatastoreError> {
        let Some(endpoints) = &self.datastore_endpoint else { return Ok(Embedded::open(&data_dir.join("store"), EmbeddedOptions::default())?) };
        let files = TlsFiles { ca: self.etcd_cafile.clone(), certificate: self.etcd_certfile.clone(), key: self.etcd_keyfile.clone() };
        let etcd = Etcd::new(Options::with(endpoints, &files, &self.etcd_prefix)?);
        etcd.wait().await?;
        Ok(etcd)
    }
}
