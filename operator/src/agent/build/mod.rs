//! The Kubernetes objects of an agent. Pure.

pub mod stateful_set;

use crate::{cluster::Manifest, nats::jwt::hex};
use kube::Resource as _;
use rhizon_api::{RhizonAgent, labels, settings::Sidecar, units::Size};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What all builders need to know.
pub struct Frame<'a> {
    pub agent: &'a RhizonAgent,
    pub workspace: &'a str,
    pub namespace: &'a str,
    /// Name of the agent.
    pub name: &'a str,
    /// Name of its objects.
    pub object: &'a str,
    /// How large the workspace's journals may become together.
    pub journals: &'a Size,
}

impl Frame<'_> {
    /// With labels, and going when the agent goes.
    pub fn finish(&self, manifest: Manifest) -> Manifest {
        let owner = self.agent.controller_owner_ref(&()).and_then(|owner| serde_json::to_value(owner).ok());
        manifest
            .labelled(&[(labels::WORKSPACE, self.workspace), (labels::AGENT, self.name), (labels::COMPONENT, "agent")])
            .owned_by(owner)
    }
}

/// Account, headless Service and settings; the settings' digest restarts the pod when they change.
pub fn parts(frame: &Frame<'_>, settings_json: &str) -> Vec<Manifest> {
    let metadata = json!({"name": frame.object, "namespace": frame.namespace});
    [
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "clusterIP": "None",
                "selector": {labels::AGENT: frame.name},
                "ports": [{"name": "metrics", "port": 9090, "targetPort": 9090, "protocol": "TCP"}],
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"settings.json": settings_json},
        }),
    ]
    .into_iter()
    .map(|value| frame.finish(Manifest::new(value)))
    .collect()
}

pub fn settings_json(settings: &Sidecar) -> String {
    serde_json::to_string_pretty(settings).unwrap_or_default()
}

pub fn digest(settings_json: &str) -> String {
    hex(&Sha256::digest(settings_json))
}
