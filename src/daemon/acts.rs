//! Carrying out effects. Those with an outcome run as one task each and come back as an event; the rest
//! is posted to the store in order, or told to the logs.

use super::actor::Actor;
use super::capacity::NotNow;
use super::ending;
use super::host::Host;
use super::launching;
use super::logs::Line;
use crate::api::shapes::WakeView;
use crate::core::envelope::{self, Carriage};
use crate::core::guard::{Fact, FactSet, Guard};
use crate::core::message::{Claim, Ending, Entry, Evidence, Message, MessageId};
use crate::core::names::{Identity, Incarnation, Party};
use crate::core::peer::effect::Effect;
use crate::core::peer::event::{ActResult, Event, LaunchFault};
use crate::core::peer::{RETRY_MS, SAME_BREATH_MS, Stage, WantedBy};
use crate::core::runtime::Definition;
use crate::core::sanitize;
use crate::core::screen::{Look, Screen, absent, classify};
use crate::core::zone::Zone;
use crate::ports::terminal::{Acted, Captured, PaneRef, Paste, Submit, TerminalError};
use crate::runtime::transcript;
use crate::store::disk::{OsDisk, replace};
use crate::store::inbox;
use crate::store::mailbox::RecordFault;
use crate::store::peer_state::{PeerState, SessionRecord};
use chrono::DateTime;
use std::sync::Arc;
use std::time::Duration;

/// A person who has pressed a key this lately is typing.
const TYPING_SECS: i64 = 2;

/// What a task brings back.
pub struct Outcome {
    pub event: Event,
    pub session: Option<Box<SessionRecord>>,
    pub claim: Option<Claim>,
}

impl From<Event> for Outcome {
    fn from(event: Event) -> Self {
        Outcome { event, session: None, claim: None }
    }
}

