//! The loop: keys and time in, screen, transcript, hooks and sent messages out.

use super::Options;
use super::input::{Key, Parser};
use super::instruct::{self, Instruction};
use super::transcript::Transcript;
use super::view::{Dialog, View};
use nix::sys::termios::{self, SetArg, Termios};
use serde_json::json;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A lone ESC byte is the Escape key when nothing follows within this time.
const ESCAPE_WAIT: Duration = Duration::from_millis(30);
/// How often the busy row is redrawn.
const SPIN: Duration = Duration::from_millis(500);
/// Lines of history kept.
const HISTORY: usize = 500;

enum Input {
    Bytes(Vec<u8>),
    Resized,
    Closed,
}

struct Agent {
    options: Options,
    view: View,
    transcript: Transcript,
    input: Receiver<Input>,
    parser: Parser,
    keys: VecDeque<Key>,
    pastes: usize,
    /// Submitted while a turn ran.
    queued: VecDeque<String>,
    closed: bool,
}

/// Runs until `/quit`, `crash:` or the end of the terminal. Returns the exit code.
///
/// # Errors
/// Standard input is no terminal, or the transcript cannot be opened.
pub fn run(options: Options) -> io::Result<i32> {
    let transcript = Transcript::open(&options.transcripts, &options.session_id, options.resume).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(e.kind(), format!("no conversation found with session id {}", options.session_id)),
        _ => e,
    })?;
    let history = Transcript::earlier(&transcript.path).into_iter().map(|t| format!("> {}", first_line(&t))).collect();
    let before = raw_mode()?;
    print("\x1b[?1049h\x1b[?2004h\x1b]0;echo\x07");
    let (sender, input) = mpsc::channel();
    read_terminal(sender.clone());
    watch_size(sender)?;
    let view = View { history, session_id: options.session_id.clone(), ..View::default() };
    let mut agent =
        Agent { options, view, transcript, input, parser: Parser::default(), keys: VecDeque::new(), pastes: 0, queued: VecDeque::new(), closed: false };
    agent.hook("SessionStart", json!({"source": if agent.options.resume { "resume" } else { "startup" }}));
    let code = agent.main_loop();
    print("\x1b[?2004l\x1b[?1049l");
    let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    code
}

fn raw_mode() -> io::Result<Termios> {
    let before = termios::tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    termios::cfmakeraw(&mut raw);
    termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
    Ok(before)
}

fn print(text: &str) {
    let mut out = io::stdout().lock();
    // The terminal may be gone; the next read says so.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn read_terminal(sender: mpsc::Sender<Input>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Ok(0) | Err(_) => return drop(sender.send(Input::Closed)),
                Ok(n) if sender.send(Input::Bytes(buffer[..n].to_vec())).is_err() => return,
                Ok(_) => {}
            }
        }
    });
}

