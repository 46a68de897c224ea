//! Accepting messages: who sends what to whom, whether that may be, and then durably, all or none.

use super::acts::claim_for;
use super::door::Promise;
use super::hand_over::{entry_of, hand_over, hand_to, log_accepted};
use super::handle::PeerHandle;
use super::host::Host;
use super::mail::{self, ALL_FOLDERS};
use super::router;
use crate::api::caller::Who;
use crate::api::shapes::{MessageView, SendRequest};
use crate::core::envelope::{self, FENCE_LEN};
use crate::core::fault::{Code, Fault};
use crate::core::message::{Attachment, Intelligence, Message, MessageId, Stamp};
use crate::core::names::{Incarnation, OPERATOR, Party};
use crate::core::record::hex;
use crate::core::sanitize;
use crate::store::inbox::{self, AttachError};
use crate::store::mailbox::{keys_in, read_record};
use crate::store::shelf::{self, Keyed};
use sha2::{Digest, Sha256};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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

/// The id of one copy of a message to several: the same again when the request is repeated.
pub fn copy_id(of: &MessageId, to: &Party) -> MessageId {
    let mark = hex(&Sha256::digest(format!("{of} {to}").as_bytes()));
    let text = format!("{}7{}-8{}-{}", &of.as_str()[..14], &mark[..3], &mark[3..6], &mark[6..18]);
    text.parse().unwrap_or_else(|_| new_id())
}

/// One recipient of a request.
struct Target {
    party: Party,
    /// None for the operator.
    handle: Option<PeerHandle>,
}

/// Accepts a message for each of its recipients: when this returns, all are kept.
pub async fn send(host: &Arc<Host>, who: &Who, request: SendRequest) -> Result<Vec<MessageView>, Fault> {
    let from = sender(host, who, &request)?;
    if request.raw && !matches!(who, Who::Operator) {
        return Err(Fault::new(Code::NotAllowed, "raw text is the operator's: a peer's message always has its envelope"));
    }
    let by = if let Who::Peer(_, inc) = who { Some(*inc) } else { None };
    take(host, from, by, request).await
}

/// What a schedule of its own profile sends a peer, signed by the system. With the same key and text it is
/// the same message again, which is kept only once.
pub async fn scheduled(host: &Arc<Host>, request: SendRequest) -> Result<Vec<MessageView>, Fault> {
    take(host, Party::System, None, request).await
}

/// `by`: the session that sends it.
async fn take(host: &Arc<Host>, from: Party, by: Option<Incarnation>, request: SendRequest) -> Result<Vec<MessageView>, Fault> {
    let base = request.id.clone().unwrap_or_else(new_id);
    check(host, &request)?;
    let targets = recipients(host, &from, &request)?;
    let alone = targets.len() == 1;
    let mut views: Vec<Option<MessageView>> = Vec::new();
    let mut fresh: Vec<(usize, MessageId)> = Vec::new();
    let payload = request.idempotency_key.is_some().then(|| payload(&request));
    for (place, target) in targets.iter().enumerate() {
        let id = if alone { base.clone() } else { copy_id(&base, &target.party) };
        let id = match (&request.idempotency_key, &payload) {
            // A new one is tied only when nothing else refuses the message.
            (Some(key), Some(payload)) if is_tied(host, &from, &target.party, key) => tie_key(host, &from, &target.party, key, payload, id).await?,
            _ => id,
        };
        let known = repeated(host, &id, &from, &target.party, &request)?;
        if known.is_none() {
            fresh.push((place, id));
        }
        views.push(known);
    }
    if fresh.is_empty() {
        return Ok(views.into_iter().flatten().collect());
    }
    for (place, _) in &fresh {
        admit(host, &from, &targets[*place], &request).await?;
    }
    host.flow.rate(&host.settings.limits, &from, fresh.len(), host.clock.boot_ms()).map_err(|wait| {
        let mut fault = Fault::new(Code::RateLimited, format!("{from} sends faster than is allowed")).hint(format!("try again in {wait} ms"));
        fault.retry_after_ms = Some(wait);
        fault
    })?;
    let parties: Vec<Party> = fresh.iter().map(|(place, _)| targets[*place].party.clone()).collect();
    let attachments = attach(host, &from, &parties, &request).await?;
    if let (Some(key), Some(payload)) = (&request.idempotency_key, &payload) {
        for (place, id) in &mut fresh {
            *id = tie_key(host, &from, &targets[*place].party, key, payload, id.clone()).await?;
        }
    }
    let body = request.text.clone().into_bytes();
    let mut messages = Vec::new();
    for ((place, id), attachments) in fresh.iter().zip(attachments) {
        messages.push(compose(host, &from, &targets[*place], id.clone(), &request, body.clone(), attachments));
    }
    let reserved: Vec<&MessageId> = fresh.iter().map(|(_, id)| id).filter(|id| host.ledger.reserve(id.as_str())).collect();
    // What was not known a moment ago may have been accepted since, on another connection.
    let known = fresh.iter().any(|(_, id)| host.ledger.place(id).is_some());
    if known || reserved.len() < fresh.len() {
        // The same request is being accepted on another connection at this moment: its answer is ours.
        reserved.iter().for_each(|id| host.ledger.unreserve(id.as_str()));
        return twin(host, from, by, request, &fresh).await;
    }
    let (kept, mut promise) = keep(host, messages, &targets, &fresh).await;
    if let Ok(messages) = &kept {
        messages.iter().for_each(|m| host.ledger.accepted(m, host.clock.boot_ms()));
    }
    reserved.iter().for_each(|id| host.ledger.unreserve(id.as_str()));
    let messages = kept.map_err(|e| mail::refuse_store(host, &e))?;
    host.set_degraded(mail::STORE_WRITE, false);
    for (message, (place, _)) in messages.into_iter().zip(&fresh) {
        views[*place] = Some(hand_over(host, message, targets[*place].handle.as_ref(), promise.take(), by).await);
    }
    Ok(views.into_iter().flatten().collect())
}

