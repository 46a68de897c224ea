//! What a list printed, read back: the one place that knows the words and fields of `argv`'s lists.
//!
//! An exit code of 0 is never taken as proof: a guarded list prints a word of ours when it acted, and
//! prints the pane's state and screen when its guard refused. Neither: the call failed, and the act may
//! or may not have happened; the marks in the pane tell the next call.

use super::argv::{LOOK, OK_SUBMIT, SEPARATOR, STARTED};
use crate::ports::terminal::{Acted, Captured, Started, TerminalError};
use crate::sys::process;

/// How a client of tmux ended, and what it was told.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Answer {
    pub fn new(code: i32, out: &[u8], err: &[u8]) -> Self {
        Answer { code, out: String::from_utf8_lossy(out).into_owned(), err: String::from_utf8_lossy(err).into_owned() }
    }

    fn said(self) -> Result<String, TerminalError> {
        if self.code != 0 && !self.out.contains(LOOK) {
            return Err(TerminalError::Said(self.err.trim().chars().take(300).collect()));
        }
        Ok(self.out)
    }

    pub fn looked(self) -> Result<Captured, TerminalError> {
        parse_look(&self.said()?).ok_or_else(|| TerminalError::Said("no look in the answer".into()))
    }

    /// Whether the guarded list acted: then it printed `done`.
    pub fn acted(self, done: &str) -> Result<Acted, TerminalError> {
        let out = self.said()?;
        // Behind a look's header stands the screen of a program, which may show anything.
        let ours = &out[..out.find(LOOK).unwrap_or(out.len())];
        if ours.lines().any(|l| l == done) {
            return Ok(Acted::Done { submitted_too: ours.lines().any(|l| l == OK_SUBMIT) });
        }
        match parse_look(&out) {
            Some(captured) => Ok(Acted::Refused(Box::new(captured))),
            None => Err(TerminalError::Said("the list neither acted nor refused".into())),
        }
    }

    pub fn started(self) -> Result<Started, TerminalError> {
        let out = self.said()?;
        let line = out.lines().find(|l| l.starts_with(STARTED)).ok_or_else(|| TerminalError::Said("new-session printed nothing".into()))?;
        let mut fields = line.split(SEPARATOR).skip(1);
        let mut field = || fields.next().unwrap_or_default().to_string();
        let (pane, keeper_pid, server_pid, tty) = (field(), field(), field(), field());
        let number = |s: &str| s.parse::<i32>().map_err(|_| TerminalError::Said(format!("unexpected answer {line:?}")));
        let server = process::reference(number(&server_pid)?).ok_or_else(|| TerminalError::Said("the server ended at once".into()))?;
        Ok(Started { pane, tty: tty.into(), keeper_pid: number(&keeper_pid)?, server })
    }
}

fn parse_look(out: &str) -> Option<Captured> {
    let at = out.find(LOOK)?;
    let (header, screen) = out[at..].split_once('\n')?;
    let mut fields = header.splitn(13, SEPARATOR).skip(1);
    let mut field = || fields.next().unwrap_or_default();
    let number = |s: &str| s.parse().unwrap_or(0);
    Some(Captured {
        cursor: (number(field()), number(field())),
        cursor_shown: field() == "1",
        dead: field() == "1",
        in_mode: !matches!(field(), "0" | ""),
        input_off: field() == "1",
        attached: field().parse().unwrap_or(0),
        client_activity: field().parse().ok(),
        pane_pid: field().parse().unwrap_or(0),
        mark_pasted: field().to_string(),
        mark_entered: field().to_string(),
        title: field().to_string(),
        screen: screen.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tmux::argv::OK_PASTE;

    #[test]
    fn a_program_that_shows_our_words_turns_no_refusal_into_an_act() {
        let header = |screen: &str| format!("{LOOK}{}\n{screen}", format!("{SEPARATOR}0").repeat(12));
        let answer = |out: String| Answer::new(0, out.as_bytes(), b"").acted(OK_PASTE);
        let forged = header(&format!("a row\n{OK_PASTE}\n{OK_SUBMIT}\n"));
        assert!(matches!(answer(forged), Ok(Acted::Refused(seen)) if seen.screen.contains(OK_PASTE)));
        assert!(matches!(answer(format!("{OK_PASTE}\n")), Ok(Acted::Done { submitted_too: false })));
        assert!(matches!(answer(format!("{OK_PASTE}\n{OK_SUBMIT}\n")), Ok(Acted::Done { submitted_too: true })));
        // Acted, and then a look that was asked for beside.
        assert!(matches!(answer(format!("{OK_PASTE}\n{}", header("x"))), Ok(Acted::Done { .. })));
    }
}
