//! Watches of the ConfigMaps, Secrets and ClusterTrustBundles that pods of this node show as files: a change wakes the pods that show it.
//!
//! Entry point: [`Followed::follow`]. One watch an object, however many pods show it, each by the object's name alone, as the node authorizer
//! grants no more; it ends when the last pod lets go, and for good once the object says that it is immutable. Invariant: a pod that follows
//! before it reads misses no change. Deliberately absent: the content; pods read that when they are woken.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Change, Informer, Options, Scope, Watched};
use keles_volumes::references::{Kind, Reference};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Namespace and reference.
type Key = (String, Reference);

/// What a watch needs of an object; its data is not kept.
#[derive(Clone, Debug, Default, Deserialize)]
struct Marked {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    immutable: Option<bool>,
}

impl Watched for Marked {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// One object's watch and the pods to wake.
struct Watch {
    pods: Mutex<Vec<Weak<Notify>>>,
    informer: Informer<Marked>,
}

/// Held by a pod for as long as it shows the object.
pub struct Following {
    _watch: Arc<Watch>,
}

/// All watches of the node.
pub struct Followed {
    client: kube::Client,
    stop: CancellationToken,
    watches: Mutex<HashMap<Key, Weak<Watch>>>,
}

impl Followed {
    pub fn new(client: kube::Client, stop: CancellationToken) -> Self {
        Self { client, stop, watches: Mutex::default() }
    }

    /// Rings `bell` at every change of the object until what this gives is dropped.
    pub fn follow(&self, namespace: &str, reference: Reference, bell: &Arc<Notify>) -> Following {
        let mut watches = lock(&self.watches);
        let key = (namespace.to_owned(), reference);
        let watch = watches.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            watches.retain(|_, watch| watch.strong_count() > 0);
            let watch = self.watch(&key);
            watches.insert(key.clone(), Arc::downgrade(&watch));
            watch
        });
        let mut pods = lock(&watch.pods);
        pods.retain(|pod| pod.strong_count() > 0);
        pods.push(Arc::downgrade(bell));
        drop(pods);
        Following { _watch: watch }
    }

    fn watch(&self, (namespace, reference): &Key) -> Arc<Watch> {
        let (path, scope) = place(namespace, reference);
        let informer: Informer<Marked> = Informer::start(self.client.clone(), &path, &scope, Options::default(), self.stop.child_token());
        let watch = Arc::new(Watch { pods: Mutex::default(), informer: informer.clone() });
        // Weak, for the informer keeps its callbacks for as long as it runs.
        let told = Arc::downgrade(&watch);
        informer.on_change(move |change| {
            let Some(watch) = told.upgrade() else { return };
            lock(&watch.pods).iter().filter_map(Weak::upgrade).for_each(|bell| bell.notify_one());
            if is_settled(change) {
                watch.informer.stop();
            }
        });
        watch
    }
}

/// What to watch for a reference: the collection, and which of it. ConfigMaps and Secrets are the pod's namespace's, bundles are the cluster's.
fn place(namespace: &str, Reference { kind, name }: &Reference) -> (String, Scope) {
    const BUNDLES: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    let named = Scope::fields(&format!("metadata.name={name}"));
    let of_pod = |plural: &str| (format!("/api/v1/namespaces/{namespace}/{plural}"), Scope { namespace: namespace.to_owned(), ..named.clone() });
    match kind {
        Kind::ConfigMap => of_pod("configmaps"),
        Kind::Secret => of_pod("secrets"),
        Kind::TrustBundle => (BUNDLES.to_owned(), named),
        Kind::TrustBundlesOfSigner => (BUNDLES.to_owned(), Scope::fields(&format!("spec.signerName={name}"))),
    }
}

/// An immutable object changes no more; if it goes and comes again, pods find it at their next regular refresh, as upstream's do not at all.
fn is_settled(change: &Change<Marked>) -> bool {
    !matches!(change, Change::Deleted(_)) && change.object().immutable == Some(true)
}

