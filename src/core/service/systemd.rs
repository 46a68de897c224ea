//! The user unit of systemd.

use super::{MARK, Place, State, Unit, WATCHDOG_SECS, Words, words};

/// # Errors
/// systemd takes no program whose path holds a quote or a backslash, however it is written.
pub fn render(unit: &Unit, name: &str) -> Result<String, String> {
    let program = program(&unit.executable)?;
    let environment: String = unit.environment().iter().map(|(name, value)| format!("Environment={}\n", quoted(&format!("{name}={value}")))).collect();
    let root = unit.root.replace('%', "%%");
    Ok(format!(
        "\
# This file was {MARK}, which writes it again; changes belong into a drop-in: systemctl --user edit {name}
[Unit]
Description=iapeer daemon ({root})
# Tried for as long as it takes: what keeps it from starting is mended by a person.
StartLimitIntervalSec=0

[Service]
# Active once it serves and has taken every running session over.
Type=notify
NotifyAccess=main
ExecStart={program} daemon
{environment}\
Restart=always
RestartSec=2
TimeoutStartSec=300
TimeoutStopSec=90
# A daemon that gives no sign of life for so long is hung, and replaced.
WatchdogSec={WATCHDOG_SECS}
# Only the daemon is signalled: the sessions, in the same control group, go on.
KillMode=process
# An agent that ran out of memory is that peer's own matter.
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=65536

[Install]
WantedBy=default.target
"
    ))
}

/// The program of `ExecStart`. `%` begins a specifier there; `$` is nothing special in the first word.
fn program(path: &str) -> Result<String, String> {
    if path.contains(['"', '\'', '\\']) {
        return Err(format!("systemd runs no program whose path holds a quote or a backslash: {path}"));
    }
    let escaped = path.replace('%', "%%");
    Ok(if path.contains(char::is_whitespace) || path.contains(';') { format!("\"{escaped}\"") } else { escaped })
}

/// A word of `Environment`: C escapes inside quotes, `%` doubled; `$` is nothing special there.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

fn systemctl(verb: &str, place: &Place) -> Words {
    words(&format!("systemctl --user {verb}"), &[&place.unit()])
}

pub fn reload() -> Vec<Words> {
    vec![words("systemctl --user daemon-reload", &[])]
}

pub fn install(place: &Place, state: &State, changed: bool) -> Vec<Words> {
    let restart = (changed && *state == State::Active).then(|| systemctl("restart", place));
    [systemctl("enable --now", place)].into_iter().chain(restart).collect()
}

pub fn start(place: &Place) -> Vec<Words> {
    vec![systemctl("start", place)]
}

pub fn stop(place: &Place) -> Vec<Words> {
    vec![systemctl("stop", place)]
}

pub fn uninstall(place: &Place) -> Vec<Words> {
    vec![systemctl("disable --now", place)]
}

pub fn ask(place: &Place) -> Words {
    systemctl("is-active", place)
}

/// `is-active` prints a word whenever it could ask, and fails for all but `active`.
pub fn understand(success: bool, out: &str, err: &str) -> State {
    match out.trim() {
        "active" if success => State::Active,
        "" => State::Unknown(err.trim().to_string()),
        word => State::Inactive(word.to_string()),
    }
}
