//! Mail beside the plain delivery: several recipients, keys, limits, the end of a time to live, parked and
//! dropped mail, readers without a terminal, attachments, raw text, sends that find no daemon.

use crate::delivery::raw_post;
use crate::harness::{Host, body_of};
use iapeer::core::message::ProcessRef;
use iapeer::sys::process::is_alive;
use serde_json::{Value, json};

fn id(sent: &Value) -> String {
    sent["id"].as_str().unwrap_or_else(|| panic!("{sent}")).to_string()
}

fn states(host: &Host, ids: &[String]) -> Vec<String> {
    ids.iter().map(|i| host.message(i)["state"].as_str().unwrap().to_string()).collect()
}

fn inbox(host: &Host) -> String {
    host.run(&["inbox", "--keep"]).ok().out
}

#[test]
fn a_message_to_several_is_accepted_for_all_or_for_none() {
    let host = Host::with_config("groups: {crew: [a, b, c]}\n", &["a", "b", "c"]);
    let sent = host.run(&["send", "a", "crew", "--message", "for you all", "--json"]).ok().json();
    let to: Vec<&str> = sent.as_array().unwrap().iter().map(|v| v["to"].as_str().unwrap()).collect();
    assert_eq!(to, ["echo-a", "echo-b", "echo-c"], "each once");
    host.until("all have it", || ["a", "b", "c"].iter().all(|n| host.turns(n).len() == 1));

    host.run(&["stop", "b"]).ok();
    let refused = host.run(&["send", "crew", "not for some only", "--json"]);
    assert_eq!((refused.code, refused.json()["error"]["code"].as_str().unwrap()), (3, "peer_stopped"));
    host.deliver("a", "the next one");
    let bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies, ["for you all", "the next one"], "nothing of the refused one");
}

#[test]
fn a_member_of_a_group_does_not_write_to_itself() {
    let host = Host::with_config("groups: {crew: [a, b, c]}\n", &["a", "b", "c"]);
    host.run(&["send", "crew", "from a", "--from", "a"]).ok();
    host.until("the others have it", || host.turns("b").len() == 1 && host.turns("c").len() == 1);
    assert_eq!(host.turns("a").len(), 0);
    let refused = host.run(&["send", "a", "x", "--from", "a", "--json"]);
    assert_eq!(refused.json()["error"]["code"], "self_send");
    host.run(&["create", "crew", "--runtime", "echo"]).ok();
    assert_eq!(host.run(&["send", "crew", "x", "--json"]).json()["error"]["code"], "peer_ambiguous");
}

#[test]
fn a_key_stands_for_one_message_also_over_a_restart() {
    let mut host = Host::with_peers(&["a"]);
    let send = |host: &Host, text: &str| host.run(&["send", "a", text, "--key", "deploy-7", "--json"]);
    let first = send(&host, "deploy").ok().json();
    assert_eq!(id(&send(&host, "deploy").ok().json()), id(&first));
    host.kill_daemon();
    host.start();
    assert_eq!(id(&send(&host, "deploy").ok().json()), id(&first));
    let conflict = send(&host, "deploy something else");
    assert_eq!((conflict.code, conflict.json()["error"]["code"].as_str().unwrap()), (3, "key_conflict"));
    assert!(conflict.out.contains(&id(&first)), "it names the message that has the key");
    host.deliver("a", "last");
    assert_eq!(host.turns("a").len(), 2, "one of the first, one of the last");
}

