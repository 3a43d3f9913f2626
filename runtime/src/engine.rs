//! The engine inside a Rust program: an agent's rules, an agent, a publisher and a store; one event at a time.

use rhizon_kernel::egress::{self, Commit, Outcome};
use rhizon_kernel::ingress::{self, Arrival, Decision};
use rhizon_kernel::record::{NoRecord, Observed};
use rhizon_kernel::subject::{GATEWAY, Subject};
use rhizon_kernel::{Config, Envelope, Head};
use tokio::sync::Mutex;

use crate::agent::{Agent, Answer, CallError, Item};
use crate::bus::{BusError, Outgoing, Publisher};
use crate::clock::Clock;
use crate::driver::outbox;
use crate::store::{Batch, DUE_BYTES, Entry, EventStore, Known, Mark, StoreError, Waits};
use crate::telemetry::TraceContext;

/// How many records or outputs are published at once.
const TOGETHER: usize = 500;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "what was decided is durable, its outputs are not published yet ({0}); the next call or start publishes them"
    )]
    Outputs(BusError),
    #[error(transparent)]
    Agent(#[from] CallError),
    #[error(transparent)]
    Journal(#[from] NoRecord),
    #[error("the agent failed the event: {0}; processing it again is safe")]
    Failed(String),
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It had its effect before.
    Duplicate,
    /// Its type does not count at this place.
    Ignored,
    Settled {
        outcome: Outcome,
        /// The entity's version after it.
        version: u64,
    },
}

/// An agent's engine. Events are processed one after the other; [`crate::driver::Driver`] is the one for streams.
pub struct Engine<A, P, S, C> {
    config: Config,
    agent: A,
    publisher: P,
    store: S,
    clock: C,
    mark: Mutex<Mark>,
}

impl<A: Agent, P: Publisher, S: EventStore, C: Clock> Engine<A, P, S, C> {
    /// Takes ownership of the store, journals the config, and publishes what a former run decided and did not publish.
    pub async fn start(config: Config, agent: A, publisher: P, store: S, clock: C) -> Result<Self, Error> {
        let mut mark = store.claim().await?;
        if let Some(batch) = mark.config_change(&config, "engine", clock.now()) {
            let (tail, hash) = (batch.tail, batch.config);
            store.append(batch).await?;
            (mark.tail, mark.config) = (tail, hash);
        }
        let engine = Self { config, agent, publisher, store, clock, mark: Mutex::default() };
        engine.publish_rest(&mut mark).await?;
        *engine.mark.lock().await = mark;
        Ok(engine)
    }

    /// Publishes what is durable and perhaps not published.
    async fn publish_rest(&self, mark: &mut Mark) -> Result<(), Error> {
        while mark.published < mark.tail.sequence {
            let rows = self.store.outbox(mark.published, TOGETHER).await?;
            let mut messages = Vec::new();
            for row in &rows {
                messages.extend(outbox::of_line(&self.config, &row.line)?);
            }
            if !messages.is_empty() {
                self.publisher.publish(messages).await.map_err(Error::Outputs)?;
            }
            mark.published = rows.last().map_or(mark.tail.sequence, |row| row.sequence);
        }
        Ok(())
    }

    /// Decides, asks the agent, makes the effect durable, and only then publishes its outputs.
    pub async fn process_event(&self, envelope: &Envelope) -> Result<Effect, Error> {
        let mut mark = self.mark.lock().await;
        self.publish_rest(&mut mark).await?;
        let subject = Subject::new(GATEWAY, &envelope.event_type, &envelope.subject, envelope.target.as_deref());
        let arrival = ingress::decode(&self.config, &subject.to_string(), &envelope.to_json());
        let loaded = self.store.load(vec![arrival.entity.clone()], vec![arrival.key]).await?;
        let head = loaded.heads.into_iter().next().flatten().unwrap_or_default();
        let known = loaded.known.first().copied().flatten().and_then(|known| match known {
            Known::Settled(digest) | Known::Parked(digest) => Some(digest),
            Known::Tried(_) => None,
        });
        let commit = match ingress::decide(&self.config, mark.position + 1, &head, known.as_ref(), &arrival) {
            Decision::Duplicate => return Ok(Effect::Duplicate),
            Decision::Ignore => return Ok(Effect::Ignored),
            Decision::Reject(reason) => egress::settle(&head, &arrival, Outcome::Rejected, &reason),
            Decision::Conflict(reason) => egress::settle(&head, &arrival, Outcome::Conflict, &reason),
            Decision::Note(_) => egress::note(&head, &arrival),
            Decision::Accept => self.ask(&head, &arrival).await?,
        };
        let effect = Effect::Settled { outcome: commit.outcome, version: commit.head.version };
        let outputs = self.append(&mut mark, commit, known.is_none(), envelope).await?;
        self.publisher.publish(outputs).await.map_err(Error::Outputs)?;
        mark.published = mark.tail.sequence;
        Ok(effect)
    }

    async fn ask(&self, head: &Head, arrival: &Arrival) -> Result<Commit, Error> {
        let trace = TraceContext::default();
        let item = Item::new(&self.config, arrival, head, 1, &trace).into_iter().collect();
        match self.agent.call(item).await?.pop() {
            Some(Answer::Reaction(reaction)) => {
                egress::react(&self.config, head, arrival, reaction).map_err(|e| Error::Failed(e.to_string()))
            }
            Some(Answer::Refused(reason)) => Ok(egress::settle(head, arrival, Outcome::Rejected, &reason)),
            Some(Answer::Failed(reason)) => Err(Error::Failed(reason.detail)),
            None => Err(Error::Failed("no answer".into())),
        }
    }

    /// Publishes the outputs that have become due; answers when the next one is, in milliseconds since 1970.
    pub async fn publish_due(&self) -> Result<Option<i64>, Error> {
        let mark = self.mark.lock().await;
        let now_ms = self.clock.now().as_millisecond();
        loop {
            let due = self.store.due(now_ms, TOGETHER, DUE_BYTES).await?.deferred;
            if due.is_empty() {
                return Ok(self.store.next_due(now_ms).await?);
            }
            let keys = due.iter().map(|deferred| deferred.key).collect();
            self.publisher.publish(due.into_iter().map(outbox::of_deferred).collect()).await.map_err(Error::Outputs)?;
            self.store.fired(mark.epoch, keys).await?;
        }
    }

    /// Answers what is to be published now; the rest waits in the store until it is due.
    async fn append(
        &self,
        mark: &mut Mark,
        commit: Commit,
        is_first: bool,
        cause: &Envelope,
    ) -> Result<Vec<Outgoing>, Error> {
        let mut tail = mark.tail;
        let observed = Observed {
            sequence: tail.sequence + 1,
            stream: mark.position + 1,
            time: self.clock.now(),
            attempts: 1,
            epoch: mark.epoch,
            revision: "engine".to_owned(),
            config: mark.config,
            traceparent: cause.traceparent.clone(),
            tracestate: cause.tracestate.clone(),
        };
        let entry = Entry::of_commit(&mut tail, &commit, is_first, &observed);
        let outputs = outbox::of_commit(&self.config, commit, &observed);
        let batch = Batch {
            epoch: mark.epoch,
            after: mark.tail.sequence,
            entries: vec![entry],
            tail,
            position: observed.stream,
            published: mark.published,
            config: None,
            waits: Waits { defer: outputs.later, ..Waits::default() },
        };
        self.store.append(batch).await?;
        (mark.tail, mark.position) = (tail, observed.stream);
        Ok(outputs.now)
    }
}
