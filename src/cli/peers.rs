//! `init`, `create`, `<runtime>`, `start`, `stop`, `new`.

use super::link::{below_a_keeper, connect_or_start, segment};
use super::{
    ApprovalArg, CreateArgs, Done, FreezeArgs, InitArgs, IntelligenceArg, Outcome, PeersArgs, ProfileArgs, RuntimeArgs, WakePolicyArg, attach, json, out, say,
};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{AttachView, FreezeRequest, PeerView, WakeRequest};
use crate::core::fault::{Code, Fault};
use crate::core::message::Intelligence;
use crate::core::names::{Identity, Personality, RuntimeName, near};
use crate::core::peer::WantedBy;
use crate::core::profile::{ApprovalMode, Profile, WakePolicy};
use crate::runtime::load::Runtimes;
use crate::store::layout::Root;
use crate::store::profile_file::{self, ProfileError};
use crate::store::{config_file, registry};
use clap::{CommandFactory, Parser};
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A wake may have to wait for a slow boot.
const WAKE: Duration = Duration::from_secs(330);

fn invalid(e: impl std::fmt::Display) -> Fault {
    Fault::new(Code::Invalid, e.to_string())
}

pub fn init(root: &Root, args: InitArgs, as_json: bool) -> Outcome {
    let folder = args.folder.unwrap_or_else(|| PathBuf::from("."));
    let profile = make_peer(root, &folder, args.name.as_deref(), &args.profile, None)?;
    told(&profile, &folder.canonicalize().unwrap_or(folder), as_json);
    Ok(Done::Ok)
}

pub fn create(root: &Root, args: CreateArgs, as_json: bool) -> Outcome {
    let name: Personality = args.name.parse().map_err(invalid)?;
    let folder = args.path.unwrap_or_else(|| root.default_folder(name.as_str()));
    if profile_file::path_in(&folder).exists() {
        return Err(Fault::new(Code::Conflict, format!("{} is a peer already", folder.display()))
            .hint("`iapeer init` there changes it, another --path makes another peer"));
    }
    let profile = make_peer(root, &folder, Some(name.as_str()), &args.profile, None)?;
    told(&profile, &folder, as_json);
    Ok(Done::Ok)
}

fn told(profile: &Profile, folder: &Path, as_json: bool) {
    if as_json {
        json(
            &serde_json::json!({ "personality": profile.personality, "runtimes": profile.runtimes, "default_runtime": profile.default_runtime, "folder": folder }),
        );
    } else {
        out(&format!("{} is a peer in {} ({})\n", profile.personality, folder.display(), profile.default_runtime));
    }
}

/// Writes or changes the profile of a folder and enters it in the registry.
fn make_peer(root: &Root, folder: &Path, name: Option<&str>, args: &ProfileArgs, runtime: Option<&RuntimeName>) -> Result<Profile, Fault> {
    if below_a_keeper(root) {
        return Err(Fault::new(Code::NotAllowed, "an agent may not make or change peers: that is the operator's"));
    }
    // A folder that is not there yet is made only when nothing speaks against it.
    let folder = match folder.canonicalize() {
        Ok(folder) => folder,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && name.is_some() && folder.file_name().is_some() => {
            std::path::absolute(folder).map_err(|e| invalid(format!("{}: {e}", folder.display())))?
        }
        Err(e) => return Err(invalid(format!("{}: {e}", folder.display()))),
    };
    if std::env::var_os("HOME").map(PathBuf::from).and_then(|h| h.canonicalize().ok()).is_some_and(|home| home == folder) {
        return Err(invalid("your home folder cannot be a peer").hint("make a folder for it and run this there"));
    }
    root.ensure().map_err(invalid)?;
    let settings = config_file::load(root, |n| std::env::var(n).ok()).map_err(invalid)?;
    let runtimes = Runtimes::load(&root.runtimes());
    let wanted: Option<RuntimeName> = match (&args.runtime, runtime) {
        (Some(text), _) => Some(text.parse().map_err(invalid)?),
        (None, given) => given.cloned(),
    };
    let mut profile = match profile_file::load(&folder) {
        Ok(loaded) => loaded.profile,
        Err(ProfileError::None(_)) | Err(ProfileError::FolderGone(_)) => {
            let name = match name {
                Some(name) => name.parse().map_err(invalid)?,
                None => profile_file::name_for(&folder).map_err(|e| invalid(e).hint("choose one with --name"))?,
            };
            Profile::new(name, wanted.clone().unwrap_or(settings.default_runtime))
        }
        Err(error) => return Err(invalid(error).hint("mend the file; nothing was changed")),
    };
    if let Some(name) = name {
        profile.personality = name.parse().map_err(invalid)?;
    }
    if let Some(runtime) = wanted {
        if !profile.runtimes.contains(&runtime) {
            profile.runtimes.push(runtime.clone());
        }
        profile.default_runtime = runtime;
    }
    for runtime in profile.runtimes.iter().filter(|r| !r.is_none()) {
        runtimes.get(runtime).map_err(|e| invalid(e).hint(format!("a definition is a file {}/{runtime}.yaml", root.runtimes().display())))?;
    }
    profile.personality.check_against(runtimes.names().chain([&RuntimeName::none()])).map_err(|e| invalid(e).hint("choose another with --name"))?;
    apply(args, &mut profile);
    profile.check().map_err(invalid)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let made = !folder.exists();
    let enter = |r: &mut registry::Registry| {
        r.check(&profile, &folder)?;
        crate::store::disk::create_dir(&folder).map_err(|source| registry::RegistryError::Io { path: folder.clone(), source })?;
        // The registry knows a folder by its one true path.
        let true_path = folder.canonicalize().map_err(|source| registry::RegistryError::Io { path: folder.clone(), source })?;
        r.enter(&profile, &true_path, path)?;
        // Before the registry names it: whoever reads that finds a whole peer.
        profile_file::save(&folder, &profile).map_err(|e| registry::RegistryError::Io { path: folder.clone(), source: std::io::Error::other(e.to_string()) })
    };
    registry::update(root, enter).map_err(|e| {
        if made {
            let _ = std::fs::remove_dir(&folder);
        }
        Fault::new(Code::Conflict, e.to_string())
    })?;
    Ok(profile)
}

