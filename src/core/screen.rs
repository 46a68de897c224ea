//! What a captured screen shows: rows with the attributes that tell a person's text from a ghost, and
//! the classification by a runtime definition.
//!
//! Matchers look at the bottom of the screen, because conversation text above may contain anything,
//! this file included. What no rule recognises is [`Class::Unknown`], and nothing is typed into it.

use super::guard::{Ere, Fact, FactSet, Guard, quote_ere};
use super::runtime::{Definition, ScreenClass, ScreenRule};
use crate::core::zone::Zone;
use chrono::DateTime;

/// One character with the one attribute that carries meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub ch: char,
    /// Drawn faint (SGR 2): a ghost suggestion or a placeholder, not a person's text.
    pub dim: bool,
    /// Drawn reversed (SGR 7): a cursor that the program draws by itself.
    pub reverse: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Screen {
    pub rows: Vec<Vec<Cell>>,
    pub cursor: (u16, u16),
    pub cursor_shown: bool,
    pub title: String,
}

impl Screen {
    /// Reads what `capture-pane -p -e` prints. Attributes carry over from row to row.
    pub fn parse(captured: &str) -> Screen {
        let (mut dim, mut reverse) = (false, false);
        let mut rows = Vec::new();
        for line in captured.trim_end_matches('\n').split('\n') {
            let mut row = Vec::new();
            let mut chars = line.chars().peekable();
            while let Some(c) = chars.next() {
                if c != '\u{1b}' {
                    if c >= ' ' {
                        row.push(Cell { ch: c, dim, reverse });
                    }
                    continue;
                }
                if chars.next_if_eq(&'[').is_none() {
                    continue;
                }
                let mut parameters = String::new();
                for p in chars.by_ref() {
                    if ('@'..='~').contains(&p) {
                        if p == 'm' {
                            sgr(&parameters, &mut dim, &mut reverse);
                        }
                        break;
                    }
                    parameters.push(p);
                }
            }
            while row.last().is_some_and(|c: &Cell| c.ch == ' ' && !c.reverse) {
                row.pop();
            }
            rows.push(row);
        }
        Screen { rows, ..Screen::default() }
    }

    pub fn row_text(&self, row: usize) -> String {
        let text: String = self.rows.get(row).into_iter().flatten().map(|c| c.ch).collect();
        text.trim_end_matches(' ').to_string()
    }

    /// The bottom-most `count` rows that are not blank, joined by LF.
    pub fn tail(&self, count: usize) -> String {
        let mut rows: Vec<String> = (0..self.rows.len()).rev().map(|i| self.row_text(i)).filter(|t| !t.trim().is_empty()).take(count).collect();
        rows.reverse();
        rows.join("\n")
    }

    /// Everything, as plain text.
    pub fn text(&self) -> String {
        (0..self.rows.len()).map(|i| self.row_text(i)).collect::<Vec<_>>().join("\n").trim_end().to_string()
    }
}

fn sgr(parameters: &str, dim: &mut bool, reverse: &mut bool) {
    let mut codes = parameters.split([';', ':']).map(|p| p.parse::<u16>().unwrap_or(0));
    while let Some(code) = codes.next() {
        match code {
            0 => (*dim, *reverse) = (false, false),
            2 => *dim = true,
            22 => *dim = false,
            7 => *reverse = true,
            27 => *reverse = false,
            // Colours take arguments that must not be read as attributes.
            38 | 48 | 58 => match codes.next() {
                Some(5) => drop(codes.next()),
                Some(2) => drop((codes.next(), codes.next(), codes.next())),
                _ => {}
            },
            _ => {}
        }
    }
}

/// What the screen is, by the first rule that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    Dialog(String),
    Picker,
    Busy,
    Ready,
    /// The program has drawn nothing it can be recognised by yet, or something new.
    Unknown,
}

/// What stands in the composer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Composer {
    Absent,
    /// Nothing, or only the program's own placeholder or ghost suggestion.
    Empty {
        row: usize,
    },
    /// Text that is not ours to touch.
    Text(String),
}

/// A look at a live pane: the classification and what tmux says of the pane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub class: Class,
    pub composer: Composer,
    /// The exact text of the composer's row.
    pub composer_row: String,
    pub cursor: (u16, u16),
    pub cursor_shown: bool,
    pub dead: bool,
    pub in_mode: bool,
    pub input_off: bool,
    /// Attached clients.
    pub attached: u32,
    /// One of them has pressed a key within the last two seconds.
    pub typing: bool,
    /// What the definition's paste guard wants absent, and what is absent now.
    pub absent: Vec<Fact>,
    /// The rows as text, and the title.
    pub rows: Vec<String>,
    pub title: String,
    /// The marks in the pane's options: `<id>@<inc>` and `<id>@<inc>#<attempt>`.
    pub mark_pasted: String,
    pub mark_entered: String,
    /// The host's clock at this look: what a screen says of time is said in it.
    pub wall: DateTime<Zone>,
}

pub fn classify(definition: &Definition, screen: &Screen) -> (Class, Composer, String) {
    let class = definition.screen.iter().find(|rule| matches(rule, screen)).map_or(Class::Unknown, |rule| match rule.class {
        ScreenClass::Dialog => Class::Dialog(rule.name.clone().unwrap_or_else(|| "unnamed".into())),
        ScreenClass::Picker => Class::Picker,
        ScreenClass::Busy => Class::Busy,
        ScreenClass::Ready => Class::Ready,
    });
    let (composer, row) = composer(definition, screen);
    (class, composer, row)
}