fn watch_size(sender: mpsc::Sender<Input>) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGWINCH])?;
    std::thread::spawn(move || {
        for _ in &mut signals {
            if sender.send(Input::Resized).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(s) if s.ws_col > 0 && s.ws_row > 0 => (s.ws_col as usize, s.ws_row as usize),
        _ => (80, 24),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(160).collect()
}

/// What ended a wait.
enum Waited {
    Key(Key),
    Time,
    Closed,
}

impl Agent {
    fn main_loop(&mut self) -> io::Result<i32> {
        loop {
            self.draw();
            if let Some(text) = self.queued.pop_front() {
                if let Some(code) = self.turn(text)? {
                    return Ok(code);
                }
                continue;
            }
            let key = match self.wait(None) {
                Waited::Key(key) => key,
                Waited::Time => continue,
                Waited::Closed => return Ok(0),
            };
            match key {
                Key::Ctrl('c') | Key::Ctrl('d') if self.view.composer.is_empty() => return self.quit(),
                Key::Enter => {
                    let text = self.take_composer();
                    if text.trim() == "/quit" {
                        return self.quit();
                    }
                    if !text.trim().is_empty() {
                        self.queued.push_back(text);
                    }
                }
                other => self.edit(other),
            }
        }
    }

    fn quit(&mut self) -> io::Result<i32> {
        self.hook("SessionEnd", json!({"reason": "quit"}));
        Ok(0)
    }

    fn take_composer(&mut self) -> String {
        let text = self.view.composed();
        self.view.composer.clear();
        text
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Char(c) => self.view.type_text(c.encode_utf8(&mut [0; 4])),
            Key::Newline => self.view.type_text("\n"),
            Key::Paste(text) => {
                self.pastes += 1;
                let number = self.pastes;
                self.view.paste(text, number);
            }
            Key::Backspace => self.view.backspace(),
            Key::Ctrl('c' | 'u') => self.view.composer.clear(),
            _ => {}
        }
    }

    fn draw(&self) {
        let (columns, rows) = size();
        print(&self.view.draw(columns, rows));
    }

    fn say(&mut self, line: String) {
        self.view.history.push(line);
        let excess = self.view.history.len().saturating_sub(HISTORY);
        self.view.history.drain(..excess);
    }

    /// The next key, or the deadline.
    fn wait(&mut self, deadline: Option<Instant>) -> Waited {
        loop {
            if let Some(key) = self.keys.pop_front() {
                return Waited::Key(key);
            }
            if self.closed {
                return Waited::Closed;
            }
            let escape = self.parser.waits_for_more().then(|| Instant::now() + ESCAPE_WAIT);
            let until = [deadline, escape].into_iter().flatten().min();
            let got = match until {
                Some(at) => self.input.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => self.input.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match got {
                Ok(Input::Bytes(bytes)) => self.keys.extend(self.parser.feed(&bytes)),
                Ok(Input::Resized) => self.draw(),
                Ok(Input::Closed) | Err(RecvTimeoutError::Disconnected) => self.closed = true,
                Err(RecvTimeoutError::Timeout) => {
                    self.keys.extend(self.parser.settle());
                    if self.keys.is_empty() && deadline.is_some_and(|d| d <= Instant::now()) {
                        return Waited::Time;
                    }
                }
            }
        }
    }

    /// One user turn. `Some(code)` ends the program.
    fn turn(&mut self, text: String) -> io::Result<Option<i32>> {
        self.transcript.user(&text)?;
        self.say(format!("> {}", first_line(&text)));
        self.view.busy = Some("thinking".into());
        self.draw();
        self.hook("UserPromptSubmit", json!({"prompt": text}));
        let envelope = instruct::envelope(&text);
        let body = envelope.as_ref().map_or(text.as_str(), |e| e.body);
        let instructions = instruct::parse(body);
        if instructions.is_empty() {
            self.say(format!("  {}", first_line(body)));
        }
        let mut last_said = String::new();
        for instruction in instructions {
            match instruction {
                Instruction::Say(text) => {
                    self.say(format!("  {text}"));
                    last_said = text;
                }
                Instruction::Crash(code) => return Ok(Some(code)),
                Instruction::Work(time) => {
                    if !self.work(time) {
                        self.say("  interrupted".into());
                        break;
                    }
                }
                Instruction::Ask(question) => match self.ask(question) {
                    Some(yes) => {
                        let answer = if yes { "yes" } else { "no" };
                        self.transcript.note(&format!("answer: {answer}"))?;
                        self.say(format!("  answered {answer}"));
                    }
                    None => return Ok(Some(0)),
                },
                Instruction::OfItself(what) => self.of_itself(&what)?,
                Instruction::Child(time) => self.start_child(time)?,
                Instruction::Send { to, text } => self.send(&to, None, &text)?,
                Instruction::Reply(reply) => match &envelope {
                    Some(e) => self.send(e.from, Some(e.id), &reply)?,
                    None => self.say(format!("  {reply}")),
                },
            }
        }
        self.transcript.turn_end()?;
        self.view.busy = None;
        self.draw();
        self.hook("Stop", json!({"last_assistant_message": last_said}));
        Ok(None)
    }

    /// Busy for a while; keys still reach the composer. False: interrupted by Esc.
    fn work(&mut self, time: Duration) -> bool {
        let began = Instant::now();
        loop {
            let passed = began.elapsed();
            if passed >= time {
                return true;
            }
            self.view.busy = Some(format!("working {:.1}s", passed.as_secs_f64()));
            self.draw();
            let next = (began + time).min(Instant::now() + SPIN);
            match self.wait(Some(next)) {
                Waited::Key(Key::Escape) => return false,
                Waited::Key(Key::Enter) => {
                    let text = self.take_composer();
                    if !text.trim().is_empty() {
                        self.queued.push_back(text);
                    }
                }
                Waited::Key(key) => self.edit(key),
                Waited::Time => {}
                Waited::Closed => return false,
            }
        }
    }

    /// A yes/no dialog. As in the programs it stands for, a paste into it is thrown away and Enter
    /// takes the highlighted answer.
    fn ask(&mut self, question: String) -> Option<bool> {
        self.view.dialog = Some(Dialog { question, yes: true });
        self.hook("PermissionRequest", json!({}));
        let answer = loop {
            self.draw();
            let yes = self.view.dialog.as_ref().is_some_and(|d| d.yes);
            match self.wait(None) {
                Waited::Key(Key::Enter) => break Some(yes),
                Waited::Key(Key::Escape | Key::Char('n')) => break Some(false),
                Waited::Key(Key::Char('y')) => break Some(true),
                Waited::Key(Key::Up | Key::Down) => {
                    if let Some(d) = &mut self.view.dialog {
                        d.yes = !d.yes;
                    }
                }
                Waited::Key(_) | Waited::Time => {}
                Waited::Closed => break None,
            }
        };
        self.view.dialog = None;
        self.draw();
        answer
    }

    fn hook(&self, event: &str, mut payload: serde_json::Value) {
        let Some((program, arguments)) = self.options.hook.split_first() else { return };
        payload["hook_event_name"] = json!(event);
        payload["session_id"] = json!(self.options.session_id);
        payload["transcript_path"] = json!(self.transcript.path);
        let spawned = Command::new(program).args(arguments).arg(event).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if let Ok(mut child) = spawned {
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(payload.to_string().as_bytes());
            }
            let _ = child.wait();
        }
    }

    fn of_itself(&mut self, what: &str) -> io::Result<()> {
        let told = match self.options.send.first().map(|program| Command::new(program).arg(format!("self-{what}")).output()) {
            Some(Ok(out)) if out.status.success() => format!("said of itself: {what}"),
            Some(Ok(out)) => format!("not said: {}", String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or("no reason given")),
            Some(Err(e)) => format!("not said: {e}"),
            None => "no way to say it".into(),
        };
        self.say(format!("  {told}"));
        self.transcript.note(&told)
    }

    /// Only ever `sleep`: a message must not be able to choose what runs.
    fn start_child(&mut self, time: Duration) -> io::Result<()> {
        let started = Command::new("sleep").arg(time.as_secs_f64().to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let told = match started {
            Ok(mut child) => {
                let told = format!("started child {}", child.id());
                // Whenever it ends, no zombie of it stays.
                std::thread::spawn(move || child.wait());
                told
            }
            Err(e) => format!("no child started: {e}"),
        };
        self.say(format!("  {told}"));
        self.transcript.note(&told)
    }

    fn send(&mut self, to: &str, in_reply_to: Option<&str>, text: &str) -> io::Result<()> {
        let Some((program, arguments)) = self.options.send.split_first() else {
            self.say(format!("  no way to send to {to}"));
            return Ok(());
        };
        let mut command = Command::new(program);
        command.args(arguments).arg(to);
        if let Some(id) = in_reply_to {
            command.args(["--in-reply-to", id]);
        }
        command.args(["--message-file", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let outcome = command.spawn().and_then(|mut child| {
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(text.as_bytes())?;
            }
            child.wait_with_output()
        });
        let told = match outcome {
            Ok(out) if out.status.success() => format!("sent to {to}"),
            Ok(out) => format!("not sent to {to}: {}", String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or("no reason given")),
            Err(e) => format!("not sent to {to}: {e}"),
        };
        self.say(format!("  {told}"));
        self.transcript.note(&told)
    }
}