#[test]
fn mail_whose_time_is_over_is_given_up_and_its_sender_told_once() {
    let host = Host::with_config("limits: {ttl_hours: 0}\n", &["a", "b"]);
    host.run(&["stop", "a"]).ok();
    let sent = host.run(&["send", "a", "too late", "--queue", "--from", "b", "--json"]).ok().json();
    host.until("it has expired", || host.message(&id(&sent))["state"] == "expired");
    assert_eq!(host.message(&id(&sent))["reason"], "ttl");
    // The notice wakes nobody: it waits in the mailbox of its sender (and expires there under this setting).
    host.until("the sender is told", || host.delivery_log().contains("to=echo-b state=accepted") && host.delivery_log().contains("via=system"));
    assert!(host.session("echo-b").is_none(), "a notice wakes nobody");
    let mine = host.run(&["send", "a", "too late as well", "--queue", "--json"]).ok().json();
    host.until("the operator is told", || inbox(&host).contains(&format!("Your message {} to echo-a has expired", id(&mine))));
    assert_eq!(inbox(&host).matches("has expired").count(), 1);
}

#[test]
fn a_notice_to_a_sleeper_waits_for_its_next_session() {
    let host = Host::with_peers(&["a", "b"]);
    host.run(&["stop", "a"]).ok();
    let sent = host.run(&["send", "a", "never mind", "--queue", "--from", "b", "--json"]).ok().json();
    host.run(&["queue", "a", "drop", &id(&sent)]).ok();
    assert_eq!(host.message(&id(&sent))["reason"], "dropped");
    host.until("the notice waits", || host.presence("b")["queue"]["waiting"] == 1);
    assert_eq!((host.presence("b")["state"].as_str().unwrap(), host.turns("b").len()), ("asleep", 0));
    host.deliver("b", "wake up");
    host.until("both are taken", || host.turns("b").len() == 2);
    assert!(host.turns("b").iter().any(|t| t.contains("from=\"iapeer\"") && t.contains("was not delivered: dropped")), "{:?}", host.turns("b"));
}

#[test]
fn waiting_mail_is_held_released_dropped_and_tried_again_by_id() {
    let host = Host::with_peers(&["a", "b"]);
    host.run(&["stop", "a"]).ok();
    let ids: Vec<String> = (0..4).map(|n| id(&host.run(&["send", "a", &format!("message {n}"), "--queue", "--json"]).ok().json())).collect();
    host.run(&["queue", "a", "hold", &ids[1]]).ok();
    host.run(&["queue", "a", "drop", &ids[2]]).ok();
    assert_eq!(states(&host, &ids), ["held", "parked", "dead", "held"]);
    let listed = host.run(&["queue", "a"]).ok().out;
    assert!(ids.iter().all(|i| listed.contains(i)) && listed.contains("reason=by-operator") && listed.contains("reason=dropped"), "{listed}");
    assert!(host.run(&["queue", "a", "show", &ids[1]]).ok().out.contains("message 1"));
    for wrong in [["b", "hold", &ids[0]], ["a", "release", &ids[0]], ["a", "hold", &ids[2]]] {
        assert_eq!(host.run(&["queue", wrong[0], wrong[1], wrong[2]]).code, 3, "{wrong:?}");
    }
    host.run(&["start", "a"]).ok();
    host.until("what waited is taken", || host.turns("a").len() == 2);
    host.run(&["queue", "a", "release", &ids[1]]).ok();
    host.run(&["queue", "a", "retry", &ids[2]]).ok();
    host.until("the others, too", || host.turns("a").len() == 4);
    let mut bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies[..2], ["message 0", "message 3"]);
    bodies.sort();
    assert_eq!(bodies, ["message 0", "message 1", "message 2", "message 3"], "each once");
}

#[test]
fn what_was_put_aside_stays_aside_over_a_restart() {
    let mut host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    let sent = host.run(&["send", "a", "aside", "--queue", "--json"]).ok().json();
    host.run(&["queue", "a", "hold", &id(&sent)]).ok();
    host.kill_daemon();
    host.start();
    assert_eq!(states(&host, &[id(&sent)]), ["parked"]);
    host.run(&["start", "a"]).ok();
    host.deliver("a", "another");
    assert_eq!(host.turns("a").len(), 1);
    host.run(&["queue", "a", "release", &id(&sent)]).ok();
    host.until("it goes on", || host.turns("a").len() == 2);
}

