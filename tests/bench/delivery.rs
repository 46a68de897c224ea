//! Warm delivery: from the durable send on a kept-open connection until a raw program has read all bytes
//! and the submit key.

use crate::Plan;
use crate::arrivals::Arrivals;
use crate::floor::Pty;
use crate::host::{Api, Host, body, names, request};
use crate::raw_agent::monotonic_ns;
use crate::report::{Report, Row};
use crate::stats::Series;
use crate::tmux::Server;
use serde_json::json;

/// A daemon with raw programs as peers, and where they report to.
pub struct Bed {
    pub arrivals: Arrivals,
    pub peers: Vec<String>,
    pub api: Api,
    /// Last: its end ends the programs.
    pub host: Host,
}

impl Bed {
    pub fn new(plan: &Plan, peers: usize) -> Bed {
        let mut host = Host::new(&plan.dir);
        let arrivals = Arrivals::listen(host.dir.path());
        let bench = std::env::current_exe().unwrap();
        let definition = include_str!("raw.yaml").replace("BENCH", &bench.to_string_lossy()).replace("SOCKET", &arrivals.socket.to_string_lossy());
        std::fs::write(host.root().join("runtimes/raw.yaml"), definition).unwrap();
        let peers = names("r", peers);
        host.create(&peers, "raw");
        host.start();
        host.wake(&peers);
        let mut bed = Bed { api: host.connect(), arrivals, peers, host };
        // The first message of a session also reports it as ready.
        for peer in bed.peers.clone() {
            bed.deliver(&request(&peer, "first", false));
        }
        bed
    }

    /// Sends, waits for the arrival and for the end of the delivery: nanoseconds until the arrival.
    pub fn deliver(&mut self, request: &[u8]) -> u64 {
        let began = monotonic_ns();
        let id = self.api.send(request);
        let at = self.arrivals.wait(&id);
        self.api.wait_entered(&id);
        at - began
    }
}

const SIZES: [(&str, usize); 3] = [("100 B", 100), ("4 KiB", 4 * 1024), ("64 KiB", 64 * 1024)];

pub fn measure(plan: &Plan, bed: &mut Bed, report: &mut Report) {
    let dir = bed.host.dir.path().to_path_buf();
    let mut server = Server::with_raw_agent(&dir, "sleep", &bed.arrivals);
    let mut pty = Pty::start(&dir, &bed.arrivals);
    for (name, bytes) in SIZES {
        let ways = measure_size(plan, bed, &mut server, &mut pty, bytes);
        ways.report(report, name);
    }
}

/// One series for each way to deliver.
#[derive(Default)]
struct Ways {
    ours: Series,
    sleep: Series,
    chain: Series,
    floor: Series,
}

/// Rounds of all ways in turn, so that a busy moment hits all of them.
fn measure_size(plan: &Plan, bed: &mut Bed, server: &mut Server, pty: &mut Pty, bytes: usize) -> Ways {
    let mut ways = Ways::default();
    let text = body(bytes);
    let request = request(&bed.peers[0], &text, false);
    for _ in 0..plan.pick(10, 40) {
        for _ in 0..10 {
            for _ in 0..plan.pick(3, 5) {
                ways.ours.add(bed.deliver(&request));
            }
            ways.floor.add(pty.deliver(&bed.arrivals, &text));
            ways.chain.add(server.deliver_chained_and_wait(&bed.arrivals, &text));
        }
        ways.sleep.add(server.deliver_with_sleep(&bed.arrivals, &text));
    }
    ways
}

impl Ways {
    fn report(&self, report: &mut Report, size: &str) {
        let Ways { ours, sleep, chain, floor } = self;
        let details = json!({ "ours": ours.json(), "sleep": sleep.json(), "chain": chain.json(), "floor": floor.json() });
        let p50 = |against: &str, baseline: &Series| {
            Row::new("delivery", format!("{size}, p50, against {against}"))
                .value(format!("{:.2} ms", ours.p50()))
                .baseline(format!("{:.2} ms", baseline.p50()))
                .details(details.clone())
        };
        let faster = sleep.p50() / ours.p50();
        report.add(p50("three commands and a sleep", sleep).ratio(faster).at_least(faster, 50.0, "≥ 50× faster"));
        let tail = Row::new("delivery", format!("{size}, p99")).value(format!("{:.2} ms", ours.p99())).details(details.clone());
        report.add(tail.at_most(ours.p99(), 10.0, "≤ 10 ms"));
        report.add(p50("one chained client, nothing durable", chain).ratio(ours.p50() / chain.p50()));
        report.add(p50("the floor (pty write, two syncs)", floor).ratio(ours.p50() / floor.p50()));
    }
}
