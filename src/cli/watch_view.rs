//! What `list --watch` shows, as a function of what is known and of the terminal's size.

use super::show::sign;
use crate::api::shapes::PeerView;
use crate::core::profile::ApprovalMode;
use crate::core::sanitize;
use chrono::{DateTime, FixedOffset};
use unicode_width::UnicodeWidthStr;

/// What is known, and whether it still holds.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub peers: Vec<PeerView>,
    /// Since when nobody answers.
    pub away: Option<DateTime<FixedOffset>>,
    /// Nothing has been heard yet.
    pub silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Dim,
    Live,
    Working,
    Stopped,
    Held,
}

/// One row of the screen, in pieces of one tone each.
pub type Row = Vec<(Tone, String)>;

struct Presence {
    tone: Tone,
    cells: [String; 5],
    description: String,
}

/// Widest a column may get, so that a long name leaves room for the others.
const WIDEST: [usize; 5] = [1, 32, 12, 32, 14];

/// The screen: at most `height` rows, each at most `width` columns wide.
pub fn frame(known: &Known, width: usize, height: usize, now: DateTime<FixedOffset>) -> Vec<Row> {
    let presences: Vec<Presence> = known.peers.iter().flat_map(presences).collect();
    let mut rows = vec![head(known, &presences, now)];
    if known.silent {
        rows.push(vec![(Tone::Dim, "waiting for the daemon".into())]);
    } else if presences.is_empty() {
        rows.push(vec![(Tone::Plain, "no peers yet; `iapeer claude` in a project folder makes one, `iapeer create NAME` another".into())]);
    }
    let room = height.saturating_sub(rows.len());
    let shown = choose(&presences, room);
    let widths = widths(&presences);
    rows.extend(shown.iter().map(|n| row(&presences[*n], &widths, known.away.is_some())));
    if shown.len() < presences.len() {
        rows.push(vec![(Tone::Dim, format!("… {} more", presences.len() - shown.len()))]);
    }
    rows.truncate(height);
    rows.into_iter().map(|r| cut(r, width)).collect()
}

fn head(known: &Known, presences: &[Presence], now: DateTime<FixedOffset>) -> Row {
    let count = |tone: Tone| presences.iter().filter(|p| p.tone == tone).count();
    let counts = [(Tone::Live, "live"), (Tone::Working, "working"), (Tone::Dim, "asleep"), (Tone::Stopped, "stopped"), (Tone::Held, "held")];
    let mut row: Row = vec![(Tone::Plain, format!("iapeer {}", now.format("%H:%M")))];
    if let Some(since) = known.away {
        row.push((Tone::Held, format!("  no daemon answers since {}; this is what was known then", since.format("%H:%M:%S"))));
    } else {
        row.extend(counts.iter().filter(|(tone, _)| count(*tone) > 0).map(|(tone, word)| (*tone, format!("  {} {word}", count(*tone)))));
    }
    row.push((Tone::Dim, "  q quits".into()));
    row
}

fn presences(peer: &PeerView) -> impl Iterator<Item = Presence> {
    peer.runtimes.iter().map(|presence| {
        let sign = sign(&presence.state, presence.turn.as_deref());
        let tone = match sign {
            "●" => Tone::Live,
            "◐" => Tone::Working,
            "✕" => Tone::Stopped,
            "⚠" => Tone::Held,
            "◌" => Tone::Plain,
            _ => Tone::Dim,
        };
        let turn = presence.turn.as_ref().map(|t| format!(" {t}")).unwrap_or_default();
        let reason = presence.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
        let queue = &presence.queue;
        let counts = [(queue.waiting, "waiting"), (queue.held, "held"), (queue.dead, "dead")];
        let mail: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        let yolo = if peer.approval_mode == ApprovalMode::Yolo { "[yolo] " } else { "" };
        Presence {
            tone,
            cells: [
                sign.into(),
                peer.personality.to_string(),
                presence.runtime.to_string(),
                sanitize::line(&format!("{}{turn}{reason}", presence.state)),
                mail.join(", "),
            ],
            description: format!("{yolo}{}", sanitize::line(&peer.description)),
        }
    })
}

