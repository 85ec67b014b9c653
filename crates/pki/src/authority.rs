//! A certificate authority and the leaves it signs, as files.

use crate::{Names, PkiError, Result, files};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub const CA_DAYS: u64 = 3650;
pub const LEAF_DAYS: u64 = 365;
/// A leaf with less than this left is made anew at the next start.
pub const RENEW_BEFORE_DAYS: u64 = 90;
/// Clocks of other machines may be behind ours.
const BACKDATE: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The certificates in a PEM text, in its order; what is none is passed over.
pub fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    rustls_pemfile::certs(&mut pem.as_bytes()).filter_map(std::result::Result::ok).collect()
}

/// A certificate with its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Certified {
    pub fn certificate_der(&self) -> Option<Vec<CertificateDer<'static>>> {
        rustls_pemfile::certs(&mut self.certificate_pem.as_bytes()).collect::<std::result::Result<Vec<_>, _>>().ok().filter(|c| !c.is_empty())
    }
    pub fn key_der(&self) -> Option<PrivateKeyDer<'static>> {
        rustls_pemfile::private_key(&mut self.key_pem.as_bytes()).ok().flatten()
    }
}

/// Whom a client certificate names: common name is the user, organizations are the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

impl Subject {
    pub fn of(der: &[u8]) -> Option<Subject> {
        let (_, c) = X509Certificate::from_der(der).ok()?;
        let texts = |oid: &x509_parser::der_parser::oid::Oid<'_>| -> Vec<String> {
            c.subject().iter_attributes().filter(|a| a.attr_type() == oid).filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
        };
        Some(Subject {
            common_name: texts(&x509_parser::oid_registry::OID_X509_COMMON_NAME).into_iter().last().unwrap_or_default(),
            organizations: texts(&x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME),
        })
    }
}

pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf should be.
struct Wanted<'a> {
    file: &'a str,
    user: &'a str,
    group: Option<&'a str>,
    names: &'a Names,
    usage: ExtendedKeyUsagePurpose,
}

