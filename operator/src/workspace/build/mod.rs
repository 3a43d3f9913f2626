//! The Kubernetes objects of a workspace. Pure.

pub mod gateway;
pub mod network;
pub mod ownership;
pub mod tenancy;

use crate::{cluster::Manifest, settings::Settings};
use rhizon_api::{RhizonWorkspace, labels};

/// Everything in the namespace that does not need the broker's keys.
pub fn tenancy(workspace: &RhizonWorkspace, settings: &Settings) -> Vec<Manifest> {
    let mut manifests = tenancy::manifests(workspace);
    manifests.extend(network::manifests(workspace, settings));
    manifests.into_iter().map(|manifest| label(manifest, workspace)).collect()
}

/// With the labels by which the operator finds its objects.
pub fn label(manifest: Manifest, workspace: &RhizonWorkspace) -> Manifest {
    manifest.labelled(&[(labels::WORKSPACE, workspace.metadata.name.as_deref().unwrap_or_default())])
}
