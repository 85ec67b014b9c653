//! Archives: `docker save` and the OCI layout, both in a tar, plain or compressed.
//!
//! The tar is read once for where its files lie, then each blob by offset: the list of images may stand at its end. A compressed tar is
//! unpacked to a file of its own first.

use crate::blob::Decompressed;
use crate::error::{ImageError, disk};
use crate::layer::{self, Expected, Slot};
use crate::layout::{Layout, Record};
use crate::{parse, record};
use keles_oci::manifest::SavedImage;
use keles_oci::{Descriptor, Digest, Document, ImageFile};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Manifests and configurations are small; larger ones are an attack or a mistake.
pub const DOCUMENT_LIMIT_BYTES: u64 = 8 << 20;
/// Links followed from name to name.
const LINKS_LIMIT: usize = 8;
/// Files in an archive.
const FILES_LIMIT: usize = 100_000;
/// Indexes within indexes.
const NESTING_LIMIT: usize = 4;

const NAME_ANNOTATION: &str = "io.containerd.image.name";
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Loads every image of the archive; all are complete when the first is recorded.
pub fn load(layout: &Layout, path: &Path) -> Result<Vec<Record>, ImageError> {
    let _use = layout.lock_use()?;
    let archive = Archive::open(layout, path)?;
    let images = if archive.has("manifest.json") { saved_images(&archive)? } else { layout_images(&archive)? };
    if images.is_empty() {
        return Err(archive.broken("it holds no image for this machine"));
    }
    let mut records = Vec::new();
    for image in images {
        let size = image.layers.iter().try_fold(0, |size, l| Ok::<u64, ImageError>(size + unpack_layer(layout, &archive, &image, l)?))?;
        records.push(record(image.id, image.file, size, image.tags, image.digests));
    }
    records.into_iter().map(|r| layout.commit(r)).collect()
}

/// An image whose layers are still in the archive.
struct Found {
    id: Digest,
    file: ImageFile,
    tags: Vec<String>,
    digests: Vec<String>,
    layers: Vec<FoundLayer>,
}

struct FoundLayer {
    diff_id: Digest,
    name: String,
    blob: Option<Digest>,
}

fn unpack_layer(layout: &Layout, archive: &Archive, image: &Found, layer: &FoundLayer) -> Result<u64, ImageError> {
    match layer::claim(layout, &layer.diff_id)? {
        Slot::Present(size) => Ok(size),
        Slot::Missing(_lock) => {
            let shown = image.tags.first().cloned().unwrap_or_else(|| image.id.to_string());
            layer::make(layout, &Expected { image: &shown, diff_id: &layer.diff_id, blob: layer.blob.as_ref() }, archive.reader(&layer.name)?, || ())
        }
    }
}

fn saved_images(archive: &Archive) -> Result<Vec<Found>, ImageError> {
    let saved: Vec<SavedImage> = archive.json("manifest.json")?;
    saved.into_iter().map(|image| saved_image(archive, image)).collect()
}

fn saved_image(archive: &Archive, saved: SavedImage) -> Result<Found, ImageError> {
    let config = archive.document(&saved.config)?;
    let tags = saved.repo_tags.iter().map(|t| parse(t).map(|r| r.to_string())).collect::<Result<_, _>>()?;
    let layers = saved.layers.into_iter().map(|name| (name, None)).collect();
    found(archive, &saved.config, config, layers, tags, Vec::new())
}

fn found(archive: &Archive, name: &str, config: Vec<u8>, layers: Vec<(String, Option<Digest>)>, tags: Vec<String>, digests: Vec<String>) -> Result<Found, ImageError> {
    let file: ImageFile = serde_json::from_slice(&config).map_err(|e| archive.broken(&format!("the configuration {name} is not valid: {e}")))?;
    if file.rootfs.diff_ids.len() != layers.len() {
        return Err(archive.broken(&format!("the configuration {name} names {} layers, the manifest {}", file.rootfs.diff_ids.len(), layers.len())));
    }
    let layers = file.rootfs.diff_ids.iter().cloned().zip(layers).map(|(diff_id, (name, blob))| FoundLayer { diff_id, name, blob }).collect();
    Ok(Found { id: Digest::of(&config), file, tags, digests, layers })
}

fn layout_images(archive: &Archive) -> Result<Vec<Found>, ImageError> {
    if !archive.has("index.json") {
        return Err(archive.broken("it has neither manifest.json (docker save) nor index.json (OCI layout)"));
    }
    let bytes = archive.document("index.json")?;
    let Document::Index(index) = archive.parsed("index.json", &bytes)? else { return Err(archive.broken("index.json is not an index")) };
    // Each entry is an image of its own, or (several without names) the variants of one.
    let named = |d: &&Descriptor| d.annotations.contains_key(NAME_ANNOTATION) || d.annotations.contains_key(REF_ANNOTATION);
    let chosen: Vec<&Descriptor> = if index.manifests.iter().any(|d| named(&d)) { index.manifests.iter().filter(named).collect() } else { index.for_host().into_iter().collect() };
    let mut images = Vec::new();
    for descriptor in chosen.into_iter().filter(|d| d.platform.as_ref().is_none_or(|p| p.runs_here())) {
        images.extend(layout_image(archive, descriptor)?);
    }
    Ok(images)
}

