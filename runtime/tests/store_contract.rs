//! What every store promises, run on each of them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;
use rhizon_runtime::store::memory::MemoryStore;
use rhizon_runtime::store::sqlite::SqliteStore;
use rhizon_runtime::store::{Batch, Decision, Entry, EventStore, Known, Mark, StoreError, Waits};
use serde_json::value::RawValue;

/// Runs a test on each store; a file store's folder lives as long as the test.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::MemoryStore::default()).await;
            })+
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(super::SqliteStore::open(&dir.path().join("store.sqlite")).await.unwrap()).await;
            })+
        }
    };
}

contract!(
    a_new_store_is_empty_and_claims_count_up,
    a_batch_is_there_whole_with_all_that_it_changed,
    a_refused_batch_changes_nothing,
    an_older_epoch_is_fenced_everywhere,
    tries_are_counted_until_the_event_is_decided,
    the_outbox_holds_what_emits_until_it_is_published,
    reads_go_page_by_page,
    states_may_be_empty_or_a_megabyte_or_gone,
    a_position_moves_without_records_and_never_back,
);

fn hash(text: &str) -> Hash {
    Hash::of(&[text.as_bytes()])
}

fn head(version: u64, state: Option<&str>) -> Head {
    let state = state.map(|text| RawValue::from_string(text.into()).unwrap());
    Head { version, hash: hash(&format!("v{version}")), time: Some("2026-01-01T00:00:00Z".parse().unwrap()), state }
}

/// A batch of one record per (entity, id), the first behind `mark`.
fn batch(mark: &Mark, events: &[(&str, &str)], emits: bool) -> Batch {
    let mut tail = mark.tail;
    let entries = events
        .iter()
        .map(|(entity, id)| {
            tail = Tail { sequence: tail.sequence + 1, link: hash(id) };
            let decision = Decision {
                entity: (*entity).into(),
                identity: Some((hash(id), hash("content"))),
                head: head(tail.sequence, Some("{\"a\":1}")),
                emits,
                dead: false,
            };
            Entry { sequence: tail.sequence, line: format!("line {id}").into(), decision: Some(decision) }
        })
        .collect();
    let position = mark.position + events.len() as u64;
    Batch {
        epoch: mark.epoch,
        after: mark.tail.sequence,
        entries,
        tail,
        position,
        published: 0,
        config: None,
        waits: Waits::default(),
    }
}

/// Appends, and answers the mark behind it.
async fn append(store: &impl EventStore, events: &[(&str, &str)]) -> Mark {
    let mark = store.mark().await.unwrap();
    store.append(batch(&mark, events, true)).await.unwrap();
    store.mark().await.unwrap()
}

async fn a_new_store_is_empty_and_claims_count_up(store: impl EventStore) {
    assert_eq!(store.mark().await.unwrap(), Mark::default());
    assert_eq!(store.claim().await.unwrap().epoch, 1);
    assert_eq!(store.claim().await.unwrap().epoch, 2);
    assert!(store.journal(0, 1 << 20).await.unwrap().is_empty());
    let loaded = store.load(vec!["a".into()], vec![hash("1")]).await.unwrap();
    assert!(loaded.heads[0].is_none() && loaded.known[0].is_none());
}

async fn a_batch_is_there_whole_with_all_that_it_changed(store: impl EventStore) {
    let mark = store.claim().await.unwrap();
    let mut whole = batch(&mark, &[("a", "1"), ("b", "2"), ("a", "3")], false);
    whole.config = Some(hash("config"));
    store.append(whole.clone()).await.unwrap();
    let after = store.mark().await.unwrap();
    assert_eq!((after.position, after.tail, after.config), (3, whole.tail, Some(hash("config"))));
    let loaded = store.load(vec!["b".into(), "c".into(), "a".into()], vec![hash("9"), hash("3")]).await.unwrap();
    let versions: Vec<Option<u64>> = loaded.heads.iter().map(|h| h.as_ref().map(|h| h.version)).collect();
    assert_eq!(versions, [Some(2), None, Some(3)], "in the order asked for, and the last of an entity's heads");
    assert_eq!(loaded.heads[2].as_ref().unwrap().time, head(3, None).time);
    assert_eq!(loaded.known, [None, Some(Known::Settled(hash("content")))]);
    let lines: Vec<String> = store
        .journal(0, 1 << 20)
        .await
        .unwrap()
        .iter()
        .map(|row| String::from_utf8_lossy(&row.line).into_owned())
        .collect();
    assert_eq!(lines, ["line 1", "line 2", "line 3"]);
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.records, counts.entities), (3, 2));
}

