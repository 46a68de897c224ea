//! What the agents really got: the user turns of their transcripts, and the messages in them.

use crate::harness::Host;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// One user turn.
pub struct Turn {
    /// Milliseconds of the wall clock.
    pub began: i64,
    pub ended: Option<i64>,
    pub text: String,
}

impl Turn {
    /// The ids of all messages in it; one, unless something was merged.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.text.split("<iap id=\"").skip(1).filter_map(|rest| rest.split('"').next())
    }

    /// Which delivery of its message this is: later ones are marked.
    pub fn redelivery(&self) -> &str {
        self.text.split(" redelivered=\"").nth(1).and_then(|r| r.split('"').next()).unwrap_or_default()
    }
}

/// The transcript's records of an `echo` peer, all conversations together.
pub fn records(host: &Host, name: &str) -> Vec<Value> {
    let files = std::fs::read_dir(folder(host, name)).into_iter().flatten().flatten();
    let texts = files.map(|f| std::fs::read_to_string(f.path()).unwrap_or_default()).collect::<Vec<_>>();
    texts.iter().flat_map(|t| t.lines()).filter_map(|l| serde_json::from_str(l).ok()).collect()
}

pub fn folder(host: &Host, name: &str) -> PathBuf {
    host.root().join("peers").join(name).join(".iapeer/echo")
}

pub fn turns(host: &Host, name: &str) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for record in records(host, name) {
        let at = chrono::DateTime::parse_from_rfc3339(record["ts"].as_str().unwrap()).unwrap().timestamp_millis();
        if record["role"] == "user" {
            turns.push(Turn { began: at, ended: None, text: record["text"].as_str().unwrap().into() });
        } else if record["type"] == "turn_end" {
            if let Some(turn) = turns.last_mut() {
                turn.ended = Some(at);
            }
        }
    }
    turns.sort_by_key(|t| t.began);
    turns
}

/// How often each message became a turn, over these peers.
pub fn copies(host: &Host, names: &[String]) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    for turn in names.iter().flat_map(|n| turns(host, n)) {
        turn.ids().for_each(|id| *copies.entry(id.to_string()).or_default() += 1);
    }
    copies
}

/// Lost and doubled messages among the sent ones, and turns that hold more than one.
pub fn faults(host: &Host, names: &[String], sent: &[String]) -> Vec<String> {
    let copies = copies(host, names);
    let mut faults: Vec<String> = sent.iter().filter(|id| !copies.contains_key(*id)).map(|id| format!("lost: {id}")).collect();
    faults.extend(copies.iter().filter(|(_, n)| **n > 1).map(|(id, n)| format!("{n} copies: {id}")));
    faults.extend(names.iter().flat_map(|n| turns(host, n)).filter(|t| t.ids().count() > 1).map(|t| format!("merged: {:?}", t.ids().collect::<Vec<_>>())));
    faults
}

/// Messages that came twice without being marked as another delivery of the same.
pub fn unmarked_copies(host: &Host, names: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    let turns: Vec<Turn> = names.iter().flat_map(|n| turns(host, n)).collect();
    let ids = turns.iter().flat_map(|t| t.ids().map(|id| (id.to_string(), t.redelivery().to_string())));
    ids.filter(|key| !seen.insert(key.clone())).map(|(id, n)| format!("twice the same delivery {n:?} of {id}")).collect()
}

pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}{n}")).collect()
}

/// A running host with these peers, each live and past its first message.
pub fn live_host(names: &[String]) -> Host {
    warm(Host::new(), names)
}

/// The same, on a host whose environment is set already.
pub fn warm(mut host: Host, names: &[String]) -> Host {
    for name in names {
        host.run(&["create", name, "--runtime", "echo"]).ok();
    }
    host.start();
    names.iter().for_each(|name| drop(host.deliver(name, "warm up")));
    host
}
