//! How many requests run at once, and whose turn it is: API priority and fairness, or plain limits without it.
//!
//! Entry points: [`Gate::enter`] for a request, after impersonation and before authorization; [`run`] follows the objects. A request falls
//! under the FlowSchema of lowest precedence that [`matching`] finds; that names a [`level`], whose [`queues`] share its seats fairly among
//! the schema's flows; [`shuffle`] deals a flow its few queues; [`work`] says how many seats; [`shares`] how many there are.
//! Invariants: the mandatory schemas and levels work without their objects; a request that finds a free seat allocates nothing and waits
//! for no lock but its level's, for moments. Long-running requests but watches do not pass here, watches only until they have begun.
//! Deliberately absent: the `Dangling` condition (`verdicts`) and the specs of what a cluster begins with (`kinds`).

mod demand;
mod drops;
mod dump;
mod flow;
mod in_flight;
mod keep;
mod level;
mod matching;
mod metrics;
mod queues;
mod shares;
mod shuffle;
mod work;

pub use flow::Flow;

use crate::lifecycle::Options;
use crate::path::RequestInfo;
use crate::respond;
use crate::server::Inner;
use flow::{Counts, Execution};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use http_body::Body as _;
use in_flight::{InFlight, Slot};
use keles_api::Object;
use keles_auth::User;
use keles_kinds::flowcontrol::bootstrap;
use keles_registry::{Query, Registry};
use keles_serve::body::{self, Body};
use level::{Level, Refused, Seat, Story};
use matching::{About, Schema};
use queues::{Limits, Queuing};
use serde_json::Value;
use shares::{Share, Wanted};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
pub const LEVELS: &str = "prioritylevelconfigurations";
pub const SCHEMAS: &str = "flowschemas";

/// How often levels lend each other seats.
const LENDING_PERIOD: Duration = Duration::from_secs(10);
/// A request waits in a queue for this part of its time at most.
const WAIT_PART: u32 = 4;

/// Where every request passes.
pub enum Gate {
    Fair(Arc<Fairness>),
    Plain(InFlight),
}

/// The right to go on, until it is dropped.
pub enum Pass {
    Seat(Seat),
    Slot(Option<Slot>),
}

impl Pass {
    /// The body, with the pass held while it is sent: a list that is made as it goes out, or what a watch begins with. Not beyond `deadline`,
    /// since a client may read as slowly as it likes.
    pub fn while_sent(self, b: Body, is_watch: bool, deadline: Instant) -> Body {
        // What is made already costs nothing more.
        if matches!(self, Pass::Slot(None)) || b.size_hint().exact().is_some() {
            return b;
        }
        let (sending, sent) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let _held = self;
            // An error is the end that is waited for: the body is gone.
            let _ = tokio::time::timeout_at(deadline.into(), sent).await;
        });
        if is_watch { body::hold_while_ready(b, sending) } else { body::hold(b, sending) }
    }
}

/// 429 in upstream's words.
pub fn refusal(retry_after_seconds: u64) -> Response<Body> {
    let mut r = respond::text(StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n");
    r.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
    r
}

/// What is asked about a request.
pub struct Question<'a> {
    pub info: &'a RequestInfo,
    pub query: &'a Query,
    pub user: &'a User,
    pub path: &'a str,
    pub came: Instant,
    /// When the request must be over.
    pub deadline: Instant,
    pub is_long_running: bool,
}

impl Gate {
    pub fn new(o: &Options) -> Gate {
        if o.priority_and_fairness { Gate::Fair(Arc::new(Fairness::new(o.max_requests_in_flight + o.max_mutating_requests_in_flight))) } else { Gate::Plain(InFlight::new(o)) }
    }

    /// Lets a request through, at once or in its turn; refused: how many seconds the client should stay away. `under` gets what the
    /// request was classified as, refused or not.
    pub async fn enter(&self, registry: &Registry, q: Question<'_>, under: &mut Option<Arc<Flow>>) -> Result<Pass, u64> {
        let is_watch = q.info.verb == "watch";
        match self {
            Gate::Fair(_) if q.is_long_running && !is_watch => Ok(Pass::Slot(None)),
            Gate::Fair(f) => f.enter(registry, q, is_watch, under).await.map(Pass::Seat).map_err(|r| r.retry_after_seconds),
            Gate::Plain(_) if q.is_long_running => Ok(Pass::Slot(None)),
            Gate::Plain(p) => p.enter(q.info.verb, q.user).map(Pass::Slot),
        }
    }

    /// A table for `/debug/api_priority_and_fairness/NAME`; `None`: there is none of that name.
    pub fn dump(&self, name: &str, with_details: bool) -> Option<String> {
        match self {
            Gate::Fair(f) => dump::table(f, name, with_details),
            Gate::Plain(_) => None,
        }
    }

    /// Takes what the objects say now.
    pub fn load(&self, registry: &Registry) {
        if let Gate::Fair(f) = self {
            f.load(&registry.read_all(GROUP, LEVELS, ""), &registry.read_all(GROUP, SCHEMAS, ""));
        }
    }
}

