//! Strays: what runs although no session of ours holds it. Never two agents for one peer.
//!
//! Processes are known by the mark that every agent hands down (see `sys::marks`), tmux servers by their
//! sockets. Both are looked for when the daemon starts, before anything is launched; processes again when
//! a session has ended, and before each launch, which refuses while one of that identity lives. What a
//! live session holds is never touched: a search names the incarnations that it is for.

use super::host::Host;
use super::logs::Line;
use super::restore::stray_keeper;
use crate::core::names::{Identity, Incarnation};
use crate::store::disk::read_own;
use crate::store::peer_state::SessionRecord;
use crate::sys::marks::{self, Marked};
use crate::sys::process;
use crate::tmux::driver::gone_within;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Time everything gets to vanish after KILL.
const VANISH: Duration = Duration::from_secs(2);
/// A process that forks while it is ended leaves another one: how often that is followed.
const ROUNDS: usize = 3;
/// How long the start of the daemon waits for strays that do not go at once; a launch waits for its own.
const START_PATIENCE: Duration = Duration::from_millis(500);

/// One look at all processes serves everybody who asked before it began.
#[derive(Default)]
pub struct Search {
    last: Mutex<Option<(Instant, Arc<Vec<Marked>>)>>,
}

impl Search {
    async fn now(&self, root: &Path) -> Arc<Vec<Marked>> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((_, found)) = last.as_ref().filter(|(began, _)| *began >= asked) {
            return found.clone();
        }
        let (began, root) = (Instant::now(), root.to_path_buf());
        let found = Arc::new(tokio::task::spawn_blocking(move || marks::find(&root)).await.unwrap_or_default());
        *last = Some((began, found.clone()));
        found
    }
}

/// Ends every process that carries the mark of these incarnations of an identity.
///
/// # Errors
/// Names what does not end.
pub async fn clear(host: &Arc<Host>, identity: &Identity, wanted: impl Fn(Incarnation) -> bool) -> Result<(), String> {
    let refused = |what: &str, which: &[Marked]| Err(format!("what an earlier session of {identity} left running {what}: {}", named(which)));
    let mut rounds = 0..ROUNDS;
    loop {
        let all = host.search.now(host.root.base()).await;
        let found: Vec<Marked> = all.iter().filter(|m| m.identity == *identity && wanted(m.incarnation)).cloned().collect();
        if found.is_empty() {
            return Ok(());
        }
        if rounds.next().is_none() {
            return refused("starts anew as often as it is ended", &found);
        }
        let left = end(host, found).await;
        if !left.is_empty() {
            return refused("does not end", &left);
        }
    }
}

/// TERM, then KILL, then the proof. Returns what still lives; says in the log what was ended.
async fn end(host: &Arc<Host>, found: Vec<Marked>) -> Vec<Marked> {
    let names = named(&found);
    let root = host.root.base();
    send(&found, root, &[Signal::SIGTERM, Signal::SIGCONT]);
    let mut left = gone(found.clone(), Duration::from_secs(host.settings.term_grace_secs)).await;
    if !left.is_empty() {
        send(&left, root, &[Signal::SIGKILL]);
        left = gone(left, VANISH).await;
    }
    if let Some(first) = found.first() {
        let outcome = if left.is_empty() { "gone".into() } else { format!("does not end: {}", named(&left)) };
        host.lifecycle(
            Line::new("stray-ended").with("identity", &first.identity).with("inc", first.incarnation).with("processes", names).with("outcome", outcome),
        );
    }
    left
}

fn send(to: &[Marked], root: &Path, numbers: &[Signal]) {
    for marked in to {
        for number in numbers {
            if let Err(error) = marks::signal(marked, root, *number) {
                tracing::warn!(%error, pid = marked.process.pid, identity = %marked.identity, "a stray process cannot be signalled");
            }
        }
    }
}

/// Those that are not gone in time.
async fn gone(waited_for: Vec<Marked>, limit: Duration) -> Vec<Marked> {
    let deadline = Instant::now() + limit;
    let mut left = Vec::new();
    for marked in waited_for {
        if !gone_within(&marked.process, deadline.saturating_duration_since(Instant::now())).await {
            left.push(marked);
        }
    }
    left
}

