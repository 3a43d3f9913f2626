//! The bus port on the simulated broker. A reader's checks are those of the real one: `bus::sequence`.

use std::sync::Arc;

use futures::channel::mpsc;
use futures::future::{Either, select};
use futures::{FutureExt as _, StreamExt as _};
use rhizon_runtime::bus::sequence::Sequence;
use rhizon_runtime::bus::{Ack, Attached, BusError, EventBus, Message, Outgoing, Publisher, Result};
use tokio::sync::Mutex;

use crate::broker::{Broker, Inbox, Raw, Refusal};
use crate::ledger::Ledger;
use crate::plan::Unit;
use crate::world::World;

/// A request without an answer is given up after this.
const PATIENCE_US: u64 = 2_000_000;
/// A pull without a word, the end of its wait included, means that the broker is gone.
const SILENCE_US: u64 = 25_000_000;

/// One process's connection.
#[derive(Clone)]
pub(crate) struct SimBus {
    world: World,
    broker: Broker,
    /// Whose this is, and what it has committed; clients have neither.
    owner: Option<(Unit, Ledger)>,
    feed: Arc<Mutex<Option<Feed>>>,
}

struct Feed {
    address: Inbox,
    inbox: mpsc::UnboundedReceiver<Raw>,
    /// Messages that the pull under way may still bring.
    outstanding: usize,
    sequence: Sequence,
}

fn silent(doing: &'static str) -> BusError {
    BusError::Unreachable { doing, cause: "no answer in time".into() }
}

impl SimBus {
    pub(crate) fn new(world: World, broker: Broker, owner: Option<(Unit, Ledger)>) -> Self {
        Self { world, broker, owner, feed: Arc::default() }
    }

    /// Sends messages of one stream to be stored, singly or as one batch.
    async fn request(&self, messages: Vec<Outgoing>) -> Result<std::result::Result<Vec<Ack>, Refusal>> {
        let world = &self.world;
        if world.strikes("publish refused", |rates| rates.publish_refused) {
            world.sim.sleep_us(PATIENCE_US).await;
            return Err(silent("publish"));
        }
        let unsure = world.strikes("publish unsure", |rates| rates.publish_unsure);
        let before_us = if unsure { world.late_us() } else { world.latency_us() };
        let after_us = world.latency_us();
        let atomic = messages.len() > 1;
        let (broker, owner) = (self.broker.clone(), self.owner.clone());
        let landed = world.sim.remote(
            before_us,
            move || {
                if let Some((_, ledger)) = &owner {
                    ledger.lands(&messages);
                }
                broker.store(&messages, atomic)
            },
            after_us,
        );
        if unsure {
            let patience = world.sim.sleep_us(world.sim.rng(|rng| rng.between(1, PATIENCE_US)));
            let _ = select(Box::pin(landed), patience).await;
            return Err(silent("publish"));
        }
        Ok(landed.await)
    }

    async fn one_by_one(&self, messages: &[Outgoing]) -> Result<Vec<Ack>> {
        let mut acks = Vec::with_capacity(messages.len());
        for message in messages {
            match self.request(vec![message.clone()]).await? {
                Ok(ack) => acks.extend(ack),
                Err(_) => return Err(BusError::Full("the stream's bytes are used up".into())),
            }
        }
        Ok(acks)
    }

    async fn atomic(&self, messages: &[Outgoing]) -> Result<Vec<Ack>> {
        match self.request(messages.to_vec()).await? {
            Ok(acks) => Ok(acks),
            Err(Refusal::DuplicateInBatch) => self.one_by_one(messages).await,
            Err(Refusal::Full) => Err(BusError::Full("the stream's bytes are used up".into())),
        }
    }

    /// A server that runs out of storage in the middle of a batch keeps a prefix and says nothing.
    async fn prefix(&self, messages: &[Outgoing]) -> Result<Vec<Ack>> {
        let kept = self.world.sim.rng(|rng| rng.index(messages.len()));
        for message in &messages[..kept] {
            if self.request(vec![message.clone()]).await?.is_err() {
                break;
            }
        }
        self.world.sim.sleep_us(PATIENCE_US).await;
        Err(silent("publish"))
    }
}

