//! What is asked of the authorizer, and the words of its refusal.

use crate::User;
use keles_api::Status;
use keles_api::status::Details;

/// One question: may `user` do `verb` there?
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    /// API group of the resource; `""` is the core group.
    pub group: &'a str,
    /// Plural; empty for a path that is no resource.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Only looked at when `resource` is empty.
    pub path: &'a str,
}

impl Attributes<'_> {
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
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
        let a = Attributes { user: &user, verb: "list", group: "apps", resource: "deployments", subresource: "scale", namespace: "shop", name: "", path: "" };
        assert_eq!(
            a.forbidden("").message,
            "deployments.apps is forbidden: User \"jane\" cannot list resource \"deployments/scale\" in API group \"apps\" in the namespace \"shop\""
        );
        let a = Attributes { resource: "", path: "/metrics", verb: "get", ..a };
        assert_eq!(a.forbidden("").message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}
