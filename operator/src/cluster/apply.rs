//! Server-side apply that writes only what is not so already.

use super::{Error, MANAGER, Manifest, drift, found, gone, manifest::APPLIED_HASH};
use kube::{
    Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, ValidationDirective},
};

/// Makes the live object as it is wanted, and returns it. Reads first; a steady state writes nothing.
pub async fn ensure(client: &Client, wanted: &Manifest) -> Result<DynamicObject, Error> {
    let stamped = wanted.clone().stamped();
    let api = stamped.api(client);
    let live = found(api.get(stamped.name()).await).map_err(|e| Error::new("reading", stamped.describe(), e))?;
    if let Some(live) = live
        && is_current(&stamped, &live)
    {
        return Ok(live);
    }
    tracing::info!(object = stamped.describe(), "applying");
    let params =
        PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply(MANAGER).force() };
    api.patch(stamped.name(), &params, &Patch::Apply(stamped.value()))
        .await
        .map_err(|e| Error::new("applying", stamped.describe(), e))
}

fn is_current(stamped: &Manifest, live: &DynamicObject) -> bool {
    let hash = |annotations: Option<&std::collections::BTreeMap<String, String>>| {
        annotations.and_then(|annotations| annotations.get(APPLIED_HASH)).cloned()
    };
    let wanted = stamped.value()["metadata"]["annotations"][APPLIED_HASH].as_str().map(str::to_owned);
    hash(live.metadata.annotations.as_ref()) == wanted
        && serde_json::to_value(live).is_ok_and(|live| drift::holds(stamped.value(), &live))
}

/// Deletes what a manifest names. Gone already is fine.
pub async fn delete(client: &Client, manifest: &Manifest) -> Result<(), Error> {
    let result = manifest.api(client).delete(manifest.name(), &DeleteParams::background()).await;
    gone(result).map_err(|e| Error::new("deleting", manifest.describe(), e))
}

/// Deletes what a manifest names only if it is that very object, and no later one of the same name.
pub async fn delete_uid(client: &Client, manifest: &Manifest, uid: &str) -> Result<(), Error> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams::background().preconditions(preconditions);
    match manifest.api(client).delete(manifest.name(), &params).await {
        // Another object has the name by now: it is not ours to delete.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => gone(result).map_err(|e| Error::new("deleting", manifest.describe(), e)),
    }
}