/// Keeps them all, or none; one that goes to an open session is claimed for it in the same write.
async fn keep(host: &Arc<Host>, mut messages: Vec<Message>, targets: &[Target], fresh: &[(usize, MessageId)]) -> (io::Result<Vec<Message>>, Option<Promise>) {
    let alone = match (messages.as_slice(), fresh) {
        ([message], [(place, _)]) if !message.raw => targets[*place].handle.as_ref(),
        _ => None,
    };
    let promise = alone.and_then(|handle| handle.door.promise(handle));
    match (promise, messages.pop()) {
        (Some(mut promise), Some(message)) => {
            let claim = claim_for(host, &promise.session, message.id.clone());
            match host.store.keep_claimed(message, claim).await {
                Ok((message, Some(claim))) => {
                    promise.stands(entry_of(host, &message, 0), message.clone(), claim);
                    (Ok(vec![message]), Some(promise))
                }
                Ok((message, None)) => (Ok(vec![message]), None),
                Err(error) => (Err(error), None),
            }
        }
        (_, last) => {
            messages.extend(last);
            (host.store.keep(messages).await, None)
        }
    }
}

fn sender(host: &Arc<Host>, who: &Who, request: &SendRequest) -> Result<Party, Fault> {
    match (who, &request.from) {
        (Who::Nobody(why), _) => Err((*why).into()),
        (Who::Operator, Some(name)) => router::resolve(host, name).map(|h| Party::Peer(h.identity.clone())),
        (Who::Peer(identity, _), Some(_)) => Err(Fault::new(Code::NotAllowed, format!("{identity} sends under its own name only"))),
        (who, None) => Ok(who.party().unwrap_or(Party::Operator)),
    }
}

/// The recipients, groups taken apart, each once; never the sender of a message to a group.
fn recipients(host: &Arc<Host>, from: &Party, request: &SendRequest) -> Result<Vec<Target>, Fault> {
    let mut targets: Vec<Target> = Vec::new();
    for address in request.to.names() {
        let group = host.settings.groups.get(address);
        if group.is_some() && router::resolve(host, address).is_ok() {
            return Err(
                Fault::new(Code::PeerAmbiguous, format!("{address} is a group and a peer")).hint("name the identity, or rename the group in config.yaml")
            );
        }
        let members: Vec<&str> = group.map_or_else(|| vec![address], |g| g.iter().map(String::as_str).collect());
        for member in members {
            let handle = if member == OPERATOR { None } else { Some(router::resolve(host, member)?) };
            let party = handle.as_ref().map_or(Party::Operator, |h| Party::Peer(h.identity.clone()));
            if party == *from {
                if group.is_some() {
                    continue;
                }
                return Err(Fault::new(Code::SelfSend, format!("{from} cannot send to itself")));
            }
            if targets.iter().all(|t| t.party != party) {
                targets.push(Target { party, handle });
            }
        }
    }
    if targets.is_empty() {
        return Err(Fault::new(Code::Invalid, "there is nobody to send to"));
    }
    Ok(targets)
}

