//! What is known of each message, for those who ask and those who wait.
//!
//! A projection: the records on disk are the truth, and what ended before this daemon started is read
//! from them when somebody asks.

use crate::api::shapes::{Answer, MessageView};
use crate::core::Millis;
use crate::core::message::{Entry, Evidence, Key, Message, MessageId, State};
use crate::core::names::Party;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Ended messages kept in memory; older ones are read from disk.
const KEPT: usize = 20_000;

pub struct Ledger {
    inner: Mutex<Inner>,
    changed: broadcast::Sender<MessageId>,
}

#[derive(Default)]
struct Inner {
    /// Where each known id lies.
    places: HashMap<MessageId, (Party, Key)>,
    views: HashMap<MessageId, MessageView>,
    /// Boot-time clock of acceptance, of what this daemon accepted.
    accepted_ms: HashMap<MessageId, Millis>,
    order: std::collections::VecDeque<MessageId>,
    /// Ids and keys that are being accepted.
    reserved: HashSet<String>,
    waiting: HashMap<Party, Waiting>,
}

/// What waits for one party, in flight included.
#[derive(Default)]
struct Waiting {
    /// In the order of delivery.
    order: BTreeMap<(bool, u64), MessageId>,
    senders: HashMap<Party, usize>,
    ranks: HashMap<MessageId, ((bool, u64), Party)>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger { inner: Mutex::default(), changed: broadcast::Sender::new(1024) }
    }
}

impl Ledger {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note_place(&self, party: &Party, key: Key) {
        self.lock().places.insert(key.id.clone(), (party.clone(), key));
    }

    /// Takes an id, or a sender's key, for one request; false when another has it.
    pub fn reserve(&self, what: &str) -> bool {
        self.lock().reserved.insert(what.to_string())
    }
    pub fn is_reserved(&self, what: &str) -> bool {
        self.lock().reserved.contains(what)
    }
    pub fn unreserve(&self, what: &str) {
        self.lock().reserved.remove(what);
    }

    /// A message waits for this party.
    pub fn waits(&self, party: &Party, entry: &Entry) {
        let mut inner = self.lock();
        let waiting = inner.waiting.entry(party.clone()).or_default();
        if waiting.ranks.insert(entry.id().clone(), (entry.key.rank(), entry.from.clone())).is_none() {
            waiting.order.insert(entry.key.rank(), entry.id().clone());
            *waiting.senders.entry(entry.from.clone()).or_default() += 1;
        }
    }

    /// It waits no more: it ended, or a person keeps it aside.
    pub fn waits_no_more(&self, party: &Party, id: &MessageId) {
        let mut inner = self.lock();
        let Some(waiting) = inner.waiting.get_mut(party) else { return };
        let Some((rank, from)) = waiting.ranks.remove(id) else { return };
        waiting.order.remove(&rank);
        if let Some(n) = waiting.senders.get_mut(&from) {
            *n -= 1;
            if *n == 0 {
                waiting.senders.remove(&from);
            }
        }
    }

    /// How much waits for a party, in all and from one sender.
    pub fn waiting(&self, party: &Party, from: &Party) -> (usize, usize) {
        let inner = self.lock();
        let waiting = inner.waiting.get(party);
        waiting.map_or((0, 0), |w| (w.order.len(), w.senders.get(from).copied().unwrap_or(0)))
    }

    pub fn total_waiting(&self, party: &Party) -> usize {
        self.lock().waiting.get(party).map_or(0, |w| w.order.len())
    }

    pub fn waiting_ids(&self, party: &Party) -> Vec<MessageId> {
        self.lock().waiting.get(party).map(|w| w.order.values().cloned().collect()).unwrap_or_default()
    }

    /// Place among what waits for a party, from 1.
    pub fn position(&self, party: &Party, id: &MessageId) -> Option<usize> {
        let inner = self.lock();
        let waiting = inner.waiting.get(party)?;
        let (rank, _) = waiting.ranks.get(id)?;
        Some(waiting.order.range(..=*rank).count())
    }

