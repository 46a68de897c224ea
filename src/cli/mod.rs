//! The command line. Verbs speak to the daemon over its socket; reading verbs answer from the files when
//! none runs, and say so.
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by state, 4 daemon unreachable, 5 accepted but the
//! awaited state was not reached in time.

#![allow(clippy::disallowed_methods, reason = "the command line is a program of its own: it starts tmux clients and waits with deadlines")]

mod attach;
mod control;
mod daemon;
mod explain;
mod hook;
mod link;
mod logs;
mod mail;
mod manager;
mod mcp;
mod offline;
mod pane;
mod peers;
mod queue;
mod schedules;
mod service;
mod show;
mod watch;
mod watch_view;

use crate::core::fault::{Code, Fault};
use crate::core::message::MessageId;
use crate::store::layout::Root;
use crate::sys::notify::Notify;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "iapeer",
    version,
    about = "Coding agents as peers: an address, a durable mailbox, a supervised terminal",
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "In a project folder, `iapeer <runtime>` (claude, codex, echo, or a definition of your own) makes the folder a peer,\nstarts the program and opens its terminal; `iapeer <runtime> --help` shows its options."
)]
struct Cli {
    /// Print data as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the daemon in the foreground, or end the one that runs.
    Daemon(DaemonArgs),
    /// Make a folder a peer.
    Init(InitArgs),
    /// Create a peer in a folder of its own.
    Create(CreateArgs),
    /// Show the peers.
    #[command(visible_alias = "ls")]
    List {
        /// Keep showing them, full screen, until `q`.
        #[arg(long)]
        watch: bool,
    },
    /// Show the daemon and what is not right.
    Status,
    /// Send a message to a peer.
    Send(SendArgs),
    /// Read the operator's mail; what is shown is acknowledged.
    Inbox(InboxArgs),
    /// Look through the mail of the past and present.
    Messages(MessagesArgs),
    /// Look into the queue of a peer, decide about what is in it.
    Queue(QueueArgs),
    /// Show what the profiles have on schedule: when it fires next, fired last, what is wrong with it.
    Schedules(SchedulesArgs),
    /// Say why a message or a peer is where it is.
    Explain(ExplainArgs),
    /// Start and deliver nothing until `unfreeze`.
    Freeze(FreezeArgs),
    /// Lift a freeze.
    Unfreeze(FreezeArgs),
    /// Take a peer off this host; its folder stays.
    Remove(PeerArg),
    /// Open the terminal of a peer; Ctrl-] detaches.
    Attach(AttachArgs),
    /// Print what the terminal of a peer shows.
    Screen(PeerArg),
    /// End a peer's session and keep it ended.
    Stop(PeersArgs),
    /// Start a stopped or crashed peer.
    Start(PeersArgs),
    /// Replace a peer's session by a fresh one.
    New(PeerArg),
    #[command(flatten)]
    Control(control::ControlVerb),
    /// Show or follow the logs.
    Logs(LogsArgs),
    /// Let systemd or launchd keep the daemon running.
    Service(service::ServiceArgs),
    /// Serve send_to_peer and list_peers over stdio (started by agent programs).
    Mcp,
    /// Report an event of an agent program (run by its hooks).
    Hook(HookArgs),
    /// Print the version.
    Version,
    #[command(hide = true)]
    Keep { launch_file: PathBuf },
    #[command(hide = true)]
    PaneLog { file: PathBuf, max: u64 },
    #[command(hide = true)]
    EchoAgent(pane::EchoArgs),
    /// `iapeer <runtime>` in a project folder: make it a peer if it is none yet, start, attach.
    #[command(external_subcommand)]
    Runtime(Vec<String>),
}

#[derive(Args)]
struct DaemonArgs {
    #[command(subcommand)]
    action: Option<DaemonAction>,
}

#[derive(Subcommand)]
enum DaemonAction {
    /// End the daemon that runs; sessions go on.
    Stop {
        /// End the sessions, too.
        #[arg(long)]
        all_peers: bool,
    },
}

