//! What the disk and the processes say of one identity when its actor starts: adopt, or find the loss.

use super::ending;
use super::host::Host;
use super::ledger::view_of;
use super::live;
use super::logs::Line;
use crate::core::message::MessageId;
use crate::core::names::{Identity, Incarnation, Party};
use crate::core::peer::event::{Adopted, DeathCause, HookFact, Restored};
use crate::keeper::record::{ExitRecord, StartRecord};
use crate::runtime::hooks::{self, Heard};
use crate::store::mailbox::{Scan, read_record};
use crate::store::peer_state::{PeerState, SeenMarkers, SessionRecord};
use crate::store::spool;
use crate::sys::{clock, process};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Found {
    pub restored: Restored,
    /// The session that goes on.
    pub session: Option<SessionRecord>,
    pub quarantined: Vec<(String, String)>,
    /// What hooks told while no daemon ran.
    pub heard: Vec<Heard>,
    pub spooled_ids: HashSet<MessageId>,
    pub spool_files: Vec<PathBuf>,
    pub failure: Option<String>,
    /// The markers as they were read.
    pub markers: SeenMarkers,
}

pub async fn restore(host: &Arc<Host>, identity: &Identity) -> Found {
    let mut found = Found {
        restored: Restored::default(),
        session: None,
        quarantined: Vec::new(),
        heard: Vec::new(),
        spooled_ids: HashSet::new(),
        spool_files: Vec::new(),
        failure: None,
        markers: SeenMarkers::default(),
    };
    match read_disk(host, identity).await {
        Ok((restored, seen, record, mut scan)) => {
            found.restored = restored;
            found.markers = seen;
            note_mail(host, identity, &mut scan);
            found.quarantined = scan.quarantined;
            found.restored.queue = scan.waiting;
            found.restored.claim = scan.claim;
            found.restored.task = scan.task.and_then(|(claim, entry)| claim.taken.map(|evidence| (claim, entry, evidence)));
            match record {
                Some(record) => sort_session(host, identity, record, &mut found).await,
                None => {
                    if let Some((inc, cause, age_ms)) = lost_launch(host, identity).await {
                        (found.restored.lost, found.restored.lost_age_ms) = (Some((inc, cause)), age_ms);
                    }
                    found.failure = end_stray(host, identity).await.err();
                }
            }
        }
        Err(error) => {
            tracing::error!(%identity, %error, "the state of a peer could not be read");
            host.set_degraded(&format!("{identity}: its state cannot be read"), true);
            found.failure = Some(error.to_string());
        }
    }
    read_spool(host, identity, &mut found);
    found
}

async fn read_disk(host: &Arc<Host>, identity: &Identity) -> io::Result<(Restored, SeenMarkers, Option<SessionRecord>, Scan)> {
    let (dir, boot_id, party) = (host.root.peer_state(identity), host.boot_id.clone(), Party::Peer(identity.clone()));
    host.store
        .run(move |store| {
            let disk = store.disk.clone();
            let state = PeerState::open(&*disk, dir)?;
            let seen = state.markers()?;
            if let Err(error) = state.mend_markers(&seen) {
                // The next look at them tries again.
                tracing::warn!(%error, "a marker could not be put right");
            }
            let restored = Restored {
                markers: seen.markers.clone(),
                resumable: state.resumable()?,
                deaths: state.deaths(&boot_id)?,
                incarnation: state.incarnation()?,
                ..Restored::default()
            };
            let record = state.session()?;
            let (mailbox, disk) = store.mailbox(&party)?;
            Ok((restored, seen, record, mailbox.scan(&*disk)?))
        })
        .await
}

/// What waits is known to the ledger, and what is left of its time to live to the peer.
fn note_mail(host: &Host, identity: &Identity, scan: &mut Scan) {
    let party = Party::Peer(identity.clone());
    let queue = host.root.peer_state(identity).join("queue");
    for key in &scan.keys {
        host.ledger.note_place(&party, key.clone());
    }
    let now = host.stamp();
    let pending = scan.waiting.iter_mut().chain(scan.claim.iter_mut().chain(&mut scan.task).map(|(_, e)| e));
    for entry in pending {
        entry.due = entry.deadline(&now);
        host.ledger.waits(&party, entry);
        if let Ok(message) = read_record(&*host.disk, &queue, &entry.key, &["new", "cur"]) {
            host.ledger.insert_view(view_of(&message));
        }
    }
}

