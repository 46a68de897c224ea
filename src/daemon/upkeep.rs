//! What nobody asks for and everybody counts on: sends that came while no daemon ran, a look once a second
//! at what waits, and forgetting what is old.

use super::accept;
use super::host::Host;
use super::logs::Line;
use super::orders;
use super::pane_logs;
use super::watcher::What;
use crate::api::caller::Who;
use crate::api::shapes::{SendRequest, Via};
use crate::core::fault::Fault;
use crate::core::names::{Identity, Party};
use crate::core::peer::event::Event;
use crate::store::mailbox::{keys_in, read_record};
use crate::store::outbox::{self, Spooled};
use crate::store::{inbox, shelf, spool};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Between two looks at waiting mail.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at everything: files that no watch told of, mail that expires.
const DEEP: Duration = Duration::from_secs(60);
/// Between two rounds of forgetting.
const PRUNE: Duration = Duration::from_secs(3600);
/// When a spooled send is tried again that nothing says a time of.
const SPOOL_AGAIN: Duration = Duration::from_secs(5);
/// Records of sessions that are kept for one identity.
const SESSIONS_KEPT: usize = 64;
/// Whether sessions that are kept are told of, too.
const VERBOSE: &str = "IAPEER_SUPERVISE_LOG_VERBOSE";

pub async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let came = Arc::new(Notify::new());
    let told = came.clone();
    // Without a watch the deep pass finds it.
    let _watch = host.watch.entries(&host.root.spool(), Box::new(move || told.notify_one())).ok();
    // What came between the actors' start and this watch.
    take_in(&host, &came).await;
    let verbose = is_on(std::env::var(VERBOSE).ok().as_deref());
    let mut deep = tokio::time::interval(deep_pause());
    let mut prune = tokio::time::interval(PRUNE);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let waits = host.handles().iter().any(|h| host.ledger.total_waiting(&Party::Peer(h.identity.clone())) > 0);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = came.notified() => take_in(&host, &came).await,
            _ = deep.tick() => {
                take_in(&host, &came).await;
                retry_degraded(&host).await;
                host.touched.mark(What::Everything);
                if verbose {
                    review(&host).await;
                }
            }
            _ = prune.tick() => forget(&host).await,
            _ = look.tick(), if waits => look_at_waiting(&host).await,
            () = mail_comes(&host), if !waits => {}
        }
    }
}

fn deep_pause() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(ms) = std::env::var("IAPEER_TEST_DEEP_MS").ok().and_then(|ms| ms.parse().ok()) {
        return Duration::from_millis(ms);
    }
    DEEP
}

fn is_on(value: Option<&str>) -> bool {
    matches!(value, Some("1" | "true" | "yes"))
}

/// What keeps each session is told, for whoever wonders why none is ended.
async fn review(host: &Host) {
    for handle in host.handles() {
        handle.event(Event::Review).await;
    }
}

async fn mail_comes(host: &Host) {
    // A change that was missed is as good as one that was seen.
    let _ = host.ledger.subscribe().recv().await;
}

/// A waiting message and a free peer never stand beside each other for longer than this takes.
async fn look_at_waiting(host: &Arc<Host>) {
    for handle in host.handles() {
        if host.ledger.total_waiting(&Party::Peer(handle.identity.clone())) > 0 && handle.snapshot().at_rest {
            handle.event(Event::Tick).await;
        }
    }
}

/// A store that could not be written is tried again without anybody's mail.
async fn retry_degraded(host: &Arc<Host>) {
    if host.degraded().iter().any(|d| d == super::mail::STORE_WRITE) {
        let probe = host.root.base().join("state/.probe");
        let written = host.store.run(move |store| {
            crate::store::disk::replace(&*store.disk, &probe, b"")?;
            store.disk.remove(&probe)
        });
        if written.await.is_ok() {
            host.set_degraded(super::mail::STORE_WRITE, false);
        }
    }
}

