//! The scriptable fake agent: a raw-mode program that behaves as badly as its profile says, and keeps a
//! ground-truth log of every byte and every submitted turn.
//!
//!   fake-agent --dir DIR --iapeer PROGRAM (--session-id ID | --resume ID)
//!
//! DIR holds `profile.json` (see `profile`), `log.jsonl` (see `record`), the transcripts, and `sock`, where a
//! test gives orders, one a connection, each answered with the state after it:
//!
//! | order | does |
//! |---|---|
//! | `state` | nothing |
//! | `profile` | reads `profile.json` again |
//! | `open` | a gated start goes on |
//! | `busy`, `idle` | begins and ends a turn of its own |
//! | `dialog` | shows a yes/no dialog; Enter is consent |
//! | `refuse` | answers it with no |
//! | `deaf`, `hear` | stops and goes on reading its input |
//! | `die paste`, `die enter` | is killed by its next paste, or Enter, before it takes effect |
//! | `exit N` | ends with that code |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stderr)]

mod input;
mod profile;
mod record;
mod screen;

use input::{Key, Parser};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{self, SetArg};
use profile::{Profile, WhileBusy};
use record::Record;
use screen::{Part, Screen};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A lone ESC byte is the Escape key when nothing follows within this time.
const ESCAPE_WAIT: Duration = Duration::from_millis(30);
/// Answers to a dialog that has only just appeared are not taken: nobody can have read it.
const DIALOG_GRACE: Duration = Duration::from_millis(50);

enum Input {
    Bytes(Vec<u8>),
    Order(String, UnixStream),
    Resized,
    Closed,
}

/// Whether the terminal is read: the reader waits while it is false.
type Hears = Arc<(Mutex<bool>, Condvar)>;

/// What kills the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trap {
    Paste,
    Enter,
}

struct Agent {
    dir: PathBuf,
    profile: Profile,
    record: Record,
    screen: Screen,
    parser: Parser,
    hears: Hears,
    /// Input before this is lost; `None`: a gated start.
    counts_from: Option<Instant>,
    started: bool,
    swallow: u32,
    pastes: usize,
    typed_at: Option<Instant>,
    pasted_at: Option<Instant>,
    trap: Option<Trap>,
    dialog_due: Option<Instant>,
    dialog_since: Instant,
    redraw_due: Option<Instant>,
    turn_ends: Option<Instant>,
    /// Submitted while a turn ran.
    queued: VecDeque<String>,
    bytes: usize,
    consents: u32,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    let dir = PathBuf::from(value("--dir").expect("--dir DIR"));
    std::fs::create_dir_all(&dir).expect("the steering folder can be made");
    let profile = Profile::read(&dir);
    let session_id = value("--session-id").or(value("--resume")).expect("--session-id ID or --resume ID");
    let record = Record::open(&dir, value("--iapeer").expect("--iapeer PROGRAM").into(), session_id);
    if profile.ignore_term {
        signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::default()).expect("TERM can be ignored");
    }
    let mut raw = termios::tcgetattr(std::io::stdin()).expect("standard input is a terminal");
    termios::cfmakeraw(&mut raw);
    termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).expect("raw mode");
    print(if profile.bracketed { "\x1b[?1049h\x1b[?2004h" } else { "\x1b[?1049h" });
    let hears: Hears = Arc::new((Mutex::new(!profile.deaf), Condvar::new()));
    let (sender, input) = mpsc::channel();
    read_terminal(sender.clone(), hears.clone());
    watch_size(sender.clone());
    take_orders(&dir, sender);
    let now = Instant::now();
    let mut agent = Agent {
        counts_from: (!profile.start_gated).then(|| now + Duration::from_millis(profile.start_settle_ms)),
        started: false,
        swallow: profile.swallow_first,
        screen: Screen { ghost: profile.ghost.clone(), loading: !profile.early_composer, ..Screen::default() },
        dir,
        profile,
        record,
        parser: Parser::default(),
        hears,
        pastes: 0,
        typed_at: None,
        pasted_at: None,
        trap: None,
        dialog_due: None,
        dialog_since: now,
        redraw_due: None,
        turn_ends: None,
        queued: VecDeque::new(),
        bytes: 0,
        consents: 0,
    };
    agent.record.log("start", json!({"pid": std::process::id()}));
    agent.draw();
    std::process::exit(agent.run(&input));
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // The terminal may be gone; the next read says so.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn read_terminal(sender: Sender<Input>, hears: Hears) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let stdin = std::io::stdin();
            let _ = poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            // Held while reading, so that nothing is read after the order `deaf` was answered.
            let (hearing, changed) = &*hears;
            let _hearing = changed.wait_while(hearing.lock().unwrap(), |hearing| !*hearing).unwrap();
            let got = match stdin.lock().read(&mut buffer) {
                Ok(n @ 1..) => Input::Bytes(buffer[..n].to_vec()),
                _ => Input::Closed,
            };
            let last = matches!(got, Input::Closed);
            if sender.send(got).is_err() || last {
                return;
            }
        }
    });
}

