//! The custom resources of `rhizon.dev/v1alpha1`, and what the operator tells the runtime about them.
//!
//! No client and no I/O: the operator, the runtime, the CLI and the tests share these types.

pub mod agent;
pub mod conditions;
pub mod container;
pub mod settings;
pub mod units;
pub mod workspace;

pub use agent::{RhizonAgent, RhizonAgentSpec};
pub use workspace::{RhizonWorkspace, RhizonWorkspaceSpec};

/// API group of both kinds.
pub const GROUP: &str = "rhizon.dev";

/// Labels and annotations that Rhizon puts on, or looks for at, Kubernetes objects.
pub mod labels {
    /// Value `rhizon` on everything that the operator made.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// `agent` or `gateway`.
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    /// Name of the workspace.
    pub const WORKSPACE: &str = "rhizon.dev/workspace";
    /// Name of the agent.
    pub const AGENT: &str = "rhizon.dev/agent";
    /// `true` on a Secret that agents of its namespace may read through `env.valueFrom.secretKeyRef`.
    pub const AGENT_SECRET: &str = "rhizon.dev/agent-secret";
    /// `true` on a Secret with the connection string of a store, which the sidecars of its namespace may use.
    pub const STORE_SECRET: &str = "rhizon.dev/store-secret";
    /// JSON array: how `rhizon dev` starts an agent on this machine, relative to the YAML's folder.
    pub const DEV_COMMAND: &str = "rhizon.dev/dev-command";
}

/// Both definitions, in the order in which they are printed.
pub fn crds() -> [k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition; 2] {
    use kube::CustomResourceExt;
    [RhizonWorkspace::crd(), RhizonAgent::crd()]
}
