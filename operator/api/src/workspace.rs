//! `RhizonWorkspace`: one tenant, with its namespace, broker accounts, streams and gateway.

use crate::units::{Duration, Size};
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, Time},
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a tenant gets.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "rhizon.dev",
    version = "v1alpha1",
    kind = "RhizonWorkspace",
    doc = "A tenant: one namespace, broker account, set of streams and gateway, isolated from all other workspaces.",
    shortname = "rws",
    category = "rhizon",
    derive = "PartialEq",
    status = "RhizonWorkspaceStatus",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("a workspace's name is a DNS label of at most 40 characters: a-z, 0-9 and '-'"),
    validation = Rule::new("(has(self.spec.__namespace__) ? self.spec.__namespace__ : self.metadata.name) == (has(oldSelf.spec.__namespace__) ? oldSelf.spec.__namespace__ : oldSelf.metadata.name)")
        .message("spec.namespace cannot be changed: make a new workspace and delete this one"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.operatingMode"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace.name"),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".status.agents"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="Ready")].message"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RhizonWorkspaceSpec {
    /// Name of the namespace for the tenant. Default: the workspace's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,

    /// Take over a namespace that exists already. Its workloads then come under the workspace's policies.
    #[serde(default)]
    pub adopt_namespace: bool,

    /// How the tenant is kept apart in the broker: by an account of its own, or by a broker of its own.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "spec.isolation cannot be changed"},
    ]))]
    pub isolation: Isolation,

    /// The streams' sizes and times.
    #[serde(default)]
    pub messaging: Messaging,

    /// Upper limits for everything in the namespace.
    #[serde(default)]
    pub quota: Quota,

    /// Flows beyond the default: name service, broker, gateway.
    #[serde(default)]
    pub network: Network,

    /// The HTTP door, and who may use it.
    #[serde(default)]
    pub gateway: Gateway,

    /// What stays when the workspace is deleted. `Retain`: namespace, volumes, streams and accounts. `Delete`: nothing.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// `Paused`: agents keep what they have and take no new events.
    #[serde(default)]
    pub operating_mode: OperatingMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Isolation {
    #[default]
    Account,
    Dedicated,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperatingMode {
    #[default]
    Running,
    Paused,
}

/// Sizes and times of the workspace's streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Messaging {
    /// Copies of each stream in the broker's cluster.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self in [1, 3, 5]", "message": "messaging.replicas is 1, 3 or 5"}]))]
    pub replicas: i32,
    /// Most bytes of the event stream. When it is full, publishing is refused and nothing is lost.
    pub max_bytes: Size,
    /// Most bytes of the journals of all agents with a JetStream store together. When it is full, those agents stop.
    pub journal_max_bytes: Size,
    /// Events older than this, and handled by every agent, may go.
    pub max_age: Duration,
    /// How long the broker itself recognises an event that is published again.
    pub duplicate_window: Duration,
}

impl Default for Messaging {
    fn default() -> Self {
        Self {
            replicas: 1,
            max_bytes: "1Gi".parse().expect("a constant"),
            journal_max_bytes: "1Gi".parse().expect("a constant"),
            max_age: Duration::from_ms(7 * 86_400_000),
            duplicate_window: Duration::from_ms(120_000),
        }
    }
}

/// Upper limits of the namespace, as a ResourceQuota has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Quota {
    /// Sum of the containers' CPU requests.
    pub cpu: Quantity,
    /// Sum of the containers' memory limits.
    pub memory: Quantity,
    /// Sum of the volumes' sizes.
    pub storage: Quantity,
    /// Number of pods.
    #[schemars(range(min = 1, max = 10000))]
    pub pods: i32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            cpu: Quantity("4".to_owned()),
            memory: Quantity("8Gi".to_owned()),
            storage: Quantity("20Gi".to_owned()),
            pods: 50,
        }
    }
}

/// Flows that are allowed beyond the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// Namespaces whose pods may read metrics (port 9090), besides Rhizon's own.
    #[schemars(length(max = 16))]
    pub metrics_from: Vec<String>,
    /// Namespaces whose pods may call the gateway, besides the workspace's own.
    #[schemars(length(max = 16))]
    pub gateway_from: Vec<String>,
    /// Addresses outside that agents may connect to. Default: none.
    #[schemars(length(max = 32))]
    pub egress: Vec<Egress>,
}

/// One allowed destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Such as `203.0.113.0/24`.
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// TCP ports; none means all.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub ports: Vec<u16>,
}

/// The HTTP door of a workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    #[schemars(range(min = 0, max = 10))]
    pub replicas: i32,
    /// Who may do what. Nobody may do anything by default.
    #[schemars(length(max = 256))]
    pub access: Vec<Access>,
    /// Token issuers besides the cluster's own (which is called `kubernetes`).
    #[schemars(length(max = 16))]
    pub issuers: Vec<Issuer>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { replicas: 1, access: Vec::new(), issuers: Vec::new() }
    }
}

/// What one caller may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// `kubernetes` for the cluster's own service accounts, or one of `gateway.issuers`.
    #[serde(default = "kubernetes")]
    #[schemars(length(min = 1, max = 253))]
    pub issuer: String,
    /// The token's `sub`, such as `system:serviceaccount:permits:publisher`.
    #[schemars(length(min = 1, max = 253))]
    pub subject: String,
    /// Roles that the caller's events carry.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub roles: Vec<String>,
    /// Types that the caller may send; `*` may stand for the second and the third part. Commands to Rhizon are granted with
    /// their noun spelled out: `ctl.dead.redrive`, `ctl.dead.drop` or `ctl.dead.*` for dead letters, `ctl.timer.cancel` for
    /// events that are not due yet. `ctl.*.*` grants none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub send: Vec<String>,
    /// The event's `source` must begin with one of these.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub sources: Vec<String>,
    /// May read states, histories and journals.
    #[serde(default)]
    pub read: bool,
}

fn kubernetes() -> String {
    "kubernetes".to_owned()
}

/// A token issuer for people and other systems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    /// The token's `iss`.
    #[schemars(length(min = 1, max = 253))]
    pub issuer: String,
    /// Its public keys: a JWK set as JSON text.
    #[schemars(length(min = 2, max = 32768))]
    pub jwks: String,
}

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RhizonWorkspaceStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<NamespaceStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountsStatus>,
    /// Number of agents in the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<i32>,
    /// Where the agents' journals end, noted once a minute at most: for who wants to know later that nothing was cut off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain_heads: Vec<ChainHead>,
}

/// The end of the audit chain of one shard of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChainHead {
    pub agent: String,
    pub shard: u32,
    /// Records in the journal.
    pub sequence: u64,
    /// Hash of the chain at the last of them.
    pub link: String,
    pub time: Time,
}

/// The namespace that this workspace owns. The UID tells it from a later one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatus {
    pub name: String,
    pub uid: String,
    /// False when it was adopted: then it is never deleted.
    pub created: bool,
}

/// Public keys of the workspace's broker accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountsStatus {
    pub data: String,
    pub runtime: String,
}

impl RhizonWorkspace {
    /// Name of the tenant's namespace.
    pub fn namespace_name(&self) -> &str {
        self.spec.namespace.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }
}
