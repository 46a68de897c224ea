//! The operator's own command for each piece of mail: `on_notice` of the settings.

use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Longest time such a command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs it beside everything else; its failure is logged and disturbs nothing.
pub fn run(program: String, arguments: Vec<String>, mail: Vec<u8>) {
    tokio::spawn(async move {
        #[allow(clippy::disallowed_methods, reason = "the operator's command, asked for in the settings")]
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let told = async {
            let mut child = command.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                // A command that does not want to read need not.
                let _ = input.write_all(&mail).await;
            }
            child.wait().await
        };
        match tokio::time::timeout(LIMIT, told).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::warn!(%program, %status, "on_notice failed"),
            Ok(Err(error)) => tracing::warn!(%program, %error, "on_notice could not be run"),
            Err(_) => tracing::warn!(%program, "on_notice took longer than {} s and was ended", LIMIT.as_secs()),
        }
    });
}
