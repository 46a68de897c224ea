//! Disks that take nothing more, and a process that may open nothing more: sends are refused with a typed error,
//! what was accepted stays, and where the disk allows it goes on without a restart.

use crate::Plan;
use crate::api::{Api, new_id};
use crate::card::OnCard;
use crate::report::Verdict;
use nix::libc;
use serde_json::json;
use std::fs;

/// So few inodes that a test can use them up.
const INODES: &str = "2048";
/// A daemon has more open from its start.
const FEW: u64 = 8;
const CODES: [&str; 3] = ["disk_full", "store_degraded", "capacity"];

pub fn run(_: &Plan) -> Verdict {
    let mut on = match OnCard::new(128, &["-N", INODES]) {
        Ok(on) => on,
        Err(why) => return Verdict::new(format!("not run here: {why}"), Vec::new()),
    };
    let OnCard { host, card } = &mut on;
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    host.start();
    host.run(&["stop", "a"]).ok();
    let mut bed = Bed { api: Api::connect(host), accepted: Vec::new(), faults: Vec::new(), refused: Vec::new() };
    bed.accepts("before");

    let hoard = host.root().join("hoard");
    fs::create_dir(&hoard).unwrap();
    let taken = (0..).map(|n| hoard.join(n.to_string())).take_while(|path| fs::write(path, "").is_ok()).count();
    // Some files were made ahead: they are used up first.
    bed.refuses_in_the_end("without inodes");
    fs::remove_dir_all(&hoard).unwrap();
    bed.accepts("with inodes again");

    let pid = host.daemon_pid();
    let usual = limit_descriptors(pid, FEW);
    // What was made ahead is open already.
    bed.refuses_in_the_end("without descriptors");
    limit_descriptors(pid, usual);
    bed.accepts("with descriptors again");

    card.make_read_only().unwrap();
    bed.refuses("read-only");
    let Bed { mut faults, accepted, refused, .. } = bed;
    faults.extend((host.run(&["status"]).code != 0).then(|| "the daemon did not stay".to_string()));
    // An ext4 that met an error takes writes again when it has been checked and mounted anew.
    host.kill_daemon();
    card.unmount().and_then(|()| card.check()).and_then(|()| card.mount()).unwrap();
    host.start();
    // What was acknowledged, and nothing else, is delivered.
    host.run(&["start", "a"]).ok();
    host.until("nothing waits", || host.presence("a")["queue"]["waiting"] == 0);
    let turns = host.turns("a");
    faults.extend((turns.len() != accepted.len()).then(|| format!("{} turns for {} acknowledged", turns.len(), accepted.len())));
    faults.extend(accepted.iter().filter(|id| !turns.iter().any(|t| t.contains(*id))).map(|id| format!("lost: {id}: {}", host.message(id))));
    Verdict::new(format!("{}; {taken} inodes used up; {} acknowledged, all delivered once", refused.join(", "), accepted.len()), faults)
}

struct Bed {
    api: Api,
    accepted: Vec<String>,
    faults: Vec<String>,
    refused: Vec<String>,
}

impl Bed {
    fn send(&mut self) -> Result<(), String> {
        let id = new_id();
        match self.api.call("POST", "/v1/messages", &json!({ "id": id, "to": "a", "text": "x", "queue": true }).to_string()) {
            Ok((200, _)) => {
                self.accepted.push(id);
                Ok(())
            }
            Ok((_, error)) => Err(error["error"]["code"].as_str().or(error["code"].as_str()).unwrap_or("no code").into()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn accepts(&mut self, when: &str) {
        if let Err(code) = self.send() {
            self.faults.push(format!("{when}: refused with {code}"));
        }
    }

    fn refuses(&mut self, when: &str) {
        match self.send() {
            Err(code) if CODES.contains(&code.as_str()) => self.refused.push(format!("{when}: {code}")),
            other => self.faults.push(format!("{when}: {other:?}")),
        }
    }

    fn refuses_in_the_end(&mut self, when: &str) {
        let refused = (0..200).find_map(|_| self.send().err());
        match refused {
            Some(code) if CODES.contains(&code.as_str()) => self.refused.push(format!("{when}: {code}")),
            other => self.faults.push(format!("{when}: {other:?}")),
        }
    }
}

/// Sets how many descriptors a process may have open; how many it could before.
fn limit_descriptors(pid: i32, most: u64) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[allow(unsafe_code, reason = "no wrapper sets the limits of another process")]
    let set = |new: *const libc::rlimit, old: *mut libc::rlimit| {
        // SAFETY: both point to whole structures, or are null.
        let done = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, new, old) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    set(std::ptr::null(), &raw mut before);
    set(&libc::rlimit { rlim_cur: most, rlim_max: before.rlim_max }, std::ptr::null_mut());
    before.rlim_cur
}
