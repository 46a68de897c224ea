//! `list --watch`: the peers live, on the terminal's other screen, until `q` or Ctrl-C.
//!
//! The daemon is asked once a second, since it has no word for changes yet, and the screen is written only
//! when it is to show something else. Whatever ends this gives the terminal back as it was.

use super::watch_view::{self, Known, Row};
use super::{Done, Outcome};
use crate::api::client::Client;
use crate::api::shapes::PeerView;
use crate::core::fault::{Code, Fault};
use crate::store::layout::Root;
use chrono::{DateTime, FixedOffset, Local};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Between two questions to the daemon.
const ASK: Duration = Duration::from_secs(1);
/// Longest answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The terminal while it is ours.
struct Screen {
    colour: bool,
    shown: Option<(Vec<Row>, (u16, u16))>,
}

fn give_back() {
    let _ = execute!(std::io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = terminal::disable_raw_mode();
}

impl Screen {
    fn take() -> std::io::Result<Self> {
        let before = std::panic::take_hook();
        // The words of a panic must not go with the other screen.
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        terminal::enable_raw_mode()?;
        let screen = Screen { colour: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()), shown: None };
        execute!(std::io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn show(&mut self, known: &Known) -> std::io::Result<()> {
        let size = terminal::size()?;
        let rows = watch_view::frame(known, size.0.into(), size.1.into(), now());
        let frame = Some((rows, size));
        if self.shown == frame {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        queue!(out, terminal::BeginSynchronizedUpdate)?;
        for (n, row) in frame.iter().flat_map(|(rows, _)| rows).enumerate() {
            queue!(out, cursor::MoveTo(0, n as u16), Clear(ClearType::UntilNewLine))?;
            out.write_all(watch_view::paint(row, self.colour).as_bytes())?;
        }
        let below = frame.as_ref().map_or(0, |(rows, _)| rows.len() as u16);
        if below < size.1 {
            queue!(out, cursor::MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        }
        queue!(out, terminal::EndSynchronizedUpdate)?;
        out.flush()?;
        self.shown = frame;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn now() -> DateTime<FixedOffset> {
    Local::now().fixed_offset()
}

enum Key {
    Quit,
    Resized,
}

/// Reads what is typed, on a thread of its own: it ends with the program.
fn keys() -> mpsc::Receiver<Key> {
    let (tell, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        loop {
            let key = match event::read() {
                Ok(Event::Resize(..)) => Key::Resized,
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => match key.code {
                    KeyCode::Char('q') => Key::Quit,
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
                    _ => continue,
                },
                Ok(_) => continue,
                // The terminal is gone.
                Err(_) => Key::Quit,
            };
            if tell.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

pub async fn watch(root: &Root, as_json: bool) -> Outcome {
    if as_json || !std::io::stdout().is_terminal() {
        let why = if as_json { "`--watch` is for people, `--json` for programs" } else { "`--watch` needs a terminal" };
        return Err(Fault::new(Code::Invalid, why).hint("`iapeer list` prints once, `iapeer list --json` for programs"));
    }
    let fail = |e: std::io::Error| Fault::new(Code::Internal, format!("the terminal: {e}"));
    let (mut terminated, mut hung_up) = (signal(SignalKind::terminate()).map_err(fail)?, signal(SignalKind::hangup()).map_err(fail)?);
    let mut interrupted = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut screen = Screen::take().map_err(fail)?;
    let mut keys = keys();
    let mut ask = tokio::time::interval(ASK);
    ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut client = None;
    let mut known = Known { silent: true, ..Known::default() };
    loop {
        screen.show(&known).map_err(fail)?;
        tokio::select! {
            _ = ask.tick() => {
                tokio::select! {
                    heard = peers(root, &mut client) => take_in(&mut known, heard),
                    key = keys.recv() => if !matches!(key, Some(Key::Resized)) { return Ok(Done::Ok) },
                    _ = terminated.recv() => return Ok(Done::Code(143)),
                }
            }
            key = keys.recv() => if !matches!(key, Some(Key::Resized)) { return Ok(Done::Ok) },
            _ = terminated.recv() => return Ok(Done::Code(143)),
            _ = hung_up.recv() => return Ok(Done::Code(129)),
            _ = interrupted.recv() => return Ok(Done::Ok),
        }
    }
}

fn take_in(known: &mut Known, heard: Option<Vec<PeerView>>) {
    match heard {
        Some(peers) => *known = Known { peers, away: None, silent: false },
        None => {
            known.away.get_or_insert_with(now);
        }
    }
}

/// The peers; none when nobody answers. The connection is kept for the next time.
async fn peers(root: &Root, client: &mut Option<Client>) -> Option<Vec<PeerView>> {
    let mut connected = match client.take() {
        Some(client) => client,
        None => Client::connect(root).await.ok()?,
    };
    let peers = connected.get("/v1/peers", ANSWER).await.ok()?;
    *client = Some(connected);
    Some(peers)
}
