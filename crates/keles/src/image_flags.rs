//! Flags of how images are pulled, for whatever pulls some: the file of registries, and how many pulls there are at once.

use clap::{ArgAction, Args};
use keles_images::{Options, Registries, RegistriesError};
use keles_kubelet::credential_provider::{Providers, ProvidersError};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

pub const DEFAULT_REGISTRIES: &str = "/etc/keles/registries.yaml";

#[derive(Args, Clone)]
pub struct RegistryFlags {
    /// Mirrors, credentials and TLS of registries, in k3s's form (k3s keeps its own at /etc/rancher/k3s/registries.yaml); may be absent.
    #[arg(long, visible_alias = "registries", default_value = DEFAULT_REGISTRIES)]
    pub private_registry: PathBuf,
}

impl RegistryFlags {
    pub fn options(&self) -> Result<Options, RegistriesError> {
        Ok(Options { registries: Registries::read(&self.private_registry)?, ..Options::default() })
    }
}

#[derive(Args, Clone)]
pub struct PullFlags {
    #[command(flatten)]
    pub registries: RegistryFlags,
    /// Pull one image at a time.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub serialize_image_pulls: bool,
    /// With --serialize-image-pulls=false: images pulled at once, at most.
    #[arg(long)]
    pub max_parallel_image_pulls: Option<NonZeroUsize>,
    /// Which programs give credentials for which images (CredentialProviderConfig).
    #[arg(long, requires = "image_credential_provider_bin_dir")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// Folder of these programs.
    #[arg(long, requires = "image_credential_provider_config")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
}

/// The flags understood.
#[derive(Clone, Default)]
pub struct Pulls {
    pub options: Options,
    pub providers: Arc<Providers>,
}

#[derive(Debug, thiserror::Error)]
pub enum PullFlagError {
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    #[error(transparent)]
    Providers(#[from] ProvidersError),
    #[error("--max-parallel-image-pulls {0} cannot be larger than 1 unless --serialize-image-pulls=false is given")]
    Serialized(NonZeroUsize),
}

impl PullFlags {
    pub fn pulls(&self) -> Result<Pulls, PullFlagError> {
        let parallel_pulls = match (self.serialize_image_pulls, self.max_parallel_image_pulls) {
            (true, Some(several)) if several.get() > 1 => return Err(PullFlagError::Serialized(several)),
            (true, _) => Some(1),
            (false, limit) => limit.map(NonZeroUsize::get),
        };
        let providers = match (&self.image_credential_provider_config, &self.image_credential_provider_bin_dir) {
            (Some(config), Some(folder)) => Providers::read(config, folder)?,
            _ => Providers::default(),
        };
        Ok(Pulls { options: Options { parallel_pulls, ..self.registries.options()? }, providers: Arc::new(providers) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        pulls: PullFlags,
    }

    #[test]
    fn pulls_are_one_at_a_time_unless_told_otherwise() {
        let limit = |flags: &[&str]| Alone::parse_from([&["x", "--private-registry", "/nowhere/registries.yaml"], flags].concat()).pulls.pulls().map(|p| p.options.parallel_pulls);
        assert_eq!(limit(&[]).expect("the file may be absent"), Some(1));
        assert_eq!(limit(&["--serialize-image-pulls=false"]).expect("good"), None);
        assert_eq!(limit(&["--serialize-image-pulls=false", "--max-parallel-image-pulls", "3"]).expect("good"), Some(3));
        assert!(matches!(limit(&["--max-parallel-image-pulls", "3"]), Err(PullFlagError::Serialized(_))));
    }
}
