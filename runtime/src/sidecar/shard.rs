//! One shard: its store, its driver, and the desk where its questions are answered.

use std::sync::Arc;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rhizon_api::settings::{self, paths};
use tokio::sync::Semaphore;

use super::{Parts, Shards, driver_settings};
use crate::bus::jetstream::JetStreamBus;
use crate::bus::nats::Connection;
use crate::driver::Stopped;
use crate::gateway::{Question, Reply, Verb};
use crate::reads::{self, Circumstances};
use crate::store::jetstream::{JetStreamStore, Place};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{EventStore, StoreError};

/// How many reads are answered side by side.
pub(super) const READS: u32 = 4;

/// Answers what is asked of a shard.
pub(super) struct Desk {
    pub shard: u32,
    pub answer: Box<dyn Fn(Verb, Question) -> BoxFuture<'static, Reply> + Send + Sync>,
}

/// Opens the shard's store, starts its driver, and answers with its desk.
pub(super) async fn start(
    settings: &settings::Sidecar,
    shard: settings::Shard,
    connection: &Connection,
    parts: &Arc<Parts>,
    place: usize,
    shards: &mut Shards,
) -> anyhow::Result<Desk> {
    let driven = Driven { settings: settings.clone(), connection: connection.clone(), parts: parts.clone(), place };
    match shard.store.clone() {
        settings::Store::Sqlite { path } => {
            let opened = SqliteStore::open(&path).await;
            let store = opened.with_context(|| format!("opening the store {}", path.display()))?;
            Ok(driven.start(&shard, store, shards))
        }
        settings::Store::Postgres { url_file, schema, account } => {
            let url = tokio::fs::read_to_string(&url_file).await;
            let url = url.with_context(|| format!("reading the connection string {}", url_file.display()))?;
            let ca = Some(url_file.with_file_name(paths::STORE_CA)).filter(|file| file.exists());
            let store = PostgresStore::open(url.trim(), &schema, &account, ca.as_deref());
            let store = store.context("opening the Postgres store")?;
            Ok(driven.start(&shard, store, shards))
        }
        settings::Store::JetStream { stream, subject, consumer, snapshot_stream, snapshot_subject, cache } => {
            let journal = Place { stream, subject, consumer, snapshot_stream, snapshot_subject };
            let metrics = parts.metrics.journal.clone();
            let opened = JetStreamStore::open(connection.clone(), journal, &cache, metrics).await;
            let store = opened.with_context(|| format!("opening the store's cache {}", cache.display()))?;
            Ok(driven.start(&shard, store, shards))
        }
    }
}

struct Driven {
    settings: settings::Sidecar,
    connection: Connection,
    parts: Arc<Parts>,
    place: usize,
}

impl Driven {
    fn start(self, shard: &settings::Shard, store: impl EventStore, shards: &mut Shards) -> Desk {
        let seats = Arc::new(Semaphore::new(READS as usize));
        let desk = self.desk(shard, store.clone(), seats.clone());
        let Self { settings, connection, parts, place } = self;
        let consumer = &shard.consumer;
        let bus = JetStreamBus::new(connection, consumer.stream.clone(), consumer.name.clone());
        let (driving, shard) = (driver_settings(&settings, shard), shard.index);
        shards.spawn(async move {
            let stopped = parts.drive(driving, bus, store.clone(), place).await;
            if let Stopped::StoreLost { .. } | Stopped::Store(StoreError::Broken(_) | StoreError::Foreign(_)) = stopped
            {
                // Started again it would be the same. What there is can still be read.
                tracing::error!(%stopped, shard, "the shard does not work; it only answers questions");
                parts.reports[place].send_modify(|report| report.last_error = Some(stopped.to_string()));
                parts.hold.stopped().await;
            }
            // Questions in hand are answered before; later ones find no seat.
            seats.acquire_many(READS).await?.forget();
            store.close().await;
            Ok(stopped)
        });
        desk
    }

    fn desk(&self, shard: &settings::Shard, store: impl EventStore, seats: Arc<Semaphore>) -> Desk {
        let (parts, place, index) = (self.parts.clone(), self.place, shard.index);
        let shards = self.settings.shards.len();
        let answer = move |verb, question| {
            let report = parts.reports[place].borrow().clone();
            let (store, seats) = (store.clone(), seats.clone());
            let circumstances = Circumstances { report, mode: parts.mode, shard: index, shards };
            async move {
                let Ok(_seat) = seats.try_acquire() else {
                    return reads::refused("stopping", "the sidecar stops; ask again when its pod is ready");
                };
                reads::answer(&store, circumstances, verb, question).await
            }
            .boxed()
        };
        Desk { shard: shard.index, answer: Box::new(answer) }
    }
}
