//! Static tokens: `--token-auth-file`, a CSV of token, user, uid and, quoted, groups.

use super::{Authenticated, Refused, TokenAuthenticator, equal, implicit};
use crate::{User, mark_authenticated};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read the token file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("token file {} line {line}: {why}", path.display())]
    Line { path: PathBuf, line: usize, why: &'static str },
}

pub struct TokenFile {
    users: Vec<(String, Arc<User>)>,
    own_audiences: Vec<String>,
}

impl TokenFile {
    pub fn open(path: &Path, own_audiences: Vec<String>) -> Result<TokenFile, TokenFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokenFileError::Read { path: path.into(), source })?;
        let mut users: Vec<(String, Arc<User>)> = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let bad = |why| TokenFileError::Line { path: path.into(), line: i + 1, why };
            let columns = columns(line).ok_or_else(|| bad("a quote is not closed"))?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else { return Err(bad("must have at least three columns: token, user name, user uid")) };
            if token.is_empty() {
                tracing::warn!(path = %path.display(), line = i + 1, "an empty token is passed over");
                continue;
            }
            let groups = rest.first().map(|g| g.split(',').map(|g| g.trim().to_owned()).filter(|g| !g.is_empty()).collect()).unwrap_or_default();
            let mut user = User { name: name.clone(), uid: uid.clone(), groups, ..User::default() };
            mark_authenticated(&mut user);
            // As upstream: a token that stands again further down is its last user's.
            users.retain(|(t, _)| t != token);
            users.push((token.clone(), Arc::new(user)));
        }
        Ok(TokenFile { users, own_audiences })
    }
}

/// The fields of a CSV line; quotes are doubled inside quotes.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut out = vec![String::new()];
    let (mut quoted, mut chars) = (false, line.chars().peekable());
    while let Some(c) = chars.next() {
        let field = out.last_mut().expect("there is always a field");
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            ('"', true) => quoted = false,
            ('"', false) if field.trim().is_empty() => {
                field.clear();
                quoted = true;
            }
            (',', false) => out.push(String::new()),
            (c, _) => field.push(c),
        }
    }
    (!quoted).then_some(out)
}

#[async_trait]
impl TokenAuthenticator for TokenFile {
    fn name(&self) -> &'static str {
        "tokenfile"
    }
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused> {
        let Some(audiences) = implicit(&self.own_audiences, audiences) else { return Ok(None) };
        let found = self.users.iter().find(|(t, _)| equal(t, token));
        Ok(found.map(|(_, user)| Authenticated { user: user.clone(), audiences }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_gives_user_uid_and_groups() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret,jane,7,\"dev,ops\"\nother,bob,8\n").unwrap();
        let api = vec!["api".to_owned()];
        let t = TokenFile::open(file.path(), api.clone()).unwrap();
        let u = t.authenticate("s3cret", &api).await.unwrap().unwrap().user;
        assert_eq!((u.name.as_str(), u.uid.as_str()), ("jane", "7"));
        assert_eq!(u.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(t.authenticate("nobody", &api).await.unwrap(), None);
        assert_eq!(t.authenticate("s3cret", &["vault".into()]).await.unwrap(), None, "for nobody but the API server");
    }

    #[test]
    fn a_line_of_too_few_columns_is_refused_by_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a,b,c\nx,y\n").unwrap();
        let e = TokenFile::open(file.path(), Vec::new()).err().unwrap().to_string();
        assert!(e.contains("line 2") && e.contains("three columns"), "{e}");
    }
}
