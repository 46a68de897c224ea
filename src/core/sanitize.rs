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

/// Shown by nothing, and left out by some programs: what stands around it is read as if it were not there.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Replaces a text also where invisible characters stand in it.
pub fn replace_seen(text: &str, find: &str, with: &str) -> String {
    let mut wanted = find.chars();
    let Some(first) = wanted.next() else { return text.to_string() };
    if !text.chars().any(is_invisible) {
        return text.replace(find, with);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let behind = &rest[c.len_utf8()..];
        let end = if c == first { wanted.clone().try_fold(behind, |left, want| left.trim_start_matches(is_invisible).strip_prefix(want)) } else { None };
        match end {
            Some(left) => {
                out += with;
                rest = left;
            }
            None => {
                out.push(c);
                rest = behind;
            }
        }
    }
    out
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
    fn what_nobody_sees_hides_nothing() {
        assert_eq!(replace_seen("an ultra\u{200b}co\u{2060}de and ultra code", "ultracode", "ultra-code"), "an ultra-code and ultra code");
        assert_eq!(replace_seen("a\u{feff}b@c", "@", "\\@"), "a\u{feff}b\\@c");
        assert_eq!(replace_seen("aab\u{200b}", "ab", "x"), "ax\u{200b}");
        assert_eq!(replace_seen("no such", "x", "y"), "no such");
    }

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
