//! From what the window has settled to what the store has: built, written, and taken note of.

use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Observed;

use super::super::window::{Harvest, Saved};
use super::super::{Bounds, Stopped, outbox};
use super::{Append, Done, Pending, Session};
use crate::agent::Agent;
use crate::bus::{BusError, EventBus};
use crate::clock::Clock;
use crate::failpoint::{self, Step};
use crate::planted::{self, Fault};
use crate::store::{self, Batch, Entry, EventStore, StoreError, Waits};

impl<B: EventBus, S: EventStore, A: Agent, C: Clock> Session<'_, B, S, A, C> {
    pub(super) fn start_append(&mut self) {
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

    pub(super) fn appended(&mut self, result: store::Result<()>, append: Append) -> Result<(), Stopped> {
        self.busy.appending = false;
        match result {
            Ok(()) => {}
            // Perhaps our own earlier success: the next session looks at the store again, and checks the fence.
            Err(StoreError::Conflict { expected, found }) => {
                self.interrupted = Some(BusError::Gap(format!("the journal ends with {found}, not {expected}")));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let Append { saved, settled, unparked, due_ms, spans, messages, position, published, tail } = append;
        self.worked = true;
        let is_further = tail.sequence > self.tail.sequence || position > self.position;
        (self.tail, self.position, self.marked) = (tail, position, self.marked.max(published));
        drop(spans);
        self.window.appended(saved, &settled, &unparked);
        if let Some(due_ms) = due_ms {
            self.due_at(due_ms);
        }
        self.outbox.extend(messages);
        if self.outbox.is_empty() && !self.busy.publishing {
            self.published = tail.sequence;
        }
        self.driver.metrics.settled(position, tail.sequence);
        self.acknowledge(position);
        // Only then is it another window that comes in its place.
        if is_further && let Some(bytes) = self.window.crowded_bytes() {
            let why = format!("the events at hand have grown states of {bytes} bytes; fewer are taken at a time");
            self.interrupted = Some(BusError::Dropped(why));
        }
        Ok(())
    }
}

/// When the first of what begins to wait is due; released events are due at once.
fn first_due(waits: &Waits) -> Option<i64> {
    let parked = waits.park.iter().map(|parked| parked.due_ms.unwrap_or(0));
    let released = (!waits.unpark.is_empty() || !waits.cancel.is_empty()).then_some(0);
    parked.chain(waits.defer.iter().map(|deferred| deferred.due_ms)).chain(released).min()
}

/// Identity and entity of what is saved, for the window.
fn saved(entity: &str, identity: Option<(Hash, Hash)>) -> Saved {
    Saved { entity: entity.to_owned(), identity }
}