pub async fn perform(actor: &mut Actor, effect: Effect) {
    let host = actor.host.clone();
    let identity = actor.identity.clone();
    let definition = actor.peer.definition.clone();
    match effect {
        Effect::Launch { inc, mode, cause, for_message, again } => {
            if let Err(NotNow { hold, retry_ms }) = host.capacity.take(&identity, again, host.clock.boot_ms()) {
                return lost(actor, Event::Launched { inc, result: Err(LaunchFault::NotNow { hold, retry_ms }) });
            }
            host.lifecycle(
                Line::new("wake")
                    .with("identity", &identity)
                    .with("inc", inc)
                    .with("mode", mode.word())
                    .with("cause", cause.word())
                    .maybe("for", for_message.as_ref()),
            );
            if let Some(id) = for_message {
                let wake = WakeView { mode: mode.word().into(), cause: cause.word().into(), why: cause.why().into() };
                host.ledger.change(&id, |v| (v.woke, v.wake) = (true, Some(wake)));
            }
            actor.tasks.spawn(async move { launching::launch(&host, &identity, &definition, inc, mode).await });
        }
        Effect::Look { inc } => {
            let Some(pane) = pane(actor, inc) else { return lost(actor, Event::Looked { inc, result: Err("no session".into()) }) };
            actor.tasks.spawn(async move {
                let result = host.terminal.look(pane).await.map(|c| look_of(&definition, &c, host.wall())).map_err(|e| e.to_string());
                if result.as_ref().map_or(true, |l: &Look| l.dead) {
                    // A terminal that is going away: its end is on its way, do not spin until then.
                    tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                }
                Event::Looked { inc, result }.into()
            });
        }
        Effect::Key { inc, frame } => {
            let Some(pane) = pane(actor, inc) else { return lost(actor, Event::Keyed { inc, pressed: false }) };
            actor.tasks.spawn(async move {
                let guard = Guard { facts: frame.when.facts("", "") };
                let pressed = matches!(host.terminal.key(pane, guard, frame.key).await, Ok(Acted::Done { .. }));
                Event::Keyed { inc, pressed }.into()
            });
        }
        Effect::Claim { inc, entry } => claim(actor, host, inc, entry),
        Effect::Paste { inc, entry, attempt, guard, seed, leave_mode, submit } => {
            let id = entry.id().clone();
            let message = match actor.flight_message(&entry) {
                Ok(message) => message,
                Err(RecordFault::Content(reason)) => return lost(actor, Event::Unreadable { id, reason }),
                // A passing fault of the disk says nothing about the message.
                Err(RecordFault::Io(error)) => return lost(actor, Event::Pasted { inc, id, result: ActResult::NotTried(error.to_string()) }),
            };
            let (pane, text) = match (pane(actor, inc), compose(&host, &identity, &definition, &message, attempt, seed)) {
                (Some(pane), Ok(text)) => (pane, text),
                (_, text) => {
                    let why = text.err().unwrap_or_else(|| "no session".into());
                    return lost(actor, Event::Pasted { inc, id, result: ActResult::NotTried(why) });
                }
            };
            let paste = Paste { id: id.clone(), text, guard, leave_mode, submit };
            actor.tasks.spawn(async move {
                let result = acted(&host, &definition, host.terminal.paste(pane, paste).await);
                Event::Pasted { inc, id, result }.into()
            });
        }
        Effect::Probe { inc, id } => {
            let Some(pane) = pane(actor, inc) else { return lost(actor, Event::Probed { inc, id, result: ActResult::Failed("no session".into()) }) };
            let guard = taken_guard(actor, &definition, &id);
            actor.tasks.spawn(async move {
                let result = acted(&host, &definition, host.terminal.probe(pane, id.clone(), guard).await);
                Event::Probed { inc, id, result }.into()
            });
        }
        Effect::Submit { inc, id, attempt, key, bound } => {
            let Some(pane) = pane(actor, inc) else {
                return lost(actor, Event::Submitted { inc, id, attempt, result: ActResult::Failed("no session".into()) });
            };
            let mut guard = taken_guard(actor, &definition, &id);
            guard.facts.extend(bound.into_iter().flat_map(|b| b.facts));
            actor.tasks.spawn(async move {
                let submit = Submit { id: id.clone(), attempt, guard, key };
                let result = acted(&host, &definition, host.terminal.submit(pane, submit).await);
                Event::Submitted { inc, id, attempt, result }.into()
            });
        }
        Effect::Inquire { entry } => inquire(actor, definition, entry),
        Effect::End { inc } => ending::end(actor, host, inc),
        Effect::Collect { inc } => ending::collect(actor, host, inc),
        Effect::Unmark { inc, id } => {
            let Some(pane) = pane(actor, inc) else { return };
            host.tracker.clone().spawn(async move {
                if let Err(error) = host.terminal.unmark(pane, id).await {
                    tracing::warn!(%error, "a mark could not be taken off a pane");
                }
            });
        }
        Effect::TellSender { entry, state, reason } => host.tell_sender(&entry, &Party::Peer(identity), state, &reason).await,
        Effect::Finish { entry, attempt, inc, state, evidence, reason } => {
            actor.message = None;
            host.ledger.waits_no_more(&Party::Peer(identity.clone()), entry.id());
            let ending = Ending { state, evidence, reason, at: host.now_text(), attempt, incarnation: inc };
            host.store
                .post("finish", move |store| {
                    let (mailbox, disk) = store.mailbox(&Party::Peer(identity.clone()))?;
                    mailbox.finish(&*disk, &entry.key, &ending)
                })
                .await;
        }
        Effect::Quarantine { entry, reason } => {
            actor.message = None;
            host.ledger.waits_no_more(&Party::Peer(identity.clone()), entry.id());
            host.lifecycle(
                Line::new("registry").with("identity", &identity).with("action", "quarantined").with("file", entry.key.file_name()).with("reason", reason),
            );
            host.store
                .post("quarantine", move |store| {
                    let (mailbox, disk) = store.mailbox(&Party::Peer(identity.clone()))?;
                    mailbox.put_aside(&*disk, &entry.key)
                })
                .await;
        }
        Effect::Release { entry, how } => {
            actor.message = None;
            host.store
                .post("release", move |store| {
                    let (mailbox, disk) = store.mailbox(&Party::Peer(identity.clone()))?;
                    mailbox.release(&*disk, &entry.key, how)
                })
                .await;
        }
        Effect::SetMarkers(markers) => {
            let (dir, now) = (host.root.peer_state(&identity), host.now_text());
            let was = std::mem::replace(&mut actor.by_hand.on_disk, markers.clone());
            host.store.post("markers", move |store| PeerState::open(&*store.disk.clone(), dir.clone())?.set_markers(&was, &markers, &now)).await;
        }
        Effect::SaveDeaths(deaths) => {
            let (dir, boot) = (host.root.peer_state(&identity), host.boot_id.clone());
            host.store.post("deaths", move |store| PeerState::open(&*store.disk.clone(), dir.clone())?.write_deaths(&boot, &deaths)).await;
        }
        Effect::Taken { entry, evidence, .. } => {
            actor.message = None;
            host.store
                .post("taken", move |store| {
                    let (mailbox, disk) = store.mailbox(&Party::Peer(identity.clone()))?;
                    mailbox.taken(&*disk, &entry.key, evidence)
                })
                .await;
        }
        Effect::MarkReady { inc, seed_due } => {
            let Some(live) = actor.live.as_mut().filter(|l| l.record.incarnation == inc) else { return };
            let record = Arc::make_mut(&mut live.record);
            (record.ready, record.seed_due) = (true, seed_due);
            actor.save_session().await;
        }
        Effect::SaveTrouble { inc, trouble } => {
            let Some(live) = actor.live.as_mut().filter(|l| l.record.incarnation == inc) else { return };
            Arc::make_mut(&mut live.record).trouble = trouble;
            actor.save_session().await;
        }
        Effect::SaveAsked { inc, asked } => {
            let Some(live) = actor.live.as_mut().filter(|l| l.record.incarnation == inc) else { return };
            Arc::make_mut(&mut live.record).asked = asked;
            actor.save_session().await;
        }
        Effect::Eager => {
            // Beside: the default runtime may be another identity, whose actor may be telling this one.
            tokio::spawn(async move { relaunch(&host, &identity).await });
        }
        Effect::Ready { inc, .. } => {
            tell(actor, &host, effect).await;
            let Some(live) = actor.live.as_mut().filter(|l| l.record.incarnation == inc) else { return };
            Arc::make_mut(&mut live.record).reported = true;
            actor.save_session().await;
        }
        told => tell(actor, &host, told).await,
    }
}

