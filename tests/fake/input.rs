//! Bytes of the terminal as keys. A bracketed paste is one key, whatever it holds.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Text as it was typed, or pasted without brackets.
    Text(Vec<u8>),
    Paste(Vec<u8>),
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C, Ctrl-U: the composer is cleared.
    Clear,
    Other,
}

const PASTE_START: &[u8] = b"\x1b[200~";
const PASTE_END: &[u8] = b"\x1b[201~";

#[derive(Default)]
pub struct Parser {
    pending: Vec<u8>,
    paste: Option<Vec<u8>>,
}

impl Parser {
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some(key) = self.next() {
            keys.push(key);
        }
        keys
    }

    /// Nothing more came: a lone ESC was the key.
    pub fn settle(&mut self) -> Option<Key> {
        (self.paste.is_none() && self.pending == [0x1b]).then(|| {
            self.pending.clear();
            Key::Escape
        })
    }

    pub fn waits_for_more(&self) -> bool {
        self.paste.is_none() && !self.pending.is_empty()
    }

    fn next(&mut self) -> Option<Key> {
        if let Some(mut paste) = self.paste.take() {
            match find(&self.pending, PASTE_END) {
                Some(at) => {
                    paste.extend(self.pending.drain(..at));
                    self.pending.drain(..PASTE_END.len());
                    return Some(Key::Paste(paste));
                }
                None => {
                    // What may be the beginning of the end mark stays.
                    let keep = self.pending.len().saturating_sub(PASTE_END.len() - 1);
                    paste.extend(self.pending.drain(..keep));
                    self.paste = Some(paste);
                    return None;
                }
            }
        }
        let first = *self.pending.first()?;
        let (key, len) = match first {
            0x1b => return self.escape(),
            b'\r' => (Key::Enter, 1),
            0x7f | 0x08 => (Key::Backspace, 1),
            0x03 | 0x15 => (Key::Clear, 1),
            b'\n' | b'\t' | 0x20.. => {
                let text = |b: &u8| matches!(b, b'\n' | b'\t') || (*b >= 0x20 && *b != 0x7f);
                let len = self.pending.iter().position(|b| !text(b)).unwrap_or(self.pending.len());
                (Key::Text(self.pending[..len].to_vec()), len)
            }
            _ => (Key::Other, 1),
        };
        self.pending.drain(..len);
        Some(key)
    }

    fn escape(&mut self) -> Option<Key> {
        if self.pending.starts_with(PASTE_START) {
            self.pending.drain(..PASTE_START.len());
            self.paste = Some(Vec::new());
            return self.next();
        }
        if self.pending.len() == 1 || PASTE_START.starts_with(&self.pending) {
            return None;
        }
        let (key, end) = match self.pending[1] {
            b'[' | b'O' => (Key::Other, self.pending.iter().skip(2).position(|b| (0x40..=0x7e).contains(b))? + 3),
            _ => (Key::Escape, 1),
        };
        self.pending.drain(..end);
        Some(key)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}
