//! What every store promises, run on each of them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod basics;
mod certificates;
mod crashes;
mod disks;
mod events;
mod journal;
mod large;
mod snapshots;
mod waits;
mod writers;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use journal::JetStream;
use rhizon_runtime::store::EventStore;
use rhizon_runtime::store::memory::MemoryStore;
use rhizon_runtime::store::postgres::PostgresStore;
use rhizon_runtime::store::sqlite::SqliteStore;

/// Where a store is. Each that is opened is as one of another process that has the same identity.
pub(crate) trait Stores {
    type Store: EventStore;
    async fn start() -> Self;
    async fn open(&self) -> Self::Store;
}

struct Memory(MemoryStore);

impl Stores for Memory {
    type Store = MemoryStore;

    async fn start() -> Self {
        Self(MemoryStore::default())
    }

    async fn open(&self) -> MemoryStore {
        self.0.clone()
    }
}

pub(crate) struct Sqlite(tempfile::TempDir);

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.0.path().join("store.sqlite")
    }
}

impl Stores for Sqlite {
    type Store = SqliteStore;

    async fn start() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path()).await.unwrap()
    }
}

/// A schema of its own on a server that all tests share.
struct Postgres(String);

impl Stores for Postgres {
    type Store = PostgresStore;

    async fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!("rhizon_a-{}_0", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    async fn open(&self) -> PostgresStore {
        PostgresStore::open(&rhizon_tests::postgres::shared().url(), &self.0, "A", None).unwrap()
    }
}

macro_rules! contract {
    ($($module:ident: $($name:ident),+);+ $(;)?) => {
        contract!(@on memory Memory $($($module $name)+)+);
        contract!(@on sqlite Sqlite $($($module $name)+)+);
        contract!(@on postgres Postgres $($($module $name)+)+);
        contract!(@on jetstream JetStream $($($module $name)+)+);

        /// One cluster of brokers for all, and an agent each.
        #[tokio::test]
        async fn the_same_holds_for_a_journal_with_three_replicas() {
            let servers = rhizon_tests::nats::start_cluster(3);
            journal::create_journal(&servers[0].url(), 3, 1 << 30).await;
            let mut number = 0;
            $($(
                number += 1;
                let broker = servers[number % 3].url();
                $module::$name(JetStream::on(&broker, &format!("agent{number}")).await).await;
            )+)+
        }
    };
    (@on $store:ident $start:ident $($module:ident $name:ident)+) => {
        mod $store {
            $(#[tokio::test]
            async fn $name() {
                super::$module::$name(<super::$start as super::Stores>::start().await).await;
            })+
        }
    };
}

contract!(
    basics:
        a_new_store_is_empty_and_claims_count_up,
        a_batch_is_there_whole_with_all_that_it_changed,
        a_refused_batch_changes_nothing,
        an_older_epoch_is_fenced_everywhere,
        tries_are_counted_until_the_event_is_decided,
        the_outbox_holds_what_emits_until_it_is_published,
        reads_go_page_by_page,
        states_may_be_empty_or_a_megabyte_or_unchanged_or_gone,
        keys_may_be_anything_and_are_listed_in_the_order_of_their_bytes,
        a_position_moves_without_records_and_never_back;
    waits:
        a_held_entity_lets_its_events_go_in_order_a_few_at_a_time,
        what_waits_only_behind_others_has_its_turn_without_any,
        a_timer_holds_nobody_and_is_due_at_once_when_it_is_taken_back,
        deferred_outputs_wait_until_they_are_due_fired_or_taken_back,
        a_dead_letter_is_open_until_somebody_deals_with_it,
        an_event_is_known_for_as_long_as_the_journal_and_has_one_fate,
        a_record_is_found_by_the_time_it_was_made;
    writers:
        of_two_writers_with_one_identity_one_wins_and_never_both,
        two_that_start_at_the_same_moment_have_two_epochs,
        a_store_that_is_opened_again_has_everything;
);
