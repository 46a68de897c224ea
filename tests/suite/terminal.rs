//! The terminal port against real tmux: what a guarded list does once, it never does twice.

use crate::harness::{PATIENCE, tmux};
use iapeer::core::guard::{Fact, Guard};
use iapeer::core::message::MessageId;
use iapeer::core::runtime::KeyName;
use iapeer::ports::terminal::{Acted, PaneRef, Paste, StartSpec, Submit, Terminal};
use iapeer::tmux::driver::SpawnDriver;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

/// A raw program that keeps every byte it reads.
struct Session {
    dir: tempfile::TempDir,
    driver: SpawnDriver,
    pane: PaneRef,
    runtime: tokio::runtime::Runtime,
}

impl Session {
    fn start() -> Session {
        tmux();
        let dir = tempfile::Builder::new().prefix("iap").permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (driver, _) = SpawnDriver::find(dir.path().into(), std::env::var("PATH").unwrap()).unwrap();
        let script = format!("stty raw -echo; printf '\\033[?2004hready'; exec cat >> {}", dir.path().join("bytes").display());
        let socket = dir.path().join("t.sock");
        let spec = StartSpec {
            identity: "raw-a".parse().unwrap(),
            socket: socket.clone(),
            cwd: dir.path().into(),
            argv: ["sh", "-c", &script].map(String::from).to_vec(),
            columns: 100,
            rows: 20,
        };
        let started = runtime.block_on(driver.start(spec)).unwrap();
        let pane = PaneRef { socket, pane: started.pane, keeper_pid: started.keeper_pid, incarnation: 1 };
        let session = Session { dir, driver, pane, runtime };
        session.until("the program is ready", || session.runtime.block_on(session.driver.look(session.pane.clone())).unwrap().screen.starts_with("ready"));
        session
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("bytes")).unwrap_or_default()
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; bytes {:?}", String::from_utf8_lossy(&self.bytes()));
            std::thread::yield_now();
        }
    }

    fn has(&self, want: &[u8]) {
        self.until(&format!("the program has read {:?}", String::from_utf8_lossy(&want[..want.len().min(100)])), || self.bytes().len() >= want.len());
        assert!(self.bytes() == want, "read {:?}", String::from_utf8_lossy(&self.bytes()[..self.bytes().len().min(300)]));
    }

    fn paste(&self, pane: &PaneRef, n: u64, text: &str, facts: Vec<Fact>) -> Acted {
        let paste = Paste { id: id(n), text: text.into(), guard: Guard { facts }, leave_mode: false, submit: None };
        self.runtime.block_on(self.driver.paste(pane.clone(), paste)).unwrap()
    }

    fn submit(&self, pane: &PaneRef, n: u64, attempt: u32) -> Acted {
        let submit = Submit { id: id(n), attempt, guard: Guard::default(), key: KeyName("cr".into()) };
        self.runtime.block_on(self.driver.submit(pane.clone(), submit)).unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let socket: PathBuf = self.pane.socket.clone();
        let _ = self.runtime.block_on(self.driver.kill(socket));
    }
}

fn id(n: u64) -> MessageId {
    format!("0199a0b0-0000-7000-8000-{n:012x}").parse().unwrap()
}

fn done(acted: &Acted) -> bool {
    matches!(acted, Acted::Done { .. })
}

