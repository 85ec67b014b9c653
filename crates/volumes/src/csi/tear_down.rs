//! Giving volumes back: unpublish for a pod, unstage when no pod of the node has the volume any more.

use super::state::{Held, VolumeData};
use super::{Csi, driver, lock};
use crate::{Result, VolumeError, tmpfs};
use std::path::Path;
use std::sync::Arc;

impl Csi {
    /// Gives all CSI volumes of a pod back. What fails stays noted and is tried again by the next call.
    pub async fn tear_down(self: &Arc<Self>, pod_dir: &Path, uid: &str) -> Result<()> {
        let _alone = self.gate_of(uid).write_owned().await;
        let all = self.places.held_by(uid);
        if !all.is_empty() {
            // Parts of volumes that containers had hold the volumes themselves.
            tmpfs::unmount_below(&pod_dir.join("volume-subpaths"))?;
        }
        let given_back = futures::future::join_all(all.into_iter().map(|held| {
            let csi = self.clone();
            // A step that was begun is ended, also when nobody waits any more.
            let work = tokio::spawn(async move { csi.give_back(held).await });
            async move { work.await.unwrap_or_else(|error| Err(VolumeError::Field(format!("giving a volume back ended: {error}")))) }
        }));
        let mut faults: Vec<VolumeError> = given_back.await.into_iter().filter_map(Result::err).collect();
        if faults.is_empty() {
            self.release_uses(uid);
        }
        match faults.len() {
            0 => Ok(()),
            1 => Err(faults.remove(0)),
            _ => Err(VolumeError::Several(faults)),
        }
    }

    async fn give_back(&self, held: Held) -> Result<()> {
        let volume = self.lock_of(&held.data.driver, &held.data.handle);
        let _alone = volume.lock().await;
        let stage = if held.block { "UnmapVolume.UnmapBlockVolume" } else { "UnmountVolume.TearDown" };
        let failed = |why: String| VolumeError::Stage { stage, volume: held.data.spec_name.clone(), why };
        let client = self.driver(&held.data.driver).map_err(|error| failed(error.to_string()))?;
        client.unpublish(&held.data.handle, &held.target).await.map_err(|status| failed(status.to_string()))?;
        if tmpfs::is_mounted(&held.target)? {
            return Err(failed(format!("driver {} unpublished {} and left it mounted", held.data.driver, held.target.display())));
        }
        self.places.forget(&held).map_err(|error| failed(error.to_string()))?;
        if held.data.persistent
            && let Err(error) = self.unstage_unused(&client, &held.data, held.block).await
        {
            // The pod has nothing of it any more and may go; the volume stays in use.
            tracing::warn!(%error, "a volume that no pod has was not unstaged, will be tried again");
            self.unswept.notify_one();
        }
        Ok(())
    }

    /// With the volume's lock held.
    async fn unstage_unused(&self, client: &driver::Driver, data: &VolumeData, block: bool) -> Result<()> {
        let same = |held: &Held| held.block == block && held.data.persistent && (&held.data.driver, &held.data.handle) == (&data.driver, &data.handle);
        let staging = self.places.staging_of(data, block);
        if self.places.held().iter().any(|(_, held)| same(held)) {
            return Ok(());
        }
        let stage = if block { "UnmapDevice" } else { "UnmountDevice" };
        let failed = |why: String| VolumeError::Stage { stage, volume: data.spec_name.clone(), why };
        lock(&self.staged).remove(&staging);
        // A folder that cannot be looked at (its driver died) is there; of one that is not, at most the note is left.
        if matches!(staging.try_exists(), Ok(false)) {
            return self.places.forget_staging(data, block).map_err(|error| failed(error.to_string()));
        }
        client.unstage(&data.handle, &staging).await.map_err(|status| failed(status.to_string()))?;
        if tmpfs::is_mounted(&staging)? {
            return Err(failed(format!("driver {} unstaged {} and left it mounted", data.driver, staging.display())));
        }
        self.places.forget_staging(data, block).map_err(|error| failed(error.to_string()))
    }

    /// Resolves when [`Csi::sweep`] has something to do.
    pub async fn unswept(&self) {
        self.unswept.notified().await;
    }

    /// Unstages what no pod of the node has: what an earlier run of the agent did not come to, or what failed. False: something was not done; of a
    /// driver that is not there, it is tried again when it comes.
    pub async fn sweep(&self) -> bool {
        let mut done = true;
        for (data, block) in self.places.staged() {
            let Ok(client) = self.driver(&data.driver) else { continue };
            let volume = self.lock_of(&data.driver, &data.handle);
            let _alone = volume.lock().await;
            if let Err(error) = self.unstage_unused(&client, &data, block).await {
                tracing::warn!(%error, driver = data.driver, "a volume that no pod has was not unstaged, will be tried again");
                done = false;
            }
        }
        self.release_uses("");
        done
    }
}
