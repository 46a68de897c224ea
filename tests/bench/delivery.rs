//! Warm delivery: from the durable send on a kept-open connection until a raw program has read all bytes
//! and the submit key.

use crate::arrivals::Arrivals;
use crate::floor::Pty;
use crate::host::{Api, Host, body, names, request};
use crate::raw_agent::monotonic_ns;
use crate::report::{Report, Row};
use crate::stats::Series;
use crate::tmux::Server;
use crate::{Driver, Plan};
use serde_json::json;

/// A daemon with raw programs as peers, and where they report to.
pub struct Bed {
    pub arrivals: Arrivals,
    pub peers: Vec<String>,
    pub api: Api,
    pub driver: Driver,
    /// Last: its end ends the programs.
    pub host: Host,
}

impl Bed {
    pub fn new(plan: &Plan, peers: usize, driver: Driver) -> Bed {
        let mut host = Host::new(&plan.dir);
        host.driver = Some(driver);
        let arrivals = Arrivals::listen(host.dir.path());
        let bench = std::env::current_exe().unwrap();
        let definition = include_str!("raw.yaml").replace("BENCH", &bench.to_string_lossy()).replace("SOCKET", &arrivals.socket.to_string_lossy());
        std::fs::write(host.root().join("runtimes/raw.yaml"), definition).unwrap();
        let peers = names("r", peers);
        host.create(&peers, "raw");
        host.start();
        host.wake(&peers);
        let mut bed = Bed { api: host.connect(), driver, arrivals, peers, host };
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

pub fn measure(plan: &Plan, beds: &mut [Bed], report: &mut Report) {
    let arrivals = &beds[0].arrivals;
    let dir = beds[0].host.dir.path();
    let mut server = Server::with_raw_agent(dir, "sleep", arrivals);
    let mut pty = Pty::start(dir, arrivals);
    for (name, bytes) in SIZES {
        let ways = measure_size(plan, beds, &mut server, &mut pty, bytes);
        for (bed, ours) in beds.iter().zip(&ways.ours) {
            ways.report(bed.driver, ours, report, name);
        }
    }
}

/// One series for each way to deliver.
#[derive(Default)]
struct Ways {
    /// One for each bed.
    ours: Vec<Series>,
    sleep: Series,
    chain: Series,
    floor: Series,
}

/// Rounds of all ways in turn, so that a busy moment hits all of them.
fn measure_size(plan: &Plan, beds: &mut [Bed], server: &mut Server, pty: &mut Pty, bytes: usize) -> Ways {
    let mut ways = Ways::default();
    ways.ours.resize_with(beds.len(), Series::default);
    let text = body(bytes);
    let request = request(&beds[0].peers[0], &text, false);
    for _ in 0..plan.pick(10, 40) {
        for _ in 0..10 {
            for (bed, ours) in beds.iter_mut().zip(&mut ways.ours) {
                for _ in 0..plan.pick(3, 5) {
                    ours.add(bed.deliver(&request));
                }
            }
            ways.floor.add(pty.deliver(&beds[0].arrivals, &text));
            ways.chain.add(server.deliver_chained_and_wait(&beds[0].arrivals, &text));
        }
        ways.sleep.add(server.deliver_with_sleep(&beds[0].arrivals, &text));
    }
    ways
}

impl Ways {
    fn report(&self, driver: Driver, ours: &Series, report: &mut Report, size: &str) {
        let Ways { sleep, chain, floor, .. } = self;
        let size = format!("{}, {size}", driver.name());
        let details = json!({ "ours": ours.json(), "sleep": sleep.json(), "chain": chain.json(), "floor": floor.json() });
        let p50 = |against: &str, baseline: &Series| {
            Row::new("delivery", format!("{size}, p50, against {against}"))
                .value(format!("{:.2} ms", ours.p50()))
                .baseline(format!("{:.2} ms", baseline.p50()))
                .details(details.clone())
        };
        let faster = sleep.p50() / ours.p50();
        let least = driver.pick(50.0, 300.0);
        report.add(p50("three commands and a sleep", sleep).ratio(faster).at_least(faster, least, format!("≥ {least}× faster")));
        let tail = Row::new("delivery", format!("{size}, p99")).value(format!("{:.2} ms", ours.p99())).details(details.clone());
        report.add(tail.at_most(ours.p99(), 10.0, "≤ 10 ms"));
        report.add(p50("one chained client, nothing durable", chain).ratio(ours.p50() / chain.p50()));
        let over = ours.p50() / floor.p50();
        let row = p50("the floor (pty write, two syncs)", floor).ratio(over);
        report.add(driver.pick(row.clone(), row.at_most(over, 10.0, "≤ 10×")));
    }
}
