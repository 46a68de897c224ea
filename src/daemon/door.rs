//! The door of a session: while it is open, one message at a time may be claimed for the session in the very
//! write that keeps it ([`Peer::open_for`](crate::core::peer::Peer::open_for)).
//!
//! Whoever accepts a message takes a [`Promise`] and keeps it, or drops it; the actor hears of either, and
//! claims nothing else until then.

use super::actor::Inbox;
use super::handle::PeerHandle;
use crate::core::message::{Claim, Entry, Message};
use crate::store::peer_state::SessionRecord;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Default)]
pub struct Door(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open(Arc<SessionRecord>),
    Promised,
}

impl Door {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is promised from now on; whether something is already.
    pub fn close(&self) -> bool {
        let mut state = self.state();
        let promised = matches!(*state, State::Promised);
        if !promised {
            *state = State::Closed;
        }
        promised
    }

    /// The next message may be claimed for this session.
    pub fn open(&self, session: Arc<SessionRecord>) {
        *self.state() = State::Open(session);
    }

    /// The actor has heard what became of the promise.
    pub fn settle(&self) {
        *self.state() = State::Closed;
    }

    /// The session that is open, for one message.
    pub fn promise(&self, handle: &PeerHandle) -> Option<Promise> {
        let mut state = self.state();
        match std::mem::take(&mut *state) {
            State::Open(session) => {
                *state = State::Promised;
                Some(Promise { handle: handle.clone(), session, kept: false })
            }
            other => {
                *state = other;
                None
            }
        }
    }
}

pub struct Promise {
    handle: PeerHandle,
    pub session: Arc<SessionRecord>,
    kept: bool,
}

impl Promise {
    /// The message and its claim are on disk.
    pub async fn keep(mut self, entry: Entry, message: Message, claim: Claim) {
        self.kept = true;
        self.handle.tell(Inbox::Claimed { entry, message: Box::new(message), claim: Box::new(claim) }).await;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            let handle = self.handle.clone();
            // Beside: nothing can be waited for here.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { handle.tell(Inbox::PromiseBroken).await });
            }
        }
    }
}