/// What found no daemon: hook reports that no actor has read, and sends.
async fn take_in(host: &Arc<Host>, again: &Arc<Notify>) {
    for (path, report) in spool::read(&host.root.hook_spool()) {
        if !report.is_genuine(&*host.disk, &host.root) {
            let reason = format!("a hook's report in the name of {}@{}, without its secret", report.identity, report.incarnation);
            put_aside(host, &path, "corrupt", &reason).await;
        } else if !host.holds_hook(&path) && host.existing(&report.identity).is_some() {
            // A hook that found the socket missing may leave its report when this daemon answers already.
            orders::hook(host, &report.identity, report.incarnation, &report.event, &report.payload).await;
            host.store.post("spool", move |store| crate::store::disk::remove_if_there(&*store.disk, &path)).await;
        }
    }
    if let Some(wait) = take_in_sends(host).await {
        let again = again.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            again.notify_one();
        });
    }
}

/// Sends that found no daemon go into the mailboxes, each from whom its token says. What has to wait holds up what the
/// same sender has left later: returns how long.
async fn take_in_sends(host: &Arc<Host>) -> Option<Duration> {
    let spool = host.root.spool();
    let found = match outbox::read(&*host.disk, &spool) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the spool could not be read");
            return None;
        }
    };
    let mut waiting: Vec<(Option<Identity>, Duration)> = Vec::new();
    for (path, spooled) in found {
        match spooled {
            Ok(spooled) => {
                let sender = spooled.token.as_ref().map(|t| t.identity.clone());
                if waiting.iter().all(|(other, _)| *other != sender)
                    && let Some(wait) = take_one(host, &path, spooled).await
                {
                    waiting.push((sender, wait));
                }
            }
            Err(reason) => put_aside(host, &path, "corrupt", &reason).await,
        }
    }
    waiting.into_iter().map(|(_, wait)| wait).min()
}

/// How long it has to wait, if it has to.
async fn take_one(host: &Arc<Host>, path: &Path, spooled: Spooled) -> Option<Duration> {
    let who = match &spooled.token {
        None => Who::Operator,
        Some(token) if outbox::fits(&*host.disk, &host.root, token) => Who::Peer(token.identity.clone(), token.incarnation),
        Some(token) => {
            let reason = format!("it claims to come from {}@{}, and its token does not fit", token.identity, token.incarnation);
            put_aside(host, path, "corrupt", &reason).await;
            return None;
        }
    };
    let sent = match serde_json::from_value::<SendRequest>(spooled.request.clone()) {
        Ok(request) => {
            let text = String::from_utf8_lossy(&spooled.text).into_owned();
            let request = SendRequest { id: Some(spooled.id.clone()), text, via: Via::Offline, sent: Some(spooled.sent.clone()), ..request };
            accept::send(host, &who, request).await.map(|_| ())
        }
        Err(error) => Err(Fault::new(crate::core::fault::Code::Invalid, error.to_string())),
    };
    match sent {
        Ok(()) => {
            let done = path.to_path_buf();
            host.store.post("spool", move |store| crate::store::disk::remove_if_there(&*store.disk, &done)).await;
        }
        // The record waits where it is.
        Err(fault) if fault.retryable => {
            tracing::warn!(%fault, path = %path.display(), "a spooled message waits");
            return Some(fault.retry_after_ms.map_or(SPOOL_AGAIN, Duration::from_millis));
        }
        Err(fault) => {
            put_aside(host, path, "refused", &fault.to_string()).await;
            let to = serde_json::from_value::<SendRequest>(spooled.request).map(|r| r.to.names().join(", ")).unwrap_or_default();
            let sender = who.party().unwrap_or(Party::Operator);
            let text = format!("Your message {} to {to}, sent while no daemon ran, was refused: {fault}", spooled.id);
            accept::notify(host, sender, text, None, Some(format!("refused-{}", spooled.id))).await;
        }
    }
    None
}

