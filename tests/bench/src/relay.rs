//! The least that can be between an event and its output: what was pulled is published again, with nothing decided and
//! nothing stored. What is left are the broker, twice, and the load: no pipeline through them is faster.

use anyhow::Context as _;
use rhizon_kernel::chain::Hash;
use rhizon_runtime::bus::jetstream::JetStreamBus;
use rhizon_runtime::bus::{EventBus as _, Message, Outgoing, Publisher as _};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::rig::{Rig, outputs};

/// Ends with its value.
pub(crate) struct Relay {
    _tasks: JoinSet<anyhow::Result<()>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    id: &'a str,
}

impl Relay {
    /// In the sidecar's place, which must not run.
    pub(crate) async fn start(rig: &Rig) -> anyhow::Result<Self> {
        let (stream, consumer) = rig.consumer()?;
        let bus = JetStreamBus::new(rig.client.clone(), stream, consumer);
        bus.attach(0).await?;
        let (send, pulled) = mpsc::unbounded_channel();
        let (batch, mut tasks) = (rig.case().batch, JoinSet::new());
        tasks.spawn(publish(bus.clone(), pulled, batch));
        tasks.spawn(async move {
            loop {
                bus.pull(batch).await?.into_iter().try_for_each(|message| send.send(message))?;
            }
        });
        Ok(Self { _tasks: tasks })
    }
}

/// One batch after the other, as large as what has come meanwhile.
async fn publish(bus: JetStreamBus, mut pulled: mpsc::UnboundedReceiver<Message>, most: usize) -> anyhow::Result<()> {
    let mut messages = Vec::with_capacity(most);
    while pulled.recv_many(&mut messages, most).await > 0 {
        let last = messages.last().map_or(0, |message| message.stream);
        bus.publish(messages.drain(..).map(|message| output(&message)).collect::<anyhow::Result<_>>()?).await?;
        bus.settled(last).await;
    }
    Ok(())
}

fn output(message: &Message) -> anyhow::Result<Outgoing> {
    let Input { id } = serde_json::from_slice(&message.payload)?;
    let partition = message.subject.rsplit('.').nth(1).context("a partition")?;
    let subject = outputs().replace('*', partition);
    let payload = format!("{{\"causationid\":\"{id}\"}}").into();
    Ok(Outgoing { subject, key: Hash::of(&[b"relayed", id.as_bytes()]), payload })
}
