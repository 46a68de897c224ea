//! The daemon is replaced by another build of itself while a hundred deliveries are under way, by an orderly end and
//! by a kill in turn.

use crate::Plan;
use crate::api::Api;
use crate::harness::{Host, program};
use crate::report::Verdict;
use crate::tally;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const PEERS: usize = 10;
const MESSAGES: usize = 100;
const CONNECTIONS: usize = 4;
const LIMITS: &str = "limits: {operator_per_second: 100000}\n";

pub fn run(plan: &Plan) -> Verdict {
    let rounds = plan.pick(4, 30);
    let mut random = plan.random(13);
    let names = tally::names("p", PEERS);
    let mut host = tally::warm(with_limits(), &names);
    let (mut sent, mut under_way) = (Vec::new(), 0);
    for round in 0..rounds {
        let before = tally::copies(&host, &names).len();
        sent.extend(send_all(&host, &names, round));
        random.pause(std::time::Duration::from_millis(50));
        if round % 2 == 0 {
            host.stop_daemon();
        } else {
            host.kill_daemon();
        }
        under_way += (before + MESSAGES).saturating_sub(tally::copies(&host, &names).len());
        let next = build(&host, round);
        let plain = host.command(&["daemon"]);
        let mut daemon = std::process::Command::new(next);
        daemon.arg("daemon").env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(host.dir.path());
        host.start_by(daemon);
        let done = PEERS + (round + 1) * MESSAGES;
        host.until("all of this round have arrived", || tally::copies(&host, &names).len() >= done);
    }
    host.until("all mailboxes are empty", || names.iter().all(|n| host.presence(n)["queue"]["waiting"] == 0));
    let mut faults = tally::faults(&host, &names, &sent);
    let restarted = names.iter().filter(|n| host.presence(n)["incarnation"] != 1).count();
    faults.extend((restarted > 0).then(|| format!("{restarted} sessions were restarted")));
    faults.extend((under_way < rounds * MESSAGES / 2).then(|| "too few deliveries were under way: the row proves nothing".to_string()));
    let lost = faults.iter().filter(|f| f.starts_with("lost")).count();
    Verdict::new(format!("{rounds} upgrades, {} messages, {under_way} of them under way: {lost} lost, {restarted} sessions restarted", sent.len()), faults)
}

fn with_limits() -> Host {
    let host = Host::new();
    std::fs::create_dir(host.root()).unwrap();
    std::fs::set_permissions(host.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(host.root().join("config.yaml"), LIMITS).unwrap();
    host
}

/// The same program as a new file in a place of its own.
fn build(host: &Host, round: usize) -> PathBuf {
    let dir = host.dir.path().join(format!("build-{round}"));
    std::fs::create_dir(&dir).unwrap();
    let to = dir.join("iapeer");
    std::fs::copy(program(), &to).unwrap();
    if let Some(last) = round.checked_sub(1) {
        // What runs from it goes on.
        let _ = std::fs::remove_dir_all(host.dir.path().join(format!("build-{last}")));
    }
    to
}

/// A hundred messages over several connections, each of which is some work.
fn send_all(host: &Host, names: &[String], round: usize) -> Vec<String> {
    let share = |first: usize| {
        let mut api = Api::connect(host);
        let send = |n: usize| api.send(&names[n % PEERS], &format!("work: 200ms\nmessage {n} of round {round}"));
        (first..MESSAGES).step_by(CONNECTIONS).map(send).collect::<Vec<String>>()
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTIONS).map(|first| scope.spawn(move || share(first))).collect();
        all.into_iter().flat_map(|t| t.join().unwrap()).collect()
    })
}
