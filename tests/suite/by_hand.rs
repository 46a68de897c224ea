//! What an operator does with plain files: markers touched and removed, profiles and definitions edited,
//! records moved. The daemon acts on each, as on an order.

use crate::harness::{Host, body_of};
use crate::security::get;
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

fn touch(path: &Path) {
    std::fs::write(path, "").unwrap();
}

fn marker(host: &Host, name: &str) -> PathBuf {
    host.state_dir("echo-a").join(name)
}

fn profile(host: &Host) -> PathBuf {
    host.root().join("peers/a/.iapeer/peer.yaml")
}

/// Edits as an editor does: the whole file, beside it, then in its place.
fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let beside = path.with_extension("new");
    std::fs::write(&beside, change(text)).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn logged(host: &Host, words: &[&str]) -> bool {
    host.lifecycle().lines().any(|line| words.iter().all(|w| line.contains(w)))
}

fn degraded(host: &Host) -> String {
    host.run(&["status", "--json"]).ok().json()["degraded"].to_string()
}

fn incarnation(host: &Host) -> Value {
    host.presence("a")["incarnation"].clone()
}

#[test]
fn a_touched_stop_ends_the_session_and_its_removal_lets_the_mail_go() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "one");
    touch(&marker(&host, "stopped"));
    host.until("it is stopped", || host.presence("a")["state"] == "stopped" && host.session("echo-a").is_none());
    assert!(logged(&host, &["ev=marker", "file=stopped", "change=appeared", "by=file"]), "{}", host.lifecycle());
    assert!(logged(&host, &["ev=stop", "by=marker"]));
    host.run(&["send", "a", "two", "--queue"]).ok();
    std::fs::remove_file(marker(&host, "stopped")).unwrap();
    host.until("its mail goes", || host.turns("a").len() == 2);
    assert!(logged(&host, &["ev=marker", "file=stopped", "change=vanished"]));
}

#[test]
fn a_stop_by_verb_and_one_by_file_are_lifted_by_either() {
    let host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    std::fs::remove_file(marker(&host, "stopped")).unwrap();
    host.until("it sleeps", || host.presence("a")["state"] == "asleep");
    touch(&marker(&host, "stopped"));
    host.until("it is stopped", || host.presence("a")["state"] == "stopped");
    host.run(&["start", "a"]).ok();
    host.deliver("a", "hello");
    assert!(!marker(&host, "stopped").exists());
}

#[test]
fn a_touched_freeze_holds_the_mail_of_a_live_session() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "one");
    host.run(&["send", "a", "two", "--json"]).ok();
    host.until("two came", || host.turns("a").len() == 2);
    touch(&marker(&host, "frozen"));
    host.until("it is frozen", || logged(&host, &["ev=freeze", "identity=echo-a", "by=marker"]));
    assert_eq!(host.run(&["send", "a", "three"]).code, 3, "a frozen peer takes no mail");
    assert!(host.session("echo-a").is_some(), "its session stays");
    std::fs::remove_file(marker(&host, "frozen")).unwrap();
    host.until("it is thawed", || logged(&host, &["ev=unfreeze", "identity=echo-a", "by=marker"]));
    host.deliver("a", "three");
}

#[test]
fn a_file_freezes_the_host_and_so_does_what_cannot_be_read() {
    let host = Host::with_peers(&["a"]);
    let path = host.root().join("state/frozen");
    edit(&path, |_| "the disk is changed\n".into());
    host.until("it is frozen", || logged(&host, &["ev=freeze", "by=\"file: the disk is changed\""]));
    assert_eq!(host.run(&["send", "a", "one"]).code, 3);
    std::fs::remove_file(&path).unwrap();
    host.until("it is thawed", || logged(&host, &["ev=unfreeze", "by=file"]));
    host.deliver("a", "one");
    std::fs::create_dir(&path).unwrap();
    host.until("a directory freezes as well", || host.lifecycle().matches("ev=freeze").count() == 2);
    assert_eq!(host.run(&["send", "a", "two"]).code, 3);
    std::fs::remove_dir(&path).unwrap();
    host.until("it is thawed", || host.lifecycle().matches("ev=unfreeze").count() == 2);
    host.run(&["freeze", "--reason", "by verb"]).ok();
    host.run(&["unfreeze"]).ok();
    host.deliver("a", "two");
    assert_eq!((host.lifecycle().matches("ev=freeze").count(), host.lifecycle().matches("ev=unfreeze").count()), (3, 3), "told once each");
}

