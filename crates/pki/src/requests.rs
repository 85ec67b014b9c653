//! Certificate requests (PKCS#10): what one asks for, and the certificate an authority makes of it.
//!
//! The subject, the key and the alternative names are copied as they stand in the request, byte for byte; usages and times are the
//! signer's. Source: RFC 2986, RFC 5280, and the rules of certificates.k8s.io's signers.

use crate::{Authority, PkiError, Result, Subject};
use rcgen::SigningKey;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag};

/// Clocks of others may be behind ours; upstream's figure.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
const SERIAL_BYTES: usize = 16;

/// A request that was read and whose signature is its own key's.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    der: Vec<u8>,
    pub subject: Subject,
    /// SubjectPublicKeyInfo.
    pub public_key_der: Vec<u8>,
    /// Number of names of each kind beside the subject.
    pub dns_names: usize,
    pub ip_addresses: usize,
    pub email_addresses: usize,
    pub uris: usize,
}

fn bad(why: impl std::fmt::Display) -> PkiError {
    PkiError::Request { why: why.to_string() }
}

impl CertificateRequest {
    /// From PEM of type `CERTIFICATE REQUEST`.
    pub fn parse(pem: &str) -> Result<CertificateRequest> {
        let der = match rustls_pemfile::read_one(&mut pem.as_bytes()) {
            Ok(Some(rustls_pemfile::Item::Csr(der))) => der.to_vec(),
            _ => return Err(bad("PEM block type must be CERTIFICATE REQUEST")),
        };
        let (rest, r) = X509CertificationRequest::from_der(&der).map_err(bad)?;
        if !rest.is_empty() {
            return Err(bad("bytes follow the request"));
        }
        r.verify_signature().map_err(|_| bad("its signature is not of its key"))?;
        let info = &r.certification_request_info;
        let texts = |oid| info.subject.iter_attributes().filter(|a| a.attr_type() == oid).filter_map(|a| a.as_str().ok().map(str::to_owned)).collect::<Vec<_>>();
        let subject = Subject {
            common_name: texts(&x509_parser::oid_registry::OID_X509_COMMON_NAME).into_iter().last().unwrap_or_default(),
            organizations: texts(&x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME),
        };
        let mut out = CertificateRequest { der: Vec::new(), subject, public_key_der: info.subject_pki.raw.to_vec(), dns_names: 0, ip_addresses: 0, email_addresses: 0, uris: 0 };
        for e in r.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = e else { continue };
            for n in &names.general_names {
                match n {
                    GeneralName::DNSName(_) => out.dns_names += 1,
                    GeneralName::IPAddress(_) => out.ip_addresses += 1,
                    GeneralName::RFC822Name(_) => out.email_addresses += 1,
                    GeneralName::URI(_) => out.uris += 1,
                    _ => return Err(bad("an alternative name is of a kind that certificates here do not have")),
                }
            }
        }
        out.der = der;
        Ok(out)
    }
}

/// The bit of a key usage, by its name in the API.
fn key_usage(name: &str) -> Option<u32> {
    Some(match name {
        "signing" | "digital signature" => 0,
        "content commitment" => 1,
        "key encipherment" => 2,
        "data encipherment" => 3,
        "key agreement" => 4,
        "cert sign" => 5,
        "crl sign" => 6,
        "encipher only" => 7,
        "decipher only" => 8,
        _ => return None,
    })
}

/// The identifier of an extended key usage, by its name in the API.
fn extended_key_usage(name: &str) -> Option<&'static [u64]> {
    Some(match name {
        "any" => &[2, 5, 29, 37, 0],
        "server auth" => &[1, 3, 6, 1, 5, 5, 7, 3, 1],
        "client auth" => &[1, 3, 6, 1, 5, 5, 7, 3, 2],
        "code signing" => &[1, 3, 6, 1, 5, 5, 7, 3, 3],
        "email protection" | "s/mime" => &[1, 3, 6, 1, 5, 5, 7, 3, 4],
        "ipsec end system" => &[1, 3, 6, 1, 5, 5, 7, 3, 5],
        "ipsec tunnel" => &[1, 3, 6, 1, 5, 5, 7, 3, 6],
        "ipsec user" => &[1, 3, 6, 1, 5, 5, 7, 3, 7],
        "timestamping" => &[1, 3, 6, 1, 5, 5, 7, 3, 8],
        "ocsp signing" => &[1, 3, 6, 1, 5, 5, 7, 3, 9],
        "microsoft sgc" => &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3],
        "netscape sgc" => &[2, 16, 840, 1, 113730, 4, 1],
        _ => return None,
    })
}

