//! An append that was reported as failed, and lands when the next session has looked at the store already.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rhizon_kernel::chain::Hash;
use rhizon_kernel::{Envelope, Head};
use rhizon_runtime::agent::InProcess;
use rhizon_runtime::bus::Publisher as _;
use rhizon_runtime::bus::local::LocalStream;
use rhizon_runtime::store::memory::MemoryStore;
use rhizon_runtime::store::{Batch, Counts, Due, EventStore, Fate, Loaded, Mark, Result, Row, StoreError};

use super::{permits, raw, settings, start, states};
use crate::common::config;
use crate::common::events::admitted;

/// A store whose first append with an event that waits is late.
#[derive(Clone, Default)]
struct LateStore {
    store: MemoryStore,
    late: Arc<Mutex<Late>>,
}

#[derive(Default)]
enum Late {
    #[default]
    ToCome,
    OnItsWay(Box<Batch>),
    Landed(Result<()>),
}

impl EventStore for LateStore {
    async fn append(&self, batch: Batch) -> Result<()> {
        {
            let mut late = self.late.lock().unwrap();
            if matches!(*late, Late::ToCome) && !batch.waits.park.is_empty() {
                *late = Late::OnItsWay(Box::new(batch));
                return Err(StoreError::Failed { doing: "append", cause: "the answer is lost".into() });
            }
        }
        self.store.append(batch).await
    }

    /// The last that a session asks before it reads events.
    async fn next_due(&self, after_ms: i64) -> Result<Option<i64>> {
        let next = self.store.next_due(after_ms).await;
        let on_its_way = match &*self.late.lock().unwrap() {
            Late::OnItsWay(batch) => Some(batch.clone()),
            _ => None,
        };
        if let Some(batch) = on_its_way {
            let landed = self.store.append(*batch).await;
            *self.late.lock().unwrap() = Late::Landed(landed);
        }
        next
    }

    async fn claim(&self) -> Result<Mark> {
        self.store.claim().await
    }
    async fn mark(&self) -> Result<Mark> {
        self.store.mark().await
    }
    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        self.store.load(entities, keys).await
    }
    async fn count_attempt(&self, epoch: u64, key: Hash) -> Result<u32> {
        self.store.count_attempt(epoch, key).await
    }
    async fn mark_published(&self, epoch: u64, sequence: u64) -> Result<()> {
        self.store.mark_published(epoch, sequence).await
    }
    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        self.store.outbox(after, limit).await
    }
    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.store.journal(after, limit_bytes).await
    }
    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.store.history(entity, after, limit_bytes).await
    }
    async fn entities(&self, after: String, limit: usize, limit_bytes: usize) -> Result<Vec<(String, Head)>> {
        self.store.entities(after, limit, limit_bytes).await
    }
    async fn counts(&self) -> Result<Counts> {
        self.store.counts().await
    }
    async fn fate(&self, key: Hash) -> Result<Option<Fate>> {
        self.store.fate(key).await
    }
    async fn dead_letters(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.store.dead_letters(after, limit_bytes).await
    }
    async fn due(&self, now_ms: i64, limit: usize, limit_bytes: usize) -> Result<Due> {
        self.store.due(now_ms, limit, limit_bytes).await
    }
    async fn fired(&self, epoch: u64, keys: Vec<Hash>) -> Result<()> {
        self.store.fired(epoch, keys).await
    }
}

#[tokio::test]
async fn a_late_append_is_refused_and_its_timer_is_delivered() {
    let (stream, store) = (LocalStream::in_memory(), LateStore::default());
    let settings = settings(config("permits", "cmd.permit.record", &["evt.permit.recorded"]));
    let bus = stream.consumer("permits", &settings.config.subscribes);
    let mut event = Envelope::new("1".into(), "/test".into(), "cmd.permit.record".parse().unwrap(), "a".into());
    event.data = Some(raw(&serde_json::json!({"activity": "x", "resource": "r"})));
    event.deliverat = Some(Timestamp::now() + SignedDuration::from_millis(300));
    stream.publish(vec![admitted(event)]).await.unwrap();
    let running = start(&settings, bus, store.clone(), InProcess(permits));
    let delivered = async {
        while states(&store).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), delivered).await.expect("the timer is delivered");
    assert_eq!(states(&store).await["a"]["steps"], 1);
    running.stop().await;
    let late = store.late.lock().unwrap();
    assert!(matches!(&*late, Late::Landed(Err(StoreError::Conflict { .. }))), "it would be unknown to the session");
}