#[test]
fn a_touched_fresh_next_makes_the_next_wake_fresh() {
    let host = Host::with_peers(&["a"]);
    host.run(&["send", "a", "one", "--topic", "t", "--wait", "submitted"]).ok();
    touch(&marker(&host, "fresh-next"));
    host.until("it is taken over", || logged(&host, &["ev=marker", "file=fresh-next"]));
    assert_eq!(incarnation(&host), 1, "the live session goes on");
    touch(&marker(&host, "stopped"));
    host.until("it is stopped", || host.session("echo-a").is_none());
    std::fs::remove_file(marker(&host, "stopped")).unwrap();
    host.until("it sleeps", || host.presence("a")["state"] == "asleep");
    host.run(&["send", "a", "two", "--topic", "t", "--wait", "submitted"]).ok();
    assert!(logged(&host, &["ev=wake", "inc=2", "mode=fresh", "cause=soft-reload"]), "{}", host.lifecycle());
    host.until("it is used up", || !marker(&host, "fresh-next").exists());
}

#[test]
fn an_eager_mark_of_a_sleeper_brings_it_back_and_a_stop_is_stronger() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "one");
    touch(&marker(&host, "stopped"));
    host.until("it is stopped", || host.session("echo-a").is_none() && host.presence("a")["state"] == "stopped");
    touch(&marker(&host, "new-eager"));
    host.until("it is taken over", || logged(&host, &["ev=marker", "file=new-eager"]));
    assert_eq!(host.presence("a")["state"], "stopped");
    std::fs::remove_file(marker(&host, "stopped")).unwrap();
    host.until("it is back", || host.presence("a")["state"] == "live");
    assert!(logged(&host, &["ev=wake", "inc=2", "mode=fresh", "cause=self-fresh"]));
    host.until("it is used up", || !marker(&host, "new-eager").exists());
}

#[test]
fn an_armed_mark_of_another_session_is_taken_away() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "one");
    let path = marker(&host, "ephemeral-armed");
    edit(&path, |_| "7\n".into());
    host.until("it is dropped", || logged(&host, &["file=ephemeral-armed", "change=dropped"]) && !path.exists());
    edit(&path, |_| "seven\n".into());
    host.until("it is no number", || logged(&host, &["file=ephemeral-armed", "change=mended", "seven"]) && !path.exists());
    touch(&path);
    host.until("the number is filled in", || std::fs::read_to_string(&path).unwrap_or_default() == "1\n");
}

#[test]
fn what_is_no_plain_file_is_told_of_and_neither_followed_nor_waited_for() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "one");
    nix::unistd::mkfifo(&marker(&host, "fresh-next"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", marker(&host, "topics")).unwrap();
    std::fs::create_dir(marker(&host, "stopped")).unwrap();
    std::fs::create_dir(marker(&host, "stopped").join("precious")).unwrap();
    host.until("it is stopped", || host.presence("a")["state"] == "stopped" && host.session("echo-a").is_none());
    for (file, what) in [("fresh-next", "a pipe"), ("topics", "a symlink"), ("stopped", "a directory")] {
        host.until("all are told of", || logged(&host, &["ev=marker", "change=odd", file, what]) && degraded(&host).contains(file));
    }
    host.run(&["start", "a"]).ok();
    assert!(marker(&host, "stopped.aside.1").join("precious").exists(), "moved aside, with what was in it");
    host.run(&["send", "a", "two", "--topic", "t", "--wait", "submitted"]).ok();
    assert!(std::fs::read_to_string("/etc/hostname").unwrap_or_default().lines().all(|l| l != "t"), "not written through");
    std::fs::remove_file(marker(&host, "fresh-next")).unwrap();
    host.until("what is gone is no news any more", || degraded(&host) == "[]");
}

#[test]
fn a_new_description_restarts_nothing_and_a_new_environment_counts_for_the_next_session() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "one");
    edit(&profile(&host), |text| format!("{text}description: counts beans\n"));
    host.until("the edit is told of", || logged(&host, &["ev=profile", "peer=a", "action=changed", "at_once=description"]));
    assert_eq!(host.run(&["list", "--json"]).ok().json()[0]["description"], "counts beans");
    edit(&profile(&host), |text| format!("{text}resume: always\nenv: {{BEANS: \"42\"}}\ninitial_prompt: count\n"));
    host.until("each key is told of", || logged(&host, &["at_once=resume", "next_session=env", "next_fresh=initial_prompt"]));
    assert_eq!(incarnation(&host), 1, "nothing was restarted");
    let agent_env = || {
        let keeper = host.session("echo-a").unwrap()["keeper"]["pid"].as_i64().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        std::fs::read(format!("/proc/{}/environ", children.split_whitespace().next().unwrap())).unwrap()
    };
    let has = |env: Vec<u8>| String::from_utf8_lossy(&env).contains("BEANS=42");
    assert!(!has(agent_env()));
    host.run(&["stop", "a"]).ok();
    host.run(&["start", "a"]).ok();
    assert!(has(agent_env()), "{}", host.lifecycle());
}

