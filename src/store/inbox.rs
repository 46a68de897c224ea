//! Files that travel with a message: a copy, named by its content, in the recipient's inbox.
//!
//! A copy is complete and synced before its message is accepted. Only the copy's path travels.

use super::disk::create_dir;
use crate::core::limits::Limits;
use crate::core::message::Attachment;
use crate::core::record::hex;
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Longest part of a file's own name in the name of its copy.
const NAME_CHARS: usize = 80;

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("{}: {why}", path.display())]
    Bad { path: PathBuf, why: String },
    #[error("{}: {why}", path.display())]
    TooLarge { path: PathBuf, why: String },
    #[error("{}: {source}", path.display())]
    Keep { path: PathBuf, source: io::Error },
}

/// A file that a sender wants to send, opened and found fit.
pub struct Source {
    path: PathBuf,
    file: File,
}

/// Opens a file to be sent. `within`: the folder that the sender may take files from, all of them for
/// the operator.
pub fn open(path: &Path, within: Option<&Path>, limits: &Limits) -> Result<Source, AttachError> {
    let bad = |why: String| AttachError::Bad { path: path.into(), why };
    if !path.is_absolute() {
        return Err(bad("not an absolute path".into()));
    }
    // Where it really lies decides, and that very place is opened.
    let real = path.canonicalize().map_err(|e| bad(e.to_string()))?;
    if let Some(folder) = within {
        let folder = folder.canonicalize().map_err(|e| bad(format!("the sender's folder {}: {e}", folder.display())))?;
        if !real.starts_with(&folder) {
            return Err(bad(format!("a peer may attach only files in its own folder ({})", folder.display())));
        }
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&real).map_err(|e| bad(e.to_string()))?;
    let meta = file.metadata().map_err(|e| bad(e.to_string()))?;
    if !meta.is_file() {
        return Err(bad("not a regular file".into()));
    }
    let cap = limits.attachment_mib * 1024 * 1024;
    if meta.len() > cap {
        return Err(AttachError::TooLarge {
            path: path.into(),
            why: format!("{} bytes, the limit is {} MiB (limits.attachment_mib)", meta.len(), limits.attachment_mib),
        });
    }
    Ok(Source { path: real, file })
}

/// Makes an inbox where there is none. What leads somewhere else (a link that came with a project) is none: files
/// would be written, and old ones removed, where nobody has asked for it.
pub fn ensure(inbox: &Path) -> io::Result<()> {
    if let Some(above) = inbox.parent().filter(|dir| dir.symlink_metadata().is_ok()) {
        own_dir(above)?;
    }
    create_dir(inbox)?;
    own_dir(inbox)
}

fn own_dir(dir: &Path) -> io::Result<()> {
    if dir.symlink_metadata()?.is_dir() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no directory of its own", dir.display())))
    }
}

/// Copies a file into an inbox, unless the same content lies there already.
pub fn copy(source: &mut Source, inbox: &Path, limits: &Limits, now: SystemTime) -> Result<Attachment, AttachError> {
    let path = source.path.clone();
    let keep = |source: io::Error| AttachError::Keep { path: inbox.into(), source };
    ensure(inbox).map_err(keep)?;
    let temp = inbox.join(format!(".{}.tmp", uuid::Uuid::now_v7()));
    let copied = write_copy(source, &temp, limits);
    let finished = copied.and_then(|(sha256, bytes)| {
        let used: u64 = files(inbox).iter().filter(|(p, _)| *p != temp).map(|(_, m)| m.len()).sum();
        let name: String = path.file_name().unwrap_or_default().to_string_lossy().chars().map(safe).take(NAME_CHARS).collect();
        let kept = inbox.join(format!("{}-{name}", &sha256[..16]));
        let there = kept.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == bytes);
        if there {
            // It is new again: the time that it is kept begins now.
            let touched = OpenOptions::new().append(true).open(&kept).and_then(|f| f.set_modified(now));
            touched.and_then(|()| fs::remove_file(&temp)).map_err(keep)?;
        } else if used + bytes > limits.inbox_mib * 1024 * 1024 {
            let why = format!("the recipient's inbox would hold {} bytes, the limit is {} MiB (limits.inbox_mib)", used + bytes, limits.inbox_mib);
            return Err(AttachError::TooLarge { path: path.clone(), why });
        } else {
            fs::rename(&temp, &kept).and_then(|()| File::open(inbox)?.sync_all()).map_err(keep)?;
        }
        Ok(Attachment { path: kept.to_string_lossy().into_owned(), sha256, bytes })
    });
    if finished.is_err() {
        let _ = fs::remove_file(&temp);
    }
    finished
}

