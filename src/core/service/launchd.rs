//! The agent of launchd: a property list below `~/Library/LaunchAgents`.

use super::{MARK, Place, State, Unit, Words, words};

pub fn render(unit: &Unit, name: &str) -> String {
    let (name, program, log) = (escaped(name), escaped(&unit.executable), escaped(&unit.log));
    let environment: String =
        unit.environment().iter().map(|(name, value)| format!("        <key>{name}</key>\n        <string>{}</string>\n", escaped(value))).collect();
    format!(
        "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?><!-- This file was {MARK}, which writes it again. -->
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<plist version=\"1.0\">
<dict>
    <key>Label</key>
    <string>{name}</string>
    <key>ProgramArguments</key>
    <array>
        <string>{program}</string>
        <string>daemon</string>
    </array>
    <key>EnvironmentVariables</key>
    <dict>
{environment}    </dict>
    <key>RunAtLoad</key>
    <true/>
    <key>KeepAlive</key>
    <true/>
    <key>ThrottleInterval</key>
    <integer>10</integer>
    <key>ExitTimeOut</key>
    <integer>90</integer>
    <!-- Only the daemon is ended: the sessions go on. -->
    <key>AbandonProcessGroup</key>
    <true/>
    <key>SoftResourceLimits</key>
    <dict>
        <key>NumberOfFiles</key>
        <integer>10240</integer>
    </dict>
    <key>StandardOutPath</key>
    <string>{log}</string>
    <key>StandardErrorPath</key>
    <string>{log}</string>
</dict>
</plist>
"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&apos;")
}

fn domain(place: &Place) -> String {
    format!("gui/{}", place.uid)
}

fn target(place: &Place) -> String {
    format!("{}/{}", domain(place), place.name)
}

fn bootstrap(place: &Place) -> Words {
    words("launchctl bootstrap", &[&domain(place), &place.file.to_string_lossy()])
}

fn loaded(state: &State) -> bool {
    matches!(state, State::Active | State::Inactive(_))
}

pub fn install(place: &Place, state: &State, changed: bool) -> Vec<Words> {
    match (loaded(state), changed) {
        (true, true) => vec![words("launchctl bootout", &[&target(place)]), bootstrap(place)],
        (true, false) => start(place, state),
        // Somebody may have disabled it once; that outlives the file.
        (false, _) => vec![words("launchctl enable", &[&target(place)]), bootstrap(place)],
    }
}

pub fn start(place: &Place, state: &State) -> Vec<Words> {
    vec![if loaded(state) { words("launchctl kickstart", &[&target(place)]) } else { bootstrap(place) }]
}

/// One that is only stopped would be started again at once.
pub fn stop(place: &Place) -> Vec<Words> {
    vec![words("launchctl bootout", &[&target(place)])]
}

pub fn ask(place: &Place) -> Words {
    words("launchctl print", &[&target(place)])
}

/// `print` fails for what is not loaded.
pub fn understand(success: bool, out: &str) -> State {
    match success {
        false => State::Absent,
        true if out.lines().any(|l| l.trim() == "state = running") => State::Active,
        true => State::Inactive("loaded".into()),
    }
}
