//! tmux's client protocol as bytes: what a one-shot client says, and what a server may answer it.
//!
//! Pure. Every message is a header of four words in the machine's byte order (kind, length with the
//! header, protocol version, pid) and a payload. A malformed message kills servers up to 3.5a, so the
//! bytes are held by tests against those of the real client; anything unexpected in an answer is an
//! error, never a guess.

use std::collections::BTreeMap;

const VERSION: u32 = 8;
const HEADER: usize = 16;
/// Longest message, header included.
const MAX: usize = 16_384;
/// Most bytes of a text in one message.
pub const CHUNK: usize = MAX - HEADER - 4;
/// What the real client puts in the header's last word.
const NO_PID: u32 = u32::MAX;
/// The client reads UTF-8. Nothing else is ever set, above all not the control flag.
const UTF8: u64 = 0x1_0000;
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

mod kind {
    pub const IDENTIFY_TERM: u32 = 101;
    pub const IDENTIFY_TTYNAME: u32 = 102;
    pub const IDENTIFY_DONE: u32 = 106;
    pub const IDENTIFY_CLIENTPID: u32 = 107;
    pub const IDENTIFY_CWD: u32 = 108;
    pub const IDENTIFY_FEATURES: u32 = 109;
    pub const IDENTIFY_LONGFLAGS: u32 = 111;
    pub const COMMAND: u32 = 200;
    pub const EXIT: u32 = 203;
    pub const READ_OPEN: u32 = 300;
    pub const READ: u32 = 301;
    pub const READ_DONE: u32 = 302;
    pub const WRITE_OPEN: u32 = 303;
    pub const WRITE: u32 = 304;
    pub const WRITE_READY: u32 = 305;
    pub const WRITE_CLOSE: u32 = 306;
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    #[error("the command list does not fit in one message, or holds a NUL byte")]
    Unsendable,
    #[error("a message of kind {kind} with version {version} and {length} bytes is none of tmux's")]
    Header { kind: u32, version: u32, length: u32 },
    #[error("unexpected message of kind {0}")]
    Unexpected(u32),
}

fn put(bytes: &mut Vec<u8>, kind: u32, payload: &[&[u8]]) {
    let length = HEADER + payload.iter().map(|p| p.len()).sum::<usize>();
    debug_assert!(length <= MAX, "{kind}: {length}");
    for word in [kind, length as u32, VERSION, NO_PID] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    payload.iter().for_each(|part| bytes.extend_from_slice(part));
}

