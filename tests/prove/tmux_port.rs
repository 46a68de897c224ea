//! The same kill points at the terminal port itself: the guarded call is repeated at once, without a look
//! between, so that nothing but its own guard keeps a second copy away. A raw program keeps every byte.

use crate::api::new_id;
use crate::harness::{PATIENCE, tmux};
use crate::tracer::{PASTE, SUBMIT, Shim, UNTOUCHED};
use iapeer::core::message::MessageId;
use iapeer::core::runtime::{CR, KeyName};
use iapeer::core::settings::DriverChoice;
use iapeer::ports::terminal::{PaneRef, Paste, StartSpec, Submit, Terminal};
use iapeer::tmux::driver::Driver;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

struct Port {
    dir: tempfile::TempDir,
    shim: Shim,
    driver: Driver,
    pane: PaneRef,
    runtime: Runtime,
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.driver.kill(self.pane.socket.clone()));
    }
}

/// The number of kill points, and what went wrong.
pub fn run() -> (u32, Vec<String>) {
    tmux();
    let port = Port::open();
    let mut want = Vec::new();
    let mut points = 0;
    // Paste and submit as two lists, and both in one.
    for (act, together) in [(PASTE, false), (SUBMIT, false), (PASTE, true)] {
        for n in 1.. {
            let id: MessageId = new_id().parse().unwrap();
            port.shim.plan(id.as_str(), act, n);
            (0..2).for_each(|_| port.paste(&id, together));
            (0..2).for_each(|_| port.submit(&id));
            want.extend(format!("\x1b[200~{id}\x1b[201~\r").into_bytes());
            if port.shim.outcome(id.as_str()).is_some_and(|told| told.starts_with(UNTOUCHED)) {
                break;
            }
            points += 1;
        }
    }
    let began = Instant::now();
    while port.bytes().len() < want.len() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    let got = port.bytes();
    let at = got.iter().zip(&want).take_while(|(a, b)| a == b).count();
    let wrong = (got != want).then(|| format!("at the port: {} bytes instead of {}, other ones from byte {at}", got.len(), want.len()));
    (points, wrong.into_iter().collect())
}

impl Port {
    fn open() -> Port {
        let dir = tempfile::Builder::new().prefix("iap").permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let shim = Shim::install(dir.path());
        let path = format!("{}:{}", shim.0.display(), std::env::var("PATH").unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (driver, _) = runtime.block_on(Driver::find(dir.path().into(), path, DriverChoice::Spawn)).unwrap();
        let script = format!("stty raw -echo; printf '\\033[?2004hready'; exec cat >> {}", dir.path().join("bytes").display());
        let socket = dir.path().join("t.sock");
        let argv = ["sh", "-c", &script].map(String::from).to_vec();
        let spec = StartSpec { identity: "raw-a".parse().unwrap(), socket: socket.clone(), cwd: dir.path().into(), argv, columns: 100, rows: 20, pipe: None };
        let started = runtime.block_on(driver.start(spec)).unwrap();
        let pane = PaneRef { socket, pane: started.pane, keeper_pid: started.keeper_pid, incarnation: 1 };
        let began = Instant::now();
        while !runtime.block_on(driver.look(pane.clone())).unwrap().screen.starts_with("ready") {
            assert!(began.elapsed() < PATIENCE, "the raw program is not ready");
        }
        Port { dir, shim, driver, pane, runtime }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("bytes")).unwrap_or_default()
    }

    /// One guarded call; a killed client is an error and says nothing of what happened.
    fn paste(&self, id: &MessageId, together: bool) {
        let submit = together.then(|| KeyName(CR.into()));
        let paste = Paste { id: id.clone(), text: id.to_string(), guard: Default::default(), leave_mode: false, submit };
        let _ = self.runtime.block_on(self.driver.paste(self.pane.clone(), paste));
    }

    fn submit(&self, id: &MessageId) {
        let submit = Submit { id: id.clone(), attempt: 1, guard: Default::default(), key: KeyName(CR.into()) };
        let _ = self.runtime.block_on(self.driver.submit(self.pane.clone(), submit));
    }
}
