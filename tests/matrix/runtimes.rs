//! The rows' agents: `echo`, the profiles of the fake agent, and real programs.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What stands behind a runtime, and so how it is steered and where its truth lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Echo,
    Fake,
    /// Only inside the sandbox of `tests/runtimes`, against the mock model server.
    Real,
}

#[derive(Debug, Clone)]
pub struct Runtime {
    pub name: &'static str,
    pub kind: Kind,
    /// For the page: how it behaves.
    pub note: &'static str,
    profile: fn() -> Value,
    settle_ms: u64,
    max_bytes: usize,
    evidence: &'static str,
}

const INLINE: usize = 4 * 1024 * 1024;
const AS_FILE: usize = 262_144;
const BOTH: &str = "[hook, transcript]";

fn fake(name: &'static str, note: &'static str, profile: fn() -> Value) -> Runtime {
    Runtime { name, kind: Kind::Fake, note, profile, settle_ms: 0, max_bytes: AS_FILE, evidence: BOTH }
}

fn real(name: &'static str, note: &'static str) -> Runtime {
    Runtime { kind: Kind::Real, ..fake(name, note, || json!({})) }
}

pub fn all() -> Vec<Runtime> {
    vec![
        Runtime { kind: Kind::Echo, ..fake("echo", "the embedded agent", || json!({})) },
        Runtime { max_bytes: INLINE, ..fake("plain", "a fake agent without vices; 1 MiB is pasted inline", || json!({})) },
        Runtime { max_bytes: INLINE, ..fake("collapse", "a paste of more than 5 lines collapses to a placeholder", || json!({"collapse_lines": 5})) },
        Runtime {
            settle_ms: 150,
            ..fake(
                "slow",
                "input counts 700 ms after the start; an Enter within 100 ms of a paste is swallowed",
                || json!({"start_settle_ms": 700, "paste_settle_ms": 100}),
            )
        },
        fake("swallow", "swallows the first Enter after the start, and after every paste", || json!({"swallow_first": 1, "swallow_after_paste": 1})),
        Runtime { settle_ms: 90, ..fake("burst", "an Enter within 60 ms of a paste is a line feed", || json!({"burst_ms": 60})) },
        fake("ghost", "a faint suggestion in the empty composer", || json!({"ghost": "try \"write a test\""})),
        fake("lag", "the screen shows a change 80 ms late", || json!({"redraw_ms": 80})),
        fake("bare", "no bracketed paste", || json!({"bracketed": false})),
        Runtime {
            evidence: "[transcript]",
            ..fake(
                "late",
                "no hook but that of the start; transcript 150 ms late, each record in two pieces",
                || json!({"hooks": "start", "transcript_delay_ms": 150, "transcript_split": true}),
            )
        },
        Runtime { evidence: "[hook]", ..fake("hooked", "hooks, no transcript", || json!({"transcript": false})) },
        Runtime {
            evidence: "[]",
            ..fake("blind", "neither hooks nor transcript: `entered` is the most that is claimed", || json!({"hooks": "none", "transcript": false}))
        },
        fake("asking", "a yes/no dialog 0 to 60 ms after every paste; Enter is consent", || json!({"dialog_after_paste_ms": [0, 60]})),
        fake("stubborn", "ignores TERM; loses what is entered during a turn", || json!({"ignore_term": true, "while_busy": "lose"})),
        real("claude", "Claude Code against a mock model server"),
        real("codex", "Codex CLI against a mock model server"),
    ]
}

impl Runtime {
    pub fn has_evidence(&self) -> bool {
        self.evidence != "[]"
    }

    /// The definition, for fake agents.
    pub fn define(&self, root: &Path) {
        if self.kind != Kind::Fake {
            return;
        }
        let text = include_str!("../fake/runtime.yaml")
            .replace("PROGRAM", &fake_agent().to_string_lossy())
            .replace("NAME", self.name)
            .replace("SETTLE", &self.settle_ms.to_string())
            .replace("MAX_BYTES", &self.max_bytes.to_string())
            .replace("EVIDENCE", self.evidence);
        std::fs::write(root.join("runtimes").join(format!("{}.yaml", self.name)), text).unwrap();
    }

    /// The profile of the fake agent; every one of them opens pickers.
    pub fn profile(&self, gated: bool) -> Value {
        let mut profile = (self.profile)();
        profile["picker"] = json!(true);
        profile["start_gated"] = json!(gated);
        profile
    }
}

/// Built by cargo together with this test.
fn fake_agent() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_iapeer")).with_file_name("examples/fake-agent");
    assert!(path.exists(), "{} is missing: cargo build --example fake-agent", path.display());
    path
}