#[test]
fn agents_that_write_to_each_other_are_paced_then_parked_and_a_person_lets_them_go_on() {
    let config = "limits: {pair_burst: 3, pair_interval_secs: 1, loop_after_secs: 2}\n";
    let host = Host::with_config(config, &["a", "b"]);
    // Two that answer each other without end.
    host.run(&["send", "a", "relay: b,a 60"]).ok();
    host.until("they are paced", || host.delivery_log().contains("state=held reason=paced"));
    host.until("they are parked", || host.delivery_log().contains("state=parked reason=loop"));
    host.until("the operator is told", || inbox(&host).contains("is parked as a loop"));
    assert_eq!(inbox(&host).matches("parked as a loop").count(), 1);
    host.until("they have come to rest", || ["a", "b"].iter().all(|n| host.presence(n)["queue"]["waiting"] == 0));
    let parked: Vec<Value> = host.run(&["messages", "--state", "parked", "--json"]).ok().json().as_array().unwrap().clone();
    assert_eq!(parked.len(), 1, "{parked:?}");
    let before = host.turns("a").len() + host.turns("b").len();
    let to = parked[0]["to"].as_str().unwrap();
    host.run(&["queue", to, "release", &id(&parked[0])]).ok();
    host.until("it goes on", || host.turns("a").len() + host.turns("b").len() > before);
    // The operator is no automatic sender.
    for n in 0..5 {
        host.run(&["send", "a", &format!("operator {n}")]).ok();
    }
    host.until("the operator is not paced", || host.turns("a").iter().filter(|t| body_of(t).starts_with("operator ")).count() == 5);
}

#[test]
fn a_message_too_many_hops_away_from_a_person_is_parked() {
    let host = Host::with_config("limits: {hops: 3}\n", &["a", "b", "c"]);
    host.run(&["send", "a", "relay: b,c,a 20"]).ok();
    host.until("it is parked", || inbox(&host).contains("4 hops away from a person"));
    let turns: usize = ["a", "b", "c"].iter().map(|n| host.turns(n).len()).sum();
    assert_eq!(turns, 4, "the first, and three that follow from it");
}

#[test]
fn one_sender_has_a_rate_and_a_share_of_a_queue() {
    let host = Host::with_config("limits: {waiting_per_peer: 5, waiting_per_sender: 2, sender_per_second: 1, sender_burst: 3}\n", &["a", "b", "c"]);
    host.run(&["stop", "a"]).ok();
    let send = |from: &str| {
        let ran = host.run(&["send", "a", "x", "--queue", "--from", from, "--json"]);
        ran.json()["error"]["code"].as_str().map(String::from)
    };
    assert_eq!((send("b"), send("b")), (None, None));
    assert_eq!(send("b").as_deref(), Some("queue_full"), "b has its share");
    assert_eq!((send("c"), send("c")), (None, None));
    let operator = |n: &str| host.run(&["send", "a", n, "--queue", "--json"]).json()["error"]["code"].as_str().map(String::from);
    assert_eq!(operator("1"), None);
    assert_eq!(operator("2").as_deref(), Some("queue_full"), "five wait in all");
    // The rate: three at once, then one a second.
    let mut codes = Vec::new();
    for n in 0..6 {
        let ran = host.run(&["send", "operator", &format!("{n}"), "--from", "c", "--json"]);
        let error = ran.json()["error"].clone();
        codes.push(error["code"].as_str().map(String::from));
        if error.is_object() {
            assert!(error["retry_after_ms"].as_u64().is_some_and(|ms| (1..=1000).contains(&ms)), "{error}");
        }
    }
    assert!(codes.contains(&Some("rate_limited".into())), "{codes:?}");
}