impl Authority {
    /// The certificate of a request with these usages (names of the API) for at most `life`, never beyond the authority's own end. PEM.
    pub fn sign_request(&self, request: &CertificateRequest, usages: &[String], life: Duration) -> Result<String> {
        let ca_der = self.certificate_der();
        let (_, ca) = X509Certificate::from_der(&ca_der).map_err(bad)?;
        let (_, r) = X509CertificationRequest::from_der(&request.der).map_err(bad)?;
        let info = &r.certification_request_info;
        let (mut bits, mut extended) = (0u16, Vec::new());
        for u in usages {
            match (key_usage(u), extended_key_usage(u)) {
                (Some(bit), _) => bits |= 1 << (15 - bit),
                (None, Some(oid)) => extended.push(oid),
                (None, None) => return Err(bad(format!("unrecognized usage {u:?}"))),
            }
        }
        let now = SystemTime::now();
        let unix = |t: SystemTime| t.duration_since(UNIX_EPOCH).map(|d| d.as_secs() as i64).unwrap_or_default();
        let until = unix(now + life).min(ca.validity().not_after.timestamp());
        let names = info.iter_attributes().find_map(|a| match a.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(e) => e.extensions.iter().find(|e| e.oid == OID_X509_EXT_SUBJECT_ALT_NAME).map(|e| e.value.to_vec()),
            _ => None,
        });
        let issuer_key_id = ca.iter_extensions().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let key = self.key();
        let algorithm = algorithm(key).ok_or_else(|| bad("the authority's key is of a kind that does not sign here"))?;
        let mut serial = [0; SERIAL_BYTES];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial).map_err(|_| PkiError::Sign)?;
        // Positive, and of full length.
        serial[0] = serial[0] & 0x7f | 0x40;
        let body = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_tagged(Tag::context(0), |w| w.write_i8(2));
                w.next().write_bigint_bytes(&serial, true);
                write_algorithm(w.next(), algorithm);
                w.next().write_der(ca.subject().as_raw());
                w.next().write_sequence(|w| {
                    w.next().write_der(&time(unix(now - BACKDATE)));
                    w.next().write_der(&time(until));
                });
                w.next().write_der(info.subject.as_raw());
                w.next().write_der(info.subject_pki.raw);
                w.next().write_tagged(Tag::context(3), |w| {
                    w.write_sequence(|w| {
                        if bits != 0 {
                            extension(w.next(), &[2, 5, 29, 15], true, &yasna::construct_der(|w| w.write_bitvec_bytes(&trimmed(bits), used(bits))));
                        }
                        if !extended.is_empty() {
                            let list = yasna::construct_der(|w| w.write_sequence_of(|w| extended.iter().for_each(|o| w.next().write_oid(&ObjectIdentifier::from_slice(o)))));
                            extension(w.next(), &[2, 5, 29, 37], false, &list);
                        }
                        extension(w.next(), &[2, 5, 29, 19], true, &yasna::construct_der(|w| w.write_sequence(|_| {})));
                        if let Some(id) = &issuer_key_id {
                            let id = yasna::construct_der(|w| w.write_sequence(|w| w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(id))));
                            extension(w.next(), &[2, 5, 29, 35], false, &id);
                        }
                        if let Some(names) = &names {
                            extension(w.next(), &[2, 5, 29, 17], info.subject.iter().next().is_none(), names);
                        }
                    });
                });
            });
        });
        let signature = key.sign(&body).map_err(|source| PkiError::Certificate { name: request.subject.common_name.clone(), source })?;
        let der = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_der(&body);
                write_algorithm(w.next(), algorithm);
                w.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem(&der))
    }
}

struct Algorithm {
    oid: &'static [u64],
    /// RSA's identifiers carry a NULL.
    null: bool,
}

