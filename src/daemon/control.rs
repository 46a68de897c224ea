//! What a person, a script or the agent itself asks of a session that runs: refresh, interrupt, compact,
//! wait, done, a fresh self.

use super::accept;
use super::handle::{PeerHandle, Snapshot};
use super::host::Host;
use super::logs::Line;
use crate::api::caller::Who;
use crate::api::shapes::{AttachedRequest, MessageView, Recipients, SendRequest, Via};
use crate::core::fault::{Code, Fault};
use crate::core::message::ProcessRef;
use crate::core::names::Identity;
use crate::core::peer::INTERRUPT_MS;
use crate::core::peer::event::Event;
use crate::tmux::driver::gone_within;
use std::sync::Arc;
use std::time::Duration;

/// After the last try of the key: how long the turn's end is still waited for.
const INTERRUPT_LIMIT: Duration = Duration::from_millis(INTERRUPT_MS + 2_000);
/// A person who is attached for longer is not followed.
const ATTACHED_MOST: Duration = Duration::from_secs(30 * 86_400);
/// How long a session may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

/// The next session is a fresh one; what runs goes on.
pub async fn refresh(host: &Host, handle: &PeerHandle) -> Result<Identity, Fault> {
    handle.order(Event::Refresh { by: "operator".into() }).await;
    host.settled().await;
    Ok(handle.identity.clone())
}

/// Ends the running turn by the program's own key; with `force`, its session when the turn does not end.
pub async fn interrupt(handle: &PeerHandle, force: bool) -> Result<Identity, Fault> {
    let before = handle.snapshot();
    let identity = handle.identity.clone();
    let session = before.incarnation.filter(|_| before.ready);
    let Some(inc) = session else {
        return Err(Fault::new(Code::Conflict, format!("{identity} is {}: no turn runs", before.state)));
    };
    if before.turn == Some("idle") {
        return Err(Fault::new(Code::Conflict, format!("no turn of {identity} runs")).hint(format!("`iapeer screen {identity}` shows its terminal")));
    }
    handle.event(Event::Interrupt { by: "operator".into() }).await;
    let over = |s: &Snapshot| s.incarnation != Some(inc) || s.session.is_none() || s.turn == Some("idle");
    if handle.wait_until(INTERRUPT_LIMIT, over).await.is_some() {
        return Ok(identity);
    }
    if !force {
        return Err(Fault::new(Code::NotConfirmed, format!("the turn of {identity} has not ended within {} s", INTERRUPT_LIMIT.as_secs()))
            .hint(format!("`iapeer interrupt {identity} --force` ends its session; `iapeer screen {identity}` shows what it does")));
    }
    handle.event(Event::Force { by: "operator".into() }).await;
    let ended = handle.wait_until(END_LIMIT, |s| s.incarnation != Some(inc) || s.session.is_none()).await;
    ended.map(|_| identity).ok_or_else(|| Fault::new(Code::Timeout, format!("the session of {} does not end", handle.identity)))
}

/// The program's own way to shorten its conversation, typed as the operator's raw text.
pub async fn compact(host: &Arc<Host>, who: &Who, handle: &PeerHandle) -> Result<Vec<MessageView>, Fault> {
    let definition = host.runtimes().get(&handle.identity.runtime).map_err(|e| Fault::new(Code::Conflict, e))?;
    let Some(text) = definition.control.compact.clone() else {
        return Err(Fault::new(Code::Conflict, format!("the definition of {} names no way to compact a conversation", handle.identity.runtime))
            .hint("`control.compact` in the runtime definition is the text that a person would type"));
    };
    if !handle.snapshot().ready {
        return Err(Fault::new(Code::Conflict, format!("{} is {}: there is nothing to compact", handle.identity, handle.snapshot().state)));
    }
    let request = SendRequest { raw: true, ..SendRequest::new(Recipients::One(handle.identity.to_string()), text, Via::Cli) };
    let sent = accept::send(host, who, request).await?;
    host.lifecycle(Line::new("compact").with("identity", &handle.identity).maybe("inc", handle.snapshot().incarnation).with("by", "operator"));
    Ok(sent)
}

/// What a script may wait for: a state of the peer, or of its turn.
pub const STATES: &[&str] = &["live", "starting", "stopping", "asleep", "stopped", "held", "absent", "idle", "working", "waiting"];

/// Waits until the peer is in a state; says in which it is then.
pub async fn wait(handle: &PeerHandle, until: &str, limit: Duration) -> Result<Snapshot, Fault> {
    if !STATES.contains(&until) {
        return Err(Fault::new(Code::Invalid, format!("{until:?} is no state of a peer")).hint(format!("one of {}", STATES.join(", "))));
    }
    let fits = |s: &Snapshot| s.restored && (s.state == until || s.turn == Some(until));
    let reached = handle.wait_until(limit, fits).await;
    reached.ok_or_else(|| Fault::new(Code::Timeout, format!("{} is {} after {} s, not {until}", handle.identity, handle.snapshot().state, limit.as_secs())))
}

/// A person opens the terminal in this process, and is gone with it.
pub fn attached(host: &Arc<Host>, handle: &PeerHandle, process: Option<ProcessRef>, request: &AttachedRequest) {
    let Some(process) = process else { return };
    let line = |event| Line::new(event).with("identity", &handle.identity).maybe("inc", handle.snapshot().incarnation).with("client", process.pid);
    let access = if request.read_only { "read-only" } else { "full" };
    host.lifecycle(line("attach").with("size", &request.size).with("access", access));
    let (host, handle) = (host.clone(), handle.clone());
    // Beside the daemon's own tasks: nobody waits for a person when it ends.
    tokio::spawn(async move {
        gone_within(&process, ATTACHED_MOST).await;
        host.lifecycle(Line::new("detach").with("identity", &handle.identity).maybe("inc", handle.snapshot().incarnation).with("client", process.pid));
        handle.event(Event::Detached).await;
    });
}

/// What an agent says of its own session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfItself {
    /// It has nothing left to do.
    Done,
    /// It wants a fresh session of itself, when its turn is over.
    Fresh,
}

pub async fn of_itself(host: &Arc<Host>, who: &Who, what: OfItself) -> Result<Identity, Fault> {
    let Who::Peer(identity, inc) = who else {
        return Err(Fault::new(Code::NotAllowed, "only an agent says this of its own session")
            .hint("`iapeer stop`, `iapeer refresh` and `iapeer new` are the operator's"));
    };
    let handle = host.existing(identity).ok_or_else(|| Fault::new(Code::PeerUnknown, format!("{identity} is not known")))?;
    handle
        .order(match what {
            OfItself::Done => Event::SelfDone { inc: *inc },
            OfItself::Fresh => Event::SelfFresh { inc: *inc },
        })
        .await;
    // Said is said, also if the daemon dies at this moment.
    host.settled().await;
    Ok(identity.clone())
}
