//! From an address to the presence it means, and who may write to it.

use super::handle::PeerHandle;
use super::host::Host;
use crate::core::fault::{Code, Fault};
use crate::core::names::{Identity, Party, Personality, near};
use crate::core::sanitize;
use std::sync::Arc;

/// The presence that an address means: an identity, or the live or default runtime of a personality.
pub fn resolve(host: &Arc<Host>, address: &str) -> Result<PeerHandle, Fault> {
    let registry = host.registry();
    let unknown = || {
        let names = registry.peers.keys().map(Personality::as_str);
        let close = near(address, names);
        let shown = sanitize::line(&address.chars().take(60).collect::<String>());
        let hint = match close.as_slice() {
            [] => "`iapeer list` shows the peers".to_string(),
            some => format!("did you mean {}?", some.join(" or ")),
        };
        Fault::new(Code::PeerUnknown, format!("no peer is named {shown:?}")).hint(hint)
    };
    if let Ok(identity) = address.parse::<Identity>() {
        if let Some(place) = registry.peers.get(&identity.personality) {
            let (_, runtimes) = host.runtimes_of(&identity.personality, place);
            if runtimes.contains(&identity.runtime) {
                return Ok(host.handle(&identity));
            }
        }
    }
    let personality: Personality = address.parse().map_err(|_| unknown())?;
    let place = registry.peers.get(&personality).ok_or_else(unknown)?;
    let (default, runtimes) = host.runtimes_of(&personality, place);
    let live: Vec<PeerHandle> =
        runtimes.iter().map(|r| host.handle(&Identity::new(r.clone(), personality.clone()))).filter(|h| h.snapshot().session.is_some()).collect();
    match live.as_slice() {
        [one] => Ok(one.clone()),
        _ => Ok(host.handle(&Identity::new(default, personality))),
    }
}

/// The same, and what is a peer no more but has mail.
pub fn resolve_kept(host: &Arc<Host>, address: &str) -> Result<PeerHandle, Fault> {
    let kept = address.parse::<Identity>().ok().and_then(|identity| host.existing(&identity));
    kept.map_or_else(|| resolve(host, address), Ok)
}

/// Whether the profiles of the two let one write to the other. The operator and the system always may.
pub fn allowed(host: &Host, from: &Party, to: &Identity) -> Result<(), Fault> {
    let Party::Peer(sender) = from else { return Ok(()) };
    let lists = |list: &[String], of: &Identity| list.is_empty() || list.iter().any(|n| *n == of.to_string() || *n == of.personality.as_str());
    let refused = |whose: &Identity, key: &str| {
        Err(Fault::new(Code::NotAllowed, format!("{sender} may not write to {to}: `{key}` in the profile of {whose} does not name it"))
            .hint(format!("the operator changes `{key}` in that profile")))
    };
    match (host.last_good_profile(&sender.personality), host.last_good_profile(&to.personality)) {
        (Some(profile), _) if !lists(&profile.allow_to, to) => refused(sender, "allow_to"),
        (_, Some(profile)) if !lists(&profile.allow_from, sender) => refused(to, "allow_from"),
        _ => Ok(()),
    }
}
