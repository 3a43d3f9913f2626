//! The operator's own metrics, for Prometheus.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::{Arc, atomic::AtomicI64};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    /// `workspace` or `agent`.
    pub kind: &'static str,
    /// `ok`, or an error's code.
    pub outcome: &'static str,
}

#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub reconciles: Family<Outcome, Counter>,
    pub leader: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("rhizon_operator");
        let reconciles = Family::<Outcome, Counter>::default();
        let leader = Gauge::default();
        registry.register("reconciles", "Reconciliations by kind and outcome", reconciles.clone());
        registry.register("leader", "1 when this replica is the leader", leader.clone());
        Self { registry: Arc::new(registry), reconciles, leader }
    }
}

impl Metrics {
    pub fn count(&self, kind: &'static str, outcome: &'static str) {
        self.reconciles.get_or_create(&Outcome { kind, outcome }).inc();
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