fn algorithm(key: &rcgen::KeyPair) -> Option<&'static Algorithm> {
    const TABLE: &[(&rcgen::SignatureAlgorithm, Algorithm)] = &[
        (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm { oid: &[1, 2, 840, 10045, 4, 3, 2], null: false }),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm { oid: &[1, 2, 840, 10045, 4, 3, 3], null: false }),
        (&rcgen::PKCS_RSA_SHA256, Algorithm { oid: &[1, 2, 840, 113549, 1, 1, 11], null: true }),
        (&rcgen::PKCS_ED25519, Algorithm { oid: &[1, 3, 101, 112], null: false }),
    ];
    TABLE.iter().find(|(a, _)| key.is_compatible(a)).map(|(_, a)| a)
}

fn write_algorithm(w: DERWriter<'_>, a: &Algorithm) {
    w.write_sequence(|w| {
        w.next().write_oid(&ObjectIdentifier::from_slice(a.oid));
        if a.null {
            w.next().write_null();
        }
    });
}

fn extension(w: DERWriter<'_>, oid: &[u64], critical: bool, value: &[u8]) {
    w.write_sequence(|w| {
        w.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(value);
    });
}

/// How many leading bits stand up to the last that is set (DER leaves trailing zeros out).
fn used(bits: u16) -> usize {
    16 - bits.trailing_zeros() as usize
}
fn trimmed(bits: u16) -> Vec<u8> {
    bits.to_be_bytes()[..used(bits).div_ceil(8)].to_vec()
}

/// UTCTime until 2049, GeneralizedTime after (RFC 5280, 4.1.2.5).
fn time(unix_seconds: i64) -> Vec<u8> {
    let t = jiff::Timestamp::from_second(unix_seconds).unwrap_or(jiff::Timestamp::MAX);
    let (tag, text) =
        if t.strftime("%Y").to_string().as_str() < "2050" { (0x17, t.strftime("%y%m%d%H%M%SZ").to_string()) } else { (0x18, t.strftime("%Y%m%d%H%M%SZ").to_string()) };
    [&[tag, text.len() as u8], text.as_bytes()].concat()
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    const LINE: usize = 64;
    let lines: Vec<&str> = (0..text.len()).step_by(LINE).map(|i| &text[i..(i + LINE).min(text.len())]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The end of the first certificate of a PEM text, Unix seconds.
pub fn not_after(pem: &str) -> Option<i64> {
    let der = rustls_pemfile::certs(&mut pem.as_bytes()).next()?.ok()?;
    X509Certificate::from_der(&der).ok().map(|(_, c)| c.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn request(names: &[&str]) -> String {
        let mut p = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        p.distinguished_name.push(DnType::CommonName, "system:node:n1");
        p.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_becomes_a_certificate_that_verifies_and_says_what_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        let pki = crate::Pki::open(dir.path()).unwrap();
        let r = CertificateRequest::parse(&request(&["n1.example", "10.0.0.7"])).unwrap();
        assert_eq!((r.dns_names, r.ip_addresses, r.subject.common_name.as_str()), (1, 1, "system:node:n1"));
        let usages = ["digital signature", "key encipherment", "server auth"].map(String::from);
        let made = pki.authority().sign_request(&r, &usages, Duration::from_secs(3600)).unwrap();
        let der = rustls_pemfile::certs(&mut made.as_bytes()).next().unwrap().unwrap();
        let (rest, c) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let ca_der = pki.ca_der();
        let (_, ca) = X509Certificate::from_der(&ca_der).unwrap();
        c.verify_signature(Some(ca.public_key())).expect("the authority's signature");
        assert_eq!(Subject::of(&der).unwrap(), r.subject);
        let usage = c.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let extended = c.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
        assert!(!c.is_ca());
        assert_eq!(c.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        let left = not_after(&made).unwrap() - jiff::Timestamp::now().as_second();
        assert!((3500..=3600).contains(&left), "{left}");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(CertificateRequest::parse("x").is_err());
        let good = request(&[]);
        let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
        let at = lines.len() - 2;
        let middle = lines[at].len() / 2;
        let other = if lines[at].as_bytes()[middle] == b'A' { "B" } else { "A" };
        lines[at].replace_range(middle..=middle, other);
        assert!(CertificateRequest::parse(&lines.join("\n")).is_err(), "another signature");
    }
}
