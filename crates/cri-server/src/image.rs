//! The image service.

use crate::{Cri, events, faults};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keles_cri::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image, ImageFilter, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value,
    ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, UInt64Value,
};
use keles_grpc::{Code, Status};
use keles_images::{Auth, ImageError};
use keles_runtime::api::{ContainerState, PodRuntime};
use std::path::Path;

/// The user as the image names it: a number or a name, without the group.
fn user(image: &keles_images::Image) -> (Option<Int64Value>, String) {
    let user = image.config.user.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(value) => (Some(Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn shown(image: &keles_images::Image) -> Image {
    let (uid, username) = user(image);
    Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        // An image of no files is one nevertheless, and the service wants more than 0.
        size: image.size_bytes.max(1),
        uid,
        username,
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        pinned: false,
    }
}

fn wanted(spec: Option<ImageSpec>) -> Result<String, Status> {
    spec.map(|spec| spec.image).filter(|image| !image.is_empty()).ok_or_else(|| faults::invalid("image is missing"))
}

/// A registry's name out of `server_address`, which may be a URL.
fn auth(config: AuthConfig) -> Result<Auth, Status> {
    let (username, password) = match config.auth.as_str() {
        "" => (config.username, config.password),
        text => decoded(text).ok_or_else(|| faults::invalid("auth.auth is not user:password in base64"))?,
    };
    Ok(Auth { registry: config.server_address, username, password, identity_token: config.identity_token, registry_token: config.registry_token })
}

fn decoded(text: &str) -> Option<(String, String)> {
    let both = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (user, password) = both.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

impl Cri {
    pub async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Status> {
        Ok(ListImagesResponse { images: self.images_by(request.filter).await? })
    }

    pub async fn images_by(&self, filter: Option<ImageFilter>) -> Result<Vec<Image>, Status> {
        match filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|image| !image.is_empty()) {
            Some(one) => Ok(self.find(&one).await?.iter().map(shown).collect()),
            None => Ok(self.images.list().await.map_err(faults::of_images)?.iter().map(shown).collect()),
        }
    }

    /// Nothing where it is not here.
    async fn find(&self, wanted: &str) -> Result<Option<keles_images::Image>, Status> {
        self.images.get(wanted).await.map_err(faults::of_images)
    }

    pub async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
        let found = self.find(&wanted(request.image)?).await?;
        let mut answer = ImageStatusResponse { image: found.as_ref().map(shown), ..ImageStatusResponse::default() };
        if let Some(image) = found.filter(|_| request.verbose) {
            let info = serde_json::json!({"imageSpec": {"created": image.created, "config": image.config}, "layers": image.layers});
            answer.info.insert("info".into(), info.to_string());
        }
        Ok(answer)
    }

    pub async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Status> {
        let spec = request.image.unwrap_or_default();
        if !crate::sandbox_config::HANDLERS.contains(&spec.runtime_handler.as_str()) {
            return Err(faults::invalid(format!("image.runtime_handler {:?} is not configured", spec.runtime_handler)));
        }
        let name = wanted(Some(spec))?;
        let auths: Vec<Auth> = request.auth.filter(|config| *config != AuthConfig::default()).map(auth).transpose()?.into_iter().collect();
        let pulled = self.images.pull(&name, &auths, None).await.map_err(|error| {
            use keles_images::RegistryFault;
            match &error {
                ImageError::Pull { fault: RegistryFault::NotFound { .. }, .. } => Status::new(Code::NotFound, error.to_string()),
                ImageError::Pull { fault: RegistryFault::Unreachable { .. }, .. } => Status::new(Code::Unavailable, error.to_string()),
                ImageError::Pull { fault: RegistryFault::Denied { .. }, .. } => Status::new(Code::PermissionDenied, error.to_string()),
                _ => faults::of_images(error),
            }
        })?;
        Ok(PullImageResponse { image_ref: pulled.image.id })
    }

    /// With all its names, whichever was named.
    pub async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Status> {
        if let Some(image) = self.find(&wanted(request.image)?).await? {
            // What the kernel's mounts do not show the store: containers that are not started, and image volumes, mounted by descriptor.
            let all = self.engine.list_containers().await.map_err(faults::of_runtime)?;
            if self.files.shows(&image.id) || all.iter().any(|container| container.image_id == image.id && container.state == ContainerState::Created) {
                return Err(faults::of_images(ImageError::InUse { name: image.id }));
            }
            faults::unless_absent(self.images.remove(&image.id).await.map_err(faults::of_images))?;
        }
        Ok(RemoveImageResponse {})
    }

    /// Images and containers lie on one filesystem.
    pub async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Status> {
        let one = usage(&self.images_dir).await;
        Ok(ImageFsInfoResponse { container_filesystems: vec![FilesystemUsage { fs_id: one.fs_id.clone(), ..usage(&self.containers_dir).await }], image_filesystems: vec![one] })
    }
}

pub fn filesystem(folder: &Path, used: keles_runtime::api::DiskUsage) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: events::now_unix_ns(),
        fs_id: Some(FilesystemIdentifier { mountpoint: folder.display().to_string() }),
        used_bytes: Some(UInt64Value { value: used.bytes }),
        inodes_used: Some(UInt64Value { value: used.inodes }),
    }
}

async fn usage(folder: &Path) -> FilesystemUsage {
    let path = folder.to_owned();
    let used = tokio::task::spawn_blocking(move || keles_runtime::usage::disk(&path)).await.unwrap_or_default();
    filesystem(folder, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(user: &str) -> keles_images::Image {
        let config = keles_images::ImageConfig { user: user.into(), ..Default::default() };
        keles_images::Image { id: "sha256:1".into(), tags: vec!["a:1".into()], digests: vec![], size_bytes: 0, created: String::new(), config, layers: vec![] }
    }

    #[test]
    fn an_images_user_is_a_number_or_a_name() {
        assert_eq!((shown(&image("101:102")).uid, shown(&image("101")).username), (Some(Int64Value { value: 101 }), String::new()));
        assert_eq!((shown(&image("web:grp")).uid, shown(&image("web")).username), (None, "web".to_owned()));
        assert_eq!((shown(&image("")).uid, shown(&image("")).size), (None, 1));
    }

    #[test]
    fn credentials_come_in_two_forms() {
        let both = auth(AuthConfig { auth: STANDARD.encode("u:p:q"), server_address: "r".into(), ..Default::default() }).ok().expect("good");
        assert_eq!((both.username.as_str(), both.password.as_str(), both.registry.as_str()), ("u", "p:q", "r"));
        assert!(auth(AuthConfig { auth: "%".into(), ..Default::default() }).is_err());
    }
}
