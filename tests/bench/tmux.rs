//! tmux without us: servers of the bench's own, for the baselines.

use crate::arrivals::Arrivals;
use crate::floor::with_id;
use crate::raw_agent::{READY_ROW, monotonic_ns};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What the widespread way sleeps between paste and Enter.
const SLEEP: Duration = Duration::from_millis(300);

pub fn program() -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').map(|d| Path::new(d).join("tmux")).find(|p| p.is_file());
    found.expect("tmux is not installed: the bench needs it (Debian: apt-get install tmux)")
}

/// One server with one pane.
pub struct Server {
    socket: PathBuf,
    program: PathBuf,
    /// Texts on their way, reused.
    text: File,
}

impl Server {
    /// A server whose pane runs `argv`, without waiting for anything.
    pub fn start(dir: &Path, name: &str, argv: &[String]) -> Server {
        let socket = dir.join(format!("{name}.sock"));
        crate::host::clean_up_later(crate::host::Remains::TmuxServer(socket.clone()));
        let server = Server { socket, program: program(), text: tempfile::tempfile_in(dir).unwrap() };
        let words: Vec<&str> = ["new-session", "-d", "-s", "x", "-x", "200", "-y", "50", "--"].into_iter().chain(argv.iter().map(String::as_str)).collect();
        let out = server.run(&words, Stdio::null());
        assert!(out.status.success(), "{out:?}");
        server
    }

    /// A server with a raw program that is ready.
    pub fn with_raw_agent(dir: &Path, name: &str, arrivals: &Arrivals) -> Server {
        let bench = std::env::current_exe().unwrap();
        let argv = [bench.to_string_lossy().into_owned(), "raw-agent".into(), arrivals.socket.to_string_lossy().into_owned()];
        let server = Server::start(dir, name, &argv);
        server.until_screen_shows(READY_ROW);
        server
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(&self.socket).args(words);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).env("LANG", "C.UTF-8").env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        command
    }

    fn run(&self, words: &[&str], stdin: Stdio) -> Output {
        self.command(words).stdin(stdin).output().unwrap()
    }

    fn act(&self, words: &[&str], stdin: Stdio) {
        let out = self.run(words, stdin);
        assert!(out.status.success(), "tmux {words:?}: {out:?}");
    }

    pub fn until_screen_shows(&self, text: &str) {
        let began = Instant::now();
        while !String::from_utf8_lossy(&self.run(&["capture-pane", "-p", "-t", "%0"], Stdio::null()).stdout).contains(text) {
            assert!(began.elapsed() < Duration::from_secs(30), "the screen never shows {text:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn has_session(&self) {
        self.act(&["has-session", "-t", "x"], Stdio::null());
    }

    fn text_as_stdin(&mut self, text: &str) -> Stdio {
        self.text.set_len(0).and_then(|()| self.text.rewind()).and_then(|()| self.text.write_all(text.as_bytes())).and_then(|()| self.text.rewind()).unwrap();
        self.text.try_clone().unwrap().into()
    }

    /// Three commands and a sleep: nanoseconds until the program had read the Enter.
    pub fn deliver_with_sleep(&mut self, arrivals: &Arrivals, body: &str) -> u64 {
        let id = uuid::Uuid::now_v7().to_string();
        let text = with_id(&id, body);
        let began = monotonic_ns();
        let stdin = self.text_as_stdin(&text);
        self.act(&["load-buffer", "-b", "m", "-"], stdin);
        self.act(&["paste-buffer", "-p", "-r", "-d", "-b", "m", "-t", "%0"], Stdio::null());
        std::thread::sleep(SLEEP);
        self.act(&["send-keys", "-t", "%0", "Enter"], Stdio::null());
        arrivals.wait(&id) - began
    }

    /// The same from one chained client without a sleep.
    pub fn deliver_chained_and_wait(&mut self, arrivals: &Arrivals, body: &str) -> u64 {
        let began = monotonic_ns();
        let id = self.deliver_chained(body);
        arrivals.wait(&id) - began
    }

    /// One chained client, nothing durable, no guard; the id, without waiting for its arrival.
    pub fn deliver_chained(&mut self, body: &str) -> String {
        let id = uuid::Uuid::now_v7().to_string();
        let text = with_id(&id, body);
        let stdin = self.text_as_stdin(&text);
        let list = [
            "load-buffer",
            "-b",
            "m",
            "-",
            ";",
            "paste-buffer",
            "-p",
            "-r",
            "-d",
            "-b",
            "m",
            "-t",
            "%0",
            ";",
            "set-buffer",
            "-b",
            "r",
            "\r",
            ";",
            "paste-buffer",
            "-d",
            "-b",
            "r",
            "-t",
            "%0",
        ];
        self.act(&list, stdin);
        id
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.run(&["kill-server"], Stdio::null());
    }
}
