//! The terminal of a person: `iapeer attach` in a pane of a tmux server of our own.

use crate::harness::{Host, program, tmux};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const SIZES: [(&str, &str); 4] = [("90", "28"), ("150", "40"), ("110", "24"), ("200", "50")];
/// A person drags a window's corner about so fast.
const DRAG: Duration = Duration::from_millis(40);

pub struct Attached<'a> {
    _host: &'a Host,
    socket: PathBuf,
    over: Arc<AtomicBool>,
    dragging: Arc<AtomicBool>,
    resizer: Option<JoinHandle<()>>,
}

fn outer(socket: &Path, args: &[&str]) -> bool {
    let mut command = Command::new(tmux());
    command.args(["-u", "-f", "/dev/null", "-S"]).arg(socket).args(args).env_remove("TMUX").env("TERM", "xterm-256color");
    command.output().is_ok_and(|o| o.status.success())
}

impl<'a> Attached<'a> {
    pub fn open(host: &'a Host, name: &str) -> Attached<'a> {
        let socket = host.dir.path().join(format!("{name}.sock"));
        let home = host.dir.path().join("home");
        let script = format!("IAPEER_ROOT='{}' HOME='{}' exec '{}' attach {name}", host.root().display(), home.display(), program());
        assert!(outer(&socket, &["new-session", "-d", "-x", "120", "-y", "35", &script]), "a terminal for a person");
        Attached { _host: host, socket, over: Arc::default(), dragging: Arc::default(), resizer: None }
    }

    /// The size changes without pause while this is on.
    pub fn drag(&mut self, on: bool) {
        self.dragging.store(on, Ordering::Relaxed);
        let (socket, over, dragging) = (self.socket.clone(), self.over.clone(), self.dragging.clone());
        self.resizer.get_or_insert_with(|| {
            std::thread::spawn(move || {
                for (columns, rows) in SIZES.iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    if dragging.load(Ordering::Relaxed) {
                        outer(&socket, &["resize-window", "-x", columns, "-y", rows]);
                    }
                    std::thread::sleep(DRAG);
                }
            })
        });
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(resizer) = self.resizer.take() {
            let _ = resizer.join();
        }
        outer(&self.socket, &["kill-server"]);
    }
}

/// Every such terminal of a run.
pub fn end_all(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().extension().is_some_and(|x| x == "sock")) {
        outer(&entry.path(), &["kill-server"]);
    }
}
