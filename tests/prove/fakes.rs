//! Sleep, resume and workers with every profile of the fake agent: what `echo` does well, a program that swallows,
//! lags or tells nothing must get as well.

use crate::Plan;
use crate::harness::Host;
use crate::report::Verdict;
use crate::runtimes::{Kind, Runtime, all};
use serde_json::Value;
use std::path::Path;

const CONFIG: &str = "idle_secs: 1\nephemeral_quiet_secs: 0\nephemeral_unarmed_secs: 2\nterm_grace_secs: 1\nlimits: {operator_per_second: 1000}\n";

pub fn run(plan: &Plan) -> Verdict {
    let tasks = plan.pick(3, 20);
    let mut faults = Vec::new();
    // Its dialogs are a person's to answer: nothing of it goes by itself.
    let profiles: Vec<Runtime> = all().into_iter().filter(|r| r.kind == Kind::Fake && r.name != "asking").collect();
    for runtime in &profiles {
        let host = Host::with_config(CONFIG, &[]);
        faults.extend(sleeper(&host, runtime).into_iter().chain(worker(&host, runtime, tasks)).map(|fault| format!("{}: {fault}", runtime.name)));
    }
    Verdict::new(format!("{} profiles: asleep and back on their topic; {tasks} tasks each, one process a task", profiles.len()), faults)
}

/// What the fake agent itself has written down.
struct Truth {
    starts: usize,
    /// Message ids, in the order of the turns.
    turns: Vec<String>,
}

fn truth(folder: &Path) -> Truth {
    let log = std::fs::read_to_string(folder.join(".fake/log.jsonl")).unwrap_or_default();
    let lines: Vec<Value> = log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let of = |kind: &'static str| lines.iter().filter(move |l| l["ev"] == kind);
    let id = |l: &Value| Some(l["text"].as_str()?.split("<iap id=\"").nth(1)?.split('"').next()?.to_string());
    Truth { starts: of("start").count(), turns: of("turn").filter_map(id).collect() }
}

fn create(host: &Host, runtime: &Runtime, name: &str, more: &[&str]) -> std::path::PathBuf {
    std::fs::create_dir_all(host.root().join("runtimes")).unwrap();
    runtime.define(&host.root());
    host.run(&[&["create", name, "--runtime", runtime.name], more].concat()).ok();
    let folder = host.root().join("peers").join(name);
    std::fs::create_dir_all(folder.join(".fake")).unwrap();
    std::fs::write(folder.join(".fake/profile.json"), runtime.profile(false).to_string()).unwrap();
    folder
}

fn send(host: &Host, to: &str, text: &str, more: &[&str]) -> String {
    host.run(&[&["send", to, text, "--json"], more].concat()).ok().json()["id"].as_str().unwrap().to_string()
}

fn causes(host: &Host, identity: &str) -> Vec<String> {
    let wakes = format!("ev=wake identity={identity} ");
    host.lifecycle().lines().filter(|l| l.contains(&wakes)).filter_map(|l| Some(l.split("cause=").nth(1)?.split(' ').next()?.to_string())).collect()
}

fn sleeper(host: &Host, runtime: &Runtime) -> Vec<String> {
    let folder = create(host, runtime, "s", &[]);
    let identity = format!("{}-s", runtime.name);
    let mut sent = Vec::new();
    for text in ["one", "two"] {
        sent.push(send(host, "s", text, &["--topic", "t"]));
        host.until("its turn has come", || truth(&folder).turns.len() == sent.len());
        host.until("it sleeps", || host.presence("s")["state"] == "asleep");
    }
    // Without a transcript nothing could prove that a resumed conversation is ours.
    let resumed = if runtime.profile(false)["transcript"] == false { "idle-reaped-no-resume" } else { "idle-reaped-resume" };
    let (found, woke) = (truth(&folder), causes(host, &identity));
    let mut faults = Vec::new();
    faults
        .extend((found.turns != sent || found.starts != 2).then(|| format!("turns {:?} in {} processes instead of {sent:?} in 2", found.turns, found.starts)));
    faults.extend((woke != ["first-wake", resumed]).then(|| format!("it woke by {woke:?}")));
    faults.extend(host.lifecycle().contains("ev=death").then(|| "a sleep was taken for a death".to_string()));
    faults
}

fn worker(host: &Host, runtime: &Runtime, tasks: usize) -> Vec<String> {
    let folder = create(host, runtime, "w", &["--wake-policy", "ephemeral"]);
    let sent: Vec<String> = (0..tasks).map(|n| send(host, "w", &format!("task {n}"), &[])).collect();
    host.until("all tasks are done", || {
        let peer = host.presence("w");
        peer["state"] == "asleep" && peer["queue"]["waiting"] == 0
    });
    let (found, woke) = (truth(&folder), causes(host, &format!("{}-w", runtime.name)));
    let mut faults = Vec::new();
    faults.extend((found.turns != sent).then(|| format!("tasks {:?} instead of {sent:?}", found.turns)));
    faults.extend((found.starts != tasks).then(|| format!("{} processes for {tasks} tasks", found.starts)));
    faults.extend(woke.iter().any(|cause| cause != "ephemeral-policy").then(|| format!("it woke by {woke:?}")));
    faults.extend(host.lifecycle().contains("ev=death").then(|| "a worker's end was taken for a death".to_string()));
    faults
}
