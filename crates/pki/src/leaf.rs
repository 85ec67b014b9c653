//! What a certificate says of itself, as whoever renews it asks.

use crate::authority::names_of;
use crate::{Names, Subject};
use jiff::Timestamp;
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub subject: Subject,
    pub names: Names,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Leaf {
    /// Of a certificate in DER; `None` when it does not parse.
    pub fn of(der: &[u8]) -> Option<Leaf> {
        let (_, c) = X509Certificate::from_der(der).ok()?;
        let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).ok();
        let validity = c.validity();
        Some(Leaf { subject: Subject::of(der)?, names: names_of(&c), not_before: time(validity.not_before)?, not_after: time(validity.not_after)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_tells_whom_it_names_and_when() {
        let names = Names { dns: vec!["n1".into()], ips: vec![[10, 0, 0, 7].into()] };
        let made = crate::self_signed("system:node:n1", &names).expect("made");
        let leaf = Leaf::of(&made.certificate_der().expect("PEM")[0]).expect("parses");
        assert_eq!((leaf.subject.common_name.as_str(), &leaf.names), ("system:node:n1", &names));
        let now = Timestamp::now();
        assert!(leaf.not_before < now && now < leaf.not_after);
        assert_eq!(Leaf::of(b"x"), None);
    }
}
