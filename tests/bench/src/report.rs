//! Figures for people, or as JSON.

use std::time::Duration;

use serde_json::json;

use crate::Options;

pub(crate) struct Figures {
    /// Putting all events on the stream, in atomic batches of 500: the broker's own limit.
    pub publishing: Duration,
    /// From exec until the sidecar listens.
    pub ready: Duration,
    /// From exec of the sidecar until the last output is on the stream.
    pub pipeline: Duration,
    /// Sorted.
    pub latency: Vec<Duration>,
    pub resident_bytes: u64,
    pub cpu: Duration,
}

impl Figures {
    fn quantile(&self, q: f64) -> f64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((self.latency.len() as f64 * q) as usize).min(self.latency.len().saturating_sub(1));
        self.latency.get(index).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn print(options: &Options, figures: &Figures) {
    let rate = |time: Duration| options.events as f64 / time.as_secs_f64();
    let (published, processed) = (rate(figures.publishing), rate(figures.pipeline));
    let rows = [
        ("events", options.events as f64),
        ("raw atomic-batch publishing, events/s", published),
        ("pipeline, events/s", processed),
        ("ratio to raw publishing", processed / published),
        ("latency alone p50, ms", figures.quantile(0.50)),
        ("latency alone p99, ms", figures.quantile(0.99)),
        ("sidecar CPU per event, µs", figures.cpu.as_secs_f64() * 1e6 / options.events as f64),
        ("sidecar resident, MB", figures.resident_bytes as f64 / 1e6),
        ("exec to ready, ms", figures.ready.as_secs_f64() * 1_000.0),
    ];
    if options.json {
        let object: serde_json::Map<String, serde_json::Value> =
            rows.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        println!("{}", json!(object));
        return;
    }
    println!(
        "store SQLite, fsync before every acknowledgement, {} entities, {} bytes",
        options.entities, options.bytes
    );
    for (name, value) in rows {
        println!("{name:<40} {value:>12.2}");
    }
}
