//! Names and addresses: personality, runtime, identity, incarnation.
//!
//! A name is parsed once at the border and trusted from then on: it is safe as a file name, as a tmux
//! session name and inside a tmux format. Nothing here is ever renamed silently.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest personality or runtime name, in bytes.
pub const NAME_MAX: usize = 32;

/// The reserved mailbox of the person at the machine.
pub const OPERATOR: &str = "operator";
/// The name with which the system itself signs.
pub const SYSTEM: &str = "iapeer";

/// Words of the command line and of the address space that no peer may bear.
pub const RESERVED: &[&str] = &[
    OPERATOR,
    SYSTEM,
    "all",
    "add-runtime",
    "approvals",
    "approve",
    "attach",
    "compact",
    "completions",
    "create",
    "daemon",
    "default-runtime",
    "deny",
    "doctor",
    "echo-agent",
    "explain",
    "freeze",
    "help",
    "history",
    "hook",
    "import",
    "inbox",
    "init",
    "interrupt",
    "keep",
    "list",
    "logs",
    "ls",
    "man",
    "mcp",
    "messages",
    "new",
    "pane-log",
    "queue",
    "refresh",
    "remove",
    "rename",
    "runtimes",
    "schedules",
    "screen",
    "self-done",
    "self-fresh",
    "send",
    "service",
    "sessions",
    "start",
    "status",
    "stop",
    "trust",
    "unfreeze",
    "verify",
    "version",
    "wait",
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a {kind} is 1 to {NAME_MAX} characters of {alphabet} and begins with a letter; {given:?} is not one")]
    Shape { kind: &'static str, alphabet: &'static str, given: String },
    #[error("the name {0:?} is reserved")]
    Reserved(String),
    #[error("the name {0:?} begins like an identity ({1}-…), which would make addresses ambiguous")]
    LikeIdentity(String, String),
    #[error("{0:?} is not an identity: it has the form <runtime>-<personality>")]
    NoDash(String),
    #[error("the folder name {0:?} has no letters to make a name of")]
    NoLetters(String),
}

fn shape(kind: &'static str, given: &str, dash: bool) -> Result<(), NameError> {
    let alphabet = if dash { "a-z, 0-9 and -" } else { "a-z and 0-9" };
    let ok = (1..=NAME_MAX).contains(&given.len())
        && given.starts_with(|c: char| c.is_ascii_lowercase())
        && given.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || (dash && c == '-'));
    if ok { Ok(()) } else { Err(NameError::Shape { kind, alphabet, given: given.chars().take(80).collect() }) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }
    };
}

name_type!(
    /// A peer's name: `^[a-z][a-z0-9-]{0,31}$`, not reserved.
    Personality
);
name_type!(
    /// The program that embodies a peer: `^[a-z][a-z0-9]{0,31}$`, no dash.
    RuntimeName
);

impl FromStr for Personality {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        shape("personality", s, true)?;
        if RESERVED.contains(&s) {
            return Err(NameError::Reserved(s.into()));
        }
        Ok(Personality(s.into()))
    }
}

impl FromStr for RuntimeName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        shape("runtime", s, false)?;
        if RESERVED.contains(&s) {
            return Err(NameError::Reserved(s.into()));
        }
        Ok(RuntimeName(s.into()))
    }
}

impl RuntimeName {
    /// The embedded program.
    pub fn echo() -> Self {
        RuntimeName("echo".into())
    }
    /// No program and no terminal: a person or a bridge that reads its mail by API.
    pub fn none() -> Self {
        RuntimeName("none".into())
    }
    pub fn is_none(&self) -> bool {
        self.0 == "none"
    }
}

impl Personality {
    /// The name for a folder: its last component, transliterated by `ascii`, lowercased, every other run
    /// of characters turned into one dash, cut to 32.
    pub fn from_folder_name(ascii: &str) -> Result<Self, NameError> {
        let mut out = String::new();
        for c in ascii.chars().flat_map(char::to_lowercase) {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                out.push(c);
            } else if !out.is_empty() && !out.ends_with('-') {
                out.push('-');
            }
        }
        let trimmed = out.trim_start_matches(|c: char| !c.is_ascii_lowercase());
        let cut: String = trimmed.chars().take(NAME_MAX).collect();
        let cut = cut.trim_end_matches('-');
        if cut.is_empty() {
            return Err(NameError::NoLetters(ascii.chars().take(80).collect()));
        }
        cut.parse()
    }

    /// Refuses a personality that reads like the identity of a known runtime (`claude-bob`).
    pub fn check_against<'a>(&self, runtimes: impl IntoIterator<Item = &'a RuntimeName>) -> Result<(), NameError> {
        match runtimes.into_iter().find(|r| self.0.starts_with(&format!("{r}-"))) {
            Some(r) => Err(NameError::LikeIdentity(self.0.clone(), r.0.clone())),
            None => Ok(()),
        }
    }
}