/// Priority and fairness as the objects say.
pub struct Fairness {
    /// Seats of the whole server.
    total: u32,
    table: RwLock<Table>,
    /// By level and schema.
    counts: Mutex<BTreeMap<(String, String), Arc<Counts>>>,
    /// Which part of their targets the levels got last.
    fraction: Mutex<f64>,
}

struct Table {
    /// By precedence, then name.
    flows: Vec<Arc<Flow>>,
    /// For a request that no schema wants.
    rest: Arc<Flow>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// A level as its object says.
struct Wish {
    uid: HeaderValue,
    share: Share,
    queuing: Option<Queuing>,
}

impl Fairness {
    pub fn new(total: u32) -> Fairness {
        let none = Arc::new(Flow {
            name: String::new(),
            uid: HeaderValue::from_static(""),
            level_uid: HeaderValue::from_static(""),
            schema: Schema::parse(&Object(Value::Null)),
            level: Level::new("", false, Limits::default(), Default::default()),
            counts: Arc::default(),
        });
        let table = Table { flows: Vec::new(), rest: none, levels: BTreeMap::new() };
        let f = Fairness { total: total.max(1), table: RwLock::new(table), counts: Mutex::default(), fraction: Mutex::default() };
        f.load(&[], &[]);
        f
    }

    async fn enter(&self, registry: &Registry, q: Question<'_>, is_watch: bool, under: &mut Option<Arc<Flow>>) -> Result<Seat, Refused> {
        let about = About { info: q.info, user: q.user, path: q.path };
        let flow = self.classify(&about);
        let distinguisher = flow.schema.distinguisher.of(&about);
        let hash = matching::hash(&flow.name, distinguisher);
        let width_max = work::width_max(flow.level.state().bounds.nominal);
        let work = work::estimate(registry, q.info, q.query, width_max);
        let until = q.came + q.deadline.saturating_duration_since(q.came) / WAIT_PART;
        let kind = if is_watch { Execution::Watch } else { Execution::Regular };
        let story = || Story { distinguisher: distinguisher.into(), arrived: jiff::Timestamp::now(), user: q.user.name.clone(), info: q.info.clone(), path: q.path.into() };
        let level = flow.level.clone();
        *under = Some(flow.clone());
        level.enter(&flow, hash, work, kind, q.came, until, story).await
    }

    fn classify(&self, about: &About) -> Arc<Flow> {
        let t = self.table.read().unwrap_or_else(|e| e.into_inner());
        t.flows.iter().find(|f| f.schema.matches(about)).unwrap_or(&t.rest).clone()
    }

    fn levels(&self) -> Vec<Arc<Level>> {
        self.table.read().unwrap_or_else(|e| e.into_inner()).levels.values().cloned().collect()
    }

    /// Takes the objects in. Levels that stay keep who runs and who waits in them.
    fn load(&self, levels: &[Object], schemas: &[Object]) {
        let wishes = wishes(levels);
        let shares: Vec<Share> = wishes.values().map(|w| w.share.clone()).collect();
        let bounds = shares::bounds(self.total, &shares);
        let mut t = self.table.write().unwrap_or_else(|e| e.into_inner());
        let mut old = std::mem::take(&mut t.levels);
        for ((name, wish), bounds) in wishes.iter().zip(bounds) {
            let level = match old.remove(name) {
                Some(l) => {
                    let mut s = l.state();
                    if s.bounds != bounds {
                        (s.bounds, s.exempt) = (bounds, wish.share.exempt);
                        s.wanted = Wanted { seen: s.wanted.seen, smoothed: s.wanted.smoothed.max(f64::from(bounds.nominal)) };
                    }
                    s.exempt = wish.share.exempt;
                    drop(s);
                    l
                }
                None => Level::new(name, wish.share.exempt, Limits { seats: bounds.nominal, queuing: wish.queuing }, bounds),
            };
            t.levels.insert(name.clone(), level);
        }
        // Levels that are gone go on until the last of their requests has ended; nobody new comes.
        self.share(&t.levels, |name| wishes.get(name).and_then(|w| w.queuing));
        let mut counts = self.counts.lock().unwrap_or_else(|e| e.into_inner());
        let flows = self.flows(schemas, &wishes, &t.levels, &mut counts);
        t.rest = flows.iter().find(|f| f.name == bootstrap::CATCH_ALL).cloned().unwrap_or_else(|| t.rest.clone());
        t.flows = flows;
        drop(t);
        counts.retain(|_, c| Arc::strong_count(c) > 1);
    }