/// The lines that effects leave in `lifecycle.log`.
async fn tell(actor: &mut Actor, host: &Arc<Host>, effect: Effect) {
    let line = |event: &str| Line::new(event).with("identity", &actor.identity);
    match effect {
        Effect::Held { inc, reason, message } => {
            let until = actor.peer.held_until().map(|at| host.text_of(at));
            host.lifecycle(line("held").maybe("inc", inc).with("reason", reason).maybe("msg", message).maybe("until", until));
        }
        Effect::Released { inc, was, message } => host.lifecycle(line("released").maybe("inc", inc).maybe("reason", was).maybe("msg", message)),
        Effect::Ready { inc, ms } => host.lifecycle(line("ready").with("inc", inc).with("ms", ms)),
        Effect::WakeFailed { inc, reason, detail } => {
            host.lifecycle(line("wake-failed").with("inc", inc).with("reason", reason).with("detail", &detail));
            actor.failed(detail);
        }
        Effect::Died { inc, cause, age_ms, claimed } => {
            host.lifecycle(line("death").with("inc", inc).with("cause", &cause).with("age", format!("{}s", age_ms / 1000)).maybe("claimed", claimed.as_ref()));
            actor.died(inc, &cause, claimed.as_ref());
        }
        Effect::Adopted { inc } => host.lifecycle(line("adopted").with("inc", inc)),
        Effect::Supervise { inc, action, age_ms, reason, outcome } => host.lifecycle(
            line("supervise")
                .with("inc", inc)
                .with("action", action)
                .with("age", format!("{}s", age_ms / 1000))
                .with("reason", reason)
                .with("outcome", outcome),
        ),
        Effect::Drain { inc, seq, depth } => host.lifecycle(line("ephemeral-drain").with("inc", inc).with("seq", seq).with("depth", depth)),
        Effect::Armed { inc, by } => host.lifecycle(line("ephemeral-armed").with("inc", inc).with("by", by)),
        Effect::Order { verb, by } => host.lifecycle(line(verb).with("by", by)),
        Effect::Marker { inc, file, change } => {
            host.lifecycle(line("marker").maybe("inc", inc).with("file", file).with("change", change.word()).with("by", "file"));
        }
        Effect::CrashLoop { count } => host.lifecycle(line("crash-loop").with("count", count).with("until", "iapeer start")),
        Effect::Backoff { until_ms, count } => {
            let until = host.text_of(host.clock.boot_ms() + until_ms);
            host.lifecycle(line("backoff").with("wait", format!("{until_ms}ms")).with("until", until).with("count", count));
        }
        Effect::Notice { text } => host.notify_operator(text).await,
        _ => {}
    }
}

