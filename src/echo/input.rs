//! Bytes of the terminal as keys. A bracketed paste is one event, whatever it holds.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Paste(String),
    Enter,
    Newline,
    Backspace,
    Escape,
    Up,
    Down,
    Ctrl(char),
}

const PASTE_START: &[u8] = b"\x1b[200~";
const PASTE_END: &[u8] = b"\x1b[201~";

#[derive(Default)]
pub struct Parser {
    pending: Vec<u8>,
    paste: Option<Vec<u8>>,
}

impl Parser {
    /// Feeds bytes, returns the keys that are complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while self.step(&mut keys) {}
        keys
    }

    /// Nothing more came: a lone ESC was the key.
    pub fn settle(&mut self) -> Vec<Key> {
        if self.paste.is_none() && self.pending == [0x1b] {
            self.pending.clear();
            return vec![Key::Escape];
        }
        Vec::new()
    }

    pub fn waits_for_more(&self) -> bool {
        self.paste.is_none() && !self.pending.is_empty()
    }

    fn step(&mut self, keys: &mut Vec<Key>) -> bool {
        if let Some(paste) = &mut self.paste {
            match find(&self.pending, PASTE_END) {
                Some(at) => {
                    paste.extend(self.pending.drain(..at));
                    self.pending.drain(..PASTE_END.len());
                    keys.push(Key::Paste(String::from_utf8_lossy(paste).into_owned()));
                    self.paste = None;
                    return true;
                }
                None => {
                    // Keep what may be the beginning of the end mark.
                    let keep = self.pending.len().saturating_sub(PASTE_END.len() - 1);
                    paste.extend(self.pending.drain(..keep));
                    return false;
                }
            }
        }
        let Some(first) = self.pending.first().copied() else { return false };
        if first == 0x1b {
            return self.escape(keys);
        }
        let (key, len) = match first {
            b'\r' => (Some(Key::Enter), 1),
            b'\n' => (Some(Key::Newline), 1),
            0x7f | 0x08 => (Some(Key::Backspace), 1),
            b'\t' => (Some(Key::Char('\t')), 1),
            c @ 1..=26 => (Some(Key::Ctrl(char::from(c - 1 + b'a'))), 1),
            c if c < 0x20 => (None, 1),
            c => {
                let len = match c {
                    0xc0..=0xdf => 2,
                    0xe0..=0xef => 3,
                    0xf0..=0xf7 => 4,
                    _ => 1,
                };
                if self.pending.len() < len {
                    return false;
                }
                (String::from_utf8_lossy(&self.pending[..len]).chars().next().map(Key::Char), len)
            }
        };
        self.pending.drain(..len);
        keys.extend(key);
        true
    }

    fn escape(&mut self, keys: &mut Vec<Key>) -> bool {
        if self.pending.starts_with(PASTE_START) {
            self.pending.drain(..PASTE_START.len());
            self.paste = Some(Vec::new());
            return true;
        }
        if self.pending.len() == 1 || (self.pending.len() < PASTE_START.len() && PASTE_START.starts_with(&self.pending)) {
            return false;
        }
        if self.pending[1] != b'[' && self.pending[1] != b'O' {
            self.pending.drain(..1);
            keys.push(Key::Escape);
            return true;
        }
        let Some(end) = self.pending.iter().skip(2).position(|b| (0x40..=0x7e).contains(b)).map(|p| p + 2) else { return false };
        match self.pending[end] {
            b'A' => keys.push(Key::Up),
            b'B' => keys.push(Key::Down),
            _ => {}
        }
        self.pending.drain(..=end);
        true
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paste_is_one_key_however_it_is_cut() {
        let bytes = "x\x1b[200~line 1\nline\r2 é\x1b[A\x1b[201~\r".as_bytes();
        let want = vec![Key::Char('x'), Key::Paste("line 1\nline\r2 é\x1b[A".into()), Key::Enter];
        for cut in 0..bytes.len() {
            let mut parser = Parser::default();
            let mut keys = parser.feed(&bytes[..cut]);
            keys.extend(parser.feed(&bytes[cut..]));
            assert_eq!(keys, want, "cut at {cut}");
        }
    }

    #[test]
    fn a_lone_escape_is_a_key_when_nothing_follows() {
        let mut parser = Parser::default();
        assert!(parser.feed(b"\x1b").is_empty());
        assert_eq!(parser.settle(), [Key::Escape]);
    }
}
