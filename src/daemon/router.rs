//! From an address to a mailbox: resolving names, accepting messages, answering about them.

use super::actor::PeerHandle;
use super::host::Host;
use super::ledger::view_of;
use super::logs::Line;
use crate::api::caller::Who;
use crate::api::shapes::{Answer, Mail, MessageView, SendRequest};
use crate::core::envelope::{self, FENCE_LEN};
use crate::core::fault::{Code, Fault};
use crate::core::message::{Ending, Evidence, Intelligence, Key, Message, MessageId, State};
use crate::core::names::{Identity, Party, Personality, near};
use crate::core::peer::event::Event;
use crate::core::sanitize;
use crate::ports::disk::Disk;
use crate::store::layout::Root;
use crate::store::mailbox::{keys_in, read_ending, read_record};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// A new message id: ordered by time, unique.
pub fn new_id() -> MessageId {
    // A version-7 UUID in its canonical form is what MessageId takes.
    loop {
        if let Ok(id) = uuid::Uuid::now_v7().to_string().parse() {
            return id;
        }
    }
}

fn new_fence(body: &[u8]) -> String {
    loop {
        let random = uuid::Uuid::now_v7().into_bytes();
        let mut bytes = [0; FENCE_LEN];
        // The last bytes of a version-7 UUID are random.
        bytes.copy_from_slice(&random[16 - FENCE_LEN..]);
        let fence = envelope::fence_word(&bytes);
        if envelope::fence_fits(&fence, body) {
            return fence;
        }
    }
}

/// The presence that an address means: an identity, or the live or default runtime of a personality.
pub fn resolve(host: &Arc<Host>, address: &str) -> Result<PeerHandle, Fault> {
    let registry = host.registry();
    let unknown = || {
        let names = registry.peers.keys().map(Personality::as_str);
        let close = near(address, names);
        let shown = sanitize::line(&address.chars().take(60).collect::<String>());
        let hint = match close.as_slice() {
            [] => "`iapeer list` shows the peers".to_string(),
            some => format!("did you mean {}?", some.join(" or ")),
        };
        Fault::new(Code::PeerUnknown, format!("no peer is named {shown:?}")).hint(hint)
    };
    if let Ok(identity) = address.parse::<Identity>() {
        if let Some(place) = registry.peers.get(&identity.personality) {
            let (_, runtimes) = host.runtimes_of(&identity.personality, place);
            if runtimes.contains(&identity.runtime) {
                return Ok(host.handle(&identity));
            }
        }
    }
    let personality: Personality = address.parse().map_err(|_| unknown())?;
    let place = registry.peers.get(&personality).ok_or_else(unknown)?;
    let (default, runtimes) = host.runtimes_of(&personality, place);
    let live: Vec<PeerHandle> =
        runtimes.iter().map(|r| host.handle(&Identity::new(r.clone(), personality.clone()))).filter(|h| h.snapshot().session.is_some()).collect();
    match live.as_slice() {
        [one] => Ok(one.clone()),
        _ => Ok(host.handle(&Identity::new(default, personality))),
    }
}

