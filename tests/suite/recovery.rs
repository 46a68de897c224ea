//! The daemon is disposable: killed at any instant, it loses nothing, doubles nothing, touches no agent.

use crate::harness::{Host, body_of, id_of};
use std::collections::HashMap;
use std::time::Duration;

#[test]
fn a_daemon_killed_twenty_times_under_traffic_loses_and_doubles_nothing() {
    let names = ["a", "b", "c", "d", "e"];
    let mut host = Host::with_peers(&names);
    for name in names {
        host.deliver(name, "warm up");
    }
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    eprintln!("seed {seed}");
    let mut random = seed;
    let mut delay = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        Duration::from_micros((random >> 33) % 90_000)
    };
    for round in 0..20 {
        let first = names[round % 5];
        let ring: Vec<&str> = (1..=5).map(|n| names[(round + n) % 5]).collect();
        host.run(&["send", first, &format!("relay: {} 4", ring.join(","))]).ok();
        // The random instant of the kill is the point of this test, not a wait for something.
        std::thread::sleep(delay());
        host.kill_daemon();
        host.start();
    }
    let relays = |host: &Host| -> Vec<String> { names.iter().flat_map(|n| host.turns(n)).filter(|t| body_of(t).starts_with("relay: ")).collect() };
    host.until("100 messages have arrived", || relays(&host).len() >= 100);
    host.until("all mailboxes are empty", || names.iter().all(|n| host.presence(n)["queue"]["waiting"] == 0));
    let mut seen: HashMap<String, u32> = HashMap::new();
    for turn in relays(&host) {
        *seen.entry(id_of(&turn).to_string()).or_default() += 1;
    }
    let doubled: Vec<_> = seen.iter().filter(|(_, n)| **n > 1).collect();
    assert!(doubled.is_empty(), "doubled: {doubled:?}\n{}", host.evidence());
    assert_eq!(seen.len(), 100, "{}", host.evidence());
    for name in names {
        assert_eq!(host.presence(name)["incarnation"], 1, "no session was restarted\n{}", host.evidence());
    }
    assert_eq!(host.lifecycle().matches("ev=adopted").count(), 100, "each of 20 starts adopts five sessions");
}

#[test]
fn sigterm_leaves_sessions_running_and_the_next_start_adopts_them() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let before = host.session("echo-a").unwrap();
    assert_eq!(host.stop_daemon(), 0);
    assert_eq!(host.pane("echo-a", "#{pane_dead}"), "0", "the session goes on");
    host.start();
    host.deliver("a", "again");
    let after = host.session("echo-a").unwrap();
    assert_eq!((&before["keeper"], &before["incarnation"]), (&after["keeper"], &after["incarnation"]));
    assert_eq!(host.turns("a").len(), 2);
}

#[test]
fn a_hook_that_found_no_daemon_is_evidence_for_the_next_one() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.kill_daemon();
    // A person types while no daemon runs; the hook reports go to the spool.
    host.type_keys("echo-a", &["-l", "typed by hand"]);
    host.type_keys("echo-a", &["Enter"]);
    let spool = host.root().join("state/spool");
    host.until("the hooks are spooled", || std::fs::read_dir(&spool).unwrap().count() >= 2);
    host.start();
    host.until("the spool is read", || std::fs::read_dir(&spool).unwrap().count() == 0);
    host.deliver("a", "after");
    assert_eq!(body_of(host.turns("a").last().unwrap()), "after");
}

#[test]
fn a_killed_agent_comes_back_for_the_next_message_and_its_cause_is_exact() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let start: serde_json::Value = serde_json::from_slice(&std::fs::read(host.state_dir("echo-a").join("exits/1.start.json")).unwrap()).unwrap();
    let agent = start["agent"]["pid"].as_i64().unwrap() as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent), nix::sys::signal::Signal::SIGKILL).unwrap();
    host.until("the death is seen", || host.lifecycle().contains("ev=death identity=echo-a inc=1 cause=signal-9"));
    host.until("its remains are collected", || host.session("echo-a").is_none());
    host.deliver("a", "come back");
    assert_eq!(host.presence("a")["incarnation"], 2);
    assert!(host.lifecycle().contains("inc=2 mode=fresh cause=crash-or-self-close"), "{}", host.lifecycle());
}

