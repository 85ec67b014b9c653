//! Keys of tokens in every form that is taken: RSA (RS256), and ECDSA over P-256 and P-384 (ES256, ES384; RFC 7518).
//!
//! Entry points: [`PublicKey::read`], [`Private::parse`]. RSA in PKCS#8 or PKCS#1, elliptic curves in PKCS#8 or SEC 1. Deliberately absent, and
//! refused: P-521, which ring does not know.

use crate::{PkiError, Result, files};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    EcdsaVerificationAlgorithm, KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
};
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use sha2::Digest;
use std::path::Path;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

/// A curve that tokens are signed over.
struct Curve {
    /// Of the signature (JWA).
    algorithm: &'static str,
    /// As a JSON Web Key names it.
    name: &'static str,
    /// Object identifier of the named curve.
    oid: &'static str,
    /// What stands before the point in a SubjectPublicKeyInfo of the curve (RFC 5480).
    spki: &'static [u8],
    coordinate_bytes: usize,
    signs: &'static EcdsaSigningAlgorithm,
    verifies: &'static EcdsaVerificationAlgorithm,
}

static CURVES: [Curve; 2] = [
    Curve {
        algorithm: "ES256",
        name: "P-256",
        oid: "1.2.840.10045.3.1.7",
        spki: &[0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00],
        coordinate_bytes: 32,
        signs: &ECDSA_P256_SHA256_FIXED_SIGNING,
        verifies: &ECDSA_P256_SHA256_FIXED,
    },
    Curve {
        algorithm: "ES384",
        name: "P-384",
        oid: "1.3.132.0.34",
        spki: &[0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00],
        coordinate_bytes: 48,
        signs: &ECDSA_P384_SHA384_FIXED_SIGNING,
        verifies: &ECDSA_P384_SHA384_FIXED,
    },
];

fn curve(oid: &str) -> std::result::Result<&'static Curve, String> {
    CURVES.iter().find(|c| c.oid == oid).ok_or_else(|| format!("the curve {oid} is not supported: give a key over P-256 or P-384, or an RSA key"))
}

#[derive(Clone)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point, uncompressed.
    Ec(&'static Curve, Vec<u8>),
}

/// The half of the key that anyone may know.
#[derive(Clone)]
pub struct PublicKey {
    /// URL-safe base64 of the SHA-256 of the SubjectPublicKeyInfo, as upstream names its keys.
    pub id: String,
    material: Material,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm(), self.id)
    }
}

fn id(spki: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(spki))
}

