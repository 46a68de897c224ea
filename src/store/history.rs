//! The mail of all mailboxes, found again: by peer, topic, state and text. Reads only; works without a
//! daemon.

use super::layout::Root;
use super::mailbox::{keys_in, read_ending, read_record};
use crate::core::message::{Ending, Key, Message, State};
use crate::core::names::{Party, Personality};
use crate::ports::disk::Disk;

/// What is looked for; everything that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Sender or recipient.
    pub peer: Option<String>,
    pub topic: Option<String>,
    pub state: Option<State>,
    /// Anywhere in the text, letters of either case.
    pub text: Option<String>,
    /// So many of the newest.
    pub limit: usize,
}

/// A message as it lies on disk.
#[derive(Debug, Clone)]
pub struct Found {
    pub message: Message,
    /// The folder it lies in: `new`, `cur`, `held`, `done`, `dead`.
    pub folder: &'static str,
    pub ending: Option<Ending>,
}

impl Found {
    /// Its state, as far as the files tell.
    pub fn state(&self) -> State {
        match (&self.ending, self.folder) {
            (Some(ending), "held" | "done" | "dead") => ending.state,
            (None, "held") => State::Parked,
            _ => State::Accepted,
        }
    }
}

const FOLDERS: [&str; 5] = ["new", "cur", "held", "done", "dead"];

/// Everything that fits, newest first.
pub fn search(disk: &dyn Disk, root: &Root, wanted: &Search) -> Vec<Found> {
    let mut places: Vec<(Party, &'static str, Key)> = Vec::new();
    for name in disk.list(&root.all_peer_states()).unwrap_or_default() {
        let Some(party) = name.to_str().and_then(|n| n.parse::<Party>().ok()) else { continue };
        let queue = root.party_state(&party).join("queue");
        places.extend(FOLDERS.into_iter().flat_map(|f| keys_in(disk, &queue.join(f)).into_iter().map(move |k| (f, k))).map(|(f, k)| (party.clone(), f, k)));
    }
    // Ids are ordered by time; one that moved on while this looked may be listed twice.
    places.sort_by(|a, b| b.2.id.cmp(&a.2.id));
    places.dedup_by(|a, b| a.2.id == b.2.id && a.0 == b.0);
    let read = places.into_iter().filter_map(|(party, listed, key)| {
        let queue = root.party_state(&party).join("queue");
        // Where it was a moment ago, or wherever it has moved since, both ways.
        let folders = [listed].into_iter().chain(FOLDERS).chain(FOLDERS);
        let (folder, message) = folders.into_iter().find_map(|f| Some((f, read_record(disk, &queue, &key, &[f]).ok()?)))?;
        let ending = read_ending(disk, &queue, &key);
        Some(Found { message, folder, ending })
    });
    read.filter(|found| fits(found, wanted)).take(wanted.limit).collect()
}

fn fits(found: &Found, wanted: &Search) -> bool {
    let message = &found.message;
    let is = |party: &Party, name: &str| {
        let personality = |p: &Personality| p.as_str() == name;
        party.to_string() == name || party.peer().is_some_and(|i| personality(&i.personality))
    };
    let peer = wanted.peer.as_ref().is_none_or(|name| is(&message.from, name) || is(&message.to, name));
    let topic = wanted.topic.as_ref().is_none_or(|t| message.topic.as_ref() == Some(t));
    let state = wanted.state.is_none_or(|s| found.state() == s);
    let text = wanted.text.as_ref().is_none_or(|t| String::from_utf8_lossy(&message.body).to_lowercase().contains(&t.to_lowercase()));
    peer && topic && state && text
}
