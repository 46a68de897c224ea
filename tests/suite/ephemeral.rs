//! Ephemeral workers: one task, one process; nothing is answered twice, nothing is forgotten.

use crate::harness::{Host, body_of, id_of};
use serde_json::Value;
use std::time::Duration;

const CONFIG: &str = "ephemeral_quiet_secs: 0\nephemeral_unarmed_secs: 2\ncrashloop_max: 100\nlimits: {operator_per_second: 1000}\n";

/// `w` is a worker, the others are warm.
fn workers(config: &str, others: &[&str]) -> Host {
    let mut host = Host::with_config(config, others);
    host.run(&["create", "w", "--wake-policy", "ephemeral"]).ok();
    if others.is_empty() {
        host.kill_daemon();
        host.start();
    }
    host
}

fn send(host: &Host, text: &str) -> String {
    let ran = host.run_with_input(&["send", "w", "--message-file", "-", "--json"], text.as_bytes()).ok();
    ran.json()["id"].as_str().unwrap().to_string()
}

fn agent_pid(host: &Host) -> Option<i32> {
    let pid: i32 = host.session("echo-w").map(|_| host.pane("echo-w", "#{pane_pid}"))?.parse().ok()?;
    // The keeper is the pane's process, the agent its child.
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

fn state(message: &Value) -> &str {
    message["state"].as_str().unwrap()
}

#[test]
fn tasks_go_one_by_one_each_into_a_fresh_process() {
    let host = workers(CONFIG, &[]);
    let ids: Vec<String> = (0..8).map(|n| send(&host, &format!("task {n}\nreply: done {n}"))).collect();
    for id in &ids {
        host.until("answered", || state(&host.message(id)) == "answered");
    }
    let turns = host.turns("w");
    let order: Vec<&str> = turns.iter().map(|t| body_of(t).lines().next().unwrap()).collect();
    assert_eq!(order, (0..8).map(|n| format!("task {n}")).collect::<Vec<_>>(), "in order, each once");
    let log = host.lifecycle();
    assert_eq!(log.matches("cause=ephemeral-policy").count(), 8, "{log}");
    assert_eq!(log.matches("ev=ephemeral-armed").count(), 8, "{log}");
    assert!(!log.contains("ev=death"), "{log}");
    host.until("the worker sleeps", || host.presence("w")["state"] == "asleep");
    assert!(!host.state_dir("echo-w").join("idle-reaped").exists(), "a worker's end is no sleep to resume from");
}

#[test]
fn a_task_whose_turn_says_nothing_more_is_done_with_its_turn() {
    let host = workers(CONFIG, &[]);
    let id = send(&host, "just read this");
    host.until("armed by the turn's end", || host.lifecycle().contains("ev=ephemeral-armed identity=echo-w inc=1 by=turn-end"));
    host.until("reaped", || host.lifecycle().contains("action=reaped-ephemeral "));
    assert_eq!(state(&host.message(&id)), "submitted");
    assert_eq!(host.presence("w")["queue"]["waiting"], 0);
}

#[test]
fn a_worker_that_dies_in_its_task_gives_it_back() {
    let host = workers(CONFIG, &[]);
    let id = send(&host, "work: 3s\nreply: done");
    host.until("it works", || state(&host.message(&id)) == "submitted");
    kill(agent_pid(&host).unwrap());
    host.until("answered by the next one", || state(&host.message(&id)) == "answered");
    let turns = host.turns("w");
    assert_eq!(turns.len(), 2, "{turns:?}");
    assert!(turns[1].contains("redelivered=\"2\"") && !turns[0].contains("redelivered"), "{turns:?}");
    assert_eq!(id_of(&turns[0]), id_of(&turns[1]));
}

#[test]
fn a_task_that_kills_every_worker_is_given_up_and_the_next_one_is_served() {
    let host = workers(CONFIG, &[]);
    let poison = send(&host, "crash: 7");
    let good = send(&host, "reply: fine");
    host.until("the next one is answered", || state(&host.message(&good)) == "answered");
    let dead = host.message(&poison);
    assert_eq!((state(&dead), dead["reason"].as_str()), ("dead", Some("killed_worker")), "{}", host.evidence());
    let notices = host.run(&["inbox", "--json"]).ok();
    assert!(notices.out.contains(&poison), "its sender was told: {}", notices.out);
    assert_eq!(host.turns("w").iter().filter(|t| id_of(t) == poison).count(), 3);
}

#[test]
fn a_daemon_killed_in_the_middle_of_a_task_neither_repeats_nor_loses_it() {
    let mut host = workers(CONFIG, &[]);
    let first = send(&host, "work: 4s\nreply: one");
    let second = send(&host, "reply: two");
    host.until("it works", || state(&host.message(&first)) == "submitted");
    for _ in 0..3 {
        host.kill_daemon();
        host.start();
        // On a busy machine it may be over by now.
        host.until("it is known to be in the agent", || matches!(state(&host.message(&first)), "submitted" | "answered"));
    }
    host.until("both are answered", || state(&host.message(&second)) == "answered");
    assert_eq!(host.turns("w").len(), 2, "{}", host.evidence());
}

#[test]
fn a_question_of_its_own_and_the_answer_belong_to_one_task() {
    let mut host = workers(CONFIG, &["b"]);
    // It asks b, ends its turn, and answers when b's answer has come.
    let id = send(&host, "tell: b work: 1s\nsay: waiting");
    host.until("it has asked", || host.turns("b").len() == 1);
    // The question is known to the next daemon too.
    host.kill_daemon();
    host.start();
    let other = send(&host, "reply: other");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.turns("w").len(), 1, "the next task waits: {:?}", host.turns("w"));
    let question = host.turns("b")[0].clone();
    let from_b = ["send", "w", "reply: thanks", "--from", "b", "--in-reply-to", id_of(&question)];
    host.run(&from_b).ok();
    host.until("the other task is answered", || state(&host.message(&other)) == "answered");
    let turns = host.turns("w");
    assert_eq!(turns.iter().map(|t| body_of(t)).collect::<Vec<_>>(), ["tell: b work: 1s\nsay: waiting", "reply: thanks", "reply: other"]);
    let log = host.lifecycle();
    assert_eq!(log.matches("cause=ephemeral-policy").count(), 2, "question and answer in one session\n{log}");
    assert!(state(&host.message(&id)) != "dead");
}

