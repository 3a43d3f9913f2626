//! What a workspace's status says about what was done. Pure.

use super::validate::Problem;
use crate::{
    heads::{self, Seen},
    nats,
};
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use rhizon_api::{
    RhizonWorkspace,
    conditions::{self, Finding},
    settings::Agent,
    workspace::{AccountsStatus, NamespaceStatus, RhizonWorkspaceStatus},
};

/// How a reconcile went.
pub enum Outcome {
    /// Nothing was done, since it makes no sense.
    Invalid(Problem),
    Applied(Box<Applied>),
}

pub struct Applied {
    pub namespace: NamespaceStatus,
    pub accounts: AccountsStatus,
    pub messaging: Result<(), nats::Error>,
    /// The gateway's Deployment as the server has it.
    pub gateway: DynamicObject,
}

impl Outcome {
    /// Whether time may help where nothing else changes.
    pub fn needs_retry(&self) -> bool {
        match self {
            Self::Invalid(_) => true,
            Self::Applied(applied) => applied.messaging.is_err(),
        }
    }
}

/// The next status. `seen` are the ends of the agents' journals.
pub fn compute(
    workspace: &RhizonWorkspace,
    outcome: &Outcome,
    agents: &[Agent],
    seen: &Seen,
    now: Timestamp,
) -> RhizonWorkspaceStatus {
    let before = workspace.status.clone().unwrap_or_default();
    let mut findings = match outcome {
        Outcome::Invalid(problem) => invalid(problem),
        Outcome::Applied(applied) => findings(applied),
    };
    findings.extend(heads::truncated(&before.chain_heads, seen).map(|why| {
        let message = format!("{why}. Restore it; if it was meant to begin anew, delete the agent and make it again");
        Finding::new(conditions::JOURNALS_WHOLE, false, "JournalTruncated", message)
    }));
    let (namespace, accounts) = match outcome {
        Outcome::Invalid(_) => (before.namespace, before.accounts),
        Outcome::Applied(applied) => (Some(applied.namespace.clone()), Some(applied.accounts.clone())),
    };
    let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    let generation = workspace.metadata.generation;
    RhizonWorkspaceStatus {
        observed_generation: generation,
        conditions: conditions::merge(&before.conditions, &findings, generation, now),
        namespace,
        accounts,
        agents: matches!(outcome, Outcome::Applied(_)).then(|| i32::try_from(agents.len()).ok()).flatten(),
        chain_heads: heads::publish(&before.chain_heads, seen, &names, now),
    }
}

fn invalid(problem: &Problem) -> Vec<Finding> {
    let Problem { reason, message } = problem;
    vec![
        Finding::new(conditions::READY, false, reason, message.clone()),
        Finding::new(conditions::VALID, false, reason, message.clone()),
    ]
}

fn findings(applied: &Applied) -> Vec<Finding> {
    let Applied { namespace, accounts: _, messaging, gateway } = applied;
    let rest = [
        Finding::new(conditions::VALID, true, "Valid", "the spec makes sense"),
        Finding::new(conditions::NAMESPACE_READY, true, "Applied", format!("namespace {} is set up", namespace.name)),
        match messaging {
            Ok(()) => Finding::new(conditions::MESSAGING_READY, true, "Applied", "accounts and streams are set up"),
            Err(error) => Finding::new(conditions::MESSAGING_READY, false, error.reason(), advise(error)),
        },
        gateway_finding(gateway),
    ];
    let ready = match rest.iter().find(|finding| !finding.is_true()) {
        None => Finding::new(conditions::READY, true, "Ready", "the gateway takes events"),
        Some(cause) => Finding::new(conditions::READY, false, &cause.reason, cause.message.clone()),
    };
    std::iter::once(ready).chain(rest).collect()
}

/// The error, and what to do about it.
pub fn advise(error: &nats::Error) -> String {
    match error {
        nats::Error::Unavailable { .. } => {
            format!("{error}; look at the broker's pods in Rhizon's namespace. It is tried again by itself")
        }
        _ => error.to_string(),
    }
}

fn gateway_finding(deployment: &DynamicObject) -> Finding {
    let (spec, status) = (&deployment.data["spec"], &deployment.data["status"]);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let ready = status["readyReplicas"].as_i64().unwrap_or(0);
    let failure = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True");
    if let Some(failure) = failure {
        let message = failure["message"].as_str().unwrap_or_default();
        return Finding::new(
            conditions::GATEWAY_READY,
            false,
            "GatewayRefused",
            format!("no pod can be made: {message}"),
        );
    }
    if wanted == 0 {
        return Finding::new(conditions::GATEWAY_READY, true, "Off", "spec.gateway.replicas is 0");
    }
    let message = format!("{ready} of {wanted} gateway pods are ready");
    if ready > 0 {
        Finding::new(conditions::GATEWAY_READY, true, "Running", "the gateway answers")
    } else {
        Finding::new(conditions::GATEWAY_READY, false, "GatewayStarting", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "rhizon-gateway"},
            "spec": {"replicas": 1}, "status": status,
        }))
        .unwrap()
    }

    fn ready(messaging: Result<(), nats::Error>, gateway: &Value) -> (bool, String) {
        let applied = Applied {
            namespace: NamespaceStatus { name: "n".to_owned(), uid: "u".to_owned(), created: true },
            accounts: AccountsStatus { data: "D".to_owned(), runtime: "R".to_owned() },
            messaging,
            gateway: deployment(gateway),
        };
        let findings = findings(&applied);
        (findings[0].is_true(), findings[0].reason.clone())
    }

    #[test]
    fn ready_names_the_first_part_that_is_not() {
        assert_eq!(ready(Ok(()), &json!({"readyReplicas": 1})), (true, "Ready".to_owned()));
        assert_eq!(ready(Ok(()), &json!({})), (false, "GatewayStarting".to_owned()));
        let away = Err(nats::Error::unavailable("connect", "refused"));
        assert_eq!(ready(away, &json!({"readyReplicas": 1})), (false, "MessagingUnavailable".to_owned()));
        let refused =
            json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]});
        assert_eq!(ready(Ok(()), &refused), (false, "GatewayRefused".to_owned()));
    }
}
