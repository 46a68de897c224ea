//! `explain`: why a message or a peer is where it is, and what would change that.

use super::mail::line_of;
use super::{Done, Outcome, json, out, queue, show};
use crate::api::shapes::{MessageView, PeerView, PresenceView};
use crate::core::fault::{Code, Fault};
use crate::core::message::{Hold, MessageId, State};
use crate::core::sanitize;
use crate::store::layout::Root;
use std::collections::BTreeMap;
use std::io::BufRead;

/// Lines of a log that an explanation shows.
const LINES: usize = 12;
/// Deaths that an explanation shows.
const DEATHS: usize = 3;

pub async fn explain(root: &Root, what: &str, as_json: bool) -> Outcome {
    match what.parse::<MessageId>() {
        Ok(id) => message(root, &id, as_json).await,
        Err(_) => peer(root, what, as_json).await,
    }
}

async fn message(root: &Root, id: &MessageId, as_json: bool) -> Outcome {
    let found = queue::find(root, id).await?;
    let why = why_message(&found.view);
    let told = lines_about(root, "delivery.log", &format!(" msg={id} "));
    if as_json {
        json(&serde_json::json!({ "message": found.view, "why": why, "log": told }));
        return Ok(Done::Ok);
    }
    let reply = found.view.in_reply_to.as_ref().map(|id| format!("answers   {id}\n")).unwrap_or_default();
    let topic = found.view.topic.as_ref().map(|t| format!("topic     {}\n", sanitize::line(t))).unwrap_or_default();
    out(&format!(
        "{}\nfrom      {}\naccepted  {}\n{topic}{reply}bytes     {}\n\n{why}\n",
        line_of(&found.view),
        found.view.from,
        found.view.accepted,
        found.view.len
    ));
    if !told.is_empty() {
        out("\n");
        told.iter().for_each(|l| out(&format!("{}\n", sanitize::line(l))));
    }
    Ok(Done::Ok)
}

fn why_message(view: &MessageView) -> String {
    let reason = view.reason.as_deref().unwrap_or_default();
    match view.state {
        State::Accepted => "It is kept on disk and is about to be delivered.".into(),
        State::Held => format!("It waits: {}", why_held(reason, &view.to.to_string())),
        State::Injected => "Its text stands in the composer; the submit key follows when the program shows it.".into(),
        State::Entered if view.evidence.is_some() => "It was typed and submitted; this program, or a raw text, can prove no more than that.".into(),
        State::Entered => "It was typed and submitted; the evidence that the agent took it is awaited.".into(),
        State::Unknown => format!(
            "It was typed and submitted, but nothing proves that the agent took it. It is not typed again, so that it cannot be doubled; `iapeer screen {}` shows the screen.",
            view.to
        ),
        State::Submitted => format!("The agent took it as a user turn{}.", view.evidence.map(|e| format!(", proven by {}", e.word())).unwrap_or_default()),
        State::Answered => "The recipient has answered it.".into(),
        State::Acknowledged => "Its reader has taken it.".into(),
        State::Expired => format!("Its time to live was over before it could be delivered; `iapeer queue {} retry {}` tries again.", view.to, view.id),
        State::Dead => format!("It was given up: {reason}. `iapeer queue {} retry {}` tries again.", view.to, view.id),
        State::Parked => format!("It is put aside for a person: {reason}. `iapeer queue {} release {}` lets it go on.", view.to, view.id),
    }
}

