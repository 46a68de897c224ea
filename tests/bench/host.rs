//! A host of the bench's own: root, home, sockets, daemon, and a small client of the API. Everything that
//! was started here is ended when it is dropped, also on SIGINT and SIGTERM, by recorded pid and by its
//! own sockets.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// The limits under which the bench drives more than people would.
const CONFIG: &str = "idle_secs: 0\nlimits:\n  live_peers: 10000\n  waiting_per_peer: 100000\n  waiting_per_sender: 100000\n  operator_per_second: 100000\n";

/// What a run that is broken off would leave behind.
pub enum Remains {
    Host(PathBuf),
    Daemon(u32),
    TmuxServer(PathBuf),
}

static REMAINS: Mutex<Vec<Remains>> = Mutex::new(Vec::new());

pub fn clean_up_later(remains: Remains) {
    REMAINS.lock().unwrap().push(remains);
}

/// Ends what was started, then the program.
pub fn clean_up_on_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).unwrap();
    std::thread::spawn(move || {
        if let Some(number) = signals.forever().next() {
            for remains in REMAINS.lock().unwrap().iter() {
                remains.end();
            }
            std::process::exit(128 + number);
        }
    });
}

impl Remains {
    fn end(&self) {
        match self {
            Remains::Host(dir) => {
                end_sessions(&dir.join("root"));
                let _ = std::fs::remove_dir_all(dir);
            }
            Remains::Daemon(pid) if runs_iapeer(*pid) => kill(*pid as i32),
            Remains::Daemon(_) => {}
            Remains::TmuxServer(socket) => kill_server(socket),
        }
    }
}

fn runs_iapeer(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(program()))
}

fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

fn kill_server(socket: &Path) {
    if socket.exists() {
        let _ = Command::new(crate::tmux::program()).arg("-S").arg(socket).arg("kill-server").stderr(Stdio::null()).status();
    }
}

/// Every session that a daemon recorded under this root.
fn end_sessions(root: &Path) {
    for session in sessions(root) {
        kill_server(Path::new(session["socket"].as_str().unwrap_or_default()));
    }
}

fn sessions(root: &Path) -> Vec<Value> {
    let dirs = std::fs::read_dir(root.join("state/peers")).into_iter().flatten().flatten();
    dirs.filter_map(|d| serde_json::from_slice(&std::fs::read(d.path().join("session.json")).ok()?).ok()).collect()
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_iapeer")
}

pub struct Host {
    pub dir: tempfile::TempDir,
    daemon: Option<Child>,
    /// How its daemon reaches tmux; without one, as it does by itself.
    pub driver: Option<crate::Driver>,
}