#[test]
fn a_broken_profile_leaves_the_live_peer_with_its_last_good_one() {
    let host = Host::with_peers(&["a", "b"]);
    host.deliver("a", "one");
    let good = std::fs::read_to_string(profile(&host)).unwrap();
    edit(&profile(&host), |text| format!("{text}wake_policy: lukewarm\n"));
    let line = format!("peer.yaml:{}:", good.lines().count() + 1);
    host.until("it is told of", || logged(&host, &["ev=profile", "peer=a", "action=invalid", &line, "lukewarm"]));
    assert!(degraded(&host).contains(&line), "{}", degraded(&host));
    host.deliver("a", "two");
    assert_eq!(incarnation(&host), 1);
    assert_eq!(host.lifecycle().matches("action=invalid").count(), 1, "once");
    host.deliver("b", "not its fault");
    edit(&profile(&host), |_| good.clone());
    host.until("it is mended", || logged(&host, &["ev=profile", "peer=a", "action=mended"]) && degraded(&host) == "[]");
}

#[test]
fn mail_that_waited_for_a_mended_profile_goes_by_itself() {
    let host = Host::with_peers(&["a"]);
    let good = std::fs::read_to_string(profile(&host)).unwrap();
    edit(&profile(&host), |text| format!("{text}env: {{A: \"${{NO_SUCH_NAME}}\"}}\n"));
    host.run(&["send", "a", "one"]).ok();
    host.until("it is held", || host.presence("a")["reason"] == "profile-invalid");
    edit(&profile(&host), |_| good);
    host.until("it goes", || host.turns("a").len() == 1);
}

#[test]
fn a_runtime_that_the_profile_names_no_more_is_drained_and_comes_back_with_its_mail() {
    let mut host = Host::new();
    crate::refusals::define(&host, "other", "[\"{iapeer}\", echo-agent]");
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    host.start();
    edit(&profile(&host), |text| text.replace("- echo\n", "- echo\n- other\n"));
    host.until("it has two runtimes", || host.run(&["list", "--json"]).ok().json()[0]["runtimes"].as_array().unwrap().len() == 2);
    host.deliver("other-a", "one");
    edit(&profile(&host), |text| text.replace("- echo\n- other\n", "- echo\n"));
    host.until("its session ends", || host.session("other-a").is_none());
    assert_eq!(host.run(&["send", "other-a", "two"]).code, 3, "it is no peer");
    edit(&profile(&host), |text| text.replace("- echo\n", "- echo\n- other\n"));
    host.until("it is one again", || host.run(&["list", "--json"]).ok().json()[0]["runtimes"].as_array().unwrap().len() == 2);
    host.deliver("other-a", "two");
}

#[test]
fn an_edited_definition_counts_for_the_next_session_and_a_broken_one_for_none() {
    let mut host = Host::new();
    crate::refusals::define(&host, "other", "[\"{iapeer}\", echo-agent]");
    host.run(&["create", "a", "--runtime", "other"]).ok();
    host.start();
    host.deliver("a", "one");
    let path = host.root().join("runtimes/other.yaml");
    edit(&path, |text| text.replace("echo-agent]", "echo-agent]\n  version_args: [\"--no-such-flag\"]\n  argv_typo: 1"));
    host.until("it is told of", || logged(&host, &["ev=runtime", "runtime=other", "action=invalid", "other.yaml:"]));
    assert!(degraded(&host).contains("other.yaml"));
    host.deliver("a", "two");
    host.run(&["stop", "a"]).ok();
    host.run(&["start", "a"]).ok();
    host.deliver("a", "three");
    crate::refusals::define(&host, "other", "[\"/no/such/agent\"]");
    host.until("it counts", || logged(&host, &["ev=runtime", "runtime=other", "action=changed", "takes=next-session"]) && degraded(&host) == "[]");
    host.deliver("a", "four");
    host.run(&["stop", "a"]).ok();
    let ran = host.run(&["start", "a"]);
    assert!(ran.code != 0 && ran.err.contains("/no/such/agent"), "{ran:?}");
}

#[test]
fn a_lost_registry_costs_nothing() {
    let host = Host::with_peers(&[]);
    let folder = host.dir.path().join("home/elsewhere");
    std::fs::create_dir(&folder).unwrap();
    host.run(&["create", "a", "--runtime", "echo", "--path", folder.to_str().unwrap()]).ok();
    host.deliver("a", "one");
    let path = host.root().join("registry.json");
    std::fs::remove_file(&path).unwrap();
    host.until("it is written again", || std::fs::read_to_string(&path).is_ok_and(|t| t.contains("elsewhere")));
    edit(&path, |_| "{ not json".into());
    host.until("and again", || std::fs::read_to_string(&path).is_ok_and(|t| t.contains("elsewhere")));
    assert!(logged(&host, &["ev=registry", "action=rebuilt"]));
    assert_eq!(incarnation(&host), 1, "its session goes on");
    edit(&path, |text| {
        let mut registry: Value = serde_json::from_str(&text).unwrap();
        registry["peers"] = serde_json::json!({});
        registry.to_string()
    });
    host.until("who is taken out of it is drained and ended", || host.session("echo-a").is_none());
}

