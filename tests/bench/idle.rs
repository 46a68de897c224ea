//! Many live peers that do nothing: what they cost, and how soon a new daemon has adopted them all after
//! the old one was killed.

use crate::Plan;
use crate::host::{Host, body, request};
use crate::proc;
use crate::raw_agent::monotonic_ns;
use crate::report::{Report, Row};
use crate::stats::Series;
use serde_json::{Value, json};
use std::time::Duration;

/// After the last wake, until nothing of it is under way any more.
const QUIET: Duration = Duration::from_secs(3);

/// The processes of one live peer.
struct Processes {
    server: i32,
    keeper: i32,
    /// What writes the pane log.
    writer: i32,
    agent: Vec<i32>,
}

impl Processes {
    fn of(session: &Value) -> Processes {
        let pid = |key: &str| session[key]["pid"].as_i64().unwrap_or(0) as i32;
        let (server, keeper) = (pid("server"), pid("keeper"));
        let writer = proc::children(server).into_iter().find(|child| *child != keeper).unwrap_or(0);
        Processes { server, keeper, writer, agent: proc::children(keeper) }
    }
    fn holders(&self) -> [i32; 3] {
        [self.server, self.keeper, self.writer]
    }
    fn all(&self) -> impl Iterator<Item = i32> + '_ {
        self.holders().into_iter().chain(self.agent.iter().copied())
    }
}

pub fn measure(plan: &Plan, host: &Host, report: &mut Report) {
    std::thread::sleep(QUIET);
    let peers: Vec<Processes> = host.sessions().iter().map(Processes::of).collect();
    assert_eq!(peers.len(), plan.idle_peers, "all peers are live");
    let daemon = host.daemon_pid();
    let ended = || -> Vec<u64> { std::iter::once(daemon).chain(peers.iter().flat_map(Processes::all)).map(proc::faults_of_ended_children).collect() };
    let cpu = || -> (u64, u64) { (proc::cpu_ns(daemon), peers.iter().flat_map(Processes::holders).map(proc::cpu_ns).sum()) };
    let (ended_before, cpu_before, forks_before, began) = (ended(), cpu(), proc::forks_of_the_machine(), monotonic_ns());
    std::thread::sleep(Duration::from_secs(plan.pick(20, 60)));
    let (cpu_after, forks, window) = (cpu(), proc::forks_of_the_machine() - forks_before, monotonic_ns() - began);
    let parents = ended_before.iter().zip(ended()).filter(|(a, b)| **a != *b).count();
    let now: Vec<Processes> = host.sessions().iter().map(Processes::of).collect();
    assert_eq!(now.iter().flat_map(Processes::all).count(), peers.iter().flat_map(Processes::all).count(), "the same processes as before");

    let share = |before: u64, after: u64| (after - before) as f64 / window as f64 * 100.0;
    let (daemon_share, holder_share) = (share(cpu_before.0, cpu_after.0), share(cpu_before.1, cpu_after.1));
    let per_minute = forks as f64 * 60e9 / window as f64;
    let n = peers.len();
    let details = json!({ "peers": n, "window_s": window as f64 / 1e9, "daemon_cpu_ms_in_window": (cpu_after.0 - cpu_before.0) as f64 / 1e6, "daemon_cpu_ms_before": cpu_before.0 as f64 / 1e6, "daemon_cpu_percent": daemon_share, "tmux_and_keeper_cpu_percent": holder_share, "machine_forks_per_minute": per_minute, "processes_that_reaped_a_child": parents });
    report.add(
        Row::new("idle", format!("{n} live peers: daemon, share of a core"))
            .value(format!("{daemon_share:.3} %"))
            .at_most(daemon_share, 0.5, "≤ 0.5 %")
            .details(details.clone()),
    );
    report.add(
        Row::new("idle", format!("{n} live peers: all tmux servers and keepers, share of a core"))
            .value(format!("{holder_share:.3} %"))
            .details(details.clone()),
    );
    let forks_text = if parents == 0 { "0 per minute".into() } else { format!("{parents} parents, at most {per_minute:.0} per minute") };
    report.add(
        Row::new("idle", format!("{n} live peers: processes started by any of ours")).value(forks_text).goal("0 per minute", parents == 0).details(details),
    );
    report_memory(&peers, daemon, report);
}