fn layout_image(archive: &Archive, descriptor: &Descriptor) -> Result<Option<Found>, ImageError> {
    let mut wanted = descriptor.clone();
    for _ in 0..NESTING_LIMIT {
        let manifest = match archive.parsed(wanted.digest.as_str(), &archive.blob(&wanted.digest)?)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => match index.for_host() {
                Some(inner) => {
                    wanted = inner.clone();
                    continue;
                }
                None => return Ok(None),
            },
        };
        let (tags, digests) = names(descriptor)?;
        let config = archive.blob(&manifest.config.digest)?;
        let layers = manifest.layers.iter().map(|l| (blob_name(&l.digest), Some(l.digest.clone()))).collect();
        return found(archive, manifest.config.digest.as_str(), config, layers, tags, digests).map(Some);
    }
    Err(archive.broken("its indexes are nested too deeply"))
}

/// Tags and digests by the annotations; a bare tag (`latest`) names no image.
fn names(descriptor: &Descriptor) -> Result<(Vec<String>, Vec<String>), ImageError> {
    let whole = descriptor.annotations.get(REF_ANNOTATION).filter(|r| r.contains([':', '/']));
    let Some(name) = descriptor.annotations.get(NAME_ANNOTATION).or(whole) else { return Ok((Vec::new(), Vec::new())) };
    let reference = parse(name)?;
    Ok((reference.tagged().into_iter().collect(), vec![reference.with_digest(&descriptor.digest)]))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Archive {
    path: String,
    file: File,
    /// Name to offset and size.
    files: HashMap<String, (u64, u64)>,
    /// Name to the name it stands for: `docker save` once linked equal layers.
    links: HashMap<String, String>,
}

impl Archive {
    fn open(layout: &Layout, path: &Path) -> Result<Archive, ImageError> {
        let failed = |e: io::Error| ImageError::Archive { path: path.display().to_string(), what: e.to_string() };
        let file = File::open(path).map_err(failed)?;
        let mut decompressed = Decompressed::new(&file).map_err(failed)?;
        let file = if decompressed.is_compressed() { spool(layout, &mut decompressed)? } else { File::open(path).map_err(failed)? };
        let mut archive = Archive { path: path.display().to_string(), file, files: HashMap::new(), links: HashMap::new() };
        archive.index().map_err(failed)?;
        Ok(archive)
    }

    fn index(&mut self) -> io::Result<()> {
        let file = self.file.try_clone()?;
        let size = file.metadata()?.len();
        for entry in tar::Archive::new(file).entries_with_seek()? {
            let entry = entry?;
            let Some(name) = clean(&entry.path_bytes()) else { continue };
            if self.files.len() + self.links.len() >= FILES_LIMIT {
                return Err(io::Error::other(format!("it has more than {FILES_LIMIT} files")));
            }
            let kind = entry.header().entry_type();
            if kind.is_file() || kind.is_contiguous() {
                let (offset, length) = (entry.raw_file_position(), entry.size());
                // Seeking over content does not notice that it is not there.
                if offset.checked_add(length).is_none_or(|end| end > size) {
                    return Err(io::Error::other(format!("it is cut short in {name}")));
                }
                self.files.insert(name, (offset, length));
            } else if let Some(link) = entry.link_name_bytes() {
                let to = if kind.is_hard_link() { link.to_vec() } else { [folder_of(&name).as_bytes(), b"/", &*link].concat() };
                self.links.extend(clean(&to).map(|to| (name, to)));
            }
        }
        Ok(())
    }

    fn broken(&self, what: &str) -> ImageError {
        ImageError::Archive { path: self.path.clone(), what: what.to_string() }
    }

    fn locate(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = clean(name.as_bytes())?;
        for _ in 0..LINKS_LIMIT {
            match self.files.get(&name) {
                Some(found) => return Some(*found),
                None => name = self.links.get(&name)?.clone(),
            }
        }
        None
    }

    fn has(&self, name: &str) -> bool {
        self.locate(name).is_some()
    }

    fn reader(&self, name: &str) -> Result<Section<'_>, ImageError> {
        let (offset, length) = self.locate(name).ok_or_else(|| self.broken(&format!("{name} is missing")))?;
        Ok(Section { file: &self.file, offset, length })
    }

    /// A small file whole.
    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut section = self.reader(name)?;
        if section.length > DOCUMENT_LIMIT_BYTES {
            return Err(self.broken(&format!("{name} is larger than {DOCUMENT_LIMIT_BYTES} bytes")));
        }
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).map_err(|e| self.broken(&format!("{name} cannot be read: {e}")))?;
        Ok(bytes)
    }

    /// A small file by its digest, verified.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&blob_name(digest))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(ImageError::Mismatch { image: self.path.clone(), what: "a blob".into(), expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.document(name)?).map_err(|e| self.broken(&format!("{name} is not valid: {e}")))
    }

    fn parsed(&self, name: &str, bytes: &[u8]) -> Result<Document, ImageError> {
        Document::parse(bytes).map_err(|e| self.broken(&format!("{name}: {e}")))
    }
}

/// Unpacks a compressed archive to a file without a name: it goes when it is closed, whatever happens.
fn spool(layout: &Layout, from: &mut impl Read) -> Result<File, ImageError> {
    let path = layout.new_tmp();
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).map_err(disk(&path))?;
    let _ = std::fs::remove_file(&path);
    io::copy(from, &mut file).map_err(disk(&path))?;
    io::Seek::rewind(&mut file).map_err(disk(&path))?;
    Ok(file)
}

/// The name without `.`, with `..` resolved; absent when it leads out or is not text.
fn clean(name: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A part of a file, read by offset: several may be read at once.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    length: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.length).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.length -= count as u64;
        Ok(count)
    }
}
