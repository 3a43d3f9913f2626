//! The part of an agent that its author wrote: a container, in the few fields that Rhizon lets through.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The agent's container. Closed on purpose: who may edit an agent must not get at credentials or the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.volumeMounts)", "message": "container.volumeMounts is not supported: an agent mounts nothing; its state is kept by Rhizon"},
    {"rule": "!has(self.envFrom)", "message": "container.envFrom is not supported: name each variable in container.env"},
    {"rule": "!has(self.securityContext)", "message": "container.securityContext is not supported: agents always run restricted, as user 65532"},
    {"rule": "!has(self.ports)", "message": "container.ports is not supported: the agent listens on RHIZON_LISTEN, and only its sidecar reaches it"},
]))]
#[serde(rename_all = "camelCase")]
pub struct Container {
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// Replaces the image's entry point.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,

    #[serde(default)]
    #[schemars(length(max = 128))]
    pub args: Vec<String>,

    #[serde(default)]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,

    #[serde(default)]
    pub resources: Resources,

    #[serde(default)]
    pub probes: Probes,

    #[doc(hidden)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "refused_list")]
    pub volume_mounts: Option<serde_json::Value>,

    #[doc(hidden)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "refused_list")]
    pub env_from: Option<serde_json::Value>,

    #[doc(hidden)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "refused_object")]
    pub security_context: Option<serde_json::Value>,

    #[doc(hidden)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "refused_list")]
    pub ports: Option<serde_json::Value>,
}

/// A field that the schema knows only so that a rule can refuse it: unknown fields would be dropped silently.
pub(crate) fn refused_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Not supported.",
        "type": "array",
        "maxItems": 64,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
    })
}

fn refused_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"description": "Not supported.", "type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// A variable: a value, or one key of a Secret that is labelled for agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.value) != has(self.valueFrom)", "message": "a variable has either value or valueFrom"},
    {"rule": "!self.name.startsWith('RHIZON_')", "message": "names that begin with RHIZON_ are Rhizon's own"},
]))]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvSource>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvSource {
    /// The Secret needs the label `rhizon.dev/agent-secret: "true"`.
    pub secret_key_ref: SecretKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Requests and limits. The defaults suit a small agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}

/// Commands that look at the agent from inside its container. It listens on loopback, so the node cannot ask by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    #[schemars(length(min = 1, max = 32))]
    pub command: Vec<String>,
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub initial_delay_seconds: i32,
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: i32,
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1000))]
    pub failure_threshold: i32,
}

const fn ten() -> i32 {
    10
}

const fn three() -> i32 {
    3
}

const fn one() -> i32 {
    1
}

#[cfg(test)]
mod tests {
    use crate::RhizonAgent;
    use kube::CustomResourceExt;

    #[test]
    fn the_schema_knows_the_fields_that_it_refuses() {
        let crd = serde_json::to_value(RhizonAgent::crd()).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let container = &spec["properties"]["container"];
        let rules = container["x-kubernetes-validations"].as_array().unwrap();
        for field in ["volumeMounts", "envFrom", "securityContext", "ports"] {
            assert!(container["properties"][field].is_object(), "{field}");
            assert!(rules.iter().any(|rule| rule["rule"] == format!("!has(self.{field})")), "{field}");
        }
    }
}
