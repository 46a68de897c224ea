//! `queue` and `messages`: what waits, what was, and an operator's decisions about it.

use super::link::segment;
use super::mail::line_of;
use super::{Done, MessagesArgs, Outcome, QueueArgs, QueueVerb, json, out, say};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{HistoryView, MessageView, QueueAct, QueueRequest};
use crate::core::fault::{Code, Fault};
use crate::core::message::{MessageId, State};
use crate::core::names::Identity;
use crate::core::sanitize;
use crate::daemon::mail;
use crate::store::disk::OsDisk;
use crate::store::history::{self, Search};
use crate::store::layout::Root;

/// Characters of a text that a list shows.
const SHOWN: usize = 60;

pub async fn messages(root: &Root, args: MessagesArgs, as_json: bool) -> Outcome {
    let state: Option<State> = args.state.as_deref().map(state_of).transpose()?;
    let search = Search { peer: args.peer, topic: args.topic, state, text: args.text, limit: args.limit };
    let found = look(root, &search).await?;
    if as_json {
        json(&found);
    } else if found.is_empty() {
        out("no messages\n");
    } else {
        found.iter().rev().for_each(|m| out(&row(m)));
    }
    Ok(Done::Ok)
}

fn state_of(word: &str) -> Result<State, Fault> {
    serde_json::from_value(serde_json::json!(word)).map_err(|_| {
        Fault::new(Code::Invalid, format!("{word:?} is no state of a message"))
            .hint("accepted, held, injected, entered, unknown, submitted, answered, acknowledged, expired, dead, parked")
    })
}

/// From the daemon, or from the files when none runs.
async fn look(root: &Root, search: &Search) -> Result<Vec<HistoryView>, Fault> {
    match Client::connect(root).await {
        Ok(mut client) => {
            let mut query = format!("/v1/messages?limit={}", search.limit);
            for (key, value) in [("peer", &search.peer), ("topic", &search.topic), ("text", &search.text)] {
                query += &value.as_ref().map(|v| format!("&{key}={}", segment(v))).unwrap_or_default();
            }
            query += &search.state.map(|s| format!("&state={}", s.word())).unwrap_or_default();
            client.get(&query, ANSWER).await
        }
        Err(fault) if fault.code == Code::DaemonUnreachable => {
            say("iapeer: no daemon runs; this is read from the files");
            Ok(history::search(&OsDisk, root, search).into_iter().map(|f| mail::history_view(f, |_| None)).collect())
        }
        Err(fault) => Err(fault),
    }
}

fn row(m: &HistoryView) -> String {
    let text: String = sanitize::line(&m.text).chars().take(SHOWN).collect();
    let more = if m.text.chars().count() > SHOWN { "…" } else { "" };
    let reason = m.view.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
    let topic = m.view.topic.as_ref().map(|t| format!("  [{}]", sanitize::line(t))).unwrap_or_default();
    format!("{}  {}  {} -> {}  {}{reason}{topic}  {text}{more}\n", m.view.accepted, m.view.id, m.view.from, m.view.to, m.view.state.word())
}

/// One message with its text, from wherever it can be had.
pub async fn find(root: &Root, id: &MessageId) -> Result<HistoryView, Fault> {
    let all = Search { limit: usize::MAX, ..Search::default() };
    let found = look(root, &all).await?.into_iter().find(|m| m.view.id == *id);
    found.ok_or_else(|| Fault::new(Code::MessageUnknown, format!("no message has the id {id}")).hint("`iapeer messages` lists what is kept"))
}

pub async fn queue(root: &Root, args: QueueArgs, as_json: bool) -> Outcome {
    let (id, act) = match args.act {
        None | Some(QueueVerb::List) => return list(root, &args.peer, as_json).await,
        Some(QueueVerb::Show { id }) => return show(root, &args.peer, &id, as_json).await,
        Some(QueueVerb::Retry { id }) => (id, QueueAct::Retry),
        Some(QueueVerb::Drop { id }) => (id, QueueAct::Drop),
        Some(QueueVerb::Hold { id }) => (id, QueueAct::Hold),
        Some(QueueVerb::Release { id }) => (id, QueueAct::Release),
    };
    let mut client = Client::connect(root).await?;
    let known: MessageView = client.get(&format!("/v1/messages/{id}"), ANSWER).await?;
    belongs(&known, &args.peer)?;
    let view: MessageView = client.post(&format!("/v1/messages/{id}/queue"), &QueueRequest { act }, ANSWER).await?;
    if as_json {
        json(&view)
    } else {
        out(&format!("{}\n", line_of(&view)))
    }
    Ok(Done::Ok)
}

/// A typing error in the peer must not decide about somebody else's mail.
fn belongs(view: &MessageView, peer: &str) -> Result<(), Fault> {
    let is = |i: &Identity| i.to_string() == peer || i.personality.as_str() == peer;
    if view.to.peer().is_some_and(is) {
        return Ok(());
    }
    Err(Fault::new(Code::MessageUnknown, format!("{} is a message to {}, not to {peer}", view.id, view.to)).hint(format!("`iapeer queue {} …`", view.to)))
}

async fn list(root: &Root, peer: &str, as_json: bool) -> Outcome {
    let waiting: Vec<MessageView> = match Client::connect(root).await {
        Ok(mut client) => client.get(&format!("/v1/peers/{}/queue", segment(peer)), ANSWER).await?,
        Err(fault) if fault.code == Code::DaemonUnreachable => {
            let all = Search { peer: Some(peer.into()), limit: usize::MAX, ..Search::default() };
            let found = look(root, &all).await?.into_iter().map(|m| m.view);
            found.filter(|v| belongs(v, peer).is_ok() && !v.state.is_delivered()).collect()
        }
        Err(fault) => return Err(fault),
    };
    if as_json {
        json(&waiting);
    } else if waiting.is_empty() {
        out("nothing waits, nothing is parked, nothing was given up\n");
    } else {
        waiting.iter().for_each(|v| out(&format!("{}  from {}  {}\n", v.accepted, v.from, line_of(v))));
    }
    Ok(Done::Ok)
}

async fn show(root: &Root, peer: &str, id: &MessageId, as_json: bool) -> Outcome {
    let found = find(root, id).await?;
    belongs(&found.view, peer)?;
    if as_json {
        json(&found);
    } else {
        out(&format!("{}\nfrom {}  {}\n\n{}\n", line_of(&found.view), found.view.from, found.view.accepted, found.text));
    }
    Ok(Done::Ok)
}
