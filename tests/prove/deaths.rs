//! Each process of a session is killed in turn, under traffic: the death is found and named, the mail is
//! kept, and there are never two agents for one peer. Last the daemon itself: no session notices.

use crate::api::Api;
use crate::harness::{Host, tmux};
use crate::report::Verdict;
use crate::{Plan, Random, proc, tally};
use serde_json::Value;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is killed, and the cause that the lifecycle log must give; `None`: nobody may have died.
const VICTIMS: [(&str, Option<&str>); 6] =
    [("server", Some("tmux-lost")), ("keeper", Some("unknown")), ("agent", Some("signal-9")), ("child", None), ("hooks", None), ("client", None)];
/// The peer that lives through the kills of the daemon.
const DAEMON: &str = "survivor";
/// Messages around each kill.
const TRAFFIC: usize = 3;

pub fn run(plan: &Plan) -> Verdict {
    let rounds = plan.pick(10, 30);
    let names: Vec<String> = VICTIMS.iter().map(|(name, _)| *name).chain([DAEMON]).map(String::from).collect();
    let mut host = tally::live_host(&names);
    let (over, faults, sent) = (AtomicBool::new(false), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_for_two(&host, &names, &over));
        let kills: Vec<_> = VICTIMS
            .iter()
            .enumerate()
            .map(|(n, (victim, cause))| {
                let mut site = Site { host: &host, victim, api: Api::connect(&host), random: plan.random(800 + n as u64) };
                let (sent, faults) = (&sent, &faults);
                scope.spawn(move || {
                    for round in 0..rounds {
                        let (ids, failed) = site.kill_once(round, cause.is_some());
                        sent.lock().unwrap().extend(ids);
                        faults.lock().unwrap().extend(failed);
                    }
                })
            })
            .collect();
        kills.into_iter().for_each(|k| k.join().unwrap());
        over.store(true, Ordering::SeqCst);
        faults.lock().unwrap().extend(watch.join().unwrap());
    });
    let (mut sent, mut faults) = (sent.into_inner().unwrap(), faults.into_inner().unwrap());
    let (ids, failed) = kill_the_daemon(&mut host, rounds, plan.random(899));
    sent.extend(ids);
    faults.extend(failed);
    let copies = tally::copies(&host, &names);
    faults.extend(sent.iter().filter(|id| !copies.contains_key(*id)).map(|id| format!("lost: {id}")));
    faults.extend(tally::unmarked_copies(&host, &names));
    let log = host.lifecycle();
    let mut found = Vec::new();
    for (victim, cause) in VICTIMS {
        let deaths: Vec<&str> = log.lines().filter(|l| l.contains(&format!("ev=death identity=echo-{victim} "))).collect();
        let right = deaths.iter().filter(|l| cause.is_some_and(|c| l.contains(&format!(" cause={c} ")))).count();
        let want = if cause.is_some() { rounds } else { 0 };
        if (deaths.len(), right) != (want, want) {
            faults.push(format!("{victim}: {want} deaths wanted, {} found, {right} with cause {cause:?}", deaths.len()));
            faults.extend(deaths.iter().filter(|l| cause.is_none_or(|c| !l.contains(&format!(" cause={c} ")))).map(|l| l.to_string()));
        }
        if cause.is_none() {
            faults.extend(charged(&host, victim, &log));
        }
        found.push(if cause.is_some() { format!("{victim} {right}/{want}") } else { format!("{victim} {rounds} survived") });
    }
    found.push(format!("daemon {rounds} survived"));
    let again = copies.values().map(|n| n - 1).sum::<usize>();
    Verdict::new(format!("{rounds} kills each; deaths named right: {}; {} messages, {again} marked redeliveries", found.join(", "), sent.len()), faults)
}