/// What a hold reason means, and what ends it.
fn why_held(reason: &str, to: &str) -> String {
    let hold = serde_json::from_value::<Hold>(serde_json::json!(reason)).ok();
    let text = match hold {
        Some(Hold::Starting) => "the session is starting.",
        Some(Hold::Busy) => "a turn is running; it goes when the turn ends.",
        Some(Hold::Draft) => "a person's half-typed text stands in the composer; it goes when that is sent or cleared.",
        Some(Hold::Dialog) => "the program asks something; a person answers it (`iapeer attach`).",
        Some(Hold::Picker) => "a list is open in the program; it goes when that is closed.",
        Some(Hold::CopyMode) => "somebody looks back in the terminal (copy mode); it goes when they leave it.",
        Some(Hold::InputOff) => "the terminal takes no input (`select-pane -e` in its tmux turns it on).",
        Some(Hold::UnknownScreen) => "the screen is none that the runtime's definition knows (`iapeer screen` shows it).",
        Some(Hold::AttachedTyping) => "an attached person has just pressed a key; it goes when they pause.",
        Some(Hold::Approval) => "the program asks for a permission; a person answers it (`iapeer attach`).",
        Some(Hold::Limit) => "the program has reached a usage limit.",
        Some(Hold::Login) => "the program wants a login (`iapeer attach`).",
        Some(Hold::MissingBinary) => "the agent program is not installed, or not in the peer's PATH.",
        Some(Hold::CrashLoop) => "the agent died too often and is not started again by itself (`iapeer start` clears it).",
        Some(Hold::Backoff) => "the agent died; the next start waits a while.",
        Some(Hold::Capacity) => "as many sessions run as this host may have.",
        Some(Hold::Stopped) => "the peer is stopped (`iapeer start`).",
        Some(Hold::Frozen) => "the peer or the host is frozen (`iapeer unfreeze`).",
        Some(Hold::Draining) => "the daemon is ending; the next one delivers it.",
        Some(Hold::ProfileInvalid) => "the peer's profile or definition cannot be used (`iapeer list` says why).",
        Some(Hold::ProfileChanged) => "the peer's profile was changed and waits to be trusted.",
        Some(Hold::Paced) => "the two agents write to each other faster than the limits let them; it goes when its time comes.",
        Some(Hold::Loop) => "the two agents write to each other without end; a person decides.",
        Some(Hold::ByOperator) => "the operator put it aside (`iapeer queue … release`).",
        None if reason.is_empty() => "it is next in line.",
        None => return format!("{reason}."),
    };
    format!("{reason}: {text} (`iapeer list` shows {to})")
}

async fn peer(root: &Root, name: &str, as_json: bool) -> Outcome {
    let (peers, _): (Vec<PeerView>, bool) = show::ask(root, "/v1/peers", "peers").await?;
    let is = |p: &PeerView, r: &PresenceView| p.personality.as_str() == name || r.identity.to_string() == name;
    let found: Vec<(&PeerView, &PresenceView)> = peers.iter().flat_map(|p| p.runtimes.iter().map(move |r| (p, r))).filter(|(p, r)| is(p, r)).collect();
    if found.is_empty() {
        return Err(
            Fault::new(Code::PeerUnknown, format!("{:?} is neither a message id nor a peer", sanitize::line(name))).hint("`iapeer list` shows the peers")
        );
    }
    let explained: Vec<serde_json::Value> = found
        .iter()
        .map(|(peer, presence)| {
            let about = format!(" identity={} ", presence.identity);
            let log = lines_about(root, "lifecycle.log", &about);
            let deaths = deaths(&lines_about(root, "exits.log", &about));
            serde_json::json!({ "identity": presence.identity, "why": why_peer(presence), "presence": presence, "warnings": peer.warnings, "deaths": deaths, "log": log })
        })
        .collect();
    if as_json {
        json(&explained);
        return Ok(Done::Ok);
    }
    for ((peer, presence), told) in found.iter().zip(&explained) {
        out(&format!("{}  {}\n{}\n", presence.identity, presence.state, told["why"].as_str().unwrap_or_default()));
        peer.warnings.iter().for_each(|w| out(&format!("warning: {}\n", sanitize::line(w))));
        for death in told["deaths"].as_array().into_iter().flatten() {
            out(&format!("{}\n", sanitize::line(&in_words(death))));
        }
        for line in told["log"].as_array().into_iter().flatten() {
            out(&format!("{}\n", sanitize::line(line.as_str().unwrap_or_default())));
        }
    }
    Ok(Done::Ok)
}

