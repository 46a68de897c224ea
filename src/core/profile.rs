//! A peer's profile, `<folder>/.iapeer/peer.yaml`: the source of truth about a peer.
//!
//! Unknown keys are kept on rewrite and reported; an unknown *value* makes the profile invalid, it is
//! never read as some default.

use super::limits::DESCRIPTION_CHARS;
use super::message::Intelligence;
use super::names::{Identity, Personality, RuntimeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub personality: Personality,
    pub runtimes: Vec<RuntimeName>,
    pub default_runtime: RuntimeName,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub intelligence: Intelligence,
    /// Seed of a fresh session's first turn.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub initial_prompt: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub wake_policy: WakePolicy,
    #[serde(default, skip_serializing_if = "is_default")]
    pub resume: ResumePolicy,
    #[serde(default, skip_serializing_if = "is_default")]
    pub approval_mode: ApprovalMode,
    #[serde(default, skip_serializing_if = "is_default")]
    pub managed: Managed,
    #[serde(default, skip_serializing_if = "is_default")]
    pub keep_alive: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub at_most_once: bool,
    /// Seconds without activity after which the session is put to sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_secs: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_secs: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_passthrough: Vec<String>,
    /// More arguments for the agent program, appended to those of its definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_to: Vec<String>,
    /// Read entry by entry: a bad one takes only itself out (`core::schedule`).
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub schedules: serde_json::Value,
    /// Keys this version does not know; kept on rewrite.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

fn is_default<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WakePolicy {
    #[default]
    Warm,
    Ephemeral,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResumePolicy {
    #[default]
    Topic,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalMode {
    /// The program asks before it acts.
    #[default]
    Gated,
    /// The program never asks.
    Yolo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Managed {
    #[default]
    Iapeer,
    /// Delivered to while live, never woken, reaped or drained.
    External,
}

/// When an edited key takes effect on a peer that may be running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    AtOnce,
    /// With the next launch, fresh or resumed: the program reads it when it starts.
    NextSession,
    /// With the next fresh conversation.
    NextFresh,
}

impl Takes {
    pub fn of(key: &str) -> Self {
        match key {
            "args" | "env" | "env_passthrough" | "approval_mode" | "default_runtime" => Takes::NextSession,
            "initial_prompt" => Takes::NextFresh,
            _ => Takes::AtOnce,
        }
    }
}

/// The keys of a profile, for "did you mean".
pub const KNOWN_KEYS: &[&str] = &[
    "personality",
    "runtimes",
    "default_runtime",
    "description",
    "intelligence",
    "initial_prompt",
    "wake_policy",
    "resume",
    "approval_mode",
    "managed",
    "keep_alive",
    "at_most_once",
    "idle_secs",
    "max_age_secs",
    "env",
    "env_passthrough",
    "args",
    "allow_from",
    "allow_to",
    "schedules",
    "interfaces",
];

impl Profile {
    pub fn new(personality: Personality, runtime: RuntimeName) -> Self {
        Profile {
            personality,
            runtimes: vec![runtime.clone()],
            default_runtime: runtime,
            description: String::new(),
            intelligence: Intelligence::default(),
            initial_prompt: String::new(),
            wake_policy: WakePolicy::default(),
            resume: ResumePolicy::default(),
            approval_mode: ApprovalMode::default(),
            managed: Managed::default(),
            keep_alive: false,
            at_most_once: false,
            idle_secs: None,
            max_age_secs: None,
            env: BTreeMap::new(),
            env_passthrough: Vec::new(),
            args: Vec::new(),
            allow_from: Vec::new(),
            allow_to: Vec::new(),
            schedules: serde_json::Value::Null,
            other: BTreeMap::new(),
        }
    }

    /// What the types alone cannot say. The error is one line for a person.
    pub fn check(&self) -> Result<(), String> {
        if self.runtimes.is_empty() {
            return Err("`runtimes` is empty; name at least one".into());
        }
        if !self.runtimes.contains(&self.default_runtime) {
            return Err(format!("`default_runtime` {} is not one of `runtimes`", self.default_runtime));
        }
        if self.runtimes.iter().any(RuntimeName::is_none) && (self.runtimes.len() > 1 || self.intelligence == Intelligence::Artificial) {
            return Err("the runtime `none` (no program, mail by API) stands alone, for an `intelligence` of `natural` or `absent`".into());
        }
        if self.description.chars().count() > DESCRIPTION_CHARS {
            return Err(format!("`description` is longer than {DESCRIPTION_CHARS} characters"));
        }
        Ok(())
    }

    /// Whether a person talks to it, over a terminal or a channel of its own.
    pub fn faces_a_person(&self) -> bool {
        let empty = |v: &serde_json::Value| v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(serde_json::Map::is_empty) || v.is_null();
        self.intelligence == Intelligence::Natural || self.other.get("interfaces").is_some_and(|v| !empty(v))
    }

    /// The keys in which another version of it differs, with when that takes effect.
    pub fn changes(&self, other: &Profile) -> Vec<(String, Takes)> {
        let fields = |profile: &Profile| match serde_json::to_value(profile) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (old, new) = (fields(self), fields(other));
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        keys.into_iter().filter(|k| old.get(*k) != new.get(*k)).map(|k| (k.clone(), Takes::of(k))).collect()
    }

    pub fn identity(&self, runtime: &RuntimeName) -> Identity {
        Identity::new(runtime.clone(), self.personality.clone())
    }

    pub fn identities(&self) -> Vec<Identity> {
        self.runtimes.iter().map(|r| self.identity(r)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_has_the_smallest_consequence() {
        let old = Profile::new("bob".parse().unwrap(), RuntimeName::echo());
        let mut new = old.clone();
        assert_eq!(old.changes(&new), []);
        new.description = "does things".into();
        new.resume = ResumePolicy::Always;
        new.env.insert("A".into(), "b".into());
        new.initial_prompt = "begin".into();
        new.other.insert("x_own".into(), 1.into());
        let told: Vec<(String, Takes)> = old.changes(&new);
        let of = |key: &str, takes| (key.to_string(), takes);
        let expected = [
            of("description", Takes::AtOnce),
            of("env", Takes::NextSession),
            of("initial_prompt", Takes::NextFresh),
            of("resume", Takes::AtOnce),
            of("x_own", Takes::AtOnce),
        ];
        assert_eq!(told, expected);
        assert_eq!(new.changes(&old), expected, "and back again");
    }
}
