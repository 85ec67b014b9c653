//! Group-versions that handlers of this server's own answer, beside the stored kinds: one row each, with an APIService without a Service.
//!
//! An APIService of the same name that names a Service wins: whoever installs a server for the group has its answers.

use super::documents::Documents;
use crate::chain::Asked;
use crate::resource_metrics;
use crate::server::Inner;
use futures::future::BoxFuture;
use http::Response;
use keles_api::Status;
use keles_serve::Body;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

pub struct Local {
    pub group: &'static str,
    pub version: &'static str,
    /// For the merged documents.
    pub documents: LazyLock<Arc<Documents>>,
    /// Its OpenAPI v3 document.
    pub v3: LazyLock<Value>,
    /// Answers what is below `/apis/GROUP/VERSION`, that path included.
    pub serve: for<'a> fn(&'a Inner, Asked) -> BoxFuture<'a, Result<Response<Body>, Status>>,
}

pub static LOCALS: [Local; 1] = [Local {
    group: resource_metrics::GROUP,
    version: resource_metrics::VERSION,
    documents: LazyLock::new(|| Arc::new(resource_metrics::documents::documents())),
    v3: LazyLock::new(resource_metrics::documents::v3),
    serve: |server, asked| Box::pin(resource_metrics::serve(server, asked)),
}];