#[test]
fn a_submitted_message_that_ends_its_agent_is_not_delivered_again() {
    let mut host = Host::new();
    host.env.insert("IAPEER_CRASHLOOP_MAX".into(), "10".into());
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    host.start();
    let poison = host.run(&["send", "a", "crash: 7", "--json"]).ok().json();
    host.run(&["send", "a", "innocent"]).ok();
    host.until("the innocent one is served", || host.turns("a").iter().any(|t| body_of(t) == "innocent"));
    // Its turn began before the crash: that is evidence, and evidence ends the delivery.
    let id = poison["id"].as_str().unwrap();
    let copies = host.turns("a").iter().filter(|t| id_of(t) == id).count();
    assert_eq!(copies, 1, "a submitted message is not delivered again");
    assert!(host.lifecycle().contains("cause=exit-7"));
}

#[test]
fn a_program_that_ends_at_once_is_started_at_most_crashloop_max_times() {
    let mut host = Host::with_a_dud();
    host.run(&["send", "a", "hello"]).ok();
    host.until("the loop is stopped", || host.presence("a")["reason"] == "crash-loop");
    assert_eq!(host.lifecycle().matches("ev=wake ").count(), 3, "{}", host.lifecycle());
    host.until("no terminal is left of it", || host.sockets().is_empty());
    host.until("each end is written down", || host.exits("dud-a").len() == 3);
    let exits = host.exits("dud-a");
    assert_eq!(exits.iter().filter(|l| l.contains(" kind=death cause=exit-1 age=0s")).count(), 3, "{exits:?}");
    host.until("the operator is told", || host.run(&["inbox", "--keep"]).ok().out.contains("died 3 times"));
    // As the sender, too, once.
    host.until("the sender is told", || {
        host.run(&["inbox", "--keep"]).ok().out.matches("waits until its operator has looked after that peer: crash-loop").count() == 1
    });
    // A restart of the daemon does not reset the count.
    host.kill_daemon();
    host.start();
    assert_eq!(host.presence("a")["reason"], "crash-loop");
    assert_eq!(host.presence("a")["queue"]["waiting"], 1, "the mail is kept");
    assert_eq!(host.lifecycle().matches("ev=wake ").count(), 3, "{}", host.lifecycle());
}

#[test]
fn a_lock_that_a_killed_daemon_still_holds_is_waited_for() {
    let mut host = Host::with_peers(&["a"]);
    host.kill_daemon();
    // What is left of a killed daemon may hold its lock for a moment longer than its socket.
    let lock = host.root().join("run/daemon.lock");
    std::fs::write(&lock, format!("pid {}, version 0\n", std::process::id())).unwrap();
    let left = std::fs::File::open(lock).unwrap();
    left.try_lock().unwrap();
    let mut daemon = host.command(&["daemon"]).spawn().unwrap();
    let opened = || {
        let links = std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).into_iter().flatten().flatten();
        links.filter_map(|l| std::fs::read_link(l.path()).ok()).any(|p| p.ends_with("run/daemon.lock"))
    };
    host.until("the new one stands before the lock", opened);
    left.unlock().unwrap();
    host.until("it has it", || host.run(&["status"]).code == 0);
    host.run(&["daemon", "stop"]).ok();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_program_that_ends_at_once_is_told_to_whoever_started_it() {
    let host = Host::with_a_dud();
    let ran = host.run(&["start", "a", "--json"]);
    assert_eq!(ran.json()["error"]["code"], "wake_failed", "{ran:?}");
    assert!(ran.out.contains("exit-1"), "{ran:?}");
}
