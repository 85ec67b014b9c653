use super::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

fn trust() -> Trust {
    Trust {
        issuer: "https://i.example".into(),
        discovery_url: None,
        audiences: vec!["app".into()],
        algorithms: ALGORITHMS.iter().map(|a| (*a).to_owned()).collect(),
        rules: vec![ClaimRule::Equals { claim: "hd".into(), value: "example.com".into() }],
        username: Mapping::Claim { claim: "email".into(), prefix: "oidc:".into() },
        groups: Some(Mapping::Claim { claim: "groups".into(), prefix: "g:".into() }),
        uid: None,
        extra: Vec::new(),
        user_rules: Vec::new(),
    }
}

fn jwt() -> Jwt {
    Jwt::new(trust(), Endpoint::https("https://i.example", None).unwrap(), vec!["api".into()])
}

fn claims() -> Map<String, Value> {
    json!({"iss": "https://i.example", "aud": ["other", "app"], "exp": 2000, "hd": "example.com", "email": "jane@example.com", "groups": ["dev"], "jti": "7"})
        .as_object()
        .unwrap()
        .clone()
}

#[test]
fn claims_are_mapped_with_their_prefixes() {
    let u = jwt().user(&claims()).unwrap();
    assert_eq!(u.name, "oidc:jane@example.com");
    assert_eq!(u.groups, ["g:dev", "system:authenticated"]);
    assert_eq!(u.extra[CREDENTIAL_ID], ["JTI=7"]);
    let mut one_group = claims();
    one_group.insert("groups".into(), "ops".into());
    assert_eq!(jwt().user(&one_group).unwrap().groups[0], "g:ops");
    let mut unverified = claims();
    unverified.insert("email_verified".into(), false.into());
    assert_eq!(jwt().user(&unverified), Err(Refused("oidc: email not verified".into())));
}

#[test]
fn times_audience_and_required_claims_are_checked() {
    let j = jwt();
    assert_eq!(j.check(&claims(), 1000.0), Ok(()));
    assert!(j.check(&claims(), 2000.0).is_err_and(|e| e.0.contains("expired")));
    for (key, value, words) in
        [("aud", json!("else"), "expected audience"), ("hd", json!("evil.example"), "does not match"), ("nbf", json!(5000), "not before"), ("exp", json!("never"), "no exp")]
    {
        let mut c = claims();
        c.insert(key.into(), value);
        assert!(j.check(&c, 1000.0).is_err_and(|e| e.0.contains(words)), "{key}");
    }
}

/// RFC 7515: the signature of one algorithm is no signature of another, and `none` is none at all.
#[tokio::test]
async fn only_the_key_s_own_signature_counts() {
    let rng = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &rng).unwrap();
    let point = pair.public_key().as_ref();
    let b = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = Key::parse(&json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": b(&point[1..33]), "y": b(&point[33..])})).unwrap();
    let j = jwt();
    j.keys.write().unwrap().keys = Arc::new(vec![key]);
    *j.asked.lock().await = Some(Instant::now());
    let token = |alg: &str| {
        let signed = format!("{}.{}", b(format!(r#"{{"alg":"{alg}","kid":"k"}}"#).as_bytes()), b(Value::Object(claims()).to_string().as_bytes()));
        let signature = pair.sign(&rng, signed.as_bytes()).unwrap();
        format!("{signed}.{}", b(signature.as_ref()))
    };
    assert!(j.verify(&token("ES256")).await.is_ok());
    for alg in ["none", "HS256", "RS256", "ES384"] {
        assert!(j.verify(&token(alg)).await.is_err(), "{alg}");
    }
    let unsigned = token("ES256");
    assert!(j.verify(&unsigned[..=unsigned.rfind('.').unwrap()]).await.is_err(), "an empty signature");
}
