//! A workspace with the example's agents, for one test.

use std::thread;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rhizon_api::{RhizonAgent, RhizonWorkspace, conditions};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::local::Roots;
use super::log::Log;
use super::rhizon::Rhizon;
use super::wait::{holds, until};
use super::{example, installation};

const PATIENCE: Duration = Duration::from_mins(3);

/// The example under a name of the test's own. It goes with the value, also when the test fails.
pub(crate) struct Workspace {
    pub(crate) cluster: Cluster,
    pub(crate) name: &'static str,
}

impl Workspace {
    /// With both agents ready. What an earlier, interrupted run left is removed first.
    pub(crate) async fn permits(cluster: &Cluster, name: &'static str) -> Self {
        let workspace = Self::bare(cluster, name, json!({})).await;
        for manifest in example::inhabitants(name) {
            cluster.apply(&manifest).await;
        }
        for agent in ["permits", "ledger"] {
            workspace.agent_is_ready(agent).await;
        }
        workspace
    }

    /// Without agents. `spec` is laid over that of the example.
    pub(crate) async fn bare(cluster: &Cluster, name: &'static str, spec: Value) -> Self {
        let workspace = Self { cluster: cluster.clone(), name };
        workspace.clear().await;
        let mut manifest = example::workspace(name);
        for (field, value) in spec.as_object().expect("fields of a spec") {
            manifest["spec"][field] = value.clone();
        }
        cluster.apply(&manifest).await;
        workspace.is_ready().await;
        workspace
    }

    pub(crate) fn rhizon(&self) -> Rhizon {
        Rhizon::of(self.name)
    }

    pub(crate) fn object(&self) -> Api<RhizonWorkspace> {
        self.cluster.all()
    }

    pub(crate) fn agents(&self) -> Api<RhizonAgent> {
        self.cluster.within(self.name)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        self.cluster.within(self.name)
    }

    pub(crate) async fn is_ready(&self) {
        until(&format!("workspace {} is ready", self.name), PATIENCE, async || {
            let live = self.object().get(self.name).await.map_err(|error| error.to_string())?;
            let status = live.status.unwrap_or_default();
            is_true(&status.conditions, status.observed_generation == live.metadata.generation)
        })
        .await;
    }

    pub(crate) async fn agent_is_ready(&self, agent: &str) {
        let what = format!("agent {}/{agent} is ready", self.name);
        until(&what, PATIENCE, async || self.agent_readiness(agent).await).await;
    }

    /// Whether it is ready now, with the spec that it has now.
    pub(crate) async fn agent_readiness(&self, agent: &str) -> Result<(), String> {
        let live = self.agents().get(agent).await.map_err(|error| error.to_string())?;
        let status = live.status.unwrap_or_default();
        is_true(&status.conditions, status.observed_generation == live.metadata.generation)
    }

    /// The agent's condition Ready is false for this reason; answers its message.
    pub(crate) async fn agent_says(&self, agent: &str, reason: &str) -> String {
        until(&format!("agent {}/{agent} says {reason}", self.name), PATIENCE, async || {
            let live = self.agents().get(agent).await.map_err(|error| error.to_string())?;
            reason_of(&live.status.unwrap_or_default().conditions, reason)
        })
        .await
    }

    pub(crate) async fn patch_agent(&self, agent: &str, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.agents().patch(agent, &PatchParams::default(), &patch).await.expect("changing an agent");
    }

    /// All events have had their last effect.
    pub(crate) async fn effects(&self, total: u64) {
        for (agent, field) in [("permits", "steps"), ("ledger", "handled")] {
            until(&format!("{agent} has had all effects"), PATIENCE, async || {
                let states = self.rhizon().states(agent).await?;
                let sum: u64 = states.values().filter_map(|state| state[field].as_u64()).sum();
                holds(sum >= total, format!("{sum} of {total}"))
            })
            .await;
        }
    }

    /// Waits for all effects; then states are those expected and both journals verify. Answers the roots.
    pub(crate) async fn result(&self, log: &Log) -> Roots {
        self.effects(log.total()).await;
        for (agent, expected) in ["permits", "ledger"].into_iter().zip(log.states()) {
            let states = self.rhizon().states(agent).await.expect("the states of an agent");
            assert_eq!(states, expected, "states of {agent}");
        }
        [self.rhizon().verify("permits").await, self.rhizon().verify("ledger").await]
    }

    /// Asks the operator to delete it.
    pub(crate) async fn delete(&self) {
        self.cluster.delete(&self.object(), self.name).await;
    }

    /// The object itself is gone, and with the policy `Delete` all that belonged to it.
    pub(crate) async fn is_gone(&self) {
        self.cluster.gone(&self.object(), self.name, PATIENCE).await;
    }

    /// Nothing of this name is left, whoever left it.
    pub(crate) async fn clear(&self) {
        let everything = Patch::Merge(json!({"spec": {"deletionPolicy": "Delete"}}));
        // Most often there is none.
        let _ = self.object().patch(self.name, &PatchParams::default(), &everything).await;
        self.delete().await;
        self.is_gone().await;
        let namespaces = self.cluster.all::<Namespace>();
        self.cluster.delete(&namespaces, self.name).await;
        self.cluster.gone(&namespaces, self.name, PATIENCE).await;
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if thread::panicking() {
            for args in [&["get", "pods,rhizonagents,events"][..], &["describe", "rhizonagents"]] {
                let output = installation::kubectl().args(args).args(["-n", self.name]).output();
                eprintln!("{}", String::from_utf8_lossy(&output.map(|output| output.stdout).unwrap_or_default()));
            }
        }
        let args = ["delete", "rhizonworkspace", self.name, "--wait=false", "--ignore-not-found"];
        let _ = installation::kubectl().args(args).output();
    }
}

/// The reason and message of condition Ready, when it is false for this reason.
pub(crate) fn reason_of(conditions: &[Condition], reason: &str) -> Result<String, String> {
    let ready = conditions::find(conditions, conditions::READY).ok_or("there is no condition Ready")?;
    let is_it = ready.status == "False" && ready.reason == reason;
    holds(is_it, format!("{} {}: {}", ready.status, ready.reason, ready.message)).map(|()| ready.message.clone())
}

fn is_true(conditions: &[Condition], of_this_generation: bool) -> Result<(), String> {
    let ready = conditions::find(conditions, conditions::READY).ok_or("there is no condition Ready")?;
    let said = format!("{} {}: {}", ready.status, ready.reason, ready.message);
    holds(ready.status == "True" && of_this_generation, said)
}