    /// Ids that the ledger on disk has forgotten.
    pub fn forget(&self, ids: &[MessageId]) {
        let mut inner = self.lock();
        for id in ids {
            inner.places.remove(id);
            inner.views.remove(id);
            inner.accepted_ms.remove(id);
        }
    }

    /// The party is no more; what is known of its ended mail goes with its state.
    pub fn forget_party(&self, party: &Party) {
        let mut inner = self.lock();
        inner.places.retain(|_, (p, _)| p != party);
        inner.waiting.remove(party);
    }

    pub fn place(&self, id: &MessageId) -> Option<(Party, Key)> {
        self.lock().places.get(id).cloned()
    }

    pub fn accepted(&self, message: &Message, now: Millis) {
        let mut inner = self.lock();
        inner.accepted_ms.insert(message.id.clone(), now);
        inner.places.insert(message.id.clone(), (message.to.clone(), message.key()));
        inner.order.push_back(message.id.clone());
        inner.views.insert(message.id.clone(), view_of(message));
        if inner.order.len() > KEPT {
            if let Some(old) = inner.order.pop_front() {
                if inner.views.get(&old).is_some_and(|v| v.state.is_end()) {
                    inner.views.remove(&old);
                    inner.accepted_ms.remove(&old);
                } else {
                    inner.order.push_back(old);
                }
            }
        }
        drop(inner);
        let _ = self.changed.send(message.id.clone());
    }

    pub fn view(&self, id: &MessageId) -> Option<MessageView> {
        self.lock().views.get(id).cloned()
    }

    /// Milliseconds since a message was accepted, if this daemon accepted it.
    pub fn age_ms(&self, id: &MessageId, now: Millis) -> Option<Millis> {
        self.lock().accepted_ms.get(id).map(|at| now.saturating_sub(*at))
    }

    pub fn insert_view(&self, view: MessageView) {
        self.lock().views.entry(view.id.clone()).or_insert(view);
    }

    /// Changes a view and wakes those who wait.
    pub fn change(&self, id: &MessageId, change: impl FnOnce(&mut MessageView)) {
        if let Some(view) = self.lock().views.get_mut(id) {
            change(view);
        }
        let _ = self.changed.send(id.clone());
    }

    pub fn report(&self, id: &MessageId, state: State, reason: Option<String>, evidence: Option<Evidence>, attempt: u32, at: &str) {
        self.change(id, |view| {
            // An answer may be here before the evidence of the question.
            if view.state != State::Answered {
                view.state = state;
            }
            view.reason = reason;
            view.position = None;
            view.evidence = evidence.or(view.evidence);
            view.attempt = view.attempt.max(attempt);
            if state.is_delivered() || (state == State::Entered && evidence == Some(Evidence::None)) {
                view.submitted.get_or_insert_with(|| at.to_string());
            }
        });
    }

    /// A message of an earlier daemon, of which something becomes now.
    pub fn know(&self, view: MessageView) {
        self.lock().views.entry(view.id.clone()).or_insert(view);
    }

    pub fn answered(&self, question: &MessageId, answer: Answer, at: &str) {
        self.change(question, |view| {
            view.state = State::Answered;
            view.answered.get_or_insert_with(|| at.to_string());
            view.answer.get_or_insert(answer);
        });
    }

    pub fn subscribe(&self) -> broadcast::Receiver<MessageId> {
        self.changed.subscribe()
    }
}

pub fn view_of(message: &Message) -> MessageView {
    MessageView {
        id: message.id.clone(),
        from: message.from.clone(),
        to: message.to.clone(),
        state: State::Accepted,
        reason: None,
        evidence: None,
        topic: message.topic.clone(),
        in_reply_to: message.in_reply_to.clone(),
        position: None,
        woke: false,
        wake: None,
        accepted: message.sent.clone(),
        submitted: None,
        answered: None,
        answer: None,
        attempt: 0,
        len: message.body.len(),
    }
}
