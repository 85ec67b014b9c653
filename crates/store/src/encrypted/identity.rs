//! identity: values as they stand. First in a list it takes encryption off; last it reads what was written before there was any.

use super::{PREFIX, Transform, TransformError};
use async_trait::async_trait;
use bytes::Bytes;

pub struct Identity;

#[async_trait]
impl Transform for Identity {
    fn owns(&self, value: &[u8]) -> bool {
        !value.starts_with(PREFIX)
    }
    async fn seal(&self, _: &[u8], value: &[u8]) -> Result<Bytes, TransformError> {
        Ok(Bytes::copy_from_slice(value))
    }
    async fn open(&self, _: &[u8], value: &Bytes) -> Result<(Bytes, bool), TransformError> {
        if value.starts_with(PREFIX) { Err(TransformError::Encrypted) } else { Ok((value.clone(), false)) }
    }
}
