//! How a session begins: what a former one left is published, and the bus is attached at the store's position.

use super::super::window::Tries;
use super::super::{Driver, Stopped, outbox};
use super::{Ended, Session};
use crate::agent::Agent;
use crate::bus::{self, BusError, EventBus};
use crate::clock::Clock;
use crate::failpoint::{self, Step};
use crate::planted::{self, Fault};
use crate::store::{EventStore, Mark, StoreError};

impl<B: EventBus, S: EventStore, A: Agent, C: Clock> Driver<B, S, A, C> {
    /// One that ended with the store's failure leaves in doubt what it had on the way there.
    pub(in super::super) async fn session(
        &mut self,
        epoch: u64,
        tries: &mut Tries,
        in_doubt: bool,
    ) -> Result<Ended, Stopped> {
        if in_doubt {
            self.draw_line(epoch).await?;
        }
        let mark = self.mark(epoch).await?;
        let next_due_ms = self.store.next_due(i64::MIN).await?;
        let published = match self.recover_outbox(mark.published, mark.tail.sequence).await? {
            Ok(published) => published,
            Err(why) => return Ok(Ended::Interrupted { worked: false, why }),
        };
        let position = self.position(&mark);
        match self.bus.attach(position).await {
            Ok(attached) if attached.floor > position => {
                if planted::is(Fault::OvertakenCalledLost) {
                    return Err(Stopped::StoreLost { floor: attached.floor, position });
                }
                return self.behind(epoch, attached.floor).await;
            }
            Ok(_) => failpoint::reached(Step::Attached),
            Err(why) => return Ok(Ended::Interrupted { worked: false, why }),
        }
        self.report.send_modify(|report| (report.attached, report.position) = (true, position));
        Session::new(self, tries, &mark, position, published, next_due_ms).work().await
    }

    /// A store that has taken something goes on there, also when the agent is a new one of the same name.
    fn position(&self, mark: &Mark) -> u64 {
        if mark.position == 0 { self.settings.first_position } else { mark.position }
    }

    /// The broker was told more than the store knew. Unless the store has moved on meanwhile, it was lost.
    async fn behind(&self, epoch: u64, floor: u64) -> Result<Ended, Stopped> {
        let position = self.position(&self.mark(epoch).await?);
        if floor > position {
            return Err(Stopped::StoreLost { floor, position });
        }
        let why = BusError::Gap("the store has moved on since it was looked at".into());
        Ok(Ended::Interrupted { worked: false, why })
    }

    /// Publishes what a former run committed and may not have published.
    async fn recover_outbox(&self, published: u64, last: u64) -> Result<bus::Result<u64>, Stopped> {
        if planted::is(Fault::OutboxNotRecovered) {
            return Ok(Ok(last));
        }
        let mut after = published;
        loop {
            let rows = self.store.outbox(after, self.settings.bounds.recovered_records).await?;
            let Some(row) = rows.last() else { return Ok(Ok(last)) };
            after = row.sequence;
            let mut messages = Vec::new();
            for row in &rows {
                let lines = outbox::of_line(&self.settings.config, &row.line).map_err(|e| StoreError::Failed {
                    doing: "recover outputs",
                    cause: format!("record {} of the journal can't be read: {e}", row.sequence),
                })?;
                messages.extend(lines);
            }
            self.metrics.recovered(messages.len());
            failpoint::reached(Step::Recovering);
            if let Err(why) = self.bus.publish(messages).await {
                return Ok(Err(why));
            }
            failpoint::reached(Step::Recovered);
        }
    }
}
