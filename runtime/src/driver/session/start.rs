//! What a session starts: each step looks whether it may, and puts a future among the tasks.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use rhizon_kernel::ingress::Body;

use super::super::Demand;
use super::super::window::{SlotId, Taken};
use super::{Done, Session, WINDOW_CALLS};
use crate::agent::{Agent, Item};
use crate::bus::EventBus;
use crate::clock::Clock;
use crate::failpoint::{self, Step};
use crate::planted::{self, Fault};
use crate::store::EventStore;

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
        if self.busy.loading || self.pulled.is_empty() {
            return;
        }
        let most = self.most_loaded();
        if most == 0 {
            return self.window.make_room();
        }
        let count = most.min(self.pulled.len());
        let taken = self.pulled.drain(..count).map(Taken::from).collect();
        self.load(taken);
    }

    /// How large states are is known when they are here: few are loaded or asked for at first, and more while they are small.
    pub(super) fn most_loaded(&mut self) -> usize {
        let room = (WINDOW_CALLS * self.answers.events).saturating_sub(self.window.len());
        if self.window.has_room_for_states() { self.loads.events.min(room) } else { 0 }
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
        self.window.wake(now_ms);
        let room = self.most_calls().saturating_sub(self.window.calling());
        let ids = self.window.next_calls(room);
        if let [id] = ids[..]
            && self.window.is_lone(id)
        {
            return self.count(id);
        }
        for chunk in ids.chunks(self.driver.agent.batch().max(1)) {
            self.call(chunk.to_vec());
        }
    }

    /// While there are too many states, what was answered has to leave before more is asked for.
    fn most_calls(&mut self) -> usize {
        if self.window.has_room_for_states() {
            return self.answers.events.min(self.driver.settings.concurrency);
        }
        let leaves = self.busy.appending || self.next.is_some();
        usize::from(!leaves && self.window.needs_an_answer())
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