impl PublicKey {
    /// What it is good for: `RS256`, `ES256` or `ES384`.
    pub fn algorithm(&self) -> &'static str {
        match &self.material {
            Material::Rsa { .. } => "RS256",
            Material::Ec(c, _) => c.algorithm,
        }
    }

    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok(),
            Material::Ec(c, point) => UnparsedPublicKey::new(c.verifies, point).verify(message, signature).is_ok(),
        }
    }

    /// The JSON Web Key Set served at `/openid/v1/jwks`.
    pub fn jwks(&self) -> String {
        jwks([self])
    }

    fn jwk(&self) -> String {
        let (id, algorithm) = (&self.id, self.algorithm());
        match &self.material {
            Material::Rsa { n, e } => {
                format!(r#"{{"use":"sig","kty":"RSA","kid":"{id}","alg":"{algorithm}","n":"{}","e":"{}"}}"#, URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e))
            }
            Material::Ec(c, point) => {
                let (x, y) = point[1..].split_at(c.coordinate_bytes);
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                format!(r#"{{"use":"sig","kty":"EC","kid":"{id}","crv":"{}","alg":"{algorithm}","x":"{x}","y":"{y}"}}"#, c.name)
            }
        }
    }

    fn rsa(key: &rsa::RsaPublicKey) -> std::result::Result<PublicKey, String> {
        use rsa::traits::PublicKeyParts;
        let spki = key.to_public_key_der().map_err(|e| e.to_string())?;
        Ok(PublicKey { id: id(spki.as_bytes()), material: Material::Rsa { n: key.n().to_bytes_be(), e: key.e().to_bytes_be() } })
    }

    fn ec(c: &'static Curve, point: &[u8]) -> std::result::Result<PublicKey, String> {
        if point.len() != 1 + 2 * c.coordinate_bytes || point[0] != 4 {
            return Err(format!("it is no uncompressed point of {}", c.name));
        }
        Ok(PublicKey { id: id(&[c.spki, point].concat()), material: Material::Ec(c, point.to_vec()) })
    }

    /// RSA or EC, by what the SubjectPublicKeyInfo says.
    fn of_spki(pem: &str, der: &[u8]) -> std::result::Result<PublicKey, String> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|e| e.to_string())?;
        match spki.algorithm.algorithm.to_id_string().as_str() {
            EC_PUBLIC_KEY => {
                let named = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).ok_or("it names no curve")?;
                PublicKey::ec(curve(&named.to_id_string())?, &spki.subject_public_key.data)
            }
            _ => PublicKey::rsa(&rsa::RsaPublicKey::from_public_key_pem(pem).map_err(|e| e.to_string())?),
        }
    }

    /// Every key of a PEM file, public or private (`--service-account-key-file`).
    pub fn read(path: &Path) -> Result<Vec<PublicKey>> {
        let damaged = |why: String| PkiError::Damaged { path: path.into(), what: "ServiceAccount public key", why };
        let pem = files::read(path)?.ok_or_else(|| damaged("there is no such file".into()))?;
        let mut out = Vec::new();
        for (kind, text) in blocks(&pem) {
            let key = match kind.as_str() {
                // What openssl writes before a key: it names the curve, which the key does again.
                "EC PARAMETERS" => continue,
                "PUBLIC KEY" => der(&text).and_then(|d| PublicKey::of_spki(&text, &d)),
                "RSA PUBLIC KEY" => rsa::pkcs1::DecodeRsaPublicKey::from_pkcs1_pem(&text).map_err(|e: rsa::pkcs1::Error| e.to_string()).and_then(|k| PublicKey::rsa(&k)),
                "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Private::parse(&text).map(|k| k.public),
                other => Err(format!("{other} is no RSA or EC key")),
            };
            out.push(key.map_err(damaged)?);
        }
        if out.is_empty() { Err(damaged("it holds no PEM key".into())) } else { Ok(out) }
    }
}

/// The JSON Web Key Set of several keys.
pub fn jwks<'k>(keys: impl IntoIterator<Item = &'k PublicKey>) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.into_iter().map(PublicKey::jwk).collect::<Vec<_>>().join(","))
}

/// The blocks of a PEM text: what each is, and its own text.
fn blocks(pem: &str) -> impl Iterator<Item = (String, String)> {
    pem.split_inclusive("-----END ").flat_map(|p| p.rsplit_once("-----BEGIN ")).map(|(_, block)| {
        let kind = block.split("-----").next().unwrap_or_default().to_owned();
        let text = format!("-----BEGIN {block}{kind}-----\n");
        (kind, text)
    })
}

/// The bytes of one block.
fn der(block: &str) -> std::result::Result<Vec<u8>, String> {
    let body: String = block.lines().filter(|l| !l.starts_with("-----") && !l.contains(':')).map(str::trim).collect();
    base64::engine::general_purpose::STANDARD.decode(body).map_err(|e| e.to_string())
}

const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";

enum Signs {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

/// A key that signs.
pub struct Private {
    pub public: PublicKey,
    signs: Signs,
}

impl Private {
    /// The first key of a PEM text.
    pub fn parse(pem: &str) -> std::result::Result<Private, String> {
        let (kind, text) = blocks(pem).find(|(k, _)| k != "EC PARAMETERS").ok_or("it holds no PEM key")?;
        match kind.as_str() {
            "EC PRIVATE KEY" => Private::sec1(&der(&text)?, None),
            "PRIVATE KEY" => match pkcs8_curve(&der(&text)?) {
                Some((oid, inner)) => Private::sec1(&inner, Some(&oid)),
                None => Private::rsa(rsa::RsaPrivateKey::from_pkcs8_pem(&text).map_err(|e| e.to_string())?),
            },
            "RSA PRIVATE KEY" => Private::rsa(rsa::pkcs1::DecodeRsaPrivateKey::from_pkcs1_pem(&text).map_err(|e: rsa::pkcs1::Error| e.to_string())?),
            other => Err(format!("{other} is no RSA or EC private key")),
        }
    }

