//! The units as they are written, and what their managers are told.

use super::*;

fn place(manager: Manager) -> Place {
    let file = match manager {
        Manager::Systemd => "/home/ann/.config/systemd/user/iapeer.service",
        Manager::Launchd => "/Users/ann/Library/LaunchAgents/iapeer.plist",
    };
    Place { manager, name: "iapeer".into(), file: file.into(), uid: 501 }
}

fn unit(executable: &str, root: &str, path: &str) -> Unit {
    let root = Path::new(root);
    Unit::new(Path::new(executable), root, None, path, &root.join("logs/daemon.log")).unwrap()
}

fn systemd(unit: &Unit) -> String {
    unit.render(&place(Manager::Systemd)).unwrap()
}

fn launchd(unit: &Unit) -> String {
    unit.render(&place(Manager::Launchd)).unwrap()
}

#[test]
fn the_systemd_unit_line_by_line() {
    let text = systemd(&unit("/usr/local/bin/iapeer", "/home/ann/.iapeer", "/usr/local/bin:/usr/bin"));
    let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let want = [
        "[Unit]",
        "Description=iapeer daemon (/home/ann/.iapeer)",
        "StartLimitIntervalSec=0",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        "ExecStart=/usr/local/bin/iapeer daemon",
        "Environment=\"IAPEER_ROOT=/home/ann/.iapeer\"",
        "Environment=\"PATH=/usr/local/bin:/usr/bin\"",
        "Restart=always",
        "RestartSec=2",
        "TimeoutStartSec=300",
        "TimeoutStopSec=90",
        "WatchdogSec=30",
        "KillMode=process",
        "OOMPolicy=continue",
        "TasksMax=infinity",
        "LimitNOFILE=65536",
        "[Install]",
        "WantedBy=default.target",
    ];
    assert_eq!(lines, want);
    assert!(is_ours(&text) && text.ends_with("default.target\n"));
}

#[test]
fn systemd_reads_every_path_as_it_is() {
    let text = systemd(&unit("/opt/my apps/100%/$HOME/iapeer", "/srv/a \"b\" 'c' 50% $x \\n é", "/x y/bin:/%h/bin"));
    assert!(text.contains("\nExecStart=\"/opt/my apps/100%%/$HOME/iapeer\" daemon\n"), "{text}");
    assert!(text.contains("\nEnvironment=\"IAPEER_ROOT=/srv/a \\\"b\\\" 'c' 50%% $x \\\\n é\"\n"), "{text}");
    assert!(text.contains("\nEnvironment=\"PATH=/x y/bin:/%%h/bin\"\n"), "{text}");
    assert!(text.contains("\nDescription=iapeer daemon (/srv/a \"b\" 'c' 50%% $x \\n é)\n"), "{text}");
    for quote in ['"', '\'', '\\'] {
        let error = unit(&format!("/a{quote}b/iapeer"), "/r", "").render(&place(Manager::Systemd)).unwrap_err();
        assert!(error.contains(&format!("/a{quote}b/iapeer")), "{error}");
    }
}

#[test]
fn the_launchd_list_says_what_must_hold() {
    let text = launchd(&unit("/opt/iapeer", "/Users/ann/.iapeer", "/usr/bin"));
    let flat: String = text.lines().map(str::trim).collect();
    for (key, value) in [
        ("Label", "<string>iapeer</string>"),
        ("ProgramArguments", "<array><string>/opt/iapeer</string><string>daemon</string></array>"),
        ("EnvironmentVariables", "<dict><key>IAPEER_ROOT</key><string>/Users/ann/.iapeer</string><key>PATH</key><string>/usr/bin</string></dict>"),
        ("RunAtLoad", "<true/>"),
        ("KeepAlive", "<true/>"),
        ("AbandonProcessGroup", "<true/>"),
        ("ThrottleInterval", "<integer>10</integer>"),
        ("StandardErrorPath", "<string>/Users/ann/.iapeer/logs/daemon.log</string>"),
    ] {
        assert!(flat.contains(&format!("<key>{key}</key>{value}")), "{key}: {text}");
    }
    assert!(is_ours(&text) && text.starts_with("<?xml "));
}

#[test]
fn xml_is_escaped() {
    let text = launchd(&unit("/a&b/<c>/iapeer", "/r\"o'o", "/&amp;"));
    assert!(text.contains("<string>/a&amp;b/&lt;c&gt;/iapeer</string>"), "{text}");
    assert!(text.contains("<string>/r&quot;o&apos;o</string>"), "{text}");
    assert!(text.contains("<string>/&amp;amp;</string>"), "{text}");
}

#[test]
fn what_no_unit_can_name_is_refused() {
    let root = Path::new("/r");
    let new = |executable: &Path| Unit::new(executable, root, None, "", root);
    assert!(new(Path::new("/a\nExecStart=/bin/evil")).unwrap_err().contains("control character"));
    assert!(new(Path::new("iapeer")).unwrap_err().contains("absolute"));
    let foreign: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"/a\xff");
    assert!(new(Path::new(foreign)).unwrap_err().contains("UTF-8"));
}

