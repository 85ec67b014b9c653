//! Each controller as its own service account, when the controllers run alone (upstream's `--use-service-account-credentials`):
//! a client that asks for its account's token with the kubeconfig's user, and for the next one before it ends.
//!
//! Entry point: [`Accounts`]. The account is made when it is missing. Nothing is asked before the first request.

use http::HeaderValue;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use keles_supervise::BoxError;
use kube::Api;
use kube::api::PostParams;
use kube::client::Body;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "system:serviceaccount:kube-system:";
const LIFETIME_SECONDS: i64 = 3600;
/// A token is used for four fifths of its life.
const USED: Duration = Duration::from_secs(LIFETIME_SECONDS as u64 * 4 / 5);
const NOT_FOUND: u16 = 404;

#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error(
        "no token for the service account {NAMESPACE}/{account}; the kubeconfig's user must be allowed to create serviceaccounts and serviceaccounts/token, or say --use-service-account-credentials=false"
    )]
    Refused { account: String, source: kube::Error },
    #[error("the API answered the token request of {NAMESPACE}/{account} without a token")]
    Empty { account: String },
}

pub struct Accounts {
    /// As the kubeconfig's user.
    own: kube::Client,
    /// The same server without any credentials.
    bare: kube::Client,
}

impl Accounts {
    pub async fn open(kubeconfig: &Path) -> Result<Self, BoxError> {
        let own = keles_client::from_kubeconfig(kubeconfig).await?;
        let mut file = kube::config::Kubeconfig::read_from(kubeconfig)?;
        for user in &mut file.auth_infos {
            user.auth_info = Some(Default::default());
        }
        let mut config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        config.read_timeout = None;
        Ok(Self { own, bare: keles_client::over_https(config)? })
    }

    /// A client for a user's name; who is no service account of kube-system is the kubeconfig's user.
    pub fn client(&self, user: &str) -> kube::Client {
        let Some(account) = user.strip_prefix(PREFIX) else { return self.own.clone() };
        let tokens = Arc::new(Tokens { own: self.own.clone(), account: account.to_owned(), current: Mutex::default() });
        let bare = self.bare.clone();
        let service = tower::service_fn(move |mut request: http::Request<Body>| {
            let (tokens, bare) = (tokens.clone(), bare.clone());
            async move {
                request.headers_mut().insert(AUTHORIZATION, tokens.current().await?);
                bare.send(request).await.map_err(BoxError::from)
            }
        });
        kube::Client::new(service, NAMESPACE)
    }
}

struct Tokens {
    own: kube::Client,
    account: String,
    current: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Tokens {
    async fn current(&self) -> Result<HeaderValue, TokenError> {
        // Held while asking: a hundred waiting requests ask once.
        let mut current = self.current.lock().await;
        if let Some((header, until)) = &*current
            && *until > Instant::now()
        {
            return Ok(header.clone());
        }
        let header = self.ask().await?;
        *current = Some((header.clone(), Instant::now() + USED));
        Ok(header)
    }

    async fn ask(&self) -> Result<HeaderValue, TokenError> {
        let refused = |source| TokenError::Refused { account: self.account.clone(), source };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.own.clone(), NAMESPACE);
        let answer = match self.request(&accounts).await {
            Err(kube::Error::Api(status)) if status.code == NOT_FOUND => {
                let account = ServiceAccount { metadata: kube::api::ObjectMeta { name: Some(self.account.clone()), ..Default::default() }, ..Default::default() };
                match accounts.create(&PostParams::default(), &account).await {
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
                    other => drop(other.map_err(refused)?),
                }
                self.request(&accounts).await
            }
            other => other,
        };
        let token = answer.map_err(refused)?.status.and_then(|status| status.token).unwrap_or_default();
        let header = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty());
        header.map(sensitive).ok_or_else(|| TokenError::Empty { account: self.account.clone() })
    }

    async fn request(&self, accounts: &Api<ServiceAccount>) -> Result<TokenRequest, kube::Error> {
        let spec = TokenRequestSpec { expiration_seconds: Some(LIFETIME_SECONDS), ..Default::default() };
        accounts.create_token_request(&self.account, &PostParams::default(), &TokenRequest { spec: Some(spec), ..Default::default() }).await
    }
}

fn sensitive(mut header: HeaderValue) -> HeaderValue {
    header.set_sensitive(true);
    header
}
