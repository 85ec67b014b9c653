//! Get and list, from the watch cache, as fresh as asked.

use crate::cache::{Cached, Map};
use crate::call::Answer;
use crate::exchange::Exchange;
use crate::kind::{AnyKind, Served, UnknownSelector};
use crate::metrics;
use crate::options::{ListOptions, VersionMatch};
use crate::resource::api_version;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use keles_api::status::{Cause, Details, ListMeta};
use keles_api::{FieldSelector, Selector, Status};
use keles_store::StoreError;
use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

/// What a list or watch lets through.
#[derive(Clone)]
pub struct Filter {
    labels: Selector,
    /// `None` when every object passes.
    fields: Option<FieldSelector>,
    /// `ns/` when one namespace is asked for, else empty.
    prefix: String,
    /// A watch of one name in the path, else empty.
    name: String,
}

impl Filter {
    pub fn new(x: &Exchange<'_>, o: &ListOptions) -> Result<Self, Status> {
        let labels = Selector::parse(&o.label_selector).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(&o.field_selector).map_err(Status::bad_request)?;
        let info = x.resource.info();
        for r in &fields.requirements {
            // Kinds that name their own labels name the namespace only where they have one.
            let no_namespace = !x.resource.namespaced() && info.unknown_selector == UnknownSelector::NotSupported;
            let known = r.field == "metadata.name" || r.field == "metadata.namespace" && !no_namespace || x.resource.kind.selects(&x.served, &r.field);
            if !known {
                return Err(Status::bad_request(unknown_selector(info.unknown_selector, &r.field, &x.served)));
            }
        }
        let fields = Some(fields).filter(|f| !f.requirements.is_empty());
        let namespace = &x.request.namespace;
        let prefix = if x.resource.namespaced() && !namespace.is_empty() { format!("{namespace}/") } else { String::new() };
        Ok(Filter { labels, fields, prefix, name: x.request.name.clone() })
    }
    /// Whether selectors are there: then counts of what remains are unknown.
    pub fn selects(&self) -> bool {
        !self.labels.is_everything() || self.fields.is_some() || !self.name.is_empty()
    }
    /// Where the keys of all it lets through start.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
    pub fn matches(&self, o: &Cached, kind: &dyn AnyKind) -> bool {
        o.key.starts_with(&self.prefix)
            && (self.name.is_empty() || self.name == o.name())
            && (self.labels.is_everything() || self.labels.matches(|k| o.label(k)))
            && self.fields.as_ref().is_none_or(|f| f.matches(|name| Cow::Borrowed(o.field(name, kind))))
    }
    /// Objects of the map from `start` on that pass; `take` says when to stop.
    fn pick(&self, map: &Map, start: &str, limit: usize, kind: &dyn AnyKind) -> Picked {
        let from = if start.is_empty() { self.prefix.clone() } else { format!("{}{start}", self.prefix) };
        let mut picked = Picked { items: Vec::new(), next: None, remaining: 0 };
        let range = map.range::<(Bound<&str>, Bound<&str>), str>((Bound::Included(&*from), Bound::Unbounded));
        for (key, o) in range.take_while(|(k, _)| k.starts_with(&self.prefix)) {
            if limit > 0 && picked.items.len() == limit {
                if picked.next.is_none() {
                    picked.next = picked.items.last().map(|o: &Arc<Cached>| format!("{}\0", &o.key[self.prefix.len()..]));
                }
                if self.selects() {
                    break;
                }
                picked.remaining += 1;
                continue;
            }
            let _ = key;
            if self.matches(o, kind) {
                picked.items.push(o.clone());
            }
        }
        picked
    }
}

struct Picked {
    items: Vec<Arc<Cached>>,
    /// Where the next page starts.
    next: Option<String>,
    remaining: i64,
}

fn unknown_selector(how: UnknownSelector, label: &str, served: &Served) -> String {
    match how {
        UnknownSelector::Known => format!("{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", keles_api::problems::go_quote(label)),
        UnknownSelector::NotSupported => format!("field label not supported: {label}"),
        UnknownSelector::Text(t) => t.replace("{version}", &api_version(served)).replace("{}", label),
    }
}

