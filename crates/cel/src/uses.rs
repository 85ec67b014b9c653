//! The environments of Kubernetes' uses of CEL, with the types of their variables.
//!
//! Each answers "what may an expression in this field name". Names and types: the API fields' documentation of
//! admissionregistration.k8s.io/v1, apiextensions.k8s.io/v1, resource.k8s.io/v1 and apiserver.config.k8s.io/v1.

use crate::environment::Environment;
use crate::types::{Decl, Type};
use crate::value::{Key, Map, Text, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// `x-kubernetes-validations` of one schema: `self` and `oldSelf`. A rule that [`crate::Program::uses`] `oldSelf` is a transition rule;
/// with `optionalOldSelf` it runs on creation too, and `oldSelf` is an optional.
pub fn validation_rule(schema: &Arc<Decl>, optional_old_self: bool) -> Environment {
    let old = if optional_old_self { Arc::new(Decl::from(Type::optional(schema.ty.clone()))) } else { schema.clone() };
    Environment::new().declare("self", schema.clone()).declare("oldSelf", old)
}

/// Which variables an admission policy's or webhook's expressions have besides `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Admission<'a> {
    /// The policy has a `paramKind`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// `Object{…}` and `JSONPatch{…}`, for mutations.
    pub constructors: bool,
    /// The policy's variables before the expression, with the types their expressions have; `None`: no `variables` at all.
    pub variables: Option<&'a [(String, Type)]>,
}

impl Admission<'_> {
    /// Of a webhook's match conditions.
    pub const MATCH_CONDITION: Admission<'static> = Admission { params: false, authorizer: true, constructors: false, variables: None };

    pub fn environment(&self) -> Environment {
        let mut env =
            Environment::new().variable("object", Type::Dyn).variable("oldObject", Type::Dyn).declare("request", admission_request()).declare("namespaceObject", namespace());
        if self.params {
            env = env.variable("params", Type::Dyn);
        }
        if self.authorizer {
            env = env.variable("authorizer", Type::AUTHORIZER).variable("authorizer.requestResource", Type::Opaque("kubernetes.authorization.ResourceCheck"));
        }
        if self.constructors {
            env = env.with_constructors();
        }
        if let Some(variables) = self.variables {
            let fields = variables.iter().map(|(name, ty)| (name.as_str(), Decl::from(ty.clone())));
            env = env.declare("variables", Arc::new(Decl::object("kubernetes.variables", fields)));
        }
        env
    }
}

/// Selectors of devices: `device`.
pub fn device_selector() -> Environment {
    static DEVICE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
        let by_domain = |ty: Type| Decl::from(Type::map(Type::map(ty)));
        let fields = [
            ("driver", Decl::string()),
            ("attributes", by_domain(Type::Dyn)),
            ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
            ("allowMultipleAllocations", Decl::from(Type::Bool)),
        ];
        Arc::new(Decl::object("kubernetes.DRADevice", fields))
    });
    Environment::new().declare("device", DEVICE.clone())
}

/// The `device` variable, of a device as it stands in a ResourceSlice of `driver`. Names without a domain are in the driver's.
pub fn device(driver: &str, device: &Json) -> Value<'static> {
    let text = |s: &str| Key::String(Text::Shared(s.into()));
    let by_domain = |part: &str, read: &dyn Fn(&Json) -> Option<Value<'static>>| {
        let mut domains: BTreeMap<Key<'static>, BTreeMap<Key<'static>, Value<'static>>> = BTreeMap::new();
        for (name, entry) in device.get(part).and_then(Json::as_object).into_iter().flatten() {
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            if let Some(value) = read(entry) {
                domains.entry(text(domain)).or_default().insert(text(id), value);
            }
        }
        Value::Map(Map::Domains(Arc::new(domains.into_iter().map(|(d, ids)| (d, Value::Map(Map::Made(Arc::new(ids))))).collect())))
    };
    let attribute = |a: &Json| {
        let owned = |s: &str| Value::from(s.to_owned());
        Some(match a.as_object()?.iter().next()? {
            (kind, Json::String(s)) if kind == "version" => crate::library::semver::parse(s)?,
            (_, Json::String(s)) => owned(s),
            (_, Json::Bool(b)) => Value::Bool(*b),
            (_, Json::Number(n)) => Value::Int(n.as_i64()?),
            _ => return None,
        })
    };
    let capacity = |c: &Json| {
        let value = c.get("value")?;
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        keles_api::Quantity::parse(&shown).ok().map(Value::Quantity)
    };
    let fields = [
        (text("driver"), Value::from(driver.to_owned())),
        (text("attributes"), by_domain("attributes", &attribute)),
        (text("capacity"), by_domain("capacity", &capacity)),
        (text("allowMultipleAllocations"), Value::Bool(device.get("allowMultipleAllocations").and_then(Json::as_bool).unwrap_or(false))),
    ];
    Value::Map(Map::Made(Arc::new(fields.into_iter().collect())))
}