#[test]
fn a_send_to_several_without_a_daemon_has_the_ids_that_they_get() {
    let mut host = Host::with_config("groups: {crew: [b, c], nobody: []}\n", &["a", "b", "c"]);
    host.kill_daemon();
    let refused = host.run(&["send", "nobody", "hello", "--json"]);
    assert_eq!(refused.json()["error"]["code"], "invalid", "{refused:?}");
    let sent = host.run(&["send", "a", "crew", "--message", "for you all", "--json"]).ok().json();
    let ids: Vec<String> = sent.as_array().unwrap().iter().map(id).collect();
    assert_eq!(ids.len(), 3, "{sent}");
    host.start();
    host.until("all have it", || ["a", "b", "c"].iter().all(|n| host.turns(n).len() == 1));
    host.until("each has its own", || states(&host, &ids).iter().all(|s| s == "submitted"));
    let to: Vec<Value> = ids.iter().map(|i| host.message(i)["to"].clone()).collect();
    assert_eq!(to, ["echo-a", "echo-b", "echo-c"]);
}

#[test]
fn more_than_a_peer_may_send_at_once_waits_in_the_spool_and_comes_in_order() {
    let mut host = Host::with_config("limits: {sender_per_second: 5, sender_burst: 3, pair_burst: 1000}\n", &["a", "b"]);
    host.deliver("b", "up");
    host.deliver("b", "tell: a work: 1ms");
    host.until("b may send", || host.turns("a").len() == 1);
    host.kill_daemon();
    let token = std::fs::read_to_string(host.state_dir("echo-b").join("tokens/1")).unwrap();
    for n in 0..12 {
        let mut send = host.command(&["send", "a", &n.to_string()]);
        let out = send.env("IAPEER_SESSION", "echo-b@1").env("IAPEER_TOKEN", token.trim()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    }
    host.start();
    host.until("all have come", || host.turns("a").len() == 13);
    let bodies: Vec<String> = host.turns("a").iter().skip(1).map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies, (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_refused_message_does_not_use_up_its_key() {
    let host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    let send = |text: &str, more: &[&str]| host.run(&[&["send", "a", text, "--key", "k", "--json"], more].concat()).json();
    assert_eq!(send("first", &[])["error"]["code"], "peer_stopped");
    let kept = send("corrected", &["--queue"]);
    assert!(kept["id"].is_string(), "{kept}");
    assert_eq!(send("corrected", &["--queue"])["id"], kept["id"]);
    assert_eq!(send("corrected", &[])["id"], kept["id"], "what is kept is the same again, whatever a new one would meet");
    assert_eq!(send("another", &["--queue"])["error"]["code"], "key_conflict");
}

#[test]
fn an_answer_counts_when_another_daemon_delivered_the_question() {
    let mut host = Host::with_peers(&["a", "b"]);
    host.deliver("b", "say: up");
    let asked = id(&host.run(&["send", "b", "work: 3s\nreply: the answer", "--from", "a", "--wait", "submitted", "--json"]).ok().json());
    host.kill_daemon();
    host.start();
    host.until("it is answered", || host.message(&asked)["state"] == "answered");
    assert_eq!(host.message(&asked)["answer"]["text"], "the answer");
}

#[test]
fn mail_of_a_runtime_that_left_the_profile_is_still_there_after_a_restart() {
    let mut host = Host::new();
    host.define("other", "[\"{iapeer}\", echo-agent]");
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    let profile = host.root().join("peers/a/.iapeer/peer.yaml");
    let text = std::fs::read_to_string(&profile).unwrap();
    let both = text.replace("- echo\n", "- echo\n- other\n");
    assert_ne!(both, text, "{text}");
    std::fs::write(&profile, &both).unwrap();
    host.start();
    host.run(&["stop", "other-a"]).ok();
    let sent = id(&host.run(&["send", "other-a", "kept", "--queue", "--json"]).ok().json());
    host.stop_daemon();
    std::fs::write(&profile, &text).unwrap();
    host.start();
    assert_eq!(host.run(&["send", "other-a", "no", "--json"]).json()["error"]["code"], "peer_unknown");
    let waits = host.run(&["queue", "other-a", "--json"]).ok().json();
    assert_eq!(waits[0]["id"], sent.as_str(), "{waits}");
    assert_eq!(host.message(&sent)["state"], "held", "{}", host.message(&sent));
    std::fs::write(&profile, &both).unwrap();
    host.run(&["start", "other-a"]).ok();
    host.until("it has come", || host.message(&sent)["state"] == "submitted");
}

#[test]
fn a_large_message_that_finds_no_inbox_waits_and_can_be_dropped() {
    let mut host = Host::new();
    host.define("small", "[\"{iapeer}\", echo-agent]");
    let path = host.root().join("runtimes/small.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let small = text.replace("max_bytes: 4194304", "max_bytes: 65536");
    assert_ne!(small, text, "the definition of echo has changed its form");
    std::fs::write(&path, small).unwrap();
    host.run(&["create", "a", "--runtime", "small"]).ok();
    host.start();
    host.deliver("a", "first");
    let inbox = host.root().join("peers/a/.iapeer/inbox");
    let _ = std::fs::remove_dir_all(&inbox);
    std::fs::write(&inbox, "no folder").unwrap();
    let ran = host.run_with_input(&["send", "a", "--message-file", "-", "--json"], "x".repeat(1024 * 1024).as_bytes()).ok();
    let large = id(&ran.json());
    host.until("it is held", || host.message(&large)["state"] == "held");
    let log = host.delivery_log();
    assert_eq!(log.lines().filter(|l| l.contains(&large) && l.contains("/.iapeer/inbox/")).count(), 1, "once: {log}");
    host.run(&["queue", "a", "drop", &large]).ok();
    host.deliver("a", "mail goes on");
    assert_eq!(host.turns("a").len(), 2);
}

#[test]
fn the_default_limits_pace_a_pair_refuse_a_flood_and_bound_a_queue() {
    let host = Host::with_peers(&["a", "b", "c"]);
    host.run(&["stop", "c"]).ok();
    let socket = host.root().join("run/iapeer.sock");
    let send = |body: Value| -> Value {
        let answer = raw_post(&socket, "/v1/messages", &body.to_string());
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|e| panic!("{e}: {answer}"))
    };
    // A pair of agents: a bucket of 30. One sender: 60 at once, and 10 a second.
    let answers: Vec<Value> = (0..90).map(|n| send(json!({"to": "a", "from": "b", "text": n.to_string()}))).collect();
    let paced = answers.iter().position(|a| a["reason"] == "paced").unwrap();
    let refused = answers.iter().position(|a| a["error"]["code"] == "rate_limited").unwrap();
    assert!((30..=32).contains(&paced), "paced from message {paced} on");
    assert!((60..85).contains(&refused), "refused from message {refused} on");
    // The operator is neither paced nor slowed down, but no queue has more than a thousand.
    let answers: Vec<Value> = (0..1001).map(|n| send(json!({"to": "c", "text": n.to_string(), "queue": true}))).collect();
    let full: Vec<usize> = (0..1001).filter(|n| answers[*n]["error"]["code"] == "queue_full").collect();
    assert_eq!(full, [1000], "{}", answers[1000]);
}

#[test]
fn a_reader_without_a_terminal_lists_waits_and_acknowledges() {
    let host = Host::with_peers(&["a"]);
    host.run(&["create", "bridge", "--runtime", "none", "--intelligence", "absent"]).ok();
    host.until("it is known", || host.presence("bridge")["state"] == "absent");
    let sent = host.run(&["send", "bridge", "to the outside", "--from", "a", "--json"]).ok().json();
    let mail = host.run(&["inbox", "bridge", "--keep", "--json"]).ok().json();
    assert_eq!((mail[0]["text"].as_str().unwrap(), mail[0]["from"].as_str().unwrap()), ("to the outside", "echo-a"));
    assert_eq!(host.message(&id(&sent))["state"], "accepted", "kept, not taken");
    host.run(&["inbox", "bridge"]).ok();
    assert_eq!(host.message(&id(&sent))["state"], "acknowledged");
    assert_eq!(host.run(&["inbox", "bridge"]).ok().out, "no mail\n");
    // A reader that waits hears of mail as it comes.
    let waiting = host.command(&["inbox", "bridge", "--wait", "60", "--json"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    host.run(&["send", "bridge", "while it waits"]).ok();
    let out = String::from_utf8(waiting.wait_with_output().unwrap().stdout).unwrap();
    assert!(out.contains("while it waits"), "{out}");
    // And it answers under its own name.
    host.run(&["send", "a", "from outside", "--from", "bridge"]).ok();
    host.until("a has it", || host.turns("a").iter().any(|t| t.contains("from=\"none-bridge\" intelligence=\"absent\"")));
    assert_eq!(host.run(&["start", "bridge"]).code, 3, "there is nothing to start");
}

#[test]
fn attachments_come_as_copies_and_what_is_no_file_of_the_sender_does_not() {
    let host = Host::with_peers(&["a", "b"]);
    let plan = host.dir.path().join("plan.md");
    std::fs::write(&plan, "the plan").unwrap();
    host.run(&["send", "a", "see the plan", "--attachment", plan.to_str().unwrap(), "--wait", "submitted"]).ok();
    let turn = host.turns("a").pop().unwrap();
    let path = turn.split("attachments=\"").nth(1).unwrap_or_else(|| panic!("{turn}")).split('"').next().unwrap().to_string();
    std::fs::write(&plan, "changed later").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "the plan", "the recipient has its own copy");
    assert!(path.contains("/peers/a/.iapeer/inbox/") && path.ends_with("-plan.md"), "{path}");
    let refused = |args: &[&str]| host.run(args).json()["error"]["code"].as_str().unwrap_or_default().to_string();
    assert_eq!(refused(&["send", "a", "x", "--attachment", "/nowhere/x", "--json"]), "bad_attachment");
    // A peer may give away only what lies in its own folder.
    assert_eq!(refused(&["send", "a", "x", "--attachment", plan.to_str().unwrap(), "--from", "b", "--json"]), "bad_attachment");
    let own = host.root().join("peers/b/own.txt");
    std::fs::write(&own, "mine").unwrap();
    host.run(&["send", "operator", "mine", "--attachment", own.to_str().unwrap(), "--from", "b"]).ok();
    assert!(inbox(&host).contains("-own.txt]"), "{}", inbox(&host));
    assert_eq!(host.turns("a").len(), 1, "nothing of the refused ones");
}

#[test]
fn raw_text_is_typed_as_it_is_and_claims_no_more_than_that() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "first");
    let sent = host.run(&["send", "a", "--raw", "--message", "say: typed raw", "--json"]).ok().json();
    host.until("it was entered", || host.message(&id(&sent))["state"] == "entered");
    host.until("the program took it", || host.turns("a").iter().any(|t| t == "say: typed raw"));
    assert_eq!(host.message(&id(&sent))["evidence"], "none");
    host.deliver("a", "mail goes on");
    let refused = host.run(&["send", "a", "--raw", "--message", "two\nlines", "--json"]);
    assert_eq!(refused.json()["error"]["code"], "invalid");
    host.run(&["send", "a", "--raw", "--message", "/quit"]).ok();
    host.until("the program took its own command", || host.lifecycle().contains("cause=exit-0"));
}

#[test]
fn a_question_is_answered_by_the_final_text_of_its_turn() {
    let host = Host::with_peers(&["a"]);
    let ran = host.run(&["send", "a", "say: forty-two", "--wait", "answered", "--timeout", "60"]).ok();
    assert_eq!(ran.out, "forty-two\n");
    assert!(host.delivery_log().contains("state=answered by=turn-end"), "{}", host.delivery_log());
    let json = host.run(&["send", "a", "say: again", "--wait", "answered", "--timeout", "60", "--json"]).ok().json();
    assert_eq!((json["answer"]["by"].as_str(), json["answer"]["text"].as_str()), (Some("turn-end"), Some("again")));
}

#[test]
fn urgent_mail_interrupts_the_turn_and_normal_mail_does_not() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "work: 50s");
    host.run(&["send", "a", "patient"]).ok();
    host.run(&["send", "a", "urgent", "--urgent"]).ok();
    host.until("both are taken", || host.turns("a").len() == 3);
    let bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies, ["work: 50s", "urgent", "patient"], "long before the turn would have ended by itself");
    assert_eq!(host.lifecycle().matches("ev=interrupt ").count(), 1, "{}", host.lifecycle());
}

