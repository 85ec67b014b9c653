//! A priority level at work: its queues behind a lock, seats that give themselves back, and those who wait.

use super::drops::Drops;
use super::flow::{Execution, Flow, Reason};
use super::queues::{Arrival, Limits, Queues, Refusal, Ticket};
use super::shares::{Bounds, Given, Wanted};
use super::work::Work;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub struct Level {
    pub name: String,
    state: Mutex<State>,
    began: Instant,
}

pub struct State {
    pub queues: Queues<Waiter>,
    pub drops: Drops,
    pub exempt: bool,
    pub bounds: Bounds,
    pub wanted: Wanted,
    pub given: Given,
    /// Since the level came up.
    pub dispatched: u64,
    pub rejected: [u64; Reason::ALL.len()],
}

/// One who waits, for the one who frees a seat and for `dump_requests`.
pub struct Waiter {
    /// Gets the queue whose seats it was given.
    call: oneshot::Sender<usize>,
    pub flow: Arc<Flow>,
    pub about: Box<Story>,
    pub width: u32,
    pub extra: Duration,
}

/// What is told of a waiting request.
pub struct Story {
    pub distinguisher: String,
    pub arrived: jiff::Timestamp,
    pub user: String,
    pub info: crate::path::RequestInfo,
    pub path: String,
}

/// Seats of a level, held while a request is worked on.
#[must_use = "the seats are given back when it is dropped"]
pub struct Seat {
    level: Arc<Level>,
    flow: Arc<Flow>,
    queue: usize,
    width: u32,
    /// For how long the seats are kept after the end: what the request costs watchers.
    extra: Duration,
    began: Instant,
    kind: Execution,
}

/// The refusal, and how many seconds the client is asked to stay away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refused {
    pub reason: Reason,
    pub retry_after_seconds: u64,
}

impl Level {
    pub fn new(name: &str, exempt: bool, limits: Limits, bounds: Bounds) -> Arc<Level> {
        let wanted = Wanted::nominal(bounds);
        let given = Given { seats: limits.seats, target: wanted.smoothed };
        let state = State { queues: Queues::new(limits), drops: Drops::default(), exempt, bounds, wanted, given, dispatched: 0, rejected: Default::default() };
        Arc::new(Level { name: name.into(), state: Mutex::new(state), began: Instant::now() })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
    /// Seconds of the level's own clock.
    pub fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }

    /// New limits; who may run now is called.
    pub fn set_limits(&self, limits: Limits) {
        let mut s = self.state();
        if *s.queues.limits() != limits {
            s.queues.set_limits(limits);
            self.call(&mut s, Instant::now());
        }
    }

    /// Seats for a request that came at `now`, at once or by `until`. No allocation when they are free.
    pub async fn enter(
        self: &Arc<Self>,
        flow: &Arc<Flow>,
        hash: u64,
        work: Work,
        kind: Execution,
        now: Instant,
        until: Instant,
        story: impl FnOnce() -> Story,
    ) -> Result<Seat, Refused> {
        let seat = |queue, began| Seat { level: self.clone(), flow: flow.clone(), queue, width: work.width, extra: work.extra, began, kind };
        let mut waits = None;
        let arrival = {
            let mut s = self.state();
            let arrival = s.queues.arrive(self.seconds(now), hash, work.width, || {
                let (call, called) = oneshot::channel();
                waits = Some(called);
                Waiter { call, flow: flow.clone(), about: Box::new(story()), width: work.width, extra: work.extra }
            });
            match arrival {
                Arrival::Runs { .. } => s.dispatched += 1,
                Arrival::Waits { .. } => self.call(&mut s, now),
                Arrival::Refused(_) => {}
            }
            arrival
        };
        flow.counts.seats_estimated.observe(f64::from(work.width));
        let refusal = match arrival {
            Arrival::Runs { queue } => {
                flow.counts.started(work.width);
                flow.counts.waited_to_run.observe(0.0);
                return Ok(seat(queue, now));
            }
            Arrival::Refused(Refusal::NoSeat) => Reason::ConcurrencyLimit,
            Arrival::Refused(Refusal::QueueFull) => Reason::QueueFull,
            Arrival::Waits { ticket, ahead } => {
                flow.counts.queue_length.observe(ahead as f64 + 1.0);
                flow.counts.queued(work.width, 1);
                let called = waits.expect("one who waits has left its number");
                let mut waiting = Waiting { level: self, flow, ticket, called, width: work.width, since: now, done: false };
                match waiting.wait(until).await {
                    Some(queue) => return Ok(seat(queue, Instant::now())),
                    None => Reason::TimeOut,
                }
            }
        };
        Err(self.refused(flow, refusal))
    }

