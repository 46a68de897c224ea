//! What a hook report means, by the words of the program's definition.

use crate::core::envelope;
use crate::core::peer::event::HookFact;
use crate::core::runtime::Definition;
use serde_json::Value;

/// What was told, if it concerns us: the fact, and the session it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    pub fact: Option<HookFact>,
    pub session_id: Option<String>,
    pub transcript: Option<String>,
    /// What the agent said last in the turn that ended.
    pub final_text: Option<String>,
}

/// The event under which our own MCP bridge reports that the program asked for its tools.
pub const TOOLS_LISTED: &str = "iapeer-tools-listed";

pub fn interpret(definition: &Definition, event: &str, payload: &Value) -> Heard {
    if event == TOOLS_LISTED {
        return Heard { fact: Some(HookFact::ToolsListed), ..Heard::default() };
    }
    let turn = &definition.turn;
    let filled = |name: &String| match payload.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(s)) => !s.is_empty(),
        Some(Value::Array(a)) => !a.is_empty(),
        Some(_) => true,
    };
    if turn.ignore_with.iter().any(filled) {
        return Heard::default();
    }
    let is = |names: &[String]| names.iter().any(|n| n == event);
    let text = |name: &str| payload.get(name).and_then(Value::as_str).map(String::from);
    let fact = if is(&turn.prompt_submitted) {
        Some(HookFact::PromptSubmitted { ids: envelope::ids_in(&text("prompt").unwrap_or_default()) })
    } else if is(&turn.turn_end) {
        Some(HookFact::TurnEnded)
    } else if is(&turn.turn_failed) {
        Some(HookFact::TurnFailed)
    } else if is(&turn.session_start) {
        Some(HookFact::SessionStarted)
    } else if is(&turn.permission_asked) {
        Some(HookFact::PermissionAsked)
    } else {
        None
    };
    let last = turn.final_text.iter().find_map(|name| text(name)).filter(|t| !t.trim().is_empty());
    let final_text = last.filter(|_| fact == Some(HookFact::TurnEnded));
    Heard { fact, session_id: text("session_id").filter(|id| is_session_id(id)), transcript: text("transcript_path"), final_text }
}

/// It becomes an argument of a later launch: nothing that could pass for an option.
fn is_session_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()) && text.len() <= 128 && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::names::RuntimeName;
    use crate::runtime::load::Runtimes;

    #[test]
    fn a_session_id_is_never_an_option() {
        let good = ["0199a0b0-0000-7000-8000-000000000001", "ses_4c2", "a"];
        assert!(good.into_iter().all(is_session_id));
        let bad = ["", "-x", "--dangerously-skip-permissions", "-cnotify=[]", "a b", "a=b", "../x", &"a".repeat(129)];
        assert!(!bad.into_iter().any(is_session_id));
    }

    #[test]
    fn what_a_program_says_of_a_failed_turn_is_no_final_text() {
        let runtimes = Runtimes::load(std::path::Path::new("/nonexistent"));
        let claude = runtimes.get(&"claude".parse::<RuntimeName>().unwrap()).unwrap();
        let payload = serde_json::json!({"last_assistant_message": "text"});
        let heard = |event| interpret(&claude, event, &payload);
        assert_eq!((heard("Stop").fact, heard("Stop").final_text.as_deref()), (Some(HookFact::TurnEnded), Some("text")));
        assert_eq!((heard("StopFailure").fact, heard("StopFailure").final_text), (Some(HookFact::TurnFailed), None));
    }
}