impl Publisher for SimBus {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Ack>> {
        let mut acks = Vec::with_capacity(messages.len());
        let is_dead = |message: &Outgoing| message.subject.starts_with("dead.");
        for run in messages.chunk_by(|one, next| is_dead(one) == is_dead(next)) {
            let answered = if run.len() <= self.world.plan.few {
                self.one_by_one(run).await?
            } else if self.world.strikes("prefix of a batch", |rates| rates.publish_unsure) {
                self.prefix(run).await?
            } else {
                self.atomic(run).await?
            };
            acks.extend(answered);
        }
        Ok(acks)
    }
}

impl EventBus for SimBus {
    async fn attach(&self, position: u64) -> Result<Attached> {
        let Some((unit, _)) = self.owner else { return Ok(Attached::default()) };
        let mut feed = self.feed.lock().await;
        *feed = None;
        let world = &self.world;
        if world.strikes("attach failed", |rates| rates.attach_failed) {
            return Err(silent("reset the consumer"));
        }
        let broker = self.broker.clone();
        let (before_us, after_us) = (world.latency_us(), world.latency_us());
        let floor = world.sim.remote(before_us, move || broker.reset(unit, position), after_us).await;
        if world.strikes("attach unsure", |rates| rates.attach_failed) {
            return Err(silent("reset the consumer"));
        }
        let (address, inbox) = mpsc::unbounded();
        *feed = Some(Feed { address, inbox, outstanding: 0, sequence: Sequence::behind(position) });
        world.sim.note("attached", unit as u64, position);
        Ok(Attached { floor })
    }

    async fn pull(&self, max: usize) -> Result<Vec<Message>> {
        let mut feed = self.feed.lock().await;
        let (Some(feed), Some((unit, _))) = (feed.as_mut(), &self.owner) else {
            return Err(BusError::Gap("no consumer is attached".into()));
        };
        feed.pull(&self.world, &self.broker, *unit, max).await
    }

    async fn settled(&self, position: u64) {
        let Some((unit, ledger)) = self.owner.clone() else { return };
        if self.world.strikes("ack lost", |rates| rates.ack_lost) {
            return;
        }
        let broker = self.broker.clone();
        let travel = self.world.sim.sleep_us(self.world.latency_us());
        self.world.sim.spawn(async move {
            travel.await;
            ledger.acknowledges(position);
            broker.acknowledge(unit, position);
        });
    }
}

impl Feed {
    async fn pull(&mut self, world: &World, broker: &Broker, unit: Unit, max: usize) -> Result<Vec<Message>> {
        let mut taken = Vec::new();
        loop {
            if self.outstanding == 0 {
                self.outstanding = max;
                self.ask(world, broker, unit, max);
            }
            if world.strikes("reconnected", |rates| rates.reconnected) {
                return Err(BusError::Gap("the connection to the broker was made anew".into()));
            }
            let raw = match select(self.inbox.next(), world.sim.sleep_us(SILENCE_US)).await {
                Either::Left((raw, _)) => raw,
                Either::Right(_) => return Err(BusError::Gap("the broker has gone silent".into())),
            };
            self.take(raw, &mut taken)?;
            while taken.len() < max && self.outstanding > 0 {
                let Some(raw) = self.inbox.next().now_or_never() else { break };
                self.take(raw, &mut taken)?;
            }
            if let (Some(first), Some(last)) = (taken.first(), taken.last()) {
                world.sim.note("pulled", first.stream, last.stream);
                return Ok(taken);
            }
        }
    }

    fn ask(&self, world: &World, broker: &Broker, unit: Unit, max: usize) {
        if world.strikes("pull lost", |rates| rates.pull_lost) {
            return;
        }
        let (broker, inbox) = (broker.clone(), self.address.clone());
        let travel = world.sim.sleep_us(world.latency_us());
        world.sim.spawn(async move {
            travel.await;
            broker.pull(unit, inbox, max);
        });
    }

    fn take(&mut self, raw: Option<Raw>, taken: &mut Vec<Message>) -> Result<()> {
        match raw {
            None | Some(Raw::Expired) => self.outstanding = 0,
            Some(Raw::Message { delivery, subject, payload }) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.sequence.take(delivery)?;
                taken.push(Message { stream: delivery.stream, subject, payload });
            }
        }
        Ok(())
    }
}