fn named(found: &[Marked]) -> String {
    let one = |m: &Marked| format!("{} {}", m.process.pid, process::name(m.process.pid)).trim().to_string();
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// At the start of the daemon: tmux servers without a session, then marked processes without one.
pub async fn sweep(host: &Arc<Host>) {
    let recorded = recorded(host);
    end_servers(host, &recorded).await;
    let mut groups: BTreeMap<(Identity, Incarnation), Vec<Marked>> = BTreeMap::new();
    for marked in host.search.now(host.root.base()).await.iter() {
        // A recorded session is adopted, or collected with everything that bears its mark.
        if !recorded.get(&marked.identity).is_some_and(|inc| inc.is_none_or(|i| i == marked.incarnation)) {
            groups.entry((marked.identity.clone(), marked.incarnation)).or_default().push(marked.clone());
        }
    }
    let endings: Vec<_> = groups
        .into_values()
        .map(|group| {
            let host = host.clone();
            host.clone().tracker.spawn(async move { end(&host, group).await })
        })
        .collect();
    let all = async {
        for ending in endings {
            let _ = ending.await;
        }
    };
    let _ = tokio::time::timeout(START_PATIENCE, all).await;
}

/// Identities with a session on record, and its incarnation; `None`: a record that cannot be read, so that
/// nothing of that identity may be touched.
fn recorded(host: &Host) -> BTreeMap<Identity, Option<Incarnation>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(host.root.all_peer_states()).into_iter().flatten().flatten() {
        let Some(identity) = entry.file_name().to_str().and_then(|n| n.parse::<Identity>().ok()) else { continue };
        let path = entry.path().join("session.json");
        if path.exists() {
            let record = read_own(&path, 1024 * 1024).ok().and_then(|b| serde_json::from_slice::<SessionRecord>(&b).ok());
            found.insert(identity, record.map(|r| r.incarnation));
        } else if let Some(started) = stray_keeper(&entry.path()) {
            // Its own keeper ends it, in order, before its actor does anything else.
            found.insert(identity, Some(started.incarnation));
        }
    }
    found
}

/// Ends the tmux servers on our sockets that no record speaks of, and removes sockets without a server.
async fn end_servers(host: &Arc<Host>, recorded: &BTreeMap<Identity, Option<Incarnation>>) {
    let Some(dir) = host.root.api_socket().parent().map(Path::to_path_buf) else { return };
    let held: HashSet<PathBuf> = recorded.keys().map(|i| host.root.tmux_socket(i)).collect();
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let socket = entry.path();
        if held.contains(&socket) || !entry.file_name().to_str().is_some_and(is_session_socket) {
            continue;
        }
        let server = match host.terminal.server(socket.clone()).await {
            Ok(server) => server,
            Err(error) => {
                tracing::warn!(%error, socket = %socket.display(), "nobody can say whose socket this is");
                continue;
            }
        };
        let Some(server) = server else {
            if let Err(error) = host.terminal.kill(socket.clone()).await {
                tracing::warn!(%error, socket = %socket.display(), "a stale socket stays");
            }
            continue;
        };
        if holds_foreign(server.pid, &host.root.all_peer_states()) {
            tracing::warn!(socket = %socket.display(), server = server.pid, "a tmux server that is not ours has one of our sockets; it is left alone");
            continue;
        }
        let outcome = host.terminal.kill(socket.clone()).await.map_or_else(|e| e.to_string(), |()| "gone".into());
        host.lifecycle(Line::new("stray-ended").with("socket", socket.display()).with("server", server.pid).with("outcome", outcome));
    }
}

/// The names that `Root::tmux_socket` gives.
fn is_session_socket(name: &str) -> bool {
    let hashed = |stem: &str| stem.len() == 16 && stem.chars().all(|c| c.is_ascii_hexdigit());
    let Some(stem) = name.strip_suffix(".sock") else { return false };
    stem.strip_prefix("tmux-iap-").is_some_and(|i| i.parse::<Identity>().is_ok()) || stem.strip_prefix("t-").is_some_and(hashed)
}

/// Whether something runs in it that is no keeper of this root (a directory of sockets can be shared).
fn holds_foreign(server: i32, peers: &Path) -> bool {
    process::children(server).into_iter().any(|pid| process::keeps(pid).is_none_or(|launch_file| !launch_file.starts_with(peers)))
}

#[cfg(test)]
mod tests {
    use super::is_session_socket;

    #[test]
    fn only_the_names_of_session_sockets_are_looked_at() {
        for name in ["tmux-iap-echo-a.sock", "t-0123456789abcdef.sock"] {
            assert!(is_session_socket(name), "{name}");
        }
        for name in ["iapeer.sock", "tmux-iap-.sock", "tmux-iap-echo-a", "t-012.sock", "t-0123456789abcdeg.sock", "my-tmux.sock"] {
            assert!(!is_session_socket(name), "{name}");
        }
    }
}