    fn rsa(key: rsa::RsaPrivateKey) -> std::result::Result<Private, String> {
        let der = key.to_pkcs8_der().map_err(|e| e.to_string())?;
        let pair = RsaKeyPair::from_pkcs8(der.as_bytes()).map_err(|e| e.to_string())?;
        Ok(Private { public: PublicKey::rsa(&key.to_public_key())?, signs: Signs::Rsa(pair) })
    }

    /// An ECPrivateKey (RFC 5915), whose curve stands in it or around it. The public half must be there too, as Go and OpenSSL write it.
    fn sec1(der: &[u8], around: Option<&str>) -> std::result::Result<Private, String> {
        let parsed = yasna::parse_der(der, |r| {
            r.read_sequence(|r| {
                r.next().read_u8()?;
                let secret = r.next().read_bytes()?;
                let oid = r.read_optional(|r| r.read_tagged(yasna::Tag::context(0), |r| r.read_oid()))?;
                let point = r.read_optional(|r| r.read_tagged(yasna::Tag::context(1), |r| r.read_bitvec_bytes()))?;
                Ok((secret, oid, point))
            })
        });
        let (secret, oid, point) = parsed.map_err(|e| format!("it is no ECPrivateKey: {e}"))?;
        let named = oid.map(|o| o.components().iter().map(u64::to_string).collect::<Vec<_>>().join("."));
        let c = curve(named.as_deref().or(around).ok_or("it names no curve")?)?;
        let (point, _) = point.ok_or("its public half is missing")?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(c.signs, &secret, &point, &SystemRandom::new()).map_err(|e| e.to_string())?;
        Ok(Private { public: PublicKey::ec(c, pair.public_key().as_ref())?, signs: Signs::Ec(pair) })
    }

    /// Over `message`, by the key's own algorithm.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.signs {
            Signs::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| PkiError::Sign)?;
                Ok(signature)
            }
            Signs::Ec(pair) => pair.sign(&random, message).map(|s| s.as_ref().to_vec()).map_err(|_| PkiError::Sign),
        }
    }
}

