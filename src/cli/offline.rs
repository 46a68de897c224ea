//! A send that finds no daemon: left in the spool for the next one, with the token of the session it
//! comes from.

use super::link::{self, Above};
use crate::api::shapes::{MessageView, Recipients, SendRequest};
use crate::core::fault::{Code, Fault};
use crate::core::message::{MessageId, State};
use crate::core::names::{Identity, Incarnation, Party};
use crate::daemon::accept;
use crate::store::disk::OsDisk;
use crate::store::layout::Root;
use crate::store::outbox::{self, Spooled, Token};
use crate::store::{config_file, registry};
use chrono::{Local, SecondsFormat};
use std::collections::{BTreeMap, HashSet};

/// The session that this process runs in, if it runs in one, and whether its keeper is above.
fn session(root: &Root) -> Result<Option<(Identity, Incarnation, bool)>, Fault> {
    let untold = || Err(Fault::new(Code::Unauthorized, "this process comes from a session that cannot be told").hint("the operator can send in its place"));
    match (link::above(root), super::hook::session()) {
        (Above::Session(identity, inc), mark) if mark.as_ref().is_none_or(|m| *m == (identity.clone(), inc)) => Ok(Some((identity, inc, true))),
        // Its keeper was killed, or it runs in a space of its own: the secret that it was given says who it is.
        (Above::Nobody | Above::Unclear, Some((identity, inc))) => Ok(Some((identity, inc, false))),
        (Above::Nobody, None) => Ok(None),
        _ => untold(),
    }
}

/// Leaves the send for the next daemon.
///
/// # Errors
/// What can be known without a daemon (an unknown peer, an empty text) and a spool that cannot be written.
pub fn leave(root: &Root, request: &SendRequest) -> Result<Vec<MessageView>, Fault> {
    let invalid = |text: String| Fault::new(Code::Invalid, text);
    root.ensure().map_err(|e| invalid(e.to_string()))?;
    let settings = config_file::load(root, |n| std::env::var(n).ok()).map_err(|e| invalid(e.to_string()))?;
    let token = token(root)?;
    if request.text.is_empty() {
        return Err(invalid("the message is empty".into()));
    }
    if request.text.len() > settings.limits.body_bytes {
        return Err(Fault::new(Code::TooLarge, format!("the message has {} bytes, the limit is {}", request.text.len(), settings.limits.body_bytes)));
    }
    let known = registry::load(root);
    for name in request.to.names() {
        let identity = name.parse::<Identity>().is_ok_and(|i| known.peers.contains_key(&i.personality));
        let is_known = known.peers.keys().any(|p| p.as_str() == name) || identity || settings.groups.contains_key(name) || name == "operator";
        if !is_known {
            return Err(Fault::new(Code::PeerUnknown, format!("no peer is named {name:?}")).hint("no daemon runs; `iapeer list` shows what is known"));
        }
    }
    let floor = settings.limits.disk_floor_mib * 1024 * 1024;
    if fs2::available_space(root.base()).is_ok_and(|free| free < floor) {
        return Err(Fault::new(Code::DiskFull, format!("less than {} MiB are free", settings.limits.disk_floor_mib)).hint("free some space, then send again"));
    }
    let base = request.id.clone().unwrap_or_else(accept::new_id);
    let sent = Local::now().to_rfc3339_opts(SecondsFormat::Secs, false);
    let from = token.as_ref().map_or(Party::Operator, |t| Party::Peer(t.identity.clone()));
    // A record and an id for each, groups taken apart: what is printed here is what each of them gets.
    let names = recipients(request, &settings.groups, &from);
    if names.is_empty() {
        return Err(invalid("the message goes to nobody but its sender".into()));
    }
    let alone = names.len() == 1;
    let (mut views, mut left) = (Vec::new(), Vec::new());
    for name in names {
        let to = expected(root, &name);
        let id = if alone { base.clone() } else { accept::copy_id(&base, &to) };
        let one = SendRequest { to: Recipients::One(name), text: String::new(), id: None, ..request.clone() };
        let spooled = Spooled {
            v: 1,
            id: id.clone(),
            sent: sent.clone(),
            token: token.clone(),
            request: serde_json::to_value(&one).map_err(|e| Fault::new(Code::Internal, e.to_string()))?,
            text: request.text.clone().into_bytes(),
        };
        if let Err(error) = outbox::leave(&OsDisk, root, &spooled) {
            // For all, or for none.
            left.iter().for_each(|id| outbox::take_back(&OsDisk, root, id));
            let code = if error.kind() == std::io::ErrorKind::StorageFull { Code::DiskFull } else { Code::StoreDegraded };
            return Err(Fault::new(code, format!("the message could not be spooled: {error}")).hint("nothing was accepted"));
        }
        views.push(view(id.clone(), from.clone(), to, request, sent.clone()));
        left.push(id);
    }
    Ok(views)
}

/// Each once; of a group all but the sender.
fn recipients(request: &SendRequest, groups: &BTreeMap<String, Vec<String>>, from: &Party) -> Vec<String> {
    let mut names = Vec::new();
    for name in request.to.names() {
        match groups.get(name) {
            Some(members) => names.extend(members.iter().filter(|m| from.peer().is_none_or(|i| i.personality.as_str() != m.as_str())).cloned()),
            None => names.push(name.to_string()),
        }
    }
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The presence that an address probably means: the daemon that takes the message in decides.
fn expected(root: &Root, name: &str) -> Party {
    let known = registry::load(root);
    let default = known.peers.iter().find(|(p, _)| p.as_str() == name).and_then(|(p, place)| Some(Identity::new(place.default_runtime.clone()?, p.clone())));
    default.map(Party::Peer).or_else(|| name.parse().ok()).unwrap_or(Party::Operator)
}

fn view(id: MessageId, from: Party, to: Party, request: &SendRequest, sent: String) -> MessageView {
    MessageView {
        id,
        from,
        to,
        state: State::Accepted,
        reason: Some(super::mail::DAEMON_DOWN.into()),
        evidence: None,
        topic: request.topic.clone(),
        in_reply_to: request.in_reply_to.clone(),
        position: None,
        woke: false,
        wake: None,
        accepted: sent,
        submitted: None,
        answered: None,
        answer: None,
        attempt: 0,
        len: request.text.len(),
    }
}

/// The token of the session above this process; nobody outside a session has one.
fn token(root: &Root) -> Result<Option<Token>, Fault> {
    let Some((identity, incarnation, kept)) = session(root)? else { return Ok(None) };
    // A mark alone, which anybody may put into an environment, opens no file.
    let kept = || outbox::secret(&OsDisk, root, &identity, incarnation).filter(|_| kept);
    let secret = super::hook::secret().or_else(kept);
    let secret = secret.ok_or_else(|| Fault::new(Code::Unauthorized, format!("the session {identity}@{incarnation} has no token")))?;
    Ok(Some(Token { identity, incarnation, secret }))
}
