//! The program inside the measured terminals: raw mode, bracketed paste, one fixed screen, no settling
//! time. For every paste that is followed by a carriage return it reports the monotonic time and the
//! message id as a datagram.

use nix::sys::termios::{self, SetArg};
use nix::time::{ClockId, clock_gettime};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// What its screen shows from the start, and never changes.
pub const READY_ROW: &str = "raw ready";
/// A submitted paste ends in these bytes.
pub const SUBMITTED: &[u8] = b"\x1b[201~\r";
pub const PASTE: &[u8] = b"\x1b[200~";
/// The id follows directly, as in an envelope.
pub const ID_MARK: &[u8] = b"<iap id=\"";
pub const ID_LEN: usize = 36;

pub fn run(report_to: &Path) {
    let socket = UnixDatagram::unbound().expect("a datagram socket");
    socket.connect(report_to).expect("the bench listens");
    raw_mode().expect("standard input is a terminal");
    let mut out = io::stdout().lock();
    let drawn = write!(out, "\x1b[?2004h\x1b[2J\x1b[H{READY_ROW}\r\n> ").and_then(|()| out.flush());
    drawn.expect("the terminal takes the screen");
    let mut stream = Stream::default();
    let mut chunk = vec![0; 256 * 1024];
    let mut input = io::stdin().lock();
    while let Ok(n @ 1..) = input.read(&mut chunk) {
        let at = monotonic_ns();
        stream.push(&chunk[..n], |id| {
            // The bench may be gone already: then nobody asks.
            let _ = socket.send(format!("{at} {id}").as_bytes());
        });
    }
}

pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

fn raw_mode() -> nix::Result<()> {
    let mut settings = termios::tcgetattr(io::stdin())?;
    termios::cfmakeraw(&mut settings);
    termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &settings)
}

/// What came and is not submitted yet.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    scanned: usize,
}

impl Stream {
    fn push(&mut self, chunk: &[u8], mut submitted: impl FnMut(&str)) {
        self.bytes.extend_from_slice(chunk);
        loop {
            let from = self.scanned.saturating_sub(SUBMITTED.len() - 1);
            let Some(at) = find(&self.bytes[from..], SUBMITTED).map(|i| from + i) else {
                self.scanned = self.bytes.len();
                return;
            };
            submitted(id_in(&self.bytes[..at]).unwrap_or("-"));
            self.bytes.drain(..at + SUBMITTED.len());
            self.scanned = 0;
        }
    }
}

fn id_in(bytes: &[u8]) -> Option<&str> {
    let at = find(bytes, ID_MARK)? + ID_MARK.len();
    std::str::from_utf8(bytes.get(at..at + ID_LEN)?).ok()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}
