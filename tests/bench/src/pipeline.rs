//! One run: events are put on the stream, then the sidecar starts and is timed until all outputs are on the stream too.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use rhizon_runtime::bus::Publisher as _;
use rhizon_runtime::bus::jetstream::JetStreamPublisher;

use crate::cases::{Case, PLAIN};
use crate::relay::Relay;
use crate::report::{Figures, Times};
use crate::rig::{PROGRESS, Rig, Shares, outputs};
use crate::stores::Store;
use crate::usage::{Usage, flushes};
use crate::{Options, limits, load};

/// How many events are timed with nothing beside them.
const ALONE: usize = 500;

#[allow(clippy::cast_precision_loss, reason = "a rate")]
pub(crate) async fn measure(options: &Options, case: Case, store: Store) -> anyhow::Result<Figures> {
    let mut rig = Rig::start(case, store).await?;
    let count = options.events_of(case);
    let publishing = publish(&rig, count).await?;
    let direct = limits::agent(&rig, count.min(20_000)).await?;
    let (before, disk_before) = (rig.shares()?, flushes(rig.dir.path()));
    let began = Instant::now();
    let ready = rig.start_sidecar(options).await?;
    rig.wait_for(2 * count as u64).await?;
    let pipeline = began.elapsed();
    let shares = difference(rig.shares()?, before);
    let flushes = flushes(rig.dir.path()).zip(disk_before).map(|(after, before)| after - before);
    let rate = count as f64 / pipeline.as_secs_f64();
    let (times, relayed) = if options.throughput_only {
        Default::default()
    } else {
        let times = times(&rig, count, rate / 2.0).await?;
        drop(rig);
        let rig = Rig::start(case, store).await?;
        let _relay = Relay::start(&rig).await?;
        (times, self::times(&rig, 0, rate / 2.0).await?)
    };
    Ok(Figures { case, count, publishing, direct, ready, pipeline, shares, flushes, times, relayed })
}

async fn times(rig: &Rig, first: usize, per_second: f64) -> anyhow::Result<Times> {
    let alone = alone(rig, first).await?;
    Ok(Times { alone, loaded: load::at_rate(rig, first + ALONE, per_second).await? })
}

/// Resident memory of a sidecar that has nothing to do yet.
pub(crate) async fn idle(options: &Options, store: Store) -> anyhow::Result<u64> {
    let mut rig = Rig::start(crate::cases::PLAIN, store).await?;
    rig.start_sidecar(options).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(rig.shares()?.sidecar.resident_bytes)
}

/// In atomic batches, as large as a sidecar's: the broker's own limit.
async fn publish(rig: &Rig, count: usize) -> anyhow::Result<Duration> {
    let publisher = JetStreamPublisher::new(rig.client.clone());
    let (began, mut said) = (Instant::now(), Instant::now());
    for chunk in (0..count).collect::<Vec<_>>().chunks(PLAIN.batch) {
        publisher.publish(chunk.iter().map(|n| rig.event(*n)).collect()).await?;
        if said.elapsed() > PROGRESS {
            said = Instant::now();
            eprintln!("  {} of {count} events put on the stream", chunk[0]);
        }
    }
    Ok(began.elapsed())
}

fn difference(after: Shares, before: Shares) -> Shares {
    let cpu = |after: Usage, before: Usage| Usage { cpu: after.cpu.saturating_sub(before.cpu), ..after };
    Shares { sidecar: after.sidecar, broker: cpu(after.broker, before.broker), agent: cpu(after.agent, before.agent) }
}

/// One event at a time, from before its publish until its output is on the stream.
async fn alone(rig: &Rig, first: usize) -> anyhow::Result<Vec<Duration>> {
    let publisher = JetStreamPublisher::new(rig.client.clone());
    let mut outputs = rig.client.client.subscribe(outputs()).await?;
    rig.client.client.flush().await?;
    let mut times = Vec::with_capacity(ALONE);
    for n in first..first + ALONE {
        let event = rig.event(n);
        let began = Instant::now();
        publisher.publish(vec![event]).await?;
        outputs.next().await.context("an output")?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times)
}