/// Which of them to show, in their order: where not all fit, those that do something go before sleepers.
fn choose(presences: &[Presence], room: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..presences.len()).collect();
    if presences.len() > room {
        // The last row says how many more there are.
        order.sort_by_key(|n| (presences[*n].tone == Tone::Dim, *n));
        order.truncate(room.saturating_sub(1));
        order.sort_unstable();
    }
    order
}

fn widths(presences: &[Presence]) -> [usize; 5] {
    let mut widths = [0; 5];
    for presence in presences {
        for ((width, cell), widest) in widths.iter_mut().zip(&presence.cells).zip(WIDEST) {
            *width = (*width).max(cell.width()).min(widest);
        }
    }
    widths
}

fn row(presence: &Presence, widths: &[usize; 5], faded: bool) -> Row {
    let tone = |tone| if faded { Tone::Dim } else { tone };
    let mut row = Row::new();
    for (n, (cell, width)) in presence.cells.iter().zip(widths).enumerate().filter(|(_, (_, width))| **width > 0) {
        let cell = shorten(cell, *width);
        let gap = width - cell.width() + if n == 0 { 1 } else { 2 };
        // The mark and the state have the colour of the state.
        row.push((tone(if n == 0 || n == 3 { presence.tone } else { Tone::Plain }), format!("{cell}{}", " ".repeat(gap))));
    }
    row.push((Tone::Dim, presence.description.clone()));
    row
}

/// Cuts a row to so many columns, with a sign where something is missing; a character that would stand
/// half outside is left out.
fn cut(mut row: Row, width: usize) -> Row {
    // Blanks at the end are nothing that could be missing.
    while let Some((_, text)) = row.last_mut() {
        text.truncate(text.trim_end().len());
        if !text.is_empty() {
            break;
        }
        row.pop();
    }
    if row.iter().map(|(_, text)| text.width()).sum::<usize>() <= width {
        return row;
    }
    let mut room = width.saturating_sub(1);
    let mut cut = Row::new();
    for (tone, text) in row {
        let fits = beginning(&text, room);
        room -= fits.width();
        cut.push((tone, fits.into()));
        if fits.len() < text.len() {
            break;
        }
    }
    if let Some((_, last)) = cut.last_mut().filter(|_| width > 0) {
        last.push('…');
    }
    cut
}

fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width { text.into() } else { format!("{}…", beginning(text, width.saturating_sub(1))) }
}

/// As much of a text as stands in so many columns.
fn beginning(text: &str, width: usize) -> &str {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| text[..*end].width() <= width).last().unwrap_or(0);
    &text[..end]
}

