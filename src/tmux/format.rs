//! tmux formats of guards: what tmux evaluates by itself in the list that types.
//!
//! `#{&&:a,b}` and `#{||:a,b}` take exactly two arguments on 3.3a, so longer ones are nested.

use crate::core::guard::{Fact, Guard};
use crate::core::message::MessageId;
use crate::core::names::Incarnation;
use crate::ports::terminal::PaneRef;

/// Escapes a pattern for use inside `#{…}`. A `#` before `[` stays single: tmux takes `##[` for two signs
/// (measured on 3.3a).
fn escape(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if matches!(c, ',' | '}') || (c == '#' && chars.peek() != Some(&'[')) {
            out.push('#');
        }
        out.push(c);
    }
    out
}

fn both(mut conditions: Vec<String>, operator: &str) -> String {
    let Some(last) = conditions.pop() else { return "1".into() };
    conditions.into_iter().rev().fold(last, |rest, c| format!("#{{{operator}:{c},{rest}}}"))
}

pub fn all(conditions: Vec<String>) -> String {
    both(conditions, "&&")
}

fn is(variable: &str, value: &str) -> String {
    format!("#{{==:#{{{variable}}},{value}}}")
}

fn is_not(variable: &str, value: &str) -> String {
    format!("#{{!=:#{{{variable}}},{value}}}")
}

fn fact(f: &Fact) -> String {
    match f {
        // The number of the first row that matches; 0 is false.
        Fact::Shows(p) => format!("#{{C/r:{}}}", escape(p)),
        Fact::Lacks(p) => format!("#{{==:#{{C/r:{}}},0}}", escape(p)),
        Fact::TitleShows(p) => format!("#{{m/r:{},#{{pane_title}}}}", escape(p)),
        Fact::TitleLacks(p) => format!("#{{==:#{{m/r:{},#{{pane_title}}}},0}}", escape(p)),
        Fact::CursorShown => is("cursor_flag", "1"),
        Fact::Unattached => is("session_attached", "0"),
        Fact::CursorAt { x, y } => all(vec![is("cursor_x", &x.to_string()), is("cursor_y", &y.to_string())]),
        Fact::Any(groups) => both(groups.iter().map(|g| all(g.iter().map(fact).collect())).collect(), "||"),
    }
}

pub fn facts(guard: &Guard) -> Vec<String> {
    guard.facts.iter().map(fact).collect()
}

/// What holds for every act on a pane: it is this very pane, alive, taking input, under its keeper.
fn pane(pane: &PaneRef) -> Vec<String> {
    vec![is("pane_id", &pane.pane), is("pane_dead", "0"), is("pane_in_mode", "0"), is("pane_input_off", "0"), is("pane_pid", &pane.keeper_pid.to_string())]
}

pub fn mark(id: &MessageId, inc: Incarnation) -> String {
    format!("{id}@{inc}")
}

pub fn submit_mark(id: &MessageId, inc: Incarnation, attempt: u32) -> String {
    format!("{id}@{inc}##{attempt}")
}

/// The paste guard: never twice into one incarnation.
pub fn paste_guard(p: &PaneRef, id: &MessageId, guard: &Guard) -> String {
    let mut conditions = pane(p);
    conditions.push(is_not("@iap_p", &mark(id, p.incarnation)));
    conditions.extend(facts(guard));
    all(conditions)
}

/// Whether the paste mark is that of this message.
pub fn marked(p: &PaneRef, id: &MessageId) -> String {
    is("@iap_p", &mark(id, p.incarnation))
}

/// The submit guard of one attempt: our paste stands, this attempt was not made.
pub fn submit_guard(p: &PaneRef, id: &MessageId, attempt: u32, guard: &Guard) -> String {
    let mut conditions = pane(p);
    conditions.push(is("@iap_p", &mark(id, p.incarnation)));
    conditions.push(is_not("@iap_e", &submit_mark(id, p.incarnation, attempt)));
    conditions.extend(facts(guard));
    all(conditions)
}

/// The guard of a key of a start dialog.
pub fn key_guard(p: &PaneRef, guard: &Guard) -> String {
    let mut conditions = pane(p);
    conditions.extend(facts(guard));
    all(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_nest_in_pairs_and_patterns_are_escaped() {
        assert_eq!(all(vec!["a".into(), "b".into(), "c".into()]), "#{&&:a,#{&&:b,c}}");
        assert_eq!(fact(&Fact::Shows("^a,{2}#$".into())), "#{C/r:^a#,{2#}##$}");
        assert_eq!(fact(&Fact::Shows("text #[0-9]".into())), "#{C/r:text #[0-9]}");
        let any = Fact::Any(vec![vec![Fact::CursorShown], vec![Fact::Lacks("x".into())]]);
        assert_eq!(fact(&any), "#{||:#{==:#{cursor_flag},1},#{==:#{C/r:x},0}}");
    }
}
