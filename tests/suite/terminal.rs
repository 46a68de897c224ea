//! The terminal port against real tmux, by both drivers: what a guarded list does once, it never does twice.

use crate::harness::{Host, PATIENCE, tmux};
use iapeer::core::guard::{Fact, Guard};
use iapeer::core::message::MessageId;
use iapeer::core::runtime::KeyName;
use iapeer::core::settings::DriverChoice;
use iapeer::ports::terminal::{Acted, PaneRef, Paste, StartSpec, Submit, Terminal, TerminalError};
use iapeer::tmux::argv;
use iapeer::tmux::driver::Driver;
use iapeer::tmux::wire::Exchange;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("iap").permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

/// The same with each driver.
fn on_both(test: impl Fn(&Session)) {
    for choice in [DriverChoice::Spawn, DriverChoice::Direct] {
        let session = Session::start(choice);
        test(&session);
        assert!(!session.driver.fell_back(), "a direct call met something unexpected");
    }
}

/// A raw program that keeps every byte it reads.
struct Session {
    dir: tempfile::TempDir,
    driver: Driver,
    pane: PaneRef,
    runtime: tokio::runtime::Runtime,
}

impl Session {
    fn start(choice: DriverChoice) -> Session {
        tmux();
        let dir = folder();
        let runtime = runtime();
        let (driver, _) = runtime.block_on(Driver::find(dir.path().into(), std::env::var("PATH").unwrap(), choice)).unwrap();
        let script = format!("stty raw -echo; printf '\\033[?2004hready'; exec cat >> {}", dir.path().join("bytes").display());
        let socket = dir.path().join("t.sock");
        let spec = StartSpec {
            identity: "raw-a".parse().unwrap(),
            socket: socket.clone(),
            cwd: dir.path().into(),
            argv: ["sh", "-c", &script].map(String::from).to_vec(),
            columns: 100,
            rows: 20,
            pipe: None,
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
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {} bytes", self.bytes().len());
            std::thread::yield_now();
        }
    }

    fn has(&self, want: &[u8]) {
        let read = || self.dir.path().join("bytes").metadata().map_or(0, |m| m.len());
        self.until(&format!("the program has read {:?}", String::from_utf8_lossy(&want[..want.len().min(100)])), || read() >= want.len() as u64);
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
    on_both(|s| {
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
    });
}

#[test]
fn a_guard_that_does_not_hold_types_nothing() {
    on_both(|s| {
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
    });
}

#[test]
fn texts_of_every_shape_arrive_byte_for_byte() {
    on_both(|s| {
        let mut want = Vec::new();
        let large = "0123456789abcdef".repeat(65_536);
        for (n, text) in ["-rf --help", "a;", ";", "#{pane_id} #(touch pwned) $(x) `y` 'q' \"q\"", "line\nline\ttab", "é 🦀 漢字", &large].iter().enumerate()
        {
            assert!(done(&s.paste(&s.pane, n as u64, text, vec![])), "{n}");
            want.extend([b"\x1b[200~", text.as_bytes(), b"\x1b[201~"].concat());
            s.has(&want);
        }
    });
}

#[test]
fn a_dead_pane_is_refused_and_its_server_ends_when_told() {
    on_both(|s| {
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
    });
}

#[test]
fn a_hung_server_is_ended_too() {
    let s = Session::start(DriverChoice::Direct);
    let out = std::process::Command::new(tmux()).arg("-S").arg(&s.pane.socket).args(["display-message", "-p", "#{pid}"]).output().unwrap();
    let server = iapeer::sys::process::reference(String::from_utf8_lossy(&out.stdout).trim().parse().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server.pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    s.runtime.block_on(s.driver.kill(s.pane.socket.clone())).unwrap();
    assert!(!iapeer::sys::process::is_alive(&server));
}

#[test]
fn a_very_large_text_arrives_byte_for_byte() {
    on_both(|s| {
        let text: String = (0..1_000_000).map(|n| format!("{n:015}\n")).collect();
        assert!(done(&s.paste(&s.pane, 1, &text, vec![])));
        s.has(&[b"\x1b[200~", text.as_bytes(), b"\x1b[201~"].concat());
    });
}

/// Sends what the daemon would, up to so many bytes, and is gone, as after kill -9. Returns whether all of
/// it was sent.
fn vanish_after(bytes: usize, pane: &PaneRef, paste: &Paste) -> bool {
    let list = argv::paste(pane, paste);
    let mut exchange = Exchange::new(std::process::id(), list.words(), Some(&paste.text)).unwrap();
    let mut stream = UnixStream::connect(&pane.socket).unwrap();
    let mut left = bytes;
    let mut asked = false;
    loop {
        let pending = exchange.pending();
        if pending.is_empty() {
            if asked {
                return true;
            }
            let mut answer = [0; 1024];
            let n = stream.read(&mut answer).unwrap();
            exchange.received(&answer[..n]).unwrap();
            asked = true;
            continue;
        }
        let now = pending.len().min(left);
        stream.write_all(&pending[..now]).unwrap();
        exchange.sent(now);
        left -= now;
        if left == 0 {
            return asked && exchange.pending().is_empty();
        }
    }
}

#[test]
fn a_client_that_vanishes_with_half_a_text_leaves_nothing_typed() {
    let s = Session::start(DriverChoice::Direct);
    let text = "0123456789abcdef".repeat(4 * 1024);
    let paste = |n| Paste { id: id(n), text: text.clone(), guard: Guard::default(), leave_mode: false, submit: None };
    // Byte by byte around every border of a message, and steps between.
    let mut n = 0;
    for bytes in (1..2_000).step_by(13).chain((2_000..66_600).step_by(499)).chain(66_500..66_700) {
        n += 1;
        if vanish_after(bytes, &s.pane, &paste(n)) {
            break;
        }
    }
    assert!(n > 300, "{n}: the text was never cut");
    let want = [b"\x1b[200~", &b"end"[..], b"\x1b[201~"].concat();
    assert!(done(&s.paste(&s.pane, 9_999, "end", vec![])));
    // All of the last one, or nothing of it; of the others nothing.
    let full = [b"\x1b[200~", text.as_bytes(), b"\x1b[201~"].concat();
    s.until("the end has arrived", || s.bytes().ends_with(&want));
    std::thread::sleep(Duration::from_millis(200));
    let got = s.bytes();
    assert!(got == want || got == [full, want].concat(), "{} bytes came through", got.len());
    let buffers = std::process::Command::new(tmux()).arg("-S").arg(&s.pane.socket).args(["list-buffers", "-F", "#{buffer_size}"]).output().unwrap();
    let sizes = String::from_utf8_lossy(&buffers.stdout);
    assert!(sizes.lines().all(|size| size == text.len().to_string()), "no buffer holds a half text: {sizes:?}");
}

#[test]
fn a_call_that_meets_something_unexpected_is_handed_to_a_client_process() {
    let s = Session::start(DriverChoice::Direct);
    let socket = s.dir.path().join("strange.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.unwrap().write_all(&[0xff; 64]);
        }
    });
    let strange = PaneRef { socket, ..s.pane.clone() };
    assert!(s.runtime.block_on(s.driver.look(strange.clone())).is_err());
    assert!(s.driver.fell_back());
    assert_eq!(calls.swap(0, Ordering::SeqCst), 2, "directly, then by a process");
    // A key leaves no mark: pressed twice it might answer the next dialog.
    assert!(s.runtime.block_on(s.driver.key(strange, Guard::default(), KeyName("cr".into()))).is_err());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // Other sessions are not concerned.
    assert!(done(&s.paste(&s.pane, 1, "x", vec![])));
    // Nobody listens: a process finds out as well, and says so.
    let nobody = PaneRef { socket: s.dir.path().join("nobody.sock"), ..s.pane.clone() };
    assert!(matches!(s.runtime.block_on(s.driver.look(nobody)), Err(TerminalError::Said(_))));
}

