//! Schedules against real sleepers and real crashes: a slot is one message, whatever happens around it.

use crate::harness::{Host, body_of, id_of};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

fn folder(host: &Host, name: &str) -> PathBuf {
    host.root().join("peers").join(name)
}

/// Writes the profile of a peer as a person would, in place.
fn schedule(host: &Host, name: &str, schedules: &str) {
    let text = format!("personality: {name}\nruntimes: [echo]\ndefault_runtime: echo\n{schedules}");
    std::fs::write(folder(host, name).join(".iapeer/peer.yaml"), text).unwrap();
}

/// The lines of the lifecycle log about a schedule with this action.
fn told(host: &Host, name: &str, action: &str) -> Vec<String> {
    let wanted = format!(" name={name} action={action}");
    host.lifecycle().lines().filter(|l| l.contains("ev=schedule ") && l.contains(&wanted)).map(String::from).collect()
}

#[track_caller]
fn until_told(host: &Host, name: &str, action: &str, times: usize) -> String {
    host.until(&format!("{name} is {action}, {times} times"), || told(host, name, action).len() >= times);
    told(host, name, action).pop().unwrap()
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    line.split(' ').find_map(|f| f.strip_prefix(name)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {name} in {line}"))
}

fn shown(host: &Host, name: &str) -> Value {
    let all = host.run(&["schedules", "a", "--json"]).ok().json();
    all.as_array().unwrap().iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no {name} in {all}")).clone()
}

/// Keys of all scheduled messages that the peer's mailbox has ever held.
fn keys(host: &Host, identity: &str) -> Vec<String> {
    let queue = host.state_dir(identity).join("queue");
    let mut keys: Vec<String> = Vec::new();
    for dir in ["new", "cur", "held", "done", "dead"] {
        for entry in std::fs::read_dir(queue.join(dir)).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().ends_with(".msg") {
                continue;
            }
            // What is moved on meanwhile is looked at by nobody: the daemon is down, or the peer at rest.
            let record = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned();
            let header: Value = serde_json::from_str(record.lines().nth(1).unwrap()).unwrap();
            assert_eq!((&header["from"], &header["via"]), (&"iapeer".into(), &"schedule".into()));
            keys.push(header["idempotency_key"].as_str().unwrap().into());
        }
    }
    keys
}

#[track_caller]
fn all_different(what: &[String]) {
    let different: BTreeSet<_> = what.iter().collect();
    assert_eq!(different.len(), what.len(), "{what:?}");
}

#[test]
fn a_watched_folder_wakes_its_sleeping_peer_once_for_a_burst_and_not_for_what_goes() {
    let host = Host::with_peers(&["a"]);
    schedule(&host, "a", "schedules:\n  - name: box\n    watch: in/box\n    topic: post\n    text: look into the box\n");
    until_told(&host, "box", "armed", 1);
    assert_eq!(host.presence("a")["state"], "asleep");
    let folder = folder(&host, "a").join("in/box");
    std::fs::create_dir_all(&folder).unwrap();
    for n in 0..20 {
        std::fs::write(folder.join(format!("file-{n}")), "x").unwrap();
    }
    host.until("it is a turn", || !host.turns("a").is_empty());
    let fired = until_told(&host, "box", "fired", 1);
    let turn = host.turns("a").remove(0);
    assert_eq!((body_of(&turn), id_of(&turn)), ("look into the box", field(&fired, "msg")));
    assert!(turn.contains("from=\"iapeer\"") && turn.contains("topic=\"post\""), "{turn}");
    assert!(host.lifecycle().contains("cause=first-wake"), "a schedule wakes, as a notice does not");

    // What only goes is no news; what comes then is.
    std::fs::remove_file(folder.join("file-0")).unwrap();
    std::fs::rename(folder.join("file-1"), folder.join("../done")).unwrap();
    std::fs::write(folder.join(".hidden"), "x").unwrap();
    std::fs::write(folder.join("file-2"), "changed").unwrap();
    host.until("the change is another turn", || host.turns("a").len() >= 2);
    // A folder that comes again is watched again.
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    host.deliver("a", "in between");
    std::fs::write(folder.join("new"), "x").unwrap();
    host.until("and this one, too", || host.turns("a").len() >= 4);
    assert_eq!(told(&host, "box", "fired").len(), 3, "{}", host.evidence());
    assert_eq!(host.turns("a").len(), 4);
    let view = shown(&host, "box");
    assert_eq!((&view["fires"], &view["state"], &view["watch"]), (&3.into(), &"on".into(), &"in/box".into()), "{view}");
}

