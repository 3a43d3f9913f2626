//! What the sidecar counts, for Prometheus. Labels are bounded sets: no names, ids or words of errors.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rhizon_kernel::egress::Outcome;
use rhizon_kernel::ingress::Reason;

use crate::agent::CallError;
use crate::bus::{Ack, BusError};
use crate::store::StoreError;
use crate::store::jetstream::JournalMetrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Category {
    category: &'static str,
}

type ByCategory = Family<Category, Counter>;

#[derive(Default)]
pub struct Metrics {
    pulled: Counter,
    decided: ByCategory,
    duplicates: Counter,
    calls: Counter,
    call_failures: ByCategory,
    tries_failed: ByCategory,
    published: Counter,
    published_again: Counter,
    recovered: Counter,
    publish_failures: ByCategory,
    store_failures: ByCategory,
    interruptions: ByCategory,
    position: Gauge<u64, AtomicU64>,
    records: Gauge<u64, AtomicU64>,
    pub journal: JournalMetrics,
}

impl Metrics {
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("rhizon");
        let r = &mut registry;
        r.register("events_pulled", "Events taken from the stream", self.pulled.clone());
        r.register("events_decided", "Events journaled, by outcome", self.decided.clone());
        r.register("events_duplicate", "Events that were known already and had no effect", self.duplicates.clone());
        r.register("agent_calls", "Calls to the agent", self.calls.clone());
        r.register("agent_call_failures", "Calls that brought no answer", self.call_failures.clone());
        r.register(
            "agent_tries_failed",
            "Events that the agent failed, refused or answered wrongly",
            self.tries_failed.clone(),
        );
        r.register("outputs_published", "Messages published and acknowledged by the broker", self.published.clone());
        r.register("outputs_published_again", "Messages that the broker had already", self.published_again.clone());
        r.register("outputs_recovered", "Messages published from the journal after a restart", self.recovered.clone());
        r.register("publish_failures", "Publishes that will be tried again", self.publish_failures.clone());
        r.register("store_failures", "Calls to the store that failed", self.store_failures.clone());
        r.register(
            "interruptions",
            "Times the stream was read again from the store's position",
            self.interruptions.clone(),
        );
        r.register("position", "Stream sequence up to which everything is settled", self.position.clone());
        r.register("journal_records", "Records in the journal", self.records.clone());
        self.journal.register(r);
        registry
    }

    pub fn pulled(&self, count: usize) {
        self.pulled.inc_by(count as u64);
    }

    pub fn decided(&self, outcome: Outcome) {
        self.decided.get_or_create(&Category { category: outcome.as_str() }).inc();
    }

    pub fn duplicates(&self, count: usize) {
        self.duplicates.inc_by(count as u64);
    }

    pub fn called(&self, events: usize) {
        if events > 0 {
            self.calls.inc();
        }
    }

    pub fn call_failed(&self, error: &CallError) {
        let category = match error {
            CallError::Unreachable(_) => "unreachable",
            CallError::Lost(_) => "lost",
        };
        self.call_failures.get_or_create(&Category { category }).inc();
    }

    pub fn try_failed(&self, reason: &Reason) {
        let category = match reason.code.as_str() {
            "agent_failed" => "failed",
            "agent_rejected" => "refused",
            "agent_lost" => "lost",
            _ => "invalid-answer",
        };
        self.tries_failed.get_or_create(&Category { category }).inc();
    }

    pub fn published(&self, acks: &[Ack]) {
        self.published.inc_by(acks.len() as u64);
        self.published_again.inc_by(acks.iter().filter(|ack| ack.duplicate).count() as u64);
    }

    pub fn recovered(&self, messages: usize) {
        self.recovered.inc_by(messages as u64);
    }

    pub fn publish_failed(&self, error: &BusError) {
        self.publish_failures.get_or_create(&Category { category: bus_category(error) }).inc();
    }

    pub fn interrupted(&self, why: &BusError) {
        self.interruptions.get_or_create(&Category { category: bus_category(why) }).inc();
    }

    pub fn store_failed(&self, error: &StoreError) {
        let category = match error {
            StoreError::Fenced { .. } => "fenced",
            StoreError::Conflict { .. } => "conflict",
            StoreError::Foreign(_) => "foreign",
            StoreError::Broken(_) => "broken",
            StoreError::Full(_) => "full",
            StoreError::TooLarge { .. } => "too_large",
            StoreError::NotYet { .. } => "not_yet",
            StoreError::Failed { .. } => "failed",
        };
        self.store_failures.get_or_create(&Category { category }).inc();
    }

    pub fn settled(&self, position: u64, records: u64) {
        self.position.set(position);
        self.records.set(records);
    }
}

fn bus_category(error: &BusError) -> &'static str {
    match error {
        BusError::Unreachable { .. } => "unreachable",
        BusError::Gap(_) => "gap",
        BusError::Dropped(_) => "dropped",
        BusError::Refused { .. } => "refused",
        BusError::Full(_) => "full",
    }
}
