//! Figures for people, or as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::Options;
use crate::stores::Store;

pub(crate) struct Figures {
    /// Putting all events on the stream, in atomic batches of 500: the broker's own limit.
    pub publishing: Duration,
    /// From exec until the sidecar listens.
    pub ready: Duration,
    /// From exec of the sidecar until the last output is on the stream.
    pub pipeline: Duration,
    /// Sorted: one event at a time, and open-loop at half of saturation.
    pub alone: Vec<Duration>,
    pub loaded: Vec<Duration>,
    pub resident_bytes: u64,
    pub cpu: Duration,
}

/// In milliseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
fn quantile(times: &[Duration], q: f64) -> f64 {
    let index = ((times.len() as f64 * q) as usize).min(times.len().saturating_sub(1));
    times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn rows(options: &Options, figures: &Figures) -> Vec<(&'static str, f64)> {
    let rate = |time: Duration| options.events as f64 / time.as_secs_f64();
    let (published, processed) = (rate(figures.publishing), rate(figures.pipeline));
    vec![
        ("raw atomic-batch publishing, events/s", published),
        ("pipeline, events/s", processed),
        ("ratio to raw publishing", processed / published),
        ("alone p50, ms", quantile(&figures.alone, 0.50)),
        ("alone p99, ms", quantile(&figures.alone, 0.99)),
        ("at half load p50, ms", quantile(&figures.loaded, 0.50)),
        ("at half load p99, ms", quantile(&figures.loaded, 0.99)),
        ("at half load p99.9, ms", quantile(&figures.loaded, 0.999)),
        ("sidecar CPU per event, µs", figures.cpu.as_secs_f64() * 1e6 / options.events as f64),
        ("sidecar resident, MB", figures.resident_bytes as f64 / 1e6),
        ("exec to listening, ms", figures.ready.as_secs_f64() * 1_000.0),
    ]
}

pub(crate) fn print(options: &Options, measured: &[(Store, Figures)]) {
    let columns: Vec<_> = measured.iter().map(|(store, figures)| (store.name(), rows(options, figures))).collect();
    if options.json {
        let object = |rows: &[(&str, f64)]| -> Map<String, Value> {
            rows.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
        };
        let stores: Map<String, Value> =
            columns.iter().map(|(store, rows)| ((*store).to_owned(), json!(object(rows)))).collect();
        println!(
            "{}",
            json!({ "events": options.events, "entities": options.entities, "bytes": options.bytes, "stores": stores })
        );
        return;
    }
    let Options { events, entities, bytes, batch, .. } = options;
    println!(
        "{events} events of {bytes} bytes, {entities} entities, batches of {batch}, fsync before every acknowledgement"
    );
    print!("{:<40}", "");
    for (store, _) in &columns {
        print!("{store:>12}");
    }
    println!();
    let Some((_, first)) = columns.first() else { return };
    for (index, (name, _)) in first.iter().enumerate() {
        print!("{name:<40}");
        for (_, rows) in &columns {
            print!("{:>12.2}", rows[index].1);
        }
        println!();
    }
}
