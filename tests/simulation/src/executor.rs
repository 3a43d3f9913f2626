//! One thread, virtual time. Which of the ready tasks goes next is the seed's choice; time moves only when none is ready.
//!
//! A task is killed by dropping its future, so it dies at an await point, as a process does between two system calls.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use jiff::Timestamp;
use rhizon_runtime::clock::Clock;

use crate::rng::Rng;
use crate::trace::Trace;

pub(crate) type TaskId = u64;

/// Virtual time begins here: 2026-01-01T00:00:00Z.
const EPOCH_SECONDS: i64 = 1_767_225_600;

/// Asked when a fuse has burnt down: whether the task may die now.
pub(crate) type MayDie = Box<dyn Fn() -> bool + Send>;

struct Fuse {
    polls: u32,
    may_die: MayDie,
}

#[derive(Default)]
struct Queues {
    now_us: u64,
    next: u64,
    ready: BTreeSet<TaskId>,
    spawned: Vec<(TaskId, BoxFuture<'static, ()>)>,
    killed: Vec<TaskId>,
    fuses: BTreeMap<TaskId, Fuse>,
    timers: BTreeMap<(u64, u64), Waker>,
}

struct Shared {
    queues: Mutex<Queues>,
    rng: Mutex<Rng>,
    trace: Mutex<Trace>,
}

/// A handle to the executor: its clock, its chance and its tasks.
#[derive(Clone)]
pub(crate) struct Sim(Arc<Shared>);

/// Runs the tasks.
pub(crate) struct Executor {
    sim: Sim,
    tasks: BTreeMap<TaskId, BoxFuture<'static, ()>>,
    /// Polls since the last full second.
    polls: u32,
}

/// So many polls in one second of virtual time mean that somebody goes round in circles.
const CIRCLES: u32 = 20_000;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// Nothing will ever happen again.
    Still,
    /// Somebody works without end, and gets nowhere.
    Spinning,
}

struct TaskWaker {
    id: TaskId,
    sim: Sim,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.sim.queues().ready.insert(self.id);
    }
}

impl Sim {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Shared { queues: Mutex::default(), rng: Mutex::new(Rng::new(seed)), trace: Mutex::new(trace) }))
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.0.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something happened that belongs to what the seed repeats.
    pub(crate) fn note(&self, what: &str, a: u64, b: u64) {
        let now_us = self.now_us();
        self.0.trace.lock().unwrap_or_else(PoisonError::into_inner).note(now_us, what, a, b);
    }

    pub(crate) fn trace(&self) -> u64 {
        self.0.trace.lock().unwrap_or_else(PoisonError::into_inner).hash()
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.queues().now_us
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> TaskId {
        let mut queues = self.queues();
        queues.next += 1;
        let id = queues.next;
        queues.spawned.push((id, Box::pin(task)));
        queues.ready.insert(id);
        id
    }

    /// The task is gone before anything else happens.
    pub(crate) fn kill(&self, id: TaskId) {
        self.queues().killed.push(id);
    }

    /// The task dies after so many more polls, if it may then.
    pub(crate) fn light_fuse(&self, id: TaskId, polls: u32, may_die: MayDie) {
        self.queues().fuses.entry(id).or_insert(Fuse { polls, may_die });
    }

    pub(crate) fn sleep_us(&self, us: u64) -> Sleep {
        // Never no time at all: who sleeps lets others work.
        Sleep { sim: self.clone(), at_us: self.now_us() + us.max(1), timer: None }
    }

    /// Does something elsewhere, which then happens whether or not the caller still waits for it.
    pub(crate) async fn remote<T: Send + 'static>(
        &self,
        before_us: u64,
        effect: impl FnOnce() -> T + Send + 'static,
        after_us: u64,
    ) -> T {
        let (tell, told) = oneshot::channel();
        let sim = self.clone();
        self.spawn(async move {
            sim.sleep_us(before_us).await;
            let result = effect();
            sim.sleep_us(after_us).await;
            let _ = tell.send(result);
        });
        match told.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }
}