// Nothing can panic while these are held half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::channel::mpsc;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper::body::Frame;
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(60);

    type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, std::convert::Infallible>>;

    /// An API with one object; watches that were opened, each with its feed.
    fn api(object: Value) -> (kube::Client, tokio::sync::mpsc::UnboundedReceiver<(String, Feed)>) {
        let (opened, watches) = tokio::sync::mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let answer = if query.contains("sendInitialEvents=") {
                let refusal = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422});
                Response::builder().status(422).body(Full::from(refusal.to_string()).boxed_unsync()).expect("a response")
            } else if query.contains("watch=") {
                let (feed, events) = mpsc::unbounded();
                let _ = opened.send((format!("{}?{query}", request.uri().path()), feed));
                Response::new(StreamBody::new(events).boxed_unsync())
            } else {
                let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [object.clone()]});
                Response::new(Full::from(list.to_string()).boxed_unsync())
            };
            std::future::ready(Ok::<_, std::convert::Infallible>(answer))
        });
        (kube::Client::new(service, "default"), watches)
    }

    fn object(revision: &str, immutable: bool) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n", "resourceVersion": revision, "uid": "u"}, "immutable": immutable})
    }
    fn say(feed: &Feed, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        feed.unbounded_send(Ok(Frame::data(Bytes::from(line)))).expect("the watch is open");
    }
    async fn rung(bell: &Notify) {
        tokio::time::timeout(LIMIT, bell.notified()).await.expect("the bell rings");
    }
    fn reference() -> Reference {
        Reference { kind: Kind::ConfigMap, name: "a".into() }
    }

    #[tokio::test]
    async fn a_change_wakes_every_pod_that_shows_the_object_over_one_watch_of_its_name() {
        let (client, mut watches) = api(object("1", false));
        let followed = Followed::new(client, CancellationToken::new());
        let bells = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let following: Vec<Following> = bells.iter().map(|bell| followed.follow("n", reference(), bell)).collect();
        for bell in &bells {
            rung(bell).await;
        }
        let (path, feed) = tokio::time::timeout(LIMIT, watches.recv()).await.expect("a watch").expect("the API lives");
        assert!(path.starts_with("/api/v1/namespaces/n/configmaps?") && path.contains("fieldSelector=metadata.name%3Da"), "{path}");
        for (kind, revision) in [("MODIFIED", "2"), ("DELETED", "3"), ("ADDED", "4")] {
            say(&feed, kind, &object(revision, false));
            for bell in &bells {
                rung(bell).await;
            }
        }
        assert!(watches.try_recv().is_err(), "one watch serves both");
        drop(following);
        // The last pod let go: the watch is closed from our side.
        tokio::time::timeout(LIMIT, async {
            while !feed.is_closed() {
                tokio::task::yield_now().await
            }
        })
        .await
        .expect("the watch ends");
    }

    #[test]
    fn each_kind_is_watched_where_it_is() {
        let of = |kind, name: &str| place("n", &Reference { kind, name: name.into() });
        let (path, scope) = of(Kind::Secret, "a");
        assert_eq!((path.as_str(), scope), ("/api/v1/namespaces/n/secrets", Scope { namespace: "n".into(), ..Scope::fields("metadata.name=a") }));
        let bundles = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
        assert_eq!(of(Kind::TrustBundle, "b"), (bundles.to_owned(), Scope::fields("metadata.name=b")));
        assert_eq!(of(Kind::TrustBundlesOfSigner, "s.io/x"), (bundles.to_owned(), Scope::fields("spec.signerName=s.io/x")));
    }

    #[tokio::test]
    async fn an_object_that_turned_immutable_is_watched_no_longer() {
        let (client, mut watches) = api(object("1", false));
        let followed = Followed::new(client, CancellationToken::new());
        let bell = Arc::new(Notify::new());
        let _following = followed.follow("n", reference(), &bell);
        rung(&bell).await;
        let (_, feed) = tokio::time::timeout(LIMIT, watches.recv()).await.expect("a watch").expect("the API lives");
        say(&feed, "MODIFIED", &object("2", true));
        rung(&bell).await;
        tokio::time::timeout(LIMIT, async {
            while !feed.is_closed() {
                tokio::task::yield_now().await
            }
        })
        .await
        .expect("the watch ends");
    }
}