fn matches(rule: &ScreenRule, screen: &Screen) -> bool {
    let tail = screen.tail(rule.tail);
    rule.all.iter().all(|p| p.is_match(&tail))
        && (rule.any.is_empty() || rule.any.iter().any(|p| p.is_match(&tail)))
        && !rule.none.iter().any(|p| p.is_match(&tail))
        && rule.title.as_ref().is_none_or(|p| p.is_match(&screen.title))
        && rule.cursor_shown.is_none_or(|want| want == screen.cursor_shown)
}

/// The bottom-most row that begins like the composer, and whether a person's text stands behind it.
fn composer(definition: &Definition, screen: &Screen) -> (Composer, String) {
    let draft = &definition.draft;
    let found = (0..screen.rows.len()).rev().find_map(|i| draft.composer.find(&screen.row_text(i)).map(|m| (i, m.as_str().chars().count())));
    let Some((at, prompt)) = found else {
        return (Composer::Absent, String::new());
    };
    let row_text = screen.row_text(at);
    let behind: Vec<Cell> = screen.rows[at].iter().skip(prompt).copied().collect();
    // The program's own cursor stands on the first letter of a ghost and hides its faintness there.
    let ghost = |cells: &[Cell]| {
        let visible: Vec<&Cell> = cells.iter().filter(|c| c.ch != ' ' && c.ch != '\u{a0}').collect();
        visible.iter().enumerate().all(|(i, c)| c.dim || (i == 0 && c.reverse && visible.len() > 1))
    };
    let typed: String = behind.iter().map(|c| c.ch).collect();
    // Further rows of a long draft stand indented below the first.
    let below = (at + 1..screen.rows.len()).map(|i| screen.row_text(i)).take_while(|t| draft.continuation.as_ref().is_some_and(|c| c.is_match(t)));
    let more: Vec<String> = below.collect();
    if ghost(&behind) && more.is_empty() {
        (Composer::Empty { row: at }, row_text)
    } else {
        let mut text = typed;
        for line in more {
            text.push('\n');
            text.push_str(line.trim());
        }
        (Composer::Text(text), row_text)
    }
}

/// Which of the absences that a definition's paste guard asks for hold on this screen. A pattern that
/// conversation text happens to show is left out: the classification has looked at the right place.
pub fn absent(definition: &Definition, screen: &Screen) -> Vec<Fact> {
    let guard = &definition.input.guard;
    let rows: Vec<String> = (0..screen.rows.len()).map(|i| screen.row_text(i)).collect();
    let rows = guard.lacks.iter().filter(|p| !rows.iter().any(|r| p.matches(r))).map(|p| Fact::Lacks(p.as_str().into()));
    let title = guard.title_lacks.iter().filter(|p| !p.matches(&screen.title)).map(|p| Fact::TitleLacks(p.as_str().into()));
    rows.chain(title).collect()
}

impl Look {
    /// Whether the composer holds the text of this message: nothing else may be submitted. A placeholder
    /// could also be a person's, so it counts only while nobody is attached.
    pub fn composer_holds(&self, definition: &Definition, id: &str, fence: &str) -> bool {
        let text = match &self.composer {
            Composer::Text(text) => text,
            Composer::Empty { .. } => return false,
            // Its first row has scrolled out of sight: what the definition takes for a paste that names this
            // message is as good.
            Composer::Absent => return definition.input.taken.iter().any(|set| set.names_message() && self.shows(set, id, fence)),
        };
        let placeholder = || definition.input.taken.iter().flat_map(|g| &g.shows).any(|p| p.fill(id, fence).matches(&self.composer_row));
        // In a narrow terminal the row of the id is wrapped; the fence is as much of this message alone.
        let named = text.contains(&format!("<iap id=\"{id}\"")) || text.contains(&format!("</iap:{fence}>"));
        named || (self.attached == 0 && placeholder())
    }

    /// Whether all facts of a definition hold on this screen.
    fn shows(&self, set: &FactSet, id: &str, fence: &str) -> bool {
        let somewhere = |p: &Ere| {
            let pattern = p.fill(id, fence);
            self.rows.iter().any(|row| pattern.matches(row))
        };
        set.shows.iter().all(somewhere)
            && !set.lacks.iter().any(somewhere)
            && set.title_shows.iter().all(|p| p.matches(&self.title))
            && !set.title_lacks.iter().any(|p| p.matches(&self.title))
            && (!set.cursor_shown || self.cursor_shown)
    }

    /// Binds an act to exactly this look: the cursor has not moved, the composer's row is the same, and
    /// nothing has appeared that the definition wants absent.
    pub fn guard(&self) -> Guard {
        let mut facts = vec![Fact::CursorAt { x: self.cursor.0, y: self.cursor.1 }];
        facts.extend(self.absent.iter().cloned());
        if !self.composer_row.is_empty() {
            // Not trimmed: a no-break space behind the prompt is part of the row, also for tmux.
            facts.push(Fact::Shows(format!("^{}$", quote_ere(&self.composer_row))));
        }
        if self.cursor_shown {
            facts.push(Fact::CursorShown);
        }
        Guard { facts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_and_colours_are_not_attributes() {
        let s = Screen::parse("\u{1b}[38;5;2ma\u{1b}[2mb\u{1b}[0;7mc\u{1b}[0md\n\u{1b}[48;2;7;7;2me");
        let row: Vec<(char, bool, bool)> = s.rows[0].iter().map(|c| (c.ch, c.dim, c.reverse)).collect();
        assert_eq!(row, [('a', false, false), ('b', true, false), ('c', false, true), ('d', false, false)]);
        assert!(!s.rows[1][0].dim && !s.rows[1][0].reverse);
    }

    #[test]
    fn the_tail_leaves_blank_rows_out() {
        let s = Screen::parse("one\n\ntwo\n   \nthree\n\n");
        assert_eq!(s.tail(2), "two\nthree");
    }
}