fn watch_size(sender: Sender<Input>) {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGWINCH]).expect("a handler");
    std::thread::spawn(move || signals.forever().all(|_| sender.send(Input::Resized).is_ok()));
}

fn take_orders(dir: &Path, sender: Sender<Input>) {
    let path = dir.join("sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).expect("the steering socket can be made");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut order = String::new();
            let read = BufReader::new(&stream).read_line(&mut order);
            if read.is_ok() && sender.send(Input::Order(order.trim().into(), stream)).is_err() {
                return;
            }
        }
    });
}

impl Agent {
    fn run(&mut self, input: &Receiver<Input>) -> i32 {
        loop {
            let got = match input.try_recv() {
                Ok(got) => Ok(got),
                Err(_) => {
                    self.when_due();
                    match self.next_due() {
                        Some(due) => input.recv_timeout(due.saturating_duration_since(Instant::now())),
                        None => input.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    }
                }
            };
            match got {
                Ok(Input::Bytes(bytes)) => {
                    self.bytes += bytes.len();
                    self.record.bytes(&bytes);
                    for key in self.parser.feed(&bytes) {
                        self.key(key);
                    }
                }
                Ok(Input::Order(order, stream)) => {
                    if let Some(code) = self.order(&order, stream) {
                        return code;
                    }
                }
                Ok(Input::Resized) => self.changed(),
                Ok(Input::Closed) | Err(RecvTimeoutError::Disconnected) => return 0,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(key) = self.parser.settle() {
                        self.key(key);
                    }
                }
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let loading = (!self.started).then_some(self.counts_from).flatten();
        let escape = self.parser.waits_for_more().then(|| Instant::now() + ESCAPE_WAIT);
        [loading, escape, self.dialog_due, self.redraw_due, self.turn_ends, self.record.next_due()].into_iter().flatten().min()
    }

    fn when_due(&mut self) {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|d| d <= now);
        self.record.write_due();
        if !self.started && is_due(self.counts_from) {
            self.started = true;
            self.screen.loading = false;
            self.draw();
            self.record.hook(&self.profile, "SessionStart", json!({}));
        }
        if is_due(self.dialog_due) {
            self.dialog_due = None;
            self.show_dialog();
        }
        if is_due(self.turn_ends) {
            self.end_turn();
        }
        while !self.screen.busy {
            let Some(text) = self.queued.pop_front() else { break };
            self.begin_turn(text);
        }
        if is_due(self.redraw_due) {
            self.draw();
        }
    }

    fn draw(&mut self) {
        self.redraw_due = None;
        let (columns, rows) = match rustix::termios::tcgetwinsize(std::io::stdout()) {
            Ok(s) if s.ws_col > 0 && s.ws_row > 0 => (s.ws_col.into(), s.ws_row.into()),
            _ => (80, 24),
        };
        print(&self.screen.draw(columns, rows));
    }

    /// The screen shows it when the profile lets it.
    fn changed(&mut self) {
        self.redraw_due.get_or_insert(Instant::now() + Duration::from_millis(self.profile.redraw_ms));
    }

    /// A turn begins or ends: on the screen, in the transcript, by a hook, which keeps the program waiting.
    fn report(&mut self, record: Value, event: &str, payload: Value) {
        self.changed();
        if self.redraw_due.is_some_and(|due| due <= Instant::now()) {
            self.draw();
        }
        self.record.transcript(&self.profile, record);
        self.record.hook(&self.profile, event, payload);
    }

    fn show_dialog(&mut self) {
        self.screen.dialog = true;
        self.dialog_since = Instant::now();
        self.draw();
    }

