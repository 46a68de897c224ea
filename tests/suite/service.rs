//! `iapeer service` with service managers of the test: programs in PATH that write down what they are told.

use crate::harness::{Host, Ran, program};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Answers as systemd does; `start` runs what the unit says, with nothing but what the unit says.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "systemctl $*" >> "$FAKE/calls"
[ -e "$FAKE/no-bus" ] && { echo "Failed to connect to bus: No medium found" >&2; exit 1; }
[ -e "$FAKE/fails" ] && [ "$2" = enable ] && { echo "Job for it failed." >&2; exit 1; }
for unit; do :; done
start() {
    touch "$FAKE/active"
    [ -e "$FAKE/runs" ] || return 0
    file="$HOME/.config/systemd/user/$unit"
    program=$(sed -n 's/^ExecStart=\(.*\) daemon$/\1/p' "$file")
    sed -n 's/^Environment=/export /p' "$file" > "$FAKE/environment"
    env -i "HOME=$HOME" sh -c '. "$0"; exec "$1" daemon' "$FAKE/environment" "$program" < /dev/null > /dev/null 2>> "$FAKE/daemon.log" &
    echo $! > "$FAKE/pid"
    . "$FAKE/environment"
    while ! "$program" status > /dev/null 2>&1; do sleep 0.02; done
}
stop() {
    rm -f "$FAKE/active"
    [ ! -e "$FAKE/pid" ] || kill -TERM "$(cat "$FAKE/pid")" 2> /dev/null
    rm -f "$FAKE/pid"
    file="$HOME/.config/systemd/user/$unit"
    if [ -e "$FAKE/environment" ] && [ -f "$file" ] && ! grep -qx KillMode=process "$file"; then
        # The whole control group: everything that the daemon has started.
        . "$FAKE/environment"
        for process in /proc/[0-9]*; do
            tr '\0' ' ' < "$process/cmdline" 2> /dev/null | grep -qF "$IAPEER_ROOT/" && kill -TERM "${process#/proc/}"
        done
    fi
}
case "$2" in
    is-active) [ -e "$FAKE/active" ] && echo active || { echo inactive; exit 3; } ;;
    enable) mkdir -p "$HOME/.config/systemd/user/default.target.wants"
        ln -sf "$HOME/.config/systemd/user/$unit" "$HOME/.config/systemd/user/default.target.wants/$unit"
        [ -e "$FAKE/active" ] || start ;;
    start) start ;;
    restart) stop; start ;;
    stop | disable) stop ;;
esac
exit 0
"#;

const LAUNCHCTL: &str = r#"#!/bin/sh
echo "launchctl $*" >> "$FAKE/calls"
case "$1" in
    print) [ -e "$FAKE/active" ] && echo "	state = running" || { echo "Could not find service" >&2; exit 113; } ;;
    bootstrap) touch "$FAKE/active" ;;
    bootout) rm -f "$FAKE/active" ;;
esac
"#;

struct Stage {
    host: Host,
    fake: PathBuf,
}