#[test]
fn a_tmux_that_fails_the_self_test_is_driven_by_processes_or_not_at_all() {
    let dir = folder();
    let fake = dir.path().join("tmux");
    std::fs::write(&fake, "#!/bin/sh\n[ \"$1\" = -V ] && exec echo tmux 3.3a\nexit 1\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let find = |choice| runtime().block_on(Driver::find(dir.path().into(), dir.path().to_string_lossy().into_owned(), choice));
    assert_eq!(find(DriverChoice::Auto).unwrap().0.name(), "spawn");
    assert!(matches!(find(DriverChoice::Direct), Err(TerminalError::SelfTest(_))));
    assert_eq!(left_in(dir.path()), ["tmux"]);
}

#[test]
fn the_self_test_is_quick_and_leaves_nothing_behind() {
    tmux();
    let dir = folder();
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let (driver, _) = runtime().block_on(Driver::find(dir.path().into(), std::env::var("PATH").unwrap(), DriverChoice::Auto)).unwrap();
        took.push(began.elapsed());
        assert_eq!(driver.name(), "direct");
        assert!(left_in(dir.path()).is_empty());
    }
    // Typically a twentieth of this; other tests share the machine.
    assert!(took.iter().min().unwrap() < &Duration::from_secs(1), "{took:?}");
}

fn left_in(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_daemon_tells_its_driver_and_takes_the_one_it_is_told() {
    let mut host = Host::new();
    host.env.insert("IAPEER_TMUX_DRIVER".into(), "telnet".into());
    let refused = host.run(&["daemon"]);
    assert!(refused.code != 0 && refused.err.contains("IAPEER_TMUX_DRIVER=\"telnet\""), "{refused:?}");
    for (choice, driver) in [("spawn", "spawn"), ("direct", "direct"), ("auto", "direct")] {
        host.env.insert("IAPEER_TMUX_DRIVER".into(), choice.into());
        host.start();
        host.stop_daemon();
        let lifecycle = host.lifecycle();
        let started = lifecycle.lines().rfind(|l| l.contains("ev=daemon-start")).unwrap();
        assert!(started.contains(&format!(" driver={driver} ")), "{choice}: {started}");
    }
}
