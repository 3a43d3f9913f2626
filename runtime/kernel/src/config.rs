//! The rules an agent lives under. They are journaled, since replay needs those that were in force.
//!
//! A change of what an agent takes has a place in the stream, so that every run judges an event by the same rules, whenever
//! it comes to it:
//!
//! ```text
//!  stream  1 ──────────── earlier[0] ──────────── from₁ ── earlier[1] ── from₂ ── subscribes, authorization ──▶
//! ```
//!
//! `publishes` and `limits` are about answers. They go with the process that answers, which has no place in the stream.

use serde::{Deserialize, Serialize};

use crate::chain::Hash;
use crate::{EventType, Limits, TypePattern};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    pub workspace: String,
    pub agent: String,
    pub subscribes: Vec<TypePattern>,
    pub publishes: Vec<EventType>,
    #[serde(default)]
    pub authorization: Vec<Rule>,
    #[serde(default)]
    pub limits: Limits,
    /// First stream sequence that `subscribes` and `authorization` are for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from: u64,
    /// What was in force before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Rules>,
}

/// What an agent took from a stream sequence on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rules {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from: u64,
    pub subscribes: Vec<TypePattern>,
    #[serde(default)]
    pub authorization: Vec<Rule>,
}

/// So many earlier rules are kept for what has waited since then.
const KEPT: usize = 16;

/// An event of a matching type needs one of the roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "type")]
    pub event_type: TypePattern,
    pub roles: Vec<String>,
}

impl Config {
    /// What the agent subscribed to, and whom it let in, when a stream sequence was written. What is older than all that is
    /// remembered is judged by the oldest.
    pub fn at(&self, stream: u64) -> (&[TypePattern], &[Rule]) {
        if stream >= self.from {
            return (&self.subscribes, &self.authorization);
        }
        let then = self.earlier.iter().rfind(|rules| rules.from <= stream).or(self.earlier.first());
        then.map_or((&self.subscribes, &self.authorization), |rules| (&rules.subscribes, &rules.authorization))
    }

    /// Whether an event came before its type was added, or after it was removed. It is as if it had never been delivered:
    /// the broker's filter has no place, and lets it through for a while.
    pub fn is_out_of_place(&self, stream: u64, event_type: &str) -> bool {
        let matches = |types: &[TypePattern]| types.iter().any(|pattern| pattern.matches(event_type));
        self.earlier.first().is_some_and(|oldest| stream >= oldest.from)
            && !matches(self.at(stream).0)
            && (matches(&self.subscribes) || self.earlier.iter().any(|rules| matches(&rules.subscribes)))
    }

    /// All types that count behind a stream sequence.
    pub fn subscribes_behind(&self, position: u64) -> Vec<TypePattern> {
        let ends = self.earlier.iter().skip(1).map(|rules| rules.from).chain([self.from]);
        let open = self.earlier.iter().zip(ends).filter(|(_, end)| *end > position.saturating_add(1));
        let mut types: Vec<TypePattern> = open.flat_map(|(rules, _)| rules.subscribes.clone()).collect();
        types.extend_from_slice(&self.subscribes);
        types
    }

    /// Whether both take the same, from wherever.
    pub fn takes_the_same(&self, other: &Self) -> bool {
        (&self.subscribes, &self.authorization) == (&other.subscribes, &other.authorization)
    }

    /// With the rules of another config, and their places.
    #[must_use]
    pub fn with_rules_of(self, other: &Self) -> Self {
        let Self { subscribes, authorization, from, earlier, .. } = other.clone();
        Self { subscribes, authorization, from, earlier, ..self }
    }

    /// This config, following another one from a stream sequence on. Of what every event up to `position` has left behind,
    /// only the newest is remembered.
    #[must_use]
    pub fn following(self, other: &Self, from: u64, position: u64) -> Self {
        let Self { subscribes, authorization, .. } = other.clone();
        let mut earlier = other.earlier.clone();
        if other.from < from {
            earlier.push(Rules { from: other.from, subscribes, authorization });
        }
        while earlier.len() > KEPT && earlier[1].from <= position.saturating_add(1) {
            earlier.remove(0);
        }
        Self { from, earlier, ..self }
    }

