//! The door of a session: while it is open, one message at a time may be claimed for the session in the very
//! write that keeps it ([`Peer::open_for`](crate::core::peer::Peer::open_for)).
//!
//! Whoever accepts a message takes a [`Promise`] and keeps it, or drops it; the actor hears of either, and
//! claims nothing else until then.

use super::actor::Inbox;
use super::handle::PeerHandle;
use crate::core::Millis;
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
                Some(Promise { handle: handle.clone(), session, stands: None, settled: false })
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
    /// What stands on disk, and the actor has not been told of yet.
    stands: Option<Stands>,
    settled: bool,
}

struct Stands {
    entry: Entry,
    message: Box<Message>,
    claim: Box<Claim>,
}

impl Promise {
    /// The message and its claim are on disk: from now on the actor hears of them, whatever happens here.
    pub fn stands(&mut self, entry: Entry, message: Message, claim: Claim) {
        self.stands = Some(Stands { entry, message: Box::new(message), claim: Box::new(claim) });
    }

    /// Hands it over; `not_before`: paced until then.
    pub async fn keep(mut self, not_before: Millis) {
        if let Some(stands) = &mut self.stands {
            stands.entry.not_before = not_before;
        }
        let told = self.told();
        self.handle.tell(told).await;
        self.settled = true;
    }

    /// The message goes somewhere else.
    pub fn withdraw(mut self) {
        self.stands = None;
    }

    /// What the actor is to hear.
    fn told(&self) -> Inbox {
        match &self.stands {
            Some(Stands { entry, message, claim }) => Inbox::Claimed { entry: entry.clone(), message: message.clone(), claim: claim.clone() },
            None => Inbox::PromiseBroken,
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.settled {
            let (handle, told) = (self.handle.clone(), self.told());
            // Beside: nothing can be waited for here.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { handle.tell(told).await });
            }
        }
    }
}
