//! The rules an agent lives under. They are journaled, since replay needs those that were in force.

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
}

/// An event of a matching type needs one of the roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "type")]
    pub event_type: TypePattern,
    pub roles: Vec<String>,
}

impl Config {
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

/// Sources that begin so belong to agents.
pub const RESERVED_SOURCE: &str = "/rhizon/";

pub fn agent_source(workspace: &str, agent: &str) -> String {
    format!("{RESERVED_SOURCE}{workspace}/agents/{agent}")
}
