//! Open-loop load: events are sent when they are due, whether or not those before them are done, and each is timed from when
//! it was due. So a stall is charged to all that it held up (no coordinated omission).

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use rhizon_runtime::bus::Publisher as _;
use rhizon_runtime::bus::jetstream::JetStreamPublisher;
use rhizon_runtime::bus::nats::Connection;
use serde::Deserialize;

use crate::Options;
use crate::pipeline::{event, outputs};

/// How often events are sent.
const TICK: Duration = Duration::from_millis(5);
const LASTS: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
struct Output {
    causationid: String,
}

/// Times from due to output on the stream, sorted.
pub(crate) async fn at_rate(
    options: &Options,
    client: &Connection,
    first: usize,
    per_second: f64,
) -> anyhow::Result<Vec<Duration>> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of events")]
    let together = ((per_second * TICK.as_secs_f64()) as usize).max(1);
    let ticks = usize::try_from(LASTS.as_millis() / TICK.as_millis()).unwrap_or(usize::MAX);
    let count = together * ticks;
    let mut outputs = client.client.subscribe(outputs()).await?;
    client.client.flush().await?;
    let publisher = JetStreamPublisher::new(client.clone());
    let began = Instant::now() + TICK;
    let due = move |number: usize| began + TICK * u32::try_from((number - first) / together).unwrap_or(u32::MAX);
    let sender = {
        let options = options.clone();
        tokio::spawn(async move {
            for tick in 0..ticks {
                let from = first + tick * together;
                tokio::time::sleep_until(due(from).into()).await;
                publisher.publish((from..from + together).map(|n| event(&options, n)).collect()).await?;
            }
            anyhow::Ok(())
        })
    };
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        let message =
            tokio::time::timeout(Duration::from_secs(30), outputs.next()).await.context("an output in time")?;
        let output: Output = serde_json::from_slice(&message.context("an output")?.payload)?;
        let number: usize = output.causationid.parse()?;
        if number >= first {
            times.push(due(number).elapsed());
        }
    }
    sender.await??;
    times.sort();
    Ok(times)
}
