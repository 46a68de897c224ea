//! What profile and host settings say about a peer, as its decisions need it.

use super::host::Host;
use crate::core::names::Identity;
use crate::core::peer::{Peer, RestRules, Timing};
use crate::core::profile::{Managed, Profile, WakePolicy};
use crate::core::runtime::{Definition, SessionIdFrom};
use crate::core::settings::{EPHEMERAL_MAX_AGE_SECS, Settings};
use crate::runtime::load::Runtimes;
use std::sync::Arc;

/// What its profile says now; a profile that cannot be read changes nothing.
pub fn apply(peer: &mut Peer, host: &Host) {
    if let Ok((_, loaded)) = host.profile(&peer.identity.personality) {
        let profile = loaded.profile;
        peer.wake_policy = profile.wake_policy;
        peer.resume_policy = profile.resume;
        peer.at_most_once = profile.at_most_once;
        peer.person_facing = profile.faces_a_person();
        peer.rules = rest_rules(&host.settings, &profile);
    }
}

/// A peer without any state yet.
pub fn fresh_peer(host: &Host, identity: &Identity) -> Peer {
    let settings = &host.settings;
    let timing = Timing {
        boot_deadline_ms: settings.boot_deadline_secs * 1000,
        ready_gate_ms: settings.ready_gate_secs * 1000,
        crashloop_max: settings.crashloop_max,
        crashloop_window_ms: settings.crashloop_window_secs * 1000,
        draft_notice_ms: settings.draft_notice_secs * 1000,
    };
    Peer::new(identity.clone(), definition_or_stand_in(&host.runtimes(), identity), timing)
}

/// When a session of this peer is ended by itself. A bound of 0 is none.
fn rest_rules(settings: &Settings, profile: &Profile) -> RestRules {
    let ms = |secs: u64| Some(secs * 1000).filter(|ms| *ms > 0);
    let ephemeral = profile.wake_policy == WakePolicy::Ephemeral;
    let oldest = if ephemeral { settings.max_age_secs.unwrap_or(EPHEMERAL_MAX_AGE_SECS) } else { settings.max_age_secs.unwrap_or(0) };
    RestRules {
        idle_ms: ms(profile.idle_secs.unwrap_or(settings.idle_secs)),
        max_age_ms: ms(profile.max_age_secs.unwrap_or(oldest)),
        quiet_ms: settings.ephemeral_quiet_secs * 1000,
        unarmed_ms: settings.ephemeral_unarmed_secs * 1000,
        keep_alive: profile.keep_alive,
        external: profile.managed == Managed::External,
    }
}

/// A peer whose definition is missing or broken cannot be launched (the launch says why); its mail is
/// kept all the same, and for that any definition does.
fn definition_or_stand_in(runtimes: &Runtimes, identity: &Identity) -> Arc<Definition> {
    let stand_in = || runtimes.names().find_map(|n| runtimes.get(n).ok());
    match runtimes.get(&identity.runtime).ok().or_else(stand_in) {
        Some(definition) => definition,
        None => Arc::new(crate::runtime::load::embedded_echo()),
    }
}

/// Whether a fresh conversation gets an id from us.
pub fn chooses_session_id(definition: &Definition) -> bool {
    definition.resume.session_id == SessionIdFrom::Chosen
}
