//! The memory store, behind calls that are slow, fail, fail after they were done, or meet a full disk.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_runtime::store::memory::MemoryStore;
use rhizon_runtime::store::{Batch, Counts, Due, EventStore, Fate, Loaded, Mark, Result, Row, StoreError};

use crate::ledger::Ledger;
use crate::plan::Unit;
use crate::world::World;

#[derive(Clone)]
pub(crate) struct SimStore {
    world: World,
    inner: MemoryStore,
    pub ledger: Ledger,
    full_until_us: Arc<Mutex<u64>>,
}

impl SimStore {
    pub(crate) fn new(world: World, unit: Unit) -> Self {
        let ledger = Ledger::new(world.clone(), unit);
        Self { world, inner: MemoryStore::default(), ledger, full_until_us: Arc::default() }
    }

    /// What is in it, without the ways to it.
    pub(crate) fn inside(&self) -> &MemoryStore {
        &self.inner
    }

    /// The same place with what it held some batches ago.
    pub(crate) fn rolled_back(&self, batches: &[Batch]) -> Self {
        let inner = MemoryStore::default();
        for batch in batches {
            while now(inner.mark()).is_ok_and(|mark| mark.epoch < batch.epoch) {
                let _ = now(inner.claim());
            }
            let _ = now(inner.append(batch.clone()));
        }
        Self { inner, ..self.clone() }
    }

    pub(crate) fn fill(&self, until_us: u64) {
        *self.full_until_us.lock().unwrap_or_else(PoisonError::into_inner) = until_us;
    }

    fn is_full(&self) -> bool {
        let until_us = *self.full_until_us.lock().unwrap_or_else(PoisonError::into_inner);
        !self.world.is_calm() && self.world.sim.now_us() < until_us
    }

    /// Goes to the store and back; on the way all may go wrong.
    async fn go<T: Send + 'static>(
        &self,
        doing: &'static str,
        effect: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let world = &self.world;
        let failed = |cause: &str| StoreError::Failed { doing, cause: cause.to_owned() };
        if world.strikes("store refused", |rates| rates.store_refused) {
            world.sim.sleep_us(world.latency_us()).await;
            return Err(failed("it could not be reached"));
        }
        let unsure = world.strikes("store unsure", |rates| rates.store_unsure);
        let before_us = if unsure { world.late_us() } else { world.latency_us() };
        let after_us = world.latency_us();
        let store = self.clone();
        let landed = world.sim.remote(before_us, move || effect(&store), after_us);
        if unsure {
            // Before or after it lands: nobody can tell.
            let patience = world.sim.sleep_us(world.sim.rng(|rng| rng.between(1, before_us + 2_000)));
            let _ = futures::future::select(Box::pin(landed), patience).await;
            return Err(failed("the connection was lost"));
        }
        landed.await
    }

    fn room(&self) -> Result<()> {
        if self.is_full() { Err(StoreError::Full("the disk is full".into())) } else { Ok(()) }
    }
}

/// The memory store never waits.
pub(crate) fn now<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let never = || StoreError::Failed { doing: "ask memory", cause: "it waits".into() };
    call.now_or_never().unwrap_or_else(|| Err(never()))
}

impl EventStore for SimStore {
    async fn claim(&self) -> Result<Mark> {
        self.go("claim", |store| {
            store.room()?;
            store.world.progressed();
            now(store.inner.claim())
        })
        .await
    }

    async fn mark(&self) -> Result<Mark> {
        self.go("read the mark", |store| now(store.inner.mark())).await
    }

    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        self.go("load", move |store| now(store.inner.load(entities, keys))).await
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        self.go("append", move |store| {
            store.room()?;
            let copy = batch.clone();
            now(store.inner.append(batch))?;
            store.ledger.appended(&copy, now(store.inner.mark())?.position);
            Ok(())
        })
        .await
    }

    async fn count_attempt(&self, epoch: u64, key: Hash) -> Result<u32> {
        self.go("count an attempt", move |store| {
            store.room()?;
            now(store.inner.count_attempt(epoch, key)).inspect(|attempts| store.ledger.tried(key, *attempts))
        })
        .await
    }

    async fn mark_published(&self, epoch: u64, sequence: u64) -> Result<()> {
        self.go("mark as published", move |store| {
            store.room()?;
            now(store.inner.mark_published(epoch, sequence))
        })
        .await
    }

    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        self.go("read the outbox", move |store| now(store.inner.outbox(after, limit))).await
    }

    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.inner.journal(after, limit_bytes).await
    }

    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.inner.history(entity, after, limit_bytes).await
    }

    async fn entities(&self, after: String, limit: usize, limit_bytes: usize) -> Result<Vec<(String, Head)>> {
        self.inner.entities(after, limit, limit_bytes).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.inner.counts().await
    }

    async fn fate(&self, key: Hash) -> Result<Option<Fate>> {
        self.inner.fate(key).await
    }

    async fn dead_letters(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.inner.dead_letters(after, limit_bytes).await
    }

    async fn due(&self, now_ms: i64, limit: usize, limit_bytes: usize) -> Result<Due> {
        self.go("look for what is due", move |store| now(store.inner.due(now_ms, limit, limit_bytes))).await
    }

    async fn next_due(&self, after_ms: i64) -> Result<Option<i64>> {
        self.go("look for what is due", move |store| now(store.inner.next_due(after_ms))).await
    }

    async fn fired(&self, epoch: u64, keys: Vec<Hash>) -> Result<()> {
        self.go("close a timer", move |store| {
            store.room()?;
            now(store.inner.fired(epoch, keys))
        })
        .await
    }
}
