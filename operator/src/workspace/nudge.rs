//! Tells the kubelet that a gateway's settings are new: it looks at a pod's volumes at once when the pod changes, and else
//! about once a minute. Who loses access is to lose it now.

use super::build::gateway;
use crate::{
    cluster::{Error, MANAGER, gone, manifest::APPLIED_HASH},
    context::Context,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use rhizon_api::labels;
use serde_json::json;

/// On a pod: which settings it was told to look at.
const SETTINGS: &str = "rhizon.dev/gateway-settings";

/// Marks the gateway's pods with the digest of their settings, where they do not have it yet.
pub async fn nudge(namespace: &str, config_map: &DynamicObject, context: &Context) -> Result<(), Error> {
    let Some(digest) = config_map.annotations().get(APPLIED_HASH) else { return Ok(()) };
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let gateways = ListParams::default().labels(&format!("{}=gateway", labels::COMPONENT));
    let pods = api.list_metadata(&gateways).await.map_err(|e| Error::new("listing pods of", gateway::NAME, e))?;
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    for pod in pods.iter().filter(|pod| pod.annotations().get(SETTINGS) != Some(digest)) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {SETTINGS: digest}}}));
        let name = pod.name_any();
        gone(api.patch_metadata(&name, &params, &patch).await).map_err(|e| Error::new("marking pod", name, e))?;
    }
    Ok(())
}
