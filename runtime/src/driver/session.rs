//! One session: from attaching at the store's position until what was pulled can't be trusted any more.
//!
//! `work` is the hot path: wait for one thing to end, take it in, start what can be started.

mod append;
mod begin;
mod due;
mod pace;
mod publish;
mod start;

use std::collections::{HashMap, VecDeque};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;

use super::window::{Arrived, Saved, SlotId, Tries, Window};
use super::{Demand, Driver, Settings, Stopped};
use crate::agent::{Agent, Answer, CallError};
use crate::bus::{self, Ack, BusError, EventBus, Message, Outgoing};
use crate::clock::Clock;
use crate::store::{self, Batch, Due, EventStore, Loaded, Mark};
use crate::telemetry::Span;
use pace::Pace;

/// How many times as much as the agent may be asked for at a time the window may hold.
const WINDOW_CALLS: usize = 4;

pub(super) enum Ended {
    Asked,
    Interrupted { worked: bool, why: BusError },
}

/// Something that was under way has ended.
enum Done {
    Pulled(bus::Result<Vec<Message>>),
    Due(store::Result<(Due, Option<i64>)>),
    Loaded { arrived: Vec<Arrived>, entities: Vec<String>, loaded: store::Result<Loaded> },
    Counted { id: SlotId, result: store::Result<u32> },
    Called { ids: Vec<SlotId>, answers: Result<Vec<Answer>, CallError> },
    Appended { result: store::Result<()>, append: Append },
    Published { messages: Vec<Pending>, result: bus::Result<Vec<Ack>> },
    Fired { result: bus::Result<Vec<Ack>>, forgotten: store::Result<()> },
    Marked { sequence: u64, result: store::Result<()> },
    Woken,
    Acknowledged,
    Demanded,
}

/// An append under way, and what it allows when it is durable.
struct Append {
    saved: Vec<Saved>,
    /// Keys of the decided events.
    settled: Vec<Hash>,
    /// Stream sequences of what the store does not keep any more, or keeps anew.
    unparked: Vec<u64>,
    /// When the first of what was put into the store to wait is due.
    due_ms: Option<i64>,
    /// They end when the effect is durable.
    spans: Vec<Span>,
    messages: Vec<Pending>,
    position: u64,
    published: u64,
    tail: Tail,
}

/// A message waiting to be published, and the record it belongs to.
struct Pending {
    sequence: u64,
    message: Outgoing,
}

/// What is under way, at most one of each.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a thing of its own that is under way or not")]
struct Busy {
    pulling: bool,
    loading: bool,
    appending: bool,
    publishing: bool,
    firing: bool,
    /// For what is due in the store, as part of loading.
    looking: bool,
}

struct Session<'a, B, S, A, C> {
    driver: &'a mut Driver<B, S, A, C>,
    epoch: u64,
    window: Window<'a>,
    /// Hash of the config, for each record.
    config: Option<Hash>,
    tail: Tail,
    position: u64,
    /// What is to be appended next, and the journal's end as it then will be.
    next: Option<(Batch, Append)>,
    built: Tail,
    /// Pulled, while heads were being loaded for others.
    pulled: Vec<Message>,
    /// Of loading states, and of asking for them.
    loads: Pace,
    answers: Pace,
    outbox: VecDeque<Pending>,
    /// When something that waits in the store is due next.
    next_due_ms: Option<i64>,
    /// Journal sequence up to which everything is published, and up to which the store knows it.
    published: u64,
    marked: u64,
    tasks: FuturesUnordered<BoxFuture<'static, Done>>,
    spans: HashMap<SlotId, Span>,
    busy: Busy,
    marking: bool,
    /// When the timer under way fires, and since when the agent is left alone.
    wakes_ms: Option<i64>,
    agent_rests_until_ms: i64,
    agent_failures: u32,
    publish_rests_until_ms: i64,
    publish_failures: u32,
    interrupted: Option<BusError>,
    worked: bool,
    /// Number of the order that was in force when something was started last.
    heard: u64,
}

impl<'a, B: EventBus, S: EventStore, A: Agent, C: Clock> Session<'a, B, S, A, C> {
    fn new(
        driver: &'a mut Driver<B, S, A, C>,
        tries: &'a mut Tries,
        mark: &Mark,
        position: u64,
        published: u64,
        next_due_ms: Option<i64>,
    ) -> Self {
        let Settings { bounds, batch_events, .. } = &*driver.settings;
        let pace = |most| Pace::start(bounds.states_bytes / WINDOW_CALLS, most);
        let (loads, answers) = (pace(*batch_events), pace(2 * batch_events));
        let window = Window::new(driver.settings.clone(), position, tries);
        let session = Self {
            driver,
            epoch: mark.epoch,
            window,
            config: mark.config,
            tail: mark.tail,
            position,
            next: None,
            built: mark.tail,
            pulled: Vec::new(),
            loads,
            answers,
            outbox: VecDeque::new(),
            next_due_ms,
            published,
            marked: mark.published,
            tasks: FuturesUnordered::new(),
            spans: HashMap::new(),
            busy: Busy::default(),
            marking: false,
            wakes_ms: None,
            agent_rests_until_ms: 0,
            agent_failures: 0,
            publish_rests_until_ms: 0,
            publish_failures: 0,
            interrupted: None,
            worked: false,
            heard: 0,
        };
        session.watch_demand();
        session
    }

