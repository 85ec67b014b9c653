//! The queues of one priority level as a pure state machine: who runs now, who waits, who is next.
//!
//! Fair queuing by virtual time. `virtual_now` is how far each active queue would have got if all of them were served side by side, bit by
//! bit; a queue's `next_start` is when, in that time, its next request would begin. The one that would finish first goes first. How long a
//! request takes is guessed ([`GUESS_SECONDS`]) and put right when it ends, so a flow of slow requests gets no more than one of quick ones.
//! Invariants: no clock is read here; one that finds a free seat costs no allocation.
//! Source: KEP-1040, "Fair Queuing for Server Requests".

use super::demand::Demand;
use super::shuffle;
use std::collections::VecDeque;

/// What a request is taken to last until it has ended.
const GUESS_SECONDS: f64 = 0.003;

/// How a level is limited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Seats that may be taken at once; nobody is let in at 0.
    pub seats: u32,
    /// Absent: who finds no seat is refused.
    pub queuing: Option<Queuing>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Queuing {
    pub queues: usize,
    pub hand: usize,
    /// Requests that wait in one queue.
    pub length_max: usize,
}

/// The answer to one who comes.
#[derive(Debug, PartialEq)]
pub enum Arrival {
    /// Has its seats, and gives them back with [`Queues::finish`].
    Runs {
        queue: usize,
    },
    /// Is behind `ahead` others in its queue; [`Queues::next`] may name it at once.
    Waits {
        ticket: Ticket,
        ahead: usize,
    },
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// No seat is free, and the level has no queues.
    NoSeat,
    /// The shortest queue of the hand is full.
    QueueFull,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ticket {
    queue: usize,
    number: u64,
}

/// Who has got seats after waiting for them.
#[derive(Debug)]
pub struct Called<T> {
    pub queue: usize,
    pub who: T,
}

pub struct Waiting<T> {
    number: u64,
    pub width: u32,
    pub who: T,
}

pub struct Queue<T> {
    pub waiting: VecDeque<Waiting<T>>,
    seats_waiting: u64,
    pub executing: usize,
    pub seats_in_use: u32,
    pub next_start: f64,
}

impl<T> Queue<T> {
    fn idle() -> Self {
        Queue { waiting: VecDeque::new(), seats_waiting: 0, executing: 0, seats_in_use: 0, next_start: 0.0 }
    }
    fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }
}

pub struct Queues<T> {
    limits: Limits,
    /// At least as many as the limits name: one with requests in it stays until it is empty.
    all: Vec<Queue<T>>,
    active: usize,
    executing: usize,
    seats_in_use: u32,
    waiting: usize,
    seats_waiting: u64,
    virtual_now: f64,
    /// Last time heard of, in seconds of the caller's clock.
    at: f64,
    /// The queue that was served last: equals take turns.
    served: usize,
    tickets: u64,
    /// Seats wanted over time, for lending between levels.
    pub demand: Demand,
}

