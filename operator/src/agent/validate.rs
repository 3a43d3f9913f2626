//! Does an agent make sense, in itself and in its namespace? Pure.

use super::{
    dereference::Inputs,
    store::{self, Database},
};
use crate::{
    cluster::drift::quantity,
    nats::{consumers, keys},
    workspace::validate::Problem,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rhizon_api::{
    RhizonAgent, RhizonWorkspace, agent::OperatingMode, conditions, container::Container, settings::Sidecar, workspace,
};
use std::collections::BTreeMap;

/// What was worked out on the way.
pub struct Valid<'a> {
    pub workspace: &'a RhizonWorkspace,
    pub keys: &'a keys::Workspace,
    pub settings: Sidecar,
    /// Where a Postgres store is.
    pub database: Option<Database>,
}

pub fn validate<'a>(agent: &RhizonAgent, inputs: &'a Inputs) -> Result<Valid<'a>, Problem> {
    let name = agent.metadata.name.as_deref().unwrap_or_default();
    container(&agent.spec.container)?;
    if agent.spec.volumes.is_some() {
        return Err(volumes("spec.volumes"));
    }
    secrets(&inputs.secrets)?;
    let workspace = owner(agent, inputs)?;
    let workspace_name = workspace.metadata.name.as_deref().unwrap_or_default();
    let mut settings = Sidecar::from_agent(workspace_name, name, &agent.spec)
        .map_err(|error| Problem::new(error.reason(), error.to_string()))?;
    settings.operating_mode = operating_mode(agent, workspace);
    filters(&settings)?;
    let namespace = agent.metadata.namespace.as_deref().unwrap_or_default();
    let database = store::database(&agent.spec.store, inputs.store_secret.as_ref(), namespace)?;
    let keys = inputs.keys.as_ref().ok_or_else(|| not_ready(workspace_name))?;
    Ok(Valid { workspace, keys, settings, database })
}

/// Each shard names its partitions for each type, and the broker has to compare them all.
fn filters(settings: &Sidecar) -> Result<(), Problem> {
    let count = consumers::filters_of_a_shard(settings);
    if count <= consumers::MAX_FILTERS {
        return Ok(());
    }
    let (types, shards, most) = (settings.kernel.subscribes.len(), settings.shards.len(), consumers::MAX_FILTERS);
    let message = format!(
        "spec.subscribes: {types} types in {shards} shards need {count} filters each, more than {most}; use * for a part \
         of the types, or more shards"
    );
    Err(Problem::new("TooManyFilters", message))
}

fn owner<'a>(agent: &RhizonAgent, inputs: &'a Inputs) -> Result<&'a RhizonWorkspace, Problem> {
    let namespace = agent.metadata.namespace.as_deref().unwrap_or_default();
    let Some(workspace) = &inputs.workspace else {
        let message = format!(
            "namespace {namespace} belongs to no RhizonWorkspace; make one with spec.namespace: {namespace}, or apply \
             the agent in a workspace's namespace"
        );
        return Err(Problem::new("NoWorkspace", message));
    };
    let status = workspace.status.as_ref();
    let owns = status.and_then(|status| status.namespace.as_ref()).is_some_and(|owned| owned.name == namespace);
    // Other mistakes in the workspace's spec, say in its gateway, are no matter of its agents.
    let is_lost = status
        .and_then(|status| conditions::find(&status.conditions, conditions::VALID))
        .is_none_or(|valid| valid.status == "False" && valid.reason.starts_with("Namespace"));
    if owns && !is_lost {
        Ok(workspace)
    } else {
        Err(not_ready(workspace.metadata.name.as_deref().unwrap_or_default()))
    }
}

fn not_ready(workspace: &str) -> Problem {
    let message = format!("workspace {workspace} is not set up yet; kubectl describe rws {workspace} says why");
    Problem::new("WorkspaceNotReady", message)
}

/// A paused workspace pauses its running agents.
fn operating_mode(agent: &RhizonAgent, workspace: &RhizonWorkspace) -> OperatingMode {
    match (workspace.spec.operating_mode, agent.spec.operating_mode) {
        (workspace::OperatingMode::Paused, OperatingMode::Running) => OperatingMode::Paused,
        (_, mode) => mode,
    }
}

fn container(container: &Container) -> Result<(), Problem> {
    let Container { volume_mounts, env_from, security_context, ports, resources, .. } = container;
    if volume_mounts.is_some() {
        return Err(volumes("spec.container.volumeMounts"));
    }
    for (field, value) in [("envFrom", env_from), ("securityContext", security_context), ("ports", ports)] {
        if value.is_some() {
            return Err(Problem::new("FieldNotAllowed", format!("spec.container.{field} is not supported; remove it")));
        }
    }
    quantities("requests", &resources.requests)?;
    quantities("limits", &resources.limits)
}

fn volumes(field: &str) -> Problem {
    let message = format!("{field} is not supported: an agent mounts nothing, and its state is kept by Rhizon");
    Problem::new("VolumesNotAllowed", message)
}

fn quantities(list: &str, quantities: &BTreeMap<String, Quantity>) -> Result<(), Problem> {
    for (name, Quantity(text)) in quantities {
        if quantity(text).is_none() {
            let message =
                format!("spec.container.resources.{list}.{name}: {text:?} is no quantity; write 250m or 64Mi");
            return Err(Problem::new("InvalidResources", message));
        }
    }
    Ok(())
}

