//! What other hands do to the files of one peer: markers touched or removed, records moved in and out of its
//! queue, its profile edited, the host frozen by a file.
//!
//! A watch is only a hint. Whatever it says, the actor looks at the files itself, by a job on the store thread:
//! that comes after every write it has asked for, so it never takes its own half-done work for another hand's.
//! The look once a minute, which needs no watch, is the truth.

use super::actor::{Actor, Inbox};
use super::live::notify;
use super::logs::Line;
use crate::core::Millis;
use crate::core::message::{Hold, Key, Message, MessageId, State};
use crate::core::names::Party;
use crate::core::peer::event::Event;
use crate::core::peer::{Markers, Session};
use crate::store::by_hand::{Came, Gone, Looked, look};
use crate::store::mailbox::{RecordFault, read_record};
use crate::store::peer_state::{MARKERS, PeerState, SeenMarkers};
use crate::store::shelf;
use crate::tmux::watch::{Files, Watching, is_used_up};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Between a change in the queue's folder and the look at it: every delivery of ours is one as well.
const QUEUE_PAUSE_MS: Millis = 500;
/// Until what is still being copied there is looked at again.
const COPY_PAUSE_MS: Millis = 2_500;

/// What may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    Markers,
    Queue,
    Profile,
    /// The host was frozen, or is no longer.
    Freeze,
    All,
}

/// What an actor keeps about the files that others may change.
#[derive(Default)]
pub struct ByHand {
    watches: Vec<Watching>,
    markers_told: Arc<AtomicBool>,
    queue_told: Arc<AtomicBool>,
    queue_due: Option<Millis>,
    /// The markers as they are on disk, once everything that was posted is.
    pub on_disk: Markers,
    /// What has been told of odd files.
    told: BTreeSet<String>,
}

impl ByHand {
    pub fn queue_due(&self) -> Option<Millis> {
        self.queue_due
    }
}

impl Actor {
    /// Watches the folders of its state; those that are not there yet are watched later.
    pub(super) fn watch_files(&mut self) -> bool {
        let (dir, watch) = (self.host.root.peer_state(&self.identity), &self.host.watch);
        let tell = |what: Touch, told: &Arc<AtomicBool>| notify(self.inbox.clone(), told.clone(), move || Inbox::Touched(what));
        let is_marker = |name: &OsStr| MARKERS.iter().any(|m| name == *m);
        let watches = [
            watch.files(&dir, Files::Any, is_marker, tell(Touch::Markers, &self.by_hand.markers_told)),
            watch.files(&dir.join("queue/new"), Files::Whole, |_| true, tell(Touch::Queue, &self.by_hand.queue_told)),
        ];
        let complete = watches.iter().all(Result::is_ok);
        self.host.unwatched(&self.identity.to_string(), watches.iter().flat_map(|w| w.as_ref().err()).any(is_used_up));
        // The new ones stand before the old ones fall.
        self.by_hand.watches = watches.into_iter().flatten().collect();
        complete
    }

    pub(super) async fn touched(&mut self, what: Touch) {
        match what {
            Touch::Markers => self.look_at_markers().await,
            Touch::Queue => self.look_at_queue_in(QUEUE_PAUSE_MS),
            Touch::Profile => {
                self.look_at_profile().await;
                self.step(Event::Mended).await;
            }
            Touch::Freeze => self.look_at_freeze().await,
            Touch::All => {
                self.watch_files();
                self.look_at_freeze().await;
                self.look_at_markers().await;
                self.look_at_profile().await;
                self.look_at_queue().await;
            }
        }
    }

    async fn look_at_markers(&mut self) {
        self.by_hand.markers_told.store(false, Ordering::SeqCst);
        let dir = self.host.root.peer_state(&self.identity);
        let read = self.host.store.run(move |store| {
            if !store.is_settled() {
                return Ok(None);
            }
            let disk = store.disk.clone();
            let state = PeerState::at(&*disk, dir);
            let seen = state.markers()?;
            state.mend_markers(&seen)?;
            Ok(Some(seen))
        });
        match read.await {
            Ok(Some(seen)) => self.markers_seen(seen).await,
            // Our own writes wait for the disk: what lies there is older than what is known.
            Ok(None) => {}
            Err(error) => tracing::warn!(identity = %self.identity, %error, "its markers could not be looked at"),
        }
    }

    async fn markers_seen(&mut self, seen: SeenMarkers) {
        self.tell_of_markers(&seen);
        self.by_hand.on_disk = seen.markers.clone();
        if seen.markers != self.peer.markers {
            self.step(Event::MarkersSeen(seen.markers)).await;
        }
    }

    /// Odd files are told of once, for as long as they lie there; broken ones are put right.
    pub(super) fn tell_of_markers(&mut self, seen: &SeenMarkers) {
        let line = || Line::new("marker").with("identity", &self.identity);
        for broken in &seen.broken {
            self.host.lifecycle(line().with("file", broken.name).with("change", "mended").with("reason", &broken.why));
        }
        let odd: BTreeSet<String> = seen.odd.iter().cloned().collect();
        for gone in self.by_hand.told.difference(&odd) {
            self.host.set_degraded(gone, false);
        }
        for new in odd.difference(&self.by_hand.told) {
            self.host.lifecycle(line().with("change", "odd").with("reason", new));
            self.host.set_degraded(new, true);
        }
        self.by_hand.told = odd;
    }

    fn look_at_queue_in(&mut self, pause: Millis) {
        self.by_hand.queue_due.get_or_insert(self.host.clock.boot_ms() + pause);
    }

    /// Looks at the queue's folder when that is due.
    pub(super) async fn look_at_queue_when_due(&mut self) {
        if self.by_hand.queue_due.is_some_and(|due| due <= self.host.clock.boot_ms()) {
            self.look_at_queue().await;
        }
    }