/// Out of the way, never deleted, and told of.
async fn put_aside(host: &Arc<Host>, path: &Path, folder: &'static str, reason: &str) {
    let target = host.root.spool().join(folder).join(path.file_name().unwrap_or_default());
    let (from, to) = (path.to_path_buf(), target.clone());
    let moved = host
        .store
        .run(move |store| {
            store.disk.create_dir(to.parent().unwrap_or(&to))?;
            store.disk.rename(&from, &to)
        })
        .await;
    if let Err(error) = moved {
        return tracing::error!(%error, path = %path.display(), "a spooled record could not be put aside");
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    host.lifecycle(Line::new("registry").with("action", "quarantined").with("file", &name).with("reason", reason));
    if folder == "corrupt" {
        host.notify_operator(format!("a spooled record was put aside as {}: {reason}", target.display())).await;
    }
}

/// What is older than the settings keep it goes: ended mail, attachments, records of sessions, logs of terminals.
async fn forget(host: &Arc<Host>) {
    let (root, budget) = (host.root.clone(), host.settings.pane_logs_total_bytes);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || pane_logs::prune(&root, budget)).await {
        if error.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!(%error, "old logs of terminals could not be removed");
        }
    }
    let limits = &host.settings.limits;
    let (stamp, most_secs) = (host.stamp(), (limits.done_days * 86_400) as i64);
    for name in host.disk.list(&host.root.all_peer_states()).unwrap_or_default() {
        let Some(party) = name.to_str().and_then(|n| n.parse::<Party>().ok()) else { continue };
        let (queue, records, now) = (host.root.party_state(&party).join("queue"), limits.done_records, stamp.clone());
        match host.store.run(move |store| shelf::prune(&*store.disk, &queue, &now, most_secs, records)).await {
            Ok(forgotten) => host.ledger.forget(&forgotten),
            Err(error) => tracing::warn!(%error, %party, "old mail could not be removed"),
        }
        let (place, days) = (host.inbox_of(&party), limits.inbox_days);
        if place.is_dir() {
            let (pending, now) = (pending_files(host, &party), host.clock.utc().into());
            let _ = tokio::task::spawn_blocking(move || inbox::prune(&place, days, &pending, now)).await;
        }
        if let Some(identity) = party.peer() {
            forget_sessions(host, identity).await;
        }
    }
}

/// The files that waiting mail of a party still needs.
fn pending_files(host: &Host, party: &Party) -> HashSet<PathBuf> {
    let queue = host.root.party_state(party).join("queue");
    let folders = ["new", "cur", "held"];
    let keys = folders.into_iter().flat_map(|f| keys_in(&*host.disk, &queue.join(f)));
    keys.filter_map(|key| read_record(&*host.disk, &queue, &key, &folders).ok())
        .flat_map(|m| {
            let large = host.inbox_of(party).join(format!("{}.txt", m.id));
            m.attachments.into_iter().map(|a| PathBuf::from(a.path)).chain([large])
        })
        .collect()
}

async fn forget_sessions(host: &Arc<Host>, identity: &Identity) {
    let dir = host.root.peer_state(identity);
    let cleaned = host.store.run(move |store| {
        for folder in ["exits", "tokens"] {
            let place = dir.join(folder);
            let numbered = |name: &std::ffi::OsStr| name.to_str()?.split('.').next()?.parse::<u64>().ok();
            let names = store.disk.list(&place).unwrap_or_default();
            let mut incarnations: Vec<u64> = names.iter().filter_map(|n| numbered(n)).collect();
            incarnations.sort_unstable();
            incarnations.dedup();
            let Some(first_kept) = incarnations.len().checked_sub(SESSIONS_KEPT).map(|n| incarnations[n]) else { continue };
            for name in names.iter().filter(|n| numbered(n).is_some_and(|i| i < first_kept)) {
                crate::store::disk::remove_if_there(&*store.disk, &place.join(name))?;
            }
        }
        Ok(())
    });
    if let Err(error) = cleaned.await {
        tracing::warn!(%error, %identity, "old records of sessions could not be removed");
    }
}