/// Does the recorded session still run?
async fn sort_session(host: &Arc<Host>, identity: &Identity, record: SessionRecord, found: &mut Found) {
    let exits = host.root.peer_state(identity).join("exits");
    let inc = record.incarnation;
    found.restored.incarnation = found.restored.incarnation.max(inc);
    if record.boot_id != host.boot_id {
        found.restored.lost = Some((inc, DeathCause::HostReboot));
    } else if process::is_alive(&record.keeper) && process::is_alive(&record.server) {
        found.restored.adopted = Some(Adopted {
            inc,
            ready: record.ready,
            reported: record.reported,
            seed_due: record.seed_due,
            since: record.woke_ms,
            asked: record.asked.clone(),
            trouble: record.trouble,
        });
    } else if process::is_alive(&record.keeper) {
        // tmux is gone; its keeper ends the agent by itself, and that is waited for before anything else.
        ending::end_processes(&record, &exits, host.settings.term_grace_secs).await.unwrap_or_else(|error| {
            tracing::error!(%identity, %error, "what is left of a lost session does not end");
        });
        found.restored.lost = Some((inc, DeathCause::TmuxLost));
    } else {
        let cause = live::cause_of(&record, &exits);
        // A keeper that was told to end while tmux stood was told so by an order.
        found.restored.lost_to_order = cause != DeathCause::TmuxLost && ExitRecord::read(&exits, inc).is_some_and(|r| r.asked);
        found.restored.lost = Some((inc, cause));
    }
    found.restored.lost_age_ms = live::age_ms(host, &record, &exits);
    found.session = Some(record);
}

/// A launch that the last daemon did not live to record, and whose agent has ended by itself since: a death like
/// any other. One that still runs is a stray.
async fn lost_launch(host: &Arc<Host>, identity: &Identity) -> Option<(Incarnation, DeathCause, u64)> {
    let dir = host.root.peer_state(identity);
    let state_dir = dir.clone();
    let intent = host.store.run(move |store| {
        let disk = store.disk.clone();
        let state = PeerState::at(&*disk, state_dir);
        let intent = state.intent()?;
        state.clear_intent()?;
        Ok(intent)
    });
    let intent = match intent.await {
        Ok(intent) => intent.filter(|i| i.boot_id == host.boot_id)?,
        Err(error) => {
            tracing::warn!(%identity, %error, "what it was about to do could not be read");
            return None;
        }
    };
    let exits = dir.join("exits");
    let (started, ended) = (StartRecord::read(&exits, intent.incarnation)?, ExitRecord::read(&exits, intent.incarnation)?);
    let age_ms = ending::between_ms(&started.at, &ended.at).unwrap_or(0);
    (started.boot_id == host.boot_id && !ended.asked).then(|| (intent.incarnation, ended.cause(), age_ms))
}

/// A keeper that runs although no `session.json` speaks of it: the daemon died between the start of the
/// session and the writing of its record.
pub fn stray_keeper(peer_state: &Path) -> Option<StartRecord> {
    let exits = peer_state.join("exits");
    let newest = std::fs::read_dir(&exits).ok()?.flatten().filter_map(|e| e.file_name().to_str()?.strip_suffix(".start.json")?.parse().ok()).max()?;
    let started = StartRecord::read(&exits, newest)?;
    (started.boot_id == clock::boot_id() && process::is_alive(&started.keeper) && !peer_state.join("session.json").exists()).then_some(started)
}

/// Ended before anything is launched: a peer never has two agents.
pub async fn end_stray(host: &Arc<Host>, identity: &Identity) -> Result<(), String> {
    let dir = host.root.peer_state(identity);
    let Some(started) = stray_keeper(&dir) else { return Ok(()) };
    let ended = ending::end_keeper(&started.keeper, started.agent.as_ref(), host.settings.term_grace_secs).await;
    let _ = host.terminal.kill(host.root.tmux_socket(identity)).await;
    let outcome = ended.clone().err().unwrap_or_else(|| "gone".into());
    let line = Line::new("stray-ended").with("identity", identity).with("inc", started.incarnation).with("keeper", started.keeper.pid);
    host.lifecycle(line.with("outcome", outcome));
    ended
}

fn read_spool(host: &Host, identity: &Identity, found: &mut Found) {
    let Ok(definition) = host.runtimes().get(&identity.runtime) else { return };
    for (path, report) in spool::read(&host.root.hook_spool()) {
        // What somebody else left in its name is put aside by the upkeep.
        if report.identity != *identity || !report.is_genuine(&*host.disk, &host.root) {
            continue;
        }
        found.spool_files.push(path);
        let heard = hooks::interpret(&definition, &report.event, &report.payload);
        if let Some(HookFact::PromptSubmitted { ids }) = &heard.fact {
            found.spooled_ids.extend(ids.iter().cloned());
        }
        if found.session.as_ref().is_some_and(|s| s.incarnation == report.incarnation) {
            found.heard.push(heard);
        }
    }
}
