//! Whether a watched path has news, and whether it has come to rest.
//!
//! What appears or changes is news; what only goes is not, so that a worker may take files out of the
//! folder that wakes it. A path that is being written is waited for, but not without end.

use crate::core::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A path counts as written when it has not changed for so long.
pub const QUIET_MS: Millis = 500;
/// What never rests is told at least so often.
pub const PATIENCE_MS: Millis = 10_000;

/// What lay there, by name, each with a mark that another content changes: one file, or the entries of a
/// directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seen(pub BTreeMap<String, String>);

impl Seen {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something is here that was not there, or was another.
    pub fn is_news_to(&self, known: &Seen) -> bool {
        self.0.iter().any(|(name, mark)| known.0.get(name) != Some(mark))
    }
}

/// A change on its way to being told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settling {
    pending: Option<Pending>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pending {
    began: Millis,
    since: Millis,
    seen: Seen,
}

impl Pending {
    fn due(&self) -> Millis {
        (self.since + QUIET_MS).min(self.began + PATIENCE_MS)
    }
}

impl Settling {
    /// Takes in what lies there now; true when the change is to be told.
    pub fn look(&mut self, known: &Seen, seen: &Seen, now: Millis) -> bool {
        if !seen.is_news_to(known) {
            self.pending = None;
            return false;
        }
        let began = self.pending.as_ref().map_or(now, |p| p.began);
        let since = self.pending.as_ref().filter(|p| p.seen == *seen).map_or(now, |p| p.since);
        let pending = Pending { began, since, seen: seen.clone() };
        let due = pending.due() <= now;
        self.pending = Some(pending);
        due
    }

    /// When to look again.
    pub fn due(&self) -> Option<Millis> {
        self.pending.as_ref().map(Pending::due)
    }

    pub fn told(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(entries: &[(&str, &str)]) -> Seen {
        Seen(entries.iter().map(|(n, m)| (n.to_string(), m.to_string())).collect())
    }

    #[test]
    fn what_appears_or_changes_is_news_and_what_goes_is_not() {
        let known = seen(&[("a", "1"), ("b", "1")]);
        assert!(seen(&[("a", "1"), ("b", "2")]).is_news_to(&known));
        assert!(seen(&[("a", "1"), ("b", "1"), ("c", "1")]).is_news_to(&known));
        assert!(!seen(&[("a", "1")]).is_news_to(&known));
        assert!(!Seen::default().is_news_to(&known));
    }

    #[test]
    fn a_burst_is_told_once_when_it_is_over() {
        let known = Seen::default();
        let mut s = Settling::default();
        for (now, mark) in [(0, "1"), (400, "2"), (800, "3")] {
            assert!(!s.look(&known, &seen(&[("a", mark)]), now), "{now}");
        }
        assert_eq!(s.due(), Some(1_300));
        assert!(!s.look(&known, &seen(&[("a", "3")]), 1_299));
        assert!(s.look(&known, &seen(&[("a", "3")]), 1_300));
        s.told();
        assert!(!s.look(&seen(&[("a", "3")]), &seen(&[("a", "3")]), 9_000), "told once");
        assert_eq!(s.due(), None);
    }

    #[test]
    fn what_never_rests_is_told_all_the_same() {
        let mut s = Settling::default();
        let told = (0..200).position(|n| s.look(&Seen::default(), &seen(&[("log", &n.to_string())]), n * 100));
        assert_eq!(told, Some(100));
    }

    #[test]
    fn what_appears_and_goes_again_is_nothing() {
        let mut s = Settling::default();
        assert!(!s.look(&Seen::default(), &seen(&[("a", "1")]), 0));
        assert!(!s.look(&Seen::default(), &Seen::default(), 600));
        assert_eq!(s.due(), None);
    }
}
