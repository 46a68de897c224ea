//! Who speaks: the kernel's word for the process at the other end of the socket.
//!
//! pid, its start time, its chain of parents, the keeper among them, the identity of that keeper. The
//! keeper is a subreaper, so a daemonised child of an agent still has it above. A process of our own
//! user without a keeper above it is the operator. Another user is nobody.

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
    /// Start time of that pid at the time of connecting.
    pub start: Option<u64>,
    pub uid: Option<u32>,
    /// The verdict for this connection.
    known: Arc<OnceLock<Who>>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        let pid = credentials.as_ref().and_then(|c| c.pid());
        Caller { pid, start: pid.and_then(process::stat).map(|s| s.start), uid: credentials.map(|c| c.uid()), known: Arc::default() }
    }
}

/// The party behind a connection, and the incarnation it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Operator,
    Peer(Identity, Incarnation),
    Nobody(&'static str),
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
        self.pid.zip(self.start).map(|(pid, start)| ProcessRef { pid, start })
    }

    /// Checked per request: a pid is believed only while it is the process that connected.
    pub fn identify(&self, root: &Root, keeper: impl Fn(&ProcessRef) -> Option<(Identity, Incarnation)>) -> Who {
        if self.uid != Some(nix::unistd::getuid().as_raw()) {
            return Who::Nobody("the caller runs as another user");
        }
        let (Some(pid), Some(start)) = (self.pid, self.start) else {
            return Who::Nobody("the caller's process could not be seen");
        };
        if process::stat(pid).map(|s| s.start) != Some(start) {
            return Who::Nobody("the calling process has ended");
        }
        if let Some(who) = self.known.get() {
            return who.clone();
        }
        let ancestors = process::ancestors(pid);
        let who = match ancestors.iter().find_map(keeper) {
            Some((identity, inc)) => Who::Peer(identity, inc),
            None => unknown_ancestors(root, &ancestors),
        };
        if !matches!(who, Who::Nobody(_)) {
            let _ = self.known.set(who.clone());
        }
        who
    }
}

/// No recorded keeper above it. That makes the operator, unless a session that nobody knows (one that is
/// just starting, or whose keeper was killed) has left its mark.
fn unknown_ancestors(root: &Root, ancestors: &[ProcessRef]) -> Who {
    for process in ancestors {
        if let Some((identity, inc)) = starting_keeper(root, process) {
            return Who::Peer(identity, inc);
        }
        let environment = process::read_proc(process.pid, "environ").unwrap_or_default();
        if environment.split(|b| *b == 0).any(|v| v.starts_with(b"IAPEER_SESSION=")) {
            return Who::Nobody("the caller comes from a session that has no keeper");
        }
    }
    Who::Operator
}

/// A keeper whose session is not recorded yet: its own start record, written before the agent runs, says
/// whose it is, and must name this very process.
fn starting_keeper(root: &Root, process: &ProcessRef) -> Option<(Identity, Incarnation)> {
    let launch_file = process::keeps(process.pid)?;
    let inc: Incarnation = launch_file.file_name()?.to_str()?.strip_prefix("launch-")?.strip_suffix(".json")?.parse().ok()?;
    let state = launch_file.parent()?;
    let identity: Identity = state.file_name()?.to_str()?.parse().ok()?;
    let record = StartRecord::read(&root.peer_state(&identity).join("exits"), inc)?;
    (state == root.peer_state(&identity) && record.keeper == *process).then_some((identity, inc))
}
