//! Who speaks: the kernel's word for the process at the other end of the socket.
//!
//! pid, its start time, its chain of parents, the keeper among them, the identity of that keeper. The
//! keeper is a subreaper, so a daemonised child of an agent still has it above. A process of our own
//! user without a keeper above it is the operator. Another user is nobody.

use crate::core::message::ProcessRef;
use crate::core::names::{Identity, Incarnation, Party};
use crate::sys::process;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

/// What the kernel told when the connection was made.
#[derive(Debug, Clone)]
pub struct Caller {
    pub pid: Option<i32>,
    /// Start time of that pid at the time of connecting.
    pub start: Option<u64>,
    pub uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        let pid = credentials.as_ref().and_then(|c| c.pid());
        Caller { pid, start: pid.and_then(process::stat).map(|s| s.start), uid: credentials.map(|c| c.uid()) }
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
    /// Checked per request: a pid is believed only while it is the process that connected.
    pub fn identify(&self, keeper: impl Fn(&ProcessRef) -> Option<(Identity, Incarnation)>) -> Who {
        if self.uid != Some(nix::unistd::getuid().as_raw()) {
            return Who::Nobody("the caller runs as another user");
        }
        let (Some(pid), Some(start)) = (self.pid, self.start) else {
            return Who::Nobody("the caller's process could not be seen");
        };
        if process::stat(pid).map(|s| s.start) != Some(start) {
            return Who::Nobody("the calling process has ended");
        }
        match process::ancestors(pid).iter().find_map(keeper) {
            Some((identity, inc)) => Who::Peer(identity, inc),
            None => Who::Operator,
        }
    }
}
