//! One wanted Kubernetes object, written as it would stand in a YAML file.

use crate::nats::jwt::hex;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use rhizon_api::labels;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Digest of what was applied last: a field that is no longer wanted is noticed too.
pub const APPLIED_HASH: &str = "rhizon.dev/applied-hash";

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest(Value);

impl Manifest {
    /// The value needs `apiVersion`, `kind` and `metadata.name`.
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// Adds labels to those that the object has.
    #[must_use]
    pub fn labelled(mut self, pairs: &[(&str, &str)]) -> Self {
        for (key, value) in pairs {
            self.0["metadata"]["labels"][*key] = json!(value);
        }
        self.0["metadata"]["labels"][labels::MANAGED_BY] = json!("rhizon");
        self
    }

    /// The object goes when its owner goes.
    #[must_use]
    pub fn owned_by(mut self, owner: Option<Value>) -> Self {
        if let Some(owner) = owner {
            self.0["metadata"]["ownerReferences"] = json!([owner]);
        }
        self
    }

    /// With the annotation that holds the digest of all the rest.
    #[must_use]
    pub fn stamped(mut self) -> Self {
        let hash = hex(&Sha256::digest(self.0.to_string()));
        self.0["metadata"]["annotations"][APPLIED_HASH] = json!(hash);
        self
    }

    pub fn value(&self) -> &Value {
        &self.0
    }

    pub fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn namespace(&self) -> Option<&str> {
        self.0["metadata"]["namespace"].as_str()
    }

    /// For errors: `Deployment permits/rhizon-gateway`.
    pub fn describe(&self) -> String {
        match self.namespace() {
            Some(namespace) => format!("{} {namespace}/{}", self.kind(), self.name()),
            None => format!("{} {}", self.kind(), self.name()),
        }
    }

    pub fn api(&self, client: &Client) -> Api<DynamicObject> {
        let (group, version) = match self.0["apiVersion"].as_str().unwrap_or_default().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", self.0["apiVersion"].as_str().unwrap_or_default()),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.kind()));
        match self.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        }
    }
}
