//! A host of its own for each test: root, home, sockets, daemon. Everything that a test started is ended
//! when it is dropped, by recorded pid and by its own tmux sockets.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest time a state may take to be reached; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Host {
    pub dir: tempfile::TempDir,
    daemon: Option<Child>,
    /// More environment for every process of this host.
    pub env: BTreeMap<String, String>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        Ran { code: o.status.code().unwrap_or(-1), out: String::from_utf8_lossy(&o.stdout).into(), err: String::from_utf8_lossy(&o.stderr).into() }
    }
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_iapeer")
}

/// Missing tmux fails the suite.
pub fn tmux() -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').map(|d| Path::new(d).join("tmux")).find(|p| p.is_file());
    found.expect("tmux is not installed: these tests need it (Debian: apt-get install tmux)")
}

impl Host {
    pub fn new() -> Host {
        tmux();
        let dir = tempfile::Builder::new().prefix("iap").permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        Host { dir, daemon: None, env: BTreeMap::new() }
    }

    /// A host with a running daemon and these peers on `echo`.
    pub fn with_peers(names: &[&str]) -> Host {
        let mut host = Host::new();
        for name in names {
            host.run(&["create", name, "--runtime", "echo"]).ok();
        }
        host.start();
        host
    }

    /// The same with settings of its own.
    pub fn with_config(config: &str, names: &[&str]) -> Host {
        let mut host = Host::new();
        for name in names {
            host.run(&["create", name, "--runtime", "echo"]).ok();
        }
        std::fs::create_dir_all(host.root()).unwrap();
        std::fs::set_permissions(host.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(host.root().join("config.yaml"), config).unwrap();
        host.start();
        host
    }

    /// Another runtime for this host: the definition of `echo` with another name and program (a list of YAML).
    pub fn define(&self, name: &str, argv: &str) {
        let definition = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/runtimes/echo.yaml")).unwrap();
        let program = "argv: [\"{iapeer}\", echo-agent]";
        assert!(definition.contains(program), "the definition of echo has changed its form");
        let bent = definition.replace("id: echo", &format!("id: {name}")).replace(program, &format!("argv: {argv}"));
        std::fs::create_dir_all(self.root().join("runtimes")).unwrap();
        std::fs::set_permissions(self.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(self.root().join(format!("runtimes/{name}.yaml")), bent).unwrap();
    }

    /// A host with a running daemon, where the program of peer `a` ends at once with code 1.
    pub fn with_a_dud() -> Host {
        let mut host = Host::new();
        host.define("dud", "[\"false\"]");
        host.run(&["create", "a", "--runtime", "dud"]).ok();
        host.start();
        host
    }

    /// Names of the tmux sockets that lie in this host's directory of sockets.
    pub fn sockets(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.root().join("run")).into_iter().flatten().flatten();
        names.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with("tmux-iap-")).collect()
    }

