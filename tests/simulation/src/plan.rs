//! What a seed is up to: who runs how, and how often what goes wrong. Most seeds leave most faults out, since faults that
//! happen all the time hide each other.

use rhizon_runtime::driver::{Bounds, Ordering, Retry};

use crate::rng::Rng;

/// Agents in a chain: the first takes clients' commands, each other one what the one before it tells.
pub(crate) const AGENTS: usize = 3;

/// An agent's share of the entities, with a store and a consumer of its own. The first ones are the agents' first shards.
pub(crate) type Unit = usize;

/// The second shard of the first agent, in seeds where it has one.
pub(crate) const SECOND_SHARD: Unit = AGENTS;

/// How often, of a thousand times, each thing goes wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    /// Any call to store or broker takes up to seconds.
    pub slow: u32,
    pub store_refused: u32,
    /// The store did it and says that it failed.
    pub store_unsure: u32,
    pub publish_refused: u32,
    /// The broker did it, perhaps later, and the acknowledgement is lost.
    pub publish_unsure: u32,
    pub attach_failed: u32,
    pub delivery_lost: u32,
    pub delivered_again: u32,
    pub pull_lost: u32,
    pub reconnected: u32,
    pub ack_lost: u32,
    pub agent_unreachable: u32,
    pub agent_slow: u32,
    pub agent_killed: u32,
    // Once in so many steps of the director:
    pub crash: u32,
    pub fuse: u32,
    pub second_instance: u32,
    pub disk_full: u32,
    pub stream_full: u32,
    pub stop: u32,
    pub shard_moved: u32,
    /// Of a thousand dead letters.
    pub dealt_with: u32,
}

/// How many of a thousand events bring their agent to what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moods {
    pub kills: u32,
    pub hangs: u32,
    pub hangs_once: u32,
    pub fails: u32,
    pub fails_once: u32,
    pub refused: u32,
    pub wrong: u32,
    pub deletes: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Driving {
    pub ordering: Ordering,
    pub retry: Retry,
    pub batch_events: usize,
    pub concurrency: usize,
    /// How many events go in one call to the agent.
    pub agent_batch: usize,
    pub bounds: Bounds,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub rates: Rates,
    pub moods: Moods,
    pub agents: Vec<Driving>,
    pub events: usize,
    pub entities: usize,
    /// How many of a thousand messages of the second half repeat an event that was sent before.
    pub repeated: u32,
    /// How many of a thousand events, of clients and of agents, are to be delivered later.
    pub timers: u32,
    /// How long things go wrong.
    pub trouble_us: u64,
    /// Longer than the tries of one event take: what is handed out again is read again.
    pub ack_wait_us: u64,
    /// How long the broker knows a message id.
    pub duplicate_window_us: u64,
    /// Up to so many messages go one by one, more as one atomic batch.
    pub few: usize,
    /// Whether a store is rolled back at the end, and whose.
    pub roll_back: Option<Unit>,
    /// Whether the first agent has two shards.
    pub is_sharded: bool,
    /// When what which agent takes changes.
    pub changes: Vec<(u64, usize)>,
    /// What the agents' answers depend on besides the event.
    pub salt: u64,
}

impl Plan {
    pub(crate) fn units(&self) -> std::ops::Range<Unit> {
        0..AGENTS + usize::from(self.is_sharded)
    }

    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let first = if rng.permille(500) { Ordering::Entity } else { Ordering::Stream };
        let orderings = [first, Ordering::Stream, Ordering::Stream];
        let trouble_us = rng.between(1_000_000, 12_000_000);
        let mut plan = Self {
            rates: Rates::draw(rng),
            moods: Moods::draw(rng),
            agents: orderings.into_iter().map(|ordering| Driving::draw(rng, ordering)).collect(),
            events: rng.index(50) + 8,
            entities: rng.index(7) + 1,
            repeated: 60 + rate(rng, 940),
            timers: rate(rng, 400),
            trouble_us,
            ack_wait_us: rng.between(50_000_000, 90_000_000),
            duplicate_window_us: if rng.permille(250) { 500_000 } else { 120_000_000 },
            few: rng.index(6) + 1,
            roll_back: rng.permille(250).then(|| rng.index(AGENTS)),
            is_sharded: rng.permille(300),
            changes: changes(rng, trouble_us),
            salt: rng.next(),
        };
        match rng.below(10) {
            0 => plan.doubt_the_store(rng),
            1 => plan.shorten_memory(rng),
            _ => {}
        }
        plan
    }

    /// Timers, and a store whose answers get lost: what any other trouble would wake up sleeps on.
    fn doubt_the_store(&mut self, rng: &mut Rng) {
        self.rates = Rates { store_unsure: rate(rng, 250), ..Rates::default() };
        self.timers = 400;
    }

    /// Entities in retry, and no room for them.
    fn shorten_memory(&mut self, rng: &mut Rng) {
        self.rates = Rates { slow: 30, ..Rates::default() };
        self.moods = Moods { kills: 100, fails: 100, fails_once: 200, ..Moods::default() };
        (self.agents[0].ordering, self.agents[0].batch_events) = (Ordering::Entity, rng.index(3) + 1);
    }
}

