//! The end of a session as it is carried out: the ladder of an ordered end, and what is kept of every end.
//!
//! The ladder: the keys with which the program itself ends, where its definition knows safe ones and its
//! composer is provably empty; TERM to the keeper, which ends its tree by itself, also when this daemon dies
//! meanwhile; KILL; proof. What is kept: the last screen beside the keeper's record, and one line in
//! `exits.log`.

use super::actor::Actor;
use super::acts::{look_of, lost, pane};
use super::host::Host;
use super::last_screen;
use super::live;
use super::logs::Line;
use super::pane_logs;
use super::strays;
use crate::core::guard::{Fact, Guard};
use crate::core::message::{MessageId, ProcessRef};
use crate::core::names::Incarnation;
use crate::core::peer::event::Event;
use crate::core::peer::obstacle;
use crate::core::runtime::{Definition, Frame};
use crate::core::screen::Screen;
use crate::keeper::record::{Child, ExitRecord, StartRecord};
use crate::ports::terminal::{Acted, Captured, PaneRef};
use crate::store::disk::{OsDisk, replace};
use crate::store::peer_state::{PeerState, SessionRecord};
use crate::sys::process;
use crate::tmux::driver::gone_within;
use chrono::DateTime;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Between tries to end a session that does not end.
const END_PAUSE: Duration = Duration::from_secs(30);
/// How long the next frame of the quit keys may take to show.
const QUIT_FRAME: Duration = Duration::from_secs(1);
/// How long a program may take to end after its quit keys; the slowest measured took 3 s.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
/// A screen whose change was not told of is looked at again.
const QUIT_LOOK: Duration = Duration::from_millis(50);

/// What was told of a death, for the line in `exits.log`.
#[derive(Debug, Clone)]
pub struct Told {
    pub inc: Incarnation,
    pub cause: String,
    pub claimed: Option<MessageId>,
}

pub fn end(actor: &mut Actor, host: Arc<Host>, inc: Incarnation) {
    let (Some(live), Some(pane)) = (actor.live.as_ref().filter(|l| l.record.incarnation == inc), pane(actor, inc)) else {
        return lost(actor, Event::Ended { inc, result: Ok(()) });
    };
    let (record, children, definition) = (live.record.clone(), live.children.clone(), actor.peer.definition.clone());
    actor.tasks.spawn(async move {
        let (keeper, agent) = (record.keeper.pid, agent_of(&record, &exits_of(&host, &record)).map(|a| a.pid));
        let mut found = tokio::task::spawn_blocking(move || Child::long_lived(&process::descendants(keeper))).await.unwrap_or_default();
        found.retain(|c| Some(c.pid) != agent);
        *children.lock().unwrap_or_else(PoisonError::into_inner) = found;
        // Whatever comes of it, the ladder goes on until the end is proven.
        quits(&host, &record, &pane, &definition).await;
        let result = end_processes(&record, &exits_of(&host, &record), host.settings.term_grace_secs).await;
        if result.is_err() {
            tokio::time::sleep(END_PAUSE).await;
        }
        Event::Ended { inc, result }.into()
    });
}

fn exits_of(host: &Host, record: &SessionRecord) -> PathBuf {
    host.root.peer_state(&record.identity).join("exits")
}

fn agent_of(record: &SessionRecord, exits: &Path) -> Option<ProcessRef> {
    StartRecord::read(exits, record.incarnation).and_then(|s| s.agent)
}

/// Presses the program's own quit keys and waits for its end. `false`: it has none, its screen does not
/// show that they are safe, or it goes on all the same.
async fn quits(host: &Host, record: &SessionRecord, pane: &PaneRef, definition: &Definition) -> bool {
    let Some((first, then)) = definition.control.quit_keys.split_first() else { return false };
    if !record.ready || !process::is_alive(&record.server) || !press_first(host, pane, definition, first).await {
        return false;
    }
    for frame in then {
        if !press_when_shown(host, record, pane, frame).await {
            return false;
        }
    }
    gone_within(&record.keeper, QUIT_PATIENCE).await
}

