//! The disk: layout of the root, atomic files, mailboxes, profiles, registry.
//!
//! A file here is old or new, never half: temp, sync, rename, sync of the directory. Every open refuses
//! symlinks, never blocks, and checks that it got a regular file of ours. Formats: `state/README.md`.

pub mod by_hand;
pub mod config_file;
pub mod count;
pub mod disk;
#[cfg(debug_assertions)]
pub mod fault;
pub mod history;
pub mod inbox;
pub mod journal;
pub mod layout;
pub mod mailbox;
pub mod outbox;
pub mod peer_state;
pub mod profile_file;
pub mod registry;
pub mod schedule_file;
pub mod schedule_state;
pub mod shelf;
#[cfg(target_os = "linux")]
pub mod spare;
pub mod spool;
pub mod yaml;