fn apply(args: &ProfileArgs, profile: &mut Profile) {
    if let Some(description) = &args.description {
        profile.description = description.clone();
    }
    if let Some(policy) = args.wake_policy {
        profile.wake_policy = match policy {
            WakePolicyArg::Warm => WakePolicy::Warm,
            WakePolicyArg::Ephemeral => WakePolicy::Ephemeral,
        };
    }
    if let Some(mode) = args.approval_mode {
        profile.approval_mode = match mode {
            ApprovalArg::Gated => ApprovalMode::Gated,
            ApprovalArg::Yolo => ApprovalMode::Yolo,
        };
    }
    if let Some(intelligence) = args.intelligence {
        profile.intelligence = match intelligence {
            IntelligenceArg::Artificial => Intelligence::Artificial,
            IntelligenceArg::Natural => Intelligence::Natural,
            IntelligenceArg::Absent => Intelligence::Absent,
        };
    }
}

/// `iapeer <runtime>` in a project folder.
pub async fn runtime(root: &Root, words: Vec<String>, as_json: bool) -> Outcome {
    let runtimes = Runtimes::load(&root.runtimes());
    let word = words.first().map(String::as_str).unwrap_or_default();
    let known: Vec<&str> = runtimes.names().map(RuntimeName::as_str).collect();
    let Some(runtime) = word.parse::<RuntimeName>().ok().filter(|r| known.contains(&r.as_str())) else {
        let command = super::Cli::command();
        let verbs = command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name);
        let close = near(word, verbs.chain(known.iter().copied()));
        let hint =
            close.first().map_or_else(|| format!("`iapeer --help` shows the verbs; runtimes: {}", known.join(", ")), |c| format!("did you mean `iapeer {c}`?"));
        return Err(invalid(format!("{word:?} is neither a verb nor a runtime")).hint(hint));
    };
    let args = match RuntimeArgs::try_parse_from(&words[1..]) {
        Ok(args) => args,
        Err(error) => {
            super::usage(&error);
            return Ok(Done::Code(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    let folder = std::env::current_dir().map_err(|e| invalid(format!("this folder: {e}")))?;
    if !profile_file::path_in(&folder).exists() && !args.yes {
        ask(&folder, &runtime)?;
    }
    let profile = make_peer(root, &folder, args.name.as_deref(), &args.profile, Some(&runtime))?;
    let identity = Identity::new(runtime, profile.personality.clone());
    let as_json = as_json || args.json;
    let mut client = connect_or_start(root).await?;
    let path = format!("/v1/peers/{}/wake", segment(&identity.to_string()));
    let request = WakeRequest { cause: WantedBy::FolderLaunch, fresh: args.fresh, cut_turn: args.yes };
    let view = attach::wake(&mut client, &path, request).await?;
    if !view.woke {
        say(&format!("{identity} is live already (incarnation {}); `--fresh` replaces it", view.incarnation));
    }
    if args.detached || !std::io::stdout().is_terminal() {
        if as_json {
            json(&view);
        } else {
            out(&format!("{identity} is up (incarnation {}); `iapeer attach {}` opens its terminal\n", view.incarnation, profile.personality));
        }
        return Ok(Done::Ok);
    }
    attach::open(root, &view, false).await
}

fn ask(folder: &Path, runtime: &RuntimeName) -> Result<(), Fault> {
    let refuse = || {
        invalid(format!("{} is no peer yet", folder.display())).hint(format!("`iapeer {runtime} --yes` makes it one: the agent may then work in this folder, and the program's own question whether you trust it is answered with yes"))
    };
    if !std::io::stdin().is_terminal() {
        return Err(refuse());
    }
    say(&format!(
        "Make {} a peer that runs {runtime}? The agent may then work in this folder, and the program's own question whether you trust it is answered with yes. [y/N]",
        folder.display()
    ));
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(refuse()) }
}

pub(super) async fn chosen(client: &mut Client, args: &PeersArgs) -> Result<Vec<String>, Fault> {
    match &args.peer {
        Some(peer) => Ok(vec![peer.clone()]),
        None => {
            let peers: Vec<PeerView> = client.get("/v1/peers", ANSWER).await?;
            Ok(peers.into_iter().flat_map(|p| p.runtimes).map(|r| r.identity.to_string()).collect())
        }
    }
}

pub async fn stop(root: &Root, args: PeersArgs, as_json: bool) -> Outcome {
    let mut client = Client::connect(root).await?;
    for peer in chosen(&mut client, &args).await? {
        let identity: Identity = client.post(&format!("/v1/peers/{}/stop", segment(&peer)), &serde_json::json!({}), WAKE).await?;
        if as_json {
            json(&serde_json::json!({ "identity": identity, "state": "stopped" }));
        } else {
            out(&format!("{identity} is stopped; its mail waits, `iapeer start {identity}` starts it\n"));
        }
    }
    Ok(Done::Ok)
}

pub async fn start(root: &Root, args: PeersArgs, as_json: bool) -> Outcome {
    let mut client = connect_or_start(root).await?;
    for peer in chosen(&mut client, &args).await? {
        let view: AttachView = client.post(&format!("/v1/peers/{}/start", segment(&peer)), &serde_json::json!({}), WAKE).await?;
        up(&view, as_json);
    }
    Ok(Done::Ok)
}

pub async fn new(root: &Root, peer: &str, as_json: bool) -> Outcome {
    let mut client = connect_or_start(root).await?;
    let view: AttachView = client.post(&format!("/v1/peers/{}/new", segment(peer)), &serde_json::json!({}), WAKE).await?;
    up(&view, as_json);
    Ok(Done::Ok)
}

pub async fn freeze(root: &Root, args: FreezeArgs, on: bool) -> Outcome {
    let mut client = Client::connect(root).await?;
    let whom = args.peer.clone().unwrap_or_else(|| "the whole host".into());
    let request = FreezeRequest { peer: args.peer, reason: args.reason };
    let done: String = client.post(if on { "/v1/freeze" } else { "/v1/unfreeze" }, &request, ANSWER).await?;
    let then = if on { "nothing is started or delivered, mail waits; `iapeer unfreeze` lifts it" } else { "mail goes on" };
    out(&format!("{whom} is {done}: {then}\n"));
    Ok(Done::Ok)
}

pub async fn remove(root: &Root, peer: &str, as_json: bool) -> Outcome {
    let mut client = Client::connect(root).await?;
    let removed: Vec<Identity> = client.post(&format!("/v1/peers/{}/remove", segment(peer)), &serde_json::json!({}), WAKE).await?;
    if as_json {
        json(&removed);
    } else {
        let names: Vec<String> = removed.iter().map(Identity::to_string).collect();
        out(&format!("{} removed; its folder stays, its state is kept in {}\n", names.join(", "), root.removed().display()));
    }
    Ok(Done::Ok)
}

fn up(view: &AttachView, as_json: bool) {
    if as_json {
        json(view);
    } else {
        out(&format!("{} is up (incarnation {})\n", view.identity, view.incarnation));
    }
}
