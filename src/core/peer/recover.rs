//! What is done with a claim found at start, or after a death: the recovery table, as a function.

use super::DEATHS_PER_MESSAGE;
use crate::core::message::{Evidence, MessageId};
use crate::core::names::Incarnation;

/// What is seen.
#[derive(Debug, Clone)]
pub struct Findings<'a> {
    pub id: &'a MessageId,
    pub incarnation: Incarnation,
    /// Hook spool or transcript carries the id.
    pub evidence: Option<Evidence>,
    /// The claimed incarnation still runs, with these marks in its pane.
    pub marks: Option<(&'a str, &'a str)>,
    pub attempt: u32,
    /// Deaths under this claim, the present one included.
    pub deaths: u32,
    pub at_most_once: bool,
    /// Its time to live has passed.
    pub expired: bool,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    Done(Evidence),
    /// The submit key followed already, in this attempt: wait for evidence, then the re-Enter rule.
    AwaitEvidence {
        attempt: u32,
    },
    GuardedSubmit,
    GuardedPaste,
    /// Back to `new/` at its old place.
    Redeliver {
        attempt: u32,
    },
    /// `at_most_once`: a person decides.
    Park,
    /// It ended its agent too often.
    Dead,
    /// Nothing of it was typed, and its time is over.
    Expire,
}

pub fn decide(f: &Findings<'_>) -> Recovery {
    if let Some(evidence) = f.evidence {
        return Recovery::Done(evidence);
    }
    match f.marks {
        Some((pasted, entered)) => {
            let mark = format!("{}@{}", f.id, f.incarnation);
            match entered.strip_prefix(mark.as_str()).and_then(|n| n.strip_prefix('#')) {
                Some(attempt) => Recovery::AwaitEvidence { attempt: attempt.parse().unwrap_or(1) },
                None if pasted == mark => Recovery::GuardedSubmit,
                None if f.expired => Recovery::Expire,
                None => Recovery::GuardedPaste,
            }
        }
        None if f.deaths >= DEATHS_PER_MESSAGE => Recovery::Dead,
        None if f.at_most_once => Recovery::Park,
        None => Recovery::Redeliver { attempt: f.attempt + 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_recovery_table() {
        let id: MessageId = "0199a0b0-0000-7000-8000-000000000001".parse().unwrap();
        let mark = format!("{id}@4");
        let entered = format!("{id}@4#2");
        let base = Findings { id: &id, incarnation: 4, evidence: None, marks: Some(("", "")), attempt: 1, deaths: 0, at_most_once: false, expired: false };
        let check = |f: Findings<'_>, want: Recovery| assert_eq!(decide(&f), want, "{f:?}");

        check(Findings { evidence: Some(Evidence::Hook), marks: None, ..base.clone() }, Recovery::Done(Evidence::Hook));
        check(Findings { marks: Some((&mark, &entered)), ..base.clone() }, Recovery::AwaitEvidence { attempt: 2 });
        check(Findings { marks: Some((&mark, "")), ..base.clone() }, Recovery::GuardedSubmit);
        check(base.clone(), Recovery::GuardedPaste);
        check(Findings { expired: true, ..base.clone() }, Recovery::Expire);
        // What may be in the agent is past expiring; what goes back into the queue expires there.
        check(Findings { marks: Some((&mark, "")), expired: true, ..base.clone() }, Recovery::GuardedSubmit);
        check(Findings { marks: None, deaths: 1, expired: true, ..base.clone() }, Recovery::Redeliver { attempt: 2 });
        // Marks of another message or of another incarnation are not ours.
        check(Findings { marks: Some((&format!("{id}@3"), &format!("{id}@3#1"))), ..base.clone() }, Recovery::GuardedPaste);
        check(Findings { marks: Some((&mark, &format!("{id}@44#1"))), ..base.clone() }, Recovery::GuardedSubmit);
        check(Findings { marks: None, deaths: 1, ..base.clone() }, Recovery::Redeliver { attempt: 2 });
        check(Findings { marks: None, deaths: 1, at_most_once: true, ..base.clone() }, Recovery::Park);
        check(Findings { marks: None, deaths: 3, ..base }, Recovery::Dead);
    }
}
