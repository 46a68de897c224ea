//! What must be true of a terminal in the very moment in which something is typed into it.
//!
//! A guard is evaluated by tmux itself, inside the same command list as the act, so nothing can change
//! between look and act. The driver adds what holds for every pane (right pane, alive, not in a mode,
//! input on, the recorded keeper, the marks); the facts here come from the runtime definition or from
//! the last look. Patterns are POSIX extended expressions, matched row by row on the visible screen.

use serde::Deserialize;

/// One thing that tmux can test by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Some visible row matches.
    Shows(String),
    /// No visible row matches.
    Lacks(String),
    /// The title matches.
    TitleShows(String),
    TitleLacks(String),
    CursorShown,
    /// No terminal of a person is attached.
    Unattached,
    /// The cursor is where the last look saw it: nothing has been redrawn since.
    CursorAt {
        x: u16,
        y: u16,
    },
    /// At least one of these groups holds in full.
    Any(Vec<Vec<Fact>>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guard {
    pub facts: Vec<Fact>,
}

/// The facts of a definition: `shows` all, `lacks` none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FactSet {
    pub shows: Vec<Ere>,
    pub lacks: Vec<Ere>,
    pub title_shows: Vec<Ere>,
    pub title_lacks: Vec<Ere>,
    /// The terminal cursor must be visible.
    pub cursor_shown: bool,
}

impl FactSet {
    /// Whether it holds for one message only.
    pub fn names_message(&self) -> bool {
        self.shows.iter().any(Ere::names_message)
    }

    pub fn facts(&self, id: &str, fence: &str) -> Vec<Fact> {
        let fill = |p: &Ere| p.fill(id, fence).text;
        let mut facts: Vec<Fact> = self.shows.iter().map(|p| Fact::Shows(fill(p))).collect();
        facts.extend(self.lacks.iter().map(|p| Fact::Lacks(fill(p))));
        facts.extend(self.title_shows.iter().map(|p| Fact::TitleShows(fill(p))));
        facts.extend(self.title_lacks.iter().map(|p| Fact::TitleLacks(fill(p))));
        if self.cursor_shown {
            facts.push(Fact::CursorShown);
        }
        facts
    }
}

/// A pattern that tmux evaluates: one row, POSIX extended, no classes that only other dialects know.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Ere {
    text: String,
    /// None while `{id}` or `{fence}` still stands in it.
    compiled: Option<regex::Regex>,
}

impl PartialEq for Ere {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Ere {}

impl TryFrom<String> for Ere {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        let mut chars = s.chars();
        while let Some(c) = chars.next() {
            if c == '\\' {
                match chars.next() {
                    Some(n) if n.is_ascii_alphanumeric() => {
                        return Err(format!("\\{n} is not part of POSIX extended expressions, which tmux evaluates here: {s:?}"));
                    }
                    None => return Err(format!("the pattern ends in a backslash: {s:?}")),
                    _ => {}
                }
            }
            if c.is_control() {
                return Err(format!("a pattern of one row holds no control characters: {s:?}"));
            }
        }
        // The C library sorts such signs by its own tables: the range would match nothing, and say nothing.
        let wide = |c: Option<&char>| c.is_some_and(|c| !c.is_ascii());
        let all: Vec<char> = s.chars().collect();
        if all.windows(3).any(|w| w[1] == '-' && wide(w.first()) && wide(w.last())) {
            return Err(format!("a range of characters outside ASCII matches nothing in tmux; list them, or use a class such as [[:alnum:]]: {s:?}"));
        }
        let probe = s.replace("{id}", "0").replace("{fence}", "f");
        let compiled = regex::Regex::new(&probe).map_err(|e| format!("{e}"))?;
        Ok(Ere { compiled: (probe == s).then_some(compiled), text: s })
    }
}

impl Ere {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is about one message.
    pub fn names_message(&self) -> bool {
        self.compiled.is_none()
    }

    /// The pattern for one message.
    pub fn fill(&self, id: &str, fence: &str) -> Ere {
        if self.compiled.is_some() {
            return self.clone();
        }
        let text = self.text.replace("{id}", id).replace("{fence}", fence);
        Ere { compiled: regex::Regex::new(&text).ok(), text }
    }

    /// Whether a row matches, as tmux would say. One that still names no message matches nothing.
    pub fn matches(&self, row: &str) -> bool {
        self.compiled.as_ref().is_some_and(|r| r.is_match(row))
    }
}

/// Quotes a literal for an extended expression.
pub fn quote_ere(literal: &str) -> String {
    literal.chars().fold(String::new(), |mut out, c| {
        if ".[]{}()*+?^$|\\".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_posix_patterns_are_taken() {
        assert!(Ere::try_from("^a\\[b|c$".to_string()).is_ok());
        assert!(Ere::try_from("\\d+".to_string()).is_err());
        assert!(Ere::try_from("a(".to_string()).is_err());
        assert!(Ere::try_from("^[⠀-⣿] ".to_string()).is_err());
        assert!(Ere::try_from("^[^[:alnum:]] [⠋⠙-]?[a-z]".to_string()).is_ok());
        assert_eq!(quote_ere("a.b[c]"), "a\\.b\\[c\\]");
    }
}