/// The wall clock at a virtual time.
pub(crate) fn wall_clock(us: u64) -> Timestamp {
    let us = i64::try_from(us).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(EPOCH_SECONDS * 1_000_000 + us).unwrap_or(Timestamp::MAX)
}

impl Clock for Sim {
    fn now(&self) -> Timestamp {
        wall_clock(self.now_us())
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        self.sleep_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Until a virtual time.
pub(crate) struct Sleep {
    sim: Sim,
    at_us: u64,
    timer: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let at_us = self.at_us;
        let sim = self.sim.clone();
        let mut queues = sim.queues();
        if queues.now_us >= at_us {
            return Poll::Ready(());
        }
        let timer = *self.timer.get_or_insert_with(|| {
            queues.next += 1;
            (at_us, queues.next)
        });
        queues.timers.insert(timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let waker = self.sim.queues().timers.remove(&timer);
            drop(waker);
        }
    }
}

impl Executor {
    pub(crate) fn new(sim: Sim) -> Self {
        Self { sim, tasks: BTreeMap::new(), polls: 0 }
    }

    /// Runs until `done`, or until there is no point in going on.
    pub(crate) fn run_until(&mut self, done: impl Fn() -> bool) -> End {
        while !done() {
            if self.polls > CIRCLES {
                return End::Spinning;
            }
            let spawned = std::mem::take(&mut self.sim.queues().spawned);
            self.tasks.extend(spawned);
            self.bury();
            let Some(id) = self.choose() else {
                let second = self.sim.now_us() / 1_000_000;
                if !self.advance() {
                    return End::Still;
                }
                if self.sim.now_us() / 1_000_000 > second {
                    self.polls = 0;
                }
                continue;
            };
            self.polls += 1;
            self.poll(id);
        }
        End::Done
    }

    fn bury(&mut self) {
        let killed = std::mem::take(&mut self.sim.queues().killed);
        for id in killed {
            self.end(id);
        }
    }

    fn end(&mut self, id: TaskId) {
        let task = self.tasks.remove(&id);
        let fuse = self.sim.queues().fuses.remove(&id);
        drop((task, fuse)); // Not under the lock: what a task owns may ask for it.
    }

    fn choose(&mut self) -> Option<TaskId> {
        let count = self.sim.queues().ready.len();
        if count == 0 {
            return None;
        }
        let place = if count == 1 { 0 } else { self.sim.rng(|rng| rng.index(count)) };
        let mut queues = self.sim.queues();
        let id = queues.ready.iter().nth(place).copied()?;
        queues.ready.remove(&id);
        Some(id)
    }

    fn poll(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let waker = Waker::from(Arc::new(TaskWaker { id, sim: self.sim.clone() }));
        self.sim.note("poll", id, 0);
        let ended = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if ended || self.burnt_down(id) {
            self.end(id);
        }
    }

    fn burnt_down(&mut self, id: TaskId) -> bool {
        let mut queues = self.sim.queues();
        let Some(fuse) = queues.fuses.get_mut(&id) else { return false };
        fuse.polls = fuse.polls.saturating_sub(1);
        if fuse.polls > 0 {
            return false;
        }
        let fuse = queues.fuses.remove(&id);
        drop(queues);
        fuse.is_some_and(|fuse| (fuse.may_die)())
    }

    /// To the next time at which something is due.
    fn advance(&mut self) -> bool {
        let mut queues = self.sim.queues();
        let Some((&(at_us, _), _)) = queues.timers.first_key_value() else { return false };
        queues.now_us = queues.now_us.max(at_us);
        let mut due = Vec::new();
        while let Some(entry) = queues.timers.first_entry().filter(|entry| entry.key().0 <= at_us) {
            due.push(entry.remove());
        }
        drop(queues);
        due.into_iter().for_each(Waker::wake);
        true
    }
}