/// 504: the asked revision is ahead of the store.
pub fn too_new(asked: u64, current: u64) -> Status {
    let mut s = Status::timeout(format!("Timeout: Too large resource version: {asked}, current: {current}")).with_details(Details { retry_after_seconds: 1, ..Details::default() });
    s = s.with_causes(vec![Cause { reason: "ResourceVersionTooLarge".into(), message: "Too large resource version".into(), ..Cause::default() }]);
    s
}

/// A continue token, in upstream's format.
struct Token {
    /// -1: go on at the present revision (an inconsistent list).
    revision: i64,
    /// Relative to the list's prefix.
    start: String,
}

/// URL-safe without padding, as forgiving about trailing bits as Go.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::RequireNone).with_decode_allow_trailing_bits(true),
);

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    fn encode(revision: i64, start: &str) -> String {
        BASE64.encode(serde_json::json!({"v": TOKEN_VERSION, "rv": revision, "start": start}).to_string())
    }
    fn decode(text: &str) -> Result<Self, Status> {
        let bad = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = BASE64.decode(text).map_err(|e| match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => bad(format!("illegal base64 data at input byte {at}")),
            _ => bad(format!("illegal base64 data at input byte {}", text.len())),
        })?;
        let v: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| bad(go_json_error(&bytes)))?;
        let version = v["v"].as_str().unwrap_or("");
        if version != TOKEN_VERSION {
            return Err(bad(format!("server does not recognize this encoded version {version:?}")));
        }
        let (revision, start) = (v["rv"].as_i64().unwrap_or(0), v["start"].as_str().unwrap_or(""));
        if revision == 0 {
            return Err(bad(format!("incorrect encoded start resourceVersion (version {TOKEN_VERSION})")));
        }
        if start.is_empty() {
            return Err(bad(format!("encoded start key empty (version {TOKEN_VERSION})")));
        }
        if start.split('/').any(|p| p == "..") {
            return Err(bad(start.to_owned()));
        }
        Ok(Token { revision, start: start.into() })
    }
}

/// What Go's decoder says of bytes that are no JSON, for the first byte.
fn go_json_error(bytes: &[u8]) -> String {
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b) if !matches!(b, b'{' | b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n') => {
            format!("invalid character '{}' looking for beginning of value", char::from(*b))
        }
        Some(_) => "unexpected end of JSON input".into(),
        None => "unexpected end of JSON input".into(),
    }
}

const EXPIRED_TOKEN: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
const EXPIRED_LIST: &str = "The resourceVersion for the provided list is too old.";

