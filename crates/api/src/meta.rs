//! Validation of object metadata.
use crate::{Object, Path, Problems};
/// What a valid name is: upstream's messages of why `name` is not one. `prefix`: a generateName.
pub type NameCheck = fn(name: &str, prefix: bool) -> Vec<String>;
/// Metadata of an object about to be created.
pub fn validate_create(_o: &Object, _namespaced: bool, _name: NameCheck, _at: &Path, _p: &mut Problems) {}
/// Metadata of an object about to be updated.
pub fn validate_update(_new: &Object, _old: &Object, _at: &Path, _p: &mut Problems) {}
