//! `RhizonAgent`: a container that reacts to events, and how Rhizon runs it.

use crate::{
    container::Container,
    units::{Duration, Size},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An agent.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "rhizon.dev",
    version = "v1alpha1",
    kind = "RhizonAgent",
    namespaced,
    doc = "A container that reacts to events. Rhizon gives it ordered delivery, state, exactly-once effects and a journal.",
    shortname = "ra",
    category = "rhizon",
    derive = "PartialEq",
    status = "RhizonAgentStatus",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("an agent's name is a DNS label of at most 40 characters: a-z, 0-9 and '-'"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.operatingMode"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag"),
    printcolumn(name = "Last error", type_ = "string", json_path = ".status.lastError"),
    printcolumn(name = "Image", type_ = "string", priority = 1, json_path = ".spec.container.image"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="Ready")].message"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.store.kind != 'SQLite' || self.replicas <= 1", "message": "a SQLite store belongs to one pod: set spec.replicas to 1, or choose a store that replicas can share"},
    {"rule": "self.store.kind != 'SQLite' || self.shards == 1", "message": "a SQLite store has one shard: set spec.shards to 1, or spec.store.kind to Postgres or JetStream"},
    {"rule": "self.store.kind == 'Postgres' || !has(self.store.secretRef)", "message": "spec.store.secretRef is for Postgres only: remove it"},
    {"rule": "self.store.kind != 'Postgres' || has(self.store.secretRef)", "message": "a Postgres store needs spec.store.secretRef: a Secret of this namespace, labelled rhizon.dev/store-secret=true, with the connection string under the key url"},
    {"rule": "self.replicas <= self.shards", "message": "spec.replicas cannot be more than spec.shards: a replica without a shard would have nothing to do"},
    {"rule": "!has(self.volumes)", "message": "spec.volumes is not supported: an agent's state is kept by Rhizon, and its pod mounts nothing else"},
]))]
#[serde(rename_all = "camelCase")]
pub struct RhizonAgentSpec {
    /// Types of events that the agent handles; `*` may stand for the second and the third part.
    #[schemars(length(min = 1, max = 64), inner(length(max = 192)))]
    pub subscribes: Vec<String>,

    /// Types of events that the agent may emit.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 192)))]
    pub publishes: Vec<String>,

    pub container: Container,

    /// `Rhizon`: the agent protocol, with state and batches. `CloudEvents`: plain CloudEvents by POST.
    #[serde(default)]
    pub protocol: Protocol,

    /// `Stream`: outputs keep the order of the input. `Entity`: only one entity's own order is kept.
    #[serde(default)]
    pub ordering: Ordering,

    /// Most entities that are handled side by side.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,

    #[serde(default)]
    pub batch: Batch,

    #[serde(default)]
    pub retry: Retry,

    /// Where a new agent begins in the workspace's events: with the next one, or with the oldest that is kept.
    #[serde(default)]
    pub start_from: StartFrom,

    #[serde(default)]
    pub store: Store,

    /// Parts that the entities are divided into, each with one owner. A divisor of 16, fixed when the agent is made.
    #[serde(default = "one")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "spec.shards cannot be changed"},
        {"rule": "self in [1, 2, 4, 8, 16]", "message": "spec.shards is a divisor of 16"},
    ]))]
    pub shards: i32,

    /// Pods, at most one for each shard.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,

    /// Which roles a caller needs for which types. A type without a rule needs none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub authorization: Vec<AuthorizationRule>,

    /// `Paused`: up, and takes no events. `Draining`: finishes what is in flight, then the same. `Suspended`: no pod.
    #[serde(default)]
    pub operating_mode: OperatingMode,

    #[doc(hidden)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::container::refused_list")]
    pub volumes: Option<serde_json::Value>,
}

const fn one() -> i32 {
    1
}

const fn default_concurrency() -> u32 {
    16
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    #[default]
    Rhizon,
    CloudEvents,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ordering {
    #[default]
    Stream,
    Entity,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StartFrom {
    #[default]
    New,
    Beginning,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperatingMode {
    #[default]
    Running,
    Paused,
    Draining,
    Suspended,
}

/// How many events are taken in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Batch {
    #[schemars(range(min = 1, max = 1000))]
    pub max_events: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_events: 256 }
    }
}

/// What happens with an event that the agent answers with an error: tried again, then a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Tries in all, the first included.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Pause after the first failure; each further one is twice as long.
    pub initial: Duration,
    /// Longest pause.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, initial: Duration::from_ms(200), max: Duration::from_ms(30_000) }
    }
}

/// Where the agent's states and journal are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Store {
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "spec.store.kind cannot be changed"}]))]
    pub kind: StoreKind,
    /// Size of the volume (SQLite), or how much of the node's disk the cache may take (JetStream), which may always be twice as much
    /// as the workspace's `messaging.journalMaxBytes`.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "spec.store.size cannot be changed"}]))]
    pub size: Size,
    /// Secret of the agent's namespace, labelled `rhizon.dev/store-secret=true`, with the connection string under the key
    /// `url` (Postgres).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_ref: Option<String>,
}

impl Default for Store {
    fn default() -> Self {
        Self { kind: StoreKind::SQLite, size: "1Gi".parse().expect("a constant"), secret_ref: None }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StoreKind {
    #[default]
    SQLite,
    Postgres,
    JetStream,
}

/// Callers need one of the roles for the types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorizationRule {
    /// A type; `*` may stand for the second and the third part.
    #[schemars(length(min = 1, max = 192))]
    pub r#type: String,
    #[schemars(length(min = 1, max = 32))]
    pub roles: Vec<String>,
}

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RhizonAgentStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Events that wait for the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Why it does not work, or why it last stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// First stream sequence that belongs to the agent; fixed when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sequence: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> serde_json::Value {
        serde_json::json!({"subscribes": ["cmd.permit.record"], "container": {"image": "localhost/rhizon/permits"}})
    }

    #[test]
    fn a_minimal_spec_gets_the_documented_defaults() {
        let spec: RhizonAgentSpec = serde_json::from_value(minimal()).unwrap();
        assert_eq!(spec.store, Store::default());
        assert_eq!((spec.shards, spec.replicas, spec.concurrency, spec.batch.max_events), (1, 1, 16, 256));
        assert_eq!(spec.retry, Retry { attempts: 5, initial: Duration::from_ms(200), max: Duration::from_ms(30_000) });
        assert_eq!(spec.start_from, StartFrom::New);
    }
}