#[test]
fn a_daemon_killed_around_its_fires_sends_no_slot_twice() {
    let mut host = Host::with_peers(&["a"]);
    schedule(&host, "a", "schedules:\n  - name: tick\n    cron: '* * * * * *'\n    text: tick\n");
    for round in 0..6 {
        let before = told(&host, "tick", "fired").len();
        until_told(&host, "tick", "fired", before + 1);
        // Somewhere around the next slot.
        std::thread::sleep(Duration::from_millis(850 + round * 45));
        host.kill_daemon();
        all_different(&keys(&host, "echo-a"));
        host.start();
    }
    schedule(&host, "a", "schedules:\n  - name: tick\n    cron: '* * * * * *'\n    text: tick\n    enabled: false\n");
    host.until("it is switched off", || shown(&host, "tick")["state"] == "off");
    host.until("all is delivered", || host.presence("a")["queue"]["waiting"] == 0);
    let kept = keys(&host, "echo-a");
    assert!(kept.len() > 6);
    all_different(&kept);
    let turns: Vec<String> = host.turns("a").iter().map(|t| id_of(t).to_string()).collect();
    all_different(&turns);
    assert_eq!(turns.len(), kept.len(), "each message is one turn");
    let slots: Vec<String> = told(&host, "tick", "fired").iter().map(|l| field(l, "slot").to_string()).collect();
    all_different(&slots);
}

#[test]
fn a_fire_that_was_kept_but_not_remembered_is_the_same_message() {
    let mut host = Host::with_peers(&["a"]);
    let at = chrono::Utc::now() + chrono::TimeDelta::seconds(3);
    let cron = at.format("%S %M %H %d %m *");
    schedule(&host, "a", &format!("schedules:\n  - name: once\n    time_zone: UTC\n    cron: '{cron}'\n    text: now\n"));
    until_told(&host, "once", "armed", 1);
    let memory = host.state_dir("echo-a").join("schedules.json");
    host.until("that it is armed is remembered", || memory.exists());
    let before = std::fs::read(&memory).unwrap();
    let first = until_told(&host, "once", "fired", 1);
    host.kill_daemon();
    // As if it had died before it could remember.
    std::fs::write(&memory, &before).unwrap();
    host.start();
    let again = until_told(&host, "once", "fired", 2);
    assert_eq!((field(&first, "msg"), field(&first, "slot")), (field(&again, "msg"), field(&again, "slot")));
    host.deliver("a", "after it");
    assert_eq!(host.turns("a").len(), 2, "{:?}", host.turns("a"));
    assert_eq!(shown(&host, "once")["fires"], 1);
    // A memory that is half a file: put aside and told of, the keys still hold.
    host.kill_daemon();
    std::fs::write(&memory, "{half").unwrap();
    host.start();
    host.until("it begins anew", || told(&host, "once", "armed").len() == 2);
    assert!(host.lifecycle().contains("action=quarantined file=schedules.json.corrupt"), "{}", host.lifecycle());
}

#[test]
fn bad_entries_take_only_themselves_out_and_name_file_line_and_way_out() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    schedule(
        &host,
        "a",
        "schedules:\n  - name: good\n    cron: 0 9 * * *\n    time_zone: Europe/Berlin\n    text: x\n  - name: zone\n    cron: 0 9 * * *\n    time_zone: Europe/Berln\n    text: x\n  - name: cron\n    text: x\n    cron: every day\n  - name: outside\n    watch: ../b\n    text: x\n  - name: good\n    watch: .\n    text: x\n  - name: typo\n    wach: .\n    text: x\n",
    );
    until_told(&host, "good", "armed", 1);
    for (name, line, says) in [
        ("zone", 11, "did you mean `Europe/Berlin`?"),
        ("cron", 15, "five fields"),
        ("outside", 17, "outside the peer's folder"),
        ("typo", 23, "did you mean `watch`?"),
    ] {
        let view = shown(&host, name);
        let error = view["error"].as_str().unwrap_or_else(|| panic!("{view}"));
        assert!(view["state"] == "invalid" && error.contains(&format!("peer.yaml:{line}:")) && error.contains(says), "{view}");
        assert!(until_told(&host, name, "invalid", 1).contains(says));
    }
    let all = host.run(&["schedules", "--json"]).ok().json();
    assert_eq!(all.as_array().unwrap().len(), 6);
    let good = &all[0];
    let next = chrono::DateTime::parse_from_rfc3339(good["next"].as_str().unwrap()).unwrap();
    assert_eq!((next.time().to_string(), &good["time_zone"]), ("09:00:00".into(), &"Europe/Berlin".into()), "{good}");
    let twice: Vec<&Value> = all.as_array().unwrap().iter().filter(|v| v["name"] == "good").collect();
    assert!(twice[1]["error"].as_str().unwrap().contains("peer.yaml:19: another entry is named `good`"), "{all}");
    let table = host.run(&["schedules"]).ok();
    assert!(table.out.contains("cron 0 9 * * * (Europe/Berlin)") && table.err.matches("warning: ").count() == 5, "{table:?}");
    assert!(host.run(&["list"]).ok().err.contains("peer.yaml:11:"));
    // The peer itself is none the worse.
    host.deliver("a", "still here");
    assert_eq!(host.presence("a")["state"], "live");
    // Mended, by an edit; what left the profile is forgotten.
    schedule(&host, "a", "schedules:\n  - name: zone\n    cron: 0 9 * * *\n    time_zone: Europe/Berlin\n    text: x\n");
    until_told(&host, "zone", "armed", 1);
    until_told(&host, "good", "dropped", 1);
    let unknown = host.run(&["schedules", "aa"]);
    assert!(unknown.code == 3 && unknown.err.contains("did you mean a?"), "{unknown:?}");
}

