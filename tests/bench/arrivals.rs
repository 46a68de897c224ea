//! When which message arrived in a raw program, as the programs report it.

use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Seen {
    at: Mutex<HashMap<String, u64>>,
    more: Condvar,
}

/// Listens in a thread of its own until the end of the program.
#[derive(Clone)]
pub struct Arrivals {
    seen: Arc<Seen>,
    pub socket: PathBuf,
}

impl Arrivals {
    pub fn listen(dir: &Path) -> Arrivals {
        let socket = dir.join("arrivals.sock");
        let listener = UnixDatagram::bind(&socket).unwrap();
        let seen = Arc::<Seen>::default();
        let shared = seen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(n) = listener.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]);
                let Some((at, id)) = text.split_once(' ') else { continue };
                shared.at.lock().unwrap().insert(id.into(), at.parse().unwrap_or(0));
                shared.more.notify_all();
            }
        });
        Arrivals { seen, socket }
    }

    /// The monotonic time at which the submit key of a message was read.
    pub fn wait(&self, id: &str) -> u64 {
        let at = self.seen.at.lock().unwrap();
        let (at, late) = self.seen.more.wait_timeout_while(at, PATIENCE, |at| !at.contains_key(id)).unwrap();
        assert!(!late.timed_out(), "message {id} has not arrived within {PATIENCE:?}");
        at[id]
    }

    /// Waits until at least so many messages have arrived since `forget`.
    pub fn wait_count(&self, count: usize) {
        let at = self.seen.at.lock().unwrap();
        let (at, late) = self.seen.more.wait_timeout_while(at, PATIENCE, |at| at.len() < count).unwrap();
        assert!(!late.timed_out(), "{} of {count} messages have arrived within {PATIENCE:?}", at.len());
    }

    pub fn last(&self) -> u64 {
        self.seen.at.lock().unwrap().values().copied().max().unwrap_or(0)
    }

    pub fn forget(&self) {
        self.seen.at.lock().unwrap().clear();
    }
}
