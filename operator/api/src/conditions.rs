//! Standard conditions: their types, and how a list of them moves from one status to the next.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Everything works. The one to wait for: `kubectl wait --for=condition=Ready`.
pub const READY: &str = "Ready";
/// The spec makes sense, in itself and where it is applied.
pub const VALID: &str = "Valid";
/// Workspace: the namespace exists and is ours, with its quota and policies.
pub const NAMESPACE_READY: &str = "NamespaceReady";
/// The broker has the accounts and streams (workspace), or the consumer and credentials (agent).
pub const MESSAGING_READY: &str = "MessagingReady";
/// Workspace: the gateway answers.
pub const GATEWAY_READY: &str = "GatewayReady";
/// Agent: its pods run.
pub const WORKLOAD_READY: &str = "WorkloadReady";
/// Agent: it takes no events and has none in hand. Each of the three stands only where its mode is asked for.
pub const PAUSED: &str = "Paused";
/// Agent: all that it had begun is done, and it takes nothing new.
pub const DRAINED: &str = "Drained";
/// Agent: it has no pod.
pub const SUSPENDED: &str = "Suspended";
/// Workspace: stands, as false, when a journal is not what its published head says.
pub const JOURNALS_WHOLE: &str = "JournalsWhole";

/// One condition as a step decided it, without times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub r#type: &'static str,
    /// `None` is the status `Unknown`.
    pub status: Option<bool>,
    /// CamelCase, stable, for programs.
    pub reason: String,
    /// For people: what is so, and what to do.
    pub message: String,
}

impl Finding {
    pub fn new(r#type: &'static str, status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { r#type, status: Some(status), reason: reason.to_owned(), message: message.into() }
    }

    pub fn unknown(r#type: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { r#type, status: None, reason: reason.to_owned(), message: message.into() }
    }

    pub fn is_true(&self) -> bool {
        self.status == Some(true)
    }

    fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The conditions of the next status: in the order of `findings`, and with the old transition time where the status
/// did not change.
pub fn merge(before: &[Condition], findings: &[Finding], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    findings
        .iter()
        .map(|finding| {
            let status = finding.status_text();
            let since = before
                .iter()
                .find(|old| old.type_ == finding.r#type && old.status == status)
                .map_or(Time(now), |old| old.last_transition_time.clone());
            Condition {
                type_: finding.r#type.to_owned(),
                status: status.to_owned(),
                reason: finding.reason.clone(),
                message: finding.message.clone(),
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], r#type: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == r#type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let (early, late) = (Timestamp::from_second(100).unwrap(), Timestamp::from_second(200).unwrap());
        let first = merge(&[], &[Finding::new(READY, false, "Starting", "wait")], Some(1), early);
        let same = merge(&first, &[Finding::new(READY, false, "StillStarting", "wait more")], Some(2), late);
        let other = merge(&same, &[Finding::new(READY, true, "Running", "")], Some(2), late);
        assert_eq!(same[0].last_transition_time, Time(early));
        assert_eq!(same[0].reason, "StillStarting");
        assert_eq!(other[0].last_transition_time, Time(late));
    }
}
