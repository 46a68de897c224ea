//! The keeper, `iapeer keep FILE`: the pane's own command.
//!
//! It reads its launch file and deletes it, becomes a subreaper, starts the agent in the foreground of
//! the terminal, waits, records how the agent ended, ends everything that is left below it, and exits.
//! No shell ever stands under an agent, and a death while the daemon is down leaves its record.
//!
//! It outlives upgrades of the daemon, so it stays small, and its records carry their own version. It
//! has one thread and no runtime. Known gap: outside Linux there is no subreaper, so children that
//! detach themselves are not found.

#![allow(clippy::disallowed_methods, reason = "the keeper is its own small program: it starts, waits for and ends one agent")]

mod oom;
pub mod pane_log;
pub mod record;

use crate::core::message::ProcessRef;
use crate::sys::{clock, process, spawn};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use oom::Counter;
use record::{Child, ExitRecord, LaunchFile, PROTOCOL, StartRecord};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time everything gets to vanish after KILL.
const VANISH: Duration = Duration::from_secs(2);

/// Runs a session. The exit code is the agent's, or 128 + its signal.
///
/// # Errors
/// The launch file cannot be read, or the start record cannot be written; the agent then never ran.
pub fn run(launch_file: &Path) -> io::Result<i32> {
    let launch = LaunchFile::take(launch_file)?;
    let mut wakeups = Wakeups::install()?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    let me = process::reference(std::process::id() as i32).ok_or_else(|| io::Error::other("no entry of this process in /proc"))?;

    let mut command = Command::new(&launch.argv[0]);
    command.args(&launch.argv[1..]).current_dir(&launch.cwd).env_clear().envs(&launch.env);
    let mut start = StartRecord {
        protocol: PROTOCOL,
        identity: launch.identity.clone(),
        incarnation: launch.incarnation,
        keeper: me.clone(),
        agent: None,
        at: now(),
        boot_id: clock::boot_id(),
    };
    start.write(&launch.exits)?;
    let child = match spawn::foreground(&mut command, launch.umask) {
        Ok(child) => child,
        Err(error) => {
            let text = format!("cannot start {}: {error}", launch.argv[0]);
            ExitRecord {
                protocol: PROTOCOL,
                incarnation: launch.incarnation,
                code: None,
                signal: None,
                error: Some(text.clone()),
                at: now(),
                user_ms: 0,
                system_ms: 0,
                max_rss_kib: 0,
                left_over: 0,
                asked: false,
                oom: false,
                children: Vec::new(),
            }
            .write(&launch.exits)?;
            return Err(io::Error::new(error.kind(), text));
        }
    };
    let agent = Pid::from_raw(child.id() as i32);
    start.agent = process::reference(agent.as_raw());
    start.write(&launch.exits)?;

    let grace = Duration::from_secs(launch.term_grace_secs);
    let killed_for_memory = Counter::of_this_process();
    let watch = Watch { grace, children: Vec::new(), killed_by_us: false };
    let (ended, mut watch) = wait_for_agent(agent, watch, &mut wakeups)?;
    let asked = wakeups.end_asked();
    let oom = ended == Ended::Signal(Signal::SIGKILL as i32) && !watch.killed_by_us && killed_for_memory.is_some_and(|c| c.has_risen(me.pid));
    let left_over = end_the_rest(&mut watch, &mut wakeups);
    let record = ExitRecord { asked, oom, children: watch.children, ..ExitRecord::of(launch.incarnation, ended, now(), left_over) };
    record.write(&launch.exits)?;
    Ok(match ended {
        Ended::Code(code) => code,
        Ended::Signal(number) => 128 + number,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Signals as readable bytes, so that waiting can have a deadline.
struct Wakeups {
    reader: UnixStream,
    end: Arc<AtomicBool>,
}

impl Wakeups {
    fn install() -> io::Result<Self> {
        use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        let end = Arc::<AtomicBool>::default();
        for number in [SIGTERM, SIGHUP] {
            signal_hook::flag::register(number, end.clone())?;
        }
        for number in [SIGCHLD, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(number, writer.try_clone()?)?;
        }
        // The keyboard speaks to the agent's group, never to us; our own tcsetpgrp must not stop us.
        for number in [SIGINT, SIGQUIT] {
            signal_hook::flag::register(number, Arc::<AtomicBool>::default())?;
        }
        spawn::ignore_background_stop()?;
        Ok(Wakeups { reader, end })
    }

    fn end_asked(&self) -> bool {
        self.end.load(Ordering::SeqCst)
    }

    /// Returns at the next signal, or after `limit`.
    fn wait(&mut self, limit: Option<Duration>) {
        use io::Read;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let timeout = limit.map_or(PollTimeout::NONE, |d| PollTimeout::try_from(d.as_millis().min(60_000) as i32 + 1).unwrap_or(PollTimeout::MAX));
        let _ = poll(&mut [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)], timeout);
        let mut sink = [0; 64];
        while matches!(self.reader.read(&mut sink), Ok(n) if n > 0) {}
    }
}

/// What is known of the agent's end while it is waited for.
struct Watch {
    grace: Duration,
    children: Vec<Child>,
    killed_by_us: bool,
}

/// Waits for the agent; on TERM or HUP ends its group, gently first.
fn wait_for_agent(agent: Pid, mut watch: Watch, wakeups: &mut Wakeups) -> io::Result<(Ended, Watch)> {
    let grace = watch.grace;
    let mut kill_at: Option<Instant> = None;
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == agent => return Ok((Ended::Code(code), watch)),
                Ok(WaitStatus::Signaled(pid, number, _)) if pid == agent => return Ok((Ended::Signal(number as i32), watch)),
                Ok(WaitStatus::Stopped(pid, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)) if pid == agent => go_on(agent),
                // An adopted orphan of the agent, or a stop that a debugger made.
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if wakeups.end_asked() && kill_at.is_none() {
            kill_at = Some(Instant::now() + grace);
            let mut children = process::descendants(std::process::id() as i32);
            children.retain(|child| child.pid != agent.as_raw());
            watch.children = Child::long_lived(&children);
            let _ = killpg(agent, Signal::SIGTERM);
            // A stopped group would never see it.
            let _ = killpg(agent, Signal::SIGCONT);
        }
        let left = kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|l| l.is_zero()) {
            watch.killed_by_us = true;
            let _ = killpg(agent, Signal::SIGKILL);
            let _ = kill(agent, Signal::SIGKILL);
            kill_at = Some(Instant::now() + VANISH);
        }
        wakeups.wait(left.filter(|l| !l.is_zero()));
    }
}

