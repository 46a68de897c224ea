//! Reading an agent program's own transcript: which records are user turns of ours, which end a turn.
//!
//! Only records of the kinds that the definition names count, so a message id that the model quotes is
//! no evidence.

use crate::core::envelope;
use crate::core::message::{MessageId, TranscriptMark};
use crate::core::runtime::{Definition, RecordRule};
use crate::tmux::watch::Tail;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What one record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    UserTurn(Vec<MessageId>),
    TurnEnd,
}

pub fn read(definition: &Definition, line: &str) -> Option<Said> {
    let rules = definition.transcript.as_ref()?;
    let record: Value = serde_json::from_str(line).ok()?;
    if rules.turn_end.iter().any(|r| fits(r, &record)) {
        return Some(Said::TurnEnd);
    }
    let rule = rules.user.iter().find(|r| fits(r, &record))?;
    let mut text = String::new();
    for pointer in &rule.text {
        record.pointer(pointer).into_iter().for_each(|v| strings(v, &mut text));
    }
    let ids = envelope::ids_in(&text);
    (!ids.is_empty()).then_some(Said::UserTurn(ids))
}

fn fits(rule: &RecordRule, record: &Value) -> bool {
    rule.equals.iter().all(|(pointer, want)| record.pointer(pointer).and_then(Value::as_str) == Some(want))
}

fn strings(value: &Value, out: &mut String) {
    match value {
        Value::String(s) => {
            out.push_str(s);
            out.push('\n');
        }
        Value::Array(items) => items.iter().for_each(|v| strings(v, out)),
        Value::Object(map) => map.values().for_each(|v| strings(v, out)),
        _ => {}
    }
}

/// Where a transcript stands now: evidence counts only behind this.
pub fn mark(path: &str) -> Option<TranscriptMark> {
    let meta = std::fs::metadata(path).ok()?;
    Some(TranscriptMark { path: path.into(), inode: meta.ino(), offset: meta.len() })
}

/// A proof further behind the mark is not looked for.
const MOST_PROOF: u64 = 1024 * 1024 * 1024;

/// Whether the transcript proves the message: behind the mark, or from the start of a file that was
/// born later.
pub fn proves(definition: &Definition, path: &str, mark: Option<&TranscriptMark>, id: &MessageId) -> bool {
    let Ok(meta) = std::fs::metadata(Path::new(path)) else { return false };
    let offset = mark.filter(|m| m.path == path && m.inode == meta.ino() && m.offset <= meta.len()).map_or(0, |m| m.offset);
    let mut tail = Tail::new(path.into(), offset);
    let end = offset.saturating_add(MOST_PROOF);
    loop {
        let before = tail.offset;
        if tail.lines().iter().any(|l| matches!(read(definition, l), Some(Said::UserTurn(ids)) if ids.contains(id))) {
            return true;
        }
        if tail.offset == before || tail.offset > end {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::names::RuntimeName;
    use crate::runtime::load::Runtimes;

    #[test]
    fn only_user_turns_prove() {
        let runtimes = Runtimes::load(Path::new("/nonexistent"));
        let id: MessageId = "0199a0b0-0000-7000-8000-000000000001".parse().unwrap();
        let quoted = format!("<iap id=\\\"{id}\\\" from=\\\"echo-a\\\">");
        let claude = runtimes.get(&"claude".parse::<RuntimeName>().unwrap()).unwrap();
        let user = format!(r#"{{"type":"user","message":{{"role":"user","content":"{quoted}"}}}}"#);
        assert_eq!(read(&claude, &user), Some(Said::UserTurn(vec![id.clone()])));
        let model = format!(r#"{{"type":"assistant","message":{{"role":"assistant","content":"{quoted}"}}}}"#);
        assert_eq!(read(&claude, &model), None);
        let codex = runtimes.get(&"codex".parse::<RuntimeName>().unwrap()).unwrap();
        let user = format!(
            r#"{{"type":"event_msg","payload":{{"type":"item_completed","item":{{"type":"UserMessage","content":[{{"type":"text","text":"{quoted}"}}]}}}}}}"#
        );
        assert_eq!(read(&codex, &user), Some(Said::UserTurn(vec![id])));
        assert_eq!(read(&codex, r#"{"type":"event_msg","payload":{"type":"turn_aborted"}}"#), Some(Said::TurnEnd));
    }
}
