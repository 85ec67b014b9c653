//! Client certificates: the common name is the user, the organizations are the groups.

use crate::{User, mark_authenticated};
use keles_pki::Subject;

/// Extra key that tells credentials apart, as upstream writes it.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The user of a certificate that has been verified. `None` without a common name.
pub fn user(leaf_der: &[u8], sha256_hex: &str) -> Option<User> {
    let s = Subject::of(leaf_der)?;
    if s.common_name.is_empty() {
        return None;
    }
    let mut u = User { name: s.common_name, groups: s.organizations, ..User::default() };
    u.extra.insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={sha256_hex}")]);
    mark_authenticated(&mut u);
    Some(u)
}
