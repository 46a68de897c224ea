//! The tmux client under trace: this program, found in a PATH under the name `tmux`, runs the real tmux
//! and kills it before its N-th system call, when a plan says so. So the real daemon meets the fault.
//!
//! A plan is a file `plans/ID` beside the link named `tmux`, with the act (`iap-pasted`, `iap-submitted`) and
//! N; the first client that does that act for the message ID takes it. What happened stands in `outcomes/ID`.

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The words by which the client's command list tells that it acted.
pub const PASTE: &str = "iap-pasted";
pub const SUBMIT: &str = "iap-submitted";
/// What `outcomes/ID` begins with when the client lived to its end.
pub const UNTOUCHED: &str = "untouched";

/// A directory to put first in a PATH.
pub struct Shim(pub PathBuf);

impl Shim {
    pub fn install(parent: &Path) -> Shim {
        let dir = parent.join("shim");
        for folder in ["plans", "taken", "outcomes"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), dir.join("tmux")).unwrap();
        Shim(dir)
    }

    /// The client that does this act for this message is killed before its `n`-th system call.
    pub fn plan(&self, id: &str, act: &str, n: u32) {
        // Complete before anybody sees it.
        let draft = self.0.join("taken").join(id);
        fs::write(&draft, format!("{act} {n}")).unwrap();
        fs::rename(draft, self.0.join("plans").join(id)).unwrap();
    }

    pub fn outcome(&self, id: &str) -> Option<String> {
        fs::read_to_string(self.0.join("outcomes").join(id)).ok()
    }
}

pub fn is_called_tmux() -> bool {
    std::env::args_os().next().is_some_and(|name| Path::new(&name).file_name() == Some("tmux".as_ref()))
}

pub fn run() -> ! {
    let args: Vec<OsString> = std::env::args_os().collect();
    let here = Path::new(&args[0]).parent().expect("tmux is called by its path").to_path_buf();
    let path = std::env::var("PATH").unwrap();
    let real = path.split(':').map(Path::new).filter(|d| *d != here).map(|d| d.join("tmux")).find(|p| p.is_file()).expect("no tmux behind this one");
    let mut tmux = Command::new(real);
    tmux.args(&args[1..]);
    match take_plan(&here, &args) {
        Some((id, n)) => trace(tmux, &here.join("outcomes").join(id), n),
        None => panic!("{}", tmux.exec()),
    }
}

fn take_plan(here: &Path, args: &[OsString]) -> Option<(String, u32)> {
    let list = args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    for plan in fs::read_dir(here.join("plans")).ok()?.flatten() {
        let id = plan.file_name().into_string().ok()?;
        if !list.contains(&id) {
            continue;
        }
        let text = fs::read_to_string(plan.path()).ok()?;
        let (act, n) = text.split_once(' ')?;
        if list.contains(act) && fs::rename(plan.path(), here.join("taken").join(&id)).is_ok() {
            return Some((id, n.parse().ok()?));
        }
    }
    None
}

fn trace(mut tmux: Command, outcome: &Path, n: u32) -> ! {
    #[allow(unsafe_code, reason = "between fork and exec the child only asks to be traced")]
    unsafe {
        tmux.pre_exec(|| Ok(ptrace::traceme()?));
    }
    let child = Pid::from_raw(tmux.spawn().unwrap().id() as i32);
    // It stands at the end of its exec.
    waitpid(child, None).unwrap();
    ptrace::setoptions(child, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
    let (mut calls, mut inside, mut signal) = (0, false, None);
    loop {
        ptrace::syscall(child, signal.take()).unwrap();
        match waitpid(child, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                inside = !inside;
                calls += u32::from(inside);
                if inside && calls == n {
                    // A call that it stands before is not made any more.
                    ptrace::kill(child).unwrap();
                    waitpid(child, None).unwrap();
                    fs::write(outcome, format!("killed before call {n}")).unwrap();
                    raise(Signal::SIGKILL).unwrap();
                }
            }
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::Exited(_, code) => {
                fs::write(outcome, format!("{UNTOUCHED}, {calls} calls")).unwrap();
                std::process::exit(code);
            }
            other => panic!("{other:?}"),
        }
    }
}
