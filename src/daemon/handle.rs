//! How others reach a peer's actor: what they may tell it, and what they may know of it at any time.

use super::actor::Inbox;
use super::by_hand::Touch;
use super::door::Door;
use crate::core::message::MessageId;
use crate::core::names::{Identity, Incarnation, Party};
use crate::core::peer::event::Event;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What others may know of a peer at any time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    pub restored: bool,
    pub state: &'static str,
    pub turn: Option<&'static str>,
    pub reason: Option<String>,
    pub incarnation: Option<Incarnation>,
    pub in_flight: Option<MessageId>,
    pub stopped: bool,
    pub frozen: bool,
    pub draining: bool,
    pub ready: bool,
    /// The message whose turn is running, and who sent it.
    pub turn_message: Option<(MessageId, Party)>,
    /// Where the live session is.
    pub session: Option<(PathBuf, String)>,
    pub last_failure: Option<String>,
    /// Sessions that this daemon has seen die, and launches that it has seen fail.
    pub failures: u64,
    /// Nothing is being done right now.
    pub at_rest: bool,
}

#[derive(Debug, Clone)]
pub struct PeerHandle {
    pub identity: Identity,
    pub(super) inbox: mpsc::Sender<Inbox>,
    pub view: watch::Receiver<Snapshot>,
    pub door: Door,
}

impl PeerHandle {
    pub async fn tell(&self, inbox: Inbox) {
        // A closed inbox means that the daemon ends.
        let _ = self.inbox.send(inbox).await;
    }
    pub async fn event(&self, event: Event) {
        self.tell(Inbox::Event(Box::new(event))).await;
    }
    /// Tells without waiting. A peer that is too busy to be told looks by itself within a minute.
    pub fn hint(&self, what: Touch) {
        if self.inbox.try_send(Inbox::Touched(what)).is_err() {
            tracing::warn!(identity = %self.identity, ?what, "it is too busy to be told");
        }
    }
    /// Tells an event and waits until the snapshot knows of it.
    pub async fn order(&self, event: Event) {
        self.event(event).await;
        self.settled().await;
    }
    /// Waits until everything told before has been taken in.
    pub async fn settled(&self) {
        let (done, taken) = oneshot::channel();
        self.tell(Inbox::Barrier(done)).await;
        // An error means that the actor has ended.
        let _ = taken.await;
    }
    /// Waits until the snapshot fits, at most `limit`.
    pub async fn wait_until(&self, limit: Duration, fits: impl FnMut(&Snapshot) -> bool) -> Option<Snapshot> {
        let mut view = self.view.clone();
        let found = tokio::time::timeout(limit, view.wait_for(fits)).await;
        found.ok()?.ok().map(|s| s.clone())
    }
    pub fn snapshot(&self) -> Snapshot {
        self.view.borrow().clone()
    }
}
