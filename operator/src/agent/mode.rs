//! Is the operating mode reached that was asked for? Said only when it is true. Pure.

use super::{inquiry, status::Applied};
use rhizon_api::{
    agent::OperatingMode,
    conditions::{self, Finding},
};

/// The condition of a mode other than `Running`.
pub fn finding(applied: &Applied) -> Option<Finding> {
    let Applied { mode, reports, .. } = applied;
    let said = |condition, reached, (done, what): (&str, &str), (on_its_way, wait): (&str, &str)| {
        let (reason, message) = if reached { (done, what) } else { (on_its_way, wait) };
        Finding::new(condition, reached, reason, message)
    };
    let reached = match mode {
        OperatingMode::Running | OperatingMode::Paused | OperatingMode::Draining => {
            inquiry::acknowledges(*mode, reports)
        }
        OperatingMode::Suspended => has_no_pod(applied),
    };
    match mode {
        OperatingMode::Running => None,
        OperatingMode::Paused => Some(said(
            conditions::PAUSED,
            reached,
            ("Paused", "up, takes no events, and has none in hand"),
            ("Pausing", "what is in hand comes to its end; the sidecar has not said yet that it did"),
        )),
        OperatingMode::Draining => Some(said(
            conditions::DRAINED,
            reached,
            ("Drained", "up, takes no events, and all that it had begun is done"),
            ("Draining", "takes no new events; the sidecar has not said yet that all it had begun is done"),
        )),
        OperatingMode::Suspended => Some(said(
            conditions::SUSPENDED,
            reached,
            ("Suspended", "has no pod, as asked for"),
            ("Suspending", "its pods come to their end"),
        )),
    }
}

/// The StatefulSet's own count is looked at too, once its controller has seen what is asked for: it could be about to make one.
fn has_no_pod(applied: &Applied) -> bool {
    applied.pods.is_empty()
        && applied.stateful_set.as_ref().is_some_and(|set| {
            let status = &set.data["status"];
            let has_seen = status["observedGeneration"].as_i64() == set.metadata.generation;
            has_seen && status["replicas"].as_u64().unwrap_or(0) == 0
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::inquiry::Report, nats::consumers::Progress};
    use serde_json::json;

    fn applied(mode: OperatingMode, report: Option<Report>, replicas: u64) -> Applied {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"generation": 2},
            "status": {"replicas": replicas, "observedGeneration": 2},
        });
        Applied {
            mode,
            is_changing: false,
            progress: Ok(Progress { first_sequence: 1, lag: 0, handled: 0 }),
            stateful_set: Some(serde_json::from_value(set).unwrap()),
            pods: Vec::new(),
            complaint: None,
            refusals: Vec::new(),
            reports: vec![report],
        }
    }

    fn said(applied: &Applied) -> (&'static str, Option<bool>, String) {
        let finding = finding(applied).unwrap();
        (finding.r#type, finding.status, finding.reason)
    }

    #[test]
    fn each_mode_is_said_when_it_is_reached() {
        let report = |mode: &str| Some(Report { ready: true, mode: mode.to_owned(), idle: true, ..Report::default() });
        assert_eq!(finding(&applied(OperatingMode::Running, report("Running"), 1)), None);
        for (mode, old, condition, on_its_way, done) in [
            (OperatingMode::Paused, "Running", "Paused", "Pausing", "Paused"),
            (OperatingMode::Draining, "Paused", "Drained", "Draining", "Drained"),
        ] {
            assert_eq!(said(&applied(mode, report(old), 1)), (condition, Some(false), on_its_way.to_owned()));
            assert_eq!(said(&applied(mode, None, 1)).1, Some(false));
            let new = format!("{mode:?}");
            assert_eq!(said(&applied(mode, report(&new), 1)), (condition, Some(true), done.to_owned()));
        }
        assert_eq!(said(&applied(OperatingMode::Suspended, None, 1)).2, "Suspending");
        assert_eq!(said(&applied(OperatingMode::Suspended, None, 0)).2, "Suspended");
        let mut unseen = applied(OperatingMode::Suspended, None, 0);
        unseen.stateful_set.as_mut().unwrap().metadata.generation = Some(3);
        assert_eq!(said(&unseen).2, "Suspending", "its controller may act on what was asked for before");
    }
}
