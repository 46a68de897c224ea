//! Where everything lies under `IAPEER_ROOT` (default `~/.iapeer`).

use super::disk::create_dir;
use crate::core::names::{Identity, Incarnation, Party};
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest path of a unix socket, in bytes, without its final NUL.
#[cfg(target_os = "linux")]
pub const SOCKET_PATH_MAX: usize = 107;
#[cfg(not(target_os = "linux"))]
pub const SOCKET_PATH_MAX: usize = 103;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    base: PathBuf,
    sockets: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("neither IAPEER_ROOT nor HOME is set, so there is no place for the state")]
    NoHome,
    #[error("{0} must be an absolute path")]
    Relative(PathBuf),
    #[error("cannot create {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("{0} belongs to another user; choose a root of your own with IAPEER_ROOT")]
    Foreign(PathBuf),
    #[error("{path} is open to others (mode {mode:o}); run: chmod go-rwx {path}")]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "the socket path {path} is {len} bytes long, the system allows {SOCKET_PATH_MAX}; set IAPEER_SOCK_DIR to a shorter directory of your own, or IAPEER_ROOT to a shorter root"
    )]
    SocketPath { path: PathBuf, len: usize },
}

impl Root {
    /// The root of this environment.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, RootError> {
        let filled = |name: &str| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = match filled("IAPEER_ROOT") {
            Some(root) => root,
            None => filled("HOME").ok_or(RootError::NoHome)?.join(".iapeer"),
        };
        let sockets = filled("IAPEER_SOCK_DIR").unwrap_or_else(|| base.join("run"));
        for path in [&base, &sockets] {
            if !path.is_absolute() {
                return Err(RootError::Relative(path.clone()));
            }
        }
        Ok(Root { base, sockets })
    }

    pub fn at(base: impl Into<PathBuf>) -> Self {
        let base = base.into();
        Root { sockets: base.join("run"), base }
    }

    /// Creates what is missing, refuses what others can write, checks the socket paths.
    pub fn ensure(&self) -> Result<(), RootError> {
        for dir in [
            self.base.clone(),
            self.sockets.clone(),
            self.peers_state(),
            self.hook_spool(),
            self.logs(),
            self.base.join("runtimes"),
            self.base.join("peers"),
            self.run(),
        ] {
            create_dir(&dir).map_err(|source| RootError::Create { path: dir.clone(), source })?;
        }
        for dir in [&self.base, &self.sockets] {
            let meta = std::fs::metadata(dir).map_err(|source| RootError::Create { path: dir.clone(), source })?;
            if meta.uid() != nix::unistd::getuid().as_raw() {
                return Err(RootError::Foreign(dir.clone()));
            }
            if meta.mode() & 0o077 != 0 {
                return Err(RootError::Open { path: dir.clone(), mode: meta.mode() & 0o777 });
            }
        }
        check_socket_path(&self.api_socket())?;
        // The shortest name that a session's socket can fall back to.
        check_socket_path(&self.sockets.join("t-0123456789abcdef.sock"))
    }

    pub fn base(&self) -> &Path {
        &self.base
    }
    pub fn config(&self) -> PathBuf {
        self.base.join("config.yaml")
    }
    pub fn env_file(&self) -> PathBuf {
        self.base.join("env")
    }
    pub fn runtimes(&self) -> PathBuf {
        self.base.join("runtimes")
    }
    pub fn doctrine(&self) -> PathBuf {
        self.base.join("IAPEER.md")
    }
    pub fn registry(&self) -> PathBuf {
        self.base.join("registry.json")
    }
    pub fn default_folder(&self, personality: &str) -> PathBuf {
        self.base.join("peers").join(personality)
    }
    fn peers_state(&self) -> PathBuf {
        self.base.join("state/peers")
    }
    pub fn all_peer_states(&self) -> PathBuf {
        self.peers_state()
    }
    pub fn party_state(&self, party: &Party) -> PathBuf {
        self.peers_state().join(party.to_string())
    }
    pub fn peer_state(&self, identity: &Identity) -> PathBuf {
        self.peers_state().join(identity.to_string())
    }
    /// Which session of this root a keeper's launch file belongs to.
    pub fn session_of(&self, launch_file: &Path) -> Option<(Identity, Incarnation)> {
        let incarnation = launch_file.file_name()?.to_str()?.strip_prefix("launch-")?.strip_suffix(".json")?.parse().ok()?;
        let state = launch_file.parent()?;
        let identity: Identity = state.file_name()?.to_str()?.parse().ok()?;
        (state == self.peer_state(&identity)).then_some((identity, incarnation))
    }
    pub fn daemon_state(&self) -> PathBuf {
        self.base.join("state/daemon.json")
    }
    /// What came while no daemon ran: sends, and hook reports.
    pub fn spool(&self) -> PathBuf {
        self.base.join("state/spool")
    }
    /// What mailboxes have kept of late.
    pub fn journal(&self) -> PathBuf {
        self.base.join("state/journal")
    }
    pub fn removed(&self) -> PathBuf {
        self.base.join("state/removed")
    }
    /// Its presence freezes the whole host.
    pub fn frozen(&self) -> PathBuf {
        self.base.join("state/frozen")
    }
    pub fn operator_inbox(&self) -> PathBuf {
        self.party_state(&Party::Operator).join("inbox")
    }
    pub fn hook_spool(&self) -> PathBuf {
        self.base.join("state/spool")
    }
    pub fn run(&self) -> PathBuf {
        self.base.join("run")
    }
    pub fn lock(&self) -> PathBuf {
        self.run().join("daemon.lock")
    }
    pub fn api_socket(&self) -> PathBuf {
        self.sockets.join("iapeer.sock")
    }
    /// What the terminals have shown.
    pub fn pane_logs(&self) -> PathBuf {
        self.logs().join("panes")
    }
    pub fn logs(&self) -> PathBuf {
        self.base.join("logs")
    }

    /// The tmux socket of an identity; a short hashed name where the speaking one is too long.
    pub fn tmux_socket(&self, identity: &Identity) -> PathBuf {
        let speaking = self.sockets.join(format!("tmux-iap-{identity}.sock"));
        if speaking.as_os_str().as_bytes().len() <= SOCKET_PATH_MAX {
            return speaking;
        }
        let hash = crate::core::record::hex(&Sha256::digest(identity.to_string().as_bytes())[..8]);
        self.sockets.join(format!("t-{hash}.sock"))
    }
}

fn check_socket_path(path: &Path) -> Result<(), RootError> {
    let len = path.as_os_str().as_bytes().len();
    if len > SOCKET_PATH_MAX { Err(RootError::SocketPath { path: path.to_path_buf(), len }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_identity_gets_a_short_socket_name() {
        let root = Root::at(format!("/{}", "r".repeat(60)));
        let id: Identity = format!("claude-{}", "p".repeat(32)).parse().unwrap();
        let path = root.tmux_socket(&id);
        assert!(path.as_os_str().len() <= SOCKET_PATH_MAX, "{path:?}");
        let short: Identity = "echo-a".parse().unwrap();
        assert!(root.tmux_socket(&short).ends_with("tmux-iap-echo-a.sock"));
    }

    #[test]
    fn a_directory_that_leaves_no_room_for_sockets_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path().join("x".repeat(90)));
        let error = root.ensure().unwrap_err();
        assert!(matches!(error, RootError::SocketPath { .. }), "{error}");
        assert!(error.to_string().contains("IAPEER_SOCK_DIR"));
    }
}
