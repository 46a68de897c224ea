//! Who speaks: the kernel's word for the process at the other end of the socket.
//!
//! pid, its start time, its chain of parents, the keeper among them, the identity of that keeper. The
//! keeper is a subreaper, so a daemonised child of an agent still has it above. A process of our own
//! user without a keeper above it is the operator. Another user is nobody, and so is, for the moment, whoever could
//! not be looked at: what is not seen must not make an agent the operator.

use crate::core::fault::{Code, Fault};
use crate::core::message::ProcessRef;
use crate::core::names::{Identity, Incarnation, Party};
use crate::keeper::record::StartRecord;
use crate::store::layout::Root;
use crate::sys::process;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use std::sync::{Arc, OnceLock};
use tokio::net::UnixListener;

/// What the kernel told when the connection was made.
#[derive(Debug, Clone)]
pub struct Caller {
    pub pid: Option<i32>,
    /// Start time of that pid at the time of connecting; an error when it could not be seen.
    start: Result<Option<u64>, Refusal>,
    pub uid: Option<u32>,
    /// The verdict for this connection.
    known: Arc<OnceLock<Who>>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        let pid = credentials.as_ref().and_then(|c| c.pid());
        let start = pid.map_or(Ok(None), |pid| process::look(pid).map(|s| s.map(|s| s.start))).map_err(|_| Refusal::Unseen);
        Caller { pid, start, uid: credentials.map(|c| c.uid()), known: Arc::default() }
    }
}

/// The party behind a connection, and the incarnation it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Operator,
    Peer(Identity, Incarnation),
    Nobody(Refusal),
}

/// Why somebody is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Unauthorized(&'static str),
    /// The kernel could not be asked; it may be possible in a moment.
    Unseen,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Unauthorized(why) => Fault::new(Code::Unauthorized, why),
            Refusal::Unseen => Fault::new(Code::Capacity, "the daemon cannot look at the calling process now (no descriptors, or no memory)"),
        }
    }
}

impl Who {
    pub fn party(&self) -> Option<Party> {
        match self {
            Who::Operator => Some(Party::Operator),
            Who::Peer(identity, _) => Some(Party::Peer(identity.clone())),
            Who::Nobody(_) => None,
        }
    }
}

impl Caller {
    /// The process at the other end.
    pub fn process(&self) -> Option<ProcessRef> {
        self.pid.zip(self.start.ok().flatten()).map(|(pid, start)| ProcessRef { pid, start })
    }

    /// Checked per request: a pid is believed only while it is the process that connected.
    pub fn identify(&self, root: &Root, keeper: impl Fn(&ProcessRef) -> Option<(Identity, Incarnation)>) -> Who {
        self.seen(root, keeper).unwrap_or_else(Who::Nobody)
    }

    fn seen(&self, root: &Root, keeper: impl Fn(&ProcessRef) -> Option<(Identity, Incarnation)>) -> Result<Who, Refusal> {
        let unauthorized = |why| Err(Refusal::Unauthorized(why));
        if self.uid != Some(nix::unistd::getuid().as_raw()) {
            return unauthorized("the caller runs as another user");
        }
        let (Some(pid), Some(start)) = (self.pid, self.start?) else {
            return unauthorized("the caller's process could not be seen");
        };
        if process::look(pid).map_err(|_| Refusal::Unseen)?.map(|s| s.start) != Some(start) {
            return unauthorized("the calling process has ended");
        }
        if let Some(who) = self.known.get() {
            return Ok(who.clone());
        }
        let ancestors = process::lineage(pid).map_err(|_| Refusal::Unseen)?;
        let who = match ancestors.iter().find_map(keeper) {
            Some((identity, inc)) => Who::Peer(identity, inc),
            None => unknown_ancestors(root, &ancestors)?,
        };
        let _ = self.known.set(who.clone());
        Ok(who)
    }
}

/// No recorded keeper above it. That makes the operator, unless a session that nobody knows (one that is
/// just starting, or whose keeper was killed) has left its mark.
fn unknown_ancestors(root: &Root, ancestors: &[ProcessRef]) -> Result<Who, Refusal> {
    for process in ancestors {
        if let Some((identity, inc)) = starting_keeper(root, process) {
            return Ok(Who::Peer(identity, inc));
        }
        let environment = match process::read_proc(process.pid, "environ") {
            Ok(environment) => environment,
            // Another user's, or gone: none of our sessions.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied || process::has_ended(&e) => Vec::new(),
            Err(_) => return Err(Refusal::Unseen),
        };
        if environment.split(|b| *b == 0).any(|v| v.starts_with(b"IAPEER_SESSION=")) {
            return Err(Refusal::Unauthorized("the caller comes from a session that has no keeper"));
        }
    }
    Ok(Who::Operator)
}

/// A keeper whose session is not recorded yet: its own start record, written before the agent runs, says
/// whose it is, and must name this very process.
fn starting_keeper(root: &Root, process: &ProcessRef) -> Option<(Identity, Incarnation)> {
    let (identity, inc) = root.session_of(&process::keeps(process.pid)?)?;
    let record = StartRecord::read(&root.peer_state(&identity).join("exits"), inc)?;
    (record.keeper == *process).then_some((identity, inc))
}
