//! `/scale`: an `autoscaling/v1` Scale as a view of a workload's replicas.

use crate::call::Answer;
use crate::exchange::Exchange;
use crate::managed_fields::manager;
use crate::options::WriteOptions;
use crate::patch::{Change, change_of, read_apply};
use crate::resource::api_version;
use crate::update::Part;
use crate::write::Outcome;
use keles_api::decode;
use keles_api::{Object, Path, Problems, Status, TypeRef, defaults, schema};
use keles_patch::managed::{self, OneVersion, SCALE_VERSION, Writer};
use serde_json::{Value, json};
use std::sync::Arc;

const SCALE_SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

/// Where a resource keeps what a Scale shows.
struct Paths {
    spec_replicas: Vec<String>,
    status_replicas: Vec<String>,
    selector: Selector,
    /// Replicas that are not there are an error rather than 0.
    replicas_must_be_there: bool,
}

enum Selector {
    /// A LabelSelector at `spec.selector`.
    Labels,
    /// A plain map there (ReplicationController).
    Map,
    /// A text at a path of its own, where there is one.
    Text(Option<Vec<String>>),
}

/// Built-in workloads, which agree but for the shape of their selector: group, plural, whether it is a plain map.
const WORKLOADS: &[(&str, &str, bool)] = &[("apps", "deployments", false), ("apps", "replicasets", false), ("apps", "statefulsets", false), ("", "replicationcontrollers", true)];

fn scale_type() -> Result<TypeRef<'static>, Status> {
    schema::builtin().get(SCALE_SCHEMA).ok_or_else(|| Status::internal("no schema for Scale"))
}

/// Who writes a Scale.
fn scale_writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: SCALE_VERSION, subresource: "scale", reset: &[], now: "" }
}

