//! What is known of mail, and what readers and operators do with it: views, waits, inboxes, the queue.

use super::by_hand::Deciding;
use super::handle::PeerHandle;
use super::host::Host;
use super::ledger::view_of;
use super::logs::Line;
use super::router;
use crate::api::shapes::{Answer, HistoryView, Mail, MessageView, QueueAct};
use crate::core::fault::{Code, Fault};
use crate::core::message::{Ending, Evidence, Hold, Key, Message, MessageId, State};
use crate::core::names::{OPERATOR, Party};
use crate::core::peer::event::Event;
use crate::core::sanitize;
use crate::ports::disk::Disk;
use crate::store::history::Found;
use crate::store::layout::Root;
pub use crate::store::mailbox::ALL_FOLDERS;
use crate::store::mailbox::{RecordFault, keys_in, read_ending, read_record};
use crate::store::shelf;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

pub const STORE_WRITE: &str = "store: a message could not be written";

pub fn refuse_store(host: &Host, error: &io::Error) -> Fault {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    host.set_degraded(STORE_WRITE, true);
    let code = if full { Code::DiskFull } else { Code::StoreDegraded };
    Fault::new(code, format!("the message could not be kept: {error}")).hint("nothing was accepted; make room or mend the disk, then send again")
}

pub fn load(host: &Host, id: &MessageId) -> Option<Message> {
    let (party, key) = host.ledger.place(id)?;
    read_record(&*host.disk, &host.root.party_state(&party).join("queue"), &key, ALL_FOLDERS).ok()
}

fn unknown(id: &MessageId) -> Fault {
    Fault::new(Code::MessageUnknown, format!("no message has the id {id}"))
        .hint("`iapeer messages` lists what is kept; ids are forgotten with the ledger (limits.done_days)")
}

/// What a waiting message waits for is known to the peer, not to the message.
pub fn complete(host: &Host, view: &mut MessageView, handle: &PeerHandle) {
    if !matches!(view.state, State::Accepted | State::Held) {
        return;
    }
    let snapshot = handle.snapshot();
    view.position = host.ledger.position(&view.to, &view.id);
    let paced = view.reason.as_deref() == Some(Hold::Paced.word());
    let reason = match snapshot.reason {
        _ if host.frozen().is_some() => Some(Hold::Frozen.word().to_string()),
        _ if snapshot.session.is_none() && !handle.identity.runtime.is_none() && host.profile(&handle.identity.personality).is_err() => {
            Some(Hold::ProfileInvalid.word().to_string())
        }
        None if snapshot.draining => Some(Hold::Draining.word().to_string()),
        reason => reason,
    };
    if let Some(reason) = reason.filter(|_| !paced) {
        view.state = State::Held;
        view.reason = Some(reason);
    }
}

/// What is known of a message.
pub fn message(host: &Arc<Host>, id: &MessageId) -> Result<MessageView, Fault> {
    let mut view = match host.ledger.view(id) {
        Some(view) => view,
        None => {
            let (party, key) = host.ledger.place(id).ok_or_else(|| unknown(id))?;
            let queue = host.root.party_state(&party).join("queue");
            let message = read_record(&*host.disk, &queue, &key, ALL_FOLDERS).map_err(|_| unknown(id))?;
            let mut view = view_of(&message);
            match read_ending(&*host.disk, &queue, &key) {
                Some(ending) => apply(&mut view, ending),
                // A power cut may have taken the note of a delivery, and the journal knew that it had ended.
                None if queue.join("done").join(key.file_name()).exists() => view.state = State::Submitted,
                None => {}
            }
            view
        }
    };
    if let Some(handle) = view.to.peer().and_then(|i| host.existing(i)) {
        complete(host, &mut view, &handle);
    }
    Ok(view)
}

/// A question has its answer, also one that an earlier daemon delivered.
pub fn answered(host: &Arc<Host>, question: &MessageId, answer: Answer, at: &str) {
    if host.ledger.view(question).is_none()
        && let Ok(view) = message(host, question)
    {
        host.ledger.know(view);
    }
    host.ledger.answered(question, answer, at);
}

pub fn apply(view: &mut MessageView, ending: Ending) {
    view.state = ending.state;
    view.reason = ending.reason;
    view.evidence = ending.evidence;
    view.attempt = ending.attempt;
    view.submitted = ending.state.is_delivered().then_some(ending.at);
}

/// What a caller may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    Submitted,
    Answered,
}

impl WaitFor {
    fn reached(self, view: &MessageView) -> bool {
        let told_all = view.state == State::Entered && view.evidence == Some(Evidence::None);
        match self {
            WaitFor::Submitted => view.submitted.is_some() || view.state.is_end() || told_all,
            WaitFor::Answered => view.answer.is_some() || matches!(view.state, State::Expired | State::Dead),
        }
    }
}