/// `<runtime>-<personality>`, split at the first dash: the address of one presence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    pub runtime: RuntimeName,
    pub personality: Personality,
}

impl Identity {
    pub fn new(runtime: RuntimeName, personality: Personality) -> Self {
        Identity { runtime, personality }
    }
}
impl FromStr for Identity {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let (runtime, personality) = s.split_once('-').ok_or_else(|| NameError::NoDash(s.chars().take(80).collect()))?;
        Ok(Identity { runtime: runtime.parse()?, personality: personality.parse()? })
    }
}
impl TryFrom<String> for Identity {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}
impl From<Identity> for String {
    fn from(i: Identity) -> String {
        i.to_string()
    }
}
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.runtime, self.personality)
    }
}
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who owns a mailbox or sends a message: a peer, the person at the machine, or the system itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Party {
    Operator,
    System,
    Peer(Identity),
}

impl Party {
    pub fn peer(&self) -> Option<&Identity> {
        if let Party::Peer(i) = self { Some(i) } else { None }
    }
}
impl FromStr for Party {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        match s {
            OPERATOR => Ok(Party::Operator),
            SYSTEM => Ok(Party::System),
            _ => s.parse().map(Party::Peer),
        }
    }
}
impl TryFrom<String> for Party {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}
impl From<Party> for String {
    fn from(p: Party) -> String {
        p.to_string()
    }
}
impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Operator => f.write_str(OPERATOR),
            Party::System => f.write_str(SYSTEM),
            Party::Peer(i) => write!(f, "{i}"),
        }
    }
}
impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The n-th session of an identity. Starts at 1; 0 means "none yet".
pub type Incarnation = u64;

/// Names within edit distance 2 of `wanted`, nearest first, for "did you mean".
pub fn near<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut scored: Vec<(usize, &str)> =
        known.into_iter().map(|k| (if k.starts_with(wanted) || wanted.starts_with(k) { 1 } else { distance(wanted, k) }, k)).filter(|(d, _)| *d <= 2).collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().map(|(_, k)| k).take(3).collect()
}

/// Edits, insertions, deletions and swaps of neighbours that lead from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_become_personalities() {
        for (folder, want) in [
            ("My Project", "my-project"),
            ("bob", "bob"),
            ("2024-report", "report"),
            ("a__b..c", "a-b-c"),
            ("trailing--", "trailing"),
            ("x123456789012345678901234567890123456789", "x1234567890123456789012345678901"),
        ] {
            assert_eq!(Personality::from_folder_name(folder).unwrap().as_str(), want, "{folder}");
        }
        assert!(matches!(Personality::from_folder_name("123"), Err(NameError::NoLetters(_))));
        assert!(matches!(Personality::from_folder_name("Operator"), Err(NameError::Reserved(_))));
    }

    #[test]
    fn hostile_names_are_refused() {
        for bad in ["", "A", "#(touch x)", "../x", "a/b", "a b", "a\0b", "1a", "-a", "é", "operator", &"a".repeat(33)] {
            assert!(bad.parse::<Personality>().is_err(), "{bad:?}");
        }
        for bad in ["claude-", "-bob", "clau de-bob", "claude", "cl-operator"] {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn identity_splits_at_the_first_dash() {
        let id: Identity = "claude-my-bob".parse().unwrap();
        assert_eq!((id.runtime.as_str(), id.personality.as_str()), ("claude", "my-bob"));
        let claude: RuntimeName = "claude".parse().unwrap();
        let p: Personality = "claude-bob".parse().unwrap();
        assert!(p.check_against([&claude]).is_err());
    }

    #[test]
    fn near_names_come_nearest_first() {
        assert_eq!(near("bbo", ["bob", "alice", "bo"]), ["bo", "bob"]);
        assert_eq!(near("sned", ["new", "send", "list"]), ["send", "new"]);
        assert!(near("zzzzzz", ["bob"]).is_empty());
    }
}
