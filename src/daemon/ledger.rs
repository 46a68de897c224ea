//! What is known of each message, for those who ask and those who wait.
//!
//! A projection: the records on disk are the truth, and what ended before this daemon started is read
//! from them when somebody asks.

use crate::api::shapes::{Answer, MessageView};
use crate::core::Millis;
use crate::core::message::{Evidence, Key, Message, MessageId, State};
use crate::core::names::Party;
use std::collections::HashMap;
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
    /// Ids that are being accepted.
    reserved: std::collections::HashSet<MessageId>,
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

    /// Takes an id for one request; false when another has it.
    pub fn reserve(&self, id: &MessageId) -> bool {
        self.lock().reserved.insert(id.clone())
    }
    pub fn is_reserved(&self, id: &MessageId) -> bool {
        self.lock().reserved.contains(id)
    }
    pub fn unreserve(&self, id: &MessageId) {
        self.lock().reserved.remove(id);
        let _ = self.changed.send(id.clone());
    }

    pub fn place(&self, id: &MessageId) -> Option<(Party, Key)> {
        self.lock().places.get(id).cloned()
    }

    pub fn accepted(&self, message: &Message, now: Millis) {
        let mut inner = self.lock();
        inner.accepted_ms.insert(message.id.clone(), now);
        inner.places.insert(message.id.clone(), (message.to.clone(), message.entry().key));
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
            view.evidence = evidence.or(view.evidence);
            view.attempt = view.attempt.max(attempt);
            if state.is_delivered() || (state == State::Entered && evidence == Some(Evidence::None)) {
                view.submitted.get_or_insert_with(|| at.to_string());
            }
        });
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
        accepted: message.sent.clone(),
        submitted: None,
        answered: None,
        answer: None,
        attempt: 0,
        len: message.body.len(),
    }
}