    fn flows(
        &self,
        schemas: &[Object],
        wishes: &BTreeMap<String, Wish>,
        levels: &BTreeMap<String, Arc<Level>>,
        counts: &mut BTreeMap<(String, String), Arc<Counts>>,
    ) -> Vec<Arc<Flow>> {
        let missing = bootstrap::schemas().into_iter().map(Object).filter(|b| bootstrap::fixed_schema(b.name()).is_some() && !schemas.iter().any(|s| s.name() == b.name()));
        let missing: Vec<Object> = missing.collect();
        let mut flows: Vec<Arc<Flow>> = schemas
            .iter()
            .chain(&missing)
            .filter_map(|o| {
                let schema = Schema::parse(o);
                // A schema whose level is missing is dangling: it is passed over.
                let (level, wish) = (levels.get(&schema.level)?.clone(), wishes.get(&schema.level)?);
                let counts = counts.entry((level.name.clone(), o.name().into())).or_default().clone();
                Some(Arc::new(Flow { name: o.name().into(), uid: uid(o), level_uid: wish.uid.clone(), schema, level, counts }))
            })
            .collect();
        flows.sort_by(|a, b| (a.schema.precedence, &a.name).cmp(&(b.schema.precedence, &b.name)));
        flows
    }

    /// A new period of lending: each level's demand since the last one counts.
    fn lend(&self) {
        let t = self.table.read().unwrap_or_else(|e| e.into_inner());
        for l in t.levels.values() {
            let mut s = l.state();
            let seen = s.queues.demand.take(l.seconds(Instant::now()));
            s.wanted.update(seen);
        }
        let queuing: BTreeMap<String, Option<Queuing>> = t.levels.iter().map(|(n, l)| (n.clone(), l.state().queues.limits().queuing)).collect();
        self.share(&t.levels, |name| queuing.get(name).copied().flatten());
    }

    fn share(&self, levels: &BTreeMap<String, Arc<Level>>, queuing: impl Fn(&str) -> Option<Queuing>) {
        let rows: Vec<_> = levels.values().map(|l| l.state()).map(|s| (s.exempt, s.bounds, s.wanted)).collect();
        let (given, fraction) = shares::lend(self.total, &rows);
        *self.fraction.lock().unwrap_or_else(|e| e.into_inner()) = fraction;
        for ((level, (exempt, bounds, _)), given) in levels.values().zip(&rows).zip(given) {
            level.state().given = given;
            // No share, no seats: a jail.
            let seats = if *exempt {
                u32::MAX
            } else if bounds.nominal == 0 {
                given.seats.min(bounds.upper)
            } else {
                given.seats
            };
            level.set_limits(Limits { seats, queuing: queuing(&level.name).filter(|_| !exempt) });
        }
    }
}

/// The levels that objects or, where those are missing, the mandatory specs ask for.
fn wishes(objects: &[Object]) -> BTreeMap<String, Wish> {
    let mut all: BTreeMap<String, Wish> = [bootstrap::EXEMPT, bootstrap::CATCH_ALL]
        .into_iter()
        .filter_map(|n| Some((n.to_owned(), Wish::parse(&bootstrap::fixed_level(n)?, HeaderValue::from_static("")))))
        .collect();
    all.extend(objects.iter().map(|o| (o.name().to_owned(), Wish::parse(o.at(&["spec"]), uid(o)))));
    all
}

impl Wish {
    fn parse(spec: &Value, uid: HeaderValue) -> Wish {
        let exempt = spec["type"] == "Exempt";
        let of = &spec[if exempt { "exempt" } else { "limited" }];
        let number = |v: &Value, default: u64| v.as_u64().unwrap_or(default);
        let response = &of["limitResponse"];
        let q = &response["queuing"];
        Wish {
            uid,
            share: Share {
                exempt,
                shares: number(&of["nominalConcurrencyShares"], if exempt { 0 } else { 30 }),
                lendable_percent: number(&of["lendablePercent"], 0),
                borrowing_percent: of["borrowingLimitPercent"].as_u64(),
            },
            queuing: (response["type"] == "Queue").then(|| Queuing {
                queues: number(&q["queues"], 64) as usize,
                hand: number(&q["handSize"], 8) as usize,
                length_max: number(&q["queueLengthLimit"], 50) as usize,
            }),
        }
    }
}

fn uid(o: &Object) -> HeaderValue {
    HeaderValue::from_str(o.str_at(&["metadata", "uid"])).unwrap_or(HeaderValue::from_static(""))
}

/// Follows the objects, lends seats and keeps what must be there, until the server stops.
pub async fn run(server: Arc<Inner>) {
    let Gate::Fair(fairness) = &server.gate else { return };
    let (Some(mut levels), Some(mut schemas)) = (server.registry.subscribe(GROUP, LEVELS), server.registry.subscribe(GROUP, SCHEMAS)) else { return };
    let mut lending = tokio::time::interval(LENDING_PERIOD);
    lending.tick().await;
    let mut keeping = tokio::time::interval(keep::PERIOD);
    keeping.tick().await;
    loop {
        levels.borrow_and_update();
        schemas.borrow_and_update();
        server.gate.load(&server.registry);
        loop {
            tokio::select! {
                () = server.stops.cancelled() => return,
                r = levels.changed() => if r.is_err() { return } else { break },
                r = schemas.changed() => if r.is_err() { return } else { break },
                _ = lending.tick() => fairness.lend(),
                _ = keeping.tick() => keep::pass(&server.registry).await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
