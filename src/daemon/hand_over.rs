//! What has been kept, on its way to its recipient: told of, let through, paced, or parked as a loop.

use super::accept::intelligence;
use super::door::Promise;
use super::handle::{PeerHandle, Snapshot};
use super::host::Host;
use super::ledger::view_of;
use super::logs::Line;
use super::mail;
use crate::api::shapes::{Answer, AnsweredBy, MessageView};
use crate::core::message::{Ending, Entry, Hold, Intelligence, Message, State};
use crate::core::names::{Incarnation, Party};
use crate::core::pace::Pacing;
use crate::core::peer::event::Event;
use std::sync::Arc;
use std::time::Duration;

/// Longest that an answer waits for what a sleeper makes of its mail, while the remains of its last session are collected.
const FORETELL: Duration = Duration::from_millis(500);

fn asleep(snapshot: &Snapshot) -> bool {
    snapshot.restored && snapshot.state == "asleep"
}

/// A kept message is told of, and reaches its recipient.
pub async fn hand_over(host: &Arc<Host>, message: Message, handle: Option<&PeerHandle>, promise: Option<Promise>, by: Option<Incarnation>) -> MessageView {
    log_accepted(host, &message);
    if let (Some(inc), Some(sender)) = (by, message.from.peer().and_then(|i| host.existing(i))) {
        let (id, to, in_reply_to) = (message.id.clone(), message.to.clone(), message.in_reply_to.clone());
        sender.event(Event::Sent { inc, id, to, in_reply_to }).await;
    }
    // Only the peer that was asked can answer, and only to whoever asked.
    let asked = |question: &Message| question.to == message.from && question.from == message.to;
    if let Some(question) = message.in_reply_to.as_ref().filter(|id| mail::load(host, id).as_ref().is_some_and(asked)) {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        mail::answered(host, question, Answer { id: Some(message.id.clone()), by: AnsweredBy::Message, text }, &message.sent);
        host.delivery(
            Line::new("delivery")
                .with("msg", question)
                .with("to", &message.from)
                .with("state", State::Answered.word())
                .with("by", "message")
                .with("answer", &message.id),
        );
    }
    let (id, plain) = (message.id.clone(), view_of(&message));
    match handle {
        None => host.tell_operator(&message),
        Some(handle) => match gate(host, &message) {
            Gate::Go => reach(host, handle, &message, 0, promise).await,
            Gate::Paced(until) => reach(host, handle, &message, until, promise).await,
            Gate::Parked { first } => {
                if let Some(promise) = promise {
                    promise.withdraw();
                }
                park(host, handle, &message, first).await
            }
        },
    }
    if let Some(handle) = handle.filter(|h| !h.identity.runtime.is_none() && asleep(&h.snapshot())) {
        // Whether it is woken for this, and how, is known once it has heard of it.
        handle.settled().await;
        handle.wait_until(FORETELL, |s| !asleep(s)).await;
    }
    let mut view = host.ledger.view(&id).unwrap_or(plain);
    if let Some(handle) = handle {
        mail::complete(host, &mut view, handle);
    }
    view
}

pub fn entry_of(host: &Host, message: &Message, not_before: u64) -> Entry {
    let entry = Entry { not_before, ..message.entry() };
    Entry { due: entry.deadline(&host.stamp()), ..entry }
}

pub async fn hand_to(host: &Arc<Host>, handle: &PeerHandle, message: &Message) {
    reach(host, handle, message, 0, None).await;
}

async fn reach(host: &Arc<Host>, handle: &PeerHandle, message: &Message, not_before: u64, promise: Option<Promise>) {
    let entry = entry_of(host, message, not_before);
    if not_before > 0 {
        host.ledger.report(&message.id, State::Held, Some(Hold::Paced.word().into()), None, 0, "");
        host.delivery(
            Line::new("delivery").with("msg", &message.id).with("to", &message.to).with("state", State::Held.word()).with("reason", Hold::Paced.word()),
        );
    }
    host.ledger.waits(&message.to, &entry);
    match promise {
        Some(promise) => promise.keep(not_before).await,
        None => handle.event(Event::Accepted(entry)).await,
    }
}

enum Gate {
    Go,
    Paced(u64),
    Parked { first: bool },
}

/// Agents that write to each other without end are slowed down, then parked. Nobody else is.
fn gate(host: &Host, message: &Message) -> Gate {
    let limits = &host.settings.limits;
    if message.hops > limits.hops {
        return Gate::Parked { first: true };
    }
    let artificial = |party: &Party| party.peer().is_some() && intelligence(host, party) == Intelligence::Artificial;
    if !artificial(&message.from) || !artificial(&message.to) {
        return Gate::Go;
    }
    match host.flow.pace(limits, &message.from, &message.to, host.clock.boot_ms()) {
        Pacing::Go => Gate::Go,
        Pacing::Until(at) => Gate::Paced(at),
        Pacing::Loop { first } => Gate::Parked { first },
    }
}

/// A loop: kept, and put aside for a person; so is what waits of the two already.
async fn park(host: &Arc<Host>, handle: &PeerHandle, message: &Message, first: bool) {
    let reason = Hold::Loop.word();
    let ending = Ending { state: State::Parked, evidence: None, reason: Some(reason.into()), at: host.now_text(), attempt: 0, incarnation: 0 };
    let (party, key) = (message.to.clone(), message.key());
    host.store
        .post("park", move |store| {
            let (mailbox, disk) = store.mailbox(&party)?;
            mailbox.finish(&*disk, &key, &ending)
        })
        .await;
    host.ledger.report(&message.id, State::Parked, Some(reason.into()), None, 0, "");
    host.delivery(Line::new("delivery").with("msg", &message.id).with("to", &message.to).with("state", State::Parked.word()).with("reason", reason));
    if first {
        for id in host.ledger.waiting_ids(&message.to) {
            if host.ledger.view(&id).is_some_and(|v| v.from == message.from && v.reason.as_deref() == Some(Hold::Paced.word())) {
                handle.event(Event::Withdraw { id, state: State::Parked, reason }).await;
            }
        }
        let why = if message.hops > host.settings.limits.hops {
            format!("it is {} hops away from a person", message.hops)
        } else {
            format!("the two have been paced without a pause for {} s", host.settings.limits.loop_after_secs)
        };
        host.notify_operator(format!(
            "message {} from {} to {} is parked as a loop: {why}; `iapeer queue {} release {}` lets it go on, `drop` ends it",
            message.id, message.from, message.to, message.to, message.id
        ))
        .await;
    }
}

pub fn log_accepted(host: &Host, message: &Message) {
    host.delivery(
        Line::new("delivery")
            .with("msg", &message.id)
            .with("from", &message.from)
            .with("to", &message.to)
            .with("state", State::Accepted.word())
            .with("len", message.body.len())
            .with("att", message.attachments.len())
            .maybe("topic", message.topic.as_ref())
            .maybe("in_reply_to", message.in_reply_to.as_ref())
            .with("via", &message.via),
    );
}
