//! Ten thousand messages wait for a stopped peer while the daemon is killed and started again.

use crate::Plan;
use crate::api::Api;
use crate::harness::Host;
use crate::report::Verdict;
use crate::{proc, tally};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

const MESSAGES: usize = 10_000;
const CONNECTIONS: usize = 4;
/// How many of them are delivered in the end.
const DELIVERED: usize = 20;
const RSS_LIMIT_KIB: u64 = 64 * 1024;

/// The limits of the rows that send more than people would.
pub fn with_high_limits() -> Host {
    let host = Host::new();
    std::fs::create_dir(host.root()).unwrap();
    std::fs::set_permissions(host.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(host.root().join("config.yaml"), "limits:\n  waiting_per_peer: 100000\n  waiting_per_sender: 100000\n  operator_per_second: 100000\n")
        .unwrap();
    host
}

pub fn run(_: &Plan) -> Verdict {
    let names = tally::names("p", 1);
    let mut host = tally::warm(with_high_limits(), &names);
    host.run(&["stop", "p1"]).ok();
    let began = Instant::now();
    // Each connection knows in which order its messages were accepted.
    let send = || {
        let mut api = Api::connect(&host);
        (0..MESSAGES / CONNECTIONS).map(|n| api.send("p1", &format!("message {n}"))).collect()
    };
    let sent: Vec<Vec<String>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(send)).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let accepting = began.elapsed();
    host.kill_daemon();
    let began = Instant::now();
    host.start();
    let answered = began.elapsed();
    let mut faults = Vec::new();
    let waiting = host.run(&["status", "--json"]).ok().json()["mail"]["waiting"].as_u64().unwrap() as usize;
    faults.extend((waiting != MESSAGES).then(|| format!("{waiting} wait after the restart")));
    let rss = proc::rss_kib(host.daemon_pid());
    faults.extend((rss > RSS_LIMIT_KIB).then(|| format!("the daemon takes {rss} KiB")));
    host.run(&["start", "p1"]).ok();
    host.until("some are delivered", || tally::turns(&host, "p1").len() > DELIVERED);
    host.run(&["stop", "p1"]).ok();
    let order: Vec<String> = tally::turns(&host, "p1").iter().skip(1).flat_map(|t| t.ids().map(String::from).collect::<Vec<_>>()).collect();
    for line in &sent {
        let delivered: Vec<&String> = order.iter().filter(|id| line.contains(id)).collect();
        faults.extend((!line.iter().take(delivered.len()).eq(delivered)).then(|| "delivered out of order".to_string()));
    }
    let left = ["new", "cur", "done"].map(|f| {
        std::fs::read_dir(host.state_dir("echo-p1").join("queue").join(f))
            .unwrap()
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "msg"))
            .count()
    });
    let kept: usize = left.iter().sum();
    // The message of the warm-up is in the ledger, too.
    faults.extend((kept != MESSAGES + 1).then(|| format!("{kept} records of {} (new, cur, done: {left:?})", MESSAGES + 1)));
    Verdict::new(
        format!(
            "{MESSAGES} accepted in {:.1} s; killed, answers after {} ms, {waiting} wait, {} MiB; {} delivered in order, {kept} records kept",
            accepting.as_secs_f64(),
            answered.as_millis(),
            rss / 1024,
            order.len()
        ),
        faults,
    )
}