#[test]
fn path_keeps_its_order_without_doubles_and_relative_places() {
    let text = systemd(&unit("/i", "/r", "/b:/a:.::/b:bin:/c\n:/a/b"));
    assert!(text.contains("\"PATH=/b:/a:/a/b\""), "{text}");
}

#[test]
fn another_place_for_the_sockets_is_told_to_the_daemon() {
    let unit = Unit::new(Path::new("/i"), Path::new("/r"), Some(Path::new("/run/x")), "", Path::new("/l")).unwrap();
    assert!(systemd(&unit).contains("Environment=\"IAPEER_SOCK_DIR=/run/x\"\n"));
}

#[test]
fn two_roots_have_two_names() {
    let default = Some(Path::new("/home/ann/.iapeer"));
    let name = |root: &str| name_for(Path::new(root), default);
    assert_eq!(name("/home/ann/.iapeer"), "iapeer");
    assert_eq!(name("/home/ann/.iapeer/"), "iapeer");
    let work = name("/srv/My Work");
    assert!(work.starts_with("iapeer-my-work-") && work.len() == "iapeer-my-work-".len() + 8, "{work}");
    assert_eq!(work, name("/srv/My Work/"));
    assert_ne!(work, name("/opt/My Work"));
    // No name of a unit holds anything but these, whatever the root is called.
    for odd in ["/", "/é", "/%n@\"", "/-"] {
        let name = name(odd);
        assert!(name.starts_with("iapeer-") && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{odd}: {name}");
    }
}

#[test]
fn the_mark_counts_in_the_first_line_only() {
    assert!(!is_ours(""));
    assert!(!is_ours("[Unit]\n"));
    assert!(!is_ours(&format!("[Unit]\n# {MARK}\n")));
}

#[test]
fn differences_are_told_from_both_sides() {
    let here = systemd(&unit("/new/iapeer", "/r", "/bin"));
    assert!(differences(&here, &here).is_empty());
    let there = systemd(&unit("/old/iapeer", "/r", "/bin"));
    assert_eq!(differences(&there, &here), ["- ExecStart=/old/iapeer daemon", "+ ExecStart=/new/iapeer daemon"]);
    assert_eq!(differences(&format!("{here}\n"), &here).len(), 1);
}

fn told(commands: Vec<Words>) -> Vec<String> {
    commands.into_iter().map(|w| w.join(" ")).collect()
}

#[test]
fn systemd_is_told_little_and_a_changed_unit_is_restarted() {
    let place = place(Manager::Systemd);
    let idle = State::Inactive("inactive".into());
    assert_eq!(told(place.reload()), ["systemctl --user daemon-reload"]);
    let enable = "systemctl --user enable --now iapeer.service";
    assert_eq!(told(place.install(&idle, true)), [enable]);
    assert_eq!(told(place.install(&State::Active, false)), [enable]);
    assert_eq!(told(place.install(&State::Active, true)), [enable, "systemctl --user restart iapeer.service"]);
    assert_eq!(told(place.start(&idle)), ["systemctl --user start iapeer.service"]);
    assert_eq!(told(place.stop()), ["systemctl --user stop iapeer.service"]);
    assert_eq!(told(place.uninstall(&idle)), ["systemctl --user disable --now iapeer.service"]);
}

#[test]
fn launchd_is_told_by_what_it_knows() {
    let place = place(Manager::Launchd);
    let bootstrap = "launchctl bootstrap gui/501 /Users/ann/Library/LaunchAgents/iapeer.plist";
    let (bootout, kickstart) = ("launchctl bootout gui/501/iapeer", "launchctl kickstart gui/501/iapeer");
    let idle = State::Inactive("loaded".into());
    assert!(place.reload().is_empty());
    assert_eq!(told(place.install(&State::Absent, true)), ["launchctl enable gui/501/iapeer", bootstrap]);
    assert_eq!(told(place.install(&State::Active, true)), [bootout, bootstrap]);
    assert_eq!(told(place.install(&idle, false)), [kickstart]);
    assert_eq!(told(place.start(&State::Absent)), [bootstrap]);
    assert_eq!(told(place.start(&idle)), [kickstart]);
    assert_eq!(told(place.stop()), [bootout]);
    assert!(place.uninstall(&State::Absent).is_empty());
}

#[test]
fn answers_of_the_managers_are_understood() {
    let systemd = place(Manager::Systemd);
    assert_eq!(systemd.understand(true, "active\n", ""), State::Active);
    assert_eq!(systemd.understand(false, "activating\n", ""), State::Inactive("activating".into()));
    assert_eq!(systemd.understand(false, "", "Failed to connect to bus\n"), State::Unknown("Failed to connect to bus".into()));
    let launchd = place(Manager::Launchd);
    assert_eq!(launchd.understand(true, "gui/501/iapeer = {\n\tstate = running\n", ""), State::Active);
    assert_eq!(launchd.understand(true, "\tstate = not running\n", ""), State::Inactive("loaded".into()));
    assert_eq!(launchd.understand(false, "", "Could not find service"), State::Absent);
}