/// What a peer was made to pay although nobody of it had died: its one session goes on, each message came
/// once, and no death is remembered.
fn charged(host: &Host, victim: &str, log: &str) -> Vec<String> {
    let identity = format!("echo-{victim}");
    let of_it: Vec<&str> = log.lines().filter(|l| l.contains(&format!(" identity={identity} "))).collect();
    let lines = |event: &'static str| of_it.iter().filter(move |l| l.contains(&format!(" ev={event} ")));
    let unwanted = ["death", "backoff", "crash-loop", "wake-failed", "supervise", "stray-ended"];
    let mut faults: Vec<String> = unwanted.into_iter().flat_map(lines).map(|l| l.to_string()).collect();
    let wakes = lines("wake").count();
    faults.extend((wakes != 1).then(|| format!("{victim}: {wakes} launches")));
    let again = tally::turns(host, victim).iter().filter(|t| !t.redelivery().is_empty()).count();
    faults.extend((again != 0).then(|| format!("{victim}: {again} messages delivered again")));
    let deaths = std::fs::read_to_string(host.state_dir(&identity).join("deaths.json")).unwrap_or_default();
    faults.extend(deaths.contains("incarnation").then(|| format!("{victim}: deaths on record: {deaths}")));
    faults
}

/// The daemon, in the middle of deliveries, with all sessions live: the next one goes on with the very same.
fn kill_the_daemon(host: &mut Host, rounds: usize, mut random: Random) -> (Vec<String>, Vec<String>) {
    let identity = format!("echo-{DAEMON}");
    let keeper = host.session(&identity).unwrap()["keeper"].clone();
    let mut sent: Vec<String> = Vec::new();
    for round in 0..rounds {
        for n in 0..TRAFFIC {
            let told = host.run(&["send", DAEMON, &format!("work: 20ms\nmessage {round}.{n}"), "--json"]).ok().json();
            sent.push(told["id"].as_str().unwrap().into());
        }
        random.pause(Duration::from_millis(150));
        host.kill_daemon();
        host.start();
    }
    let all_there = |host: &Host| {
        let copies = tally::copies(host, &[DAEMON.to_string()]);
        sent.iter().all(|id| copies.contains_key(id))
    };
    host.until("the mail of all daemons arrives", || all_there(host));
    let mut faults = Vec::new();
    if host.session(&identity).is_none_or(|s| s["keeper"] != keeper) {
        faults.push("a kill of the daemon cost a session".into());
    }
    let agents = proc::agents(&tally::folder(host, DAEMON));
    faults.extend((agents.len() != 1).then(|| format!("agents after the kills of the daemon: {agents:?}")));
    let log = host.lifecycle();
    faults.extend(log.lines().filter(|l| l.contains("ev=death") && l.contains(&identity)).map(String::from));
    (sent, faults)
}

/// One peer and what is killed of it.
struct Site<'a> {
    host: &'a Host,
    victim: &'a str,
    api: Api,
    random: Random,
}

