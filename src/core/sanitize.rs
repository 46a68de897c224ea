//! What may reach a terminal.
//!
//! A message body is data: it can end no paste frame and press no key. Forbidden code points are
//! *replaced*, never deleted, because deleting lets nested markers form a new marker.

/// Makes a body safe to paste: CRLF and CR become LF; every C0 control except TAB and LF, DEL, every
/// C1 control and every invalid UTF-8 sequence becomes U+FFFD.
pub fn body(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    // Most bodies need nothing.
    if !text.chars().any(|c| is_control(c) && c != '\t' && c != '\n') {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {
                if chars.peek() == Some(&'\n') {
                    chars.next();
                }
                out.push('\n');
            }
            '\t' | '\n' => out.push(c),
            c if is_control(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Makes text safe to show on one line of a person's terminal: every control becomes U+FFFD, TAB and
/// LF a space.
pub fn line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' | '\n' | '\r' => ' ',
            c if is_control(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// C0, DEL and C1.
pub fn is_control(c: char) -> bool {
    (c as u32) < 0x20 || (0x7f..=0x9f).contains(&(c as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_paste_end_marker_cannot_survive() {
        assert_eq!(body(b"a\x1b[201~\rtouch pwned\r\n"), "a\u{fffd}[201~\ntouch pwned\n");
        assert_eq!(body("x\u{9b}201~".as_bytes()), "x\u{fffd}201~");
        assert_eq!(body(b"bad \xff utf8 \x7f"), "bad \u{fffd} utf8 \u{fffd}");
        assert_eq!(body(b"tab\tand\nlf stay"), "tab\tand\nlf stay");
    }

    proptest! {
        #[test]
        fn no_forbidden_code_point_survives(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
            let clean = body(&raw);
            prop_assert!(clean.chars().all(|c| c == '\t' || c == '\n' || !is_control(c)));
            prop_assert_eq!(body(clean.as_bytes()), clean.clone(), "sanitising twice changes nothing");
        }
    }
}
