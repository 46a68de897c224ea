//! A client of tmux without a process: one list, spoken on the server's socket, and its answer.
//!
//! Connect, say who we are and what to do, hand over the text when it is asked for, read to the exit code,
//! close. It reads while it writes, so a text of any size can't block. A client that vanishes while it
//! hands over a text (a killed daemon) leaves nothing typed: the server drops the half text and the rest
//! of the list with it.

use super::DEADLINE;
use super::answer::Answer;
use super::argv::List;
use super::wire::{Exchange, WireError};
use crate::ports::terminal::TerminalError;
use std::io;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Read at once; most answers are shorter.
const PIECE: usize = 8 * 1024;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("not connected: {0}")]
    Unsent(io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("broken off: {0}")]
    Broken(#[from] io::Error),
    #[error("late")]
    Late,
}

impl Failed {
    /// Whether the server never saw the list.
    pub fn unsent(&self) -> bool {
        matches!(self, Failed::Unsent(_) | Failed::Wire(WireError::Unsendable))
    }
}

pub async fn run(socket: &Path, list: &List, text: Option<&str>) -> Result<Answer, Failed> {
    tokio::time::timeout(DEADLINE, converse(socket, list, text)).await.unwrap_or(Err(Failed::Late))
}

async fn converse(socket: &Path, list: &List, text: Option<&str>) -> Result<Answer, Failed> {
    let mut exchange = Exchange::new(std::process::id(), list.words(), text)?;
    let mut stream = UnixStream::connect(socket).await.map_err(Failed::Unsent)?;
    let (mut reader, mut writer) = stream.split();
    let mut chunk = vec![0; PIECE];
    loop {
        let pending = exchange.pending();
        tokio::select! {
            sent = writer.write(pending), if !pending.is_empty() => exchange.sent(sent?),
            read = reader.read(&mut chunk) => match read? {
                0 => return Err(Failed::Broken(io::ErrorKind::UnexpectedEof.into())),
                n => if let Some(code) = exchange.received(&chunk[..n])? {
                    return Ok(Answer::new(code, &exchange.out, &exchange.err));
                }
            },
        }
    }
}

/// The process that serves a socket, as the kernel knows it: a hung server has one too. `None`: nobody does.
pub async fn server_of(socket: &Path) -> Result<Option<i32>, TerminalError> {
    let failed = |e: io::Error| TerminalError::Io(format!("{}: {e}", socket.display()));
    match UnixStream::connect(socket).await {
        Ok(stream) => {
            let pid = stream.peer_cred().map_err(failed)?.pid();
            pid.map(Some).ok_or_else(|| TerminalError::Io(format!("{}: the system does not tell who serves it", socket.display())))
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}
