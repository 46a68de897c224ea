//! The envelope: what the recipient reads.
//!
//! Attributes are set only here, from the record. The body is fenced with a random word that it does
//! not contain, and tags that look like an envelope are escaped, so that no body can forge a sender.

use super::limits::FILE_BODY_PREVIEW_CHARS;
use super::message::{Message, MessageId};
use super::sanitize;

/// Random bytes needed for one fence.
pub const FENCE_LEN: usize = 6;

/// A fence word from random bytes: letters and digits that no program gives a meaning.
pub fn fence_word(random: &[u8; FENCE_LEN]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()
}

/// Whether a fence may close this body.
pub fn fence_fits(fence: &str, body: &[u8]) -> bool {
    !String::from_utf8_lossy(body).contains(fence)
}

/// How a body travels.
pub enum Carriage<'a> {
    Inline,
    /// Too large for the composer: it lies in the recipient's inbox.
    File {
        path: &'a str,
    },
}

/// Renders a message as the recipient reads it. `attempt` above 1 says `redelivered`.
pub fn render(message: &Message, attempt: u32, carriage: Carriage<'_>) -> String {
    let mut head = format!("<iap id=\"{}\" from=\"{}\" intelligence=\"{}\"", message.id, message.from, message.intelligence.word());
    if let Some(topic) = &message.topic {
        head += &format!(" topic=\"{}\"", attribute(topic));
    }
    if let Some(id) = &message.in_reply_to {
        head += &format!(" in_reply_to=\"{id}\"");
    }
    if attempt > 1 {
        head += &format!(" redelivered=\"{attempt}\"");
    }
    head += &format!(" ts=\"{}\"", attribute(&message.sent));
    if !message.attachments.is_empty() {
        let paths: Vec<&str> = message.attachments.iter().map(|a| a.path.as_str()).collect();
        head += &format!(" attachments=\"{}\"", attribute(&paths.join(" ")));
    }
    let clean = sanitize::body(&message.body);
    let body = match carriage {
        Carriage::Inline => escape_tags(&clean),
        Carriage::File { path } => {
            head += &format!(" file=\"{}\"", attribute(path));
            let preview: String = clean.chars().take(FILE_BODY_PREVIEW_CHARS).collect();
            format!("{}\n[{} bytes in all: the whole text is in the file named above]", escape_tags(&preview), clean.len())
        }
    };
    format!("{head} fence=\"{fence}\">\n{body}\n</iap:{fence}>", fence = message.fence)
}

/// Escapes what could be read as an envelope of its own.
fn escape_tags(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        out += before;
        // As it is read where what nobody sees is left out.
        let name = tag[1..].chars().filter(|c| !sanitize::is_invisible(*c)).skip_while(|c| *c == '/').take(3);
        let envelope = name.collect::<String>().eq_ignore_ascii_case("iap");
        out += if envelope { "&lt;" } else { "<" };
        rest = &tag[1..];
    }
    out + rest
}

fn attribute(value: &str) -> String {
    sanitize::line(value).replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The ids of all envelopes in a text that an agent program reports as a prompt.
pub fn ids_in(text: &str) -> Vec<MessageId> {
    text.split("<iap id=\"").skip(1).filter_map(|rest| rest.get(..36)?.parse().ok()).collect()
}

/// The seed of a fresh session and its first task, as one message.
pub fn with_seed(seed: Option<&str>, rendered: String) -> String {
    match seed.map(str::trim_end).filter(|s| !s.is_empty()) {
        Some(seed) => format!("{}\n\n{rendered}", sanitize::body(seed.as_bytes())),
        None => rendered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::tests::sample;
    use proptest::prelude::*;

    #[test]
    fn a_tag_is_seen_behind_what_nobody_sees() {
        assert_eq!(
            escape_tags("<\u{200b}iap id=\"x\"> </\u{feff}IAP:y> <i\u{2060}ap> <imap>"),
            "&lt;\u{200b}iap id=\"x\"> &lt;/\u{feff}IAP:y> &lt;i\u{2060}ap> <imap>"
        );
    }

    #[test]
    fn the_envelope_reads_as_documented() {
        let mut m = sample(b"hello @x");
        m.in_reply_to = Some(m.id.clone());
        assert_eq!(
            render(&m, 2, Carriage::Inline),
            "<iap id=\"0199a0b0-0000-7000-8000-000000000001\" from=\"claude-boris\" intelligence=\"artificial\" \
             topic=\"release &quot;1&quot;\" in_reply_to=\"0199a0b0-0000-7000-8000-000000000001\" redelivered=\"2\" \
             ts=\"2026-11-21T10:02:03+01:00\" fence=\"k3v9q2\">\nhello @x\n</iap:k3v9q2>"
        );
    }

    #[test]
    fn a_large_body_travels_as_a_file() {
        let mut m = sample("é".repeat(5000).as_bytes());
        m.topic = None;
        let text = render(&m, 1, Carriage::File { path: "/p/.iapeer/inbox/x.txt" });
        assert!(text.contains("file=\"/p/.iapeer/inbox/x.txt\""));
        assert!(text.contains("[10000 bytes in all"));
        assert!(text.chars().count() < 2400);
    }

    proptest! {
        #[test]
        fn no_body_forges_an_envelope(body in "(<|/|iap|IAP| id=\"|0199a0b0-0000-7000-8000-00000000000f|\"|>|:|k3v9q|&lt;|\n|x){0,40}") {
            let m = sample(body.as_bytes());
            prop_assume!(fence_fits(&m.fence, &m.body));
            let text = render(&m, 1, Carriage::Inline);
            prop_assert_eq!(ids_in(&text), vec![m.id.clone()]);
            prop_assert_eq!(text.matches("<iap").count(), 1);
            prop_assert_eq!(text.matches("</iap").count(), 1);
            prop_assert!(text.ends_with("\n</iap:k3v9q2>"));
        }

        #[test]
        fn ordinary_bodies_are_untouched(body in "[a-z <>/&;\"'$()\n-]{0,60}") {
            prop_assume!(!body.contains("iap"));
            let m = sample(body.as_bytes());
            let text = render(&m, 1, Carriage::Inline);
            let inner = text.split_once(">\n").unwrap().1.strip_suffix("\n</iap:k3v9q2>").unwrap();
            prop_assert_eq!(inner, body);
        }
    }
}