    /// The lines of `exits.log` about one identity.
    pub fn exits(&self, identity: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.root().join("logs/exits.log")).unwrap_or_default();
        log.lines().filter(|l| l.contains(&format!(" identity={identity} "))).map(String::from).collect()
    }

    /// A message as the daemon knows it.
    pub fn message(&self, id: &str) -> Value {
        self.run(&["explain", id, "--json"]).ok().json()["message"].clone()
    }

    pub fn delivery_log(&self) -> String {
        std::fs::read_to_string(self.root().join("logs/delivery.log")).unwrap_or_default()
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
            // Empty is as unset.
            .env("IAPEER_TMUX_DRIVER", std::env::var("IAPEER_TEST_DRIVER").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(&self.env)
            .current_dir(self.dir.path());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.command(args).stdin(Stdio::null()).output().unwrap().into()
    }

    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    pub fn start(&mut self) {
        let daemon = self.command(&["daemon"]);
        self.start_by(daemon);
    }

    /// Starts a daemon by a command that becomes it.
    pub fn start_by(&mut self, mut daemon: Command) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("daemon.log")).unwrap();
        let child = daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.daemon = Some(child);
        self.until("the daemon answers", || self.run(&["status"]).code == 0);
    }

    /// Ends the daemon as a crash would.
    pub fn kill_daemon(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("no daemon").id() as i32
    }

    /// SIGTERM, and waits for the end.
    pub fn stop_daemon(&mut self) -> i32 {
        let pid = self.daemon_pid();
        let mut child = self.daemon.take().expect("no daemon");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.evidence());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a failure needs to be understood.
    pub fn evidence(&self) -> String {
        let read = |p: PathBuf| std::fs::read_to_string(p).unwrap_or_default();
        format!(
            "--- lifecycle.log\n{}--- delivery.log\n{}--- daemon.log\n{}",
            read(self.root().join("logs/lifecycle.log")),
            read(self.root().join("logs/delivery.log")),
            read(self.dir.path().join("daemon.log"))
        )
    }

    pub fn lifecycle(&self) -> String {
        std::fs::read_to_string(self.root().join("logs/lifecycle.log")).unwrap_or_default()
    }

    pub fn state_dir(&self, identity: &str) -> PathBuf {
        self.root().join("state/peers").join(identity)
    }

    pub fn session(&self, identity: &str) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.state_dir(identity).join("session.json")).ok()?).ok()
    }

    /// The presence of an `echo` peer as `list --json` shows it.
    pub fn presence(&self, name: &str) -> Value {
        let peers = self.run(&["list", "--json"]).ok().json();
        let peer = peers.as_array().unwrap().iter().find(|p| p["personality"] == name).unwrap_or_else(|| panic!("no peer {name}")).clone();
        peer["runtimes"][0].clone()
    }

    /// Texts of all user turns of an `echo` peer, in order, over all its conversations.
    pub fn turns(&self, name: &str) -> Vec<String> {
        let mut turns: Vec<(String, String)> = Vec::new();
        for entry in std::fs::read_dir(self.root().join("peers").join(name).join(".iapeer/echo")).into_iter().flatten().flatten() {
            for line in std::fs::read_to_string(entry.path()).unwrap_or_default().lines() {
                let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
                if record["role"] == "user" {
                    turns.push((record["ts"].as_str().unwrap().into(), record["text"].as_str().unwrap().into()));
                }
            }
        }
        turns.sort();
        turns.into_iter().map(|(_, text)| text).collect()
    }

    /// Sends and waits for the evidence; returns the message as `send --json` shows it.
    #[track_caller]
    pub fn deliver(&self, to: &str, text: &str) -> Value {
        let ran = self.run_with_input(&["send", to, "--message-file", "-", "--wait", "submitted", "--timeout", "60", "--json"], text.as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}\n{}", self.evidence());
        ran.json()
    }

    /// What a tmux format says about a peer's pane.
    pub fn pane(&self, identity: &str, format: &str) -> String {
        let session = self.session(identity).unwrap_or_else(|| panic!("{identity} is not live\n{}", self.evidence()));
        let out = Command::new(tmux())
            .args(["-u", "-S", session["socket"].as_str().unwrap(), "display-message", "-p", "-t", session["pane"].as_str().unwrap(), format])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim_end().to_string()
    }

    /// Runs a tmux command on the server of a peer.
    pub fn tmux(&self, identity: &str, args: &[&str]) -> Output {
        let session = self.session(identity).expect("not live");
        Command::new(tmux()).args(["-u", "-S", session["socket"].as_str().unwrap()]).args(args).output().unwrap()
    }

    /// Types into a peer's terminal as an attached person would.
    pub fn type_keys(&self, identity: &str, keys: &[&str]) {
        let pane = self.session(identity).expect("not live")["pane"].as_str().unwrap().to_string();
        let mut args = vec!["send-keys", "-t", &pane];
        args.extend(keys);
        assert!(self.tmux(identity, &args).status.success());
    }

    pub fn screen(&self, name: &str) -> String {
        self.run(&["screen", name]).ok().out
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

impl Host {
    /// Ends all that runs here.
    pub fn end(&mut self) {
        if self.daemon.is_some() {
            let _ = self.run(&["daemon", "stop", "--all-peers"]);
        }
        self.kill_daemon();
        // Whatever a killed daemon left running is ended by its own sockets and recorded pids.
        for entry in std::fs::read_dir(self.root().join("state/peers")).into_iter().flatten().flatten() {
            let Some(session) = std::fs::read(entry.path().join("session.json")).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok()) else { continue };
            if let Some(socket) = session["socket"].as_str() {
                let _ = Command::new(tmux()).args(["-S", socket, "kill-server"]).output();
            }
        }
        // A daemon that died between the start of a session and its record has left only a socket.
        for socket in self.sockets() {
            let _ = Command::new(tmux()).arg("-S").arg(self.root().join("run").join(socket)).arg("kill-server").output();
        }
    }
}

/// The body inside the envelope of a turn.
pub fn body_of(turn: &str) -> &str {
    let (head, rest) = turn.split_once(">\n").expect("no envelope");
    let fence = head.rsplit_once("fence=\"").unwrap().1.trim_end_matches('"');
    rest.strip_suffix(&format!("\n</iap:{fence}>")).expect("the envelope does not close")
}

/// The id in the envelope of a turn.
pub fn id_of(turn: &str) -> &str {
    turn.split_once("<iap id=\"").expect("no envelope").1.split('"').next().unwrap()
}
