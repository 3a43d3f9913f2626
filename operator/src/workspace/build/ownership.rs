//! Whose namespace is it? Marked on the namespace itself, in the same call that makes it.

use crate::cluster::Manifest;
use k8s_openapi::api::core::v1::Namespace;
use rhizon_api::RhizonWorkspace;
use serde_json::json;

const OWNER: &str = "rhizon.dev/workspace-uid";
const ORIGIN: &str = "rhizon.dev/namespace-origin";

/// UID of the workspace that a namespace was made for, or that adopted it.
pub fn owner(namespace: &Namespace) -> Option<&str> {
    annotation(namespace, OWNER)
}

/// Made by the operator, as opposed to adopted.
pub fn is_created(namespace: &Namespace) -> bool {
    annotation(namespace, ORIGIN) == Some("created")
}

/// The namespace with its marks. `created` is false for one that existed before.
pub fn manifest(workspace: &RhizonWorkspace, created: bool) -> Manifest {
    super::label(
        Manifest::new(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": workspace.namespace_name(),
                "annotations": {
                    OWNER: workspace.metadata.uid.clone().unwrap_or_default(),
                    ORIGIN: if created { "created" } else { "adopted" },
                },
                "labels": {
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/audit": "restricted",
                    "pod-security.kubernetes.io/warn": "restricted",
                },
            },
        })),
        workspace,
    )
}

fn annotation<'a>(namespace: &'a Namespace, key: &str) -> Option<&'a str> {
    namespace.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