    fn key(&mut self, key: Key) {
        let now = Instant::now();
        if self.counts_from.is_none_or(|from| now < from) {
            return self.record.log("ignored", json!({"why": "not ready"}));
        }
        let trap = match key {
            Key::Paste(_) | Key::Text(_) => Some(Trap::Paste),
            Key::Enter => Some(Trap::Enter),
            _ => None,
        };
        if trap.is_some() && trap == self.trap {
            self.record.log("die", json!({}));
            let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
        }
        if self.screen.dialog {
            return self.answer(&key);
        }
        match key {
            Key::Enter => self.enter(now),
            Key::Text(text) => {
                self.screen.typed(&text);
                self.typed_at = Some(now);
                self.after_text(now);
            }
            Key::Paste(text) => {
                self.pastes += 1;
                self.swallow += self.profile.swallow_after_paste;
                self.pasted_at = Some(now);
                let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
                if self.profile.collapse_lines > 0 && lines > self.profile.collapse_lines {
                    self.screen.composer.push(Part::Collapsed { text, number: self.pastes });
                } else {
                    self.screen.typed(&text);
                }
                if let Some((least, most)) = self.profile.dialog_after_paste_ms {
                    let random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| u64::from(d.subsec_micros()));
                    self.dialog_due = Some(now + Duration::from_millis(least + random % (most - least + 1)));
                }
                self.after_text(now);
            }
            Key::Backspace => {
                self.screen.backspace();
                self.after_text(now);
            }
            Key::Clear => {
                self.screen.composer.clear();
                self.after_text(now);
            }
            Key::Escape => self.screen.picker = false,
            Key::Other => {}
        }
        self.changed();
    }

    fn after_text(&mut self, now: Instant) {
        let text = self.screen.text();
        let end = String::from_utf8_lossy(&text[text.len().saturating_sub(200)..]).into_owned();
        let word = end.rsplit([' ', '\n']).next().unwrap_or_default();
        let file = word.split_once('.').is_some_and(|(name, ext)| [name, ext].iter().all(|p| !p.is_empty() && p.chars().all(char::is_alphanumeric)));
        self.screen.picker = self.profile.picker && (text.starts_with(b"/") || word.starts_with('@') || file);
        if !self.profile.bracketed {
            self.typed_at = Some(now);
        }
    }

    fn enter(&mut self, now: Instant) {
        let within = |since: Option<Instant>, ms: u64| since.is_some_and(|s| now < s + Duration::from_millis(ms));
        if self.screen.picker {
            self.record.log("picked", json!({}));
            self.screen.typed(b"[picked] ");
            self.screen.picker = false;
        } else if within(self.pasted_at, self.profile.paste_settle_ms) {
            self.record.log("ignored", json!({"why": "settling"}));
        } else if self.swallow > 0 && !self.screen.composer.is_empty() {
            self.swallow -= 1;
            self.record.log("ignored", json!({"why": "swallowed"}));
        } else if within(self.pasted_at.max(self.typed_at), self.profile.burst_ms) {
            self.screen.typed(b"\n");
        } else {
            let text = String::from_utf8_lossy(&self.screen.text()).into_owned();
            self.screen.composer.clear();
            if text.trim().is_empty() {
                return;
            }
            match (self.screen.busy, self.profile.while_busy) {
                (true, WhileBusy::Lose) => self.record.log("lost", json!({"text": text})),
                _ => self.queued.push_back(text),
            }
        }
    }

    fn answer(&mut self, key: &Key) {
        if self.dialog_since.elapsed() < DIALOG_GRACE {
            return self.record.log("ignored", json!({"why": "the dialog is new"}));
        }
        match key {
            Key::Enter => {
                self.consents += 1;
                self.record.log("consent", json!({}));
            }
            Key::Text(text) if text == b"n" => self.record.log("refused", json!({})),
            Key::Paste(_) | Key::Text(_) => return self.record.log("thrown away", json!({})),
            _ => return,
        }
        self.screen.dialog = false;
        self.changed();
    }

    fn begin_turn(&mut self, text: String) {
        self.start_turn(text);
        if self.profile.turn_ms == 0 {
            self.end_turn();
        } else {
            self.turn_ends = Some(Instant::now() + Duration::from_millis(self.profile.turn_ms));
        }
    }

    fn start_turn(&mut self, text: String) {
        self.record.log("turn", json!({"text": text}));
        self.screen.history.push(format!("| {}", text.lines().next().unwrap_or_default()));
        self.screen.busy = true;
        self.report(json!({"type": "message", "role": "user", "text": text}), "UserPromptSubmit", json!({"prompt": text}));
    }

    fn end_turn(&mut self) {
        self.turn_ends = None;
        self.screen.busy = false;
        self.report(json!({"type": "turn_end"}), "Stop", json!({}));
    }

    /// `Some`: the program ends with that code.
    fn order(&mut self, order: &str, mut stream: UnixStream) -> Option<i32> {
        let mut code = None;
        match order {
            "state" => {}
            "profile" => {
                self.profile = Profile::read(&self.dir);
                self.screen.ghost = self.profile.ghost.clone();
            }
            "open" => self.counts_from = Some(Instant::now()),
            "busy" => self.start_turn("a turn of its own".into()),
            "idle" => self.end_turn(),
            "dialog" => self.show_dialog(),
            "refuse" => self.screen.dialog = false,
            "deaf" | "hear" => {
                let (hearing, changed) = &*self.hears;
                *hearing.lock().unwrap() = order == "hear";
                changed.notify_all();
            }
            "die paste" => self.trap = Some(Trap::Paste),
            "die enter" => self.trap = Some(Trap::Enter),
            _ => code = order.strip_prefix("exit ").and_then(|n| n.parse().ok()),
        }
        if order != "state" {
            self.record.log("order", json!({"order": order}));
            self.draw();
        }
        // The test may have gone away.
        let _ = writeln!(stream, "{}", self.state());
        code
    }

    fn state(&self) -> Value {
        let screen = &self.screen;
        json!({
            "composer": String::from_utf8_lossy(&screen.text()),
            "dialog": screen.dialog,
            "picker": screen.picker,
            "busy": screen.busy,
            "loading": screen.loading,
            "bytes": self.bytes,
            "consents": self.consents,
        })
    }
}