/// Curve and ECPrivateKey of a PKCS#8 key, when it is one of an elliptic curve (RFC 5958).
fn pkcs8_curve(der: &[u8]) -> Option<(String, Vec<u8>)> {
    let dotted = |o: yasna::models::ObjectIdentifier| o.components().iter().map(u64::to_string).collect::<Vec<_>>().join(".");
    yasna::parse_der(der, |r| {
        r.read_sequence(|r| {
            r.next().read_u8()?;
            let (algorithm, named) = r.next().read_sequence(|r| Ok((r.next().read_oid()?, r.next().read_oid()?)))?;
            let inner = r.next().read_bytes()?;
            r.read_optional(|r| r.read_der())?;
            r.read_optional(|r| r.read_der())?;
            Ok((dotted(algorithm), dotted(named), inner))
        })
    })
    .ok()
    .and_then(|(algorithm, named, inner)| (algorithm == EC_PUBLIC_KEY).then_some((named, inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by OpenSSL: `ecparam -name … -genkey`, `pkcs8 -topk8 -nocrypt`, `ec -pubout`.
    const SEC1_P256: &str = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIFyGTvWOxFUTLMdpJKZ5+vRCt76vyi8kg5QIC0/Oy3HdoAoGCCqGSM49\nAwEHoUQDQgAE9FHTqBEpSOYJqL0aXEn5Hc5WkVwB+Gk0mQIpCEsYdYHZarsdPXZ3\nJp/EcfSoDdohs/J9AQXGks+v6DWPjaHA/w==\n-----END EC PRIVATE KEY-----\n";
    const PKCS8_P256: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgXIZO9Y7EVRMsx2kk\npnn69EK3vq/KLySDlAgLT87Lcd2hRANCAAT0UdOoESlI5gmovRpcSfkdzlaRXAH4\naTSZAikISxh1gdlqux09dncmn8Rx9KgN2iGz8n0BBcaSz6/oNY+NocD/\n-----END PRIVATE KEY-----\n";
    const PUBLIC_P256: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9FHTqBEpSOYJqL0aXEn5Hc5WkVwB\n+Gk0mQIpCEsYdYHZarsdPXZ3Jp/EcfSoDdohs/J9AQXGks+v6DWPjaHA/w==\n-----END PUBLIC KEY-----\n";
    const SEC1_P384: &str = "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\nMIGkAgEBBDBxpW+nJt0NgWlfxElKl9j8H0fihPqCNS8ZRQzkwj9ztkn/7wJ4rBo1\ntbHRLBRWel+gBwYFK4EEACKhZANiAAQVnL5t0SQJpa6uMm/zhmyFs2UaZUzqr/Y3\nqfh6sKdapiIA+AfQ0ZrCsC+QIL5W7vNmvObNg8UggzVZiav0h1+8x74uhMAOEk3C\nN+tdBa6iYrwAQ7vIA6G0UGCuzKYIvaI=\n-----END EC PRIVATE KEY-----\n";
    const SEC1_P521: &str = "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIw==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\nMIHcAgEBBEIAQZBT1PTbhI3oWXEU+9ggA8LMA0eoZm0i8HGx1l+J0sOwPnHNMymA\nJjWr3+lSOWx1yHXbMpt2n50NKFNzes0p2J6gBwYFK4EEACOhgYkDgYYABAEO5lxS\nj/iswoDMuWAyamOQQzSfBnNrqAZ5RuEzBZl7aezMnY5sfAAfCegt24yKZYzISqYE\nuCbAoIqksQNAAvVLxwD/pAID1l9vuxDdmTNwah098WWH/Y03V+8V/4nloV6Pz3GL\n7ChkhfYp56KLboIzv63Kb7bQ8J2IQO442LNC8h4I6A==\n-----END EC PRIVATE KEY-----\n";

    #[test]
    fn a_key_is_the_same_in_every_form_and_signs_what_its_public_half_verifies() {
        for (private, algorithm, bytes) in [(SEC1_P256, "ES256", 64), (PKCS8_P256, "ES256", 64), (SEC1_P384, "ES384", 96)] {
            let key = Private::parse(private).expect(private);
            assert_eq!(key.public.algorithm(), algorithm);
            let signature = key.sign(b"a.b").unwrap();
            assert_eq!(signature.len(), bytes, "r and s as they stand (RFC 7518, 3.4)");
            assert!(key.public.verify(b"a.b", &signature) && !key.public.verify(b"a.c", &signature));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.pem");
        std::fs::write(&path, format!("{SEC1_P256}{PUBLIC_P256}{PKCS8_P256}{SEC1_P384}")).unwrap();
        let all = PublicKey::read(&path).unwrap();
        assert_eq!(all.iter().map(PublicKey::algorithm).collect::<Vec<_>>(), ["ES256", "ES256", "ES256", "ES384"]);
        assert!(all[0].id == all[1].id && all[1].id == all[2].id && all[2].id != all[3].id, "{all:?}");
        let set = jwks(&all[2..]);
        assert!(set.contains(r#""kty":"EC","kid":""#) && set.contains(r#""crv":"P-384","alg":"ES384","x":""#), "{set}");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let why = Private::parse(SEC1_P521).err().unwrap_or_default();
        assert!(why.contains("1.3.132.0.35") && why.contains("P-256 or P-384"), "{why}");
        assert!(Private::parse("no key").is_err() && Private::parse("-----BEGIN DSA PRIVATE KEY-----\nAA==\n-----END DSA PRIVATE KEY-----\n").is_err());
    }
}
