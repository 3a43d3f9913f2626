//! What waits in the store: when it is due, events join the window and outputs are published.

use super::super::window::Taken;
use super::super::{Demand, outbox};
use super::{Done, Session};
use crate::agent::Agent;
use crate::bus::{self, Ack, EventBus, Outgoing};
use crate::clock::Clock;
use crate::failpoint::{self, Step};
use crate::planted::{self, Fault};
use crate::store::{self, DUE_BYTES, Deferred, Due, EventStore};

impl<B: EventBus, S: EventStore, A: Agent, C: Clock> Session<'_, B, S, A, C> {
    /// Looks for what is due, unless an append, under way or to come, is about to change that. None such begins meanwhile.
    pub(super) fn start_due(&mut self) {
        let now_ms = self.now_ms();
        let is_due = self.next_due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let waits = self.busy.loading || self.busy.firing || self.busy.appending || self.window.parks_again();
        if !is_due || waits || !self.window.has_room() || self.most_loaded() == 0 || self.demand() == Demand::Hold {
            return;
        }
        (self.busy.loading, self.busy.looking) = (true, true);
        // What is here already comes first.
        let (here, here_bytes) = self.window.in_hand();
        let (limit, limit_bytes) = (self.driver.settings.batch_events + here, DUE_BYTES + here_bytes);
        let store = self.driver.store.clone();
        self.tasks.push(Box::pin(async move {
            let found = async {
                let due = store.due(now_ms, limit, limit_bytes).await?;
                let next_ms = if due.is_all(limit, limit_bytes) { store.next_due(now_ms).await? } else { Some(now_ms) };
                Ok((due, next_ms))
            };
            Done::Due(found.await)
        }));
    }

    pub(super) fn due(&mut self, found: store::Result<(Due, Option<i64>)>) -> store::Result<()> {
        (self.busy.loading, self.busy.looking) = (false, false);
        let (due, next_ms) = found?;
        self.next_due_ms = next_ms;
        self.fire(due.deferred);
        let most = self.most_loaded();
        let (parked, is_all) = self.window.take_due(due.parked, most);
        if !is_all {
            self.due_at(self.now_ms());
        }
        if !parked.is_empty() {
            self.load(parked.into_iter().map(Taken::from).collect());
        }
        Ok(())
    }

    /// Publishes outputs that are due. Only then the store forgets them.
    fn fire(&mut self, deferred: Vec<Deferred>) {
        if deferred.is_empty() {
            return;
        }
        self.busy.firing = true;
        let (bus, store, epoch) = (self.driver.bus.clone(), self.driver.store.clone(), self.epoch);
        let keys = deferred.iter().map(|deferred| deferred.key).collect::<Vec<_>>();
        let messages = deferred.into_iter().map(outbox::of_deferred).collect::<Vec<Outgoing>>();
        self.tasks.push(Box::pin(async move {
            if planted::is(Fault::TimerForgottenEarly)
                && let Err(error) = store.fired(epoch, keys.clone()).await
            {
                return Done::Fired { result: Ok(Vec::new()), forgotten: Err(error) };
            }
            failpoint::reached(Step::Firing);
            let result = bus.publish(messages).await.inspect(|_| failpoint::reached(Step::Fired));
            let forgotten = if result.is_ok() { store.fired(epoch, keys).await } else { Ok(()) };
            Done::Fired { result, forgotten }
        }));
    }

    pub(super) fn fired(&mut self, result: bus::Result<Vec<Ack>>, forgotten: store::Result<()>) -> store::Result<()> {
        self.busy.firing = false;
        forgotten?;
        match result {
            Ok(acks) => {
                self.publish_failures = 0;
                self.driver.metrics.published(&acks);
            }
            Err(error) => {
                let until_ms = self.publishing_failed(&error);
                self.due_at(until_ms);
            }
        }
        Ok(())
    }

    /// Something is due at a time.
    pub(super) fn due_at(&mut self, due_ms: i64) {
        self.next_due_ms = Some(self.next_due_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
    }
}