fn secrets(secrets: &BTreeMap<String, Option<bool>>) -> Result<(), Problem> {
    for (name, allowed) in secrets {
        match allowed {
            Some(true) => {}
            Some(false) => {
                let message = format!(
                    "Secret {name} is not for agents; if it may be read by them, label it {}=true. Rhizon's own never may",
                    rhizon_api::labels::AGENT_SECRET
                );
                return Err(Problem::new("SecretNotAllowed", message));
            }
            None => {
                let message = format!("Secret {name}, which spec.container.env names, does not exist");
                return Err(Problem::new("SecretMissing", message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn agent(patch: &Value) -> RhizonAgent {
        let mut spec = json!({"subscribes": ["cmd.permit.record"], "container": {"image": "x:1"}});
        for (key, value) in patch.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonAgent",
            "metadata": {"name": "ledger", "namespace": "permits"}, "spec": spec,
        }))
        .unwrap()
    }

    fn inputs(workspace_spec: &Value) -> Inputs {
        let workspace = json!({
            "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonWorkspace",
            "metadata": {"name": "permits"}, "spec": workspace_spec,
            "status": {
                "namespace": {"name": "permits", "uid": "u", "created": true},
                "conditions": [{"type": "Valid", "status": "True", "reason": "Valid", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        });
        Inputs {
            workspace: Some(serde_json::from_value(workspace).unwrap()),
            keys: Some(keys::Workspace::generate()),
            credentials: None,
            secrets: BTreeMap::new(),
            pods: Vec::new(),
            complaint: None,
            stateful_set: None,
            settings: None,
            refusals: Vec::new(),
            has_store: false,
            store_secret: None,
        }
    }

    fn reason(patch: &Value, inputs: &Inputs) -> &'static str {
        validate(&agent(patch), inputs).err().unwrap().reason
    }

    #[test]
    fn a_paused_workspace_pauses_running_agents_and_no_others() {
        let paused = inputs(&json!({"operatingMode": "Paused"}));
        let mode = |patch| validate(&agent(&patch), &paused).ok().unwrap().settings.operating_mode;
        assert_eq!(mode(json!({})), OperatingMode::Paused);
        assert_eq!(mode(json!({"operatingMode": "Suspended"})), OperatingMode::Suspended);
    }

    #[test]
    fn each_kind_of_nonsense_has_its_reason() {
        let good = inputs(&json!({}));
        assert!(validate(&agent(&json!({})), &good).is_ok());
        assert_eq!(reason(&json!({"subscribes": ["Permit recorded"]}), &good), "InvalidType");
        assert_eq!(reason(&json!({"shards": 4}), &good), "StoreNotShared");
        assert_eq!(reason(&json!({"store": {"kind": "Postgres", "secretRef": "db"}}), &good), "StoreSecretMissing");
        let types: Vec<String> = (0..128).map(|index| format!("evt.a.b{index}")).collect();
        let wide = json!({"subscribes": types, "shards": 2, "store": {"kind": "JetStream"}});
        assert_eq!(reason(&wide, &good), "TooManyFilters");
        let many = json!({"subscribes": types, "shards": 8, "store": {"kind": "JetStream"}});
        assert!(validate(&agent(&many), &good).is_ok());
        assert_eq!(reason(&json!({"volumes": []}), &good), "VolumesNotAllowed");
        let mounts = json!({"container": {"image": "x", "volumeMounts": []}});
        assert_eq!(reason(&mounts, &good), "VolumesNotAllowed");
        let resources = json!({"container": {"image": "x", "resources": {"limits": {"memory": "much"}}}});
        assert_eq!(reason(&resources, &good), "InvalidResources");
    }

    #[test]
    fn secrets_are_only_those_labelled_for_agents() {
        let with = |allowed| Inputs { secrets: [("s".to_owned(), allowed)].into(), ..inputs(&json!({})) };
        assert!(validate(&agent(&json!({})), &with(Some(true))).is_ok());
        assert_eq!(reason(&json!({}), &with(Some(false))), "SecretNotAllowed");
        assert_eq!(reason(&json!({}), &with(None)), "SecretMissing");
    }

    #[test]
    fn a_workspace_without_its_namespace_stops_its_agents_and_one_with_a_typo_does_not() {
        let with = |reason: &str| {
            let mut inputs = inputs(&json!({}));
            let status = inputs.workspace.as_mut().and_then(|workspace| workspace.status.as_mut()).unwrap();
            status.conditions[0].status = "False".to_owned();
            status.conditions[0].reason = reason.to_owned();
            inputs
        };
        assert_eq!(reason(&json!({}), &with("NamespaceTaken")), "WorkspaceNotReady");
        assert!(validate(&agent(&json!({})), &with("InvalidIssuer")).is_ok());
    }

    #[test]
    fn an_agent_needs_a_workspace_that_is_set_up() {
        assert_eq!(reason(&json!({}), &Inputs { workspace: None, ..inputs(&json!({})) }), "NoWorkspace");
        assert_eq!(reason(&json!({}), &Inputs { keys: None, ..inputs(&json!({})) }), "WorkspaceNotReady");
    }
}