#[test]
fn a_worker_that_never_says_that_it_is_done_is_ended_and_its_sender_told() {
    let host = workers(CONFIG, &["b"]);
    // The question to b stays open: b's turn answers nobody.
    let id = send(&host, "tell: b say: nothing");
    host.until("reaped unarmed", || host.lifecycle().contains("action=reaped-ephemeral-unarmed"));
    host.until("its sender was told", || host.run(&["inbox", "--json"]).ok().out.contains(&id));
    assert_eq!(state(&host.message(&id)), "submitted");
    host.until("nothing waits", || host.presence("w")["queue"]["waiting"] == 0);
}

#[test]
fn fifty_tasks_with_the_worker_killed_at_random_are_all_answered_or_given_up() {
    let host = workers(CONFIG, &[]);
    let ids: Vec<String> = (0..50).map(|n| send(&host, &format!("work: 60ms\nreply: {n}"))).collect();
    let mut random = std::process::id() as u64;
    let over = |id: &String| matches!(state(&host.message(id)), "answered" | "dead");
    let mut kills = 0;
    while !ids.iter().all(over) {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // The random instant is the point.
        std::thread::sleep(Duration::from_millis((random >> 33) % 700));
        if kills < 25 {
            if let Some(pid) = agent_pid(&host) {
                kill(pid);
                kills += 1;
            }
        }
    }
    let turns = host.turns("w");
    let mut first: Vec<&str> = Vec::new();
    for turn in &turns {
        if !first.contains(&id_of(turn)) {
            first.push(id_of(turn));
        }
    }
    assert_eq!(first, ids, "in order");
    let notices = host.run(&["inbox", "--keep", "--json"]).ok().out;
    for id in &ids {
        let copies: Vec<&String> = turns.iter().filter(|t| id_of(t) == id).collect();
        assert!(state(&host.message(id)) != "dead" || notices.contains(id), "its sender was not told\n{}", host.evidence());
        assert!(copies.iter().skip(1).all(|t| t.contains("redelivered=")), "a second copy says so: {copies:?}\n{}", host.evidence());
    }
    assert!(kills > 0);
}