impl Exchange<'_> {
    pub async fn get(&self) -> Result<Answer, Status> {
        let asked = crate::options::revision(self.call.query.text("resourceVersion"))?;
        self.registry.fresh(asked).await?;
        let key = self.resource.key(&self.request.namespace, &self.request.name);
        let o = self.resource.cache.get(&key).ok_or_else(|| self.resource.absent(&self.served, &key, &self.request.name))?;
        Ok(Answer::ok(self.view.object(&*self.shown(o).await?)?))
    }

    pub async fn list(&self) -> Result<Answer, Status> {
        let options = ListOptions::parse(&self.call.query, false)?;
        let filter = Filter::new(self, &options)?;
        let (items, meta) = self.page(&options, &filter).await?;
        self.view.list(items, &meta)
    }

    /// One page of objects, and the list's metadata.
    pub async fn page(&self, o: &ListOptions, filter: &Filter) -> Result<(Vec<Arc<Cached>>, ListMeta), Status> {
        let (map, revision, start, limit) = self.state(o).await?;
        self.resource.cache.unreadable.under(filter.prefix())?;
        let map = self.resource.map_in(map, &filter.prefix, &self.served).await?;
        let picked = filter.pick(&map, &start, limit, &*self.resource.kind);
        let (group, plural) = (self.resource.group(), self.resource.info().plural);
        metrics::CACHE_LISTS.with([group, "", plural]).increment();
        metrics::CACHE_LIST_FETCHED.with([group, "", plural]).add(map.len() as u64);
        metrics::CACHE_LIST_RETURNED.with([group, plural]).add(picked.items.len() as u64);
        let mut meta = ListMeta { resource_version: revision.to_string(), ..ListMeta::default() };
        if let Some(next) = picked.next {
            meta.continue_ = Token::encode(revision as i64, &next);
            meta.remaining_item_count = (!filter.selects()).then_some(picked.remaining);
        }
        Ok((picked.items, meta))
    }

    /// The state to list, its revision, where to start and the limit that counts.
    async fn state(&self, o: &ListOptions) -> Result<(Map, u64, String, usize), Status> {
        if !o.continue_token.is_empty() {
            let token = Token::decode(&o.continue_token)?;
            if o.revision.is_some_and(|r| r > 0) {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            if token.revision > 0 {
                let revision = token.revision as u64;
                let map = self.at(revision).await.map_err(|e| self.expired(e, Some(&token)))?;
                return Ok((map, revision, token.start, o.limit));
            }
            let (map, revision) = self.latest(None).await?;
            return Ok((map, revision, token.start, o.limit));
        }
        let exact = o.version_match == VersionMatch::Exact || o.version_match == VersionMatch::Unset && o.limit > 0 && o.revision.is_some_and(|r| r > 0);
        if let (true, Some(revision)) = (exact, o.revision) {
            let map = self.at(revision).await.map_err(|e| self.expired(e, None))?;
            return Ok((map, revision, String::new(), o.limit));
        }
        let (map, revision) = self.latest(o.revision).await?;
        // Upstream serves "any version" from its cache, where it knows no limit.
        let limit = if o.revision == Some(0) { 0 } else { o.limit };
        Ok((map, revision, String::new(), limit))
    }

    async fn latest(&self, asked: Option<u64>) -> Result<(Map, u64), Status> {
        self.registry.fresh(asked).await?;
        let (map, revision, _) = self.resource.cache.snapshot(self.registry.seen());
        Ok((map, revision))
    }

    /// The state at exactly `revision`: by undoing recent events, or from the store's history.
    async fn at(&self, revision: u64) -> Result<Map, StoreError> {
        let current = self.registry.store().revision().await?;
        if revision > current {
            return Err(StoreError::Future { asked: revision, current });
        }
        self.registry.wait_seen(revision).await;
        if let Some(map) = self.resource.cache.snapshot_at(revision) {
            return Ok(map);
        }
        let page = self.registry.store().range(self.resource.prefix.as_bytes(), None, 0, Some(revision)).await?;
        if let Some((_, why)) = page.unreadable.into_iter().next() {
            return Err(StoreError::Unreadable(why));
        }
        let head = &self.resource.cache.head;
        Ok(page
            .entries
            .iter()
            .filter_map(|e| {
                let key = std::str::from_utf8(e.key.get(self.resource.prefix.len()..)?).ok()?;
                Some((Arc::from(key), Arc::new(Cached::new(key, &e.value, e.modified, head, "ADDED"))))
            })
            .collect())
    }

    fn expired(&self, e: StoreError, token: Option<&Token>) -> Status {
        match (e, token) {
            (StoreError::Compacted { .. }, Some(t)) => {
                let mut s = Status::expired(EXPIRED_TOKEN);
                s.metadata.continue_ = Token::encode(-1, &t.start);
                s
            }
            (StoreError::Compacted { .. }, None) => Status::expired(EXPIRED_LIST),
            (StoreError::Future { asked, current }, _) => too_new(asked, current),
            (e, _) => crate::write::store_error(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_continue_token_says_what_gos_decoder_says() {
        let e = Token::decode("zzz").map(|_| ()).unwrap_err();
        assert_eq!(e.message, "invalid continue token: continue key is not valid: invalid character '\u{cf}' looking for beginning of value");
        assert_eq!(e.code, 400);
    }

    #[test]
    fn a_continue_token_round_trips() {
        let t = Token::decode(&Token::encode(7, "ns/a\0")).unwrap();
        assert_eq!((t.revision, t.start.as_str()), (7, "ns/a\0"));
    }
}
