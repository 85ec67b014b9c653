//! The runtime's images. What a pull needs besides credentials (mirrors, trust) is in the runtime's own configuration.

use crate::call::{Caller, LONG, USUAL};
use keles_cri as cri;
use keles_grpc::Status;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A pull ends when the runtime gives up; upstream sets no limit either.
const PULL_LIMIT: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
pub struct Images {
    caller: Caller,
    places: Option<Arc<Semaphore>>,
}

/// What the CRI tells of an image: its user, but neither command nor environment, which the runtime applies itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeImage {
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// A number or a name; empty for root.
    pub user: String,
    /// Not to be collected: the sandboxes' own image, most likely.
    pub pinned: bool,
}

/// What a pull gave.
pub struct Pulled {
    pub image: RuntimeImage,
    /// How long it waited for other pulls to end.
    pub waited: Duration,
}

fn spec(reference: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: reference.to_owned(), ..Default::default() })
}

impl From<cri::Image> for RuntimeImage {
    fn from(image: cri::Image) -> Self {
        let user = image.uid.map_or(image.username, |uid| uid.value.to_string());
        Self { id: image.id, tags: image.repo_tags, digests: image.repo_digests, size_bytes: image.size, user, pinned: image.pinned }
    }
}

impl Images {
    pub(crate) fn new(caller: Caller, at_once: Option<usize>) -> Images {
        Images { caller, places: at_once.map(|places| Arc::new(Semaphore::new(places))) }
    }

    /// By name, digest or id.
    pub async fn find(&self, reference: &str) -> Result<Option<RuntimeImage>, Status> {
        let answer: cri::ImageStatusResponse = self.caller.raw(cri::IMAGE_STATUS, &cri::ImageStatusRequest { image: spec(reference), verbose: false }, USUAL).await?;
        Ok(answer.image.map(Into::into))
    }

    /// With one credential, or none.
    pub async fn pull(&self, reference: &str, auth: Option<cri::AuthConfig>) -> Result<Pulled, Status> {
        let asked = Instant::now();
        let _place = match &self.places {
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        let waited = asked.elapsed();
        let request = cri::PullImageRequest { image: spec(reference), auth, sandbox_config: None };
        let answer: cri::PullImageResponse = self.caller.raw(cri::PULL_IMAGE, &request, PULL_LIMIT).await?;
        let gone = || Status::new(keles_grpc::Code::NotFound, format!("the image {} that was just pulled for {reference} is not there", answer.image_ref));
        let image = self.find(&answer.image_ref).await?.ok_or_else(gone)?;
        Ok(Pulled { image, waited })
    }

    pub async fn list(&self) -> Result<Vec<RuntimeImage>, Status> {
        let answer: cri::ListImagesResponse = self.caller.raw(cri::LIST_IMAGES, &cri::ListImagesRequest { filter: None }, USUAL).await?;
        // Of all, not of ours alone: what others run is not ours to remove.
        let all: cri::ListContainersResponse = self.caller.raw(cri::LIST_CONTAINERS, &cri::ListContainersRequest { filter: None }, USUAL).await?;
        let used = |image: &RuntimeImage| all.containers.iter().any(|c| c.image_ref == image.id || c.image_id == image.id || image.digests.contains(&c.image_ref));
        let mut images: Vec<RuntimeImage> = answer.images.into_iter().map(Into::into).collect();
        for image in &mut images {
            image.pinned = image.pinned || used(image);
        }
        Ok(images)
    }

    /// With all its names; one that is gone already is fine.
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        self.caller.raw(cri::REMOVE_IMAGE, &cri::RemoveImageRequest { image: spec(id) }, LONG).await.map(|_: cri::RemoveImageResponse| ())
    }

    /// A folder of the filesystem that images lie on.
    pub async fn folder(&self) -> Result<Option<PathBuf>, Status> {
        let answer: cri::ImageFsInfoResponse = self.caller.raw(cri::IMAGE_FS_INFO, &cri::ImageFsInfoRequest {}, USUAL).await?;
        let first = answer.image_filesystems.into_iter().find_map(|fs| fs.fs_id);
        Ok(first.map(|id| id.mountpoint).filter(|folder| !folder.is_empty()).map(PathBuf::from))
    }
}