impl Site<'_> {
    fn kill_once(&mut self, round: usize, dies: bool) -> (Vec<String>, Vec<String>) {
        let (host, identity) = (self.host, format!("echo-{}", self.victim));
        // A message proves that it is up.
        let first = self.api.send(self.victim, "are you there");
        let mut faults: Vec<String> = self.api.wait_submitted(&first).err().into_iter().collect();
        if dies {
            // The operator forgives the last one: each back-off is the first, and these are no crash loop.
            host.run(&["start", self.victim]).ok();
        }
        let session = host.session(&identity).unwrap();
        let client = (self.victim == "client").then(|| Client::attach(host, &session, round));
        let child = (self.victim == "child").then(|| self.start_child());
        let mut sent = vec![first];
        sent.extend((0..TRAFFIC).map(|n| self.api.send(self.victim, &format!("work: 20ms\nmessage {n}"))));
        self.random.pause(Duration::from_millis(150));
        let number = |v: &Value| v.as_i64().unwrap() as i32;
        let agent = || number(&self.start_record(&identity, &session)["agent"]["pid"]);
        match self.victim {
            "server" => proc::end(number(&session["server"]["pid"])),
            "keeper" => proc::end(number(&session["keeper"]["pid"])),
            "agent" => proc::end(agent()),
            "client" => client.as_ref().unwrap().kill(),
            "child" => proc::end(child.unwrap()),
            _ => {
                // Hooks are children too; the next turn has one.
                let agent = agent();
                sent.push(self.api.send(self.victim, "one more"));
                host.until("a hook runs", || proc::children(agent).into_iter().inspect(|pid| proc::end(*pid)).count() > 0);
            }
        }
        if dies {
            let death = format!("ev=death identity={identity} inc={} ", session["incarnation"]);
            host.until("the death is found", || host.lifecycle().contains(&death));
        }
        let all_there = || {
            let copies = tally::copies(host, &[self.victim.to_string()]);
            sent.iter().all(|id| copies.contains_key(id))
        };
        host.until(&format!("the mail of round {round} arrives after the end of the {}", self.victim), all_there);
        faults.iter_mut().for_each(|f| f.insert_str(0, &format!("{} {round}: ", self.victim)));
        (sent, faults)
    }

    /// A child of the agent that stays while turns come and go.
    fn start_child(&mut self) -> i32 {
        let host = self.host;
        let started = || {
            let notes = tally::records(host, self.victim);
            let pids = notes.iter().filter_map(|r| r["text"].as_str()?.strip_prefix("started child ")?.parse::<i32>().ok());
            pids.collect::<Vec<_>>()
        };
        let before = started().len();
        self.api.send(self.victim, "child: 600s");
        host.until("the agent has a child", || started().len() > before);
        started()[before]
    }

    fn start_record(&self, identity: &str, session: &Value) -> Value {
        let file = self.host.state_dir(identity).join(format!("exits/{}.start.json", session["incarnation"]));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

/// A person at the terminal: a tmux client in a tmux server of its own.
struct Client {
    outer: PathBuf,
    pid: i32,
}

impl Client {
    fn attach(host: &Host, session: &Value, round: usize) -> Client {
        let outer = host.dir.path().join(format!("outer{round}.sock"));
        let inner = session["socket"].as_str().unwrap();
        let attach = format!("env -u TMUX {} -u -S '{inner}' attach-session", tmux().display());
        let made =
            Command::new(tmux()).args(["-f", "/dev/null", "-S"]).arg(&outer).args(["new-session", "-d", "-x", "90", "-y", "30", &attach]).status().unwrap();
        assert!(made.success());
        let clients = || {
            let out = Command::new(tmux()).args(["-S", inner, "list-clients", "-F", "#{client_pid}"]).output().unwrap();
            String::from_utf8_lossy(&out.stdout).trim().parse().ok()
        };
        host.until("the client is attached", || clients().is_some());
        Client { pid: clients().unwrap(), outer }
    }

    fn kill(&self) {
        proc::end(self.pid);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = Command::new(tmux()).arg("-S").arg(&self.outer).arg("kill-server").output();
    }
}

/// Looks all the time whether a peer has two agents.
fn watch_for_two(host: &Host, names: &[String], over: &AtomicBool) -> Vec<String> {
    let mut before: HashSet<(String, i32)> = HashSet::new();
    let mut faults = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let mut now = HashSet::new();
        for name in names {
            let agents = proc::agents(&tally::folder(host, name));
            // Twice in a row, so that a process between fork and exec is not taken for one.
            if agents.len() > 1 && agents.iter().all(|pid| before.contains(&(name.clone(), *pid))) {
                faults.push(format!("two agents for {name}: {agents:?}"));
            }
            now.extend(agents.into_iter().map(|pid| (name.clone(), pid)));
        }
        before = now;
        std::thread::sleep(Duration::from_millis(20));
    }
    faults.truncate(5);
    faults
}
