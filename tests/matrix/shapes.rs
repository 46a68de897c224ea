//! The columns: what is sent, and what must arrive.

use iapeer::core::runtime::{Change, Definition};

pub struct Shape {
    pub name: &'static str,
    pub bodies: Vec<String>,
}

/// Largest body that is accepted.
const MIB: usize = 1024 * 1024;
const RAPID: usize = 50;

pub fn all() -> Vec<Shape> {
    let one = |name, body: &str| Shape { name, bodies: vec![body.into()] };
    let lines: String = (0..20).map(|n| format!("line {n}: name.ext, tab\there, @here.\n")).collect();
    vec![
        one("short", "hello"),
        one("20 lines", &lines),
        one("unicode", "é ü ß — 漢字 かな 🦀 👩‍👩‍👧 e\u{301} \u{202e}rtl\u{202c} אב"),
        one("trailing ;", "echo a;"),
        one("leading -", "-rf --help"),
        one("shell", "$(touch pwned) `touch pwned` 'single' \"double\" \\ #{pane_id} #(touch pwned) ${HOME} %1 && || > x"),
        one("ESC[201~", "x\u{1b}[201~\rtouch pwned\r\n\u{9b}201~\u{0}\u{7f}"),
        one("/", "/quit"),
        one("!", "!touch pwned"),
        one("#", "#remember this"),
        one("@", "@secret.txt"),
        Shape { name: "50 rapid", bodies: (0..RAPID).map(|n| format!("message {n}")).collect() },
        one("1 MiB", &"0123456789abcde\n".repeat(MIB / 16)),
    ]
}

/// What the sanitiser promises, written down a second time.
pub fn sanitised(body: &str) -> String {
    let text = body.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().map(|c| if c.is_control() && c != '\t' && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// The body as the agent must have it: sanitised, envelope tags escaped, and changed as its definition declares.
pub fn expected(definition: &Definition, body: &str) -> String {
    let tags = regex::Regex::new("<(/*)(?i:iap)").unwrap();
    let text = tags.replace_all(&sanitised(body), |c: &regex::Captures<'_>| format!("&lt;{}", &c[0][1..])).into_owned();
    let text = definition.input.neutralise.iter().fold(text, |t, rule| t.replace(&rule.find, &rule.replace));
    definition.input.changes.iter().fold(text, |text, change| match change {
        Change::TabToFourSpaces => text.replace('\t', "    "),
        Change::DropZeroWidth => text.replace(['\u{200b}', '\u{feff}'], ""),
        Change::DropBidi => text.replace(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'), ""),
        // The one of the shapes.
        Change::ComposeAccents => text.replace("e\u{301}", "é"),
        Change::LineSeparatorToLf => text.replace('\u{2028}', "\n"),
        // Around the envelope, not in it.
        Change::WrapLongPaste | Change::TrimOuterSpace => text,
    })
}