    fn refused(&self, flow: &Flow, reason: Reason) -> Refused {
        flow.counts.rejected(reason);
        let mut s = self.state();
        s.rejected[reason as usize] += 1;
        let second = self.began.elapsed().as_secs() + u64::from(u32::MAX);
        Refused { reason, retry_after_seconds: s.drops.refused(second) }
    }

    /// Gives free seats to those who are next.
    fn call(&self, s: &mut State, now: Instant) {
        while let Some(called) = s.queues.next(self.seconds(now)) {
            s.dispatched += 1;
            // Who is gone finds its number in `called` when it leaves, and gives the seats back.
            let _ = called.who.call.send(called.queue);
        }
        if let Some(first) = s.queues.all().iter().find_map(|q| q.waiting.front()) {
            first.who.flow.counts.no_accommodation();
        }
    }

    fn leave_seats(&self, queue: usize, width: u32, took: Duration) {
        let now = Instant::now();
        let mut s = self.state();
        s.queues.finish(self.seconds(now), queue, width, took.as_secs_f64());
        self.call(&mut s, now);
    }
}

/// A place in a queue, given up when dropped.
struct Waiting<'a> {
    level: &'a Level,
    flow: &'a Flow,
    ticket: Ticket,
    called: oneshot::Receiver<usize>,
    width: u32,
    since: Instant,
    done: bool,
}

impl Waiting<'_> {
    /// The queue whose seats it has; `None` when the time is over.
    async fn wait(&mut self, until: Instant) -> Option<usize> {
        let called = tokio::time::timeout_at(until.into(), &mut self.called).await;
        let queue = match called {
            Ok(q) => q.ok(),
            Err(_) => self.leave(),
        };
        self.done = true;
        self.end(queue.is_some());
        queue
    }
    /// Takes it out of the queue; what it was given in the same moment.
    fn leave(&mut self) -> Option<usize> {
        let mut s = self.level.state();
        let now = Instant::now();
        match s.queues.leave(self.level.seconds(now), self.ticket) {
            Some(_) => {
                // Behind it may be one that is narrow enough.
                self.level.call(&mut s, now);
                None
            }
            None => self.called.try_recv().ok(),
        }
    }
    fn end(&self, runs: bool) {
        let c = &self.flow.counts;
        c.queued(self.width, -1);
        let waited = self.since.elapsed().as_secs_f64();
        if runs {
            c.started(self.width);
            c.waited_to_run.observe(waited);
        } else {
            c.waited_in_vain.observe(waited);
        }
    }
}

impl Drop for Waiting<'_> {
    /// The client has gone.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let given = self.leave();
        self.end(false);
        self.flow.counts.rejected(Reason::Cancelled);
        self.level.state().rejected[Reason::Cancelled as usize] += 1;
        if let Some(queue) = given {
            self.level.leave_seats(queue, self.width, Duration::ZERO);
        }
    }
}

#[cfg(test)]
impl Seat {
    pub fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.flow.counts.ended(self.width, self.kind, took);
        if !self.extra.is_zero()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (level, queue, width, extra) = (self.level.clone(), self.queue, self.width, self.extra);
            runtime.spawn(async move {
                tokio::time::sleep(extra).await;
                level.leave_seats(queue, width, took + extra);
            });
            return;
        }
        self.level.leave_seats(self.queue, self.width, took);
    }
}
