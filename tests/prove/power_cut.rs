//! Power cuts of a real file system under traffic: whatever a sender was told is accepted is there after the next
//! start, and a disk that only says that it syncs is caught.

use crate::Plan;
use crate::Random;
use crate::api::{Api, new_id};
use crate::card::OnCard;
use crate::proc;
use crate::report::Verdict;
use crate::seccomp::{Answers, SYNCS};
use nix::libc;
use serde_json::json;
use std::collections::HashSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

const SENDERS: usize = 4;
/// Two run, one is stopped, one has never run before the round.
const LIVE: [&str; 2] = ["a", "b"];
const STOPPED: &str = "c";
const LIMITS: &str = "limits:\n  waiting_per_peer: 1000000\n  waiting_per_sender: 1000000\n  operator_per_second: 1000000\n";
/// What disks that lie leave out.
const LIES: [(&str, &[i64]); 2] = [("bytes", &[libc::SYS_fdatasync]), ("anything", &SYNCS)];

pub fn run(plan: &Plan) -> Verdict {
    let (cuts, enough) = plan.pick((4, 500), (60, 5_000));
    let mut random = plan.random(11);
    let mut bed = match Bed::new() {
        Ok(bed) => bed,
        Err(why) => return Verdict::new(format!("not run here: {why}"), Vec::new()),
    };
    let (mut accepted, mut lost, mut done) = (Vec::new(), HashSet::new(), 0);
    while done < cuts || accepted.len() < enough {
        accepted.extend(bed.round(&mut random, &[]));
        done += 1;
        bed.start(&[]);
        lost.extend(bed.unknown(&accepted));
        bed.end();
    }
    let mut faults: Vec<String> = lost.iter().map(|id| format!("lost: {id}")).collect();
    let mut caught = Vec::new();
    for (left_out, calls) in LIES {
        let mut bed = Bed::new().unwrap();
        let accepted = bed.round(&mut random, calls);
        let missing = accepted.iter().filter(|id| !bed.holds(id)).count();
        caught.push(format!("syncs no {left_out}: {missing} of {} lost", accepted.len()));
        faults.extend((missing == 0).then(|| format!("a disk that syncs no {left_out} was not noticed: the cuts prove nothing")));
    }
    Verdict::new(format!("{done} cuts, {} acknowledged: {} lost; a disk that {}", accepted.len(), lost.len(), caught.join(", one that ")), faults)
}

struct Bed {
    on: OnCard,
    peers: Vec<String>,
    boots: usize,
}

impl Bed {
    fn new() -> Result<Bed, String> {
        let on = OnCard::new(256, &[])?;
        let config = on.host.root().join("config.yaml");
        fs::write(&config, LIMITS).and_then(|()| fs::File::open(&config)?.sync_all()).and_then(|()| fs::File::open(on.card.path())?.sync_all()).unwrap();
        let mut bed = Bed { on, peers: Vec::new(), boots: 0 };
        bed.start(&[]);
        for name in [&LIVE[..], &[STOPPED]].concat() {
            bed.create(name);
        }
        bed.on.host.run(&["stop", STOPPED]).ok();
        bed.end();
        Ok(bed)
    }

    fn create(&mut self, name: &str) {
        self.on.host.run(&["create", name, "--runtime", "echo"]).ok();
        self.peers.push(name.into());
    }

    /// A daemon after a boot of its own, on a disk that leaves those calls out.
    fn start(&mut self, left_out: &[i64]) {
        self.boots += 1;
        let boot = self.on.host.dir.path().join("boot_id");
        fs::write(&boot, format!("00000000-0000-4000-8000-{:012}\n", self.boots)).unwrap();
        let daemon = self.on.host.command(&["daemon"]);
        let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && exec \"$2\" daemon";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&boot).arg(daemon.get_program()).env_clear();
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(self.on.host.dir.path());
        if !left_out.is_empty() {
            let answers = Answers::new(left_out, 0);
            // SAFETY: between fork and exec only two system calls are made; the filter was built before.
            #[allow(unsafe_code, reason = "what a child does before it becomes another program")]
            unsafe {
                command.pre_exec(move || answers.install());
            }
        }
        self.on.host.start_by(command);
    }

    /// As a power cut: the daemon, the servers, and all below them are gone.
    fn end(&mut self) {
        let servers: Vec<i32> =
            self.peers.iter().filter_map(|name| self.on.host.session(&format!("echo-{name}"))?["server"]["pid"].as_i64()).map(|pid| pid as i32).collect();
        self.on.host.kill_daemon();
        servers.into_iter().for_each(proc::end);
        self.on.card.unmount().unwrap();
        self.on.card.mount().unwrap();
    }

    /// Messages from all sides until the power is cut; the acknowledged ones.
    fn round(&mut self, random: &mut Random, left_out: &[i64]) -> Vec<String> {
        self.start(left_out);
        // A mailbox that is made only now has to survive as well.
        let fresh = format!("n{}", self.peers.len());
        self.create(&fresh);
        self.on.host.run(&["stop", &fresh]).ok();
        for name in LIVE {
            self.on.host.run(&["start", name]).ok();
            self.on.host.until("it runs", || self.on.host.session(&format!("echo-{name}")).is_some_and(|s| s["ready"] == true));
        }
        let servers = LIVE.map(|name| self.on.host.session(&format!("echo-{name}")).unwrap()["server"]["pid"].as_i64().unwrap() as i32);
        let accepted = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for n in 0..SENDERS {
                let (accepted, to) = (&accepted, [LIVE[0], LIVE[1], STOPPED, &fresh][n % 4]);
                let mut api = Api::connect(&self.on.host);
                scope.spawn(move || {
                    loop {
                        let id = new_id();
                        match api.call("POST", "/v1/messages", &json!({ "id": id, "to": to, "text": "x".repeat(300), "queue": true }).to_string()) {
                            Ok((200, _)) => accepted.lock().unwrap().push(id),
                            _ => return,
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(50));
            random.pause(Duration::from_millis(400));
            self.on.card.cut_power();
        });
        self.on.host.kill_daemon();
        servers.into_iter().for_each(proc::end);
        self.on.card.unmount().unwrap();
        self.on.card.mount().unwrap();
        accepted.into_inner().unwrap()
    }

    /// Which of the messages the daemon knows nothing of.
    fn unknown(&self, ids: &[String]) -> Vec<String> {
        let mut api = Api::connect(&self.on.host);
        ids.iter().filter(|id| !matches!(api.call("GET", &format!("/v1/messages/{id}"), ""), Ok((200, _)))).cloned().collect()
    }

    /// Whether a record lies anywhere in the files, without a daemon.
    fn holds(&self, id: &str) -> bool {
        let state = self.on.host.root().join("state");
        let queues = files_below(&state.join("peers"));
        let named =
            queues.iter().any(|f| f.to_string_lossy().contains(id) && f.extension().is_some_and(|e| e == "msg") && fs::metadata(f).is_ok_and(|m| m.len() > 0));
        let logs = files_below(&state.join("journal"));
        named || logs.iter().any(|f| fs::read(f).is_ok_and(|bytes| bytes.windows(id.len()).any(|w| w == id.as_bytes())))
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.into_iter().flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