#[test]
fn a_send_that_finds_no_daemon_arrives_once_when_one_runs() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "before");
    host.kill_daemon();
    let sent = host.run(&["send", "a", "while it was down", "--json"]).ok().json();
    assert_eq!((sent["state"].as_str(), sent["reason"].as_str()), (Some("accepted"), Some("daemon down")));
    let refused = host.run(&["send", "nobody", "x", "--json"]);
    assert_eq!(refused.json()["error"]["code"], "peer_unknown", "what can be known without a daemon is said at once");
    // A copy of the record, as a crash between acceptance and removal leaves it, is the same message.
    let spooled = host.root().join(format!("state/spool/send-{}.msg", id(&sent)));
    let kept = std::fs::read(&spooled).unwrap();
    host.start();
    host.until("it arrives", || host.turns("a").len() == 2);
    std::fs::write(&spooled, kept).unwrap();
    host.until("the copy is taken in as well", || !spooled.exists());
    host.deliver("a", "after");
    let bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies, ["before", "while it was down", "after"]);
    assert!(host.delivery_log().contains("via=offline"));
    assert!(host.turns("a")[1].contains("from=\"operator\""));
}

#[test]
fn a_spooled_send_that_is_refused_later_comes_back_to_its_sender() {
    let mut host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    host.kill_daemon();
    let sent = host.run(&["send", "a", "to a stopped one", "--json"]).ok().json();
    std::fs::write(host.root().join("state/spool/send-zzz.msg"), "no record").unwrap();
    host.start();
    host.until("the operator is told", || inbox(&host).contains(&format!("Your message {} to a, sent while no daemon ran, was refused", id(&sent))));
    host.until("what is no record is put aside", || host.root().join("state/spool/corrupt/send-zzz.msg").exists());
    assert!(host.root().join(format!("state/spool/refused/send-{}.msg", id(&sent))).exists(), "nothing is deleted");
}

