//! The byte format of a message record (`state/README.md`, section "Message record").
//!
//! ```text
//! iapeer-message 1\n
//! {"id":…,"len":…}\n          one line of JSON: the header
//! \n
//! <len bytes of body, as sent>
//! \nend <sha256 of everything before this line's LF, hex>\n
//! ```
//!
//! A record whose length, end mark or checksum does not fit is not a message: it is quarantined whole.

use super::message::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The first line of every record of this format version.
pub const MAGIC: &str = "iapeer-message 1\n";
const MAGIC_STEM: &str = "iapeer-message ";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("not a message record (its first line is not \"iapeer-message N\")")]
    NotARecord,
    #[error("format version {0}, this program reads version 1")]
    Version(String),
    #[error("the header does not parse: {0}")]
    Header(String),
    #[error("truncated: {have} bytes of {want}")]
    Truncated { have: usize, want: usize },
    #[error("no end mark where the header says that the body ends")]
    NoEnd,
    #[error("the checksum does not fit: the record was damaged")]
    Checksum,
}

/// A header line: what is kept, and the length of its body.
#[derive(Serialize, Deserialize)]
struct Header<T> {
    #[serde(flatten)]
    what: T,
    len: usize,
}

/// Larger than any record of ours.
pub const RECORD_CAP: u64 = 64 * 1024 * 1024;

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        s.push(char::from_digit(u32::from(b >> 4), 16).unwrap_or('0'));
        s.push(char::from_digit(u32::from(b & 15), 16).unwrap_or('0'));
        s
    })
}

pub fn encode(message: &Message) -> Vec<u8> {
    frame(message, &message.body)
}

pub fn decode(bytes: &[u8]) -> Result<Message, RecordError> {
    let (message, body): (Message, _) = unframe(bytes)?;
    Ok(Message { body: body.to_vec(), ..message })
}

/// Puts a header and a body into the frame that shows every damage.
pub fn frame<T: Serialize>(what: &T, body: &[u8]) -> Vec<u8> {
    let header = serde_json::to_string(&Header { what, len: body.len() }).unwrap_or_default();
    let mut out = Vec::with_capacity(MAGIC.len() + header.len() + body.len() + 80);
    out.extend_from_slice(MAGIC.as_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(b"\n\n");
    out.extend_from_slice(body);
    let sum = hex(&Sha256::digest(&out));
    out.extend_from_slice(format!("\nend {sum}\n").as_bytes());
    out
}

pub fn unframe<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), RecordError> {
    let (header, body_start) = header::<T>(bytes)?;
    let body_end = body_start.saturating_add(header.len);
    let want = body_end.saturating_add(END_BYTES);
    if bytes.len() < want {
        return Err(RecordError::Truncated { have: bytes.len(), want });
    }
    if bytes[body_start - 1] != b'\n' || bytes.len() != want {
        return Err(RecordError::NoEnd);
    }
    let tail = &bytes[body_end..];
    if !tail.starts_with(b"\nend ") {
        return Err(RecordError::NoEnd);
    }
    if tail != format!("\nend {}\n", hex(&Sha256::digest(&bytes[..body_end]))).as_bytes() {
        return Err(RecordError::Checksum);
    }
    Ok((header.what, &bytes[body_start..body_end]))
}

/// Bytes of the end mark.
const END_BYTES: usize = "\nend ".len() + 64 + 1;

/// The header, and where the body begins.
fn header<T: DeserializeOwned>(bytes: &[u8]) -> Result<(Header<T>, usize), RecordError> {
    let Some(rest) = bytes.strip_prefix(MAGIC.as_bytes()) else {
        let first = bytes.split(|b| *b == b'\n').next().and_then(|l| std::str::from_utf8(l).ok()).unwrap_or_default();
        let version = first.strip_prefix(MAGIC_STEM).map(|v| v.chars().take(20).collect());
        return Err(version.map_or(RecordError::NotARecord, RecordError::Version));
    };
    let line = rest.iter().position(|b| *b == b'\n').ok_or(RecordError::Truncated { have: bytes.len(), want: bytes.len() + 1 })?;
    let header = serde_json::from_slice(&rest[..line]).map_err(|e| RecordError::Header(e.to_string()))?;
    Ok((header, MAGIC.len() + line + 2))
}

/// Reads only the header, from the first bytes of a record, and the length the whole record must have.
pub fn peek(prefix: &[u8]) -> Result<(Message, u64), RecordError> {
    let (header, body_start) = header::<Message>(prefix)?;
    Ok((header.what, (body_start + header.len + END_BYTES) as u64))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::core::names::Party;
    use proptest::prelude::*;

    pub fn sample(body: &[u8]) -> Message {
        Message {
            id: "0199a0b0-0000-7000-8000-000000000001".parse().unwrap(),
            seq: 42,
            from: "claude-boris".parse().unwrap(),
            intelligence: Default::default(),
            via: "cli".into(),
            to: Party::Peer("echo-ann".parse().unwrap()),
            topic: Some("release \"1\"".into()),
            in_reply_to: None,
            hops: 3,
            urgent: false,
            sent: "2026-11-21T10:02:03+01:00".into(),
            expires: Some(1_800_000_000),
            fence: "k3v9q2".into(),
            stamp: None,
            idempotency_key: None,
            raw: false,
            attachments: Vec::new(),
            body: body.to_vec(),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let m = sample(&body);
            prop_assert_eq!(decode(&encode(&m)).unwrap(), m);
        }

        #[test]
        fn every_truncation_and_every_flipped_byte_is_noticed(cut in 0usize..400, flip in 0usize..400, bit in 0u8..8) {
            let whole = encode(&sample(b"hello\nend of the world"));
            let cut = cut % whole.len();
            prop_assert!(decode(&whole[..cut]).is_err());
            let mut bent = whole.clone();
            let at = flip % whole.len();
            bent[at] ^= 1 << bit;
            prop_assert!(decode(&bent).is_err(), "byte {}", at);
        }
    }

    #[test]
    fn a_newer_format_says_its_version() {
        assert_eq!(decode(b"iapeer-message 9\n{}"), Err(RecordError::Version("9".into())));
        assert_eq!(decode(b"hello\n"), Err(RecordError::NotARecord));
    }
}
