//! What is asked of the authorizer, and the words of its refusal.

use crate::User;
use keles_api::Status;
use keles_api::selector::{FieldSelector, Selector};
use keles_api::status::Details;

/// What a list, watch or deletecollection is limited to (KEP-4601). What does not parse limits nothing: the request is then judged
/// as if it asked for everything.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    pub fields: FieldSelector,
    pub labels: Selector,
}

impl Selectors {
    /// From the two query parameters; absent when neither says anything.
    pub fn parse(fields: &str, labels: &str) -> Option<Selectors> {
        if fields.is_empty() && labels.is_empty() {
            return None;
        }
        Some(Selectors { fields: FieldSelector::parse(fields).unwrap_or_default(), labels: Selector::parse(labels).unwrap_or_else(|_| Selector::everything()) })
    }
    /// Whether only objects with `field` equal to `value` are asked for.
    pub fn demands(&self, field: &str, value: &str) -> bool {
        self.fields.requirements.iter().any(|r| !r.not && r.field == field && r.value == value)
    }
}

/// One question: may `user` do `verb` there?
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    /// API group of the resource; `""` is the core group.
    pub group: &'a str,
    /// API version of the resource; `*` or `""` when nobody asked for one.
    pub version: &'a str,
    /// Plural; empty for a path that is no resource.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Only looked at when `resource` is empty.
    pub path: &'a str,
    pub selectors: Option<&'a Selectors>,
}

impl<'a> Attributes<'a> {
    /// A question about nothing yet, to be filled by struct update.
    pub fn of(user: &'a User) -> Attributes<'a> {
        Attributes { user, verb: "", group: "", version: "", resource: "", subresource: "", namespace: "", name: "", path: "", selectors: None }
    }
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
    /// `pods/log`, or `pods`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() { self.resource.into() } else { format!("{}/{}", self.resource, self.subresource) }
    }

    /// The 403 that upstream answers.
    pub fn forbidden(&self, reason: &str) -> Status {
        let mut why = self.refusal();
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        if self.is_resource() {
            return Status::forbidden(self.group, self.resource, self.name, why);
        }
        Status::failure(403, "Forbidden", format!("forbidden: {why}")).with_details(Details::default())
    }

    fn refusal(&self) -> String {
        let (user, verb) = (&self.user.name, self.verb);
        if !self.is_resource() {
            return format!("User \"{user}\" cannot {verb} path \"{}\"", self.path);
        }
        let what = format!("User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\"", self.full_resource(), self.group);
        if self.namespace.is_empty() { format!("{what} at the cluster scope") } else { format!("{what} in the namespace \"{}\"", self.namespace) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_use_the_words_users_know() {
        let user = crate::user("jane", &[]);
        let a = Attributes { verb: "list", group: "apps", resource: "deployments", subresource: "scale", namespace: "shop", ..Attributes::of(&user) };
        assert_eq!(
            a.forbidden("").message,
            "deployments.apps is forbidden: User \"jane\" cannot list resource \"deployments/scale\" in API group \"apps\" in the namespace \"shop\""
        );
        let a = Attributes { path: "/metrics", verb: "get", ..Attributes::of(&user) };
        assert_eq!(a.forbidden("").message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }

    #[test]
    fn selectors_that_do_not_parse_limit_nothing() {
        assert!(Selectors::parse("", "").is_none());
        assert!(Selectors::parse("spec.nodeName=n1,status.phase!=Failed", "").is_some_and(|s| s.demands("spec.nodeName", "n1") && !s.demands("status.phase", "Failed")));
        assert!(Selectors::parse("what", "a in (").is_some_and(|s| s.fields.is_everything() && s.labels.is_everything()));
    }
}