    async fn work(mut self) -> Result<Ended, Stopped> {
        loop {
            self.heard = self.driver.orders.borrow().number;
            self.start_all();
            self.tell();
            if !self.saving() {
                if let Some(why) = self.interrupted.take() {
                    return Ok(Ended::Interrupted { worked: self.worked, why });
                }
                if self.demand() == Demand::Stop && self.window.calling() == 0 {
                    let marked = self.mark_now();
                    marked.await?;
                    return Ok(Ended::Asked);
                }
            }
            match self.tasks.next().await {
                Some(done) => self.take_in(done)?,
                None => return Ok(Ended::Asked),
            }
        }
    }

    fn take_in(&mut self, done: Done) -> Result<(), Stopped> {
        match done {
            Done::Pulled(pulled) => self.pulled(pulled),
            Done::Due(found) => self.due(found)?,
            Done::Loaded { arrived, entities, loaded } => {
                self.busy.loading = false;
                let (now_ms, loaded) = (self.now_ms(), loaded?);
                self.loads.fit(arrived.len(), loaded.heads.iter().flatten().map(Head::bytes).sum());
                self.window.admit(arrived, entities, loaded, now_ms);
            }
            Done::Counted { id, result } => {
                result?;
                self.window.counted(id);
                self.call(vec![id]);
            }
            Done::Called { ids, answers } => self.called(&ids, answers),
            Done::Appended { result, append } => self.appended(result, append)?,
            Done::Published { messages, result } => self.published(messages, result),
            Done::Fired { result, forgotten } => self.fired(result, forgotten)?,
            Done::Marked { sequence, result } => {
                self.marking = false;
                result?;
                self.marked = sequence;
            }
            Done::Woken => self.wakes_ms = None,
            Done::Acknowledged => {}
            Done::Demanded => self.watch_demand(),
        }
        Ok(())
    }

    fn pulled(&mut self, pulled: bus::Result<Vec<Message>>) {
        self.busy.pulling = false;
        match pulled {
            Ok(messages) => {
                self.driver.metrics.pulled(messages.len());
                self.pulled = messages;
            }
            Err(why) => self.interrupted = Some(why),
        }
    }

    fn called(&mut self, ids: &[SlotId], answers: Result<Vec<Answer>, CallError>) {
        let now_ms = self.now_ms();
        match answers {
            Ok(answers) => {
                self.agent_failures = 0;
                self.answers.fit(answers.len(), answers.iter().map(Answer::bytes).sum());
                for (id, answer) in ids.iter().zip(answers) {
                    if let Some(reason) = self.window.answered(*id, answer, now_ms) {
                        self.driver.metrics.try_failed(&reason);
                        self.driver.report.send_modify(|report| {
                            report.last_error = Some(reason.to_string());
                        });
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, events = ids.len(), "asking the agent");
                self.driver.metrics.call_failed(&error);
                self.driver.report.send_modify(|report| report.last_error = Some(error.to_string()));
                match &error {
                    CallError::Unreachable(_) => {
                        self.window.unreachable(ids);
                        self.agent_failures += 1;
                        self.agent_rests_until_ms = now_ms + rest_ms(self.agent_failures);
                    }
                    CallError::Lost(_) => {
                        self.answers.restart();
                        self.window.lost(ids, now_ms);
                    }
                }
            }
        }
    }

    /// Whether something is on its way to the store or the broker that must not be left half done.
    fn saving(&self) -> bool {
        self.busy.appending
            || self.busy.publishing
            || self.busy.firing
            || ((!self.outbox.is_empty() || self.next.is_some()) && self.interrupted.is_none())
    }

    fn demand(&self) -> Demand {
        self.driver.orders.borrow().demand
    }

    fn now_ms(&self) -> i64 {
        self.driver.clock.now().as_millisecond()
    }

    fn tell(&self) {
        let in_flight = self.window.calling() + usize::from(self.saving());
        let heard = self.heard;
        let (position, reachable) = (self.position, self.agent_failures == 0);
        let idle = self.window.is_empty() && self.pulled.is_empty() && !self.busy.loading && !self.saving();
        self.driver.report.send_if_modified(|report| {
            let before = (report.in_flight, report.heard, report.idle, report.position, report.agent_reachable);
            let now = (in_flight, heard, idle, position, reachable);
            (report.in_flight, report.heard, report.idle, report.position, report.agent_reachable) = now;
            before != now
        });
    }
}

/// 100 ms, 200 ms, … 3.2 s.
fn rest_ms(failures: u32) -> i64 {
    50 << failures.min(6)
}
