//! Writes down what a terminal shows, byte by byte: tmux pipes the output of a pane to this process.
//!
//! It must never hold the pane up. A disk that takes nothing costs the log its bytes, not the agent its time.

use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The older half of a log.
pub fn rotated(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_os_string();
    name.push(".1");
    name.into()
}

/// Appends all that comes until it ends. At `max` bytes the file becomes the rotated one, in whose place the
/// one before it goes. The lock on the file says that its writer still runs.
///
/// # Errors
/// When what comes cannot be read; what cannot be written is dropped.
pub fn run(mut input: impl Read, log: &Path, max: u64) -> io::Result<()> {
    let mut file = Appended::open(log);
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = match input.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if file.as_ref().is_some_and(|f| f.len + read as u64 > max && f.len > 0) {
            let full = file.take();
            if std::fs::rename(log, rotated(log)).is_err() {
                let _ = full.map(|f| f.file.set_len(0));
            }
        }
        if file.is_none() {
            file = Appended::open(log);
        }
        if let Some(open) = &mut file {
            match open.file.write_all(&bytes[..read]) {
                Ok(()) => open.len += read as u64,
                // Tried again with what comes next.
                Err(_) => file = None,
            }
        }
    }
}

struct Appended {
    file: File,
    len: u64,
}

impl Appended {
    fn open(log: &Path) -> Option<Self> {
        crate::store::disk::create_dir(log.parent()?).ok()?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(log).ok()?;
        // One that an earlier session's writer still holds is no reason to write nothing.
        let _ = file.try_lock();
        let len = file.metadata().ok()?.len();
        Some(Appended { file, len })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;

    /// Gives its pieces one by one.
    struct Pieces(Vec<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            to[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn pieces(n: u8) -> Pieces {
        Pieces((0..n).map(|i| vec![b'a' + i; 10]).collect())
    }

    #[test]
    fn the_newest_bytes_are_kept_in_two_files_of_limited_size() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("panes/echo-a.log");
        run(pieces(8), &log, 30).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{}{}", "g".repeat(10), "h".repeat(10)));
        assert_eq!(std::fs::read_to_string(rotated(&log)).unwrap(), ["d", "e", "f"].map(|c| c.repeat(10)).concat());
        // A piece above the limit is not lost, and the next session goes on in the same file.
        run(Pieces(vec![vec![b'x'; 50]]), &log, 30).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "x".repeat(50));
        run(pieces(1), &log, 100).unwrap();
        assert_eq!(std::fs::read(&log).unwrap().len(), 60);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&log).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_written_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("panes/echo-a.log");
        std::fs::create_dir_all(&log).unwrap();
        run(pieces(8), &log, 30).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        let link = dir.path().join("panes/echo-b.log");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        run(pieces(8), &link, 30).unwrap();
        assert!(!elsewhere.exists(), "no link is followed");
    }

    #[test]
    fn a_log_that_was_taken_away_is_begun_again_at_the_next_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("echo-a.log");
        struct Remover(u8, PathBuf);
        impl Read for Remover {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                if self.0 == 2 {
                    std::fs::remove_file(&self.1).unwrap();
                }
                self.0 += 1;
                to[..10].fill(b'y');
                Ok(if self.0 > 6 { 0 } else { 10 })
            }
        }
        run(Remover(0, log.clone()), &log, 30).unwrap();
        assert!(log.exists());
    }
}
