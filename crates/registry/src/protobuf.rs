//! Representations in protobuf: objects, lists and watch frames. An object's message is made once and kept beside its JSON in the cache, so
//! that all who ask share it, a list is put together from parts and all watchers share one frame.

use crate::cache::Cached;
use crate::call::{Body, Form};
use crate::represent::View;
use crate::resource::api_version;
use bytes::Bytes;
use keles_api::Status;
use keles_api::protobuf::{self, Encoder};
use keles_api::status::ListMeta;
use serde_json::json;
use std::sync::Arc;

/// Size of the pieces of a long list, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

fn refused(e: protobuf::ProtobufError) -> Status {
    Status::failure(406, "NotAcceptable", e.to_string())
}

impl View {
    /// The apiVersion and kind of what is shown.
    fn shown(&self) -> (String, &'static str) {
        match self.form {
            Form::Partial(v) => (v.api_version().to_owned(), "PartialObjectMetadata"),
            _ => (api_version(&self.served), self.resource.info().kind),
        }
    }

    fn encoder(&self) -> Result<Encoder, Status> {
        let (api_version, kind) = self.shown();
        protobuf::encoder(&api_version, kind).ok_or_else(|| {
            Status::failure(
                406,
                "NotAcceptable",
                format!("{kind} of {api_version} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"),
            )
        })
    }

    fn message(&self, encoder: &mut Encoder, o: &Cached) -> Result<Bytes, Status> {
        if self.form != Form::Object || !self.is_storage() {
            return encoder.message(&self.shown_json(o)).map(Bytes::from).map_err(refused);
        }
        let make = || match self.resource.cache.tree_at_hand(o) {
            Some(tree) => {
                let message = encoder.message_of(&tree.0);
                debug_assert_eq!(message, encoder.message(&self.shown_json(o)), "of the tree and of its bytes");
                message
            }
            None => encoder.message(&self.shown_json(o)),
        };
        o.message(make).map_err(refused)
    }

    pub(crate) fn protobuf_list(&self, items: &[Arc<Cached>], meta: &ListMeta) -> Result<Body, Status> {
        let mut encoder = self.encoder()?;
        let messages = items.iter().map(|o| self.message(&mut encoder, o)).collect::<Result<Vec<_>, _>>()?;
        let (api_version, kind) = self.shown();
        let items_bytes = messages.iter().map(|m| protobuf::item_len(m.len())).sum();
        let start = protobuf::list_start(&api_version, &format!("{kind}List"), json!(meta).to_string().as_bytes(), items_bytes).map_err(refused)?;
        Ok(Body::Protobuf(Box::new(Pieces { start: Some(start), messages: messages.into_iter(), done: false })))
    }

    /// The whole message of an object.
    pub(crate) fn enveloped(&self, o: &Cached) -> Result<Bytes, Status> {
        let message = self.message(&mut self.encoder()?, o)?;
        let (api_version, kind) = self.shown();
        Ok(protobuf::envelope(&api_version, kind, &message).into())
    }

    /// A frame of an object that is in the cache.
    pub(crate) fn object_frame(&self, event: &str, o: &Cached) -> Result<Bytes, Status> {
        Ok(protobuf::watch_frame(event, &self.enveloped(o)?).into())
    }
}

/// A frame of any document: a Status, a bookmark.
pub(crate) fn frame(event: &str, json: &[u8]) -> Bytes {
    // Both kinds of document are made here and have a form; a watch without it would only miss a bookmark.
    protobuf::encode(json).map(|object| protobuf::watch_frame(event, &object).into()).unwrap_or_default()
}

/// A list in pieces.
struct Pieces {
    start: Option<Vec<u8>>,
    messages: std::vec::IntoIter<Bytes>,
    done: bool,
}

impl Iterator for Pieces {
    type Item = Bytes;
    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = self.start.take().unwrap_or_default();
        while out.len() < CHUNK_BYTES {
            let Some(m) = self.messages.next() else {
                out.extend_from_slice(protobuf::list_end());
                self.done = true;
                break;
            };
            protobuf::item_start(&mut out, m.len());
            out.extend_from_slice(&m);
        }
        Some(out.into())
    }
}
