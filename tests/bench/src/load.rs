//! Open-loop load: events are due at a fixed rate, whether or not those before them are done, and each is timed from when
//! it was due. So a stall is charged to all that it held up (no coordinated omission). What has become due while the broker
//! took the events before it goes together, as a busy gateway's requests do.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use rhizon_runtime::bus::Publisher as _;
use rhizon_runtime::bus::jetstream::JetStreamPublisher;
use serde::Deserialize;

use crate::rig::{Rig, event, outputs};

const LASTS: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
struct Output {
    causationid: String,
}

/// Times from due to output on the stream, sorted.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "numbers of events"
)]
pub(crate) async fn at_rate(rig: &Rig, first: usize, per_second: f64) -> anyhow::Result<Vec<Duration>> {
    let count = (per_second * LASTS.as_secs_f64()) as usize;
    let mut outputs = rig.client.client.subscribe(outputs()).await?;
    rig.client.client.flush().await?;
    let publisher = JetStreamPublisher::new(rig.client.clone());
    let began = Instant::now();
    let due = move |number: usize| began + Duration::from_secs_f64(number as f64 / per_second);
    let case = rig.case();
    let sender = tokio::spawn(async move {
        let mut sent = 0;
        while sent < count {
            tokio::time::sleep_until(due(sent).into()).await;
            let until = ((began.elapsed().as_secs_f64() * per_second) as usize + 1).min(count).max(sent + 1);
            publisher.publish((sent..until).map(|n| event(case, first + n)).collect()).await?;
            sent = until;
        }
        anyhow::Ok(())
    });
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        let message =
            tokio::time::timeout(Duration::from_secs(30), outputs.next()).await.context("an output in time")?;
        let output: Output = serde_json::from_slice(&message.context("an output")?.payload)?;
        let number: usize = output.causationid.parse()?;
        if number >= first {
            times.push(due(number - first).elapsed());
        }
    }
    sender.await??;
    times.sort();
    Ok(times)
}