/// Accepts a message: when this returns, it is kept.
pub async fn send(host: &Arc<Host>, who: &Who, request: SendRequest) -> Result<MessageView, Fault> {
    let from = match who {
        Who::Nobody(why) => return Err(Fault::new(Code::Unauthorized, *why)),
        other => other.party().unwrap_or(Party::Operator),
    };
    let id = request.id.clone().unwrap_or_else(new_id);
    let body = request.text.clone().into_bytes();
    check(host, &request, &body)?;
    if let Some(known) = repeated(host, &id, &from, &request)? {
        return Ok(known);
    }
    let to_operator = request.to == crate::core::names::OPERATOR;
    let handle = if to_operator { None } else { Some(resolve(host, &request.to)?) };
    let to = handle.as_ref().map_or(Party::Operator, |h| Party::Peer(h.identity.clone()));
    if to == from {
        return Err(Fault::new(Code::SelfSend, format!("{from} cannot send to itself")));
    }
    if let Some(handle) = &handle {
        admit(host, handle, &request).await?;
    }
    let (in_reply_to, hops) = thread(host, &from, &to, request.in_reply_to.clone());
    let expires = handle.as_ref().map(|_| host.clock.utc().timestamp() + (host.settings.limits.ttl_hours * 3600) as i64);
    let mut message = Message {
        id: id.clone(),
        seq: 0,
        intelligence: intelligence(host, &from),
        from,
        via: request.via.word().into(),
        to: to.clone(),
        topic: request.topic.clone(),
        in_reply_to,
        hops,
        urgent: request.urgent,
        sent: host.now_text(),
        expires,
        fence: new_fence(&body),
        body,
    };
    if !host.ledger.reserve(&id) {
        // The same id is being accepted by another request at this moment.
        return twin(host, &id, &message.from, &request).await;
    }
    let kept = host.store.run(move |store| {
        let (mailbox, disk) = store.mailbox(&message.to)?;
        message.seq = mailbox.take_seq(&*disk)?;
        mailbox.enqueue(&*disk, &message)?;
        Ok(message)
    });
    let kept = kept.await;
    if let Ok(message) = &kept {
        host.ledger.accepted(message, host.clock.boot_ms());
    }
    host.ledger.unreserve(&id);
    let message = kept.map_err(|e| refuse_store(host, &e))?;
    host.set_degraded(STORE_WRITE, false);
    log_accepted(host, &message);
    // Only the peer that was asked can answer, and only to whoever asked.
    let asked = |question: &Message| question.to == message.from && question.from == message.to;
    if let Some(question) = message.in_reply_to.as_ref().filter(|id| load(host, id).as_ref().is_some_and(asked)) {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        host.ledger.answered(question, Answer { id: message.id.clone(), text }, &message.sent);
    }
    if let Some(handle) = &handle {
        handle.event(Event::Accepted(message.entry())).await;
    }
    let mut view = host.ledger.view(&id).unwrap_or_else(|| view_of(&message));
    if let Some(handle) = handle {
        complete(host, &mut view, &handle);
    }
    Ok(view)
}

const STORE_WRITE: &str = "store: a message could not be written";

fn refuse_store(host: &Host, error: &io::Error) -> Fault {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    host.set_degraded(STORE_WRITE, true);
    let code = if full { Code::DiskFull } else { Code::StoreDegraded };
    Fault::new(code, format!("the message could not be kept: {error}")).hint("nothing was accepted; make room or mend the disk, then send again")
}

fn check(host: &Host, request: &SendRequest, body: &[u8]) -> Result<(), Fault> {
    let limits = &host.settings.limits;
    if body.is_empty() {
        return Err(Fault::new(Code::Invalid, "the message is empty"));
    }
    if body.len() > limits.body_bytes {
        return Err(Fault::new(Code::TooLarge, format!("the message has {} bytes, the limit is {}", body.len(), limits.body_bytes))
            .hint("write it to a file and send its path, or raise limits.body_bytes in config.yaml"));
    }
    if let Some(topic) = &request.topic {
        if topic.is_empty() || topic.chars().count() > limits.topic_chars || topic.chars().any(sanitize::is_control) {
            return Err(Fault::new(Code::Invalid, format!("a topic is one line of 1 to {} characters", limits.topic_chars)));
        }
    }
    let floor = limits.disk_floor_mib * 1024 * 1024;
    match host.disk.free_bytes(host.root.base()) {
        Ok(free) if free < floor => {
            Err(Fault::new(Code::DiskFull, format!("{} MiB are free, mail is refused below {} MiB", free / (1024 * 1024), limits.disk_floor_mib))
                .hint("free some space, then send again"))
        }
        _ => Ok(()),
    }
}