#[test]
fn a_frozen_peer_takes_nothing_and_goes_on_when_it_is_thawed() {
    let mut host = Host::with_peers(&["a", "b"]);
    host.deliver("a", "work: 700ms");
    let waiting = host.run(&["send", "a", "waits", "--json"]).ok().json();
    host.run(&["freeze", "a", "--reason", "lunch"]).ok();
    let refused = host.run(&["send", "a", "x", "--json"]);
    assert_eq!((refused.code, refused.json()["error"]["code"].as_str().unwrap()), (3, "frozen"));
    host.deliver("b", "b is not frozen");
    host.kill_daemon();
    host.start();
    assert_eq!(host.message(&id(&waiting))["reason"], "frozen", "also over a restart");
    host.until("the turn is over", || host.presence("a")["turn"] == "idle");
    assert_eq!(host.turns("a").len(), 1);
    host.run(&["unfreeze", "a"]).ok();
    host.until("it goes on", || host.turns("a").len() == 2);
    // The whole host, and what cannot be read counts as frozen.
    host.run(&["freeze"]).ok();
    assert_eq!(host.run(&["send", "b", "x", "--json"]).json()["error"]["code"], "frozen");
    host.run(&["unfreeze"]).ok();
    std::fs::create_dir(host.root().join("state/frozen")).unwrap();
    assert_eq!(host.run(&["send", "b", "x", "--json"]).json()["error"]["code"], "frozen");
}