#[derive(Args)]
struct InitArgs {
    /// The folder (default: this one).
    folder: Option<PathBuf>,
    /// The peer's name, where the folder's own name will not do.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    profile: ProfileArgs,
}

#[derive(Args)]
struct CreateArgs {
    /// The peer's name.
    name: String,
    /// Its folder (default: <root>/peers/NAME).
    #[arg(long)]
    path: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileArgs,
}

#[derive(Args, Clone)]
struct ProfileArgs {
    /// The program that embodies it (default: default_runtime of the host's config).
    #[arg(long)]
    runtime: Option<String>,
    /// What other peers are told about it, at most 450 characters.
    #[arg(long)]
    description: Option<String>,
    #[arg(long, value_enum)]
    wake_policy: Option<WakePolicyArg>,
    /// gated: the program asks before it acts; yolo: it never asks.
    #[arg(long, value_enum)]
    approval_mode: Option<ApprovalArg>,
    #[arg(long, value_enum)]
    intelligence: Option<IntelligenceArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WakePolicyArg {
    Warm,
    Ephemeral,
}

#[derive(Clone, Copy, ValueEnum)]
enum ApprovalArg {
    Gated,
    Yolo,
}

#[derive(Clone, Copy, ValueEnum)]
enum IntelligenceArg {
    Artificial,
    Natural,
    Absent,
}

#[derive(Args)]
struct SendArgs {
    /// Recipients (personality, identity, group or `operator`), then the message, unless `--message` or
    /// `--message-file` brings it.
    #[arg(required = true, value_name = "PEER… [MESSAGE]")]
    words: Vec<String>,
    #[arg(long, allow_hyphen_values = true)]
    message: Option<String>,
    /// A file with the message; `-` is standard input.
    #[arg(long, conflicts_with = "message")]
    message_file: Option<String>,
    /// A file that travels with it; may be given several times.
    #[arg(long, value_name = "FILE")]
    attachment: Vec<PathBuf>,
    /// The same key and message again is the same message, not another one.
    #[arg(long)]
    key: Option<String>,
    /// Type the text as it is, without an envelope, for the program's own commands.
    #[arg(long)]
    raw: bool,
    /// Send in the name of this peer.
    #[arg(long, value_name = "PEER")]
    from: Option<String>,
    /// The thread of work this belongs to; decides whether a sleeper resumes.
    #[arg(long)]
    topic: Option<String>,
    /// The message this answers.
    #[arg(long)]
    in_reply_to: Option<MessageId>,
    /// Goes before normal mail.
    #[arg(long)]
    urgent: bool,
    /// Leave it for a stopped peer, too.
    #[arg(long)]
    queue: bool,
    /// Wait until the agent has taken it, or until the recipient has answered.
    #[arg(long, value_enum)]
    wait: Option<WaitArg>,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WaitArg {
    Submitted,
    Answered,
}

#[derive(Args)]
struct InboxArgs {
    /// Whose mail: a peer without a terminal (default: operator).
    peer: Option<String>,
    /// Show acknowledged mail, too.
    #[arg(long)]
    all: bool,
    /// Do not acknowledge what is shown.
    #[arg(long)]
    keep: bool,
    /// Wait so many seconds for some mail.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
}

#[derive(Args)]
struct MessagesArgs {
    /// Only from or to this peer.
    peer: Option<String>,
    #[arg(long)]
    topic: Option<String>,
    /// `accepted`, `held`, `submitted`, `answered`, `acknowledged`, `expired`, `dead`, `parked`, …
    #[arg(long)]
    state: Option<String>,
    /// Only with this in its text.
    #[arg(long)]
    text: Option<String>,
    /// So many of the newest.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

#[derive(Args)]
struct QueueArgs {
    /// The peer whose queue it is.
    peer: String,
    #[command(subcommand)]
    act: Option<QueueVerb>,
}

#[derive(Subcommand)]
enum QueueVerb {
    /// What waits, is parked or was given up (also without a word).
    List,
    /// One message with its text.
    Show { id: MessageId },
    /// Deliver again what was given up, has expired or is parked.
    Retry { id: MessageId },
    /// Give up a waiting message; its sender is told.
    Drop { id: MessageId },
    /// Put a waiting message aside.
    Hold { id: MessageId },
    /// Let a message go on that was put aside.
    Release { id: MessageId },
}

#[derive(Args)]
struct SchedulesArgs {
    /// Only of this peer.
    peer: Option<String>,
}

#[derive(Args)]
struct ExplainArgs {
    /// A message id, or a peer.
    what: String,
}

#[derive(Args)]
struct FreezeArgs {
    /// The peer (default: the whole host).
    peer: Option<String>,
    /// Why; shown to whoever is refused.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Args)]
struct AttachArgs {
    peer: String,
    /// Watch, type nothing.
    #[arg(long)]
    read_only: bool,
    /// Start a fresh conversation instead of resuming.
    #[arg(long)]
    fresh: bool,
    /// With `--fresh`: also when a turn is running, without asking.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct PeerArg {
    peer: String,
}

#[derive(Args)]
pub struct PeersArgs {
    /// Personality or identity.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    peer: Option<String>,
    /// Every peer.
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
struct LogsArgs {
    /// Only lines about this peer.
    peer: Option<String>,
    /// Go on showing what comes.
    #[arg(short, long)]
    follow: bool,
    /// Only lifecycle.log.
    #[arg(long, conflicts_with_all = ["delivery", "exits"])]
    lifecycle: bool,
    /// Only delivery.log.
    #[arg(long, conflicts_with = "exits")]
    delivery: bool,
    /// Only exits.log: how each session ended, and what is kept of it.
    #[arg(long)]
    exits: bool,
    /// What its terminal has shown, as plain text.
    #[arg(long, requires = "peer", conflicts_with_all = ["lifecycle", "delivery", "exits", "follow"])]
    pane: bool,
}

#[derive(Args)]
struct HookArgs {
    /// The event, in the words of the program.
    event: String,
}

/// Arguments of `iapeer <runtime>`.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct RuntimeArgs {
    /// Make this folder a peer, and replace a session whose turn is running, without asking.
    #[arg(long)]
    yes: bool,
    /// Replace a live session.
    #[arg(long)]
    fresh: bool,
    /// Start it, do not open its terminal.
    #[arg(long)]
    detached: bool,
    #[arg(long)]
    json: bool,
    /// The peer's name, where the folder's own name will not do.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// How a verb ends well.
pub enum Done {
    Ok,
    /// Accepted, but the awaited state was not reached in time.
    NotYet,
    Code(u8),
}

type Outcome = Result<Done, Fault>;

/// Writes to standard output; a reader that went away is no failure.
fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn json<T: serde::Serialize>(value: &T) {
    out(&format!("{}\n", serde_json::to_string(value).unwrap_or_default()));
}

pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let as_json = cli.json;
    match run(cli) {
        Ok(Done::Ok) => ExitCode::SUCCESS,
        Ok(Done::NotYet) => ExitCode::from(5),
        Ok(Done::Code(code)) => ExitCode::from(code),
        Err(fault) => {
            if as_json {
                json(&crate::api::shapes::ErrorBody { error: fault.clone() });
            } else {
                say(&format!("iapeer: {}", crate::core::sanitize::line(&fault.message)));
                say(&format!("  why: {} ({})", fault.code.meaning(), fault.code));
                if !fault.hint.is_empty() {
                    say(&format!("  do:  {}", crate::core::sanitize::line(&fault.hint)));
                }
            }
            ExitCode::from(fault.code.exit())
        }
    }
}

/// What clap says; as JSON where JSON was asked for and something is wrong.
fn usage(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if code != 0 && std::env::args().any(|a| a == "--json") {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string();
        json(&crate::api::shapes::ErrorBody { error: Fault::new(Code::Invalid, line).hint("`--help` shows what is understood") });
    } else {
        let _ = error.print();
    }
    ExitCode::from(code)
}

fn run(cli: Cli) -> Outcome {
    // These are the pane's own processes: no runtime, no root of theirs.
    match cli.verb {
        Verb::Keep { launch_file } => return pane::keep(&launch_file),
        Verb::PaneLog { file, max } => return pane::log(&file, max),
        Verb::EchoAgent(args) => return pane::echo_agent(args),
        Verb::Version => {
            out(&format!("iapeer {}\n", env!("CARGO_PKG_VERSION")));
            return Ok(Done::Ok);
        }
        _ => {}
    }
    let daemon = matches!(&cli.verb, Verb::Daemon(DaemonArgs { action: None }));
    // Before there is a second thread.
    let notify =
        if daemon { Notify::take().map_err(|e| Fault::new(Code::Invalid, e).hint("unset it to start without a service manager"))? } else { Notify::default() };
    crate::sys::spawn::tighten_umask();
    let root = Root::from_env(|n| std::env::var(n).ok()).map_err(|e| Fault::new(Code::Invalid, e.to_string()))?;
    let builder = || if daemon { tokio::runtime::Builder::new_multi_thread() } else { tokio::runtime::Builder::new_current_thread() };
    let runtime = builder().enable_all().build().map_err(|e| Fault::new(Code::Internal, format!("the runtime: {e}")))?;
    let outcome = runtime.block_on(dispatch(root, cli, notify));
    // A reader of standard input may still hang in it.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    outcome
}

async fn dispatch(root: Root, cli: Cli, notify: Notify) -> Outcome {
    let as_json = cli.json;
    match cli.verb {
        Verb::Daemon(args) => match args.action {
            None => daemon::run(root, notify).await,
            Some(DaemonAction::Stop { all_peers }) => daemon::stop(&root, all_peers).await,
        },
        Verb::Init(args) => peers::init(&root, args, as_json),
        Verb::Create(args) => peers::create(&root, args, as_json),
        Verb::List { watch: true } => watch::watch(&root, as_json).await,
        Verb::List { watch: false } => show::list(&root, as_json).await,
        Verb::Status => show::status(&root, as_json).await,
        Verb::Send(args) => mail::send(&root, args, as_json).await,
        Verb::Inbox(args) => mail::inbox(&root, args, as_json).await,
        Verb::Messages(args) => queue::messages(&root, args, as_json).await,
        Verb::Queue(args) => queue::queue(&root, args, as_json).await,
        Verb::Schedules(args) => schedules::schedules(&root, args.peer.as_deref(), as_json).await,
        Verb::Explain(args) => explain::explain(&root, &args.what, as_json).await,
        Verb::Freeze(args) => peers::freeze(&root, args, true).await,
        Verb::Unfreeze(args) => peers::freeze(&root, args, false).await,
        Verb::Remove(args) => peers::remove(&root, &args.peer, as_json).await,
        Verb::Attach(args) => attach::attach(&root, args).await,
        Verb::Screen(args) => show::screen(&root, &args.peer, as_json).await,
        Verb::Stop(args) => peers::stop(&root, args, as_json).await,
        Verb::Start(args) => peers::start(&root, args, as_json).await,
        Verb::New(args) => peers::new(&root, &args.peer, as_json).await,
        Verb::Control(verb) => control::run(&root, verb, as_json).await,
        Verb::Logs(args) => logs::logs(&root, args).await,
        Verb::Service(args) => service::service(&root, args, as_json).await,
        Verb::Mcp => mcp::serve(root).await,
        Verb::Hook(args) => hook::hook(&root, &args.event).await,
        Verb::Runtime(words) => peers::runtime(&root, words, as_json).await,
        Verb::Keep { .. } | Verb::PaneLog { .. } | Verb::EchoAgent(_) | Verb::Version => Ok(Done::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        RuntimeArgs::command().debug_assert();
    }

    #[test]
    fn every_verb_is_a_reserved_name() {
        for verb in Cli::command().get_subcommands() {
            let name = verb.get_name();
            // `echo-agent` has a dash, which no runtime has, but a personality may.
            assert!(crate::core::names::RESERVED.contains(&name), "{name}");
        }
    }
}
