//! Asks an agent's sidecars how they are: the truth about modes and journals is theirs alone.

use super::{pods, sidecar};
use async_nats::Client;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use rhizon_api::{agent::OperatingMode, settings::Sidecar};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const LIMIT_BYTES: usize = 64 << 10;

/// What the sidecar that owns a shard says. Older and newer ones say less and more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    pub ready: bool,
    /// The operating mode of its settings.
    pub mode: String,
    /// Takes nothing and has nothing in hand.
    pub idle: bool,
    pub in_flight: u64,
    /// Events that wait in the store for a retry, or behind one that does.
    pub held: u64,
    /// Records in the journal.
    pub records: u64,
    /// Hash that the last record ends the audit chain with.
    pub link: Option<String>,
    pub last_error: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    ok: Report,
}

/// The reports of all shards in their order; `None` for one that nobody answers for.
pub async fn ask(client: &Client, settings: &Sidecar, pods: &[Pod]) -> Vec<Option<Report>> {
    if !pods.iter().any(|pod| pods::is_ready(pod) || sidecar::is_started(pod)) {
        return vec![None; settings.shards.len()];
    }
    let subject = format!("rq.{}.status", settings.kernel.agent);
    join_all(settings.shards.iter().map(|shard| question(client, &subject, shard.index))).await
}

async fn question(client: &Client, subject: &str, shard: u32) -> Option<Report> {
    let request = client.request(subject.to_owned(), json!({"shard": shard}).to_string().into());
    let answer = tokio::time::timeout(PATIENCE, request).await.ok()?.ok()?;
    read(&answer.payload)
}

fn read(answer: &[u8]) -> Option<Report> {
    if answer.len() > LIMIT_BYTES {
        return None;
    }
    serde_json::from_slice(answer).ok().map(|Answer { ok }| ok)
}

/// Whether every shard is in the mode that was asked for.
pub fn acknowledges(mode: OperatingMode, reports: &[Option<Report>]) -> bool {
    !reports.is_empty()
        && reports.iter().all(|report| {
            report.as_ref().is_some_and(|report| {
                let is_done = match mode {
                    OperatingMode::Running | OperatingMode::Suspended => true,
                    OperatingMode::Paused => report.ready && report.in_flight == 0,
                    OperatingMode::Draining => report.ready && report.idle && report.held == 0,
                };
                report.mode == format!("{mode:?}") && is_done
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &serde_json::Value) -> Option<Report> {
        read(json!({"ok": text}).to_string().as_bytes())
    }

    #[test]
    fn an_answer_may_say_less_or_more() {
        let full = report(&json!({"ready": true, "records": 7, "link": "ab", "surprise": [1]})).unwrap();
        assert_eq!((full.ready, full.records, full.link.as_deref()), (true, 7, Some("ab")));
        assert_eq!(report(&json!({})), Some(Report::default()));
        assert_eq!(read(b"{\"error\":{\"code\":\"store\"}}"), None);
    }

    #[test]
    fn a_mode_is_acknowledged_by_all_shards_or_not_at_all() {
        let paused = |in_flight| report(&json!({"ready": true, "mode": "Paused", "inFlight": in_flight}));
        let is_paused = |reports: &[_]| acknowledges(OperatingMode::Paused, reports);
        assert!(is_paused(&[paused(0), paused(0)]));
        assert!(!is_paused(&[paused(0), paused(1)]));
        assert!(!is_paused(&[paused(0), None]));
        assert!(!is_paused(&[report(&json!({"ready": true, "mode": "Running"}))]));
        assert!(
            !is_paused(&[report(&json!({"mode": "Paused", "inFlight": 0}))]),
            "it has not begun, and may publish yet"
        );
        assert!(!is_paused(&[]));
        let draining =
            |idle: bool, held: u64| report(&json!({"ready": true, "mode": "Draining", "idle": idle, "held": held}));
        assert!(acknowledges(OperatingMode::Draining, &[draining(true, 0)]));
        assert!(!acknowledges(OperatingMode::Draining, &[draining(false, 0)]));
        assert!(!acknowledges(OperatingMode::Draining, &[draining(true, 1)]), "a retry is to come");
    }
}