/// A request that comes again with its id gets the same answer; another message under it is refused.
fn repeated(host: &Arc<Host>, id: &MessageId, from: &Party, request: &SendRequest) -> Result<Option<MessageView>, Fault> {
    let Some((party, key)) = host.ledger.place(id) else { return Ok(None) };
    let queue = host.root.party_state(&party).join("queue");
    let same = read_record(&*host.disk, &queue, &key, ALL_FOLDERS).is_ok_and(|m| {
        let addressed = m.to.to_string() == request.to || m.to.peer().is_some_and(|i| i.personality.as_str() == request.to);
        m.from == *from && addressed && m.body == request.text.as_bytes()
    });
    if same { message(host, id).map(Some) } else { Err(Fault::new(Code::KeyConflict, format!("the id {id} belongs to another message"))) }
}

/// Waits for what becomes of the other request, then answers as to any repetition.
async fn twin(host: &Arc<Host>, id: &MessageId, from: &Party, request: &SendRequest) -> Result<MessageView, Fault> {
    let mut changed = host.ledger.subscribe();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while host.ledger.is_reserved(id) && tokio::time::timeout_at(deadline, changed.recv()).await.is_ok() {}
    match repeated(host, id, from, request)? {
        Some(view) => Ok(view),
        None => Err(Fault::new(Code::StoreDegraded, format!("another request with the id {id} was not kept")).hint("send again")),
    }
}

async fn admit(host: &Arc<Host>, handle: &PeerHandle, request: &SendRequest) -> Result<(), Fault> {
    let limits = &host.settings.limits;
    let snapshot = handle.wait_until(Duration::from_secs(10), |s| s.restored).await.unwrap_or_else(|| handle.snapshot());
    if snapshot.stopped && !request.queue {
        return Err(Fault::new(Code::PeerStopped, format!("{} is stopped", handle.identity))
            .hint(format!("`iapeer start {}` starts it, `--queue` leaves the message for then", handle.identity)));
    }
    if snapshot.waiting.len() >= limits.waiting_per_peer {
        let mut fault =
            Fault::new(Code::QueueFull, format!("{} messages wait for {}, the limit is {}", snapshot.waiting.len(), handle.identity, limits.waiting_per_peer))
                .hint(format!("`iapeer status` and `iapeer screen {}` tell why it does not take them", handle.identity));
        fault.retry_after_ms = Some(5_000);
        return Err(fault);
    }
    Ok(())
}

/// What a message answers, and how far it has travelled.
fn thread(host: &Arc<Host>, from: &Party, to: &Party, given: Option<MessageId>) -> (Option<MessageId>, u32) {
    let turn = from.peer().and_then(|i| host.existing(i)).and_then(|h| h.snapshot().turn_message);
    let by_turn = turn.as_ref().filter(|(_, sender)| sender == to).map(|(id, _)| id.clone());
    let in_reply_to = given.or(by_turn);
    let source = in_reply_to.clone().or(turn.map(|(id, _)| id));
    let automatic = matches!(from, Party::Peer(_));
    let hops = source.filter(|_| automatic).and_then(|id| load(host, &id)).map_or(0, |m| m.hops + 1);
    (in_reply_to, hops)
}

fn load(host: &Arc<Host>, id: &MessageId) -> Option<Message> {
    let (party, key) = host.ledger.place(id)?;
    read_record(&*host.disk, &host.root.party_state(&party).join("queue"), &key, ALL_FOLDERS).ok()
}

const ALL_FOLDERS: &[&str] = &["new", "cur", "done", "held", "dead"];

fn intelligence(host: &Host, from: &Party) -> Intelligence {
    match from {
        Party::Operator => Intelligence::Natural,
        Party::System => Intelligence::Absent,
        Party::Peer(identity) => host.profile(&identity.personality).map(|(_, l)| l.profile.intelligence).unwrap_or_default(),
    }
}

fn log_accepted(host: &Host, message: &Message) {
    host.delivery(
        Line::new("delivery")
            .with("msg", &message.id)
            .with("from", &message.from)
            .with("to", &message.to)
            .with("state", State::Accepted.word())
            .with("len", message.body.len())
            .with("att", 0)
            .maybe("topic", message.topic.as_ref())
            .maybe("in_reply_to", message.in_reply_to.as_ref())
            .with("via", &message.via),
    );
}

