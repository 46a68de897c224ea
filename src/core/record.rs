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

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(flatten)]
    message: Message,
    len: usize,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        s.push(char::from_digit(u32::from(b >> 4), 16).unwrap_or('0'));
        s.push(char::from_digit(u32::from(b & 15), 16).unwrap_or('0'));
        s
    })
}

pub fn encode(message: &Message) -> Vec<u8> {
    let header = Header { message: message.clone_without_body(), len: message.body.len() };
    let header = serde_json::to_string(&header).unwrap_or_default();
    let mut out = Vec::with_capacity(MAGIC.len() + header.len() + message.body.len() + 80);
    out.extend_from_slice(MAGIC.as_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(b"\n\n");
    out.extend_from_slice(&message.body);
    let sum = hex(&Sha256::digest(&out));
    out.extend_from_slice(format!("\nend {sum}\n").as_bytes());
    out
}

pub fn decode(bytes: &[u8]) -> Result<Message, RecordError> {
    let text_start = bytes.iter().position(|b| *b == b'\n').map(|p| p + 1).ok_or(RecordError::NotARecord)?;
    let first = std::str::from_utf8(&bytes[..text_start]).map_err(|_| RecordError::NotARecord)?;
    if first != MAGIC {
        return Err(match first.trim_end().strip_prefix(MAGIC_STEM) {
            Some(v) => RecordError::Version(v.chars().take(20).collect()),
            None => RecordError::NotARecord,
        });
    }
    let rest = &bytes[text_start..];
    let line = rest.iter().position(|b| *b == b'\n').ok_or(RecordError::Truncated { have: bytes.len(), want: bytes.len() + 1 })?;
    let header: Header = serde_json::from_slice(&rest[..line]).map_err(|e| RecordError::Header(e.to_string()))?;
    let body_start = text_start + line + 2;
    let body_end = body_start.saturating_add(header.len);
    let want = body_end.saturating_add("\nend ".len() + 64 + 1);
    if bytes.len() < want {
        return Err(RecordError::Truncated { have: bytes.len(), want });
    }
    if rest.get(line + 1) != Some(&b'\n') || bytes.len() != want {
        return Err(RecordError::NoEnd);
    }
    let end = format!("\nend {}\n", hex(&Sha256::digest(&bytes[..body_end])));
    let tail = &bytes[body_end..];
    if !tail.starts_with(b"\nend ") {
        return Err(RecordError::NoEnd);
    }
    if tail != end.as_bytes() {
        return Err(RecordError::Checksum);
    }
    let mut message = header.message;
    message.body = bytes[body_start..body_end].to_vec();
    Ok(message)
}

/// Reads only the header, from the first bytes of a record, and the length the whole record must have.
pub fn peek(prefix: &[u8]) -> Result<(Message, u64), RecordError> {
    let Some(rest) = prefix.strip_prefix(MAGIC.as_bytes()) else {
        return Err(decode(prefix).err().unwrap_or(RecordError::NotARecord));
    };
    let line = rest.iter().position(|b| *b == b'\n').ok_or(RecordError::Truncated { have: prefix.len(), want: prefix.len() + 1 })?;
    let header: Header = serde_json::from_slice(&rest[..line]).map_err(|e| RecordError::Header(e.to_string()))?;
    let len = MAGIC.len() + line + 2 + header.len + "\nend ".len() + 64 + 1;
    Ok((header.message, len as u64))
}

impl Message {
    fn clone_without_body(&self) -> Message {
        Message {
            body: Vec::new(),
            id: self.id.clone(),
            from: self.from.clone(),
            via: self.via.clone(),
            to: self.to.clone(),
            topic: self.topic.clone(),
            in_reply_to: self.in_reply_to.clone(),
            sent: self.sent.clone(),
            fence: self.fence.clone(),
            ..*self
        }
    }
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
