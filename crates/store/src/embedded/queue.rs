//! What waits for the writer thread. Bounded: a caller waits for room before its command enters.

use super::writer::Fed;
use crate::{Revision, StoreError, Write};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Writers that may wait at once.
const WAITING_LIMIT: usize = 4096;

/// Why a write was refused; the present entry's value is read by the caller, not by the writer thread.
pub enum Refusal {
    Conflict(Option<(Bytes, Arc<super::index::Version>)>),
    Failed(StoreError),
}

pub enum Command {
    /// `reply` is absent for what the store itself does (expiry).
    Write {
        write: Write,
        reply: Option<oneshot::Sender<Result<Revision, Refusal>>>,
    },
    Compact {
        before: Revision,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Answered with what ends when the feeding does.
    Feed {
        fed: Fed,
        after: Revision,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Close,
}

struct Waiting {
    commands: VecDeque<(Command, Option<OwnedSemaphorePermit>)>,
    closed: bool,
}

pub struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Arc<Semaphore>,
}

impl Queue {
    pub fn new() -> Queue {
        let waiting = Waiting { commands: VecDeque::new(), closed: false };
        Queue { waiting: Mutex::new(waiting), arrived: Condvar::new(), room: Arc::new(Semaphore::new(WAITING_LIMIT)) }
    }

    pub async fn push(&self, command: Command) -> Result<(), StoreError> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        self.put(command, Some(permit))
    }

    fn put(&self, command: Command, permit: Option<OwnedSemaphorePermit>) -> Result<(), StoreError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        waiting.closed = matches!(command, Command::Close);
        waiting.commands.push_back((command, permit));
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Asks the writer to end after what is queued; nothing enters any more.
    pub fn close(&self) {
        // Already closed is as good.
        let _ = self.put(Command::Close, None);
    }

    /// Refuses and drops everything: there is no writer any more.
    pub fn shut(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        waiting.commands.clear();
        self.room.close();
    }

    /// Up to `limit` commands; empty when `timeout` passed (absent: waits for ever).
    pub fn take(&self, limit: usize, timeout: Option<Duration>) -> Vec<Command> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = match timeout {
            Some(t) => self.arrived.wait_timeout_while(waiting, t, |w| w.commands.is_empty()).unwrap_or_else(PoisonError::into_inner).0,
            None => self.arrived.wait_while(waiting, |w| w.commands.is_empty()).unwrap_or_else(PoisonError::into_inner),
        };
        let count = waiting.commands.len().min(limit);
        waiting.commands.drain(..count).map(|(command, _room_again)| command).collect()
    }
}