/// What a waiting message waits for is known to the peer, not to the message.
fn complete(host: &Host, view: &mut MessageView, handle: &PeerHandle) {
    let snapshot = handle.snapshot();
    let broken = snapshot.session.is_none() && host.profile(&handle.identity.personality).is_err();
    view.position = snapshot.waiting.iter().position(|id| *id == view.id).map(|p| p + 1);
    let waits = matches!(view.state, State::Accepted | State::Held);
    let reason = if broken { Some("profile-invalid".into()) } else { snapshot.reason };
    if let (true, Some(reason)) = (waits, reason) {
        view.state = State::Held;
        view.reason = Some(reason);
    }
}

/// What is known of a message.
pub fn message(host: &Arc<Host>, id: &MessageId) -> Result<MessageView, Fault> {
    let unknown = || Fault::new(Code::MessageUnknown, format!("no message has the id {id}")).hint("ids are forgotten with the ledger, after 7 days");
    let mut view = match host.ledger.view(id) {
        Some(view) => view,
        None => {
            let (party, key) = host.ledger.place(id).ok_or_else(unknown)?;
            let queue = host.root.party_state(&party).join("queue");
            let message = read_record(&*host.disk, &queue, &key, ALL_FOLDERS).map_err(|_| unknown())?;
            let mut view = view_of(&message);
            if let Some(ending) = read_ending(&*host.disk, &queue, &key) {
                apply(&mut view, ending);
            }
            view
        }
    };
    if let Some(handle) = view.to.peer().and_then(|i| host.existing(i)) {
        complete(host, &mut view, &handle);
    }
    Ok(view)
}

fn apply(view: &mut MessageView, ending: Ending) {
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
    let mut changed = host.ledger.subscribe();
    let deadline = tokio::time::Instant::now() + limit;
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

/// The mail of the operator, oldest first; `all` adds what was acknowledged.
pub fn inbox(host: &Arc<Host>, all: bool) -> Vec<Mail> {
    read_inbox(&*host.disk, &host.root, all)
}

/// The same without a daemon: a reading verb works from the files.
pub fn read_inbox(disk: &dyn Disk, root: &Root, all: bool) -> Vec<Mail> {
    let queue = root.party_state(&Party::Operator).join("queue");
    let folders: &[&str] = if all { &["done", "new"] } else { &["new"] };
    let keys = folders.iter().flat_map(|f| keys_in(disk, &queue.join(f)));
    let mut mail: Vec<(Key, Mail)> = keys
        .filter_map(|key| {
            let m = read_record(disk, &queue, &key, &["new", "done"]).ok()?;
            let acknowledged = queue.join("done").join(key.file_name()).exists();
            let text = sanitize::body(&m.body);
            Some((
                key,
                Mail { id: m.id, from: m.from, intelligence: m.intelligence, topic: m.topic, in_reply_to: m.in_reply_to, sent: m.sent, text, acknowledged },
            ))
        })
        .collect();
    mail.sort_by_key(|(key, _)| key.seq);
    mail.into_iter().map(|(_, m)| m).collect()
}

/// The operator has read a message.
pub async fn acknowledge(host: &Arc<Host>, id: &MessageId) -> Result<MessageView, Fault> {
    let (party, key) = host.ledger.place(id).ok_or_else(|| Fault::new(Code::MessageUnknown, format!("no message has the id {id}")))?;
    if party != Party::Operator {
        return Err(Fault::new(Code::NotAllowed, format!("{id} is not mail to the operator")));
    }
    let at = host.now_text();
    let ending = Ending { state: State::Acknowledged, evidence: Some(Evidence::Acknowledged), reason: None, at: at.clone(), attempt: 0, incarnation: 0 };
    let queue = host.root.party_state(&party).join("queue");
    if queue.join("new").join(key.file_name()).exists() {
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
    message(host, id)
}
