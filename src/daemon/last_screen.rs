//! What a terminal shows, kept while it runs: whoever holds it may vanish at any moment, and the screen
//! with it.
//!
//! A screen that changes is looked at once in a while, one that stands still never. The file is the one that
//! the collection of a session writes, which overwrites it when the terminal can still be asked. It is not
//! synced: it explains an end, and nothing is decided by it.

use super::host::Host;
use crate::core::screen::Screen;
use crate::ports::disk::Disk;
use crate::ports::terminal::PaneRef;
use crate::store::disk::{OsDisk, remove_if_there};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Between the first change and the look at it.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two looks at a screen that goes on changing, at most: so much of what was shown last may be missing.
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// Where the last screen of a session lies.
pub fn path(exits: &Path, inc: u64) -> PathBuf {
    exits.join(format!("{inc}.screen.txt"))
}

/// Follows the terminal of a session until it is aborted, or the terminal is gone.
pub async fn follow(host: Arc<Host>, tty: PathBuf, path: PathBuf, pane: PaneRef) {
    let mut known = None;
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let news = Arc::new(Notify::new());
        let told = news.clone();
        // Before the look: what is drawn after it, is told.
        let Ok(_watch) = host.watch.modified(&tty, Box::new(move || told.notify_one())) else { return };
        let shown = match host.terminal.look(pane.clone()).await {
            Ok(captured) if captured.dead => return,
            Ok(captured) => Some(Screen::parse(&captured.screen).text()),
            Err(_) => None,
        };
        if let Some(text) = shown.filter(|text| known != Some(hash(text))) {
            if let Err(error) = write(&path, &text) {
                tracing::debug!(%error, path = %path.display(), "a screen could not be kept");
            }
            known = Some(hash(&text));
            pause = PAUSE_MOST.min(pause * 2);
        } else {
            news.notified().await;
            pause = PAUSE;
        }
    }
}

/// In place of the text, which there may be hundreds of.
fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let temp = path.with_file_name(format!(".{}.tmp", path.file_name().unwrap_or_default().to_string_lossy()));
    // A killed daemon may have left it.
    remove_if_there(&OsDisk, &temp)?;
    OsDisk.create(&temp, text.as_bytes())?;
    OsDisk.rename(&temp, path)
}