fn why_peer(presence: &PresenceView) -> String {
    let waits = match presence.queue.waiting {
        0 => String::new(),
        n => format!(" {n} messages wait (`iapeer queue {}`).", presence.identity),
    };
    let reason = presence.reason.as_deref().map(|r| format!(" It holds mail: {}", why_held(r, presence.identity.runtime.as_str()))).unwrap_or_default();
    let state = match presence.state.as_str() {
        "live" => "Its session runs.",
        "starting" => "Its session is coming up.",
        "stopping" => "Its session is ending.",
        "stopped" => "The operator stopped it; nothing wakes it but `iapeer start`.",
        "absent" => "It has no terminal; whoever it stands for reads its mail by `iapeer inbox` or the API.",
        "held" => "It cannot run, or cannot be typed into.",
        _ => "It sleeps; mail, `attach` or `start` wakes it.",
    };
    format!("{state}{reason}{waits}")
}

/// The last deaths among lines of `exits.log`, field by field.
fn deaths(lines: &[String]) -> Vec<BTreeMap<String, String>> {
    let all = lines.iter().map(|l| fields(l)).filter(|f| f.get("kind").is_some_and(|k| k == "death"));
    let mut all: Vec<_> = all.collect();
    all.split_off(all.len().saturating_sub(DEATHS))
}

fn in_words(death: &serde_json::Value) -> String {
    let field = |name: &str| death[name].as_str();
    let with = |before: &str, name: &str| field(name).map(|v| format!("{before}{v}")).unwrap_or_default();
    format!(
        "died {} (session {}): {}{}{}{}{}{}",
        field("ts").unwrap_or_default(),
        field("inc").unwrap_or_default(),
        field("cause").unwrap_or_default(),
        with(" after ", "age"),
        with(", while it had ", "claimed"),
        with("; ", "detail"),
        with("; its last screen: ", "screen"),
        with("; its last output: ", "tail"),
    )
}

/// The fields of a logfmt line.
fn fields(line: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = line;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => after.split_once(' ').map_or((after.to_string(), ""), |(value, tail)| (value.to_string(), tail)),
        };
        found.insert(key.trim_start().to_string(), value);
        rest = tail;
    }
    found
}

/// A quoted value up to its closing quote, and what follows.
fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// The last lines of a log that hold these words.
fn lines_about(root: &Root, log: &str, words: &str) -> Vec<String> {
    let path = root.logs().join(log);
    let files = [path.with_extension("log.1"), path];
    let mut lines: Vec<String> = Vec::new();
    for file in files.iter().filter_map(|p| std::fs::File::open(p).ok()) {
        lines.extend(std::io::BufReader::new(file).lines().map_while(Result::ok).filter(|l| format!("{l} ").contains(words)));
    }
    let excess = lines.len().saturating_sub(LINES);
    lines.split_off(excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let read = fields(r#"ts=1 ev=exit screen="/a b/\"x\\y" cause=exit-7 empty="""#);
        let want = [("ts", "1"), ("ev", "exit"), ("screen", r#"/a b/"x\y"#), ("cause", "exit-7"), ("empty", "")];
        assert_eq!(read, want.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
    }

    #[test]
    fn the_last_deaths_are_told_with_where_to_look() {
        let line = |n: usize, kind: &str| format!("ts=t{n} ev=exit identity=echo-a inc={n} kind={kind} cause=exit-7 age=12s screen=/s/{n}");
        let lines: Vec<String> = (1..=5).map(|n| line(n, if n == 4 { "ordered" } else { "death" })).collect();
        let told: Vec<String> = deaths(&lines).iter().map(|d| in_words(&serde_json::json!(d))).collect();
        assert_eq!(told.len(), DEATHS);
        assert_eq!(told[2], "died t5 (session 5): exit-7 after 12s; its last screen: /s/5");
    }

    #[test]
    fn every_hold_reason_is_explained() {
        for reason in ["starting", "busy", "draft", "paced", "by-operator", "profile-changed"] {
            assert!(why_held(reason, "echo-a").starts_with(&format!("{reason}: ")), "{reason}");
        }
        assert_eq!(why_held("store: full", "echo-a"), "store: full.");
    }
}
