//! What the node asks of the image store; [`keles_images::Images`] is the real one.

use async_trait::async_trait;
use keles_images::Auth;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ImageError(pub String);

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

/// What a pull brought.
#[derive(Clone, Debug, Default)]
pub struct PulledImage {
    pub image: NodeImage,
    /// Which of the given credentials the registry took, by its place; none: it asked for none of them.
    pub accepted: Option<usize>,
    /// How long the pull waited for others to end.
    pub waited: Duration,
}

#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    async fn find(&self, reference: &str) -> Result<Option<NodeImage>, ImageError>;
    /// `auths` are tried in their order, then none; each is for this image.
    async fn pull(&self, reference: &str, auths: &[Auth]) -> Result<PulledImage, ImageError>;
    async fn list(&self) -> Result<Vec<NodeImage>, ImageError>;
    /// Takes an image away, with all its names; one that a mount shows is refused.
    async fn remove(&self, id: &str) -> Result<(), ImageError> {
        Err(ImageError(format!("image {id}: this store cannot remove images")))
    }
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

    async fn pull(&self, reference: &str, auths: &[Auth]) -> Result<PulledImage, ImageError> {
        let pulled = keles_images::Images::pull(self, reference, auths, None).await.map_err(told)?;
        Ok(PulledImage { image: pulled.image.into(), accepted: pulled.accepted, waited: pulled.waited })
    }

    async fn list(&self) -> Result<Vec<NodeImage>, ImageError> {
        Ok(keles_images::Images::list(self).await.map_err(told)?.into_iter().map(Into::into).collect())
    }

    async fn remove(&self, id: &str) -> Result<(), ImageError> {
        keles_images::Images::remove(self, id).await.map_err(told)
    }
}

#[async_trait]
impl<T: ImageStore + ?Sized> ImageStore for std::sync::Arc<T> {
    async fn find(&self, reference: &str) -> Result<Option<NodeImage>, ImageError> {
        (**self).find(reference).await
    }
    async fn pull(&self, reference: &str, auths: &[Auth]) -> Result<PulledImage, ImageError> {
        (**self).pull(reference, auths).await
    }
    async fn list(&self) -> Result<Vec<NodeImage>, ImageError> {
        (**self).list().await
    }
    async fn remove(&self, id: &str) -> Result<(), ImageError> {
        (**self).remove(id).await
    }
}
