//! The processes of a pane: the keeper, and the embedded agent.

use super::{Done, Outcome};
use crate::core::fault::{Code, Fault};
use crate::echo;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct EchoArgs {
    #[arg(long)]
    transcripts: PathBuf,
    #[arg(long, conflicts_with = "resume", required_unless_present = "resume")]
    session_id: Option<String>,
    #[arg(long)]
    resume: Option<String>,
    #[arg(long)]
    hook: Vec<String>,
    #[arg(long)]
    send: Vec<String>,
}

pub fn keep(launch_file: &std::path::Path) -> Outcome {
    crate::sys::spawn::tighten_umask();
    match crate::keeper::run(launch_file) {
        Ok(code) => Ok(Done::Code(u8::try_from(code).unwrap_or(255))),
        Err(error) => Err(Fault::new(Code::WakeFailed, error.to_string())),
    }
}

pub fn log(file: &std::path::Path, max: u64) -> Outcome {
    crate::sys::spawn::tighten_umask();
    let written = crate::keeper::pane_log::run(std::io::stdin().lock(), file, max);
    written.map(|()| Done::Ok).map_err(|error| Fault::new(Code::Internal, error.to_string()))
}

pub fn echo_agent(args: EchoArgs) -> Outcome {
    let resume = args.resume.is_some();
    let Some(session_id) = args.resume.or(args.session_id) else {
        return Err(Fault::new(Code::Invalid, "--session-id or --resume is needed"));
    };
    let options = echo::Options { transcripts: args.transcripts, session_id, resume, hook: args.hook, send: args.send };
    match echo::agent::run(options) {
        Ok(code) => Ok(Done::Code(u8::try_from(code).unwrap_or(255))),
        Err(error) => Err(Fault::new(Code::Invalid, error.to_string())),
    }
}