fn two(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// Who we are: a client without a terminal that reads UTF-8. No descriptor is passed.
fn identify(bytes: &mut Vec<u8>, pid: u32) {
    put(bytes, kind::IDENTIFY_LONGFLAGS, &[&UTF8.to_ne_bytes()]);
    put(bytes, kind::IDENTIFY_TERM, &[b"xterm-256color\0"]);
    put(bytes, kind::IDENTIFY_FEATURES, &[&0u32.to_ne_bytes()]);
    // Left out, it crashes servers up to 3.6.
    put(bytes, kind::IDENTIFY_TTYNAME, &[b"\0"]);
    put(bytes, kind::IDENTIFY_CWD, &[b"/\0"]);
    put(bytes, kind::IDENTIFY_CLIENTPID, &[&pid.to_ne_bytes()]);
    put(bytes, kind::IDENTIFY_DONE, &[]);
}

fn command(bytes: &mut Vec<u8>, words: &[String]) -> Result<(), WireError> {
    let mut packed = (words.len() as u32).to_ne_bytes().to_vec();
    for word in words {
        packed.extend_from_slice(word.as_bytes());
        packed.push(0);
    }
    if words.is_empty() || packed.len() > MAX - HEADER || words.iter().any(|w| w.contains('\0')) {
        return Err(WireError::Unsendable);
    }
    put(bytes, kind::COMMAND, &[&packed]);
    Ok(())
}

/// What a server may say to a one-shot client.
#[derive(Debug, PartialEq, Eq)]
enum Reply<'a> {
    ReadOpen { stream: u32 },
    WriteOpen { stream: u32, fd: u32 },
    Write { stream: u32, data: &'a [u8] },
    WriteClose { stream: u32 },
    Exit(i32),
}

/// The first message of `bytes` and its length, when all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, WireError> {
    let word = |bytes: &[u8], n: usize| bytes.get(4 * n..4 * n + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let (Some(kind), Some(length), Some(version), Some(_)) = (word(bytes, 0), word(bytes, 1), word(bytes, 2), word(bytes, 3)) else { return Ok(None) };
    let size = length as usize;
    if version != VERSION || !(HEADER..=MAX).contains(&size) {
        return Err(WireError::Header { kind, version, length });
    }
    let Some(payload) = bytes.get(HEADER..size) else { return Ok(None) };
    let reply = match (kind, word(payload, 0), word(payload, 1), payload.len()) {
        (kind::READ_OPEN, Some(stream), Some(STDIN), _) if &payload[8..] == b"-\0" => Reply::ReadOpen { stream },
        (kind::WRITE_OPEN, Some(stream), Some(fd @ (STDOUT | STDERR)), 12) => Reply::WriteOpen { stream, fd },
        (kind::WRITE, Some(stream), _, _) => Reply::Write { stream, data: &payload[4..] },
        (kind::WRITE_CLOSE, Some(stream), _, 4) => Reply::WriteClose { stream },
        (kind::EXIT, Some(code), _, 4) => Reply::Exit(code as i32),
        _ => return Err(WireError::Unexpected(kind)),
    };
    Ok(Some((reply, size)))
}

/// One command list and its answer, from the first byte to the exit code. Whoever carries the bytes sends
/// `pending`, tells what was `sent`, and hands over what was `received`.
pub struct Exchange<'a> {
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    /// The text for standard input, until it is asked for.
    text: Option<&'a [u8]>,
    /// The stream that asked, and what it has not got yet.
    feeding: Option<(u32, &'a [u8])>,
    /// Open streams, and whether each is standard output or standard error.
    streams: BTreeMap<u32, u32>,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

impl<'a> Exchange<'a> {
    pub fn new(pid: u32, words: &[String], text: Option<&'a str>) -> Result<Self, WireError> {
        let mut outgoing = Vec::new();
        identify(&mut outgoing, pid);
        command(&mut outgoing, words)?;
        let text = text.map(str::as_bytes);
        Ok(Exchange { outgoing, sent: 0, incoming: Vec::new(), text, feeding: None, streams: BTreeMap::new(), out: Vec::new(), err: Vec::new() })
    }

    /// What is to be sent next. Empty: nothing before the next answer.
    pub fn pending(&mut self) -> &[u8] {
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
            if let Some((stream, text)) = self.feeding.take() {
                self.feed(stream, text);
            }
        }
        &self.outgoing[self.sent..]
    }

    /// The next piece of the text, or its end.
    fn feed(&mut self, stream: u32, text: &'a [u8]) {
        let (chunk, rest) = text.split_at(text.len().min(CHUNK));
        if !chunk.is_empty() {
            put(&mut self.outgoing, kind::READ, &[&stream.to_ne_bytes(), chunk]);
        }
        if rest.is_empty() {
            put(&mut self.outgoing, kind::READ_DONE, &[&two(stream, 0)]);
        } else {
            self.feeding = Some((stream, rest));
        }
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// Takes what the server sent; the exit code when it is complete.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Option<i32>, WireError> {
        self.incoming.extend_from_slice(bytes);
        let mut at = 0;
        let mut exit = None;
        while let (None, Some((reply, size))) = (exit, parse(&self.incoming[at..])?) {
            let unexpected = |kind| Err(WireError::Unexpected(kind));
            match reply {
                Reply::ReadOpen { stream } => match self.text.take() {
                    Some(text) => self.feeding = Some((stream, text)),
                    None => return unexpected(kind::READ_OPEN),
                },
                Reply::WriteOpen { stream, fd } => {
                    if self.streams.insert(stream, fd).is_some() {
                        return unexpected(kind::WRITE_OPEN);
                    }
                    put(&mut self.outgoing, kind::WRITE_READY, &[&two(stream, 0)]);
                }
                Reply::Write { stream, data } => match self.streams.get(&stream) {
                    Some(&STDOUT) => self.out.extend_from_slice(data),
                    Some(_) => self.err.extend_from_slice(data),
                    None => return unexpected(kind::WRITE),
                },
                Reply::WriteClose { stream } => {
                    if self.streams.remove(&stream).is_none() {
                        return unexpected(kind::WRITE_CLOSE);
                    }
                }
                Reply::Exit(code) => exit = Some(code),
            }
            at += size;
        }
        self.incoming.drain(..at);
        Ok(exit)
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    /// Bytes written as in a trace of the real client: `\x` and two digits each.
    fn bytes(trace: &str) -> Vec<u8> {
        trace.split("\\x").filter_map(|d| u8::from_str_radix(d.trim(), 16).ok()).collect()
    }
    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| w.to_string()).collect()
    }

    #[test]
    fn a_client_introduces_itself_as_the_real_one_does() {
        let mut said = Vec::new();
        identify(&mut said, 0x1471);
        // From a trace of tmux 3.3a; the working directory is `/`.
        let longflags = r"\x6f\x00\x00\x00\x18\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x00\x00\x01\x00\x00\x00\x00\x00";
        let term = r"\x65\x00\x00\x00\x1f\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x78\x74\x65\x72\x6d\x2d\x32\x35\x36\x63\x6f\x6c\x6f\x72\x00";
        let features = r"\x6d\x00\x00\x00\x14\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00";
        let ttyname = r"\x66\x00\x00\x00\x11\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x00";
        let cwd = r"\x6c\x00\x00\x00\x12\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x2f\x00";
        let pid = r"\x6b\x00\x00\x00\x14\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x71\x14\x00\x00";
        let done = r"\x6a\x00\x00\x00\x10\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff";
        assert_eq!(said, [longflags, term, features, ttyname, cwd, pid, done].map(bytes).concat());
    }

    #[test]
    fn a_list_is_packed_as_the_real_client_packs_it() {
        let mut said = Vec::new();
        command(&mut said, &words(&["load-buffer", "-b", "m", "-", ";", "display-message", "-p", "hi;x"])).unwrap();
        let golden = r"\xc8\x00\x00\x00\x41\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x08\x00\x00\x00\x6c\x6f\x61\x64\x2d\x62\x75\x66\x66\x65\x72\x00\x2d\x62\x00\x6d\x00\x2d\x00\x3b\x00\x64\x69\x73\x70\x6c\x61\x79\x2d\x6d\x65\x73\x73\x61\x67\x65\x00\x2d\x70\x00\x68\x69\x3b\x78\x00";
        assert_eq!(said, bytes(golden));
        assert_eq!(command(&mut said, &words(&["a\0b"])), Err(WireError::Unsendable));
        assert_eq!(command(&mut said, &[]), Err(WireError::Unsendable));
        assert_eq!(command(&mut said, &["x".repeat(MAX - HEADER - 4)]), Err(WireError::Unsendable));
        assert_eq!(command(&mut said, &["x".repeat(MAX - HEADER - 5)]), Ok(()));
    }

    const READ_OPEN: &str = r"\x2c\x01\x00\x00\x1a\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x03\x00\x00\x00\x00\x00\x00\x00\x2d\x00";
    const WRITE_OPEN: &str = r"\x2f\x01\x00\x00\x1c\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00";
    const ERROR_OPEN: &str = r"\x2f\x01\x00\x00\x1c\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x02\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00";
    const WRITE: &str = r"\x30\x01\x00\x00\x19\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x01\x00\x00\x00\x68\x69\x3b\x78\x0a";
    const ERROR: &str = r"\x30\x01\x00\x00\x17\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x02\x00\x00\x00\x62\x61\x64";
    const EXIT_0: &str = r"\xcb\x00\x00\x00\x14\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00";
    const EXIT_1: &str = r"\xcb\x00\x00\x00\x14\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x01\x00\x00\x00";

    fn exchange(text: Option<&str>) -> Exchange<'_> {
        let mut exchange = Exchange::new(1, &words(&["x"]), text).unwrap();
        assert!(exchange.pending().ends_with(b"\x01\0\0\0x\0"));
        exchange.sent(exchange.outgoing.len());
        assert!(exchange.pending().is_empty());
        exchange
    }
    fn all_pending(exchange: &mut Exchange) -> Vec<u8> {
        let mut all = Vec::new();
        while let pending @ [_, ..] = exchange.pending() {
            let some = pending.len().min(7_000);
            all.extend_from_slice(&pending[..some]);
            exchange.sent(some);
        }
        all
    }

    #[test]
    fn a_text_goes_out_when_it_is_asked_for() {
        let mut asked = exchange(Some("abc"));
        assert_eq!(asked.received(&bytes(READ_OPEN)), Ok(None));
        let data = r"\x2d\x01\x00\x00\x17\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x03\x00\x00\x00\x61\x62\x63";
        let done = r"\x2e\x01\x00\x00\x18\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x03\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(all_pending(&mut asked), [data, done].map(bytes).concat());
        assert_eq!(asked.received(&bytes(READ_OPEN)), Err(WireError::Unexpected(kind::READ_OPEN)), "asked for twice");
        assert_eq!(exchange(None).received(&bytes(READ_OPEN)), Err(WireError::Unexpected(kind::READ_OPEN)), "there is none");
        let mut empty = exchange(Some(""));
        empty.received(&bytes(READ_OPEN)).unwrap();
        assert_eq!(all_pending(&mut empty), bytes(done));
    }

    #[test]
    fn a_large_text_is_cut_into_full_messages() {
        let text = "x".repeat(2 * CHUNK + 1);
        let mut exchange = exchange(Some(&text));
        exchange.received(&bytes(READ_OPEN)).unwrap();
        let sent = all_pending(&mut exchange);
        let lengths: Vec<u32> = [0, MAX, 2 * MAX].map(|at| u32::from_ne_bytes(sent[at + 4..at + 8].try_into().unwrap())).into();
        assert_eq!(lengths, [MAX as u32, MAX as u32, 21]);
        assert_eq!(sent.len(), 2 * MAX + 21 + 24);
    }

    #[test]
    fn an_answer_is_put_together_from_any_pieces() {
        let answer = [WRITE_OPEN, WRITE, ERROR_OPEN, ERROR, WRITE, EXIT_1].map(bytes).concat();
        for piece in 1..answer.len() {
            let mut exchange = exchange(None);
            let exits: Vec<_> = answer.chunks(piece).filter_map(|part| exchange.received(part).unwrap()).collect();
            assert_eq!((exits, &*exchange.out, &*exchange.err), (vec![1], &b"hi;x\nhi;x\n"[..], &b"bad"[..]));
            let ready = r"\x31\x01\x00\x00\x18\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00";
            assert!(all_pending(&mut exchange).starts_with(&bytes(ready)));
        }
        assert_eq!(exchange(None).received(&bytes(EXIT_0)), Ok(Some(0)));
    }

    #[test]
    fn what_is_not_expected_is_an_error() {
        let with = |trace: &str, at: usize, byte: u8| {
            let mut changed = bytes(trace);
            changed[at] = byte;
            exchange(Some("t")).received(&changed)
        };
        assert!(matches!(with(EXIT_0, 8, 7), Err(WireError::Header { version: 7, .. })), "another protocol");
        assert!(matches!(with(EXIT_0, 4, 15), Err(WireError::Header { length: 15, .. })), "shorter than a header");
        assert!(matches!(with(EXIT_0, 6, 1), Err(WireError::Header { .. })), "a passed descriptor");
        assert_eq!(with(EXIT_0, 0, 0xcf), Err(WireError::Unexpected(207)), "told to attach");
        assert_eq!(with(EXIT_0, 4, 16), Err(WireError::Unexpected(203)), "no exit code");
        assert_eq!(with(READ_OPEN, 20, 3), Err(WireError::Unexpected(300)), "another descriptor");
        assert_eq!(with(READ_OPEN, 24, b'/'), Err(WireError::Unexpected(300)), "a file of ours");
        assert_eq!(with(WRITE_OPEN, 20, 3), Err(WireError::Unexpected(303)), "neither output nor error");
        assert_eq!(exchange(None).received(&bytes(WRITE)), Err(WireError::Unexpected(304)), "a stream that was not opened");
        assert_eq!(exchange(None).received(&[WRITE_OPEN, WRITE_OPEN].map(bytes).concat()), Err(WireError::Unexpected(303)), "opened twice");
        for length in 0..HEADER {
            assert_eq!(exchange(None).received(&bytes(EXIT_0)[..length]), Ok(None));
        }
    }

    use proptest::prelude::*;
    proptest! {
        #[test]
        fn no_answer_breaks_the_parser(noise in proptest::collection::vec(any::<u8>(), 0..200), kind in 100u32..310, length in 0u32..80) {
            let _ = exchange(Some("t")).received(&noise);
            let framed: Vec<u8> = [kind, length, VERSION, NO_PID].iter().flat_map(|w| w.to_ne_bytes()).chain(noise).collect();
            let _ = exchange(Some("t")).received(&framed);
        }
    }
}
