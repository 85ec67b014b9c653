//! A certificate that nobody signed but itself, for a part that serves and was given none.

use crate::{Certified, Names, PkiError, Result};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use std::time::{Duration, SystemTime};

const LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Clocks of other machines may be behind ours.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A new key and its certificate for `names`, good for a year; nothing is written.
pub fn self_signed(name: &str, names: &Names) -> Result<Certified> {
    let failed = |source| PkiError::Certificate { name: name.to_owned(), source };
    let mut params = CertificateParams::new(names.dns.clone()).map_err(failed)?;
    params.subject_alt_names.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LIFE).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Certified { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subject;

    #[test]
    fn it_names_itself_and_has_its_key() {
        let made = self_signed("kube-scheduler", &Names { dns: vec!["localhost".into()], ips: vec![[127, 0, 0, 1].into()] }).expect("made");
        let chain = made.certificate_der().expect("PEM");
        assert_eq!((chain.len(), Subject::of(&chain[0]).expect("a subject").common_name.as_str()), (1, "kube-scheduler"));
        assert!(made.key_der().is_some());
    }
}
