//! The driver: it does the I/O and owns the time; the kernel decides.
//!
//! ```text
//!  pull ─▶ load heads ─▶ admit ─▶ decide ─▶ call the agent ─▶ react ─▶ append ─▶ publish outputs
//!   │                    └────────────── Window (pure) ──────────────┘     │
//!   └── at most one of each is under way, except calls; the next batch's pull and calls run while this one is
//!       appended and published ────────────────────────────────────────────┴─▶ tell the broker how far
//! ```
//!
//! Its steps have numbers, at which tests kill the process (`failpoint`, `tests/kills`):
//!
//! ```text
//! start    1 claimed ─▶ 2 recovering ─▶ 3 recovered ─▶ 4 attached
//! events   5 pulled ─▶ 6 loaded ─▶ (alone: 7 counted) ─▶ 8 calling ─▶ 9 answered ─▶ 10 appending ─▶ 11 written ─▶ 12 appended
//! outputs  13 acknowledging    14 publishing ─▶ 15 published ─▶ 16 marking
//! timers   17 firing ─▶ 18 fired
//! ```
//!
//! `drive` runs session after session. A session begins at the store's position and ends when what it has pulled can't
//! be trusted any more; nothing but the store outlives it.

pub(crate) mod outbox;
mod session;
mod window;

use std::sync::Arc;
use std::time::Duration;

use rhizon_kernel::Config;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::{Line, Tail};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::bus::EventBus;
use crate::clock::Clock;
use crate::failpoint::{self, Step};
use crate::metrics::Metrics;
use crate::planted::{self, Fault};
use crate::store::{EventStore, Mark, Row, StoreError};
use crate::telemetry::Tracer;

pub use window::{Ordering, Retry};

/// What the driver needs to know of its agent.
#[derive(Debug, Clone)]
pub struct Settings {
    pub config: Config,
    pub ordering: Ordering,
    pub retry: Retry,
    /// How many events one pull may bring, and one append may hold.
    pub batch_events: usize,
    /// How many events the agent may have at once.
    pub concurrency: usize,
    pub revision: String,
    /// The position of a store that has none yet: events up to it are before the agent's time.
    pub first_position: u64,
    pub bounds: Bounds,
}

/// What the driver may keep in memory or do at a time. A simulation makes them small, so that each of them is met.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Heads kept beyond those in use, and bytes of their states.
    pub cached_heads: usize,
    pub cached_bytes: usize,
    /// Bytes of states in use and of decisions, beyond which no more are loaded or asked for.
    pub states_bytes: usize,
    /// Committed messages, and bytes of them, that may wait for the broker before no more is committed.
    pub outbox_messages: usize,
    pub outbox_bytes: usize,
    pub publish_messages: usize,
    /// Records of which outputs are recovered at a time.
    pub recovered_records: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            cached_heads: 20_000,
            cached_bytes: 4 << 20,
            states_bytes: 16 << 20,
            outbox_messages: 4_000,
            outbox_bytes: 1 << 20,
            publish_messages: 900,
            recovered_records: 500,
        }
    }
}

/// How many of the last records a start looks at; `rhizon verify` looks at all.
const CHECKED_RECORDS: u64 = 100;
/// And how many bytes of them at a time.
const CHECKED_BYTES: usize = 1 << 20;

/// What may be asked of a running driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    Run,
    /// Finish what was taken, and take nothing new from the stream.
    Drain,
    /// Finish what the agent has and take nothing new.
    Hold,
    /// The same, and end when that is done.
    Stop,
}

/// A demand, numbered, so that it can be seen whether the driver has heard it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub number: u64,
    pub demand: Demand,
}

impl Default for Order {
    fn default() -> Self {
        Self { number: 0, demand: Demand::Run }
    }
}

/// What the driver tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether it is attached and works.
    pub attached: bool,
    /// Number of the last order that it goes by.
    pub heard: u64,
    /// Agent calls, appends and publishes under way.
    pub in_flight: usize,
    /// Whether nothing that was taken is unfinished.
    pub idle: bool,
    pub position: u64,
    pub agent_reachable: bool,
    pub last_error: Option<String>,
}

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error("as it was asked to")]
    Asked,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the broker's consumer has acknowledged up to {floor}, and the store only knows up to {position}: the store was lost or \
         rolled back. Restore the volume, or delete the agent and create it again to start from its journal's beginning"
    )]
    StoreLost { floor: u64, position: u64 },
}

pub struct Driver<B, S, A, C> {
    pub settings: Arc<Settings>,
    pub bus: B,
    pub store: S,
    pub agent: A,
    pub clock: C,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    pub orders: watch::Receiver<Order>,
    pub report: watch::Sender<Report>,
}

