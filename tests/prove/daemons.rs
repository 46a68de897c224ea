//! Ten daemons are started at once, again and again: one serves, nine say who does and end.

use crate::Plan;
use crate::harness::Host;
use crate::report::Verdict;
use std::process::{Child, Stdio};

const DAEMONS: usize = 10;

struct Daemons(Vec<Child>);

impl Daemons {
    fn running(&mut self) -> Vec<i64> {
        self.0.iter_mut().filter_map(|d| d.try_wait().unwrap().is_none().then(|| i64::from(d.id()))).collect()
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for daemon in &mut self.0 {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

pub fn run(plan: &Plan) -> Verdict {
    let rounds = plan.pick(20, 60);
    let host = Host::new();
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    let mut faults = Vec::new();
    for round in 0..rounds {
        let start = |_| host.command(&["daemon"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut daemons = Daemons((0..DAEMONS).map(start).collect());
        // The losers end by themselves.
        host.until("nine have ended", || daemons.running().len() <= 1);
        host.until("one serves", || host.run(&["status"]).code == 0);
        let serving = host.run(&["status", "--json"]).ok().json()["pid"].as_i64().unwrap();
        let winners = daemons.running();
        faults.extend((winners != [serving]).then(|| format!("round {round}: {winners:?} run, {serving} serves")));
        // Every other time it leaves its lock and its socket behind.
        if round % 2 == 1 {
            host.run(&["daemon", "stop"]).ok();
        }
    }
    Verdict::new(format!("{rounds} rounds of {DAEMONS}: one winner each, {} faults", faults.len()), faults)
}