    async fn look_at_queue(&mut self) {
        self.by_hand.queue_due = None;
        self.by_hand.queue_told.store(false, Ordering::SeqCst);
        let dir = self.host.root.peer_state(&self.identity).join("queue/new");
        let waiting: Vec<Key> = self.peer.queue.iter().map(|e| e.key.clone()).collect();
        let in_flight = self.peer.flight.as_ref().map(|f| f.entry.key.clone());
        let (party, now) = (Party::Peer(self.identity.clone()), self.host.clock.utc().into());
        let looked = self.host.store.run(move |store| {
            // What is still to be written lies elsewhere than it should; a peer that is removed has no folder.
            if !store.is_settled() || !dir.is_dir() {
                return Ok(Looked::default());
            }
            let (mailbox, disk) = store.mailbox(&party)?;
            look(&*disk, mailbox, &waiting, in_flight.as_ref(), now)
        });
        let looked = match looked.await {
            Ok(looked) => looked,
            Err(error) => return tracing::warn!(identity = %self.identity, %error, "its queue could not be looked at"),
        };
        if looked.again {
            self.look_at_queue_in(COPY_PAUSE_MS);
        }
        self.tell_quarantined(&looked.quarantined);
        for came in looked.came {
            self.take_in(came).await;
        }
        for (id, gone) in looked.gone {
            self.let_go(id, gone).await;
        }
    }

    /// A record that somebody has put into `new/` is accepted, with a new time to live when it had ended.
    async fn take_in(&mut self, came: Came) {
        let host = self.host.clone();
        let id = came.entry.id().clone();
        // What is being accepted, or decided about by an operator, reaches this peer by itself.
        let under_way = host.ledger.view(&id).is_some_and(|v| !v.state.is_end() && v.state != State::Parked);
        if host.ledger.is_reserved(id.as_str()) || under_way {
            return;
        }
        let party = Party::Peer(self.identity.clone());
        let mut entry = match self.renewed(came).await {
            Ok(entry) => entry,
            Err(error) => return tracing::warn!(identity = %self.identity, %id, %error, "what was put into its queue could not be read"),
        };
        let queue = host.root.party_state(&party).join("queue");
        let Ok(message) = read_record(&*host.disk, &queue, &entry.key, &["new"]) else { return };
        entry.due = entry.deadline(&host.stamp());
        self.note_taken_in(&party, &message, &entry.key);
        host.ledger.waits(&party, &entry);
        self.step(Event::Accepted(entry)).await;
    }

    async fn renewed(&self, came: Came) -> Result<crate::core::message::Entry, RecordFault> {
        if !came.ended {
            return Ok(came.entry);
        }
        let (party, stamp, key) = (Party::Peer(self.identity.clone()), self.host.stamp(), came.entry.key);
        let again = self.host.store.run(move |store| {
            let (mailbox, disk) = store.mailbox(&party)?;
            Ok(shelf::renew(&*disk, mailbox, &key, &stamp))
        });
        again.await.map_err(RecordFault::Io)?
    }

    fn note_taken_in(&self, party: &Party, message: &Message, key: &Key) {
        let ledger = &self.host.ledger;
        ledger.note_place(party, key.clone());
        ledger.insert_view(super::ledger::view_of(message));
        ledger.change(&message.id, |v| (v.state, v.reason) = (State::Accepted, None));
        self.host.delivery(
            Line::new("delivery")
                .with("msg", &message.id)
                .with("from", &message.from)
                .with("to", party)
                .with("state", State::Accepted.word())
                .with("reason", "by-hand")
                .with("len", message.body.len()),
        );
    }

    /// A record that waited lies elsewhere now: it ends as what its new place says.
    async fn let_go(&mut self, id: MessageId, gone: Gone) {
        let event = match gone {
            Gone::Parked => Event::Withdraw { id, state: State::Parked, reason: Hold::ByOperator.word() },
            Gone::GivenUp => Event::Withdraw { id, state: State::Dead, reason: "dropped" },
            Gone::Done => Event::Withdraw { id, state: State::Acknowledged, reason: "" },
            Gone::Nowhere => {
                self.host.ledger.waits_no_more(&Party::Peer(self.identity.clone()), &id);
                Event::Vanished { id }
            }
        };
        self.step(event).await;
    }

    /// The profile may have been edited: what concerns a running session takes effect now.
    async fn look_at_profile(&mut self) {
        super::policy::apply(&mut self.peer, &self.host);
        let retired = !self.host.belongs(&self.identity);
        if retired != self.peer.retired.is_some() {
            self.step(Event::Retire(retired)).await;
        }
    }

    async fn look_at_freeze(&mut self) {
        let on = self.host.frozen().is_some();
        if on != self.peer.host_frozen {
            self.step(Event::HostFrozen(on)).await;
        }
    }

    /// A session keeps the definition that it was launched with; without one the present definition counts.
    pub(super) fn take_definition(&mut self) {
        if self.peer.session == Session::None {
            if let Ok(definition) = self.host.runtimes().get(&self.identity.runtime) {
                self.peer.definition = definition;
            }
        }
    }
}

/// An operator decides about this message by a verb: what that does to its file is no other hand's work.
pub struct Deciding<'a> {
    host: &'a super::host::Host,
    id: &'a MessageId,
}

impl<'a> Deciding<'a> {
    pub fn about(host: &'a super::host::Host, id: &'a MessageId) -> Option<Self> {
        host.ledger.reserve(id.as_str()).then_some(Deciding { host, id })
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.host.ledger.unreserve(self.id.as_str());
    }
}