    /// The `source` of everything that this agent sends.
    pub fn source(&self) -> String {
        agent_source(&self.workspace, &self.agent)
    }

    /// The name under which the broker knows this agent.
    pub fn publisher(&self) -> String {
        format!("agent-{}", self.agent)
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a config has only string keys")
    }

    pub fn hash(&self) -> Hash {
        Hash::of(&[&self.to_json()])
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Sources that begin so belong to agents.
pub const RESERVED_SOURCE: &str = "/rhizon/";

pub fn agent_source(workspace: &str, agent: &str) -> String {
    format!("{RESERVED_SOURCE}{workspace}/agents/{agent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(subscribes: &str, role: &str) -> Config {
        let text = format!(
            r#"{{"workspace":"w","agent":"a","subscribes":["{subscribes}"],"publishes":[],"authorization":[{{"type":"cmd.*.*","roles":["{role}"]}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn changed() -> Config {
        let first = config("cmd.a.x", "one");
        let second = config("cmd.b.x", "two").following(&first, 10, 0);
        config("cmd.a.x", "three").following(&second, 20, 0)
    }

    #[test]
    fn each_sequence_has_the_rules_of_its_time() {
        let config = changed();
        let role = |stream| config.at(stream).1[0].roles[0].as_str();
        assert_eq!([1, 9, 10, 19, 20, u64::MAX].map(role), ["one", "one", "two", "two", "three", "three"]);
        let is_out = |event_type| [9, 10, 19, 20].map(|stream| config.is_out_of_place(stream, event_type));
        assert_eq!(is_out("cmd.a.x"), [false, true, true, false]);
        assert_eq!(is_out("cmd.b.x"), [true, false, false, true]);
        assert_eq!(is_out("cmd.c.x"), [false; 4], "a type that was never subscribed to is refused, as before");
    }

    #[test]
    fn a_filter_is_narrowed_when_the_last_event_of_its_time_is_handled() {
        let config = changed();
        let types = |position| config.subscribes_behind(position).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(types(8), ["cmd.a.x", "cmd.b.x", "cmd.a.x"]);
        assert_eq!(types(9), ["cmd.b.x", "cmd.a.x"]);
        assert_eq!(types(18), ["cmd.b.x", "cmd.a.x"]);
        assert_eq!(types(19), ["cmd.a.x"]);
    }

    #[test]
    fn rules_that_no_event_met_leave_no_trace_and_old_ones_are_forgotten_once_passed() {
        let second = config("cmd.b.x", "two").following(&config("cmd.a.x", "one"), 10, 0);
        let third = config("cmd.c.x", "three").following(&second, 10, 0);
        assert_eq!(third.earlier.iter().map(|rules| rules.from).collect::<Vec<_>>(), [0]);
        let many = |position| {
            let mut last = config("cmd.a.x", "one");
            for change in 1..=20 {
                last = config("cmd.b.x", &change.to_string()).following(&last, change * 10, position);
            }
            last
        };
        assert_eq!((many(0).earlier.len(), many(1_000).earlier.len()), (20, KEPT));
        assert!(!many(1_000).is_out_of_place(5, "cmd.a.x"), "what waited too long is refused, not forgotten");
    }

    #[test]
    fn a_config_without_places_reads_and_hashes_as_ever() {
        let text =
            r#"{"workspace":"w","agent":"a","subscribes":["cmd.a.x"],"publishes":[],"authorization":[],"limits":{"#;
        let config = config("cmd.a.x", "one");
        let json = String::from_utf8(Config { authorization: Vec::new(), ..config.clone() }.to_json()).unwrap();
        assert!(json.starts_with(text) && json.ends_with("}}"), "{json}");
        let changed = changed();
        assert_eq!(serde_json::from_slice::<Config>(&changed.to_json()).unwrap(), changed);
    }
}
