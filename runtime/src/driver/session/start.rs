//! What a session starts: each step looks whether it may, and puts a future among the tasks.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use rhizon_kernel::ingress::Body;
use rhizon_kernel::record::Observed;

use super::super::window::{Harvest, SlotId, Taken};
use super::super::{Bounds, Demand, outbox};
use super::{Append, Done, Pending, Session, saved};
use crate::agent::{Agent, Item};
use crate::bus::EventBus;
use crate::clock::Clock;
use crate::failpoint::{self, Step};
use crate::planted::{self, Fault};
use crate::store::{Batch, Entry, EventStore, StoreError, Waits};

/// How long after the last publish the store is told of it, when no append has done so.
const MARK_AFTER: Duration = Duration::from_secs(1);

impl<B: EventBus, S: EventStore, A: Agent, C: Clock> Session<'_, B, S, A, C> {
    pub(super) fn start_all(&mut self) {
        if self.interrupted.is_none() {
            self.start_pull();
            self.start_load();
            self.start_due();
            self.start_calls();
            self.start_append();
        }
        self.start_publish();
        self.start_mark();
        self.start_timer();
    }

    fn start_pull(&mut self) {
        if self.busy.pulling || !self.pulled.is_empty() || self.demand() != Demand::Run {
            return;
        }
        if !self.window.has_room() {
            // What is being loaded could come from behind what would be parked.
            if !self.busy.loading || planted::is(Fault::ParkedWhileLoading) {
                self.window.make_room();
            }
            return;
        }
        self.busy.pulling = true;
        let (bus, max) = (self.driver.bus.clone(), self.driver.settings.batch_events);
        self.tasks.push(Box::pin(async move {
            Done::Pulled(bus.pull(max).await.inspect(|_| failpoint::reached(Step::Pulled)))
        }));
    }

    fn start_load(&mut self) {
        if !self.busy.loading && !self.pulled.is_empty() {
            let pulled = std::mem::take(&mut self.pulled);
            self.load(pulled.into_iter().map(Taken::from).collect());
        }
    }

    /// One at a time: the window knows what became durable since a load began, and not since which.
    pub(super) fn load(&mut self, taken: Vec<Taken>) {
        self.busy.loading = true;
        let (arrived, entities, keys) = self.window.begin_load(taken);
        let store = self.driver.store.clone();
        self.tasks.push(Box::pin(async move {
            let loaded = store.load(entities.clone(), keys).await.inspect(|_| failpoint::reached(Step::Loaded));
            Done::Loaded { arrived, entities, loaded }
        }));
    }

    fn start_calls(&mut self) {
        let now_ms = self.now_ms();
        if self.demand() == Demand::Hold || now_ms < self.agent_rests_until_ms {
            return;
        }
        let room = self.driver.settings.concurrency.saturating_sub(self.window.calling());
        let ids = self.window.next_calls(now_ms, room);
        if let [id] = ids[..]
            && self.window.is_lone(id)
        {
            return self.count(id);
        }
        for chunk in ids.chunks(self.driver.agent.batch().max(1)) {
            self.call(chunk.to_vec());
        }
    }

    /// Counts a lone try before it is made: it may be the one that takes the pod down.
    fn count(&mut self, id: SlotId) {
        let Some(key) = self.window.begin_lone(id) else { return self.call(vec![id]) };
        let (store, epoch) = (self.driver.store.clone(), self.epoch);
        self.tasks.push(Box::pin(async move {
            let result = store.count_attempt(epoch, key).await.inspect(|_| failpoint::reached(Step::Counted));
            Done::Counted { id, result }
        }));
    }

    pub(super) fn call(&mut self, ids: Vec<SlotId>) {
        for id in &ids {
            self.begin_span(*id);
        }
        let item = |id: &SlotId| {
            let (slot, head) = (self.window.slot(*id)?, self.window.head(*id)?);
            Item::new(&self.driver.settings.config, &slot.arrival, head, slot.attempts + 1, &slot.trace)
        };
        let items = ids.iter().filter_map(item).collect();
        let agent = self.driver.agent.clone();
        self.driver.metrics.called(ids.len());
        self.tasks.push(Box::pin(async move {
            failpoint::reached(Step::Calling);
            let answers = agent.call(items).await.inspect(|_| failpoint::reached(Step::Answered));
            Done::Called { answers, ids }
        }));
    }

    /// One span covers all tries of an event, until its effect is durable.
    fn begin_span(&mut self, id: SlotId) {
        if !self.driver.tracer.is_on() || self.spans.contains_key(&id) {
            return;
        }
        let Some((slot, Body::Event { envelope, .. })) = self.window.slot(id).map(|slot| (slot, &slot.arrival.body))
        else {
            return;
        };
        let attributes = vec![
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("rhizon.agent", self.driver.settings.config.agent.clone()),
            KeyValue::new("cloudevents.event_id", envelope.id.clone()),
        ];
        let span = self.driver.tracer.start(
            format!("process {}", envelope.event_type),
            SpanKind::Consumer,
            &slot.trace,
            attributes,
        );
        self.window.set_trace(id, span.context().clone());
        self.spans.insert(id, span);
    }

    fn start_append(&mut self) {
        self.build_next();
        if self.busy.appending || self.outbox_is_full() {
            return;
        }
        let Some((batch, mut append)) = self
            .next
            .take_if(|(batch, _)| !self.busy.looking || batch.waits.is_empty() || planted::is(Fault::StaleDueTaken))
        else {
            return;
        };
        if planted::is(Fault::PublishBeforeCommit) {
            self.outbox.extend(append.messages.drain(..));
        }
        if planted::is(Fault::AcknowledgeBeforeCommit) {
            self.acknowledge(append.position);
        }
        self.busy.appending = true;
        let store = self.driver.store.clone();
        self.tasks.push(Box::pin(async move {
            failpoint::reached(Step::Appending);
            let result = store.append(batch).await.inspect(|()| failpoint::reached(Step::Appended));
            Done::Appended { result, append }
        }));
    }

    fn outbox_is_full(&self) -> bool {
        let Bounds { outbox_messages, outbox_bytes, .. } = self.driver.settings.bounds;
        let bytes = self.outbox.iter().map(|pending| pending.message.payload.len()).sum::<usize>();
        self.outbox.len() >= outbox_messages || bytes >= outbox_bytes
    }

    /// While a batch is on its way to the store the next one is made, once it is whole.
    fn build_next(&mut self) {
        let max = self.driver.settings.batch_events;
        if self.next.is_some() || (self.busy.appending && !self.window.has_decided(max)) {
            return;
        }
        self.next = self.window.harvest(max).map(|harvest| self.build_append(harvest));
    }

    fn build_append(&mut self, harvest: Harvest) -> (Batch, Append) {
        let Harvest { settled, duplicates, mut waits, parked, position, .. } = harvest;
        self.driver.metrics.duplicates(duplicates);
        let (settings, time) = (&self.driver.settings, self.driver.clock.now());
        let (after, mut tail) = (self.built.sequence, self.built);
        let mut entries = Vec::with_capacity(settled.len());
        let published = self.published;
        let mut append = Append {
            saved: Vec::with_capacity(settled.len()),
            settled: settled.iter().filter(|event| event.first).map(|event| event.commit.key).collect(),
            unparked: waits.unpark.iter().copied().chain(waits.park.iter().map(|parked| parked.stream)).collect(),
            due_ms: None,
            spans: Vec::new(),
            messages: Vec::new(),
            position,
            published,
            tail,
        };
        for event in settled {
            self.driver.metrics.decided(event.commit.outcome);
            let sequence = tail.sequence + 1;
            let observed = Observed {
                sequence,
                stream: event.stream,
                time,
                attempts: event.attempts,
                epoch: self.epoch,
                revision: settings.revision.clone(),
                config: self.config,
                traceparent: event.trace.traceparent,
                tracestate: event.trace.tracestate,
            };
            if let Some(mut span) = self.spans.remove(&event.id) {
                span.outcome(event.commit.outcome.as_str());
                append.spans.push(span);
            }
            let entry = Entry::of_commit(&mut tail, &event.commit, event.first, &observed);
            let identity = entry.decision.as_ref().and_then(|decision| decision.identity);
            append.saved.push(saved(&event.commit.entity, identity));
            entries.push(entry);
            let outputs = outbox::of_commit(&settings.config, event.commit, &observed);
            append.messages.extend(outputs.now.into_iter().map(|message| Pending { sequence, message }));
            waits.defer.extend(outputs.later);
        }
        append.saved.extend(parked);
        append.due_ms = first_due(&waits);
        append.tail = tail;
        self.built = tail;
        let batch = Batch { epoch: self.epoch, after, entries, tail, position, published, config: None, waits };
        (batch, append)
    }

    /// Never two at a time: outputs keep the order of the journal.
    fn start_publish(&mut self) {
        let waits = self.busy.publishing && !planted::is(Fault::PipelinedOutputs);
        if waits || self.outbox.is_empty() || self.now_ms() < self.publish_rests_until_ms {
            return;
        }
        if self.interrupted.is_some() && self.publish_failures > 0 {
            return; // The next session publishes it from the journal.
        }
        self.busy.publishing = true;
        let count = self.outbox.len().min(self.driver.settings.bounds.publish_messages);
        let messages: Vec<Pending> = self.outbox.drain(..count).collect();
        let bus = self.driver.bus.clone();
        self.tasks.push(Box::pin(async move {
            failpoint::reached(Step::Publishing);
            let result = bus.publish(messages.iter().map(|pending| pending.message.clone()).collect()).await;
            let result = result.inspect(|_| failpoint::reached(Step::Published));
            Done::Published { messages, result }
        }));
    }

    /// For retries, and for an agent or a broker that is left alone for a while.
    fn start_timer(&mut self) {
        let now_ms = self.now_ms();
        let dues = [self.agent_rests_until_ms, self.publish_rests_until_ms];
        let dues = dues.into_iter().chain(self.window.next_retry_ms()).chain(self.next_due_ms);
        // A retry that is due and can't be made waits for something else: a timer for it would fire over and over.
        let is_ahead = |until: &i64| *until > now_ms || (*until > 0 && planted::is(Fault::TimerSpins));
        let Some(due_ms) = dues.filter(is_ahead).min() else { return };
        if self.wakes_ms.is_some_and(|wakes_ms| wakes_ms <= due_ms) {
            return;
        }
        self.wakes_ms = Some(due_ms);
        let clock = self.driver.clock.clone();
        let wait = Duration::from_millis(u64::try_from(due_ms - now_ms).unwrap_or(0));
        self.tasks.push(Box::pin(async move {
            clock.sleep(wait).await;
            Done::Woken
        }));
    }

    /// The next append tells the store what is published; when there is none, this does.
    fn start_mark(&mut self) {
        if self.marking || self.published <= self.marked || self.saving() {
            return;
        }
        self.marking = true;
        let (store, clock, epoch, sequence) =
            (self.driver.store.clone(), self.driver.clock.clone(), self.epoch, self.published);
        self.tasks.push(Box::pin(async move {
            clock.sleep(MARK_AFTER).await;
            failpoint::reached(Step::Marking);
            Done::Marked { sequence, result: store.mark_published(epoch, sequence).await }
        }));
    }

    /// The last word before a stop; the session itself is not held while the store writes.
    pub(super) fn mark_now(&self) -> impl Future<Output = Result<(), StoreError>> + Send + use<B, S, A, C> {
        let (store, epoch, published, behind) =
            (self.driver.store.clone(), self.epoch, self.published, self.published > self.marked);
        async move { if behind { store.mark_published(epoch, published).await } else { Ok(()) } }
    }

    pub(super) fn acknowledge(&self, position: u64) {
        let bus = self.driver.bus.clone();
        self.tasks.push(Box::pin(async move {
            failpoint::reached(Step::Acknowledging);
            bus.settled(position).await;
            Done::Acknowledged
        }));
    }

    pub(super) fn watch_demand(&self) {
        let mut orders = self.driver.orders.clone();
        orders.mark_unchanged();
        self.tasks.push(Box::pin(async move {
            if orders.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            Done::Demanded
        }));
    }
}

/// When the first of what begins to wait is due; released events are due at once.
fn first_due(waits: &Waits) -> Option<i64> {
    let parked = waits.park.iter().map(|parked| parked.due_ms.unwrap_or(0));
    let released = (!waits.unpark.is_empty() || !waits.cancel.is_empty()).then_some(0);
    parked.chain(waits.defer.iter().map(|deferred| deferred.due_ms)).chain(released).min()
}
