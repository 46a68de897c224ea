//! The reference tables of `docs/` against the code: neither may know a word that the other lacks.

use crate::directions::{code_of, sources};
use iapeer::core::fault::Code;
use iapeer::core::message::Hold;
use iapeer::daemon::logs::LIFECYCLE_EVENTS;
use std::collections::{BTreeMap, BTreeSet};

/// The event of `delivery.log`; all others but the next belong to `lifecycle.log`.
const DELIVERY: &str = "delivery";
/// The event of `exits.log`.
const EXIT: &str = "exit";

fn page(name: &str) -> String {
    let path = format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Rows of the table whose heading begins with these words, cells trimmed and without backticks.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let start = text.lines().position(|l| l.starts_with(heading)).unwrap_or_else(|| panic!("no table {heading:?}"));
    let rows = text.lines().skip(start + 2).take_while(|l| l.starts_with('|'));
    rows.map(|row| row.replace("\\|", "/").trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_string()).collect()).collect()
}

#[test]
fn the_table_of_errors_is_the_table_of_the_code() {
    let rows = table(&page("errors.md"), "| code | HTTP | exit | retryable |");
    let told: Vec<_> = rows.iter().map(|r| (r[0].clone(), r[1].clone(), r[2].clone(), r[3].clone(), r[4].clone())).collect();
    let is: Vec<_> = Code::ALL
        .iter()
        .map(|c| {
            (c.word().to_string(), c.status().to_string(), c.exit().to_string(), if c.retryable() { "yes" } else { "no" }.to_string(), c.meaning().to_string())
        })
        .collect();
    assert_eq!(told, is, "docs/errors.md and core::fault differ");
    for row in rows {
        assert!(row.len() == 6 && !row[5].is_empty(), "no way out is told for {}", row[0]);
    }
}

/// Events and the fields that the code gives them: `Line::new("x")`, and the shorthand `line("x")`.
fn events_in_source() -> BTreeMap<String, BTreeSet<String>> {
    let start = regex::Regex::new(r#"\b(?:Line::new|line)\("([a-z-]+)"\)"#).unwrap();
    let field = regex::Regex::new(r#"\.(?:with|maybe)\(\s*"([a-z_]+)""#).unwrap();
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in sources() {
        let code = code_of(&name, &text);
        for hit in start.captures_iter(&code) {
            let rest = &code[hit.get(0).unwrap().end()..];
            // The chain of this line ends with its statement, or with the next arm of a match.
            let end = [";", "\n        Effect::", "\n    }"].iter().filter_map(|stop| rest.find(stop)).min().unwrap_or(rest.len());
            let fields = events.entry(hit[1].to_string()).or_default();
            fields.extend(field.captures_iter(&rest[..end]).map(|f| f[1].to_string()));
        }
    }
    events
}

#[test]
fn the_lifecycle_events_are_documented_and_no_other() {
    let told: BTreeSet<String> = table(&page("logs.md"), "| ev | fields |").into_iter().map(|r| r[0].clone()).collect();
    let is: BTreeSet<String> = LIFECYCLE_EVENTS.iter().map(|e| e.to_string()).collect();
    assert_eq!(told, is, "docs/logs.md and daemon::logs differ");
    assert_eq!(LIFECYCLE_EVENTS.len(), is.len(), "an event is listed twice");
}

#[test]
fn the_code_writes_no_event_outside_the_closed_list() {
    let found = events_in_source();
    for event in ["wake", "notice", "daemon-start", "held", "death", DELIVERY, EXIT] {
        assert!(found.contains_key(event), "the search misses {event}: {found:?}");
    }
    let strange: Vec<_> = found.keys().filter(|e| *e != DELIVERY && *e != EXIT && !LIFECYCLE_EVENTS.contains(&e.as_str())).collect();
    assert!(strange.is_empty(), "not in LIFECYCLE_EVENTS: {strange:?}");
    // Orders name their event at run time.
    let verb = regex::Regex::new(r#"Effect::Order \{ verb: "([a-z-]+)""#).unwrap();
    for (name, text) in sources() {
        for hit in verb.captures_iter(&text) {
            assert!(LIFECYCLE_EVENTS.contains(&&hit[1]), "src/{name}: {}", &hit[1]);
        }
    }
}

#[test]
fn every_field_that_the_code_writes_is_documented_with_its_event() {
    let page = page("logs.md");
    let mut told: BTreeMap<String, String> = table(&page, "| ev | fields |").into_iter().map(|r| (r[0].clone(), r[1].clone())).collect();
    for (event, heading) in [(DELIVERY, "| field | meaning |"), (EXIT, "| of `exit` | meaning |")] {
        told.insert(event.into(), table(&page, heading).into_iter().map(|r| r[0].clone()).collect::<Vec<_>>().join(" "));
    }
    for (event, fields) in events_in_source() {
        let documented = told.get(&event).unwrap_or_else(|| panic!("{event} is not documented"));
        for field in fields.iter().filter(|f| *f != "identity") {
            assert!(
                documented.split(|c: char| !c.is_ascii_lowercase() && c != '_').any(|w| w == field),
                "{event}: the field {field} is not documented ({documented})"
            );
        }
    }
}

#[test]
fn every_hold_reason_is_documented() {
    let told: BTreeSet<String> = table(&page("logs.md"), "| reason | it waits for |").into_iter().map(|r| r[0].clone()).collect();
    let source = sources().into_iter().find(|(name, _)| name == "core/message.rs").unwrap().1;
    let words: BTreeSet<String> = regex::Regex::new(r#"Hold::[A-Za-z]+ => "([a-z-]+)""#).unwrap().captures_iter(&source).map(|c| c[1].to_string()).collect();
    assert!(words.contains(Hold::CrashLoop.word()), "the search misses the hold reasons: {words:?}");
    assert_eq!(told, words, "docs/logs.md and core::message::Hold differ");
}

#[test]
fn the_example_of_the_log_page_is_logfmt() {
    let page = page("logs.md");
    let example: Vec<&str> = page.lines().filter(|l| l.starts_with("ts=")).collect();
    assert!(example.len() >= 5, "the page shows no example");
    let shape = regex::Regex::new(r#"^ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ev=[a-z-]+( [a-z_]+=("([^"\\]|\\.)*"|[^\s"=]+))*$"#).unwrap();
    for line in example {
        assert!(shape.is_match(line), "{line}");
        let event = line.split("ev=").nth(1).unwrap().split(' ').next().unwrap();
        assert!(event == DELIVERY || LIFECYCLE_EVENTS.contains(&event), "{line}");
    }
}
