//! What the node asks of the image store; [`keles_images::Images`] is the real one.

use async_trait::async_trait;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ImageError(pub String);

/// Credentials for one registry host (`docker.io` for Docker Hub).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLogin {
    pub registry: String,
    pub username: String,
    pub password: String,
}

/// An image on this node with what a container needs of it.
#[derive(Clone, Debug, Default)]
pub struct NodeImage {
    /// `sha256:…` of the config.
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: Option<String>,
    /// Topmost first.
    pub layers: Vec<PathBuf>,
}

#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    async fn find(&self, reference: &str) -> Result<Option<NodeImage>, ImageError>;
    async fn pull(&self, reference: &str, logins: &[RegistryLogin]) -> Result<NodeImage, ImageError>;
    async fn list(&self) -> Result<Vec<NodeImage>, ImageError>;
}

fn told(error: keles_images::ImageError) -> ImageError {
    ImageError(error.to_string())
}

impl From<keles_images::Image> for NodeImage {
    fn from(image: keles_images::Image) -> Self {
        let config = image.config;
        Self {
            id: image.id,
            tags: image.tags,
            digests: image.digests,
            size_bytes: image.size_bytes,
            user: config.user,
            env: config.env,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            working_dir: config.working_dir,
            stop_signal: Some(config.stop_signal).filter(|signal| !signal.is_empty()),
            layers: image.layers,
        }
    }
}

#[async_trait]
impl ImageStore for keles_images::Images {
    async fn find(&self, reference: &str) -> Result<Option<NodeImage>, ImageError> {
        Ok(self.get(reference).await.map_err(told)?.map(Into::into))
    }

    async fn pull(&self, reference: &str, logins: &[RegistryLogin]) -> Result<NodeImage, ImageError> {
        let auth = |login: &RegistryLogin| keles_images::Auth {
            registry: login.registry.clone(),
            username: login.username.clone(),
            password: login.password.clone(),
            ..Default::default()
        };
        let auths: Vec<_> = logins.iter().map(auth).collect();
        Ok(keles_images::Images::pull(self, reference, &auths, None).await.map_err(told)?.into())
    }

    async fn list(&self) -> Result<Vec<NodeImage>, ImageError> {
        Ok(keles_images::Images::list(self).await.map_err(told)?.into_iter().map(Into::into).collect())
    }
}

#[async_trait]
impl<T: ImageStore + ?Sized> ImageStore for std::sync::Arc<T> {
    async fn find(&self, reference: &str) -> Result<Option<NodeImage>, ImageError> {
        (**self).find(reference).await
    }
    async fn pull(&self, reference: &str, logins: &[RegistryLogin]) -> Result<NodeImage, ImageError> {
        (**self).pull(reference, logins).await
    }
    async fn list(&self) -> Result<Vec<NodeImage>, ImageError> {
        (**self).list().await
    }
}
