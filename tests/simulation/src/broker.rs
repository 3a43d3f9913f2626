//! A broker that behaves like JetStream where it matters: a log with deduplication for a while, and consumers that number
//! what they hand out, hand out again what is not acknowledged, and let two readers have alternate messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::channel::mpsc;
use rhizon_kernel::TypePattern;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::subject::{GATEWAY, Subject};
use rhizon_runtime::bus::sequence::Delivery;
use rhizon_runtime::bus::{Ack, Outgoing};
use rhizon_runtime::planted::{self, Fault};

use crate::plan::{SECOND_SHARD, Unit};
use crate::world::{NAMES, World, agent_of};

/// A pull waits at the broker for so long.
const PULL_EXPIRES_US: u64 = 20_000_000;
/// How often the broker looks for what has expired.
const TICK_US: u64 = 500_000;

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub subject: String,
    pub key: Hash,
    pub payload: Bytes,
    pub at_us: u64,
}

/// What arrives at a reader's inbox.
pub(crate) enum Raw {
    Message {
        delivery: Delivery,
        subject: String,
        payload: Bytes,
    },
    /// The pull is over.
    Expired,
}

pub(crate) type Inbox = mpsc::UnboundedSender<Raw>;

#[derive(Clone)]
pub(crate) struct Broker {
    world: World,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Events, and dead letters.
    streams: [Stream; 2],
    consumers: Vec<Consumer>,
    full_until_us: u64,
}

#[derive(Default)]
struct Stream {
    log: Vec<Stored>,
    ids: BTreeMap<Hash, (u64, u64)>,
}

struct Consumer {
    filter: Filter,
    /// Index in the log of the next message to look at.
    next: usize,
    sequence: u64,
    floor: u64,
    waiting: VecDeque<Pull>,
    /// When each message that is handed out and not acknowledged is handed out again, and how often it was.
    unacknowledged: BTreeMap<u64, (u64, u64)>,
}

struct Pull {
    inbox: Inbox,
    left: usize,
    expires_us: u64,
    /// Nothing overtakes on a connection.
    arrives_us: u64,
}

pub(crate) enum Refusal {
    Full,
    /// Of an atomic batch: one of the messages is there already.
    DuplicateInBatch,
}

