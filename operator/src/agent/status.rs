//! What an agent's status says about what was done. Pure.

use super::{inquiry::Report, mode, pods};
use crate::{
    nats::{self, consumers::Progress},
    workspace::{status::advise, validate::Problem},
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::api::DynamicObject;
use rhizon_api::{
    RhizonAgent,
    agent::{OperatingMode, RhizonAgentStatus},
    conditions::{self, Finding},
};

/// How a reconcile went.
pub enum Outcome {
    /// It makes no sense; what runs already goes on.
    Invalid(Problem),
    Applied(Box<Applied>),
}

pub struct Applied {
    /// What the sidecars were told.
    pub mode: OperatingMode,
    /// Other rules are to be in force, and have no place yet.
    pub is_changing: bool,
    pub progress: Result<Progress, nats::Error>,
    /// The StatefulSet as the server has it; none while the agent has no first position.
    pub stateful_set: Option<DynamicObject>,
    pub pods: Vec<Pod>,
    /// What a sidecar that is not ready says about it.
    pub complaint: Option<String>,
    /// Why no pod could be made, newest last.
    pub refusals: Vec<String>,
    /// What the sidecars say, shard by shard.
    pub reports: Vec<Option<Report>>,
}

impl Outcome {
    /// Whether time may help where nothing else changes.
    pub fn needs_retry(&self) -> bool {
        match self {
            Self::Invalid(problem) => {
                problem.reason.contains("Secret") || matches!(problem.reason, "WorkspaceNotReady" | "ApplyRefused")
            }
            Self::Applied(applied) => applied.progress.is_err(),
        }
    }

    /// Something is on its way, and nothing tells us when it is reached.
    pub fn is_on_its_way(&self) -> bool {
        match self {
            Self::Invalid(_) => false,
            Self::Applied(applied) => {
                applied.is_changing || mode::finding(applied).is_some_and(|finding| !finding.is_true())
            }
        }
    }
}

/// The next status.
pub fn compute(agent: &RhizonAgent, outcome: &Outcome, now: Timestamp) -> RhizonAgentStatus {
    let before = agent.status.clone().unwrap_or_default();
    let findings = match outcome {
        Outcome::Invalid(Problem { reason, message }) => vec![
            Finding::new(conditions::READY, false, reason, message.clone()),
            Finding::new(conditions::VALID, false, reason, message.clone()),
        ],
        Outcome::Applied(applied) => findings(applied),
    };
    let progress = match outcome {
        Outcome::Applied(applied) => applied.progress.as_ref().ok(),
        Outcome::Invalid(_) => None,
    };
    let generation = agent.metadata.generation;
    RhizonAgentStatus {
        observed_generation: generation,
        conditions: conditions::merge(&before.conditions, &findings, generation, now),
        lag: progress.and_then(|progress| i64::try_from(progress.lag).ok()).or(before.lag),
        last_error: last_error(&findings),
        first_sequence: progress
            .and_then(|progress| i64::try_from(progress.first_sequence).ok())
            .or(before.first_sequence),
    }
}

/// What stands in the way; not what is merely on its way.
fn last_error(findings: &[Finding]) -> Option<String> {
    findings
        .iter()
        .find(|finding| finding.status == Some(false) && !is_on_its_way(&finding.reason))
        .map(|finding| shorten(&finding.message))
}

/// For a column: the condition has the whole text.
fn shorten(message: &str) -> String {
    const LIMIT: usize = 100;
    if message.chars().count() <= LIMIT {
        return message.to_owned();
    }
    message.chars().take(LIMIT - 1).chain(['…']).collect()
}

fn is_on_its_way(reason: &str) -> bool {
    matches!(reason, "Starting" | "Changing" | "Suspended" | "Pausing" | "Draining" | "Suspending")
}

fn findings(applied: &Applied) -> Vec<Finding> {
    let Applied { progress, .. } = applied;
    let rest = [
        Finding::new(conditions::VALID, true, "Valid", "the spec makes sense"),
        match progress {
            Ok(_) => Finding::new(conditions::MESSAGING_READY, true, "Applied", "consumer and credentials are set up"),
            Err(error) => Finding::new(conditions::MESSAGING_READY, false, error.reason(), advise(error)),
        },
        workload(applied),
    ];
    let mode = mode::finding(applied);
    let ready = match (rest.iter().find(|finding| !finding.is_true()), &mode) {
        (Some(cause), _) => Finding::new(conditions::READY, false, &cause.reason, cause.message.clone()),
        (None, None) => Finding::new(conditions::READY, true, "Running", "the agent takes events"),
        (None, Some(mode)) => {
            let has_pods = applied.mode != OperatingMode::Suspended;
            Finding::new(conditions::READY, has_pods, &mode.reason, mode.message.clone())
        }
    };
    std::iter::once(ready).chain(rest).chain(mode).collect()
}

fn workload(applied: &Applied) -> Finding {
    let Applied { mode, is_changing, progress: _, stateful_set, pods, complaint, refusals, reports } = applied;
    let finding =
        |status, reason: &str, message: String| Finding::new(conditions::WORKLOAD_READY, status, reason, message);
    let Some(set) = stateful_set else {
        return finding(false, "Starting", "the pod follows when the agent has its place in the stream".to_owned());
    };
    if *is_changing {
        let message = "its pods end, and start again with the new rules: an event is judged by those of its time";
        return finding(false, "Changing", message.to_owned());
    }
    if *mode == OperatingMode::Suspended {
        return finding(true, "Suspended", "no pod, as asked for".to_owned());
    }
    let wanted = set.data["spec"]["replicas"].as_u64().unwrap_or(1);
    let ready = pods.iter().filter(|pod| pods::is_ready(pod)).count() as u64;
    if ready >= wanted {
        return finding(true, "Running", format!("{ready} of {wanted} pods are ready"));
    }
    if let Some(trouble) = pods::trouble(pods) {
        return finding(false, &trouble.reason, trouble.message);
    }
    if let (true, Some(refusal)) = (pods.is_empty(), refusals.last()) {
        let reason = if refusal.contains("exceeded quota") { "QuotaExceeded" } else { "PodRefused" };
        return finding(false, reason, format!("no pod can be made: {refusal}"));
    }
    let told = reports.iter().flatten().filter(|report| !report.ready).find_map(|report| report.last_error.as_ref());
    if let Some(complaint) = complaint.as_ref().or(told) {
        return finding(false, "SidecarNotReady", format!("the sidecar is not ready: {complaint}"));
    }
    finding(false, "Starting", format!("{ready} of {wanted} pods are ready"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agent() -> RhizonAgent {
        serde_json::from_value(json!({
            "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonAgent",
            "metadata": {"name": "ledger", "generation": 2},
            "spec": {"subscribes": ["evt.a.b"], "container": {"image": "x"}},
            "status": {"lag": 7, "firstSequence": 3},
        }))
        .unwrap()
    }

    fn applied(mode: OperatingMode, pods: Vec<Pod>, complaint: Option<&str>, refusals: &[&str]) -> Outcome {
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {}, "spec": {"replicas": 1}});
        Outcome::Applied(Box::new(Applied {
            mode,
            is_changing: false,
            progress: Ok(Progress { first_sequence: 3, lag: 0, handled: 0 }),
            stateful_set: Some(serde_json::from_value(set).unwrap()),
            pods,
            complaint: complaint.map(str::to_owned),
            refusals: refusals.iter().map(|text| (*text).to_owned()).collect(),
            reports: Vec::new(),
        }))
    }

    fn ready_pod() -> Pod {
        serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})).unwrap()
    }

    fn ready(status: &RhizonAgentStatus) -> (&str, &str) {
        let condition = conditions::find(&status.conditions, conditions::READY).unwrap();
        (&condition.status, &condition.reason)
    }

    #[test]
    fn a_running_agent_is_ready_and_has_no_error() {
        let status =
            compute(&agent(), &applied(OperatingMode::Running, vec![ready_pod()], None, &[]), Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&status), ("True", "Running"));
        assert_eq!((status.lag, status.last_error, status.first_sequence), (Some(0), None, Some(3)));
    }

    #[test]
    fn a_quota_that_is_too_small_is_said() {
        let refusal = "exceeded quota: rhizon";
        let status =
            compute(&agent(), &applied(OperatingMode::Running, Vec::new(), None, &[refusal]), Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&status), ("False", "QuotaExceeded"));
        assert_eq!(status.last_error.unwrap(), format!("no pod can be made: {refusal}"));
    }

    #[test]
    fn a_sidecar_that_is_not_ready_is_quoted() {
        let outcome =
            applied(OperatingMode::Running, vec![Pod::default()], Some("the store is behind the stream"), &[]);
        let status = compute(&agent(), &outcome, Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&status), ("False", "SidecarNotReady"));
        assert_eq!(status.last_error.unwrap(), "the sidecar is not ready: the store is behind the stream");
    }

    #[test]
    fn an_invalid_spec_keeps_what_was_known() {
        let outcome = Outcome::Invalid(Problem::new("InvalidType", "spec.subscribes[0]: …"));
        let status = compute(&agent(), &outcome, Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&status), ("False", "InvalidType"));
        assert_eq!((status.lag, status.first_sequence), (Some(7), Some(3)));
    }

    #[test]
    fn what_the_sidecar_says_over_the_broker_is_quoted_too() {
        let mut outcome = applied(OperatingMode::Running, vec![Pod::default()], None, &[]);
        let Outcome::Applied(inner) = &mut outcome else { panic!() };
        inner.reports = vec![Some(Report { last_error: Some("no agent".to_owned()), ..Report::default() })];
        let status = compute(&agent(), &outcome, Timestamp::UNIX_EPOCH);
        assert_eq!(status.last_error.unwrap(), "the sidecar is not ready: no agent");
    }

    #[test]
    fn suspended_is_not_ready_and_no_error() {
        let outcome = applied(OperatingMode::Suspended, Vec::new(), None, &[]);
        let status = compute(&agent(), &outcome, Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&status), ("False", "Suspended"));
        assert_eq!(status.last_error, None);
        assert!(!outcome.is_on_its_way());
    }

    #[test]
    fn a_mode_on_its_way_is_no_error_and_is_looked_at_again() {
        let outcome = applied(OperatingMode::Paused, vec![ready_pod()], None, &[]);
        let status = compute(&agent(), &outcome, Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&status), ("True", "Pausing"));
        assert_eq!(conditions::find(&status.conditions, conditions::PAUSED).unwrap().status, "False");
        assert_eq!(status.last_error, None);
        assert!(outcome.is_on_its_way());
    }
}
