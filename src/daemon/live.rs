//! A live session as the daemon holds it: how to reach it, and what watches it.

use super::actor::Inbox;
use super::ending;
use super::host::Host;
use super::last_screen;
use crate::core::peer::event::{DeathCause, Event};
use crate::core::runtime::Definition;
use crate::keeper::record::{Child, ExitRecord, StartRecord};
use crate::ports::terminal::PaneRef;
use crate::runtime::transcript::{self, Said};
use crate::store::peer_state::SessionRecord;
use crate::sys::{clock, process, wait};
use crate::tmux::watch::{Tail, Watching};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

pub struct Live {
    pub record: Arc<SessionRecord>,
    pub pane: PaneRef,
    tail: Option<Tail>,
    inbox: mpsc::WeakSender<Inbox>,
    output: Option<Watching>,
    transcript: Option<Watching>,
    /// The watch is on the transcript itself, not on the folder in which it will be born.
    transcript_born: bool,
    /// An output event is on its way already.
    output_pending: Arc<AtomicBool>,
    transcript_pending: Arc<AtomicBool>,
    death: AbortHandle,
    /// What keeps its screen.
    pub screen: Option<JoinHandle<()>>,
    /// Long-lived children of the agent, noted when its end was ordered.
    pub children: Arc<Mutex<Vec<Child>>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.death.abort();
        if let Some(screen) = &self.screen {
            screen.abort();
        }
    }
}

impl Live {
    pub fn new(host: &Arc<Host>, record: SessionRecord, inbox: mpsc::WeakSender<Inbox>, definition: &Definition) -> Self {
        let pane = PaneRef { socket: record.socket.clone(), pane: record.pane.clone(), keeper_pid: record.keeper.pid, incarnation: record.incarnation };
        let exits = host.root.peer_state(&record.identity).join("exits");
        let kept = last_screen::path(&exits, record.incarnation);
        let screen = host.tracker.spawn(last_screen::follow(host.clone(), record.tty.clone(), kept, pane.clone()));
        let death = host.tracker.spawn(watch_death(record.clone(), exits, inbox.clone())).abort_handle();
        let mut live = Live {
            record: Arc::new(record),
            pane,
            tail: None,
            inbox,
            output: None,
            transcript: None,
            transcript_born: false,
            output_pending: Arc::default(),
            transcript_pending: Arc::default(),
            death,
            screen: Some(screen),
            children: Arc::default(),
        };
        if definition.transcript.is_some() {
            live.watch_transcript(host);
        }
        live
    }

    /// Follows the program's transcript from where it stands, or from its start when it is not born yet.
    pub fn watch_transcript(&mut self, host: &Host) {
        let Some(path) = self.record.transcript.clone().map(PathBuf::from) else { return };
        if self.tail.as_ref().is_none_or(|t| t.path != path) {
            // What was there before this session's first message is no news; inquiries read it.
            let known = self.tail.is_none() && !self.record.seed_due;
            let offset = if known { std::fs::metadata(&path).map_or(0, |m| m.len()) } else { 0 };
            self.tail = Some(Tail::new(path.clone(), offset));
            self.transcript = None;
            self.transcript_born = false;
        }
        if self.transcript.is_none() || !self.transcript_born {
            let inc = self.record.incarnation;
            let tell = || notify(self.inbox.clone(), self.transcript_pending.clone(), move || Inbox::Transcript { inc });
            let born = host.watch.modified(&path, tell()).ok();
            self.transcript_born = born.is_some();
            // Some programs name a transcript before they write it.
            self.transcript = born.or_else(|| host.watch.entries(path.parent()?, tell()).ok());
        }
    }

    pub fn transcript_events(&mut self, definition: &Definition) -> Vec<Event> {
        self.transcript_pending.store(false, Ordering::SeqCst);
        let inc = self.record.incarnation;
        let lines = self.tail.as_mut().map(Tail::lines).unwrap_or_default();
        let events = lines.iter().filter_map(|l| transcript::read(definition, l)).map(|said| match said {
            Said::UserTurn(ids) => Event::TranscriptShows { inc, ids },
            Said::TurnEnd => Event::TranscriptTurnEnd { inc },
        });
        events.collect()
    }

    /// Watches the terminal only while output can change a decision.
    pub fn watch_output(&mut self, host: &Host, wanted: bool, inbox: mpsc::WeakSender<Inbox>) {
        if !wanted {
            self.output = None;
        } else if self.output.is_none() {
            let (inc, pending) = (self.record.incarnation, self.output_pending.clone());
            pending.store(false, Ordering::SeqCst);
            self.output = host.watch.modified(&self.record.tty, notify(inbox, pending, move || Inbox::Event(Box::new(Event::Output { inc })))).ok();
        }
    }

    pub fn output_seen(&self) {
        self.output_pending.store(false, Ordering::SeqCst);
    }
}

/// One message at a time: what happens before it is read is covered by it.
pub(super) fn notify(
    inbox: mpsc::WeakSender<Inbox>,
    pending: Arc<AtomicBool>,
    make: impl Fn() -> Inbox + Send + Sync + 'static,
) -> crate::tmux::watch::OnChange {
    Box::new(move || {
        if pending.swap(true, Ordering::SeqCst) {
            return;
        }
        let told = inbox.upgrade().is_some_and(|sender| sender.try_send(make()).is_ok());
        if !told {
            pending.store(false, Ordering::SeqCst);
        }
    })
}

async fn watch_death(record: SessionRecord, exits: PathBuf, inbox: mpsc::WeakSender<Inbox>) {
    match process::pidfd(&record.keeper).and_then(wait::readable) {
        Ok(fd) => {
            if fd.readable().await.is_err() {
                return;
            }
        }
        Err(_) => {
            while process::is_alive(&record.keeper) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    let cause = cause_of(&record, &exits);
    if let Some(sender) = inbox.upgrade() {
        let _ = sender.send(Inbox::Event(Box::new(Event::Died { inc: record.incarnation, cause }))).await;
    }
}

/// How old a session became, by its keeper's records, else by now.
pub fn age_ms(host: &Host, record: &SessionRecord, exits: &Path) -> u64 {
    let began = StartRecord::read(exits, record.incarnation).map_or_else(|| record.woke_at.clone(), |r| r.at);
    let told = ExitRecord::read(exits, record.incarnation).and_then(|r| ending::between_ms(&began, &r.at));
    let by_now = if record.boot_id == host.boot_id { host.clock.boot_ms().saturating_sub(record.woke_ms) } else { 0 };
    told.unwrap_or(by_now)
}

/// Why a session whose keeper is gone ended. When tmux went first, that is the cause: the keeper's record
/// then only tells how it ended the agent.
pub fn cause_of(record: &SessionRecord, exits: &Path) -> DeathCause {
    if record.boot_id != clock::boot_id() {
        return DeathCause::HostReboot;
    }
    if !process::is_alive(&record.server) {
        return DeathCause::TmuxLost;
    }
    ExitRecord::read(exits, record.incarnation).map_or(DeathCause::Unknown, |r| r.cause())
}
