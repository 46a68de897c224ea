//! A log of the journal as bytes: whole blocks, the first one its head, then entries one after the other.
//!
//! A block that was synced is never written again before the log is begun anew, so a power cut can only take
//! the entry that was being written. Beginning anew is a new epoch in the head: entries of another epoch are
//! what is left of earlier times.

use crate::core::record::{frame, unframe};
use serde::{Deserialize, Serialize};

pub const BLOCK: usize = 4096;
/// In front of an entry: the length of its frame, little-endian.
const LENGTH: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub epoch: u64,
    /// The boot and the mount in which it was begun.
    pub boot: String,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    epoch: u64,
    /// Before these files were kept, from where to where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moved: Vec<(String, String)>,
    /// Paths, and the length of each file.
    files: Vec<(String, usize)>,
}

/// What was done to a mailbox. Paths are below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Kept {
        path: String,
        bytes: Vec<u8>,
    },
    /// A record that had ended was moved away.
    Moved {
        from: String,
        to: String,
    },
}

/// What a log holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    pub head: Head,
    /// In the order in which they were done.
    pub steps: Vec<Step>,
    /// Where the next entry goes.
    pub end: usize,
}

fn blocks(framed: &[u8]) -> Vec<u8> {
    let mut bytes = (framed.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(framed);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// The first block of a log.
pub fn head(head: &Head) -> Vec<u8> {
    blocks(&frame(head, &[]))
}

pub fn entry(epoch: u64, moved: &[(String, String)], files: &[(&str, &[u8])]) -> Vec<u8> {
    let meta = Meta { epoch, moved: moved.to_vec(), files: files.iter().map(|(path, bytes)| (path.to_string(), bytes.len())).collect() };
    let body: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    blocks(&frame(&meta, &body))
}

/// The frame at an offset, and where the blocks that it fills end.
fn framed(log: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let begin = at.checked_add(LENGTH)?;
    let length = u64::from_le_bytes(log.get(at..begin)?.try_into().ok()?);
    let end = begin.checked_add(usize::try_from(length).ok()?)?;
    Some((log.get(begin..end)?, end.next_multiple_of(BLOCK)))
}

/// The latest epoch of anything in a log whose head cannot be read.
pub fn latest(log: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Any {
        epoch: u64,
    }
    let frames = (0..log.len()).step_by(BLOCK).filter_map(|at| framed(log, at));
    frames.filter_map(|(bytes, _)| unframe::<Any>(bytes).ok()).map(|(any, _)| any.epoch).max().unwrap_or(0)
}

/// Everything up to the first thing that is no whole entry of this epoch; `None` without a head.
pub fn read(log: &[u8]) -> Option<Content> {
    let (bytes, mut end) = framed(log, 0)?;
    let (head, _): (Head, _) = unframe(bytes).ok()?;
    let mut steps = Vec::new();
    while let Some((bytes, next)) = framed(log, end) {
        let Ok((meta, mut body)) = unframe::<Meta>(bytes) else { break };
        if meta.epoch != head.epoch {
            break;
        }
        steps.extend(meta.moved.into_iter().map(|(from, to)| Step::Moved { from, to }));
        for (path, length) in meta.files {
            let Some((file, rest)) = body.split_at_checked(length) else { break };
            steps.push(Step::Kept { path, bytes: file.to_vec() });
            body = rest;
        }
        end = next;
    }
    Some(Content { head, steps, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = head(&Head { epoch: 3, boot: "b".into() });
        entries.iter().for_each(|e| bytes.extend_from_slice(e));
        bytes.resize(16 * BLOCK, 0);
        bytes
    }

    fn told(log: &[u8]) -> Vec<String> {
        let tell = |step| match step {
            Step::Kept { path, bytes } => format!("{path} {}", bytes.len()),
            Step::Moved { from, to } => format!("{from} > {to}"),
        };
        read(log).unwrap().steps.into_iter().map(tell).collect()
    }

    #[test]
    fn entries_are_read_in_their_order_up_to_the_first_that_is_not_whole() {
        let large = vec![7; 2 * BLOCK];
        let moved = [("a/cur/0".to_string(), "a/done/0".to_string())];
        let entries = [entry(3, &[], &[("a/new/1", b"one"), ("b/new/2", b"")]), entry(3, &moved, &[("a/cur/1", &large)]), entry(3, &[], &[("c", b"three")])];
        let whole = log(&entries);
        assert_eq!(told(&whole), ["a/new/1 3", "b/new/2 0", "a/cur/0 > a/done/0", "a/cur/1 8192", "c 5"]);
        assert_eq!(read(&whole).map(|c| (c.head.epoch, c.end)), Some((3, (1 + 1 + 3 + 1) * BLOCK)));
        for damage in [2 * BLOCK, 3 * BLOCK + 5, 2 * BLOCK + 9] {
            let mut bytes = whole.clone();
            bytes[damage] ^= 1;
            assert_eq!((told(&bytes).len(), read(&bytes).unwrap().end), (2, 2 * BLOCK), "{damage}");
        }
    }

    #[test]
    fn what_is_left_of_an_earlier_epoch_is_not_there() {
        let bytes = log(&[entry(3, &[], &[("a", b"now")]), entry(2, &[], &[("b", b"then")]), entry(3, &[], &[("c", b"then, by chance")])]);
        assert_eq!(told(&bytes), ["a 3"]);
        assert_eq!((latest(&bytes), latest(&bytes[BLOCK..]), latest(b"")), (3, 3, 0));
    }

    #[test]
    fn noise_is_no_log_and_a_length_out_of_reach_no_entry() {
        assert_eq!(read(b""), None);
        assert_eq!(read(&vec![0xff; 4 * BLOCK]), None);
        assert_eq!(read(&vec![0; 4 * BLOCK]), None);
        let mut bytes = log(&[]);
        bytes[BLOCK..BLOCK + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(told(&bytes), [""; 0]);
    }
}