/// The first key goes into an empty, ready composer only. A faint suggestion behind its prompt is none of
/// the facts that tmux can tell from a draft: then the key is bound to what a look has seen.
async fn press_first(host: &Host, pane: &PaneRef, definition: &Definition, frame: &Frame) -> bool {
    let press = async |facts: Vec<Fact>| host.terminal.key(pane.clone(), guard_of(frame, facts), frame.key.clone()).await;
    match press(definition.input.guard.facts("", "")).await {
        Ok(Acted::Done { .. }) => true,
        Ok(Acted::Refused(seen)) if !seen.dead => {
            let look = look_of(definition, &seen, host.wall());
            obstacle(&look).is_none() && matches!(press(look.guard().facts).await, Ok(Acted::Done { .. }))
        }
        _ => false,
    }
}

/// A further key, as soon as its frame is on the screen.
async fn press_when_shown(host: &Host, record: &SessionRecord, pane: &PaneRef, frame: &Frame) -> bool {
    let news = Arc::new(Notify::new());
    let told = news.clone();
    // Without a watch it is looked at now and then.
    let _watch = host.watch.modified(&record.tty, Box::new(move || told.notify_one())).ok();
    let deadline = Instant::now() + QUIT_FRAME;
    loop {
        match host.terminal.key(pane.clone(), guard_of(frame, Vec::new()), frame.key.clone()).await {
            Ok(Acted::Done { .. }) => return true,
            Ok(Acted::Refused(seen)) if !seen.dead && Instant::now() < deadline => drop(tokio::time::timeout(QUIT_LOOK, news.notified()).await),
            _ => return false,
        }
    }
}

fn guard_of(frame: &Frame, mut facts: Vec<Fact>) -> Guard {
    facts.extend(frame.when.facts("", ""));
    // A person there may be about to type.
    facts.push(Fact::Unattached);
    Guard { facts }
}

pub async fn end_processes(record: &SessionRecord, exits: &Path, grace_secs: u64) -> Result<(), String> {
    end_keeper(&record.keeper, agent_of(record, exits).as_ref(), grace_secs).await
}

/// TERM to the keeper, which ends its tree by itself; KILL when it does not; proof that all are gone.
pub async fn end_keeper(keeper: &ProcessRef, agent: Option<&ProcessRef>, grace_secs: u64) -> Result<(), String> {
    let grace = Duration::from_secs(grace_secs * 2 + 5);
    let send = |to: &ProcessRef, number| process::signal(to, number).map_err(|e| format!("cannot signal {}: {e}", to.pid));
    send(keeper, Signal::SIGTERM)?;
    if !gone_within(keeper, grace).await {
        send(keeper, Signal::SIGKILL)?;
    }
    if let Some(agent) = agent {
        if process::is_alive(agent) {
            send(agent, Signal::SIGKILL)?;
        }
    }
    for process in [Some(keeper), agent].into_iter().flatten() {
        if !gone_within(process, Duration::from_secs(5)).await {
            return Err(format!("process {} does not end", process.pid));
        }
    }
    Ok(())
}