/// Claim mappings and claim validation rules of authentication configuration: `claims`.
pub fn authentication_claims() -> Environment {
    Environment::new().variable("claims", Type::map(Type::Dyn))
}

/// User validation rules of authentication configuration: `user`.
pub fn authentication_user() -> Environment {
    Environment::new().declare("user", Arc::new(user_info("kubernetes.UserInfo")))
}

/// Match conditions of authorization webhooks: `request`, a SubjectAccessReview's spec.
pub fn authorization_request() -> Environment {
    static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
        let requirement = |name: &str| {
            let fields = [("key", Decl::string()), ("operator", Decl::string()), ("values", texts())];
            Decl::object(name, fields)
        };
        let selector = |name: &str, of: &str| {
            let requirements = Type::list(requirement(of).ty);
            Decl::object(name, [("rawSelector", Decl::string()), ("requirements", Decl::from(requirements))])
        };
        let resource = Decl::object(
            "kubernetes.ResourceAttributes",
            [
                ("namespace", Decl::string()),
                ("verb", Decl::string()),
                ("group", Decl::string()),
                ("version", Decl::string()),
                ("resource", Decl::string()),
                ("subresource", Decl::string()),
                ("name", Decl::string()),
                ("fieldSelector", selector("kubernetes.FieldSelectorAttributes", "kubernetes.FieldSelectorRequirement")),
                ("labelSelector", selector("kubernetes.LabelSelectorAttributes", "kubernetes.LabelSelectorRequirement")),
            ],
        );
        let non_resource = Decl::object("kubernetes.NonResourceAttributes", [("path", Decl::string()), ("verb", Decl::string())]);
        let fields = [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", non_resource),
            ("user", Decl::string()),
            ("groups", texts()),
            ("extra", Decl::from(Type::map(Type::list(Type::String)))),
            ("uid", Decl::string()),
        ];
        Arc::new(Decl::object("kubernetes.SubjectAccessReviewSpec", fields))
    });
    Environment::new().declare("request", REQUEST.clone())
}

fn texts() -> Decl {
    Decl::from(Type::list(Type::String))
}

fn user_info(name: &str) -> Decl {
    let fields = [("username", Decl::string()), ("uid", Decl::string()), ("groups", texts()), ("extra", Decl::from(Type::map(Type::list(Type::String))))];
    Decl::object(name, fields)
}

/// The type of `request`: an AdmissionRequest without its objects; its value is `Value::typed(&json, &admission_request())`.
pub fn admission_request() -> Arc<Decl> {
    static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
        let kind = || Decl::object("kubernetes.GroupVersionKind", ["group", "version", "kind"].map(|n| (n, Decl::string())));
        let resource = || Decl::object("kubernetes.GroupVersionResource", ["group", "version", "resource"].map(|n| (n, Decl::string())));
        let fields = [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", Decl::string()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", Decl::string()),
            ("name", Decl::string()),
            ("namespace", Decl::string()),
            ("operation", Decl::string()),
            ("userInfo", user_info("kubernetes.UserInfo")),
            ("dryRun", Decl::from(Type::Bool)),
            ("options", Decl::from(Type::Dyn)),
        ];
        Arc::new(Decl::object("kubernetes.AdmissionRequest", fields))
    });
    REQUEST.clone()
}

/// The type of `namespaceObject`; the value is `null` for cluster scoped objects.
pub fn namespace() -> Arc<Decl> {
    static NAMESPACE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
        let time = || Decl::from(Type::Timestamp);
        let labels = || Decl::from(Type::map(Type::String));
        let metadata = [
            ("name", Decl::string()),
            ("generateName", Decl::string()),
            ("namespace", Decl::string()),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", Decl::string()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", Decl::from(Type::Int)),
            ("deletionTimestamp", time()),
            ("generation", Decl::from(Type::Int)),
            ("resourceVersion", Decl::string()),
            ("finalizers", texts()),
        ];
        let condition = [("type", Decl::string()), ("status", Decl::string()), ("lastTransitionTime", time()), ("message", Decl::string()), ("reason", Decl::string())];
        let conditions = Decl::from(Type::list(Decl::object("kubernetes.NamespaceCondition", condition).ty));
        let fields = [
            ("metadata", Decl::object("kubernetes.NamespaceMetadata", metadata)),
            ("spec", Decl::object("kubernetes.NamespaceSpec", [("finalizers", texts())])),
            ("status", Decl::object("kubernetes.NamespaceStatus", [("phase", Decl::string()), ("conditions", conditions)])),
        ];
        Arc::new(Decl::object("kubernetes.Namespace", fields))
    });
    NAMESPACE.clone()
}
