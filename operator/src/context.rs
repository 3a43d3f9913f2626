//! What a reconcile has at hand.

use crate::{heads::Heads, jwks, metrics::Metrics, nats::pool::Pool, settings::Settings};
use kube::{
    Client,
    core::DeserializeGuard,
    runtime::{events::Recorder, reflector::Store},
};
use rhizon_api::{RhizonAgent, RhizonWorkspace};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

pub type Workspace = DeserializeGuard<RhizonWorkspace>;
pub type Agent = DeserializeGuard<RhizonAgent>;

pub struct Context {
    pub client: Client,
    pub settings: Settings,
    pub pool: Pool,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub jwks: jwks::Cache,
    pub backoff: Backoff,
    pub pace: Pace,
    pub heads: Heads,
    pub workspaces: Store<Workspace>,
}

impl Context {
    /// The workspace that a namespace belongs to. One that is being deleted does not count.
    pub fn workspace_of(&self, namespace: &str) -> Option<RhizonWorkspace> {
        self.claimant_of(namespace).filter(|workspace| workspace.metadata.deletion_timestamp.is_none())
    }

    /// The workspace that has, or else first asked for, a namespace.
    pub fn claimant_of(&self, namespace: &str) -> Option<RhizonWorkspace> {
        let all = self.workspaces.state();
        let claimants = all.iter().filter_map(|guard| guard.0.as_ref().ok());
        claimants
            .filter(|workspace| workspace.namespace_name() == namespace)
            .min_by_key(|workspace| {
                let owns = workspace.status.as_ref().is_some_and(|status| status.namespace.is_some());
                (!owns, workspace.metadata.creation_timestamp.as_ref().map(|time| time.0))
            })
            .cloned()
    }
}

/// How often each object failed in a row, and so how long to wait.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_mins(1);

    pub fn failed(&self, key: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_default();
        let pause = Self::FIRST.saturating_mul(1 << (*count).min(6));
        *count = count.saturating_add(1);
        pause.min(Self::LONGEST)
    }

    pub fn succeeded(&self, key: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// How often a number that changes all the time is written: the write itself brings the next look.
#[derive(Default)]
pub struct Pace {
    written: Mutex<HashMap<String, Instant>>,
}

impl Pace {
    pub const INTERVAL: Duration = Duration::from_secs(5);

    /// Whether it may be written now; if so, it counts as written.
    pub fn take(&self, key: &str, now: Instant) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = written.get(key).is_none_or(|last| now.duration_since(*last) >= Self::INTERVAL);
        if is_due {
            written.insert(key.to_owned(), now);
        }
        is_due
    }

    pub fn forget(&self, key: &str) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_once_in_an_interval() {
        let (pace, start) = (Pace::default(), Instant::now());
        assert!(pace.take("a", start));
        assert!(!pace.take("a", start + Duration::from_secs(4)));
        assert!(pace.take("b", start));
        assert!(pace.take("a", start + Pace::INTERVAL));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_success() {
        let backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.failed("a").as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.succeeded("a");
        assert_eq!(backoff.failed("a").as_secs(), 1);
    }
}