impl<T> Queues<T> {
    pub fn new(limits: Limits) -> Self {
        let mut q = Queues {
            limits: Limits::default(),
            all: Vec::new(),
            active: 0,
            executing: 0,
            seats_in_use: 0,
            waiting: 0,
            seats_waiting: 0,
            virtual_now: 0.0,
            at: 0.0,
            served: 0,
            tickets: 0,
            demand: Demand::default(),
        };
        q.set_limits(limits);
        q
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    /// New limits count from now on. Who waits keeps its place.
    pub fn set_limits(&mut self, limits: Limits) {
        let wanted = limits.queuing.map_or(1, |q| q.queues.max(1));
        while self.all.len() > wanted && self.all.last().is_some_and(|q| !q.is_active()) {
            self.all.pop();
        }
        if self.all.len() < wanted {
            self.all.resize_with(wanted, Queue::idle);
        }
        self.limits = limits;
    }
    pub fn executing(&self) -> usize {
        self.executing
    }
    pub fn waiting(&self) -> usize {
        self.waiting
    }
    #[cfg(test)]
    pub fn seats_in_use(&self) -> u32 {
        self.seats_in_use
    }
    pub fn all(&self) -> &[Queue<T>] {
        &self.all
    }

    /// One that wants `width` seats comes at `now`. `hash` is its flow's; `who` is asked for only when it has to wait.
    pub fn arrive(&mut self, now: f64, hash: u64, width: u32, who: impl FnOnce() -> T) -> Arrival {
        self.advance(now);
        let fits = self.fits(width);
        let Some(q) = self.limits.queuing else {
            if !fits {
                return Arrival::Refused(Refusal::NoSeat);
            }
            self.start(0, width);
            return Arrival::Runs { queue: 0 };
        };
        let index = self.shortest(hash, q);
        if fits && self.waiting == 0 {
            self.start(index, width);
            return Arrival::Runs { queue: index };
        }
        let ahead = self.all[index].waiting.len();
        if ahead >= q.length_max {
            return Arrival::Refused(Refusal::QueueFull);
        }
        self.tickets += 1;
        let number = self.tickets;
        let queue = self.wake(index);
        queue.waiting.push_back(Waiting { number, width, who: who() });
        queue.seats_waiting += u64::from(width);
        self.waiting += 1;
        self.seats_waiting += u64::from(width);
        self.note();
        Arrival::Waits { ticket: Ticket { queue: index, number }, ahead }
    }

    /// Who runs next, if anybody may. To be asked until it names nobody, after each change.
    pub fn next(&mut self, now: f64) -> Option<Called<T>> {
        self.advance(now);
        if self.waiting == 0 {
            return None;
        }
        let mut best: Option<(usize, f64)> = None;
        let count = self.all.len();
        for index in (1..=count).map(|step| (self.served + step) % count) {
            let queue = &self.all[index];
            let Some(first) = queue.waiting.front() else { continue };
            let finish = queue.next_start + GUESS_SECONDS * f64::from(first.width);
            if best.is_none_or(|(_, b)| finish < b) {
                best = Some((index, finish));
            }
        }
        let (index, _) = best?;
        let width = self.all[index].waiting.front()?.width;
        // Nobody overtakes one that is too wide: it would wait for ever.
        if !self.fits(width) {
            return None;
        }
        // Seats first: the queue must not be idle in between, which would put its virtual time back.
        self.start(index, width);
        let first = self.take_out(index, 0)?;
        self.note();
        self.served = index;
        Some(Called { queue: index, who: first.who })
    }

    /// One that had seats has ended after `took_seconds`.
    pub fn finish(&mut self, now: f64, index: usize, width: u32, took_seconds: f64) {
        self.advance(now);
        self.executing -= 1;
        self.seats_in_use -= width;
        let queue = &mut self.all[index];
        queue.executing -= 1;
        queue.seats_in_use -= width;
        queue.next_start += (took_seconds - GUESS_SECONDS) * f64::from(width);
        self.active -= usize::from(!queue.is_active());
        self.note();
    }

    /// One that waited has gone away. Nothing when it was called before.
    pub fn leave(&mut self, now: f64, ticket: Ticket) -> Option<T> {
        self.advance(now);
        let at = self.all.get(ticket.queue)?.waiting.iter().position(|w| w.number == ticket.number)?;
        let gone = self.take_out(ticket.queue, at)?;
        self.active -= usize::from(!self.all[ticket.queue].is_active());
        self.note();
        Some(gone.who)
    }

    fn take_out(&mut self, index: usize, at: usize) -> Option<Waiting<T>> {
        let queue = &mut self.all[index];
        let out = queue.waiting.remove(at)?;
        queue.seats_waiting -= u64::from(out.width);
        self.waiting -= 1;
        self.seats_waiting -= u64::from(out.width);
        Some(out)
    }

    fn start(&mut self, index: usize, width: u32) {
        let queue = self.wake(index);
        queue.executing += 1;
        queue.seats_in_use += width;
        queue.next_start += GUESS_SECONDS * f64::from(width);
        self.executing += 1;
        self.seats_in_use += width;
        self.note();
    }

    /// A queue that was idle begins where the others are: it has saved up nothing and owes nothing.
    fn wake(&mut self, index: usize) -> &mut Queue<T> {
        let queue = &mut self.all[index];
        if !queue.is_active() {
            queue.next_start = self.virtual_now;
            self.active += 1;
        }
        queue
    }

    /// Whether so many seats may be taken now. One that wants more than there are gets in when nobody else is.
    fn fits(&self, width: u32) -> bool {
        let all = self.limits.seats;
        self.seats_in_use < all && if width > all { self.executing == 0 } else { self.seats_in_use + width <= all }
    }

    /// The queue of the hand with the least to do.
    fn shortest(&self, hash: u64, q: Queuing) -> usize {
        let mut best = (0, u64::MAX);
        shuffle::deal(hash, q.queues.clamp(1, self.all.len()), q.hand.max(1), |index| {
            let load = self.all[index].seats_waiting + u64::from(self.all[index].seats_in_use);
            if load < best.1 {
                best = (index, load);
            }
        });
        best.0
    }

    fn advance(&mut self, now: f64) {
        let passed = (now - self.at).max(0.0);
        self.at = now.max(self.at);
        if self.active > 0 {
            let served = (u64::from(self.seats_in_use) + self.seats_waiting).min(u64::from(self.limits.seats));
            self.virtual_now += passed * served as f64 / self.active as f64;
        }
    }

    fn note(&mut self) {
        self.demand.set(self.at, u64::from(self.seats_in_use) + self.seats_waiting);
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