#[test]
fn a_stopped_peer_gets_one_message_for_all_it_missed_or_none() {
    let host = Host::with_peers(&["a"]);
    schedule(
        &host,
        "a",
        "schedules:\n  - name: tick\n    cron: '* * * * * *'\n    text: tick\n  - name: seen\n    watch: file\n    missed: skip\n    text: seen\n  - name: told\n    watch: file\n    text: told\n",
    );
    host.run(&["stop", "a"]).ok();
    until_told(&host, "tick", "waits", 1);
    assert!(told(&host, "tick", "waits")[0].ends_with("reason=peer_stopped"));
    std::fs::write(folder(&host, "a").join("file"), "x").unwrap();
    until_told(&host, "seen", "skipped", 1);
    until_told(&host, "told", "waits", 1);
    let (waits, before) = (shown(&host, "tick"), told(&host, "tick", "fired").len());
    assert_eq!((&waits["state"], &waits["reason"]), (&"waits".into(), &"stopped".into()));
    assert_eq!(told(&host, "tick", "waits").len(), 1, "said once");
    let began = chrono::Utc::now();
    host.until("some slots have passed", || chrono::Utc::now() - began > chrono::TimeDelta::seconds(2));
    host.run(&["start", "a"]).ok();
    until_told(&host, "tick", "fired", before + 1);
    let first = told(&host, "tick", "fired")[before].clone();
    assert!(field(&first, "missed").parse::<u64>().unwrap() >= 1, "{first}");
    until_told(&host, "told", "fired", 1);
    assert!(told(&host, "seen", "fired").is_empty());

    // The same with a frozen host.
    host.run(&["freeze"]).ok();
    until_told(&host, "tick", "waits", 2);
    assert!(told(&host, "tick", "waits")[1].ends_with("reason=frozen"));
    let before = told(&host, "tick", "fired").len();
    host.run(&["unfreeze"]).ok();
    until_told(&host, "tick", "fired", before + 1);
    schedule(&host, "a", "");
    until_told(&host, "tick", "dropped", 1);
    assert!(host.run(&["schedules"]).ok().out.contains("no peer has schedules"));
}

#[test]
fn what_changes_while_no_daemon_runs_is_missed() {
    let mut host = Host::with_peers(&["a"]);
    let file = folder(&host, "a").join("file");
    std::fs::write(&file, "before").unwrap();
    schedule(&host, "a", "schedules:\n  - name: seen\n    watch: file\n    missed: skip\n    text: seen\n  - name: told\n    watch: file\n    text: told\n");
    until_told(&host, "seen", "armed", 1);
    until_told(&host, "told", "armed", 1);
    host.stop_daemon();
    std::fs::write(&file, "meanwhile").unwrap();
    let ran = host.run(&["schedules", "a", "--json"]).ok();
    assert!(ran.err.contains("no daemon runs") && ran.json().as_array().unwrap().len() == 2, "{ran:?}");
    assert_eq!(host.run(&["schedules", "nobody"]).code, 3);
    host.start();
    until_told(&host, "told", "fired", 1);
    until_told(&host, "seen", "skipped", 1);
    std::fs::write(&file, "and now").unwrap();
    until_told(&host, "told", "fired", 2);
    until_told(&host, "seen", "fired", 1);
    host.until("all three are turns", || host.turns("a").len() == 3);
    // Gone with its peer: a namesake inherits nothing.
    host.run(&["remove", "a"]).ok();
    assert!(host.run(&["schedules"]).ok().out.contains("no peer has schedules"));
}
