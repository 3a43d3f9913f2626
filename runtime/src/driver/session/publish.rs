//! Outputs leave in the journal's order, and the store is told how far.

use std::time::Duration;

use super::{Done, Pending, Session, rest_ms};
use crate::agent::Agent;
use crate::bus::{self, Ack, BusError, EventBus};
use crate::clock::Clock;
use crate::failpoint::{self, Step};
use crate::planted::{self, Fault};
use crate::store::{EventStore, StoreError};

/// How long after the last publish the store is told of it, when no append has done so.
const MARK_AFTER: Duration = Duration::from_secs(1);

impl<B: EventBus, S: EventStore, A: Agent, C: Clock> Session<'_, B, S, A, C> {
    /// Never two at a time: outputs keep the order of the journal.
    pub(super) fn start_publish(&mut self) {
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

    pub(super) fn published(&mut self, messages: Vec<Pending>, result: bus::Result<Vec<Ack>>) {
        self.busy.publishing = false;
        match result {
            Ok(acks) => {
                self.driver.metrics.published(&acks);
                self.publish_failures = 0;
                let last = messages.last().map_or(0, |pending| pending.sequence);
                // A record is published when all its messages are: the last one's may go on in the next batch.
                self.published = match self.outbox.front() {
                    Some(next) if planted::is(Fault::HalfRecordPublished) => next.sequence,
                    Some(next) => next.sequence.saturating_sub(1).max(self.published),
                    None => self.tail.sequence.max(last),
                };
            }
            Err(error) => {
                self.publishing_failed(&error);
                for pending in messages.into_iter().rev() {
                    self.outbox.push_front(pending);
                }
            }
        }
    }

    /// Answers until when the broker is left alone.
    pub(super) fn publishing_failed(&mut self, error: &BusError) -> i64 {
        tracing::warn!(%error, "publishing outputs; trying again");
        self.driver.metrics.publish_failed(error);
        self.driver.report.send_modify(|report| report.last_error = Some(error.to_string()));
        self.publish_failures += 1;
        self.publish_rests_until_ms = self.now_ms() + rest_ms(self.publish_failures);
        self.publish_rests_until_ms
    }

    /// The next append tells the store what is published; when there is none, this does.
    pub(super) fn start_mark(&mut self) {
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
}