impl Broker {
    pub(crate) fn new(world: World) -> Self {
        let consumer = |unit| {
            let filter = Filter::of_consumer(&world, unit, world.config(agent_of(unit)).subscribes);
            let (waiting, unacknowledged) = (VecDeque::new(), BTreeMap::new());
            Consumer { filter, next: 0, sequence: 0, floor: 0, waiting, unacknowledged }
        };
        let consumers = world.plan.units().map(consumer).collect();
        let state = State { consumers, ..State::default() };
        Self { world, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets pulls expire and hands out again what was not acknowledged.
    pub(crate) async fn tick(self) {
        loop {
            self.world.sim.sleep_us(TICK_US).await;
            for unit in self.world.plan.units() {
                self.pump(unit);
            }
        }
    }

    pub(crate) fn log(&self) -> Vec<Stored> {
        self.state().streams[0].log.clone()
    }

    pub(crate) fn dead_letters(&self) -> Vec<Stored> {
        self.state().streams[1].log.clone()
    }

    pub(crate) fn floor(&self, unit: Unit) -> u64 {
        self.state().consumers[unit].floor
    }

    /// The sequence of the last event.
    pub(crate) fn last(&self) -> u64 {
        self.state().streams[0].log.len() as u64
    }

    /// Up to where everything that its filter lets through is acknowledged.
    pub(crate) fn handled(&self, unit: Unit) -> u64 {
        let state = self.state();
        let (consumer, log) = (&state.consumers[unit], &state.streams[0].log);
        let behind = log.iter().skip(consumer.next).any(|message| consumer.filter.lets_through(&message.subject));
        if behind || !consumer.unacknowledged.is_empty() { consumer.floor } else { log.len() as u64 }
    }

    pub(crate) fn filter(&self, unit: Unit, types: Vec<TypePattern>) {
        self.state().consumers[unit].filter = Filter::of_consumer(&self.world, unit, types);
    }

    pub(crate) fn fill(&self, until_us: u64) {
        self.state().full_until_us = until_us;
    }

    pub(crate) fn is_full(&self) -> bool {
        !self.world.is_calm() && self.world.sim.now_us() < self.state().full_until_us
    }

    /// Stores messages of one stream; an atomic batch whole or not at all.
    pub(crate) fn store(&self, messages: &[Outgoing], atomic: bool) -> Result<Vec<Ack>, Refusal> {
        if self.is_full() {
            return Err(Refusal::Full);
        }
        let now_us = self.world.sim.now_us();
        let mut state = self.state();
        let Some(first) = messages.first() else { return Ok(Vec::new()) };
        let stream = &mut state.streams[usize::from(first.subject.starts_with("dead."))];
        let since_us = now_us.saturating_sub(self.world.plan.duplicate_window_us);
        stream.ids.retain(|_, (stored_us, _)| *stored_us >= since_us);
        if atomic && messages.iter().any(|message| stream.ids.contains_key(&message.key)) {
            return Err(Refusal::DuplicateInBatch);
        }
        let acks = messages.iter().map(|message| stream.push(message, now_us)).collect();
        drop(state);
        self.world.progressed();
        self.world.plan.units().for_each(|unit| self.pump(unit));
        Ok(acks)
    }

    /// As a consumer's INFO and RESET: where it was, and it begins anew behind `position` unless it is further.
    pub(crate) fn reset(&self, unit: Unit, position: u64) -> u64 {
        self.world.progressed();
        let mut state = self.state();
        let consumer = &mut state.consumers[unit];
        let floor = consumer.floor;
        if floor <= position {
            consumer.next = usize::try_from(position).unwrap_or(usize::MAX);
            consumer.sequence = 0;
            consumer.floor = position;
            consumer.unacknowledged.clear();
        }
        floor
    }

    pub(crate) fn pull(&self, unit: Unit, inbox: Inbox, max: usize) {
        let now_us = self.world.sim.now_us();
        let pull = Pull { inbox, left: max, expires_us: now_us + PULL_EXPIRES_US, arrives_us: now_us };
        self.state().consumers[unit].waiting.push_back(pull);
        self.pump(unit);
    }

    /// Acknowledges a message and all before it.
    pub(crate) fn acknowledge(&self, unit: Unit, sequence: u64) {
        let mut state = self.state();
        let consumer = &mut state.consumers[unit];
        consumer.floor = consumer.floor.max(sequence);
        consumer.unacknowledged.retain(|other, _| *other > sequence);
    }

    /// Hands out what it can to those who wait, in turns.
    fn pump(&self, unit: Unit) {
        let now_us = self.world.sim.now_us();
        let mut state = self.state();
        let State { streams: [events, _], consumers, .. } = &mut *state;
        let consumer = &mut consumers[unit];
        consumer.expire(now_us);
        while let Some(mut pull) = consumer.waiting.pop_front() {
            // The broker learns late that nobody listens any more; what it hands out until then is lost.
            if pull.inbox.is_closed() && !self.world.strikes("handed to nobody", |rates| rates.delivery_lost) {
                continue;
            }
            let due_us = now_us + self.world.plan.ack_wait_us;
            let again = self.world.strikes("delivered again", |rates| rates.delivered_again);
            let Some(delivery) = consumer.next_delivery(&events.log, now_us, due_us, again) else {
                consumer.waiting.push_front(pull);
                return;
            };
            self.send(&mut pull, delivery, &events.log[index(delivery.stream)]);
            if pull.left > 0 {
                consumer.waiting.push_back(pull);
            }
        }
    }

    fn send(&self, pull: &mut Pull, delivery: Delivery, message: &Stored) {
        pull.left -= 1;
        let sim = &self.world.sim;
        pull.arrives_us = (sim.now_us() + self.world.latency_us()).max(pull.arrives_us + 1);
        if self.world.strikes("delivery lost", |rates| rates.delivery_lost) {
            return;
        }
        let (inbox, subject, payload) = (pull.inbox.clone(), message.subject.clone(), message.payload.clone());
        let travel = sim.sleep_us(pull.arrives_us - sim.now_us());
        sim.spawn(async move {
            travel.await;
            let _ = inbox.unbounded_send(Raw::Message { delivery, subject, payload });
        });
    }
}

fn index(sequence: u64) -> usize {
    usize::try_from(sequence - 1).unwrap_or(usize::MAX)
}

impl Stream {
    fn push(&mut self, message: &Outgoing, now_us: u64) -> Ack {
        if let Some((_, sequence)) = self.ids.get(&message.key) {
            return Ack { stream: *sequence, duplicate: true };
        }
        let Outgoing { subject, key, payload } = message.clone();
        self.log.push(Stored { subject, key, payload, at_us: now_us });
        let sequence = self.log.len() as u64;
        self.ids.insert(message.key, (now_us, sequence));
        Ack { stream: sequence, duplicate: false }
    }
}

impl Consumer {
    fn expire(&mut self, now_us: u64) {
        self.waiting.retain(|pull| {
            let waits = pull.expires_us > now_us;
            if !waits {
                let _ = pull.inbox.unbounded_send(Raw::Expired);
            }
            waits
        });
    }

    fn next_delivery(&mut self, log: &[Stored], now_us: u64, due_us: u64, again: bool) -> Option<Delivery> {
        let mut waited = self.unacknowledged.iter_mut().filter(|(_, (due, _))| again || *due <= now_us);
        if let Some((&stream, (due, delivered))) = waited.next() {
            *due = due_us;
            *delivered += 1;
            self.sequence += 1;
            return Some(Delivery { delivered: *delivered, stream, consumer: self.sequence });
        }
        while let Some(message) = log.get(self.next) {
            self.next += 1;
            if self.filter.lets_through(&message.subject) {
                let stream = self.next as u64;
                self.sequence += 1;
                self.unacknowledged.insert(stream, (due_us, 1));
                return Some(Delivery { delivered: 1, stream, consumer: self.sequence });
            }
        }
        None
    }
}

/// A consumer's filter, as the operator makes it: types, for all or for this agent, in the unit's partitions, and control.
pub(crate) struct Filter {
    agent: usize,
    types: Vec<TypePattern>,
    /// Of two shards, which.
    shard: Option<u8>,
}

impl Filter {
    pub(crate) fn new(world: &World, unit: Unit, types: Vec<TypePattern>) -> Self {
        let agent = agent_of(unit);
        let shard = (world.plan.is_sharded && agent == 0).then_some(u8::from(unit == SECOND_SHARD));
        Self { agent, types, shard }
    }

    /// As somebody set it up.
    fn of_consumer(world: &World, unit: Unit, types: Vec<TypePattern>) -> Self {
        let filter = Self::new(world, unit, types);
        let overlaps = unit != SECOND_SHARD && planted::is(Fault::ShardsOverlap);
        Self { shard: filter.shard.filter(|_| !overlaps), ..filter }
    }

    pub(crate) fn lets_through(&self, subject: &str) -> bool {
        let Ok(subject) = Subject::parse(subject) else { return false };
        let is_control = subject.is_control() && subject.publisher == GATEWAY && subject.target.is_some();
        let is_wanted = is_control || self.types.iter().any(|pattern| pattern.matches(&subject.event_type));
        let is_for_us = subject.target.as_deref().is_none_or(|target| target == NAMES[self.agent]);
        is_wanted && is_for_us && self.shard.is_none_or(|shard| subject.partition % 2 == shard)
    }
}
