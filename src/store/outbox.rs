//! Sends that found no daemon: one record each in `state/spool/`, `send-<id>.msg`, in the frame of a
//! message record. The next daemon takes them into the mailboxes.
//!
//! A record from inside a session carries that session's token; one without is the operator's.

use super::disk::create_dir;
use super::layout::Root;
use crate::core::message::MessageId;
use crate::core::names::{Identity, Incarnation};
use crate::core::record;
use crate::ports::disk::{Disk, Placed};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};

/// A send that waits for a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spooled {
    pub v: u32,
    pub id: MessageId,
    /// When it was sent, RFC 3339.
    pub sent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The request, without its text.
    pub request: Value,
    #[serde(skip)]
    pub text: Vec<u8>,
}

/// What a session proves itself with while nobody can ask the kernel about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub identity: Identity,
    pub incarnation: Incarnation,
    pub secret: String,
}

/// Leaves a send for the next daemon. When this returns, it survives a power cut.
pub fn leave(disk: &dyn Disk, root: &Root, spooled: &Spooled) -> io::Result<()> {
    let spool = root.spool();
    create_dir(&spool)?;
    let name = format!("send-{}.msg", spooled.id);
    let (temp, kept) = (spool.join(format!(".{name}.tmp")), spool.join(&name));
    disk.keep(&[Placed { temp, kept, bytes: record::frame(spooled, &spooled.text), replaces: false }])
}

/// Takes one back that nobody has been told of.
pub fn take_back(disk: &dyn Disk, root: &Root, id: &MessageId) {
    let _ = disk.remove(&root.spool().join(format!("send-{id}.msg")));
}

/// All sends that wait, oldest first; and what lies there and is none, with the reason.
pub fn read(disk: &dyn Disk, spool: &Path) -> io::Result<Vec<(PathBuf, Result<Spooled, String>)>> {
    let names = disk.list(spool)?;
    let sends = names.iter().filter_map(|n| n.to_str()).filter(|n| n.starts_with("send-"));
    let read = sends.map(|name| {
        let path = spool.join(name);
        let content = disk.read(&path, record::RECORD_CAP).map_err(|e| e.to_string());
        let spooled = content.and_then(|bytes| {
            let (spooled, text): (Spooled, _) = record::unframe(&bytes).map_err(|e| e.to_string())?;
            Ok(Spooled { text: text.to_vec(), ..spooled })
        });
        (path, spooled)
    });
    Ok(read.collect())
}

/// Whether a token is the one that its session was given.
pub fn fits(disk: &dyn Disk, root: &Root, token: &Token) -> bool {
    secret(disk, root, &token.identity, token.incarnation).is_some_and(|s| s == token.secret)
}

/// The secret of a session, as its launch left it.
pub fn secret(disk: &dyn Disk, root: &Root, identity: &Identity, incarnation: Incarnation) -> Option<String> {
    let bytes = disk.read(&token_path(root, identity, incarnation), 256).ok()?;
    let text = String::from_utf8(bytes).ok()?.trim().to_string();
    (text.len() == 64).then_some(text)
}

pub fn token_path(root: &Root, identity: &Identity, incarnation: Incarnation) -> PathBuf {
    root.peer_state(identity).join("tokens").join(incarnation.to_string())
}

/// 256 random bits, as a session's secret.
///
/// # Errors
/// The system's source of randomness cannot be read.
pub fn new_secret() -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(record::hex(&bytes))
}