async fn a_refused_batch_changes_nothing(store: impl EventStore) {
    let mark = store.claim().await.unwrap();
    append(&store, &[("a", "1")]).await;
    let before = store.mark().await.unwrap();
    // Behind a record that is no longer the last: the same batch again, or another writer's.
    let error = store.append(batch(&mark, &[("a", "2")], true)).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { expected: 0, found: 1 }), "{error}");
    // An identity that is taken: nothing of the batch is kept, not even what comes before it.
    if store.append(batch(&before, &[("c", "4"), ("b", "1")], true)).await.is_err() {
        assert_eq!(store.mark().await.unwrap(), before);
        assert!(store.load(vec!["c".into()], vec![]).await.unwrap().heads[0].is_none());
    }
}

async fn an_older_epoch_is_fenced_everywhere(store: impl EventStore) {
    let old = store.claim().await.unwrap();
    let new = store.claim().await.unwrap();
    let fenced = |error: StoreError| assert!(matches!(error, StoreError::Fenced { ours: 1, found: 2 }), "{error}");
    fenced(store.append(batch(&old, &[("a", "1")], true)).await.unwrap_err());
    fenced(store.count_attempt(old.epoch, hash("1")).await.unwrap_err());
    fenced(store.mark_published(old.epoch, 1).await.unwrap_err());
    store.append(batch(&new, &[("a", "1")], true)).await.unwrap();
}

async fn tries_are_counted_until_the_event_is_decided(store: impl EventStore) {
    let mark = store.claim().await.unwrap();
    assert_eq!(store.count_attempt(mark.epoch, hash("1")).await.unwrap(), 1);
    assert_eq!(store.count_attempt(mark.epoch, hash("1")).await.unwrap(), 2);
    let known = async |id: &str| store.load(vec![], vec![hash(id)]).await.unwrap().known[0];
    assert_eq!(known("1").await, Some(Known::Tried(2)));
    append(&store, &[("a", "1")]).await;
    assert_eq!(known("1").await, Some(Known::Settled(hash("content"))));
}

async fn the_outbox_holds_what_emits_until_it_is_published(store: impl EventStore) {
    let mark = store.claim().await.unwrap();
    store.append(batch(&mark, &[("a", "1"), ("a", "2")], true)).await.unwrap();
    let mark = store.mark().await.unwrap();
    store.append(batch(&mark, &[("a", "3")], false)).await.unwrap();
    append(&store, &[("a", "4")]).await;
    let sequences = async |after: u64| -> Vec<u64> {
        store.outbox(after, 10).await.unwrap().iter().map(|row| row.sequence).collect()
    };
    assert_eq!(sequences(0).await, [1, 2, 4]);
    assert_eq!(sequences(2).await, [4]);
    store.mark_published(mark.epoch, 2).await.unwrap();
    assert_eq!(store.mark().await.unwrap().published, 2);
    store.mark_published(mark.epoch, 1).await.unwrap();
    assert_eq!(store.mark().await.unwrap().published, 2, "it never goes back");
    assert_eq!(store.outbox(0, 1).await.unwrap().len(), 1);
}

async fn reads_go_page_by_page(store: impl EventStore) {
    store.claim().await.unwrap();
    let ids: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let events: Vec<(&str, &str)> =
        ids.iter().map(|id| (if id.len() == 1 { "short" } else { "long" }, id.as_str())).collect();
    append(&store, &events).await;
    let first = store.journal(0, 20).await.unwrap();
    assert!(!first.is_empty() && first.len() < 5, "at least one row, and then what fits");
    let (mut seen, mut after) = (0, 0);
    loop {
        let page = store.journal(after, 50).await.unwrap();
        let Some(last) = page.last() else { break };
        (seen, after) = (seen + page.len(), last.sequence);
    }
    assert_eq!(seen, 50);
    assert_eq!(store.history("short".into(), 0, 1 << 20).await.unwrap().len(), 10);
    assert_eq!(store.history("short".into(), 4, 1 << 20).await.unwrap().len(), 6);
    let keys = async |after: &str, limit| -> Vec<String> {
        store.entities(after.into(), limit).await.unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys("", 1).await, ["long"]);
    assert_eq!(keys("long", 10).await, ["short"]);
}