/// A personality that asked for a fresh session of itself: on the runtime that is its default by now.
async fn relaunch(host: &Arc<Host>, identity: &Identity) {
    let default = host.profile(&identity.personality).map(|(_, loaded)| loaded.profile.default_runtime);
    let target = Identity::new(default.unwrap_or_else(|_| identity.runtime.clone()), identity.personality.clone());
    if target != *identity {
        // The mark has done its work; the other identity has none.
        host.handle(identity).event(Event::EagerDone).await;
    }
    host.handle(&target).event(Event::Want(WantedBy::Eager)).await;
}

pub(super) fn pane(actor: &Actor, inc: Incarnation) -> Option<PaneRef> {
    actor.live.as_ref().filter(|l| l.record.incarnation == inc).map(|l| l.pane.clone())
}

/// An act that cannot even be tried still has an outcome.
pub(super) fn lost(actor: &mut Actor, event: Event) {
    actor.tasks.spawn(async move { event.into() });
}

/// A clock that was set back makes a key no newer.
fn lately(now: i64, at: i64) -> bool {
    (0..TYPING_SECS).contains(&(now - at))
}

pub fn look_of(definition: &Definition, captured: &Captured, wall: DateTime<Zone>) -> Look {
    let screen = Screen { cursor: captured.cursor, cursor_shown: captured.cursor_shown, title: captured.title.clone(), ..Screen::parse(&captured.screen) };
    let (class, composer, composer_row) = classify(definition, &screen);
    Look {
        absent: absent(definition, &screen),
        class,
        composer,
        composer_row,
        cursor: captured.cursor,
        cursor_shown: captured.cursor_shown,
        dead: captured.dead,
        in_mode: captured.in_mode,
        input_off: captured.input_off,
        attached: captured.attached,
        typing: captured.attached > 0 && captured.client_activity.is_some_and(|at| lately(wall.timestamp(), at)),
        rows: (0..screen.rows.len()).map(|i| screen.row_text(i)).collect(),
        title: captured.title.clone(),
        mark_pasted: captured.mark_pasted.clone(),
        mark_entered: captured.mark_entered.clone(),
        wall,
    }
}

fn acted(host: &Host, definition: &Definition, result: Result<Acted, TerminalError>) -> ActResult {
    match result {
        Ok(Acted::Done { submitted_too }) => ActResult::Done { submitted_too },
        Ok(Acted::Refused(captured)) => ActResult::Refused(Box::new(look_of(definition, &captured, host.wall()))),
        Err(error) => ActResult::Failed(error.to_string()),
    }
}

/// What must be on the screen before the submit key: our text, and nothing but our text.
fn taken_guard(actor: &Actor, definition: &Definition, id: &MessageId) -> Guard {
    let Some(flight) = &actor.peer.flight else { return Guard { facts: vec![Fact::Any(Vec::new())] } };
    if flight.entry.raw {
        // Nothing of ours stands in a raw text: the look that it is bound to has seen it.
        return Guard::default();
    }
    let pasted_at = match flight.stage {
        Stage::Pasted { at, .. } | Stage::Settling { at, .. } | Stage::Submitted { at, .. } => at,
        _ => 0,
    };
    let late = flight.recovered || actor.host.clock.boot_ms().saturating_sub(pasted_at) > SAME_BREATH_MS;
    let group = |set: &FactSet| {
        let mut facts = set.facts(id.as_str(), &flight.entry.fence);
        if late && !set.names_message() {
            facts.push(Fact::Unattached);
        }
        facts
    };
    let groups: Vec<Vec<Fact>> = definition.input.taken.iter().map(group).collect();
    if groups.is_empty() { Guard::default() } else { Guard { facts: vec![Fact::Any(groups)] } }
}

