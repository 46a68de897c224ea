//! What a service manager hears from the daemon. Its place is taken by a datagram socket of the test.

use crate::harness::{Host, PATIENCE};
use iapeer::core::message::ProcessRef;
use iapeer::sys::process::is_alive;
use std::os::unix::net::{UnixDatagram, UnixStream};

/// Waits half of this between two turns.
const WATCHDOG_USEC: &str = "1000000";

struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Bound, and told to the daemons of this host.
    fn of(host: &mut Host) -> Manager {
        let path = host.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        host.env.insert("NOTIFY_SOCKET".into(), path.to_str().unwrap().into());
        host.env.insert("WATCHDOG_USEC".into(), WATCHDOG_USEC.into());
        Manager { socket, heard: Vec::new() }
    }

    /// The next datagram, as it came.
    #[track_caller]
    fn next(&mut self, what: &str) -> String {
        let mut bytes = [0; 4096];
        let n = self.socket.recv(&mut bytes).unwrap_or_else(|e| panic!("nothing more is told ({e}): {:?}\n{what}", self.heard));
        let text = String::from_utf8(bytes[..n].to_vec()).unwrap();
        self.heard.push(text.clone());
        text
    }

    /// All up to and with the first datagram that has such a line.
    #[track_caller]
    fn until(&mut self, host: &Host, line: &str) -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        while !told.last().is_some_and(|t| t.lines().any(|l| l == line)) {
            told.push(self.next(&host.evidence()));
        }
        told
    }

    fn times(&self, line: &str) -> usize {
        self.heard.iter().flat_map(|t| t.lines()).filter(|l| *l == line).count()
    }
}

/// Server, keeper and agent of a peer.
fn processes(host: &Host, identity: &str) -> Vec<ProcessRef> {
    let session = host.session(identity).unwrap();
    let start = std::fs::read(host.state_dir(identity).join(format!("exits/{}.start.json", session["incarnation"]))).unwrap();
    let start: serde_json::Value = serde_json::from_slice(&start).unwrap();
    [&session["server"], &session["keeper"], &start["agent"]].map(|p| serde_json::from_value(p.clone()).unwrap()).to_vec()
}

#[test]
fn ready_is_told_once_and_only_when_all_is_adopted_and_served() {
    let mut host = Host::with_peers(&["a", "b"]);
    host.deliver("a", "hello");
    host.deliver("b", "hello");
    let before: Vec<_> = ["echo-a", "echo-b"].iter().flat_map(|i| processes(&host, i)).collect();
    // What systemd with KillMode=process does to a hung daemon.
    host.kill_daemon();
    assert!(before.iter().all(is_alive), "a killed daemon takes nothing with it");
    std::fs::remove_file(host.root().join("run/iapeer.sock")).unwrap();

    let mut manager = Manager::of(&mut host);
    // A session has its own variables; those of the manager are the daemon's alone.
    let adopted = |host: &Host| host.lifecycle().matches("ev=adopted").count();
    let socket = host.root().join("run/iapeer.sock");
    std::thread::scope(|threads| {
        let started = threads.spawn(|| host.start());
        while manager.times("READY=1") == 0 {
            let told = manager.next("the daemon gets ready");
            assert!(!told.contains("WATCHDOG"), "before it is ready: {told}");
        }
        assert!(UnixStream::connect(&socket).is_ok(), "it serves");
        assert_eq!(manager.heard.last().unwrap(), "READY=1\nSTATUS=serving, peers: 2");
        started.join().unwrap();
    });
    assert_eq!(adopted(&host), 2, "{}", host.evidence());
    assert!(host.lifecycle().contains("ev=daemon-start"));
    for _ in 0..3 {
        manager.until(&host, "WATCHDOG=1");
    }

    assert_eq!(host.stop_daemon(), 0);
    manager.until(&host, "STOPPING=1");
    assert_eq!((manager.times("READY=1"), manager.times("STOPPING=1")), (1, 1), "{:?}", manager.heard);
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0; 100]).is_err(), "nothing is told after the end");
    assert!(before.iter().all(is_alive), "a daemon that ends takes nothing with it");

    host.start();
    assert_eq!(["echo-a", "echo-b"].iter().flat_map(|i| processes(&host, i)).collect::<Vec<_>>(), before, "none was restarted");
}

#[test]
fn a_store_that_hangs_ends_the_signs_of_life() {
    let mut host = Host::new();
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    let mut manager = Manager::of(&mut host);
    let gate = host.dir.path().join("gate");
    host.env.insert("IAPEER_TEST_FAULT".into(), format!("stall@{}", gate.display()));
    host.start();
    host.deliver("a", "hello");
    manager.until(&host, "WATCHDOG=1");

    std::fs::write(&gate, "").unwrap();
    let sender = host.command(&["send", "a", "into the void"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    manager.until(&host, "STATUS=no sign of life (3): the store does not answer");
    let stuck = &manager.heard[manager.heard.len() - 3..];
    assert!(stuck.iter().all(|t| t.starts_with("STATUS=no sign of life")), "{:?}", manager.heard);
    assert_eq!(host.run(&["status"]).code, 0, "the API alone proves nothing");

    std::fs::remove_file(&gate).unwrap();
    let back = manager.until(&host, "WATCHDOG=1");
    assert_eq!(back.last().unwrap(), "WATCHDOG=1\nSTATUS=serving, peers: 1");
    assert!(sender.unwrap().wait().unwrap().success(), "and what waited was accepted");
    host.until("both are delivered", || host.turns("a").len() == 2);
}

#[test]
fn a_watchdog_for_another_process_is_not_ours() {
    let mut host = Host::new();
    let mut manager = Manager::of(&mut host);
    host.env.insert("WATCHDOG_PID".into(), "1".into());
    host.start();
    manager.until(&host, "READY=1");
    assert_eq!(host.stop_daemon(), 0);
    manager.until(&host, "STOPPING=1");
    assert_eq!((manager.heard.len(), manager.times("WATCHDOG=1")), (2, 0), "{:?}", manager.heard);
}

#[test]
fn a_manager_that_cannot_be_told_is_no_reason_to_stop() {
    let mut host = Host::new();
    host.env.insert("NOTIFY_SOCKET".into(), host.dir.path().join("nobody").to_str().unwrap().into());
    host.start();
    assert_eq!(host.stop_daemon(), 0);
    host.env.insert("NOTIFY_SOCKET".into(), "nowhere".into());
    let refused = host.run(&["daemon"]);
    assert!(refused.code == 2 && refused.err.contains("NOTIFY_SOCKET=nowhere"), "{refused:?}");
}

#[test]
fn what_the_daemon_starts_never_sees_the_managers_variables() {
    let mut host = Host::new();
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    let told = host.dir.path().join("notice-env");
    std::fs::write(host.root().join("config.yaml"), format!("on_notice: [sh, -c, 'env > {0}.tmp; mv {0}.tmp {0}']\n", told.display())).unwrap();
    // Even a profile that asks for them.
    let profile = host.root().join("peers/a/.iapeer/peer.yaml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, format!("{text}env_passthrough: [NOTIFY_SOCKET, WATCHDOG_USEC]\n")).unwrap();
    let _manager = Manager::of(&mut host);
    host.start();
    host.deliver("a", "reply: notice this");
    host.until("the notice was run", || told.exists());
    let mut seen = std::fs::read_to_string(&told).unwrap();
    assert!(seen.contains("IAPEER_ROOT="), "{seen}");
    for process in processes(&host, "echo-a") {
        seen += &String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap());
    }
    assert!(!seen.contains("NOTIFY_SOCKET") && !seen.contains("WATCHDOG"), "{seen}");
}
