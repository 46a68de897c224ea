//! What a running program tells beside its screen: session id and transcript by its hooks, turns by its transcript.

use super::actor::Actor;
use super::logs::Line;
use super::mail;
use crate::api::shapes::{Answer, AnsweredBy};
use crate::core::message::State;
use crate::core::names::Incarnation;
use crate::core::peer::Resumable;
use crate::runtime::hooks::Heard;
use crate::store::peer_state::PeerState;
use std::sync::Arc;

impl Actor {
    pub(super) async fn read_transcript(&mut self, inc: Incarnation) {
        let events = match &mut self.live {
            Some(live) if live.record.incarnation == inc => {
                live.watch_transcript(&self.host);
                live.transcript_events(&self.peer.definition)
            }
            _ => Vec::new(),
        };
        for event in events {
            self.step(event).await;
        }
    }

    /// The final text of a turn answers the message whose turn it was.
    pub(super) fn answered_by_turn(&mut self, inc: Incarnation, text: Option<String>) {
        let current = self.peer.up().is_some_and(|up| up.inc == inc);
        let (Some(id), Some(text), true) = (self.last_turn.take(), text, current) else { return };
        if self.host.ledger.view(&id).is_some_and(|v| v.answer.is_some()) {
            // A message of that turn has answered it.
            return;
        }
        let at = self.host.now_text();
        mail::answered(&self.host, &id, Answer { id: None, by: AnsweredBy::TurnEnd, text }, &at);
        self.host.delivery(
            Line::new("delivery").with("msg", &id).with("to", &self.identity).with("inc", inc).with("state", State::Answered.word()).with("by", "turn-end"),
        );
    }

    /// Session id and transcript, as the program's hooks name them.
    pub(super) async fn learn(&mut self, inc: Incarnation, heard: &Heard) {
        let Some(live) = self.live.as_mut().filter(|l| l.record.incarnation == inc) else { return };
        let asked = heard.session_id.as_ref().and_then(|_| Arc::make_mut(&mut live.record).resumed.take());
        if let (Some(asked), Some(told)) = (&asked, &heard.session_id) {
            if asked != told {
                let detail = format!("it was to resume {asked} and has {told}: its earlier turns are not in this conversation");
                self.host.lifecycle(
                    Line::new("wake-failed").with("identity", &self.identity).with("inc", inc).with("reason", "resume-unproven").with("detail", &detail),
                );
                self.last_failure = Some(detail);
            }
        }
        let id = heard.session_id.clone().or(live.record.session_id.clone());
        let transcript = heard.transcript.clone().or(live.record.transcript.clone());
        if asked.is_none() && (&id, &transcript) == (&live.record.session_id, &live.record.transcript) {
            // Some programs name a transcript before it is born.
            live.watch_transcript(&self.host);
            return;
        }
        let record = Arc::make_mut(&mut live.record);
        record.session_id = id.clone();
        record.transcript = transcript.clone();
        live.watch_transcript(&self.host);
        let resumable = id.map(|session_id| Resumable { session_id, transcript, proven: false });
        self.peer.resumable = resumable.clone();
        let record = live.record.clone();
        let dir = self.host.root.peer_state(&self.identity);
        self.host
            .store
            .post("session", move |store| {
                let disk = store.disk.clone();
                let state = PeerState::open(&*disk, dir.clone())?;
                state.write_session(&record)?;
                resumable.as_ref().map_or(Ok(()), |r| state.write_resumable(r))
            })
            .await;
    }
}
