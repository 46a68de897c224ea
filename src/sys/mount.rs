//! Which mount a directory lies on.

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::path::Path;

/// Never given twice in one boot (Linux 6.8).
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Names the mount that a directory lies on: another one when its file system was taken away and has come back,
/// which loses what was not synced just as a power cut does. `None` where the system does not tell.
pub fn id(dir: &Path) -> Option<u64> {
    let told = statx(CWD, dir, AtFlags::empty(), UNIQUE | StatxFlags::MNT_ID).ok()?;
    let known = told.stx_mask & (UNIQUE | StatxFlags::MNT_ID).bits() != 0;
    known.then_some(told.stx_mnt_id)
}