fn check(host: &Host, request: &SendRequest) -> Result<(), Fault> {
    let limits = &host.settings.limits;
    let invalid = |text: String| Err(Fault::new(Code::Invalid, text));
    if request.text.is_empty() {
        return invalid("the message is empty".into());
    }
    if request.text.len() > limits.body_bytes {
        return Err(Fault::new(Code::TooLarge, format!("the message has {} bytes, the limit is {}", request.text.len(), limits.body_bytes))
            .hint("write it to a file and send it with --attachment, or raise limits.body_bytes in config.yaml"));
    }
    if let Some(topic) = &request.topic {
        if topic.is_empty() || topic.chars().count() > limits.topic_chars || topic.chars().any(sanitize::is_control) {
            return invalid(format!("a topic is one line of 1 to {} characters", limits.topic_chars));
        }
    }
    if let Some(key) = &request.idempotency_key {
        if key.is_empty() || key.chars().count() > limits.topic_chars || key.chars().any(sanitize::is_control) {
            return invalid(format!("an idempotency key is one line of 1 to {} characters", limits.topic_chars));
        }
    }
    if request.raw && (request.text.trim_end().contains('\n') || !request.attachments.is_empty()) {
        return invalid("raw text is one line, without attachments".into());
    }
    if request.attachments.len() > limits.attachments {
        return Err(Fault::new(Code::TooLarge, format!("{} attachments, the limit is {}", request.attachments.len(), limits.attachments)));
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

/// What a key stands for, besides sender and recipient.
fn payload(request: &SendRequest) -> String {
    let content = (&request.text, &request.topic, &request.in_reply_to, request.urgent, request.raw, &request.attachments);
    hex(&Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()))
}

/// The id that a sender's key stands for.
fn is_tied(host: &Host, from: &Party, to: &Party, key: &str) -> bool {
    shelf::is_tied(&*host.disk, &host.root.party_state(to).join("queue"), from, key)
}

async fn tie_key(host: &Arc<Host>, from: &Party, to: &Party, key: &str, payload: &str, id: MessageId) -> Result<MessageId, Fault> {
    let (queue, from, key, payload) = (host.root.party_state(to).join("queue"), from.clone(), key.to_string(), payload.to_string());
    let (sender, named) = (from.clone(), key.clone());
    let at = host.clock.utc().timestamp();
    let tied = host.store.run(move |store| shelf::tie_key(&*store.disk, &queue, &from, &key, &payload, &id, at)).await;
    match tied.map_err(|e| mail::refuse_store(host, &e))? {
        Keyed::Is(id) => Ok(id),
        Keyed::Conflict(id) => Err(Fault::new(Code::KeyConflict, format!("the key {named:?} of {sender} was used for another message, {id}"))
            .hint("a key belongs to one message; choose a new one")),
    }
}

/// A request that comes again with its id gets the same answer; another message under it is refused.
fn repeated(host: &Arc<Host>, id: &MessageId, from: &Party, to: &Party, request: &SendRequest) -> Result<Option<MessageView>, Fault> {
    let Some((party, key)) = host.ledger.place(id) else { return Ok(None) };
    let queue = host.root.party_state(&party).join("queue");
    let same = party == *to && read_record(&*host.disk, &queue, &key, ALL_FOLDERS).is_ok_and(|m| m.from == *from && m.body == request.text.as_bytes());
    if same { mail::message(host, id).map(Some) } else { Err(Fault::new(Code::KeyConflict, format!("the id {id} belongs to another message"))) }
}

/// Waits for what becomes of the other request, then answers as to any repetition.
async fn twin(host: &Arc<Host>, from: Party, by: Option<Incarnation>, request: SendRequest, ids: &[(usize, MessageId)]) -> Result<Vec<MessageView>, Fault> {
    let mut changed = host.ledger.subscribe();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let busy = || ids.iter().any(|(_, id)| host.ledger.is_reserved(id.as_str()));
    while busy() && tokio::time::Instant::now() < deadline {
        let _ = tokio::time::timeout(Duration::from_millis(50), changed.recv()).await;
    }
    if busy() {
        return Err(Fault::new(Code::StoreDegraded, "another request with the same id is still being written").hint("send again"));
    }
    Box::pin(take(host, from, by, request)).await
}

async fn admit(host: &Arc<Host>, from: &Party, target: &Target, request: &SendRequest) -> Result<(), Fault> {
    let Some(handle) = &target.handle else { return Ok(()) };
    let limits = &host.settings.limits;
    let to = &handle.identity;
    let snapshot = handle.wait_until(Duration::from_secs(10), |s| s.restored).await.unwrap_or_else(|| handle.snapshot());
    if let Some(by) = snapshot.frozen.then_some("it").or(host.frozen().is_some().then_some("the host")) {
        return Err(Fault::new(Code::Frozen, format!("{to} takes no mail: {by} is frozen")).hint("`iapeer unfreeze` lifts it"));
    }
    if snapshot.stopped && !request.queue {
        return Err(
            Fault::new(Code::PeerStopped, format!("{to} is stopped")).hint(format!("`iapeer start {to}` starts it, `--queue` leaves the message for then"))
        );
    }
    if request.raw && to.runtime.is_none() {
        return Err(Fault::new(Code::Invalid, format!("{to} has no terminal that raw text could be typed into")));
    }
    router::allowed(host, from, to)?;
    let (all, from_sender) = host.ledger.waiting(&target.party, from);
    let automatic = matches!(from, Party::Peer(_));
    let full = if all >= limits.waiting_per_peer {
        Some(format!("{all} messages wait for {to}, the limit is {}", limits.waiting_per_peer))
    } else if automatic && from_sender >= limits.waiting_per_sender {
        Some(format!("{from_sender} messages of {from} wait for {to}, the limit is {}", limits.waiting_per_sender))
    } else {
        None
    };
    full.map_or(Ok(()), |text| {
        let mut fault = Fault::new(Code::QueueFull, text).hint(format!("`iapeer queue {to}` shows them, `iapeer explain {to}` why they wait"));
        fault.retry_after_ms = Some(5_000);
        Err(fault)
    })
}

/// The attachments of each copy, in the recipient's own inbox.
async fn attach(host: &Arc<Host>, from: &Party, to: &[Party], request: &SendRequest) -> Result<Vec<Vec<Attachment>>, Fault> {
    if request.attachments.is_empty() {
        return Ok(vec![Vec::new(); to.len()]);
    }
    let within = from.peer().map(|i| host.place(&i.personality).map(|p| p.folder).unwrap_or_default());
    let inboxes: Vec<PathBuf> = to.iter().map(|p| host.inbox_of(p)).collect();
    let (paths, limits, now) = (request.attachments.clone(), host.settings.limits.clone(), host.clock.utc().into());
    let copied = tokio::task::spawn_blocking(move || {
        let mut sources = paths.iter().map(|p| inbox::open(p, within.as_deref(), &limits)).collect::<Result<Vec<_>, _>>()?;
        inboxes.iter().map(|inbox| sources.iter_mut().map(|s| inbox::copy(s, inbox, &limits, now)).collect()).collect()
    });
    let copied: Result<Vec<Vec<Attachment>>, AttachError> = copied.await.map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
    copied.map_err(|error| {
        let code = match &error {
            AttachError::Bad { .. } => Code::BadAttachment,
            AttachError::TooLarge { .. } => Code::TooLarge,
            AttachError::Keep { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::DiskFull,
            AttachError::Keep { .. } => Code::StoreDegraded,
        };
        Fault::new(code, format!("attachment {error}")).hint("nothing was sent")
    })
}

fn compose(host: &Arc<Host>, from: &Party, target: &Target, id: MessageId, request: &SendRequest, body: Vec<u8>, attachments: Vec<Attachment>) -> Message {
    let (in_reply_to, hops) = thread(host, from, &target.party, request.in_reply_to.clone());
    let stamp = host.stamp();
    let expires = target.handle.as_ref().map(|_| stamp.unix + (host.settings.limits.ttl_hours * 3600) as i64);
    Message {
        id,
        seq: 0,
        intelligence: intelligence(host, from),
        from: from.clone(),
        via: request.door().into(),
        to: target.party.clone(),
        topic: request.topic.clone(),
        in_reply_to,
        hops,
        urgent: request.urgent,
        sent: request.sent.clone().unwrap_or_else(|| host.now_text()),
        expires,
        fence: new_fence(&body),
        stamp: Some(stamp),
        idempotency_key: request.idempotency_key.clone(),
        raw: request.raw,
        attachments,
        body,
    }
}

/// What a message answers, and how far it has travelled.
fn thread(host: &Arc<Host>, from: &Party, to: &Party, given: Option<MessageId>) -> (Option<MessageId>, u32) {
    let turn = from.peer().and_then(|i| host.existing(i)).and_then(|h| h.snapshot().turn_message);
    let by_turn = turn.as_ref().filter(|(_, sender)| sender == to).map(|(id, _)| id.clone());
    let in_reply_to = given.or(by_turn);
    let source = in_reply_to.clone().or(turn.map(|(id, _)| id));
    let automatic = matches!(from, Party::Peer(_));
    let hops = source.filter(|_| automatic).and_then(|id| mail::load(host, &id)).map_or(0, |m| m.hops + 1);
    (in_reply_to, hops)
}

pub(super) fn intelligence(host: &Host, from: &Party) -> Intelligence {
    match from {
        Party::Operator => Intelligence::Natural,
        Party::System => Intelligence::Absent,
        Party::Peer(identity) => host.profile(&identity.personality).map(|(_, l)| l.profile.intelligence).unwrap_or_default(),
    }
}

/// A notice of the system: kept like any message, told once for its key, waking nobody.
pub async fn notify(host: &Arc<Host>, to: Party, text: String, about: Option<MessageId>, key: Option<String>) {
    let id = new_id();
    let stamp: Stamp = host.stamp();
    let mut message = Message {
        id: id.clone(),
        seq: 0,
        from: Party::System,
        intelligence: Intelligence::Absent,
        via: "system".into(),
        to: to.clone(),
        topic: None,
        in_reply_to: about,
        hops: 0,
        urgent: false,
        sent: host.now_text(),
        expires: to.peer().map(|_| stamp.unix + (host.settings.limits.ttl_hours * 3600) as i64),
        fence: new_fence(text.as_bytes()),
        stamp: Some(stamp),
        idempotency_key: key,
        raw: false,
        attachments: Vec::new(),
        body: text.into_bytes(),
    };
    let at = host.clock.utc().timestamp();
    let kept = host.store.run(move |store| {
        if let Some(key) = &message.idempotency_key {
            let queue = store.root.party_state(&message.to).join("queue");
            let kept = |id: &MessageId| ALL_FOLDERS.iter().any(|f| keys_in(&*store.disk, &queue.join(f)).iter().any(|k| k.id == *id));
            match shelf::tie_key(&*store.disk, &queue, &message.from, key, "notice", &message.id, at)? {
                Keyed::Is(id) if id == message.id => {}
                // Tied by a daemon that did not live to keep it.
                Keyed::Is(id) if !kept(&id) => message.id = id,
                _ => return Ok(None),
            }
        }
        store.keep(std::slice::from_mut(&mut message))?;
        Ok(Some(message))
    });
    match kept.await {
        Ok(None) => {}
        Ok(Some(message)) => {
            log_accepted(host, &message);
            host.ledger.accepted(&message, host.clock.boot_ms());
            match to.peer().map(|i| host.handle(i)) {
                None => host.tell_operator(&message),
                // Beside: one peer's actor may be telling another, and that one it.
                Some(handle) => {
                    let host = host.clone();
                    tokio::spawn(async move { hand_to(&host, &handle, &message).await });
                }
            }
        }
        Err(error) => tracing::error!(%error, %to, "a notice could not be kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_of_one_message_have_ids_of_their_own_that_come_again() {
        let of = new_id();
        let (a, b): (Party, Party) = ("echo-a".parse().unwrap(), "echo-b".parse().unwrap());
        assert_eq!(copy_id(&of, &a), copy_id(&of, &a));
        assert_ne!(copy_id(&of, &a), copy_id(&of, &b));
        assert_ne!(copy_id(&of, &a), of);
        assert_eq!(copy_id(&of, &a).unix_ms(), of.unix_ms());
    }
}
