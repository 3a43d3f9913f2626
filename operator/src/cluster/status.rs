//! Status and events: written when they say something new.

use super::{Error, MANAGER};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder},
};
use rhizon_api::conditions;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::fmt::Debug;

/// Writes the status if it differs from what the object has.
pub async fn patch<K, S>(api: &Api<K>, object: &K, before: &S, after: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize + PartialEq,
{
    if before == after {
        return Ok(false);
    }
    let name = object.name_any();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": after,
    });
    api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body))
        .await
        .map(|_| true)
        .map_err(|e| Error::new("writing the status of", name, e))
}

/// Not there yet is no fault.
fn is_on_its_way(reason: &str) -> bool {
    matches!(
        reason,
        "Starting" | "GatewayStarting" | "SidecarNotReady" | "Suspended" | "Pausing" | "Draining" | "Suspending"
    )
}

/// An event for each condition that became another: for people who read `kubectl describe`.
pub async fn tell(recorder: &Recorder, object: &ObjectReference, before: &[Condition], after: &[Condition]) {
    for condition in after {
        let old = conditions::find(before, &condition.type_);
        if old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason) {
            continue;
        }
        let good = condition.status == "True" || is_on_its_way(&condition.reason);
        let type_ = if good { EventType::Normal } else { EventType::Warning };
        let note = format!("{}: {}", condition.type_, condition.message);
        publish(recorder, object, type_, &condition.reason, &note).await;
    }
}

/// A cleanup that cannot go on: the object stays, and says why.
pub async fn tell_waiting(recorder: &Recorder, object: &ObjectReference, why: &str) {
    publish(recorder, object, EventType::Warning, "CleanupWaiting", &format!("not deleted yet: {why}")).await;
}

async fn publish(recorder: &Recorder, object: &ObjectReference, type_: EventType, reason: &str, note: &str) {
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    // An event that is lost is no reason to do the work again.
    if let Err(error) = recorder.publish(&event, object).await {
        tracing::warn!(%error, "an event was not recorded");
    }
}