impl<B: EventBus, S: EventStore, A: Agent, C: Clock> Driver<B, S, A, C> {
    /// Takes ownership of the store and works until it is asked to stop or must not go on.
    pub async fn drive(mut self) -> Stopped {
        let mark = match self.claim().await {
            Ok(mark) => mark,
            Err(stopped) => return stopped,
        };
        if let Err(stopped) = self.check_end(&mark).await {
            return stopped;
        }
        let (mut failures, mut tries, mut in_doubt) = (0_u32, window::Tries::default(), false);
        loop {
            let ended = self.session(mark.epoch, &mut tries, in_doubt).await;
            in_doubt = matches!(ended, Err(Stopped::Store(_)));
            self.report.send_modify(|report| report.attached = false);
            match ended {
                Ok(session::Ended::Asked) => return Stopped::Asked,
                Ok(session::Ended::Interrupted { worked, why }) => {
                    failures = if worked { 0 } else { failures + 1 };
                    self.metrics.interrupted(&why);
                    self.report.send_modify(|report| report.last_error = Some(why.to_string()));
                    tracing::warn!(reason = %why, "reading again from the store's position");
                }
                Err(Stopped::Store(error)) if error.is_transient() => {
                    failures += 1;
                    self.metrics.store_failed(&error);
                    self.report.send_modify(|report| report.last_error = Some(error.to_string()));
                    tracing::error!(%error, "the store failed; trying again");
                }
                Err(stopped) => return stopped,
            }
            if self.orders.borrow().demand == Demand::Stop {
                return Stopped::Asked;
            }
            self.clock.sleep(backoff(failures)).await;
        }
    }

    /// The next epoch, and the config journaled if it is another than before.
    async fn claim(&self) -> Result<Mark, Stopped> {
        let mark = self.patiently(|| self.store.claim()).await?;
        failpoint::reached(Step::Claimed);
        let mut seen = mark.clone();
        while let Some(batch) = seen.config_change(&self.settings.config, &self.settings.revision, self.clock.now()) {
            match self.patiently(|| self.store.append(batch.clone())).await {
                // Perhaps our own earlier success, that was reported as a failure: look again.
                Err(StoreError::Conflict { .. }) if !planted::is(Fault::OwnRecordForeign) => {
                    seen = self.patiently(|| self.mark(mark.epoch)).await?;
                }
                other => return Ok(other.map(|()| mark)?),
            }
        }
        Ok(mark)
    }

    /// What a former session left on its way to the store is there before this record, or is refused behind it.
    async fn draw_line(&self, epoch: u64) -> Result<(), StoreError> {
        loop {
            let Settings { config, revision, .. } = &*self.settings;
            let line = self.mark(epoch).await?.config_again(config, revision, self.clock.now());
            match self.store.append(line).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other,
            }
        }
    }

    /// The last records must be there and linked: a journal that was cut, forked or rolled back is not continued.
    async fn check_end(&self, mark: &Mark) -> Result<(), Stopped> {
        let after = mark.tail.sequence.saturating_sub(CHECKED_RECORDS);
        let mut tail = Tail { sequence: after, link: Hash::ZERO };
        while tail.sequence < mark.tail.sequence {
            let from = tail.sequence;
            let rows = self.patiently(|| self.store.journal(from, CHECKED_BYTES)).await?;
            if rows.is_empty() {
                break;
            }
            for row in rows.iter().take_while(|row| row.sequence <= mark.tail.sequence) {
                let is_linked = tail.sequence > after || after == 0;
                tail = follow(&tail, row, is_linked)?;
            }
        }
        if tail.sequence == mark.tail.sequence && (tail.link == mark.tail.link || tail.sequence == 0) {
            return Ok(());
        }
        let what = format!("it ends with record {} and should with {}", tail.sequence, mark.tail.sequence);
        Err(StoreError::Broken(what).into())
    }

    /// Where the store stands, if it is still ours.
    async fn mark(&self, epoch: u64) -> Result<Mark, StoreError> {
        let mark = self.store.mark().await?;
        if mark.epoch == epoch || planted::is(Fault::FenceNotChecked) {
            Ok(mark)
        } else {
            Err(StoreError::Fenced { ours: epoch, found: mark.epoch })
        }
    }

    /// Tries again for as long as the store only has a bad moment.
    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut failures = 0;
        loop {
            match call().await {
                Err(error) if error.is_transient() => {
                    failures += 1;
                    self.metrics.store_failed(&error);
                    self.report.send_modify(|report| report.last_error = Some(error.to_string()));
                    tracing::error!(%error, "the store failed; trying again");
                    self.clock.sleep(backoff(failures)).await;
                }
                other => return other,
            }
        }
    }
}

/// 0, 50 ms, 100 ms, … 3.2 s.
fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(25 << n.min(7)),
    }
}

/// The journal's end behind one more record.
fn follow(tail: &Tail, row: &Row, is_linked: bool) -> Result<Tail, StoreError> {
    let broken = |what: String| StoreError::Broken(format!("record {}: {what}", row.sequence));
    let line = Line::parse(&row.line).map_err(|e| broken(e.to_string()))?;
    if row.sequence != tail.sequence + 1 {
        return Err(broken(format!("it follows record {}", tail.sequence)));
    }
    if is_linked && !line.follows(&tail.link) {
        return Err(broken("its link does not follow from the record before it".into()));
    }
    Ok(Tail { sequence: row.sequence, link: line.link })
}