fn write_copy(source: &mut Source, temp: &Path, limits: &Limits) -> Result<(String, u64), AttachError> {
    use std::io::Seek;
    let bad = |source_path: &Path, e: io::Error| AttachError::Bad { path: source_path.into(), why: e.to_string() };
    let keep = |source: io::Error| AttachError::Keep { path: temp.into(), source };
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temp).map_err(keep)?;
    source.file.rewind().map_err(|e| bad(&source.path, e))?;
    let cap = limits.attachment_mib * 1024 * 1024;
    let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0; 64 * 1024]);
    loop {
        let n = source.file.read(&mut buffer).map_err(|e| bad(&source.path, e))?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        if bytes > cap {
            return Err(AttachError::TooLarge { path: source.path.clone(), why: "grew over the limit while it was read".into() });
        }
        sum.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(keep)?;
    }
    out.sync_data().map_err(keep)?;
    Ok((hex(&sum.finalize()), bytes))
}

fn safe(c: char) -> char {
    if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }
}

fn files(inbox: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let entries = fs::read_dir(inbox).into_iter().flatten().flatten();
    entries.filter_map(|e| Some((e.path(), e.path().symlink_metadata().ok()?))).filter(|(_, m)| m.is_file()).collect()
}

/// A name that a copy, a large body, or one of them half written, has got from us.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let copy = name.split_once('-').is_some_and(|(sum, _)| sum.len() == 16 && sum.bytes().all(|b| b.is_ascii_hexdigit()));
    let id = name.strip_suffix(".txt").or_else(|| name.strip_prefix('.')?.strip_suffix(".tmp"));
    copy || id.is_some_and(|id| uuid::Uuid::try_parse(id).is_ok())
}

/// Removes what is older than `days` and not needed by waiting mail.
pub fn prune(inbox: &Path, days: u64, pending: &HashSet<PathBuf>, now: SystemTime) {
    if ensure(inbox).is_err() {
        return;
    }
    let age = Duration::from_secs(days * 86_400);
    for (path, meta) in files(inbox) {
        let old = meta.modified().ok().and_then(|m| now.duration_since(m).ok()).is_some_and(|e| e > age);
        if old && is_ours(&path) && !pending.contains(&path) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old attachment could not be removed");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { attachment_mib: 1, inbox_mib: 2, ..Limits::default() }
    }

    #[test]
    fn a_copy_is_named_by_its_content_and_kept_once() {
        let dir = tempfile::tempdir().unwrap();
        let (file, inbox) = (dir.path().join("plan $(x).txt"), dir.path().join("inbox"));
        fs::write(&file, "content").unwrap();
        let first = copy(&mut open(&file, None, &limits()).unwrap(), &inbox, &limits(), SystemTime::now()).unwrap();
        let again = copy(&mut open(&file, None, &limits()).unwrap(), &inbox, &limits(), SystemTime::now()).unwrap();
        assert_eq!(first, again);
        assert!(first.path.ends_with("-plan___x_.txt") && first.bytes == 7, "{first:?}");
        assert_eq!(fs::read(&first.path).unwrap(), b"content");
        assert_eq!(files(&inbox).len(), 1, "no temporary file is left");
    }

    #[test]
    fn what_is_no_file_or_not_the_senders_is_refused_before_anything_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        fs::write(own.join("fine"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), own.join("link")).unwrap();
        nix::unistd::mkfifo(&own.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = |path: &Path| matches!(open(path, Some(&own), &limits()), Err(AttachError::Bad { .. }));
        for path in [dir.path().join("secret"), own.join("link"), own.join("../secret"), own.join("fifo"), own.join("none"), own.clone(), "fine".into()] {
            assert!(refused(&path), "{path:?}");
        }
        assert!(open(&own.join("fine"), Some(&own), &limits()).is_ok());
        assert!(open(&own.join("link"), None, &limits()).is_ok(), "the operator may follow links");
    }

    #[test]
    fn the_size_of_a_file_and_of_an_inbox_is_limited_and_old_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = dir.path().join("inbox");
        let make = |name: &str, bytes: usize| {
            fs::write(dir.path().join(name), vec![name.as_bytes()[0]; bytes]).unwrap();
            open(&dir.path().join(name), None, &limits())
        };
        assert!(matches!(make("large", 1024 * 1024 + 1), Err(AttachError::TooLarge { .. })));
        for name in ["a", "b"] {
            copy(&mut make(name, 1024 * 1024).unwrap(), &inbox, &limits(), SystemTime::now()).unwrap();
        }
        assert!(matches!(copy(&mut make("c", 1).unwrap(), &inbox, &limits(), SystemTime::now()), Err(AttachError::TooLarge { .. })));
        let kept: Vec<PathBuf> = files(&inbox).into_iter().map(|(p, _)| p).collect();
        assert_eq!(kept.len(), 2, "nothing is left of the refused one");
        for path in &kept {
            let long_ago = SystemTime::now() - Duration::from_secs(40 * 86_400);
            OpenOptions::new().append(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        prune(&inbox, 30, &HashSet::from([kept[0].clone()]), SystemTime::now());
        assert_eq!(files(&inbox).into_iter().map(|(p, _)| p).collect::<Vec<_>>(), [kept[0].clone()], "pending mail keeps its file");
    }
}
