//! ComponentStatuses (deprecated since v1.19): how scheduler, controllers and store are, asked anew at each read; nothing is stored.
//!
//! A part that runs in this process says so itself ([`present`]); any other is asked on its local port, as upstream asks.
//! Sources: kubernetes pkg/registry/core/componentstatus, pkg/printers/internalversion.

use crate::chain::{Asked, method_not_allowed};
use crate::negotiate::Forms;
use crate::respond::{self, Style};
use crate::server::Inner;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use keles_api::selector::{FieldSelector, Selector};
use keles_api::{Status, problems};
use keles_registry::{Answer, Form, MetaVersion};
use keles_serve::tls::{AnyCertificate, provider};
use keles_serve::{Body, body};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const SCHEDULER: &str = "scheduler";
const CONTROLLERS: &str = "controller-manager";
const STORE: &str = "etcd-0";
/// Where a part that is a process of its own serves its health on this machine.
const PORTS: [(&str, u16); 2] = [(SCHEDULER, 10259), (CONTROLLERS, 10257)];
/// How long a part may take to answer; upstream's figure.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 10 << 10;

/// How many of each part run in this process: parts and API server share nothing else.
static PRESENT: Mutex<BTreeMap<&'static str, usize>> = Mutex::new(BTreeMap::new());

fn all_present() -> MutexGuard<'static, BTreeMap<&'static str, usize>> {
    PRESENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That a part runs in this process, until it is dropped.
#[derive(Debug)]
pub struct Present(&'static str);

/// Says that the scheduler runs in this process.
pub fn scheduler_present() -> Present {
    Present::new(SCHEDULER)
}
/// Says that the controllers run in this process.
pub fn controllers_present() -> Present {
    Present::new(CONTROLLERS)
}

impl Present {
    fn new(name: &'static str) -> Present {
        *all_present().entry(name).or_default() += 1;
        Present(name)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(n) = all_present().get_mut(self.0) {
            *n = n.saturating_sub(1);
        }
    }
}

/// How a part is; `Err` says what is wrong with it.
type Health = Result<String, String>;

pub async fn serve(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    let style = Style::new(server.media().accept(asked.request.headers(), Forms::All)?, asked.request.headers(), &asked.query);
    let name = asked.info.name.as_str();
    let document = match asked.info.verb {
        "get" if ![SCHEDULER, CONTROLLERS, STORE].contains(&name) => return Err(Status::failure(500, "", format!("Component not found: {name}"))),
        "get" => shown(&[(name, health(server, name).await)], false, style.accepted.form, asked.query.text("includeObject")),
        "list" => {
            let names = chosen(asked.query.text("fieldSelector"), asked.query.text("labelSelector"))?;
            let all = futures::future::join_all(names.into_iter().map(|name| async move { (name, health(server, name).await) })).await;
            shown(&all, true, style.accepted.form, asked.query.text("includeObject"))
        }
        _ => return Err(method_not_allowed()),
    };
    let answer = Answer::ok(serde_json::to_vec(&document).expect("a JSON tree always encodes"));
    Ok(respond::answer(answer, &style, &server.stops))
}

/// The components that selectors choose; they have a name and no labels.
fn chosen(fields: &str, labels: &str) -> Result<Vec<&'static str>, Status> {
    let labels = Selector::parse(labels).map_err(Status::bad_request)?;
    let fields = FieldSelector::parse(fields).map_err(Status::bad_request)?;
    if let Some(unknown) = fields.requirements.iter().find(|r| r.field != "metadata.name" && r.field != "metadata.namespace") {
        let label = problems::go_quote(&unknown.field);
        return Err(Status::bad_request(format!("{label} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")));
    }
    let is = |name: &'static str| move |field: &str| Cow::Borrowed(if field == "metadata.name" { name } else { "" });
    let all = [SCHEDULER, CONTROLLERS, STORE].into_iter();
    Ok(all.filter(|name| labels.matches(|_| None) && fields.matches(is(name))).collect())
}

async fn health(server: &Inner, name: &str) -> Health {
    let ok = || Ok("ok".to_owned());
    if name == STORE {
        return match server.registry.fresh(None).await {
            Ok(()) => ok(),
            Err(status) => Err(status.message),
        };
    }
    if all_present().get(name).is_some_and(|n| *n > 0) {
        return ok();
    }
    let port = PORTS.iter().find(|(part, _)| *part == name).map_or(0, |(_, port)| *port);
    ask(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

/// Asks `/healthz` of a part over TLS, whoever signed its certificate: it is on this machine.
async fn ask(at: SocketAddr) -> Health {
    let got = async {
        let tcp = TcpStream::connect(at).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::ConnectionRefused => format!("dial tcp {at}: connect: connection refused"),
            _ => format!("dial tcp {at}: {e}"),
        })?;
        let config = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate)).with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config)).connect(at.ip().into(), tcp).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = Request::get("/healthz").header("host", at.to_string()).body(body::empty()).map_err(|e| e.to_string())?;
        let (parts, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok::<_, String>((parts.status, String::from_utf8_lossy(&body).into_owned()))
    };
    match tokio::time::timeout(PATIENCE, got).await {
        Ok(Ok((code, text))) if (200..400).contains(&code.as_u16()) => Ok(text),
        Ok(Ok((code, _))) => Err(format!("HTTP probe failed with statuscode: {}", code.as_u16())),
        Ok(Err(why)) => Err(format!("Get \"https://{at}/healthz\": {why}")),
        Err(_) => Err(format!("Get \"https://{at}/healthz\": context deadline exceeded")),
    }
}