/// None in half of the seeds, else up to three.
fn changes(rng: &mut Rng, trouble_us: u64) -> Vec<(u64, usize)> {
    let count = if rng.permille(500) { 0 } else { rng.between(1, 3) };
    let mut changes: Vec<_> = (0..count).map(|_| (rng.below(trouble_us), rng.index(AGENTS))).collect();
    changes.sort_unstable();
    changes
}

/// A fault is absent from most seeds, rare in some and frequent in a few.
fn rate(rng: &mut Rng, most: u64) -> u32 {
    let rate = match rng.below(10) {
        0..5 => 0,
        5..8 => rng.between(1, most / 4 + 1),
        _ => rng.between(1, most),
    };
    u32::try_from(rate).unwrap_or(0)
}

impl Rates {
    fn draw(rng: &mut Rng) -> Self {
        let rates = Self::of_everything(rng);
        // What a process must not forget as long as it lives, only one that lives long shows.
        if rng.permille(250) {
            return Self { crash: 0, fuse: 0, second_instance: 0, stop: 0, shard_moved: 0, ..rates };
        }
        rates
    }

    fn of_everything(rng: &mut Rng) -> Self {
        Self {
            slow: rate(rng, 60),
            store_refused: rate(rng, 120),
            store_unsure: rate(rng, 250),
            publish_refused: rate(rng, 200),
            publish_unsure: rate(rng, 200),
            attach_failed: rate(rng, 300),
            delivery_lost: rate(rng, 60),
            delivered_again: rate(rng, 100),
            pull_lost: rate(rng, 60),
            reconnected: rate(rng, 100),
            ack_lost: rate(rng, 500),
            agent_unreachable: rate(rng, 400),
            agent_slow: rate(rng, 300),
            agent_killed: rate(rng, 100),
            crash: rate(rng, 200),
            fuse: rate(rng, 300),
            second_instance: rate(rng, 100),
            disk_full: rate(rng, 60),
            stream_full: rate(rng, 60),
            stop: rate(rng, 60),
            shard_moved: rate(rng, 60),
            dealt_with: rate(rng, 1000),
        }
    }
}

impl Moods {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            kills: rate(rng, 160),
            hangs: rate(rng, 40),
            hangs_once: rate(rng, 60),
            fails: rate(rng, 80),
            fails_once: rate(rng, 150),
            refused: rate(rng, 80),
            wrong: rate(rng, 80),
            deletes: rate(rng, 200),
        }
    }
}

impl Driving {
    fn draw(rng: &mut Rng, ordering: Ordering) -> Self {
        let most = if rng.permille(600) { 5 } else { 9 };
        let attempts = u32::try_from(rng.between(5, most)).unwrap_or(5);
        Self {
            ordering,
            retry: Retry { attempts, initial_ms: rng.between(1, 40), max_ms: rng.between(20, 400) },
            batch_events: rng.index(12) + 1,
            concurrency: rng.index(8) + 1,
            agent_batch: rng.index(5) + 1,
            bounds: Bounds {
                cached_heads: rng.index(4),
                cached_bytes: if rng.permille(500) { rng.index(100) } else { 1 << 20 },
                states_bytes: if rng.permille(250) { rng.index(4_000) + 1 } else { 1 << 20 },
                outbox_messages: rng.index(12) + 1,
                outbox_bytes: if rng.permille(300) { rng.index(6_000) + 1 } else { 1 << 20 },
                publish_messages: rng.index(6) + 1,
                recovered_records: rng.index(4) + 1,
            },
        }
    }
}
