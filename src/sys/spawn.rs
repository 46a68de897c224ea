//! Starting an agent in the foreground of the keeper's terminal.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Spawns `command` as its own process group in the foreground of the terminal on standard input, and
/// arranges that the kernel kills it when this process dies. `umask` is the agent's.
///
/// # Errors
/// What `fork` or `exec` says, for example that the program does not exist.
pub fn foreground(command: &mut Command, umask: u32) -> io::Result<Child> {
    command.process_group(0);
    // SAFETY: runs between fork and exec of a process with one thread; only async-signal-safe calls
    // (signal, tcsetpgrp, prctl) are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            use nix::sys::signal::{SigHandler, Signal, signal};
            // A background group that calls tcsetpgrp is stopped unless it ignores SIGTTOU.
            signal(Signal::SIGTTOU, SigHandler::SigIgn)?;
            let taken = nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpid());
            signal(Signal::SIGTTOU, SigHandler::SigDfl)?;
            match taken {
                Ok(()) | Err(nix::errno::Errno::ENOTTY) => {}
                Err(e) => return Err(e.into()),
            }
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask as nix::libc::mode_t));
            #[cfg(target_os = "linux")]
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
    command.spawn()
}

/// Lets this process change the terminal's foreground group without being stopped for it.
pub fn ignore_background_stop() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGTTOU, SigHandler::SigIgn) }?;
    Ok(())
}

static ORIGINAL_UMASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();

/// What we write is for our own user only. The mask that was in force before is remembered: agents work
/// with it, their files are the user's.
pub fn tighten_umask() {
    use nix::sys::stat::{Mode, umask};
    let before = umask(Mode::from_bits_truncate(0o077));
    let _ = ORIGINAL_UMASK.set(before.bits() as u32);
}

pub fn original_umask() -> u32 {
    *ORIGINAL_UMASK.get_or_init(|| 0o022)
}

/// Starts a program that outlives this one: its own process session, no terminal, output to a file.
pub fn detached(command: &mut Command) -> io::Result<Child> {
    // SAFETY: setsid is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    command.spawn()
}
