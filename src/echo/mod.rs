//! The embedded agent program `echo`: a small terminal agent without a model and without a network, so
//! that the demo and the tests run a real program in a real pane.
//!
//! Raw mode, bracketed paste, a composer, a transcript (JSONL), hooks, resume, busy turns, a yes/no
//! dialog. It knows nothing of the daemon: hook and send commands are given to it as arguments.
//! Parts: `input` (bytes to keys), `view` (what is drawn), `transcript`, `instruct` (the instructions in
//! a message), `agent` (the loop).

#![allow(clippy::disallowed_methods, reason = "an agent program of its own, outside of the daemon")]

pub mod agent;
pub mod input;
pub mod instruct;
pub mod transcript;
pub mod view;

use std::path::PathBuf;

/// How `echo` was started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where transcripts lie.
    pub transcripts: PathBuf,
    pub session_id: String,
    /// Continue the transcript of `session_id`, which must exist.
    pub resume: bool,
    /// Run with an event as JSON on standard input; the event's name is appended as last argument.
    pub hook: Vec<String>,
    /// Run with `NAME --in-reply-to ID --message-file -` appended and the text on standard input.
    pub send: Vec<String>,
}