/// tmux continues only its direct child, which we are: an agent stopped by Ctrl-Z would stay frozen.
fn go_on(agent: Pid) {
    let _ = nix::unistd::tcsetpgrp(io::stdin(), agent);
    let _ = killpg(agent, Signal::SIGCONT);
}

/// Ends everything that the agent left below us. Returns how many processes that were.
fn end_the_rest(watch: &mut Watch, wakeups: &mut Wakeups) -> usize {
    let grace = watch.grace;
    let me = std::process::id() as i32;
    let rest = process::descendants(me);
    if rest.is_empty() {
        return 0;
    }
    Child::add(&mut watch.children, Child::long_lived(&rest));
    let began = Instant::now();
    let mut gentle = true;
    signal_all(&rest, Signal::SIGTERM);
    signal_all(&rest, Signal::SIGCONT);
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        let now = process::descendants(me);
        if now.is_empty() || began.elapsed() >= grace + VANISH {
            return rest.len();
        }
        if gentle && began.elapsed() >= grace {
            gentle = false;
        }
        if !gentle {
            signal_all(&now, Signal::SIGKILL);
        }
        wakeups.wait(Some(Duration::from_millis(100)));
    }
}

fn signal_all(processes: &[ProcessRef], number: Signal) {
    for process in processes {
        // One that is gone needs no signal, and its pid may be another's.
        let _ = process::signal(process, number);
    }
}