#[test]
fn a_removed_peer_ends_its_mail_comes_back_and_a_namesake_inherits_nothing() {
    let mut host = Host::with_peers(&["a", "b"]);
    host.deliver("a", "work: 30s");
    let waiting = host.run(&["send", "a", "never taken", "--json"]).ok().json();
    let keeper: ProcessRef = serde_json::from_value(host.session("echo-a").unwrap()["keeper"].clone()).unwrap();
    host.run(&["remove", "a"]).ok();
    assert!(!is_alive(&keeper), "its session has ended");
    host.until("the sender is told", || inbox(&host).contains(&format!("Your message {} to echo-a was not delivered: peer_removed", id(&waiting))));
    assert_eq!(host.run(&["send", "a", "x", "--json"]).json()["error"]["code"], "peer_unknown");
    host.kill_daemon();
    host.start();
    assert_eq!(host.run(&["send", "a", "x", "--json"]).json()["error"]["code"], "peer_unknown", "also after a restart");
    host.run(&["create", "a", "--runtime", "echo", "--path", host.dir.path().join("second").to_str().unwrap()]).ok();
    let sent = host.run(&["send", "a", "to the namesake", "--wait", "submitted", "--json"]).ok().json();
    assert_eq!(sent["woke"], true);
    assert_eq!(host.presence("a")["incarnation"], 1, "a life of its own");
    assert_eq!(host.presence("a")["queue"]["dead"], 0);
}