async fn states_may_be_empty_or_a_megabyte_or_gone(store: impl EventStore) {
    let large = format!("\"{}\"", "ü".repeat(512 << 10));
    for (index, state) in [Some("\"\""), Some("{}"), Some(large.as_str()), None].into_iter().enumerate() {
        let mark = if index == 0 { store.claim().await.unwrap() } else { store.mark().await.unwrap() };
        let mut one = batch(&mark, &[("é /", &index.to_string())], false);
        one.entries[0].decision.as_mut().unwrap().head = head(index as u64 + 1, state);
        store.append(one).await.unwrap();
        let loaded = store.load(vec!["é /".into()], vec![]).await.unwrap();
        let kept = loaded.heads[0].as_ref().unwrap();
        assert_eq!((kept.version, kept.state.as_ref().map(|s| s.get())), (index as u64 + 1, state));
    }
}

async fn a_position_moves_without_records_and_never_back(store: impl EventStore) {
    let mark = store.claim().await.unwrap();
    store.append(Batch { position: 17, ..batch(&mark, &[], false) }).await.unwrap();
    assert_eq!(store.mark().await.unwrap().position, 17);
    // A batch from before, that was on its way for long: it still fits behind the last record.
    store.append(Batch { position: 11, ..batch(&mark, &[], false) }).await.unwrap();
    assert_eq!(store.mark().await.unwrap().position, 17);
}

#[tokio::test]
async fn a_file_that_is_opened_again_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let store = SqliteStore::open(&path).await.unwrap();
    store.claim().await.unwrap();
    let mark = append(&store, &[("a", "1")]).await;
    store.close().await;
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.mark().await.unwrap(), mark);
    assert_eq!(store.journal(0, 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn of_two_writers_with_one_identity_one_gets_a_conflict_and_never_both() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let stores = [SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap()];
    let mark = stores[0].claim().await.unwrap();
    for round in 0..20 {
        let mark = Mark { epoch: mark.epoch, ..stores[0].mark().await.unwrap() };
        let names = [format!("{round}-a"), format!("{round}-b")];
        let appends = stores.iter().zip(&names).map(|(store, id)| store.append(batch(&mark, &[("a", id)], false)));
        let results = futures::future::join_all(appends).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    }
    assert_eq!(stores[1].journal(0, 1 << 20).await.unwrap().len(), 20);
}

/// A file system of a few megabytes, for as long as the value lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "rhizon-test"])
            .arg(dir.path())
            .status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a small tmpfs: run it as root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room_again() {
    let disk = SmallDisk::mount();
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let store = SqliteStore::open(&disk.0.path().join("store.sqlite")).await.unwrap();
    store.claim().await.unwrap();
    let state = format!("\"{}\"", "x".repeat(64 << 10));
    let (mut stored, mut number) = (0, 0);
    let large = |mark: &Mark, number: i32| {
        let mut one = batch(mark, &[("a", &number.to_string())], false);
        one.entries[0].line = state.clone().into();
        one.entries[0].decision.as_mut().unwrap().head = head(1, Some(&state));
        one
    };
    let error = loop {
        number += 1;
        let mark = store.mark().await.unwrap();
        match store.append(large(&mark, number)).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(number < 1_000, "the disk does not fill");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert_eq!(store.mark().await.unwrap().tail.sequence, stored);
    std::fs::remove_file(&ballast).unwrap();
    let mark = store.mark().await.unwrap();
    store.append(large(&mark, number)).await.unwrap();
    assert_eq!(store.counts().await.unwrap().records, stored + 1);
    store.close().await;
}
