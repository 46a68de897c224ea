//! The terminal of a person at the machine: a pane of a tmux server of the test's own.

use crate::harness::{Host, program, tmux};
use std::path::PathBuf;
use std::process::Command;

/// The terminal of a person: one pane that runs `iapeer` and notes how it ended.
pub struct Terminal<'a> {
    host: &'a Host,
    name: String,
}

impl<'a> Terminal<'a> {
    pub fn open(host: &'a Host, name: &str, columns: u16, rows: u16, args: &str) -> Terminal<'a> {
        let terminal = Terminal { host, name: name.into() };
        let file = |what: &str| terminal.file(what).display().to_string();
        let script = format!(
            "IAPEER_ROOT='{}' HOME='{}' '{}' {args} 2> '{}'\necho $? > '{}.tmp'; mv '{}.tmp' '{}'\n",
            host.root().display(),
            host.dir.path().join("home").display(),
            program(),
            file("err"),
            file("exit"),
            file("exit"),
            file("exit"),
        );
        std::fs::write(terminal.file("sh"), script).unwrap();
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&[
            "start-server",
            ";",
            "set-option",
            "-g",
            "status",
            "off",
            ";",
            "set-option",
            "-g",
            "remain-on-exit",
            "on",
            ";",
            "new-session",
            "-d",
            "-s",
            name,
            "-x",
            &columns,
            "-y",
            &rows,
            "sh",
            &file("sh"),
        ]);
        terminal
    }

    pub fn file(&self, what: &str) -> PathBuf {
        self.host.dir.path().join(format!("{}.{what}", self.name))
    }

    pub fn tmux(&self, args: &[&str]) -> String {
        let socket = self.host.dir.path().join("outer.sock");
        let out = Command::new(tmux())
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(socket)
            .args(args)
            .env_remove("TMUX")
            .env("TERM", "xterm-256color")
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn shows(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", &format!("={}:", self.name)])
    }

    pub fn press(&self, keys: &[&str]) {
        let target = format!("={}:", self.name);
        self.tmux(&[&["send-keys", "-t", &target], keys].concat());
    }

    /// Waits for the end of the command; its exit code and what it said.
    #[track_caller]
    pub fn ended(&self) -> (i32, String) {
        self.host.until("the command in the terminal ends", || self.file("exit").exists());
        let code = std::fs::read_to_string(self.file("exit")).unwrap().trim().parse().unwrap();
        (code, std::fs::read_to_string(self.file("err")).unwrap())
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let socket = self.host.dir.path().join("outer.sock");
        let _ = Command::new(tmux()).arg("-S").arg(socket).args(["kill-session", "-t", &format!("={}", self.name)]).output();
    }
}