#[test]
fn mail_of_the_past_is_found_by_peer_topic_state_and_text_with_and_without_a_daemon() {
    let mut host = Host::with_peers(&["a", "b"]);
    host.run(&["send", "a", "about the Kraken", "--topic", "sea", "--wait", "submitted"]).ok();
    host.run(&["send", "b", "about bread", "--topic", "land", "--wait", "submitted"]).ok();
    host.run(&["stop", "b"]).ok();
    host.run(&["send", "b", "dropped one", "--queue"]).ok();
    let dropped = host.run(&["queue", "b", "--json"]).ok().json();
    host.run(&["queue", "b", "drop", &id(&dropped[0])]).ok();
    let look = |host: &Host| -> Vec<Vec<String>> {
        let searches: [&[&str]; 5] = [&["--text", "kraken"], &["--topic", "land"], &["b"], &["--state", "dead"], &["a", "--topic", "land"]];
        let texts = |args: &[&str]| {
            let mut all = vec!["messages", "--json"];
            all.extend(args);
            let found = host.run(&all).ok().json();
            found.as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap().to_string()).collect()
        };
        searches.into_iter().map(texts).collect()
    };
    let want: Vec<Vec<&str>> = vec![vec!["about the Kraken"], vec!["about bread"], vec!["dropped one", "about bread"], vec!["dropped one"], vec![]];
    assert_eq!(look(&host), want);
    host.kill_daemon();
    assert_eq!(look(&host), want, "the files say the same");
}

#[test]
fn explain_says_why_a_message_waits_and_what_would_end_that() {
    let host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    let sent = host.run(&["send", "a", "x", "--queue", "--json"]).ok().json();
    let told = host.run(&["explain", &id(&sent)]).ok().out;
    assert!(told.contains("stopped: the peer is stopped") && told.contains("state=accepted"), "{told}");
    let told = host.run(&["explain", "a"]).ok().out;
    assert!(told.contains("nothing wakes it but `iapeer start`") && told.contains("1 messages wait"), "{told}");
    assert_eq!(host.run(&["explain", "nobody"]).code, 3);
}
