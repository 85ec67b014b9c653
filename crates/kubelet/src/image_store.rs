//! What the node asks of the image store: our own ([`keles_images::Images`]), or that of another's runtime ([`keles_cri_client::Images`]).

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
    /// The runtime has the image and applies its config: of that only `user` is known here, and there are no `layers`.
    pub by_runtime: bool,
    /// Never removed for room.
    pub pinned: bool,
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
    /// A folder on the filesystem that images lie on; none: the agent's own data folder.
    async fn folder(&self) -> Result<Option<PathBuf>, ImageError> {
        Ok(None)
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
            by_runtime: false,
            pinned: false,
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

impl From<keles_cri_client::RuntimeImage> for NodeImage {
    fn from(image: keles_cri_client::RuntimeImage) -> Self {
        let (id, tags, digests, size_bytes, user, pinned) = (image.id, image.tags, image.digests, image.size_bytes, image.user, image.pinned);
        Self { id, tags, digests, size_bytes, user, pinned, by_runtime: true, ..Self::default() }
    }
}

fn refused(status: keles_grpc::Status) -> ImageError {
    ImageError(status.to_string())
}

/// A credential as the CRI has it.
fn auth_config(auth: &Auth) -> keles_cri::AuthConfig {
    keles_cri::AuthConfig {
        username: auth.username.clone(),
        password: auth.password.clone(),
        server_address: auth.registry.clone(),
        identity_token: auth.identity_token.clone(),
        registry_token: auth.registry_token.clone(),
        ..Default::default()
    }
}

#[async_trait]
impl ImageStore for keles_cri_client::Images {
    async fn find(&self, reference: &str) -> Result<Option<NodeImage>, ImageError> {
        Ok(keles_cri_client::Images::find(self, reference).await.map_err(refused)?.map(Into::into))
    }

    /// One credential after the other, as upstream does: the CRI takes one at a time and does not say whether the registry asked for it. The image
    /// counts as let in by the one it came with.
    async fn pull(&self, reference: &str, auths: &[Auth]) -> Result<PulledImage, ImageError> {
        let tries = if auths.is_empty() { vec![None] } else { (0..auths.len()).map(Some).collect() };
        let mut faults: Vec<String> = Vec::new();
        for accepted in tries {
            match keles_cri_client::Images::pull(self, reference, accepted.map(|at| auth_config(&auths[at]))).await {
                Ok(pulled) => return Ok(PulledImage { image: pulled.image.into(), accepted, waited: pulled.waited }),
                Err(status) => faults.push(status.to_string()),
            }
        }
        faults.dedup();
        Err(ImageError(if let [only] = faults.as_slice() { only.clone() } else { format!("[{}]", faults.join(", ")) }))
    }

    async fn list(&self) -> Result<Vec<NodeImage>, ImageError> {
        Ok(keles_cri_client::Images::list(self).await.map_err(refused)?.into_iter().map(Into::into).collect())
    }

    async fn remove(&self, id: &str) -> Result<(), ImageError> {
        keles_cri_client::Images::remove(self, id).await.map_err(refused)
    }

    async fn folder(&self) -> Result<Option<PathBuf>, ImageError> {
        keles_cri_client::Images::folder(self).await.map_err(refused)
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
    async fn folder(&self) -> Result<Option<PathBuf>, ImageError> {
        (**self).folder().await
    }
}