impl Exchange<'_> {
    fn paths(&self) -> Result<Paths, Status> {
        if let Some(p) = self.resource.kind.scale(&self.served) {
            return Ok(Paths { spec_replicas: p.spec_replicas, status_replicas: p.status_replicas, selector: Selector::Text(p.selector), replicas_must_be_there: true });
        }
        let info = self.resource.info();
        let row = WORKLOADS.iter().find(|(group, plural, _)| *plural == info.plural && *group == self.resource.group());
        let (_, _, map) = row.ok_or_else(|| Status::not_implemented(&format!("{}/scale", info.plural)))?;
        let path = |part: &str| vec![part.to_owned(), "replicas".to_owned()];
        Ok(Paths { spec_replicas: path("spec"), status_replicas: path("status"), selector: if *map { Selector::Map } else { Selector::Labels }, replicas_must_be_there: false })
    }

    fn scale_of(&self, o: &Object) -> Result<Object, Status> {
        let paths = self.paths()?;
        let selector = match &paths.selector {
            Selector::Labels => selector_text(o.at(&["spec", "selector"]), false),
            Selector::Map => selector_text(o.at(&["spec", "selector"]), true),
            Selector::Text(path) => path.as_ref().and_then(|p| at(o, p).as_str()).unwrap_or_default().to_owned(),
        };
        let mut meta = json!({});
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if !o.meta(field).is_null() {
                meta[field] = o.meta(field).clone();
            }
        }
        let mut s = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
            "spec": {}, "status": {"replicas": at(o, &paths.status_replicas).as_i64().unwrap_or(0)},
        });
        match at(o, &paths.spec_replicas).as_i64() {
            Some(0) | None => {}
            Some(n) => s["spec"]["replicas"] = n.into(),
        }
        if !selector.is_empty() {
            s["status"]["selector"] = selector.into();
        }
        Ok(Object(s))
    }

    /// Upstream's answer when a custom resource has no replicas to show.
    fn check_replicas(&self, o: &Object) -> Result<(), Status> {
        let paths = self.paths()?;
        if paths.replicas_must_be_there && at(o, &paths.spec_replicas).as_i64().is_none() {
            return Err(Status::internal(format!("the spec replicas field \".{}\" does not exist", paths.spec_replicas.join("."))));
        }
        Ok(())
    }

    fn scale_answer(&self, o: &Object) -> Result<Answer, Status> {
        let s = self.scale_of(o)?;
        Ok(Answer::ok(serde_json::to_vec(&s.0).map_err(Status::internal)?))
    }

    pub async fn scale_get(self) -> Result<Answer, Status> {
        let current = self.current(&self.own_key()).await?;
        let mut o = Arc::unwrap_or_clone(self.working_tree(&current).await?);
        self.resource.convert(&mut o, &self.working, &self.served);
        self.check_replicas(&o)?;
        self.scale_answer(&o)
    }

    pub async fn scale_put(mut self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.call.query, "UpdateOptions")?;
        let d = decode::decode(&self.call.body, self.call.body_format, scale_type()?, "Scale", options.field_validation)?;
        self.check_name(&d.object)?;
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager;
        let scale = d.object;
        self.scale_modify(d.warnings, false, &mut |_| Ok(scale.clone())).await
    }

    pub async fn scale_patch(mut self) -> Result<Answer, Status> {
        let change = change_of(self.call.patch_type)?;
        let options = WriteOptions::parse_patch(&self.call.query, change == Change::Apply)?;
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager.clone();
        let (ty, body) = (scale_type()?, self.call.body.clone());
        match change {
            Change::Patch(kind) => {
                let mut make = |scale: &Object| Ok(keles_patch::patch(kind, &scale.0, &body, ty, options.field_validation)?.object);
                self.scale_modify(Vec::new(), false, &mut make).await
            }
            Change::Apply => {
                let config = read_apply(&body)?.object;
                let manager = options.field_manager.clone();
                let now = self.request.now.clone();
                let mut make = |scale: &Object| {
                    let w = Writer { now: &now, ..scale_writer(&manager) };
                    if config.get("apiVersion").and_then(Value::as_str) != Some(SCALE_VERSION) || config.get("kind").and_then(Value::as_str) != Some("Scale") {
                        return Err(Status::bad_request(format!("invalid object type: {}", managed::show_kind(&config))));
                    }
                    let done = managed::apply(Some(&scale.0), &config, options.force, &w, &OneVersion { api_version: SCALE_VERSION, ty }).map_err(|e| e.to_status())?;
                    Ok(Object(done.object))
                };
                self.scale_modify(Vec::new(), true, &mut make).await
            }
        }
    }

    /// Turns a change of the Scale into a change of the replicas.
    async fn scale_modify(mut self, mut warnings: Vec<String>, applies: bool, make: &mut (dyn FnMut(&Object) -> Result<Object, Status> + Send)) -> Result<Answer, Status> {
        // Its owners are settled here, in terms of the Scale.
        self.applied = true;
        let mut result = None;
        let mut inner = |old: &Object| {
            let (working, paths) = (self.working, self.paths()?);
            let mut new = old.clone();
            self.resource.convert(&mut new, &working, &self.served);
            let replicas_at: Vec<&str> = paths.spec_replicas.iter().map(String::as_str).collect();
            let mut shown = self.scale_of(&new)?;
            shown.set_meta("managedFields", managed::to_scale(&new.0, &replicas_at));
            let mut scale = make(&shown)?;
            defaults::apply_static(&mut scale.0, scale_type()?);
            if !applies {
                let manager = manager(&self.request.field_manager, &self.call.user_agent);
                let w = Writer { now: &self.request.now, ..scale_writer(&manager) };
                let owners = managed::update(Some(&shown.0), &scale.0, &w, &OneVersion { api_version: SCALE_VERSION, ty: scale_type()? });
                scale.set_meta("managedFields", owners);
            }
            let owners = managed::from_scale(&new.0, scale.meta("managedFields"), &replicas_at, &api_version(&self.served));
            new.set_meta("managedFields", owners);
            let replicas = scale.at(&["spec", "replicas"]).as_i64().unwrap_or(0);
            if replicas < 0 {
                let mut p = Problems::new();
                p.invalid(&Path::new("spec.replicas"), replicas, "must be greater than or equal to 0");
                return Err(Status::invalid("autoscaling", "Scale", scale.name(), &p));
            }
            new.set_meta("resourceVersion", scale.resource_version());
            if !scale.uid().is_empty() {
                new.set_meta("uid", scale.uid());
            }
            put(&mut new.0, &paths.spec_replicas, replicas.into());
            result = Some(new.clone());
            self.resource.convert(&mut new, &self.served, &working);
            Ok(new)
        };
        let outcome = self.modify(Part::Main, &mut warnings, &mut inner).await?;
        let mut o = result.ok_or_else(|| Status::internal("the scale was not changed"))?;
        let revision = match outcome {
            Outcome::Same(c) => c.revision,
            Outcome::Wrote(_, revision) => revision,
        };
        o.set_meta("resourceVersion", revision.to_string());
        Ok(Answer { warnings, ..self.scale_answer(&o)? })
    }
}

fn at<'o>(o: &'o Object, path: &[String]) -> &'o Value {
    o.at(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Sets the value at a path, making the objects on the way.
fn put(v: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else { return *v = value };
    if !v.is_object() {
        *v = json!({});
    }
    put(&mut v[first.as_str()], rest, value);
}

/// The selector as text, the way `LabelSelector` prints: requirements sorted by key, joined by commas.
fn selector_text(s: &Value, plain_map: bool) -> String {
    let pairs = |m: &Value| m.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or("")))).collect::<Vec<_>>();
    if plain_map {
        return join(pairs(s));
    }
    let mut all = pairs(&s["matchLabels"]);
    for e in s["matchExpressions"].as_array().into_iter().flatten() {
        let key = e["key"].as_str().unwrap_or("").to_owned();
        let mut values: Vec<_> = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match e["operator"].as_str().unwrap_or("") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        all.push((key, text));
    }
    join(all)
}

fn join(mut all: Vec<(String, String)>) -> String {
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, t)| t).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selector_of_a_scale_is_text() {
        let s = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["y", "x"]}, {"key": "d", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&s, false), "a=1,b=2,c in (x,y),!d");
        assert_eq!(selector_text(&json!({"k": "v"}), true), "k=v");
    }
}