/// The text that is typed: rendered, neutralised, as a file when it is too large.
fn compose(host: &Host, identity: &Identity, definition: &Definition, message: &Message, attempt: u32, seed: bool) -> Result<String, String> {
    if message.raw {
        return Ok(sanitize::body(&message.body).trim_end().to_string());
    }
    // A profile that was broken under a live session does not stop its mail: the last good one goes on.
    let profile = host.last_good_profile(&identity.personality);
    let seed = profile.as_ref().map(|p| p.initial_prompt.as_str()).filter(|_| seed);
    let finish = |rendered: String| definition.neutralise(envelope::with_seed(seed, rendered));
    let inline = finish(envelope::render(message, attempt, Carriage::Inline));
    if inline.len() <= definition.input.max_bytes {
        return Ok(inline);
    }
    let place = host.place(&identity.personality).ok_or_else(|| format!("{} is in no registry", identity.personality))?;
    let inbox = place.folder.join(".iapeer/inbox");
    let path = inbox.join(format!("{}.txt", message.id));
    inbox::ensure(&inbox).and_then(|()| replace(&OsDisk, &path, sanitize::body(&message.body).as_bytes())).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(finish(envelope::render(message, attempt, Carriage::File { path: &path.to_string_lossy() })))
}

fn claim(actor: &mut Actor, host: Arc<Host>, inc: Incarnation, entry: Entry) {
    let id = entry.id().clone();
    let Some(record) = actor.live.as_ref().map(|l| l.record.clone()).filter(|r| r.incarnation == inc) else {
        return lost(actor, Event::Claimed { id, result: Err("no session".into()) });
    };
    let claim = claim_for(&host, &record, id.clone());
    let party = Party::Peer(record.identity.clone());
    actor.tasks.spawn(async move {
        let written = host.store.claim(party, entry.key, claim).await;
        host.set_degraded("store: a claim could not be written", written.is_err());
        match written {
            Ok(claim) => Outcome { event: Event::Claimed { id, result: Ok((claim.attempt, claim.deaths)) }, session: None, claim: Some(claim) },
            Err(error) => Event::Claimed { id, result: Err(error.to_string()) }.into(),
        }
    });
}

/// A claim of a message for a session, not counted yet.
pub(super) fn claim_for(host: &Host, session: &SessionRecord, id: MessageId) -> Claim {
    Claim {
        v: 1,
        id,
        attempt: 0,
        deaths: 0,
        identity: session.identity.clone(),
        incarnation: session.incarnation,
        boot_id: host.boot_id.clone(),
        transcript: session.transcript.as_deref().and_then(transcript::mark),
        server: session.server.clone(),
        keeper: session.keeper.clone(),
        pane: session.pane.clone(),
        taken: None,
        released: false,
    }
}

fn inquire(actor: &mut Actor, definition: Arc<Definition>, entry: Entry) {
    let id = entry.id().clone();
    if actor.spooled_ids.contains(&id) {
        return lost(actor, Event::Inquired { id, found: Some(Evidence::Hook) });
    }
    let claim = actor.claim.clone().filter(|c| c.id == id);
    let mark = claim.and_then(|c| c.transcript);
    let live = actor.live.as_ref().and_then(|l| l.record.transcript.clone());
    let known = actor.peer.resumable.as_ref().and_then(|r| r.transcript.clone());
    actor.tasks.spawn(async move {
        let paths = [mark.as_ref().map(|m| m.path.clone()), live, known];
        let look = tokio::task::spawn_blocking(move || {
            let proven = paths.iter().flatten().any(|p| transcript::proves(&definition, p, mark.as_ref(), entry.id()));
            proven.then_some(Evidence::Transcript)
        });
        let found = look.await.ok().flatten();
        Event::Inquired { id, found }.into()
    });
}
