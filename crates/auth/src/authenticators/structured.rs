//! AuthenticationConfiguration (apiserver.config.k8s.io/v1): issuers of JWTs and who may be anonymous, `--authentication-config`.
//!
//! Source: kubernetes.io "Using Authentication Configuration". An unknown field is an error.

use super::jwt::{ALGORITHMS, ClaimRule, Jwt, Mapping, Trust};
use crate::expression::{Expression, Over};
use crate::outbound::Endpoint;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const API_VERSIONS: &[&str] = &["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const ISSUERS_MAX: usize = 64;
const RESERVED: &[&str] = &["kubernetes.io", "k8s.io"];

#[derive(Debug, thiserror::Error)]
pub enum StructuredError {
    #[error("cannot read the authentication configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no AuthenticationConfiguration: {why}", path.display())]
    File { path: PathBuf, why: String },
}

/// Who may ask without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Anonymous {
    pub enabled: bool,
    /// Paths it is limited to; empty: all.
    pub paths: Vec<String>,
}

impl Anonymous {
    pub fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|p| p == path))
    }
}

pub struct Structured {
    pub jwt: Vec<Jwt>,
    /// Absent: the flag decides.
    pub anonymous: Option<Anonymous>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<JwtEntry>,
    anonymous: Option<AnonymousEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousEntry {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<PathEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathEntry {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JwtEntry {
    issuer: IssuerEntry,
    #[serde(default)]
    claim_validation_rules: Vec<RuleEntry>,
    claim_mappings: MappingsEntry,
    #[serde(default)]
    user_validation_rules: Vec<UserRuleEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuerEntry {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    #[serde(default)]
    certificate_authority: String,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
    #[serde(default)]
    egress_selector_type: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RuleEntry {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct UserRuleEntry {
    expression: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingsEntry {
    username: MappingEntry,
    #[serde(default)]
    groups: MappingEntry,
    #[serde(default)]
    uid: MappingEntry,
    #[serde(default)]
    extra: Vec<ExtraEntry>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MappingEntry {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExtraEntry {
    key: String,
    value_expression: String,
}

impl Structured {
    pub fn open(path: &Path, own_audiences: &[String], own_issuers: &[String]) -> Result<Structured, StructuredError> {
        let bytes = std::fs::read(path).map_err(|source| StructuredError::Read { path: path.into(), source })?;
        read(&bytes, own_audiences, own_issuers).map_err(|why| StructuredError::File { path: path.into(), why })
    }
}

fn read(bytes: &[u8], own_audiences: &[String], own_issuers: &[String]) -> Result<Structured, String> {
    let file: File = serde_yaml_ng::from_slice(bytes).map_err(|e| e.to_string())?;
    if !API_VERSIONS.contains(&file.api_version.as_str()) || file.kind != "AuthenticationConfiguration" {
        return Err(format!("apiVersion {:?}, kind {:?}; wanted {} AuthenticationConfiguration", file.api_version, file.kind, API_VERSIONS[0]));
    }
    if file.jwt.len() > ISSUERS_MAX {
        return Err(format!("jwt: Too many: {}: must have at most {ISSUERS_MAX} items", file.jwt.len()));
    }
    let mut jwt = Vec::new();
    for (i, e) in file.jwt.iter().enumerate() {
        let at = format!("jwt[{i}]");
        if file.jwt[..i].iter().any(|o| o.issuer.url == e.issuer.url) {
            return Err(format!("{at}.issuer.url: Duplicate value: {:?}", e.issuer.url));
        }
        if own_issuers.contains(&e.issuer.url) {
            return Err(format!("{at}.issuer.url: Invalid value: {:?}: URL must not overlap with disallowed issuers: {own_issuers:?}", e.issuer.url));
        }
        let trust = trust(&at, e)?;
        let ca = Some(e.issuer.certificate_authority.as_bytes()).filter(|c| !c.is_empty());
        let endpoint = Endpoint::https(&trust.issuer, ca).map_err(|e| format!("{at}.issuer.certificateAuthority: {e}"))?;
        jwt.push(Jwt::new(trust, endpoint, own_audiences.to_vec()));
    }
    let anonymous = file.anonymous.map(|a| Anonymous { enabled: a.enabled, paths: a.conditions.into_iter().map(|c| c.path).collect() });
    if anonymous.as_ref().is_some_and(|a| !a.enabled && !a.paths.is_empty()) {
        return Err("anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined".into());
    }
    Ok(Structured { jwt, anonymous })
}

/// An address the issuer may have: https, without user, query or fragment.
pub fn check_url(url: &str) -> Result<(), String> {
    let parsed: http::Uri = url.parse().map_err(|_| "must be a valid URL".to_owned())?;
    if parsed.scheme_str() != Some("https") {
        return Err("URL scheme must be https".into());
    }
    if parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err("URL must not contain a username or password".into());
    }
    if parsed.query().is_some() {
        return Err("URL must not contain a query".into());
    }
    if url.contains('#') {
        return Err("URL must not contain a fragment".into());
    }
    Ok(())
}

fn trust(at: &str, e: &JwtEntry) -> Result<Trust, String> {
    let i = &e.issuer;
    if i.url.is_empty() {
        return Err(format!("{at}.issuer.url: Required value: URL is required"));
    }
    check_url(&i.url).map_err(|why| format!("{at}.issuer.url: Invalid value: {:?}: {why}", i.url))?;
    if let Some(d) = &i.discovery_url {
        check_url(d).map_err(|why| format!("{at}.issuer.discoveryURL: Invalid value: {d:?}: {why}"))?;
        if d.trim_end_matches('/') == i.url.trim_end_matches('/') {
            return Err(format!("{at}.issuer.discoveryURL: Invalid value: {d:?}: discoveryURL must be different from URL"));
        }
    }
    if i.audiences.is_empty() || i.audiences.iter().any(String::is_empty) {
        return Err(format!("{at}.issuer.audiences: Required value: at least one jwt audience is required, none empty"));
    }
    match i.audience_match_policy.as_str() {
        "MatchAny" => {}
        "" if i.audiences.len() == 1 => {}
        "" => return Err(format!("{at}.issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences")),
        other => return Err(format!("{at}.issuer.audienceMatchPolicy: Invalid value: {other:?}: audienceMatchPolicy must be empty or MatchAny")),
    }
    if !i.egress_selector_type.is_empty() {
        return Err(format!("{at}.issuer.egressSelectorType: egress selection is not supported here: leave it out"));
    }
    let rules = e.claim_validation_rules.iter().enumerate().map(|(n, r)| rule(&format!("{at}.claimValidationRules[{n}]"), r)).collect::<Result<_, _>>()?;
    let maps = &e.claim_mappings;
    let rules_at = at;
    let at = format!("{at}.claimMappings");
    check_email(&at, e)?;
    let username = mapping(&format!("{at}.username"), &maps.username, true)?.ok_or_else(|| format!("{at}.username: Required value: claim or expression is required"))?;
    let groups = mapping(&format!("{at}.groups"), &maps.groups, true)?;
    if maps.uid.prefix.is_some() {
        return Err(format!("{at}.uid.prefix: unknown field"));
    }
    let uid = mapping(&format!("{at}.uid"), &maps.uid, false)?;
    let mut extra = Vec::new();
    for (n, x) in maps.extra.iter().enumerate() {
        let at = format!("{at}.extra[{n}]");
        let domain = x.key.split('/').next().unwrap_or_default();
        if !x.key.contains('/') || x.key != x.key.to_lowercase() || RESERVED.iter().any(|r| domain == *r || domain.ends_with(&format!(".{r}"))) {
            return Err(format!("{at}.key: Invalid value: {:?}: must be a lower-case domain-prefixed path outside kubernetes.io and k8s.io", x.key));
        }
        extra.push((x.key.clone(), Expression::compile(&format!("{at}.valueExpression"), &x.value_expression, Over::Claims).map_err(|e| e.to_string())?));
    }
    let mut user_rules = Vec::new();
    for (n, r) in e.user_validation_rules.iter().enumerate() {
        let expression = Expression::compile_condition(&format!("{rules_at}.userValidationRules[{n}].expression"), &r.expression, Over::User).map_err(|e| e.to_string())?;
        user_rules.push((expression, r.message.clone()));
    }
    Ok(Trust {
        issuer: i.url.clone(),
        discovery_url: i.discovery_url.clone(),
        audiences: i.audiences.clone(),
        algorithms: ALGORITHMS.iter().map(|a| (*a).to_owned()).collect(),
        rules,
        username,
        groups,
        uid,
        extra,
        user_rules,
    })
}

/// An address counts only where somebody looks whether it was verified.
fn check_email(at: &str, e: &JwtEntry) -> Result<(), String> {
    let username = &e.claim_mappings.username.expression;
    let names = |text: &str, claim: &str| text.match_indices(claim).any(|(i, _)| !text[i + claim.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
    if !names(username, "claims.email") {
        return Ok(());
    }
    let extra = e.claim_mappings.extra.iter().map(|x| x.value_expression.as_str());
    let looked = extra.chain(e.claim_validation_rules.iter().map(|r| r.expression.as_str())).chain([username.as_str()]).any(|t| names(t, "claims.email_verified"));
    if looked {
        return Ok(());
    }
    Err(format!(
        "{at}.username.expression: Invalid value: {username:?}: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"
    ))
}

fn rule(at: &str, r: &RuleEntry) -> Result<ClaimRule, String> {
    match (r.claim.is_empty(), r.expression.is_empty()) {
        (false, true) if r.message.is_empty() => Ok(ClaimRule::Equals { claim: r.claim.clone(), value: r.required_value.clone() }),
        (false, true) => Err(format!("{at}.message: Invalid value: {:?}: message can't be set when claim is set", r.message)),
        (true, false) if r.required_value.is_empty() => {
            let expression = Expression::compile_condition(&format!("{at}.expression"), &r.expression, Over::Claims).map_err(|e| e.to_string())?;
            Ok(ClaimRule::Holds { expression, message: r.message.clone() })
        }
        (true, false) => Err(format!("{at}.requiredValue: Invalid value: {:?}: requiredValue can't be set when expression is set", r.required_value)),
        (false, false) => Err(format!("{at}: Invalid value: claim and expression can't both be set")),
        (true, true) => Err(format!("{at}: Required value: claim or expression is required")),
    }
}

fn mapping(at: &str, m: &MappingEntry, prefixed: bool) -> Result<Option<Mapping>, String> {
    match (m.claim.is_empty(), m.expression.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Err(format!("{at}: Invalid value: \"\": claim and expression can't both be set")),
        (false, true) if prefixed && m.prefix.is_none() => {
            Err(format!("{at}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"))
        }
        (false, true) => Ok(Some(Mapping::Claim { claim: m.claim.clone(), prefix: m.prefix.clone().unwrap_or_default() })),
        (true, false) if m.prefix.is_some() => Err(format!("{at}.prefix: Invalid value: prefix can't be set when expression is set")),
        (true, false) => Expression::compile(&format!("{at}.expression"), &m.expression, Over::Claims).map(|e| Some(Mapping::Expression(e))).map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    const ISSUER: &str = "jwt:\n- issuer: {url: 'https://i.example', audiences: [a]}\n";

    fn why(text: &str) -> String {
        read(format!("{HEAD}{text}").as_bytes(), &["api".into()], &["https://own.example".into()]).err().unwrap_or_default()
    }

    #[test]
    fn a_configuration_is_read_whole_or_refused_by_field() {
        let good = format!(
            "{ISSUER}  claimMappings: {{username: {{claim: sub, prefix: ''}}, groups: {{claim: roles, prefix: 'x:'}}, uid: {{claim: sub}}}}\nanonymous: {{enabled: true, conditions: [{{path: /livez}}]}}\n"
        );
        let s = read(format!("{HEAD}{good}").as_bytes(), &[], &[]).expect("a good one");
        assert_eq!(s.jwt.len(), 1);
        let anonymous = s.anonymous.unwrap();
        assert!(anonymous.allows("/livez") && !anonymous.allows("/readyz"));

        assert!(why(&format!("{ISSUER}  claimMappings: {{username: {{claim: sub}}}}\n")).contains("jwt[0].claimMappings.username.prefix: Required"));
        assert!(why(&format!("{ISSUER}  claimMappings: {{username: {{expression: 1 +}}}}\n")).contains("jwt[0].claimMappings.username.expression"));
        assert!(why("jwt:\n- issuer: {url: 'http://i.example', audiences: [a]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n").contains("scheme must be https"));
        assert!(why("jwt:\n- issuer: {url: 'https://own.example', audiences: [a]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n").contains("disallowed issuers"));
        assert!(why("jwt:\n- issuer: {url: 'https://i.example', audiences: [a, b]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n").contains("MatchAny"));
        assert!(why(&format!("{ISSUER}  claimMappings: {{username: {{expression: claims.email}}}}\n")).contains("claims.email_verified must be used"));
        assert!(why("surprise: 1\n").contains("surprise"), "an unknown field");
    }
}
