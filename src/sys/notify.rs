//! Telling the service manager that started this process what it does: the protocol of `sd_notify`.
//!
//! The variables are taken out of the environment before anything else runs, so nothing that this process
//! starts can speak in its name. A manager that cannot be told is logged and disturbs nothing.

use std::ffi::OsString;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_OF: &str = "WATCHDOG_PID";
/// What a manager puts into the environment of a service.
pub const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_OF];

/// The service manager, or nobody.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Reads the variables and removes them. For the start of the program, before its first thread.
    ///
    /// # Errors
    /// One line: an address that is none.
    pub fn take() -> Result<Self, String> {
        let found = VARIABLES.map(|name| (name, std::env::var_os(name)));
        for name in VARIABLES {
            // SAFETY: this process has one thread yet, so nobody reads the environment meanwhile.
            unsafe { std::env::remove_var(name) };
        }
        Self::read(|wanted| found.iter().find(|(name, _)| *name == wanted)?.1.clone(), std::process::id())
    }

    fn read(var: impl Fn(&str) -> Option<OsString>, pid: u32) -> Result<Self, String> {
        let Some(address) = var(SOCKET).filter(|a| !a.is_empty()) else { return Ok(Notify::default()) };
        let socket = address_of(&address).map_err(|e| format!("{SOCKET}={}: {e}", address.display()))?;
        let number = |name: &str| var(name).and_then(|v| v.to_str()?.parse::<u64>().ok());
        let ours = var(WATCHDOG_OF).is_none() || number(WATCHDOG_OF) == Some(u64::from(pid));
        let watchdog = number(WATCHDOG).filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        Ok(Notify { socket: Some(socket), watchdog })
    }

    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// How long it waits for a sign of life.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells it, in one datagram; false when that failed. Never waits: a full socket is a failure.
    pub fn tell(&self, state: &str) -> bool {
        let Some(address) = &self.socket else { return true };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(state.as_bytes(), address)
        });
        if let Err(error) = &sent {
            tracing::warn!(%error, state, "the service manager could not be told");
        }
        sent.is_ok()
    }
}

/// A path, or with `@` a name of the abstract namespace.
fn address_of(text: &OsString) -> io::Result<SocketAddr> {
    match text.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(text),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither an absolute path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Notify, String> {
        Notify::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()), 42)
    }

    #[test]
    fn without_a_manager_nobody_is_told() {
        let nobody = read(&[(WATCHDOG, "1000")]).unwrap();
        assert!(!nobody.is_there() && nobody.watchdog().is_none() && nobody.tell("READY=1"));
        assert!(!read(&[(SOCKET, "")]).unwrap().is_there());
        assert!(read(&[(SOCKET, "vsock:2:1")]).unwrap_err().contains("NOTIFY_SOCKET=vsock:2:1"));
    }

    #[test]
    fn the_watchdog_is_ours_only_with_our_pid_or_none() {
        let watchdog = |vars: &[(&str, &str)]| read(&[&[(SOCKET, "/s")], vars].concat()).unwrap().watchdog();
        assert_eq!(watchdog(&[(WATCHDOG, "30000000")]), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(&[(WATCHDOG, "30000000"), (WATCHDOG_OF, "42")]), Some(Duration::from_secs(30)));
        for other in ["43", "", "x"] {
            assert_eq!(watchdog(&[(WATCHDOG, "30000000"), (WATCHDOG_OF, other)]), None, "{other:?}");
        }
        for wrong in ["", "0", "-1", "1s"] {
            assert_eq!(watchdog(&[(WATCHDOG, wrong)]), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_path_and_an_abstract_name_are_both_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let mut ends = vec![(path.to_str().unwrap().to_string(), UnixDatagram::bind(&path).unwrap())];
        #[cfg(target_os = "linux")]
        {
            let name = format!("iapeer-test-{}", std::process::id());
            let address = SocketAddr::from_abstract_name(&name).unwrap();
            ends.push((format!("@{name}"), UnixDatagram::bind_addr(&address).unwrap()));
        }
        for (address, end) in ends {
            assert!(read(&[(SOCKET, &address)]).unwrap().tell("READY=1\nSTATUS=x"));
            let mut bytes = [0; 100];
            let n = end.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..n], b"READY=1\nSTATUS=x", "{address}");
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_full_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let notify = read(&[(SOCKET, path.to_str().unwrap())]).unwrap();
        assert!(!notify.tell("READY=1"));
        let _deaf = UnixDatagram::bind(&path).unwrap();
        assert!((0..100_000).any(|_| !notify.tell("WATCHDOG=1")), "the queue of a datagram socket is bounded");
    }
}
