//! System calls that the kernel answers without carrying them out: a seccomp filter for one thread, or for a
//! process and all that it starts.

#![allow(unsafe_code, reason = "the kernel takes the filter by pointer; no wrapper has the call")]

use nix::libc;
use std::io;

/// Every call that makes bytes or names durable.
pub const SYNCS: [i64; 3] = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs];

/// Made before a fork, installed after it.
pub struct Answers(Vec<libc::sock_filter>);

impl Answers {
    /// Answers these calls with an error code; 0 says that all is done.
    pub fn new(calls: &[i64], errno: u16) -> Answers {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
        // The number of the system call is the first word.
        let mut program = vec![step(LOAD, 0, 0)];
        program.extend(calls.iter().enumerate().map(|(n, call)| step(JUMP_IF_EQUAL, (calls.len() - n) as u8, *call as u32)));
        program.push(step(RETURN, 0, libc::SECCOMP_RET_ALLOW));
        program.push(step(RETURN, 0, libc::SECCOMP_RET_ERRNO | u32::from(errno)));
        Answers(program)
    }

    /// For this thread and whatever it starts, for ever.
    pub fn install(&self) -> io::Result<()> {
        let filter = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        nix::sys::prctl::set_no_new_privs()?;
        // SAFETY: the filter and its program live until the call returns; the kernel copies them.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