fn report_memory(peers: &[Processes], daemon: i32, report: &mut Report) {
    let n = peers.len();
    let mean = |pids: &dyn Fn(&Processes) -> i32| peers.iter().map(|p| proc::private_kib(pids(p))).sum::<u64>() as f64 / n as f64 / 1024.0;
    let (server, keeper, writer) = (mean(&|p| p.server), mean(&|p| p.keeper), mean(&|p| p.writer));
    let agent = mean(&|p| p.agent.first().copied().unwrap_or(0));
    let rss = proc::rss_kib(daemon) as f64 / 1024.0;
    let details = json!({ "tmux_server_mib": server, "keeper_mib": keeper, "pane_log_writer_mib": writer, "echo_agent_mib": agent, "daemon_rss_mib": rss, "daemon_private_mib": proc::private_kib(daemon) as f64 / 1024.0 });
    report.add(
        Row::new("idle", format!("{n} live peers: resident memory of the daemon"))
            .value(format!("{rss:.1} MB"))
            .at_most(rss, 40.0, "≤ 40 MB")
            .details(details.clone()),
    );
    let extra = server + keeper + writer;
    report.add(
        Row::new("idle", "private memory per peer (tmux server, keeper, writer of its pane log)")
            .value(format!("{extra:.2} MB"))
            .at_most(extra, 3.0, "≤ 3 MB")
            .details(details),
    );
}

/// The daemon is killed and started again over the live peers, first without and then with waiting mail.
pub fn measure_restart(plan: &Plan, host: &mut Host, report: &mut Report) {
    restart_row(plan, host, report, 0);
    let waiting = plan.pick(1_000, 10_000);
    leave_mail(host, waiting);
    restart_row(plan, host, report, waiting);
}

/// Mail that stays: its recipients are stopped.
fn leave_mail(host: &Host, count: usize) {
    let names = crate::host::names("w", 10);
    host.create(&names, "echo");
    let mut api = host.connect();
    for name in &names {
        api.post(&format!("/v1/peers/{name}/stop"), &json!({}));
    }
    let text = body(1024);
    let requests: Vec<Vec<u8>> = names.iter().map(|n| request(n, &text, true)).collect();
    for n in 0..count {
        api.send(&requests[n % requests.len()]);
    }
}

fn restart_row(plan: &Plan, host: &mut Host, report: &mut Report, waiting: usize) {
    let before = pids(host);
    let mut took = Series::default();
    for _ in 0..plan.pick(3, 5) {
        host.kill_daemon();
        took.time(|| {
            host.spawn_daemon();
            until_adopted(host, plan.idle_peers, waiting);
        });
    }
    let kept = before == pids(host);
    let mail = if waiting == 0 { String::new() } else { format!(", {waiting} waiting messages") };
    report.add(
        Row::new("restart", format!("{} live peers{mail}: kill -9 to all adopted", plan.idle_peers))
            .value(format!("{:.0} ms", took.p50()))
            .goal("≤ 1 s", took.p50() <= 1000.0 && kept)
            .details(json!({ "took": took.json(), "same_processes": kept })),
    );
}

fn pids(host: &Host) -> Vec<i32> {
    let mut all: Vec<i32> = host.sessions().iter().map(Processes::of).flat_map(|p| p.all().collect::<Vec<_>>()).collect();
    all.sort_unstable();
    all
}

fn until_adopted(host: &Host, live: usize, waiting: usize) {
    let began = monotonic_ns();
    loop {
        if let Some(mut api) = host.try_connect() {
            let status = api.get("/v1/status");
            if status["peers"]["live"] == live && status["mail"]["waiting"].as_u64() >= Some(waiting as u64) {
                return;
            }
        }
        assert!(monotonic_ns() - began < 60_000_000_000, "not all peers are adopted\n{}", host.evidence());
        std::thread::sleep(Duration::from_millis(1));
    }
}