impl Host {
    /// A root with these limits, no daemon yet.
    pub fn new(place: &Path) -> Host {
        let dir = tempfile::Builder::new().prefix("iapb").permissions(std::fs::Permissions::from_mode(0o700)).tempdir_in(place).unwrap();
        clean_up_later(Remains::Host(dir.path().into()));
        let host = Host { dir, daemon: None, driver: None };
        std::fs::create_dir(host.dir.path().join("home")).unwrap();
        for folder in [host.root(), host.root().join("runtimes")] {
            std::fs::create_dir(&folder).unwrap();
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        std::fs::write(host.root().join("config.yaml"), CONFIG).unwrap();
        host
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", self.dir.path().join("home"))
            .env("IAPEER_ROOT", self.root())
            .env("IAPEER_TMUX_DRIVER", self.driver.map_or("", crate::Driver::name))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb that must succeed.
    pub fn run(&self, args: &[&str]) {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "iapeer {args:?}: {out:?}\n{}", self.evidence());
    }

    pub fn create(&self, names: &[String], runtime: &str) {
        for name in names {
            self.run(&["create", name, "--runtime", runtime]);
        }
    }

    /// Starts the daemon and does not wait for it.
    pub fn spawn_daemon(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("daemon.log")).unwrap();
        let child = self.command(&["daemon"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        clean_up_later(Remains::Daemon(child.id()));
        self.daemon = Some(child);
    }

    pub fn start(&mut self) {
        self.spawn_daemon();
        let began = Instant::now();
        while self.try_connect().is_none() {
            assert!(began.elapsed() < PATIENCE, "the daemon does not answer\n{}", self.evidence());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("no daemon").id() as i32
    }

    /// Ends the daemon as a crash would.
    pub fn kill_daemon(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn try_connect(&self) -> Option<Api> {
        let stream = UnixStream::connect(self.root().join("run/iapeer.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(Api { stream, rest: Vec::new() })
    }

    pub fn connect(&self) -> Api {
        self.try_connect().unwrap_or_else(|| panic!("no daemon answers\n{}", self.evidence()))
    }

    /// Brings peers up, a few at a time.
    pub fn wake(&self, names: &[String]) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut api = self.connect();
                    while let Some(name) = names.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        api.wake(name);
                    }
                });
            }
        });
    }

    pub fn sessions(&self) -> Vec<Value> {
        sessions(&self.root())
    }

    /// What a failure needs to be understood.
    pub fn evidence(&self) -> String {
        let tail = |p: PathBuf| {
            let text = std::fs::read_to_string(p).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let logs = self.root().join("logs");
        format!(
            "--- lifecycle.log\n{}\n--- delivery.log\n{}\n--- daemon.log\n{}",
            tail(logs.join("lifecycle.log")),
            tail(logs.join("delivery.log")),
            tail(self.dir.path().join("daemon.log"))
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let _ = self.command(&["daemon", "stop", "--all-peers"]).output();
        }
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        end_sessions(&self.root());
    }
}

/// One kept-open connection to the API.
pub struct Api {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Api {
    pub fn get(&mut self, path: &str) -> Value {
        self.must("GET", path, &[])
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Value {
        self.must("POST", path, body.to_string().as_bytes())
    }

    /// A durable send; the id of the accepted message.
    pub fn send(&mut self, request: &[u8]) -> String {
        let view = self.must("POST", "/v1/messages", request);
        view["id"].as_str().expect("an id").to_string()
    }

    pub fn wake(&mut self, name: &str) -> Value {
        self.post(&format!("/v1/peers/{name}/wake"), &json!({ "cause": "start" }))
    }

    pub fn wait_entered(&mut self, id: &str) {
        let view = self.get(&format!("/v1/messages/{id}?wait=submitted&timeout_secs=60"));
        assert_eq!(view["state"], "entered", "{view}");
    }

    fn must(&mut self, method: &str, path: &str, body: &[u8]) -> Value {
        let (status, answer) = self.call(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status, 200, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{method} {path}: {e}: {text}"))
    }

    fn call(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        let end = self.fill_until(|b| b.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4))?;
        let head = String::from_utf8_lossy(&self.rest[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let length: usize = head.split("content-length:").nth(1).and_then(|r| r.lines().next()?.trim().parse().ok()).unwrap_or(0);
        self.fill_until(|b| (b.len() >= end + length).then_some(0))?;
        let answer = self.rest[end..end + length].to_vec();
        self.rest.drain(..end + length);
        Ok((status, answer))
    }

    fn fill_until(&mut self, done: impl Fn(&[u8]) -> Option<usize>) -> std::io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        loop {
            if let Some(found) = done(&self.rest) {
                return Ok(found);
            }
            match self.stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => self.rest.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

/// A send request as bytes, made before the clock runs.
pub fn request(to: &str, text: &str, queue: bool) -> Vec<u8> {
    json!({ "to": to, "text": text, "queue": queue }).to_string().into_bytes()
}

pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}{n}")).collect()
}

/// Lines of text with so many bytes in all.
pub fn body(bytes: usize) -> String {
    let line = "the quick brown fox jumps over the lazy dog; 0123456789 and again from the start\n";
    line.chars().cycle().take(bytes).collect()
}