impl Stage {
    fn new() -> Stage {
        let mut host = Host::new();
        let fake = host.dir.path().join("fake");
        std::fs::create_dir(&fake).unwrap();
        for (name, text) in [("systemctl", SYSTEMCTL), ("launchctl", LAUNCHCTL)] {
            std::fs::write(fake.join(name), text).unwrap();
            std::fs::set_permissions(fake.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", fake.display(), std::env::var("PATH").unwrap());
        host.env.extend([("PATH".into(), path), ("FAKE".into(), fake.to_str().unwrap().into())]);
        Stage { host, fake }
    }

    fn service(&self, words: &[&str]) -> Ran {
        self.host.run(&[&["service"], words].concat())
    }

    fn home(&self) -> PathBuf {
        self.host.dir.path().join("home")
    }

    fn units(&self) -> PathBuf {
        self.home().join(".config/systemd/user")
    }

    /// The one unit that is installed.
    fn unit(&self) -> PathBuf {
        let mut found: Vec<_> = std::fs::read_dir(self.units()).unwrap().flatten().map(|e| e.path()).filter(|p| !p.is_dir()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.pop().unwrap()
    }

    fn name(&self) -> String {
        let status = self.service(&["status", "--json"]).json();
        status["unit"].as_str().unwrap().into()
    }

    /// What the managers were told since the last look.
    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.fake.join("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.fake.join("calls"));
        calls.lines().map(String::from).collect()
    }

    fn set(&self, what: &str) {
        std::fs::write(self.fake.join(what), "").unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Also one that a verb started in the background.
        let _ = self.host.run(&["daemon", "stop", "--all-peers"]);
    }
}

#[test]
fn installing_writes_enables_and_starts_and_again_changes_nothing() {
    let stage = Stage::new();
    let name = stage.name();
    assert!(name.starts_with("iapeer-root-"), "another root than ~/.iapeer has a unit of its own: {name}");
    assert_eq!(stage.service(&["status"]).code, 3);
    stage.calls();

    let printed = stage.service(&["install", "--print"]).ok().out;
    assert!(!stage.units().exists() && stage.calls().is_empty(), "--print only prints");

    let ran = stage.service(&["install"]).ok();
    let file = stage.unit();
    assert_eq!(file, stage.units().join(&name));
    assert!(ran.err.contains(file.to_str().unwrap()) && ran.out.contains(&format!("journalctl --user -u {name}")), "{ran:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, printed);
    assert!(text.contains(&format!("ExecStart={} daemon\n", program())), "{text}");
    assert!(text.contains(&format!("Environment=\"IAPEER_ROOT={}\"\n", stage.host.root().display())), "{text}");
    let enable = format!("systemctl --user enable --now {name}");
    let first = ["systemctl --user daemon-reload".to_string(), format!("systemctl --user is-active {name}"), enable.clone()];
    assert_eq!(stage.calls(), first);

    let before = std::fs::metadata(&file).unwrap();
    stage.service(&["install"]).ok();
    let after = std::fs::metadata(&file).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()), "it was not written again");
    assert_eq!(stage.calls(), first, "and nothing is restarted");

    let status = stage.service(&["status", "--json"]).ok().json();
    for (key, value) in [("installed", true), ("ours", true), ("current", true), ("active", true)] {
        assert_eq!(status[key], value, "{key}: {status}");
    }
    assert_eq!(status["file"], file.to_str().unwrap());
}

#[test]
fn a_unit_that_differs_is_shown_and_made_anew() {
    let mut stage = Stage::new();
    stage.service(&["install"]).ok();
    let path = stage.host.env["PATH"].clone();
    stage.host.env.insert("PATH".into(), format!("{path}:/opt/new/bin"));
    let status = stage.service(&["status"]).ok();
    assert!(status.out.contains("differs") && status.out.contains("- Environment=\"PATH=") && status.out.contains(":/opt/new/bin\""), "{status:?}");
    stage.calls();
    stage.service(&["install"]).ok();
    assert!(std::fs::read_to_string(stage.unit()).unwrap().contains(":/opt/new/bin\""));
    assert!(stage.calls().last().unwrap().starts_with("systemctl --user restart iapeer-root-"), "the running daemon is of the old unit");
    assert_eq!(stage.service(&["status", "--json"]).ok().json()["current"], true);
}

#[test]
fn what_others_wrote_is_neither_replaced_nor_removed() {
    let stage = Stage::new();
    let file = stage.units().join(stage.name());
    std::fs::create_dir_all(stage.units()).unwrap();
    let refused = |what: &str| {
        for verb in ["install", "uninstall"] {
            let ran = stage.service(&[verb]);
            assert_eq!(ran.code, 3, "{what}: {ran:?}");
            assert!(ran.err.contains(file.to_str().unwrap()) && ran.err.contains("mv "), "{what}: the file and the way out: {ran:?}");
        }
        assert_eq!(stage.service(&["status", "--json"]).json()["ours"], false, "{what}");
    };
    std::fs::write(&file, "[Service]\nExecStart=/bin/true\n").unwrap();
    refused("a unit of somebody's own");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[Service]\nExecStart=/bin/true\n");
    std::fs::remove_file(&file).unwrap();
    symlink("/dev/null", &file).unwrap();
    refused("a masked unit");
    assert_eq!(std::fs::read_link(&file).unwrap(), Path::new("/dev/null"));
    let told = stage.calls();
    assert!(told.iter().all(|c| c.contains("is-active")), "the manager is told nothing: {told:?}");
    assert_eq!(stage.service(&["install", "--print"]).code, 0);
}

#[test]
fn uninstalling_ends_it_and_removes_only_what_installing_made() {
    let stage = Stage::new();
    stage.service(&["install"]).ok();
    let (file, name) = (stage.unit(), stage.name());
    std::fs::write(stage.units().join("other.service"), "[Service]\n").unwrap();
    stage.calls();
    stage.service(&["uninstall"]).ok();
    let want = ["is-active", "disable --now"].map(|verb| format!("systemctl --user {verb} {name}"));
    assert_eq!(stage.calls(), [want.to_vec(), vec!["systemctl --user daemon-reload".into()]].concat());
    assert!(!file.exists() && stage.units().join("other.service").exists());
    assert!(std::fs::read_link(stage.units().join("default.target.wants").join(&name)).is_err(), "the link that would start it is gone");
    let again = stage.service(&["uninstall"]).ok();
    assert!(again.err.contains("there is no"), "{again:?}");
    assert!(stage.calls().is_empty());
}

#[test]
fn without_a_manager_it_says_what_was_written_and_what_to_run() {
    let mut stage = Stage::new();
    let name = stage.name();
    stage.set("no-bus");
    let checked = |stage: &Stage, why: &str| {
        let ran = stage.service(&["install"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        let file = stage.unit();
        for part in [file.to_str().unwrap(), why, "systemctl --user daemon-reload && systemctl --user enable --now ", &name] {
            assert!(ran.err.contains(part), "{part}: {ran:?}");
        }
        let status = stage.service(&["status"]);
        assert!(status.code == 3 && status.out.contains("installed, as it would be now") && status.out.contains(why), "{status:?}");
        let gone = stage.service(&["uninstall"]);
        assert!(gone.code == 3 && !file.exists() && gone.err.contains("was removed, but") && gone.err.contains(why), "{gone:?}");
    };
    checked(&stage, "Failed to connect to bus");
    let bare = stage.host.dir.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    stage.host.env.insert("PATH".into(), bare.to_str().unwrap().into());
    checked(&stage, "systemctl is not installed");
}

#[test]
fn a_daemon_that_does_not_come_up_is_told_with_its_log() {
    let stage = Stage::new();
    stage.set("fails");
    let ran = stage.service(&["install"]);
    assert!(ran.code == 3 && ran.err.contains("Job for it failed.") && ran.err.contains("journalctl --user -u"), "{ran:?}");
}

#[test]
fn a_setting_that_stops_the_daemon_is_named_before_anything_is_done() {
    let stage = Stage::new();
    stage.service(&["install"]).ok();
    stage.service(&["uninstall"]).ok();
    let config = stage.host.root().join("config.yaml");
    std::fs::write(&config, "nonsense: 1\n").unwrap();
    stage.calls();
    let ran = stage.service(&["install"]);
    assert!(ran.code == 2 && ran.err.contains(config.to_str().unwrap()), "{ran:?}");
    assert!(stage.calls().is_empty() && std::fs::read_dir(stage.units()).unwrap().flatten().all(|e| e.path().is_dir()));
}

#[test]
fn two_roots_are_two_services_and_the_usual_root_has_the_plain_name() {
    let mut stage = Stage::new();
    stage.service(&["install"]).ok();
    let first = stage.unit();
    let text = std::fs::read_to_string(&first).unwrap();
    let usual = stage.home().join(".iapeer");
    stage.host.env.insert("IAPEER_ROOT".into(), usual.to_str().unwrap().into());
    stage.service(&["install"]).ok();
    let plain = std::fs::read_to_string(stage.units().join("iapeer.service")).unwrap();
    assert!(plain.contains(&format!("IAPEER_ROOT={}\"", usual.display())), "{plain}");
    assert_eq!(std::fs::read_to_string(&first).unwrap(), text, "the other one is untouched");
    stage.service(&["uninstall"]).ok();
    assert!(first.exists() && !stage.units().join("iapeer.service").exists());
}

#[test]
fn the_unit_goes_where_xdg_config_home_says() {
    let mut stage = Stage::new();
    let config = stage.host.dir.path().join("my config");
    stage.host.env.insert("XDG_CONFIG_HOME".into(), config.to_str().unwrap().into());
    stage.service(&["install"]).ok();
    assert!(config.join("systemd/user").join(stage.name()).exists() && !stage.units().join(stage.name()).exists());
}

#[test]
fn an_agent_may_look_and_not_touch() {
    let mut stage = Stage::new();
    stage.host.env.insert("IAPEER_SESSION".into(), "echo-a@1".into());
    for verb in ["install", "uninstall"] {
        let ran = stage.service(&[verb]);
        assert!(ran.code == 3 && ran.err.contains("operator"), "{ran:?}");
    }
    stage.service(&["install", "--print"]).ok();
    assert!(!stage.units().exists() && stage.calls().is_empty());
}

#[test]
fn launchd_is_given_an_agent_and_told_of_it() {
    let stage = Stage::new();
    let service = |words: &[&str]| stage.service(&[words, &["--manager", "launchd"]].concat());
    service(&["install"]).ok();
    let status = service(&["status", "--json"]).ok().json();
    let file = PathBuf::from(status["file"].as_str().unwrap());
    assert_eq!(file.parent().unwrap(), stage.home().join("Library/LaunchAgents"));
    let name = status["unit"].as_str().unwrap();
    let target = format!("gui/{}/{name}", nix::unistd::getuid());
    let bootstrap = format!("launchctl bootstrap gui/{} {}", nix::unistd::getuid(), file.display());
    let (print, enable) = (format!("launchctl print {target}"), format!("launchctl enable {target}"));
    assert_eq!(stage.calls(), [print.clone(), enable, bootstrap.clone(), print]);
    assert!(std::fs::read_to_string(&file).unwrap().contains(&format!("<string>{name}</string>")));
    service(&["install"]).ok();
    assert_eq!(stage.calls().last(), Some(&format!("launchctl kickstart {target}")));
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("<integer>90<", "<integer>91<")).unwrap();
    service(&["install"]).ok();
    let told = stage.calls();
    assert_eq!((&told[1], told.last().unwrap()), (&format!("launchctl bootout {target}"), &bootstrap), "{told:?}");
    service(&["uninstall"]).ok();
    assert!(!file.exists() && stage.calls().contains(&format!("launchctl bootout {target}")));
}

#[test]
fn the_service_takes_over_is_started_by_verbs_and_ended_by_daemon_stop() {
    let stage = Stage::new();
    stage.set("runs");
    stage.host.run(&["create", "a", "--runtime", "echo"]).ok();
    // One in the background, as verbs start it where no service is installed.
    let started = stage.host.run(&["start", "a"]).ok();
    assert!(started.err.contains("started a daemon in the background"), "{started:?}");
    stage.host.deliver("a", "hello");
    let keeper = |stage: &Stage| stage.host.session("echo-a").unwrap()["keeper"].clone();
    let session = keeper(&stage);
    let pid = |stage: &Stage| stage.host.run(&["status", "--json"]).json()["pid"].clone();
    let background = pid(&stage);

    let installed = stage.service(&["install"]).ok();
    assert!(installed.err.contains(&format!("the daemon that ran (pid {background}) was ended")), "{installed:?}");
    let of_the_service = std::fs::read_to_string(stage.fake.join("pid")).unwrap();
    assert_eq!(pid(&stage).to_string(), of_the_service.trim());
    stage.host.deliver("a", "through the service");
    assert_eq!(keeper(&stage), session, "the session went on");

    stage.calls();
    let stopped = stage.host.run(&["daemon", "stop"]).ok();
    assert!(stopped.err.contains("stays installed"), "{stopped:?}");
    assert_eq!(stage.calls(), [format!("systemctl --user stop {}", stage.unit().file_name().unwrap().display())]);
    assert_eq!(stage.host.run(&["status"]).code, 4);

    let started = stage.host.run(&["start", "a"]).ok();
    assert!(started.err.contains("started the service iapeer-root-"), "{started:?}");
    assert_ne!(std::fs::read_to_string(stage.fake.join("pid")).unwrap(), of_the_service);
    stage.host.deliver("a", "again");
    assert_eq!(keeper(&stage), session);
    stage.host.run(&["daemon", "stop", "--all-peers"]).ok();
    assert!(stage.host.session("echo-a").is_none(), "its sessions, too");

    // A manager that cannot be reached: no second daemon beside the service.
    stage.set("no-bus");
    let refused = stage.host.run(&["start", "a"]);
    assert!(refused.code == 4 && refused.err.contains("Failed to connect to bus") && refused.err.contains("systemctl --user start"), "{refused:?}");
}

/// systemd's own opinion of what we write, where it is installed.
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let mut stage = Stage::new();
    let path = std::env::var("PATH").unwrap();
    let Some(analyze) = path.split(':').map(|d| Path::new(d).join("systemd-analyze")).find(|p| p.is_file()) else {
        eprintln!("systemd-analyze is not installed: the unit is only compared with what it should be");
        return;
    };
    // A program and a root with everything that means something to systemd.
    let odd = stage.host.dir.path().join("odd $HOME %n ;dir");
    std::fs::create_dir(&odd).unwrap();
    let own = odd.join("iapeer");
    std::fs::copy(program(), &own).unwrap();
    let runtime = stage.host.dir.path().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700)).unwrap();
    for (program, root) in [(Path::new(program()), stage.host.root()), (own.as_path(), odd.join("a \"b\" 'c' \\ %i $x é"))] {
        stage.host.env.insert("IAPEER_ROOT".into(), root.to_str().unwrap().into());
        let printed = stage.host.command(&[]).get_envs().map(|(k, v)| (k.to_owned(), v.unwrap_or_default().to_owned())).collect::<Vec<_>>();
        let printed = Command::new(program).args(["service", "install", "--print"]).env_clear().envs(printed).output().unwrap();
        assert!(printed.status.success(), "{printed:?}");
        let file = stage.host.dir.path().join("iapeer-verified.service");
        std::fs::write(&file, &printed.stdout).unwrap();
        let said: Ran = Command::new(&analyze).args(["--user", "verify"]).arg(&file).env("XDG_RUNTIME_DIR", &runtime).output().unwrap().into();
        let ours: Vec<&str> = said.err.lines().filter(|l| l.contains("iapeer")).collect();
        assert!(said.code == 0 && ours.is_empty(), "{said:?}\n{}", String::from_utf8_lossy(&printed.stdout));
    }
}