/// What remains of a session: the last screen is kept, whatever still runs of it ended, the empty tmux
/// server too, and its end is written down.
pub fn collect(actor: &mut Actor, host: Arc<Host>, inc: Incarnation) {
    let Some(live) = actor.live.as_mut() else {
        return lost(actor, Event::Collected { inc, last: None });
    };
    let (record, children, follower) = (live.record.clone(), live.children.clone(), live.screen.take());
    let pane = pane(actor, inc);
    let (told, definition) = (actor.death_of(inc), actor.peer.definition.clone());
    actor.tasks.spawn(async move {
        let (identity, exits) = (record.identity.clone(), exits_of(&host, &record));
        let cause = told.as_ref().map_or_else(|| live::cause_of(&record, &exits).to_string(), |t| t.cause.clone());
        let age_ms = live::age_ms(&host, &record, &exits);
        if let Some(follower) = follower {
            // Nothing older may be written over what is saved now.
            follower.abort();
            let _ = follower.await;
        }
        // After a reboot its pids, and even their start times, may be those of others.
        let of_this_boot = record.boot_id == host.boot_id;
        let saved = match pane {
            Some(pane) if of_this_boot && process::is_alive(&record.server) => save_screen(&host, pane, &exits).await,
            _ => None,
        };
        let last = saved.as_ref().filter(|_| told.is_some()).map(|(_, seen)| Box::new(look_of(&definition, seen, host.wall())));
        let screen = saved.map(|(path, _)| path).or_else(|| Some(last_screen::path(&exits, inc)).filter(|kept| kept.is_file()));
        // A keeper that was killed has left its agent to the kernel and to us; one that lost its terminal
        // is just ending its tree.
        if of_this_boot && let Err(error) = end_processes(&record, &exits, host.settings.term_grace_secs).await {
            tracing::error!(%identity, %error, "what is left of a session does not end");
        }
        if let Err(error) = strays::clear(&host, &identity, |i| i == inc).await {
            tracing::error!(%identity, %error, "no session is started beside it");
        }
        if let Err(error) = host.terminal.kill(record.socket.clone()).await {
            tracing::warn!(%identity, %error, "a tmux server does not end");
        }
        // Its socket may be gone although it runs.
        if of_this_boot && process::signal(&record.server, Signal::SIGTERM) == Ok(true) {
            gone_within(&record.server, Duration::from_secs(2)).await;
        }
        let tail = pane_logs::keep_tail(&host, &identity, &exits, inc).await;
        let exit = ExitRecord::read(&exits, inc);
        let mut children = std::mem::take(&mut *children.lock().unwrap_or_else(PoisonError::into_inner));
        Child::add(&mut children, exit.as_ref().map(|e| e.children.clone()).unwrap_or_default());
        let agent = exit.as_ref().filter(|e| e.error.is_none()).map(|e| e.cause().to_string()).filter(|c| *c != cause);
        let line = Line::new("exit")
            .with("identity", &identity)
            .with("inc", inc)
            .with("kind", if told.is_some() { "death" } else { "ordered" })
            .with("cause", cause)
            .maybe("agent", agent)
            .with("age", format!("{}s", age_ms / 1000))
            .maybe("claimed", told.and_then(|t| t.claimed))
            .maybe("screen", screen.map(|s| s.display().to_string()))
            .maybe("tail", tail.map(|t| t.display().to_string()))
            .maybe("children", name_children(&children))
            .maybe("cpu_ms", exit.as_ref().map(|e| e.user_ms + e.system_ms))
            .maybe("max_rss_kib", exit.as_ref().map(|e| e.max_rss_kib))
            .maybe("detail", exit.and_then(|e| e.error));
        host.exit(line);
        host.forget_session(&record);
        let dir = host.root.peer_state(&identity);
        host.store.post("session end", move |store| PeerState::open(&*store.disk.clone(), dir.clone())?.clear_session()).await;
        Event::Collected { inc, last }.into()
    });
}

fn name_children(children: &[Child]) -> Option<String> {
    let names: Vec<String> = children.iter().map(|c| format!("{} ({}, {} s)", c.name, c.pid, c.age_secs)).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Keeps what the terminal of a session shows; returns where, and what.
pub async fn save_screen(host: &Host, pane: PaneRef, exits: &Path) -> Option<(PathBuf, Captured)> {
    let path = last_screen::path(exits, pane.incarnation);
    let captured = host.terminal.last_look(pane).await.ok()?;
    match replace(&OsDisk, &path, Screen::parse(&captured.screen).text().as_bytes()) {
        Ok(()) => Some((path, captured)),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the last screen could not be kept");
            None
        }
    }
}

/// The newest screen that a session of this identity left.
pub fn last_screen(exits: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(exits).ok()?.flatten().map(|e| e.file_name());
    let newest: Incarnation = names.filter_map(|n| n.to_str()?.strip_suffix(".screen.txt")?.parse().ok()).max()?;
    Some(exits.join(format!("{newest}.screen.txt")))
}

/// Milliseconds between two times as records write them.
pub fn between_ms(from: &str, to: &str) -> Option<u64> {
    let at = |text: &str| DateTime::parse_from_rfc3339(text).ok();
    u64::try_from((at(to)? - at(from)?).num_milliseconds()).ok()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;

    #[test]
    fn the_newest_screen_is_the_one_of_the_highest_incarnation() {
        let exits = tempfile::tempdir().unwrap();
        assert_eq!(last_screen(exits.path()), None);
        for name in ["9.screen.txt", "10.screen.txt", "10.exit.json", "x.screen.txt", "11.start.json"] {
            std::fs::write(exits.path().join(name), "").unwrap();
        }
        assert_eq!(last_screen(exits.path()), Some(exits.path().join("10.screen.txt")));
    }

    #[test]
    fn an_age_is_told_across_zones_and_a_clock_set_back_tells_none() {
        assert_eq!(between_ms("2026-11-21T10:00:00+01:00", "2026-11-21T09:00:02.500Z"), Some(2_500));
        assert_eq!(between_ms("2026-11-21T10:00:00+01:00", "2026-11-21T08:00:00Z"), None);
    }
}
