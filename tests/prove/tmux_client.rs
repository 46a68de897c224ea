//! The tmux client is killed before each of its system calls, for the paste and for the submit; the
//! daemon repeats the guarded list.

use crate::Plan;
use crate::api::{Api, new_id};
use crate::harness::Host;
use crate::report::Verdict;
use crate::tracer::{PASTE, SUBMIT, Shim, UNTOUCHED};
use crate::{tally, tmux_port};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub fn run(plan: &Plan) -> Verdict {
    let names = tally::names("p", 8);
    let mut host = Host::new();
    let shim = Shim::install(host.dir.path());
    host.env.insert("PATH".into(), format!("{}:{}", shim.0.display(), std::env::var("PATH").unwrap()));
    // Only a client process can be killed in the midst of its calls.
    host.env.insert("IAPEER_TMUX_DRIVER".into(), "spawn".into());
    let host = tally::warm(host, &names);
    let mut faults = Vec::new();
    let mut sent = Vec::new();
    let mut points = [0, 0];
    for _ in 0..plan.pick(1, 5) {
        for (act, count) in [PASTE, SUBMIT].into_iter().zip(&mut points) {
            let sweep = sweep(&host, &shim, &names, act);
            *count += sweep.killed.load(Ordering::SeqCst);
            faults.extend(sweep.faults.into_inner().unwrap());
            sent.extend(sweep.sent.into_inner().unwrap());
        }
    }
    // Fewer points than a dynamic linker alone makes: the tracer did not trace.
    if points.iter().any(|n| *n < 20) {
        faults.push(format!("too few kill points: {points:?}"));
    }
    let (copies, wrong) = (tally::copies(&host, &names), tally::faults(&host, &names, &sent));
    let arrived: usize = sent.iter().filter_map(|id| copies.get(id)).sum();
    let [paste, submit] = points;
    let (at_the_port, doubled) = tmux_port::run();
    let measured = format!("{paste} + {submit} kill points, {arrived} copies of {} messages; at the port {at_the_port} more", sent.len());
    Verdict::new(measured, [faults, wrong, doubled].concat())
}

#[derive(Default)]
struct Sweep {
    next: AtomicU32,
    over: AtomicBool,
    killed: AtomicU32,
    sent: Mutex<Vec<String>>,
    faults: Mutex<Vec<String>>,
}

/// One message per kill point, until a client gets through; a few peers side by side.
fn sweep(host: &Host, shim: &Shim, names: &[String], act: &str) -> Sweep {
    let sweep = Sweep::default();
    std::thread::scope(|scope| {
        for name in names {
            scope.spawn(|| {
                let mut api = Api::connect(host);
                while !sweep.over.load(Ordering::SeqCst) {
                    let n = sweep.next.fetch_add(1, Ordering::SeqCst) + 1;
                    let id = new_id();
                    shim.plan(&id, act, n);
                    api.send_as(&id, name, &format!("{act} {n}"));
                    sweep.sent.lock().unwrap().push(id.clone());
                    if let Err(why) = api.wait_submitted(&id) {
                        sweep.faults.lock().unwrap().push(format!("{act}, killed before call {n}: {why}"));
                    }
                    host.until("the tracer tells", || shim.outcome(&id).is_some());
                    match shim.outcome(&id) {
                        Some(told) if told.starts_with(UNTOUCHED) => sweep.over.store(true, Ordering::SeqCst),
                        _ => drop(sweep.killed.fetch_add(1, Ordering::SeqCst)),
                    }
                }
            });
        }
    });
    sweep
}