/// The row as the terminal takes it.
pub fn paint(row: &Row, colour: bool) -> String {
    let code = |tone: Tone| match tone {
        Tone::Plain => "",
        Tone::Dim => "\x1b[2m",
        Tone::Live => "\x1b[32m",
        Tone::Working => "\x1b[36m",
        Tone::Stopped => "\x1b[31m",
        Tone::Held => "\x1b[33m",
    };
    let pieces = row.iter().map(|(tone, text)| match code(*tone) {
        code if colour && !code.is_empty() => format!("{code}{text}\x1b[0m"),
        _ => text.clone(),
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::shapes::{PresenceView, QueueView};

    fn now() -> DateTime<FixedOffset> {
        DateTime::parse_from_rfc3339("2026-11-21T10:02:03+01:00").unwrap()
    }

    fn peer(name: &str, state: &str, turn: Option<&str>, reason: Option<&str>, description: &str) -> PeerView {
        let runtime: crate::core::names::RuntimeName = "echo".parse().unwrap();
        let personality: crate::core::names::Personality = name.parse().unwrap();
        PeerView {
            runtimes: vec![PresenceView {
                identity: crate::core::names::Identity::new(runtime.clone(), personality.clone()),
                runtime: runtime.clone(),
                state: state.into(),
                turn: turn.map(String::from),
                reason: reason.map(String::from),
                incarnation: None,
                queue: QueueView { waiting: if state == "held" { 2 } else { 0 }, held: 0, dead: 0 },
            }],
            personality,
            default_runtime: runtime,
            wake_policy: Default::default(),
            approval_mode: Default::default(),
            description: description.into(),
            folder: "/x".into(),
            warnings: Vec::new(),
        }
    }

    fn five() -> Known {
        let peers = vec![
            peer("ann", "live", Some("idle"), None, "writes the docs"),
            peer("bob", "live", Some("working"), None, "北京 reviews 🦀"),
            peer("cyd", "asleep", None, None, ""),
            peer("dan", "stopped", None, None, ""),
            peer("eve", "held", None, Some("login"), "a\nb\u{1b}[31m"),
        ];
        Known { peers, away: None, silent: false }
    }

    const BOB: &str = "◐ bob  echo  live working             ";

    fn plain(known: &Known, width: usize, height: usize) -> Vec<String> {
        frame(known, width, height, now()).iter().map(|r| paint(r, false).trim_end().to_string()).collect()
    }

    #[test]
    fn every_state_has_its_mark_and_its_place() {
        assert_eq!(
            plain(&five(), 100, 10),
            [
                "iapeer 10:02  1 live  1 working  1 asleep  1 stopped  1 held  q quits",
                "● ann  echo  live idle                writes the docs",
                &format!("{BOB}北京 reviews 🦀"),
                "○ cyd  echo  asleep",
                "✕ dan  echo  stopped",
                "⚠ eve  echo  held (login)  2 waiting  a b\u{fffd}[31m",
            ]
        );
    }

    #[test]
    fn nothing_is_wider_or_higher_than_the_terminal_and_no_wide_character_is_halved() {
        for width in 0..90 {
            for height in 0..9 {
                let rows = frame(&five(), width, height, now());
                assert!(rows.len() <= height);
                for row in rows {
                    let text = paint(&row, false);
                    assert!(text.width() <= width, "{width}x{height}: {text:?}");
                }
            }
        }
        let at = |width| plain(&five(), width, 9)[2].clone();
        assert_eq!(at(42), format!("{BOB}北…"), "the second one would stand half outside");
        assert_eq!(at(43), format!("{BOB}北京…"));
        assert_eq!(at(53), format!("{BOB}北京 reviews 🦀"));
        assert_eq!(at(52), format!("{BOB}北京 reviews …"));
        assert_eq!(plain(&five(), 20, 9)[3], "○ cyd  echo  asleep", "nothing is missing but blanks");
    }

    #[test]
    fn where_not_all_fit_sleepers_give_way() {
        assert_eq!(plain(&five(), 30, 4)[1..], ["● ann  echo  live idle       …", "◐ bob  echo  live working    …", "… 3 more"]);
        let mut many = five();
        many.peers.insert(0, peer("abe", "asleep", None, None, ""));
        let rows = plain(&many, 40, 6);
        assert!(!rows.iter().any(|r| r.contains("abe") || r.contains("cyd")), "{rows:?}");
        assert_eq!(rows.last().unwrap(), "… 2 more");
    }

    #[test]
    fn a_daemon_that_is_away_is_said_and_the_rest_fades() {
        let known = Known { away: Some(now()), ..five() };
        let rows = frame(&known, 120, 10, now());
        assert!(paint(&rows[0], false).contains("no daemon answers since 10:02:03"));
        assert!(rows[1].iter().all(|(tone, _)| *tone == Tone::Dim));
        assert_eq!(plain(&Known { silent: true, ..Known::default() }, 80, 5)[1], "waiting for the daemon");
        assert!(plain(&Known::default(), 80, 5)[1].starts_with("no peers yet"));
    }

    #[test]
    fn colour_is_only_there_when_it_is_wanted() {
        let rows = frame(&five(), 80, 10, now());
        assert!(rows.iter().all(|r| !paint(r, false).contains('\x1b')));
        assert!(paint(&rows[1], true).contains("\x1b[32m●"));
    }
}