impl Authority {
    /// Opens `<file>.crt` and `<file>.key`, or makes them.
    pub fn open(dir: &Path, file: &str, name: &str) -> Result<Authority> {
        let (crt, key) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
        let (certificate_pem, key_pem) = match (files::read(&crt)?, files::read(&key)?) {
            (Some(c), Some(k)) => (c, k),
            // The key is written first: a lone key is a start that was cut short, and signed nothing.
            (None, _) => Self::make(&crt, &key, name)?,
            (Some(_), None) => return Err(PkiError::Damaged { path: crt, what: "CA certificate", why: "its key is missing".into() }),
        };
        let pair = KeyPair::from_pem(&key_pem).map_err(|e| PkiError::Damaged { path: key, what: "CA key", why: e.to_string() })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, pair).map_err(|e| PkiError::Damaged { path: crt, what: "CA certificate", why: e.to_string() })?;
        Ok(Authority { certificate_pem, issuer })
    }

    fn make(crt: &Path, key: &Path, name: &str) -> Result<(String, String)> {
        let fail = |source| PkiError::Certificate { name: name.into(), source };
        let pair = KeyPair::generate().map_err(fail)?;
        let mut p = CertificateParams::default();
        p.distinguished_name = distinguished(&format!("{name}@{}", unix_seconds()), None);
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::CrlSign];
        set_validity(&mut p, CA_DAYS);
        let certificate = p.self_signed(&pair).map_err(fail)?.pem();
        files::write_atomically(key, pair.serialize_pem().as_bytes())?;
        files::write_atomically(crt, certificate.as_bytes())?;
        Ok((certificate, pair.serialize_pem()))
    }

    /// An authority that the operator keeps (`--cluster-signing-cert-file`, `--cluster-signing-key-file`); never made.
    pub fn read(certificate: &Path, key: &Path) -> Result<Authority> {
        let missing = |path: &Path, what| PkiError::Damaged { path: path.into(), what, why: "there is no such file".into() };
        let certificate_pem = files::read(certificate)?.ok_or_else(|| missing(certificate, "CA certificate"))?;
        let key_pem = files::read(key)?.ok_or_else(|| missing(key, "CA key"))?;
        let pair = KeyPair::from_pem(&key_pem).map_err(|e| PkiError::Damaged { path: key.into(), what: "CA key", why: e.to_string() })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, pair).map_err(|e| PkiError::Damaged { path: certificate.into(), what: "CA certificate", why: e.to_string() })?;
        Ok(Authority { certificate_pem, issuer })
    }

    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
    pub fn certificate_der(&self) -> Vec<u8> {
        rustls_pemfile::certs(&mut self.certificate_pem.as_bytes()).next().and_then(|c| c.ok()).map(|c| c.to_vec()).unwrap_or_default()
    }

    /// A client certificate for `user` in `group`.
    pub fn client(&self, dir: &Path, file: &str, user: &str, group: Option<&str>) -> Result<Certified> {
        self.leaf(dir, &Wanted { file, user, group, names: &Names::default(), usage: ExtendedKeyUsagePurpose::ClientAuth })
    }
    /// A server certificate for `names`.
    pub fn server(&self, dir: &Path, file: &str, user: &str, group: Option<&str>, names: &Names) -> Result<Certified> {
        self.leaf(dir, &Wanted { file, user, group, names, usage: ExtendedKeyUsagePurpose::ServerAuth })
    }

    fn leaf(&self, dir: &Path, w: &Wanted<'_>) -> Result<Certified> {
        let (crt, key) = (dir.join(format!("{}.crt", w.file)), dir.join(format!("{}.key", w.file)));
        if let (Some(certificate_pem), Some(key_pem)) = (files::read(&crt)?, files::read(&key)?) {
            let kept = Certified { certificate_pem, key_pem };
            if self.still_fits(&kept, w) {
                return Ok(kept);
            }
        }
        let made = self.sign(w)?;
        files::write_atomically(&key, made.key_pem.as_bytes())?;
        files::write_atomically(&crt, made.certificate_pem.as_bytes())?;
        Ok(made)
    }

    fn sign(&self, w: &Wanted<'_>) -> Result<Certified> {
        let fail = |source| PkiError::Certificate { name: w.file.into(), source };
        let pair = KeyPair::generate().map_err(fail)?;
        let mut p = CertificateParams::default();
        p.distinguished_name = distinguished(w.user, w.group);
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        p.extended_key_usages = vec![w.usage.clone()];
        p.use_authority_key_identifier_extension = true;
        for n in &w.names.dns {
            p.subject_alt_names.push(SanType::DnsName(n.as_str().try_into().map_err(fail)?));
        }
        p.subject_alt_names.extend(w.names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        set_validity(&mut p, LEAF_DAYS);
        Ok(Certified { certificate_pem: p.signed_by(&pair, &self.issuer).map_err(fail)?.pem(), key_pem: pair.serialize_pem() })
    }

    /// Whether a leaf found on disk is of this authority, of this key, for these names, and far from its end.
    fn still_fits(&self, kept: &Certified, w: &Wanted<'_>) -> bool {
        let Some(ders) = kept.certificate_der() else { return false };
        let Ok((_, c)) = X509Certificate::from_der(&ders[0]) else { return false };
        let ca_der = self.certificate_der();
        let Ok((_, ca)) = X509Certificate::from_der(&ca_der) else { return false };
        let Ok(pair) = KeyPair::from_pem(&kept.key_pem) else { return false };
        let subject = Subject { common_name: w.user.into(), organizations: w.group.into_iter().map(str::to_owned).collect() };
        let left = c.validity().not_after.timestamp() - unix_seconds() as i64;
        c.verify_signature(Some(ca.public_key())).is_ok()
            && c.public_key().subject_public_key.data.as_ref() == pair.public_key_raw()
            && Subject::of(&ders[0]) == Some(subject)
            && left > (RENEW_BEFORE_DAYS * DAY.as_secs()) as i64
            && carries(&c, w.names)
    }
}

/// The DNS names of a certificate in DER, in lower case; none when it does not parse.
pub fn dns_names(der: &[u8]) -> Vec<String> {
    let Ok((_, c)) = X509Certificate::from_der(der) else { return Vec::new() };
    names_of(&c).dns.iter().map(|d| d.to_ascii_lowercase()).collect()
}

/// The alternative names that servers are asked by.
pub(crate) fn names_of(c: &X509Certificate<'_>) -> Names {
    let mut names = Names::default();
    let Ok(san) = c.subject_alternative_name() else { return names };
    for n in san.iter().flat_map(|s| &s.value.general_names) {
        match n {
            GeneralName::DNSName(d) => names.dns.push((*d).to_owned()),
            GeneralName::IPAddress(b) => names.ips.extend(ip_of(b)),
            _ => {}
        }
    }
    names
}

fn carries(c: &X509Certificate<'_>, names: &Names) -> bool {
    names_of(c).carry(names)
}

fn ip_of(b: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(b).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(b).map(IpAddr::from)).ok()
}

pub(crate) fn distinguished(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut d = DistinguishedName::new();
    // One group at most: rcgen keeps one value a type, and no part of the cluster has two.
    if let Some(group) = group {
        d.push(DnType::OrganizationName, group);
    }
    d.push(DnType::CommonName, user);
    d
}

fn set_validity(p: &mut CertificateParams, days: u64) {
    let now = SystemTime::now();
    p.not_before = (now - BACKDATE).into();
    p.not_after = (now + DAY * days as u32).into();
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default()
}
