//! The end of a session: what is ended with it, what never is, what is kept of it.

use crate::harness::{Host, program, tmux};
use crate::security::Agent;
use iapeer::core::message::ProcessRef;
use iapeer::sys::{marks, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process of this test that no session has anything to do with.
struct Foreign(Child);

impl Foreign {
    fn new() -> Foreign {
        Foreign::with(&[])
    }

    fn with(env: &[(&str, &str)]) -> Foreign {
        Foreign(Command::new("sleep").arg("600").envs(env.iter().copied()).stdin(Stdio::null()).spawn().unwrap())
    }

    fn is_untouched(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that is nobody's child any more, as whatever outlives its session.
fn orphan(host: &Host, mark: &str, script: &str) -> ProcessRef {
    let start = format!("setsid sh -c '{script}' < /dev/null > /dev/null 2>&1 & echo $!");
    let out = Command::new("sh").args(["-c", &start]).env("IAPEER_SESSION", mark).env("IAPEER_ROOT", host.root()).output().unwrap();
    process::reference(String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()).unwrap()
}

fn keeper(host: &Host, identity: &str) -> ProcessRef {
    serde_json::from_value(host.session(identity).unwrap()["keeper"].clone()).unwrap()
}

fn signal(process: &ProcessRef, number: Signal) {
    kill(Pid::from_raw(process.pid), number).unwrap();
}

fn agent(host: &Host, identity: &str) -> ProcessRef {
    let file = host.state_dir(identity).join(format!("exits/{}.start.json", host.session(identity).unwrap()["incarnation"]));
    let start: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    serde_json::from_value(start["agent"].clone()).unwrap()
}

/// Has the agent of an `echo` peer start a process that stays.
fn start_child(host: &Host, name: &str) -> ProcessRef {
    let of_agent = || process::children(agent(host, &format!("echo-{name}")).pid).into_iter().filter(|pid| process::name(*pid) == "sleep").collect::<Vec<_>>();
    let before = of_agent();
    host.deliver(name, "child: 600s");
    let new = || of_agent().into_iter().find(|pid| !before.contains(pid));
    host.until("the agent has a child", || new().is_some());
    process::reference(new().unwrap()).unwrap()
}

/// Where an exit line says that the last screen lies, and what is in it.
fn screen_of(line: &str) -> String {
    let path = line.split(" screen=").nth(1).unwrap_or_else(|| panic!("no screen: {line}")).split(' ').next().unwrap();
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn what_left_the_process_session_ends_with_the_agent_and_nothing_foreign_does() {
    let agent = Agent::with_peers(&[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut strangers = [Foreign::new(), Foreign::with(&[("IAPEER_SESSION", "puppet-a@1"), ("IAPEER_ROOT", elsewhere.path().to_str().unwrap())])];
    let said = agent.does("setsid sleep 600 > /dev/null 2>&1 & echo $!");
    let detached = process::reference(said.trim().parse().unwrap()).unwrap();
    assert!(process::is_alive(&detached));
    agent.host.run(&["stop", "a"]).ok();
    agent.host.until("the detached child has ended", || !process::is_alive(&detached));
    assert!(strangers.iter_mut().all(Foreign::is_untouched));
    let exits = agent.host.exits("puppet-a");
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert!(exits[0].contains(" inc=1 kind=ordered cause=exit-0 "), "it was quit by its own key: {}", exits[0]);
    assert!(!agent.host.lifecycle().contains("ev=death"));
}

#[test]
fn what_a_killed_keeper_leaves_is_ended_before_anything_is_launched() {
    let mut agent = Agent::prepare(&[]);
    std::fs::write(agent.host.root().join("config.yaml"), "term_grace_secs: 1\n").unwrap();
    agent.host.start();
    // It heeds neither the end of its terminal nor TERM.
    let stays = "setsid sh -c 'trap \"\" HUP TERM; echo $$; while :; do sleep 0.1; done' > $f 2> /dev/null &";
    let said = agent.does(&format!("f=$(mktemp); {stays} until [ -s $f ]; do :; done; cat $f; rm $f"));
    let survivor = process::reference(said.trim().parse().unwrap()).unwrap();
    signal(&keeper(&agent.host, "puppet-a"), Signal::SIGKILL);
    agent.does("true");
    assert!(!process::is_alive(&survivor), "{}", agent.host.evidence());
    let log = agent.host.lifecycle();
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no {what}:\n{log}"));
    assert!(at("ev=death identity=puppet-a inc=1 cause=unknown") < at("ev=stray-ended identity=puppet-a inc=1 processes="));
    assert!(at("ev=stray-ended") < at("ev=ready identity=puppet-a inc=2"));
    assert!(log.contains(&format!("{} sh", survivor.pid)), "it is named: {log}");
}

#[test]
fn marked_processes_without_a_session_are_ended_when_the_daemon_starts() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.kill_daemon();
    let live = keeper(&host, "echo-a");
    let child_of_the_live_one = orphan(&host, "echo-a@1", "exec sleep 600");
    let strays = [orphan(&host, "echo-a@0", "exec sleep 600"), orphan(&host, "echo-gone@3", "exec sleep 600")];
    host.start();
    for stray in &strays {
        host.until("a stray has ended", || !process::is_alive(stray));
    }
    assert!(process::is_alive(&live) && process::is_alive(&child_of_the_live_one), "the adopted session keeps what is its own\n{}", host.evidence());
    assert_eq!(host.lifecycle().matches("ev=stray-ended").count(), 2, "{}", host.lifecycle());
    host.run(&["stop", "a"]).ok();
    host.until("its own mark ends with it", || !process::is_alive(&child_of_the_live_one));
}

#[test]
fn servers_on_our_sockets_are_ended_unless_they_hold_something_foreign() {
    let mut host = Host::with_peers(&[]);
    host.stop_daemon();
    let run = host.root().join("run");
    let server = |name: &str, command: &str| {
        let socket = run.join(name);
        let made = Command::new(tmux())
            .args(["-f", "/dev/null", "-S"])
            .arg(&socket)
            .args(["start-server", ";", "set-option", "-g", "remain-on-exit", "on", ";", "new-session", "-d", command])
            .status()
            .unwrap();
        assert!(made.success());
        socket
    };
    let answers = |socket: &Path| Command::new(tmux()).arg("-S").arg(socket).arg("list-sessions").output().unwrap().status.success();
    let (empty, foreign) = (server("tmux-iap-echo-gone.sock", "true"), server("tmux-iap-echo-else.sock", "exec sleep 600"));
    let pane_is_dead = || Command::new(tmux()).arg("-S").arg(&empty).args(["display-message", "-p", "#{pane_dead}"]).output().unwrap().stdout == b"1\n";
    host.until("its program has ended", pane_is_dead);
    let stale = run.join("tmux-iap-echo-stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    host.start();
    assert!(!empty.exists() && !stale.exists(), "{:?}", host.sockets());
    assert!(answers(&foreign), "a program that is no keeper of ours is not ended");
    assert_eq!(host.lifecycle().matches("ev=stray-ended socket=").count(), 1, "{}", host.lifecycle());
}

#[test]
fn a_recorded_pid_that_is_somebody_elses_now_signals_nobody() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.kill_daemon();
    let keeper = keeper(&host, "echo-a");
    host.tmux("echo-a", &["kill-server"]);
    host.until("the session is over", || !process::is_alive(&keeper));
    // Every pid on record belongs to another process now, as after a reboot or a long time.
    let mut others: Vec<Foreign> = (0..3).map(|_| Foreign::new()).collect();
    let reused = |other: &Foreign| {
        let now = process::reference(other.pid()).unwrap();
        json!({"pid": now.pid, "start": now.start - 1})
    };
    let rewrite = |path: &Path, names: [(&str, &Foreign); 2]| {
        let mut record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for (name, other) in names {
            record[name] = reused(other);
        }
        std::fs::write(path, record.to_string()).unwrap();
    };
    let dir = host.state_dir("echo-a");
    rewrite(&dir.join("session.json"), [("keeper", &others[0]), ("server", &others[1])]);
    rewrite(&dir.join("exits/1.start.json"), [("keeper", &others[0]), ("agent", &others[2])]);
    host.start();
    host.deliver("a", "again");
    assert_eq!(host.presence("a")["incarnation"], 2);
    // The same once more, as a daemon finds it that died before its session was recorded.
    host.run(&["stop", "a"]).ok();
    host.kill_daemon();
    rewrite(&dir.join("exits/2.start.json"), [("keeper", &others[0]), ("agent", &others[2])]);
    host.start();
    host.run(&["start", "a"]).ok();
    assert!(others.iter_mut().all(Foreign::is_untouched), "{}", host.evidence());
}

/// Makes the state say that it is of an earlier boot, with other processes in the place of its own.
fn rebooted(host: &Host, identity: &str, others: Option<[&Foreign; 2]>) {
    let change = |path: PathBuf, change: &dyn Fn(&mut Value)| {
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut record);
        std::fs::write(path, record.to_string()).unwrap();
    };
    change(host.state_dir(identity).join("session.json"), &|session| {
        session["boot_id"] = "another".into();
        for (name, other) in ["keeper", "server"].into_iter().zip(others.into_iter().flatten()) {
            // To the tick: start times are counted from the boot.
            let now = process::reference(other.pid()).unwrap();
            session[name] = json!({"pid": now.pid, "start": now.start});
        }
    });
    change(host.root().join("state/daemon.json"), &|state| state["boot_id"] = "another".into());
}

/// Ends a session as a reboot does: its processes are gone, and no daemon has seen it.
fn lose_with_the_host(host: &mut Host, names: &[&str]) {
    host.kill_daemon();
    for name in names {
        let identity = format!("echo-{name}");
        let keeper = keeper(host, &identity);
        host.tmux(&identity, &["kill-server"]);
        host.until("its processes are gone", || !process::is_alive(&keeper));
    }
}

#[test]
fn after_a_reboot_whoever_has_a_recorded_pid_and_start_time_is_not_signalled() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    lose_with_the_host(&mut host, &["a"]);
    let mut others = [Foreign::new(), Foreign::new()];
    rebooted(&host, "echo-a", Some([&others[0], &others[1]]));
    host.start();
    host.until("the loss is known", || host.lifecycle().contains("cause=host-reboot"));
    host.deliver("a", "again");
    assert_eq!(host.presence("a")["incarnation"], 2);
    assert!(others.iter_mut().all(Foreign::is_untouched), "{}", host.evidence());
}

#[test]
fn a_reboot_restores_nobody_what_was_awake_or_all_as_the_settings_say() {
    for (setting, live) in [("none", vec![]), ("awake", vec!["awake"]), ("all", vec!["asleep", "awake"])] {
        let mut host = Host::with_config(&format!("restore: {setting}\n"), &["awake", "asleep", "halted", "worker"]);
        let profile = host.root().join("peers/worker/.iapeer/peer.yaml");
        let text = std::fs::read_to_string(&profile).unwrap();
        std::fs::write(&profile, format!("{}\nwake_policy: ephemeral\n", text.replace("wake_policy: warm", ""))).unwrap();
        host.deliver("awake", "hello");
        host.run(&["stop", "halted"]).ok();
        lose_with_the_host(&mut host, &["awake"]);
        rebooted(&host, "echo-awake", None);
        host.start();
        let up = |host: &Host| {
            let names = ["asleep", "awake", "halted", "worker"];
            names.into_iter().filter(|n| host.presence(n)["state"] == "live").collect::<Vec<_>>()
        };
        host.until("who is to be up is up", || up(&host) == live);
        assert_eq!(host.presence("halted")["state"], "stopped");
        if setting == "awake" {
            assert!(host.lifecycle().contains("mode=resume cause=restore"), "{}", host.lifecycle());
        }
        // Only after a reboot.
        host.run(&["stop", "awake"]).ok();
        host.run(&["start", "asleep"]).ok();
        host.stop_daemon();
        host.start();
        assert_eq!(up(&host), ["asleep"]);
    }
}

#[test]
fn a_launch_that_no_daemon_lived_to_record_counts_as_the_death_that_it_was() {
    let mut host = Host::with_peers(&["a"]);
    host.stop_daemon();
    let dir = host.state_dir("echo-a");
    let boot = iapeer::sys::clock::boot_id();
    let nobody = json!({"pid": i32::MAX, "start": 1});
    std::fs::create_dir_all(dir.join("exits")).unwrap();
    let write = |name: &str, value: Value| std::fs::write(dir.join(name), value.to_string()).unwrap();
    write("intent.json", json!({"v": 1, "act": "waking", "incarnation": 7, "mode": "fresh", "at": "", "boot_id": boot}));
    let started =
        json!({"protocol": 1, "identity": "echo-a", "incarnation": 7, "keeper": nobody, "agent": nobody, "at": "2026-11-21T10:00:00+01:00", "boot_id": boot});
    write("exits/7.start.json", started);
    let ended =
        json!({"protocol": 1, "incarnation": 7, "code": 3, "at": "2026-11-21T10:00:02+01:00", "user_ms": 1, "system_ms": 1, "max_rss_kib": 1, "left_over": 0});
    write("exits/7.exit.json", ended);
    std::fs::write(dir.join("incarnation"), "7\n").unwrap();
    host.start();
    host.until("it is told", || host.lifecycle().contains("ev=death identity=echo-a inc=7 cause=exit-3 age=2s"));
    assert!(!dir.join("intent.json").exists());
    host.deliver("a", "hello");
    assert_eq!(host.presence("a")["incarnation"], 8);
    assert!(!dir.join("intent.json").exists(), "a launch that is recorded leaves none");
    // Told once.
    host.kill_daemon();
    host.start();
    host.deliver("a", "again");
    assert_eq!(host.lifecycle().matches("ev=death").count(), 1, "{}", host.lifecycle());
}

#[test]
fn a_lost_tmux_server_leaves_no_agent_and_its_last_screen_and_is_named() {
    let mut host = Host::with_peers(&["a"]);
    let server = |host: &Host| serde_json::from_value(host.session("echo-a").unwrap()["server"].clone()).unwrap();
    let kept = |host: &Host, inc: u32| std::fs::read_to_string(host.state_dir("echo-a").join(format!("exits/{inc}.screen.txt"))).unwrap_or_default();
    host.deliver("a", "say: famous last words");
    host.until("its screen is kept while it runs", || kept(&host, 1).contains("famous last words"));
    let keeper_of_a = keeper(&host, "echo-a");
    signal(&server(&host), Signal::SIGKILL);
    host.until("its end is written down", || !host.exits("echo-a").is_empty());
    assert!(!process::is_alive(&keeper_of_a));
    let line = &host.exits("echo-a")[0];
    assert!(line.contains(" inc=1 kind=death cause=tmux-lost "), "{line}");
    assert!(screen_of(line).contains("famous last words"), "{line}");
    assert!(host.screen("a").contains("famous last words"), "`screen` shows it while nothing runs");
    host.until("its socket is removed", || host.sockets().is_empty());
    // The same when the daemon goes with it, and when the whole host does.
    for (inc, cause) in [(2, "tmux-lost"), (3, "host-reboot")] {
        host.deliver("a", &format!("say: gone together {inc}"));
        host.until("its screen is kept", || kept(&host, inc).contains(&format!("gone together {inc}")));
        let (server, keeper) = (server(&host), keeper(&host, "echo-a"));
        host.kill_daemon();
        signal(&server, Signal::SIGKILL);
        host.until("the keeper has ended it", || !process::is_alive(&keeper));
        if cause == "host-reboot" {
            let mut record = host.session("echo-a").unwrap();
            record["boot_id"] = "another-boot".into();
            std::fs::write(host.state_dir("echo-a").join("session.json"), record.to_string()).unwrap();
        }
        host.start();
        host.until("its end is written down", || host.exits("echo-a").len() == inc as usize);
        let line = &host.exits("echo-a")[inc as usize - 1];
        assert!(line.contains(&format!(" inc={inc} kind=death cause={cause} ")) && screen_of(line).contains(&format!("gone together {inc}")), "{line}");
    }
    host.deliver("a", "again");
}

/// A peer whose program knows no quit key and ignores TERM.
fn with_a_stubborn_peer() -> Host {
    let mut host = Host::new();
    let script = host.dir.path().join("stubborn.sh");
    std::fs::write(&script, format!("#!/bin/sh\ntrap '' TERM\nexec '{}' echo-agent \"$@\"\n", program())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    host.define("stubborn", &format!("[{:?}]", script.display().to_string()));
    let path = host.root().join("runtimes/stubborn.yaml");
    let definition = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, definition.split("  quit_keys:").next().unwrap()).unwrap();
    std::fs::write(host.root().join("config.yaml"), "term_grace_secs: 1\n").unwrap();
    host.run(&["create", "a", "--runtime", "stubborn"]).ok();
    host.start();
    host.deliver("a", "hello");
    host
}

#[test]
fn a_daemon_that_dies_in_the_middle_of_a_stop_leaves_it_to_the_keeper_and_the_next_one() {
    for ended_meanwhile in [false, true] {
        let mut host = with_a_stubborn_peer();
        let keeper = keeper(&host, "stubborn-a");
        let mut stop = host.command(&["stop", "a"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        host.until("the stop has begun", || host.lifecycle().contains("ev=stop identity=stubborn-a") && host.state_dir("stubborn-a").join("stopped").exists());
        host.kill_daemon();
        stop.wait().unwrap();
        if ended_meanwhile {
            // Whether or not the daemon came to say so, the keeper has been told.
            let _ = process::signal(&keeper, Signal::SIGTERM);
            host.until("the keeper ends its tree", || !process::is_alive(&keeper));
        }
        host.start();
        host.until("the stop is carried out", || host.session("stubborn-a").is_none());
        assert!(!process::is_alive(&keeper));
        assert_eq!(host.presence("a")["state"], "stopped");
        assert!(!host.lifecycle().contains("ev=death"), "{}", host.lifecycle());
        let exits = host.exits("stubborn-a");
        assert!(exits.len() == 1 && exits[0].contains(" kind=ordered cause=signal-9 "), "{exits:?}");
    }
}

#[test]
fn a_draft_is_not_answered_by_a_quit_key() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.type_keys("echo-a", &["-l", "half a thought"]);
    host.until("the draft stands", || host.screen("a").contains("half a thought"));
    host.run(&["stop", "a"]).ok();
    let exits = host.exits("echo-a");
    assert!(exits[0].contains(" kind=ordered cause=signal-15 "), "the keys were withheld: {exits:?}");
}

#[test]
fn a_death_leaves_its_last_screen_and_a_line_that_the_verbs_show() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "crash: 7");
    host.until("its end is written down", || !host.exits("echo-a").is_empty());
    let line = host.exits("echo-a")[0].clone();
    assert!(line.contains(" inc=1 kind=death cause=exit-7 "), "{line}");
    // It has cleared its screen itself; a program that is killed does not.
    screen_of(&line);
    let shown = host.run(&["logs", "a", "--exits"]).ok().out;
    assert_eq!(shown.trim(), line);
    assert!(!host.run(&["logs", "a"]).ok().out.contains("ev=exit"), "told once by default");
    let explained = host.run(&["explain", "a"]).ok().out;
    assert!(explained.contains("(session 1): exit-7 after ") && explained.contains("1.screen.txt"), "{explained}");
    let deaths = host.run(&["explain", "a", "--json"]).ok().json()[0]["deaths"].clone();
    assert_eq!(deaths[0]["cause"], "exit-7", "{deaths}");
    host.deliver("a", "say: famous last words");
    host.until("they are said", || host.screen("a").contains("famous last words"));
    signal(&agent(&host, "echo-a"), Signal::SIGKILL);
    host.until("the second end is written down", || host.exits("echo-a").len() == 2);
    let line = host.exits("echo-a")[1].clone();
    assert!(line.contains(" inc=2 kind=death cause=signal-9 ") && screen_of(&line).contains("famous last words"), "{line}");
    assert!(!line.contains(" claimed="), "nothing was in flight: {line}");
    assert!(host.screen("a").contains("famous last words"), "`screen` shows it while nothing runs");
}

#[test]
fn a_death_names_the_message_that_was_in_flight() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.until("its turn is over", || host.presence("a")["turn"] == "idle");
    let agent = agent(&host, "echo-a");
    // It takes nothing in any more: what is typed now, nobody has read when it dies.
    signal(&agent, Signal::SIGSTOP);
    let id = host.run(&["send", "a", "later", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    host.until("it is in flight", || host.message(&id)["state"] == "injected");
    signal(&agent, Signal::SIGKILL);
    host.until("its end is written down", || !host.exits("echo-a").is_empty());
    let line = &host.exits("echo-a")[0];
    assert!(line.contains(" inc=1 kind=death cause=signal-9 ") && line.contains(&format!(" claimed={id}")), "{line}");
    let log = host.lifecycle();
    assert!(log.lines().any(|l| l.contains("ev=death identity=echo-a inc=1 ") && l.ends_with(&format!(" claimed={id}"))), "{log}");
    assert!(host.run(&["explain", "a"]).ok().out.contains(&format!(", while it had {id}")));
    host.until("the next session has it", || host.turns("a").len() == 2);
    assert!(host.turns("a")[1].contains(&format!("id=\"{id}\"")) && host.turns("a")[1].contains("redelivered="), "{:?}", host.turns("a"));
}

#[test]
fn long_lived_children_are_named_at_the_end_of_their_session_and_young_ones_are_not() {
    let host = Host::with_peers(&["a", "b"]);
    let mut old = Vec::new();
    for name in ["a", "b"] {
        host.deliver(name, "hello");
        old.push(start_child(&host, name));
    }
    // More than a minute is what counts: their age is the state that is waited for.
    while old.iter().any(|child| process::age_secs(child) <= 60) {
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    let young = [start_child(&host, "a"), start_child(&host, "b")];
    signal(&agent(&host, "echo-a"), Signal::SIGKILL);
    host.run(&["stop", "b"]).ok();
    for (n, (name, kind)) in [("a", "kind=death cause=signal-9"), ("b", "kind=ordered cause=exit-0")].into_iter().enumerate() {
        host.until("its end is written down", || !host.exits(&format!("echo-{name}")).is_empty());
        let line = &host.exits(&format!("echo-{name}"))[0];
        let (named, rest) = line.split_once(" children=\"").and_then(|(_, rest)| rest.split_once('"')).unwrap_or_else(|| panic!("none named: {line}"));
        assert!(line.contains(kind) && named.starts_with(&format!("sleep ({}, 6", old[n].pid)) && named.ends_with(" s)"), "{line}");
        assert!(!named.contains(&young[n].pid.to_string()) && !rest.contains("sleep"), "{line}");
        assert!(!process::is_alive(&old[n]) && !process::is_alive(&young[n]), "both ended with it\n{}", host.evidence());
    }
}

/// Starts a process with a mark again and again, each deaf to TERM: whatever is ended, there is another one.
/// It bears no mark itself, like a program that has overwritten its environment.
struct Hydra {
    head: Child,
    lives: PathBuf,
    root: PathBuf,
}

impl Hydra {
    fn new(host: &Host, mark: &str) -> Hydra {
        let lives = host.dir.path().join("hydra");
        std::fs::write(&lives, "").unwrap();
        let root = host.root();
        let grow = format!("IAPEER_SESSION='{mark}' IAPEER_ROOT='{}' sleep 600 & sleep 0.2", root.display());
        let script = format!("trap '' TERM; while [ -e '{}' ]; do {grow}; done", lives.display());
        let head = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Hydra { head, lives, root }
    }

    /// No further one.
    fn slay(&mut self) {
        let _ = std::fs::remove_file(&self.lives);
        let _ = self.head.wait();
    }
}

impl Drop for Hydra {
    fn drop(&mut self) {
        self.slay();
        for marked in marks::find(&self.root).iter().filter(|m| m.incarnation == 0) {
            let _ = marks::signal(marked, &self.root, Signal::SIGKILL);
        }
    }
}

#[test]
fn no_agent_is_started_beside_what_cannot_be_ended_and_the_operator_is_told_why() {
    let mut host = Host::new();
    host.env.insert("IAPEER_CRASHLOOP_MAX".into(), "1".into());
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    std::fs::write(host.root().join("config.yaml"), "term_grace_secs: 1\n").unwrap();
    host.start();
    let mut hydra = Hydra::new(&host, "echo-a@0");
    let marked = || marks::find(&host.root()).len();
    host.until("it runs", || marked() > 0);
    let id = host.run(&["send", "a", "hello", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    host.until("the launch is refused", || host.lifecycle().contains("ev=wake-failed identity=echo-a inc=1 reason=launch-failed "));
    let log = host.lifecycle();
    let refusal = log.lines().find(|l| l.contains("ev=wake-failed")).unwrap();
    assert!(refusal.contains("what an earlier session of echo-a left running") && refusal.contains(" sleep"), "it is named: {refusal}");
    assert!(host.session("echo-a").is_none() && host.sockets().is_empty() && !host.state_dir("echo-a").join("exits/1.start.json").exists());
    assert!(!log.contains("ev=death"), "nothing has died: {log}");
    host.until("it is held", || host.presence("a")["reason"] == "crash-loop");
    let told = || host.run(&["inbox", "--keep"]).ok().out;
    host.until("the operator is told", || told().contains("echo-a could not be started: what an earlier session of echo-a left running"));
    assert_ne!(host.message(&id)["state"], "dead", "its mail is kept");
    // As often as it is asked for.
    let asked = host.run(&["start", "a", "--json"]);
    assert_eq!(asked.json()["error"]["code"], "wake_failed", "{asked:?}");
    assert!(asked.out.contains("left running") && marked() > 0, "{asked:?}");
    hydra.slay();
    host.run(&["start", "a"]).ok();
    host.until("its mail arrives", || host.turns("a").len() == 1);
    host.until("only the agent is left", || marked() == 1);
}