/// Waits for a state, at most `limit`; the view then says how far it came.
pub async fn wait(host: &Arc<Host>, id: &MessageId, what: WaitFor, limit: Duration) -> Result<MessageView, Fault> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut changed = host.ledger.subscribe();
    loop {
        let view = message(host, id)?;
        if what.reached(&view) {
            return Ok(view);
        }
        let next = async {
            loop {
                match changed.recv().await {
                    Ok(changed) if changed == *id => return,
                    Ok(_) => {}
                    // Too many changes at once: look for ourselves.
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        if tokio::time::timeout_at(deadline, next).await.is_err() {
            return message(host, id);
        }
    }
}

/// The mailbox that a reader without a terminal reads: the operator's, or that of a peer of this kind.
pub fn reader(host: &Arc<Host>, address: &str) -> Result<Party, Fault> {
    if address == OPERATOR {
        return Ok(Party::Operator);
    }
    let handle = router::resolve(host, address)?;
    if handle.identity.runtime.is_none() {
        return Ok(Party::Peer(handle.identity));
    }
    Err(Fault::new(Code::Invalid, format!("{} takes its mail in its own terminal", handle.identity))
        .hint(format!("`iapeer messages {}` shows it, `iapeer queue {}` what waits", handle.identity, handle.identity)))
}

/// The mail of a reader, oldest first; `all` adds what was acknowledged. With a limit, waits for some.
pub async fn inbox(host: &Arc<Host>, party: &Party, all: bool, limit: Duration) -> Vec<Mail> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut changed = host.ledger.subscribe();
    loop {
        let mail = read_inbox(&*host.disk, &host.root, party, all);
        if !mail.is_empty() || tokio::time::timeout_at(deadline, changed.recv()).await.is_err() {
            return mail;
        }
    }
}

/// The same without a daemon: a reading verb works from the files.
pub fn read_inbox(disk: &dyn Disk, root: &Root, party: &Party, all: bool) -> Vec<Mail> {
    let queue = root.party_state(party).join("queue");
    let folders: &[&str] = if all { &["done", "new"] } else { &["new"] };
    let keys = folders.iter().flat_map(|f| keys_in(disk, &queue.join(f)));
    let mut mail: Vec<(Key, Mail)> = keys
        .filter_map(|key| {
            let m = read_record(disk, &queue, &key, &["new", "done"]).ok()?;
            let acknowledged = queue.join("done").join(key.file_name()).exists();
            Some((key, mail_of(m, acknowledged)))
        })
        .collect();
    mail.sort_by_key(|(key, _)| key.seq);
    mail.into_iter().map(|(_, m)| m).collect()
}

pub fn mail_of(m: Message, acknowledged: bool) -> Mail {
    let text = sanitize::body(&m.body);
    let attachments = m.attachments.into_iter().map(|a| a.path).collect();
    Mail {
        id: m.id,
        from: m.from,
        to: Some(m.to),
        intelligence: m.intelligence,
        topic: m.topic,
        in_reply_to: m.in_reply_to,
        sent: m.sent,
        text,
        attachments,
        acknowledged,
    }
}

/// A reader has taken a message.
pub async fn acknowledge(host: &Arc<Host>, id: &MessageId) -> Result<MessageView, Fault> {
    let (party, key) = host.ledger.place(id).ok_or_else(|| unknown(id))?;
    match &party {
        Party::Peer(identity) if identity.runtime.is_none() => {
            host.handle(identity).order(Event::Withdraw { id: id.clone(), state: State::Acknowledged, reason: "" }).await;
            host.settled().await;
        }
        Party::Operator => {
            let queue = host.root.party_state(&party).join("queue");
            if queue.join("new").join(key.file_name()).exists() {
                let at = host.now_text();
                let ending =
                    Ending { state: State::Acknowledged, evidence: Some(Evidence::Acknowledged), reason: None, at: at.clone(), attempt: 0, incarnation: 0 };
                host.store
                    .run(move |store| {
                        let (mailbox, disk) = store.mailbox(&party)?;
                        mailbox.finish(&*disk, &key, &ending)
                    })
                    .await
                    .map_err(|e| refuse_store(host, &e))?;
                host.ledger.report(id, State::Acknowledged, None, Some(Evidence::Acknowledged), 0, &at);
                host.delivery(Line::new("delivery").with("msg", id).with("to", "operator").with("state", "acknowledged"));
            }
        }
        _ => return Err(Fault::new(Code::NotAllowed, format!("{id} is mail to {party}, whose own program takes it"))),
    }
    message(host, id)
}

/// A message of the past: what the files say, and what is `known` beyond them.
pub fn history_view(found: Found, known: impl FnOnce(&MessageId) -> Option<MessageView>) -> HistoryView {
    let text = sanitize::body(&found.message.body);
    let from_files = || {
        let mut view = view_of(&found.message);
        view.state = found.state();
        if let Some(ending) = found.ending.clone().filter(|_| view.state != State::Accepted) {
            apply(&mut view, ending);
        }
        view
    };
    HistoryView { view: known(&found.message.id).unwrap_or_else(from_files), text }
}

/// An operator decides about one message of a queue.
pub async fn queue_act(host: &Arc<Host>, id: &MessageId, act: QueueAct) -> Result<MessageView, Fault> {
    let (party, key) = host.ledger.place(id).ok_or_else(|| unknown(id))?;
    let Some(identity) = party.peer().cloned() else {
        return Err(Fault::new(Code::Invalid, "the operator's mail is acknowledged, not queued").hint("`iapeer inbox` reads it"));
    };
    let handle = host.handle(&identity);
    let view = message(host, id)?;
    let state = |wanted: &str| {
        Err(Fault::new(Code::Conflict, format!("{id} is {}: there is nothing to {wanted}", view.state.word()))
            .hint(format!("`iapeer explain {id}` tells more")))
    };
    match (act, view.state) {
        (QueueAct::Retry, State::Dead | State::Expired | State::Parked) | (QueueAct::Release, State::Parked) => {
            // What its file does now is no other hand's work; another decision about it is under way otherwise.
            let _deciding = Deciding::about(host, id);
            let stamp = host.stamp();
            let moved = host.store.run(move |store| {
                let (mailbox, disk) = store.mailbox(&party)?;
                Ok(shelf::back_to_new(&*disk, mailbox, &key, &stamp))
            });
            let mut entry = moved.await.map_err(|e| refuse_store(host, &e))?.map_err(|fault| match fault {
                RecordFault::Io(error) => refuse_store(host, &error),
                RecordFault::Content(why) => Fault::new(Code::Conflict, why).hint("it may just have been decided by somebody else"),
            })?;
            entry.due = entry.deadline(&host.stamp());
            host.flow.release(&entry.from, &view.to);
            host.ledger.change(id, |v| (v.state, v.reason) = (State::Accepted, None));
            host.ledger.waits(&view.to, &entry);
            host.delivery(Line::new("delivery").with("msg", id).with("to", &view.to).with("state", State::Accepted.word()).with("reason", "by-operator"));
            handle.order(Event::Accepted(entry)).await;
        }
        (QueueAct::Drop, State::Parked) => {
            // From aside to given up.
            let ending = Ending { state: State::Dead, evidence: None, reason: Some("dropped".into()), at: host.now_text(), attempt: 0, incarnation: 0 };
            let (to, moved) = (party.clone(), key.clone());
            host.store
                .run(move |store| {
                    let (mailbox, disk) = store.mailbox(&to)?;
                    mailbox.finish(&*disk, &moved, &ending)
                })
                .await
                .map_err(|e| refuse_store(host, &e))?;
            host.ledger.report(id, State::Dead, Some("dropped".into()), None, 0, "");
            host.delivery(Line::new("delivery").with("msg", id).with("to", &view.to).with("state", State::Dead.word()).with("reason", "dropped"));
            if let Some(message) = load(host, id) {
                host.tell_sender(&message.entry(), &view.to, State::Dead, "dropped").await;
            }
        }
        (QueueAct::Drop, State::Accepted | State::Held) => withdraw(host, &handle, id, State::Dead, "dropped").await?,
        (QueueAct::Hold, State::Accepted | State::Held) => withdraw(host, &handle, id, State::Parked, Hold::ByOperator.word()).await?,
        (QueueAct::Retry, _) => return state("retry"),
        (QueueAct::Release, _) => return state("release"),
        (QueueAct::Drop, _) => return state("drop"),
        (QueueAct::Hold, _) => return state("hold"),
    }
    message(host, id)
}

async fn withdraw(host: &Arc<Host>, handle: &PeerHandle, id: &MessageId, state: State, reason: &'static str) -> Result<(), Fault> {
    handle.order(Event::Withdraw { id: id.clone(), state, reason }).await;
    host.settled().await;
    match message(host, id)?.state == state {
        true => Ok(()),
        false => Err(Fault::new(Code::Conflict, format!("{id} is on its way into the agent: it cannot be taken back"))
            .hint(format!("`iapeer explain {id}` tells where it is"))),
    }
}

/// The waiting, parked and given-up mail of a peer, in the order of delivery.
pub fn queue(host: &Arc<Host>, handle: &PeerHandle) -> Vec<MessageView> {
    let queue = host.root.peer_state(&handle.identity).join("queue");
    let keys = ["cur", "new", "held", "dead"].into_iter().flat_map(|f| keys_in(&*host.disk, &queue.join(f)));
    keys.filter_map(|key| message(host, &key.id).ok()).collect()
}
