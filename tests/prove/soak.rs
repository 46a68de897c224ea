//! Message after message for a while: what stays behind of each in the daemon and in tmux, and that nothing else does.

use crate::Plan;
use crate::api::Api;
use crate::harness::Host;
use crate::report::Verdict;
use crate::{proc, tally, waiting};

const PEERS: usize = 2;
/// What the daemon may remember of a message that has ended (its ledger), in bytes.
const DAEMON_MOST: i64 = 6 * 1024;
/// A connection or two may just be ending.
const SOME: usize = 4;
/// What tmux may keep of a delivery, its scrollback and the heap's growth included.
const TMUX_MOST: i64 = 8 * 1024;

pub fn run(plan: &Plan) -> Verdict {
    let (warm_up, messages) = plan.pick((800, 800), (2_000, 40_000));
    let names = tally::names("p", PEERS);
    let host = tally::warm(waiting::with_high_limits(), &names);
    let mut sent = deliver(&host, &names, warm_up);
    let before = Look::at(&host, &names);
    sent.extend(deliver(&host, &names, messages));
    let after = Look::at(&host, &names);
    let mut faults = tally::faults(&host, &names, &sent);
    let each = |after: u64, before: u64| (after as i64 - before as i64) * 1024 / messages as i64;
    let (daemon, tmux) = (each(after.daemon_kib, before.daemon_kib), each(after.tmux_kib, before.tmux_kib));
    faults.extend((daemon > DAEMON_MOST).then(|| format!("the daemon keeps {daemon} bytes of each message")));
    faults.extend((tmux > TMUX_MOST).then(|| format!("tmux keeps {tmux} bytes of each delivery")));
    faults.extend((after.descriptors > before.descriptors + SOME).then(|| format!("{} descriptors, {} before", after.descriptors, before.descriptors)));
    faults.extend((after.children > before.children).then(|| format!("{} children, {} before", after.children, before.children)));
    Verdict::new(
        format!("{messages} messages: the daemon keeps {daemon} bytes of each, tmux {tmux}; {} descriptors, {} before", after.descriptors, before.descriptors),
        faults,
    )
}

/// So many to all in turn; returns when all have become turns and nothing waits.
fn deliver(host: &Host, names: &[String], messages: usize) -> Vec<String> {
    let mut api = Api::connect(host);
    let sent: Vec<String> = (0..messages).map(|n| api.send(&names[n % PEERS], &format!("message {n}"))).collect();
    sent.iter().rev().take(PEERS).for_each(|id| api.wait_submitted(id).unwrap());
    host.until("nothing waits", || names.iter().all(|n| host.presence(n)["queue"]["waiting"] == 0));
    sent
}

struct Look {
    daemon_kib: u64,
    tmux_kib: u64,
    descriptors: usize,
    children: usize,
}

impl Look {
    fn at(host: &Host, names: &[String]) -> Look {
        let daemon = host.daemon_pid();
        let servers = names.iter().map(|n| host.session(&format!("echo-{n}")).unwrap()["server"]["pid"].as_i64().unwrap() as i32);
        // What was made ahead comes and goes: only names count.
        let named = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        Look {
            daemon_kib: proc::rss_kib(daemon),
            tmux_kib: servers.map(proc::rss_kib).sum(),
            descriptors: named.filter(|to| !to.to_string_lossy().ends_with("(deleted)")).count(),
            children: proc::children(daemon).len(),
        }
    }
}
