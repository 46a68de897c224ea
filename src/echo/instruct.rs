//! The instructions a message may carry, one a line:
//!
//! | line | does |
//! |---|---|
//! | `reply: TEXT` | answers the sender |
//! | `say: TEXT` | prints it; the last one is the turn's final text |
//! | `relay: a,b,c N` | sends `relay: b,c,a N-1` to `a`; `N` of 0 ends the journey |
//! | `tell: NAME TEXT` | sends TEXT to NAME |
//! | `work: 3s` (or `250ms`) | is busy for that long; Esc interrupts |
//! | `ask: TEXT` | shows a yes/no dialog and waits |
//! | `self: fresh`, `self: done` | says so of its session |
//! | `child: 600s` | starts a child process that lives that long, as a development server would |
//! | `crash: 7` | exits at once with that code |

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Reply(String),
    Say(String),
    Send {
        to: String,
        text: String,
    },
    Work(Duration),
    Ask(String),
    /// `iapeer self-WORD`.
    OfItself(String),
    /// A process of its own that outlives the turn.
    Child(Duration),
    Crash(i32),
}

/// The message inside a turn's text, and who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub id: &'a str,
    pub from: &'a str,
    pub body: &'a str,
}

pub fn envelope(text: &str) -> Option<Envelope<'_>> {
    let start = text.find("<iap ")?;
    let (head, rest) = text[start..].split_once(">\n")?;
    let attribute = |name: &str| head.split_once(&format!(" {name}=\""))?.1.split_once('"').map(|(v, _)| v);
    let end = rest.rfind(&format!("\n</iap:{}>", attribute("fence")?))?;
    Some(Envelope { id: attribute("id")?, from: attribute("from")?, body: &rest[..end] })
}

pub fn parse(body: &str) -> Vec<Instruction> {
    body.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Instruction> {
    let (verb, rest) = line.split_once(": ")?;
    Some(match verb {
        "reply" => Instruction::Reply(rest.into()),
        "say" => Instruction::Say(rest.into()),
        "work" => Instruction::Work(duration(rest.trim())?),
        "self" => Instruction::OfItself(rest.trim().into()),
        "ask" => Instruction::Ask(rest.into()),
        "child" => Instruction::Child(duration(rest.trim())?),
        "crash" => Instruction::Crash(rest.trim().parse().ok()?),
        "tell" => {
            let (to, text) = rest.trim_start().split_once(' ')?;
            Instruction::Send { to: to.into(), text: text.into() }
        }
        "relay" => {
            let (names, count) = rest.trim().rsplit_once(' ')?;
            let count: u64 = count.parse().ok()?;
            let mut names: Vec<&str> = names.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
            if count == 0 || names.is_empty() {
                return None;
            }
            let to = names[0].to_string();
            names.rotate_left(1);
            Instruction::Send { to, text: format!("relay: {} {}", names.join(","), count - 1) }
        }
        _ => return None,
    })
}

fn duration(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.trim().parse().ok().map(Duration::from_millis);
    }
    Duration::try_from_secs_f64(text.strip_suffix('s').unwrap_or(text).trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_line_by_line() {
        let got = parse(
            "hello\ntell: b reply: yes\nwork: 1.5s\nrelay: b,c,a 2\nrelay: b 0\nreply: done: yes\ncrash: 7\nask: sure?\nwork: 20ms\nchild: 600s\nchild: sh -c true\nwork: -1",
        );
        assert_eq!(
            got,
            [
                Instruction::Send { to: "b".into(), text: "reply: yes".into() },
                Instruction::Work(Duration::from_millis(1500)),
                Instruction::Send { to: "b".into(), text: "relay: c,a,b 1".into() },
                Instruction::Reply("done: yes".into()),
                Instruction::Crash(7),
                Instruction::Ask("sure?".into()),
                Instruction::Work(Duration::from_millis(20)),
                Instruction::Child(Duration::from_secs(600)),
            ]
        );
    }

    #[test]
    fn the_envelope_is_found_behind_a_seed() {
        let text = "be kind\n\n<iap id=\"x1\" from=\"echo-a\" fence=\"q\">\nreply: hi\nmore\n</iap:q>";
        assert_eq!(envelope(text), Some(Envelope { id: "x1", from: "echo-a", body: "reply: hi\nmore" }));
        assert_eq!(envelope("plain"), None);
    }
}