fn object(name: &str, health: &Health) -> Value {
    let (status, message) = match health {
        Ok(message) => ("True", message),
        Err(message) => ("False", message),
    };
    json!({"metadata": {"name": name}, "conditions": [{"type": "Healthy", "status": status, "message": message}]})
}

fn with_type(mut o: Value, kind: &str, api_version: &str) -> Value {
    o["kind"] = kind.into();
    o["apiVersion"] = api_version.into();
    o
}

/// The components in the form that was asked for.
fn shown(all: &[(&str, Health)], list: bool, form: Form, include: &str) -> Value {
    let whole = |(name, health): &(&str, Health)| object(name, health);
    let partial = |(name, _): &(&str, Health), v: MetaVersion| with_type(json!({"metadata": {"name": name}}), "PartialObjectMetadata", v.api_version());
    let of_type = |o: Value| with_type(o, "ComponentStatus", "v1");
    match form {
        Form::Table(v) => {
            let rows: Vec<Value> = all
                .iter()
                .map(|c| {
                    let (status, message) = match &c.1 {
                        Ok(message) => ("Healthy", message),
                        Err(message) => ("Unhealthy", message),
                    };
                    let mut row = json!({"cells": [c.0, status, message, ""]});
                    match include {
                        "None" => {}
                        "Object" => row["object"] = of_type(whole(c)),
                        _ => row["object"] = partial(c, v),
                    }
                    row
                })
                .collect();
            json!({"kind": "Table", "apiVersion": v.api_version(), "metadata": {}, "columnDefinitions": columns(), "rows": rows})
        }
        Form::Partial(v) if list => {
            let items: Vec<Value> = all.iter().map(|c| partial(c, v)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": v.api_version(), "metadata": {}, "items": items})
        }
        Form::Partial(v) => all.first().map(|c| partial(c, v)).unwrap_or_default(),
        Form::Object if list => json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all.iter().map(whole).collect::<Vec<_>>()}),
        Form::Object => all.first().map(|c| of_type(whole(c))).unwrap_or_default(),
    }
}

fn columns() -> Vec<Value> {
    let name = keles_kinds::table::NAME;
    let further =
        ["Status", "Message", "Error"].map(|n| json!({"name": n, "type": "string", "format": "", "description": format!("{n} of the component conditions"), "priority": 0}));
    std::iter::once(json!({"name": name.name, "type": name.kind, "format": name.format, "description": name.description, "priority": name.priority})).chain(further).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_does_not_listen_is_told_of_in_gos_words() {
        // Port 1 (tcpmux) is nobody's.
        let said = ask(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).await;
        assert_eq!(said, Err("Get \"https://127.0.0.1:1/healthz\": dial tcp 127.0.0.1:1: connect: connection refused".into()));
        let o = object("scheduler", &said);
        assert_eq!((&o["conditions"][0]["status"], &o["conditions"][0]["type"]), (&json!("False"), &json!("Healthy")));
    }

    #[test]
    fn selectors_choose_by_name_and_nothing_has_labels() {
        assert_eq!(chosen("metadata.name=etcd-0", ""), Ok(vec!["etcd-0"]));
        assert_eq!(chosen("metadata.name!=etcd-0", "!app"), Ok(vec!["scheduler", "controller-manager"]));
        assert_eq!(chosen("", "app=x"), Ok(vec![]));
        assert_eq!(chosen("spec.x=1", "").unwrap_err().code, 400);
    }
}
