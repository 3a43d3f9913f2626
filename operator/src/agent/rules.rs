//! A change of what an agent takes has one place in the stream, for all shards and for ever. Pure.
//!
//! ```text
//!  pods end ─▶ filters are widened ─▶ a place is picked ─▶ settings are written ─▶ pods start ─▶ filters are narrowed
//!  (nobody reads past the place with the rules before)    (from here on it stays)               (once it is passed)
//! ```
//!
//! What the settings say is what holds: a run that ends before it wrote them has picked nothing.

use super::dereference::Inputs;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::ConfigMap};
use rhizon_api::settings::Sidecar;
use rhizon_kernel::Config;

/// What comes next of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// There is none: these rules are in force.
    Keep(Config),
    /// Processes that go by these rules must end first.
    Stop(Config),
    /// Nobody reads: the wanted rules may follow these.
    Place(Config),
}

pub fn step(wanted: &Config, inputs: &Inputs) -> Step {
    match inputs.settings.as_ref().and_then(written) {
        None => Step::Keep(wanted.clone()),
        Some(written) => {
            let in_force = wanted.clone().with_rules_of(&written);
            if written.takes_the_same(wanted) {
                Step::Keep(in_force)
            } else if inputs.pods.is_empty() && inputs.stateful_set.as_ref().is_none_or(is_empty) {
                Step::Place(in_force)
            } else {
                Step::Stop(in_force)
            }
        }
    }
}

/// The rules that were written last.
fn written(settings: &ConfigMap) -> Option<Config> {
    let text = settings.data.as_ref()?.get("settings.json")?;
    serde_json::from_str(text).ok().map(|Sidecar { kernel, .. }| kernel)
}

/// Whether it has no pod, and makes none.
fn is_empty(set: &StatefulSet) -> bool {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
    let (live, seen) = set.status.as_ref().map_or((0, None), |status| (status.replicas, status.observed_generation));
    wanted == Some(0) && live == 0 && seen >= set.metadata.generation
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(status: &Value) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"generation": 4},
            "spec": {"replicas": 0, "selector": {}, "template": {}, "serviceName": "x"},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_set_is_empty_when_its_controller_has_seen_that_it_should_be() {
        assert!(is_empty(&set(&json!({"replicas": 0, "observedGeneration": 4}))));
        assert!(!is_empty(&set(&json!({"replicas": 1, "observedGeneration": 4}))));
        assert!(!is_empty(&set(&json!({"replicas": 0, "observedGeneration": 3}))));
        let mut running = set(&json!({"replicas": 0, "observedGeneration": 4}));
        running.spec.as_mut().unwrap().replicas = Some(1);
        assert!(!is_empty(&running));
    }
}
