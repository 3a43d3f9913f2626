//! What becomes of snapshots, and how much of a journal a start has to read.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

#[derive(Clone, Default)]
pub struct JournalMetrics {
    pub read: Counter,
    pub filled: Counter,
    pub taken: Counter,
    pub failed: Counter,
    pub used: Counter,
    pub unfit: Counter,
    pub unwritten: Counter,
}

impl JournalMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let Self { read, filled, taken, failed, used, unfit, unwritten } = self;
        registry.register("journal_records_read", "Records read from the broker before working", read.clone());
        registry.register("journal_records_filled", "Older records read in the background", filled.clone());
        registry.register("snapshots_taken", "Snapshots put into the broker", taken.clone());
        registry.register("snapshots_failed", "Snapshots that could not be taken", failed.clone());
        registry.register("snapshots_used", "Starts from a snapshot", used.clone());
        registry.register("snapshots_unfit", "Snapshots that were not usable at a start", unfit.clone());
        let failed = "Writes to the cache that failed, and are tried again";
        registry.register("journal_cache_writes_failed", failed, unwritten.clone());
    }
}