/// Where the one record of this folder lies.
fn record(host: &Host, folder: &str) -> PathBuf {
    let dir = host.state_dir("echo-a").join("queue").join(folder);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "msg")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn mv(host: &Host, from: &str, to: &str) {
    let record = record(host, from);
    let target = host.state_dir("echo-a").join("queue").join(to).join(record.file_name().unwrap());
    std::fs::rename(record, target).unwrap();
}

#[test]
fn a_record_moved_back_by_hand_is_delivered() {
    let host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    let id = host.run(&["send", "a", "again", "--queue", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    host.run(&["queue", "a", "drop", &id]).ok();
    host.run(&["start", "a"]).ok();
    mv(&host, "dead", "new");
    host.until("it is delivered", || host.turns("a").len() == 1);
    assert_eq!(body_of(&host.turns("a")[0]), "again");
    host.until("it is known", || host.message(&id)["state"] == "submitted");
    assert!(host.delivery_log().lines().any(|l| l.contains("state=accepted") && l.contains("reason=by-hand")));
}

#[test]
fn a_record_moved_out_by_hand_is_not_delivered() {
    let host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    let send = |text: &str| host.run(&["send", "a", text, "--queue", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    let parked = send("parked");
    mv(&host, "new", "held");
    host.until("it is parked", || host.message(&parked)["state"] == "parked");
    let dropped = send("dropped");
    mv(&host, "new", "dead");
    host.until("it is given up", || host.message(&dropped)["state"] == "dead");
    let deleted = send("deleted");
    std::fs::remove_file(record(&host, "new")).unwrap();
    host.until("its end is told", || host.delivery_log().lines().any(|l| l.contains(&deleted) && l.contains("reason=deleted")));
    assert_eq!(host.presence("a")["queue"]["waiting"], 0);
    host.run(&["start", "a"]).ok();
    host.deliver("a", "the next one");
    assert_eq!(host.turns("a").len(), 1);
    host.run(&["queue", "a", "release", &parked]).ok();
    host.until("what was parked goes when it is released", || host.turns("a").len() == 2);
}

#[test]
fn without_watches_the_look_at_everything_finds_it_and_status_says_so() {
    let mut host = Host::new();
    host.env.insert("IAPEER_TEST_NO_WATCHES".into(), "1".into());
    host.env.insert("IAPEER_TEST_DEEP_MS".into(), "300".into());
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    host.start();
    host.until("status says so", || degraded(&host).contains("max_user_watches"));
    host.deliver("a", "one");
    touch(&marker(&host, "stopped"));
    host.until("it is stopped", || host.presence("a")["state"] == "stopped" && host.session("echo-a").is_none());
    edit(&profile(&host), |text| format!("{text}description: counts beans\n"));
    host.until("the edit is told of", || logged(&host, &["ev=profile", "at_once=description"]));
    host.run(&["send", "a", "two", "--queue"]).ok();
    mv(&host, "new", "dead");
    host.until("it is given up", || host.delivery_log().contains("state=dead"));
    // What is kept after that is kept after its end was written.
    host.run(&["send", "a", "three", "--queue"]).ok();
    mv(&host, "dead", "new");
    std::fs::remove_file(marker(&host, "stopped")).unwrap();
    host.until("both go", || host.turns("a").len() == 3);
}

#[test]
fn who_asks_while_a_peer_is_removed_does_not_bring_it_back() {
    let host = Host::with_peers(&["b"]);
    let over = AtomicBool::new(false);
    let socket = host.root().join("run/iapeer.sock");
    let asking = || {
        while !over.load(Ordering::SeqCst) {
            get(&socket, "/v1/peers");
        }
    };
    let round = |_| {
        host.run(&["create", "a", "--runtime", "echo"]).ok();
        host.run(&["remove", "a"]).ok();
        host.run(&["list", "--json"]).ok().json().as_array().unwrap().len()
    };
    let left: Vec<usize> = std::thread::scope(|scope| {
        let askers = [scope.spawn(asking), scope.spawn(asking)];
        let left = std::panic::catch_unwind(AssertUnwindSafe(|| (0..12).map(round).collect()));
        over.store(true, Ordering::SeqCst);
        askers.into_iter().for_each(|a| a.join().unwrap());
        left.unwrap()
    });
    assert_eq!(left, [1; 12], "b alone");
}