#[test]
fn a_message_is_pasted_and_submitted_once_into_one_incarnation() {
    let s = Session::start();
    assert!(done(&s.paste(&s.pane, 1, "hello;", vec![Fact::Shows("^ready".into())])));
    // The same call again, as after a lost answer or from a client that outlived its daemon.
    match s.paste(&s.pane, 1, "hello;", vec![]) {
        Acted::Refused(captured) => assert_eq!(captured.mark_pasted, format!("{}@1", id(1))),
        Acted::Done { .. } => panic!("pasted twice"),
    }
    let framed = b"\x1b[200~hello;\x1b[201~".to_vec();
    s.has(&framed);
    assert!(done(&s.submit(&s.pane, 1, 1)));
    match s.submit(&s.pane, 1, 1) {
        Acted::Refused(captured) => assert_eq!(captured.mark_entered, format!("{}@1#1", id(1))),
        Acted::Done { .. } => panic!("submitted twice in one attempt"),
    }
    assert!(done(&s.submit(&s.pane, 1, 2)), "a further attempt is another act");
    s.has(&[framed.clone(), b"\r\r".to_vec()].concat());
    // Another incarnation is another process.
    let next = PaneRef { incarnation: 2, ..s.pane.clone() };
    assert!(done(&s.paste(&next, 1, "again", vec![])));
    s.has(&[framed, b"\r\r\x1b[200~again\x1b[201~".to_vec()].concat());
}

#[test]
fn a_guard_that_does_not_hold_types_nothing() {
    let s = Session::start();
    let stranger = PaneRef { keeper_pid: s.pane.keeper_pid + 1, ..s.pane.clone() };
    assert!(!done(&s.paste(&s.pane, 1, "x", vec![Fact::Shows("^nowhere$".into())])), "a row that is not there");
    assert!(!done(&s.paste(&s.pane, 2, "x", vec![Fact::Lacks("^ready".into())])), "a row that must not be there");
    assert!(!done(&s.paste(&s.pane, 3, "x", vec![Fact::CursorAt { x: 0, y: 0 }])), "the cursor has moved");
    assert!(!done(&s.paste(&s.pane, 4, "x", vec![Fact::Any(vec![vec![Fact::Shows("no".into())], vec![Fact::Lacks("ready".into())]])])), "no group holds");
    assert!(!done(&s.paste(&stranger, 5, "x", vec![])), "another process owns the pane");
    assert!(!done(&s.submit(&s.pane, 6, 1)), "no paste of ours stands");
    // Only what came after all of these is there.
    assert!(done(&s.paste(&s.pane, 7, "y", vec![Fact::Any(vec![vec![Fact::Shows("no".into())], vec![Fact::Shows("ready".into())]])])));
    s.has(b"\x1b[200~y\x1b[201~");
}

#[test]
fn texts_of_every_shape_arrive_byte_for_byte() {
    let s = Session::start();
    let mut want = Vec::new();
    let large = "0123456789abcdef".repeat(65_536);
    for (n, text) in ["-rf --help", "a;", ";", "#{pane_id} #(touch pwned) $(x) `y` 'q' \"q\"", "line\nline\ttab", "é 🦀 漢字", &large].iter().enumerate() {
        assert!(done(&s.paste(&s.pane, n as u64, text, vec![])), "{n}");
        want.extend([b"\x1b[200~", text.as_bytes(), b"\x1b[201~"].concat());
        s.has(&want);
    }
}

#[test]
fn a_dead_pane_is_refused_and_its_server_ends_when_told() {
    let s = Session::start();
    let session = std::process::Command::new(tmux()).arg("-S").arg(&s.pane.socket).args(["display-message", "-p", "#{pid}"]).output().unwrap();
    let server: i32 = String::from_utf8_lossy(&session.stdout).trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(s.pane.keeper_pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    // tmux may notice late; the guard refuses from then on, and nothing crashes.
    let mut n = 100;
    s.until("the pane is dead", || {
        n += 1;
        matches!(s.paste(&s.pane, n, "x", vec![]), Acted::Refused(captured) if captured.dead)
    });
    assert!(iapeer::sys::process::reference(server).is_some_and(|p| iapeer::sys::process::is_alive(&p)), "tmux is still there");
    s.runtime.block_on(s.driver.kill(s.pane.socket.clone())).unwrap();
    assert!(iapeer::sys::process::reference(server).is_none_or(|p| !iapeer::sys::process::is_alive(&p)), "its process is gone when the call returns");
}
