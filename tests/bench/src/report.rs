//! Figures for people, or as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::Options;
use crate::cases::Case;
use crate::limits::Replayed;
use crate::rig::Shares;
use crate::stores::Store;

/// Of one case with one store.
pub(crate) struct Figures {
    pub case: Case,
    pub count: usize,
    /// Putting all events on the stream.
    pub publishing: Duration,
    /// Asking the agent about them, with nothing between.
    pub direct: Duration,
    /// From exec until the sidecar listens.
    pub ready: Duration,
    /// From exec of the sidecar until the last output is on the stream.
    pub pipeline: Duration,
    pub shares: Shares,
    /// How often the disk was told to make all durable, by whomever.
    pub flushes: Option<u64>,
    pub times: Times,
    /// Of the same load through the broker alone.
    pub relayed: Times,
}

/// From an event to its output, sorted: one event at a time, and open-loop at half of saturation.
#[derive(Default)]
pub(crate) struct Times {
    pub alone: Vec<Duration>,
    pub loaded: Vec<Duration>,
}

/// Of the machine, whatever the case and the store.
pub(crate) struct Limits {
    pub sqlite: (usize, Duration),
    pub replayed: Replayed,
    pub idle: Vec<(Store, u64)>,
}

type Row = (&'static str, Option<f64>);

/// In milliseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
fn quantile(times: &[Duration], q: f64) -> Option<f64> {
    let index = ((times.len() as f64 * q) as usize).min(times.len().saturating_sub(1));
    times.get(index).map(|time| time.as_secs_f64() * 1_000.0)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn rows(figures: &Figures) -> Vec<Row> {
    let count = figures.count as f64;
    let rate = |time: Duration| count / time.as_secs_f64();
    let cpu = |used: Duration| Some(used.as_secs_f64() * 1e6 / count);
    let (published, processed) = (rate(figures.publishing), rate(figures.pipeline));
    let Figures { times, relayed, shares: Shares { sidecar, broker, agent }, .. } = figures;
    vec![
        ("events/s through the pipeline", Some(processed)),
        ("limit: atomic batches published/s", Some(published)),
        ("ratio to that", Some(processed / published)),
        ("limit: the agent called directly/s", Some((count.min(20_000.0)) / figures.direct.as_secs_f64())),
        ("alone p50, ms", quantile(&times.alone, 0.50)),
        ("limit: p50 through a bare relay, ms", quantile(&relayed.alone, 0.50)),
        ("alone p99, ms", quantile(&times.alone, 0.99)),
        ("limit: p99 through a bare relay, ms", quantile(&relayed.alone, 0.99)),
        ("half load p50, ms", quantile(&times.loaded, 0.50)),
        ("limit: half load p50, bare relay, ms", quantile(&relayed.loaded, 0.50)),
        ("half load p99, ms", quantile(&times.loaded, 0.99)),
        ("limit: half load p99, bare relay, ms", quantile(&relayed.loaded, 0.99)),
        ("half load p99.9, ms", quantile(&times.loaded, 0.999)),
        ("CPU of the sidecar, µs/event", cpu(sidecar.cpu)),
        ("CPU of the broker, µs/event", cpu(broker.cpu)),
        ("CPU of the agent, µs/event", cpu(agent.cpu)),
        ("disk flushes per 1,000 events", figures.flushes.map(|flushes| flushes as f64 * 1e3 / count)),
        ("sidecar resident at most, MB", Some(sidecar.peak_bytes as f64 / 1e6)),
        ("exec to listening, ms", Some(figures.ready.as_secs_f64() * 1e3)),
    ]
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn limit_rows(limits: &Limits) -> Vec<(String, f64)> {
    let Limits { sqlite: (rows, took), replayed, idle } = limits;
    let Replayed { records, bytes, hashes, decisions } = replayed;
    let rate = |count: usize, time: &Duration| count as f64 / time.as_secs_f64();
    let mut list = vec![
        ("raw SQLite appends, rows/s".to_owned(), rate(*rows, took)),
        (format!("replay: hashes, records of {} bytes/s", bytes / records), rate(*records, hashes)),
        ("replay: hashes and decisions, records/s".to_owned(), rate(*records, decisions)),
    ];
    list.extend(idle.iter().map(|(store, bytes)| (format!("idle with {}, MB", store.name()), *bytes as f64 / 1e6)));
    list
}

pub(crate) fn print(options: &Options, limits: &Limits, measured: &[Vec<(Store, Figures)>]) {
    if options.json {
        return println!("{}", as_json(limits, measured));
    }
    println!("fsync before every acknowledgement; broker, sidecar and agent on one machine");
    for (name, value) in limit_rows(limits) {
        println!("  {name:<48}{value:>12.1}");
    }
    for columns in measured {
        let Some((_, first)) = columns.first() else { continue };
        let Figures { case, count, .. } = first;
        let Case { name, entities, bytes, batch, .. } = case;
        println!("\n{name}: {count} events of {bytes} bytes, {entities} entities, batches of {batch}");
        print!("  {:<48}", "");
        for (store, _) in columns {
            print!("{:>12}", store.name());
        }
        println!();
        let columns: Vec<Vec<Row>> = columns.iter().map(|(_, figures)| rows(figures)).collect();
        for (index, (name, _)) in columns[0].iter().enumerate() {
            print!("  {name:<48}");
            for rows in &columns {
                rows[index].1.map_or_else(|| print!("{:>12}", "–"), |value| print!("{value:>12.2}"));
            }
            println!();
        }
    }
}

fn as_json(limits: &Limits, measured: &[Vec<(Store, Figures)>]) -> Value {
    let object = |rows: Vec<Row>| -> Value {
        rows.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect::<Map<_, _>>().into()
    };
    let case = |columns: &Vec<(Store, Figures)>| {
        let stores = columns.iter().map(|(store, figures)| (store.name().to_owned(), object(rows(figures))));
        let case = columns.first().map(|(_, figures)| figures.case.name).unwrap_or_default();
        json!({ "case": case, "stores": stores.collect::<Map<_, _>>() })
    };
    let limits: Map<_, _> = limit_rows(limits).into_iter().map(|(name, value)| (name, json!(value))).collect();
    json!({ "limits": limits, "cases": measured.iter().map(case).collect::<Vec<_>>() })
}
