//! The mark that keeps an object until its cleanup is done. Works on metadata alone, so also when a spec is unreadable.

use super::{Error, MANAGER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

pub const NAME: &str = "rhizon.dev/cleanup";

pub fn is_set(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.as_ref().is_some_and(|names| names.iter().any(|name| name == NAME))
}

/// Sets the mark if it is not there.
pub async fn ensure<K>(api: &Api<K>, metadata: &ObjectMeta) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    if is_set(metadata) {
        return Ok(());
    }
    let mut names = metadata.finalizers.clone().unwrap_or_default();
    names.push(NAME.to_owned());
    write(api, metadata, &names).await
}

/// Takes the mark away: the object goes.
pub async fn remove<K>(api: &Api<K>, metadata: &ObjectMeta) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut names = metadata.finalizers.clone().unwrap_or_default();
    names.retain(|name| name != NAME);
    match write(api, metadata, &names).await {
        Err(error) if error.status() == Some(404) => Ok(()),
        result => result,
    }
}

/// The resource version makes a change by somebody else in between an error, which is tried again.
async fn write<K>(api: &Api<K>, metadata: &ObjectMeta, names: &[String]) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let name = metadata.name.clone().unwrap_or_default();
    let patch = json!({"metadata": {"finalizers": names, "resourceVersion": metadata.resource_version}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_metadata(&name, &params, &Patch::Merge(patch))
        .await
        .map(|_| ())
        .map_err(|e| Error::new("changing the finalizer of", name, e))
}
