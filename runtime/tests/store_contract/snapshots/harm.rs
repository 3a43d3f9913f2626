//! What may happen to a snapshot, or while one is taken: none of it does harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_runtime::store::jetstream::JetStreamStore;
use rhizon_runtime::store::{Batch, EventStore, Mark, Parked, Result, StoreError, Waits};
use serde_json::Value;

use super::{append_all, begin, live};
use crate::Stores as _;
use crate::events::{Event, append, batch_of, parked, state};
use crate::journal::JetStream;

/// An owner with states so large that a snapshot has several chunks of each kind but ids.
async fn with_large_states(broker: &JetStream, entities: u64) -> (JetStreamStore, Mark) {
    let store = broker.open().await;
    let mut mark = begin(&store).await;
    grow(&store, &mut mark, 0..entities).await;
    (store, mark)
}

async fn grow(store: &JetStreamStore, mark: &mut Mark, entities: std::ops::Range<u64>) {
    for n in entities {
        let text = format!("\"{n}{}\"", "x".repeat(300 << 10));
        let event =
            Event { state: state(&text), ..Event::new(&format!("e{n}"), &format!("grow {}", mark.tail.sequence)) };
        let park = vec![Parked { payload: vec![7; 200 << 10].into(), ..parked(n, "p", Some(5)) }];
        *mark =
            append_all(store, mark, Batch { waits: Waits { park, ..Waits::default() }, ..batch_of(mark, &[event]) })
                .await;
    }
}

/// A new store is the same as far as it matters to whoever goes on, and began with a snapshot or did not.
async fn begins(broker: &JetStream, store: &JetStreamStore, with_snapshot: bool) {
    let gist = async |store: &JetStreamStore| {
        let (mark, counts) = (store.mark().await.unwrap(), store.counts().await.unwrap());
        let heads = store.entities(String::new(), 1_000, usize::MAX).await.unwrap();
        let state = |head: &Head| head.state.as_ref().map(|state| Hash::of(&[state.get().as_bytes()]));
        let heads: Vec<_> =
            heads.iter().map(|(name, head)| (name.clone(), head.version, head.hash, state(head))).collect();
        let parked = store.due(i64::MAX, 1_000, usize::MAX).await.unwrap().parked;
        let rows = store.journal(mark.tail.sequence.saturating_sub(100), 1 << 30).await.unwrap();
        let lines: Vec<_> = rows.iter().map(|row| Hash::of(&[&row.line])).collect();
        (mark, counts, heads, parked.iter().map(|parked| parked.stream).collect::<Vec<_>>(), lines)
    };
    let used = broker.metrics.used.get();
    assert_eq!(gist(&broker.open().await).await, gist(store).await);
    assert_eq!(broker.metrics.used.get() - used, u64::from(with_snapshot));
}

#[tokio::test]
async fn one_that_is_cut_off_anywhere_leaves_the_last_one_as_it_was() {
    let broker = JetStream::start().await;
    let (store, mut mark) = with_large_states(&broker, 8).await;
    store.take_snapshot().await.unwrap();
    let mut cuts = 0;
    for polls in 1.. {
        if polls % 5 == 1 {
            grow(&store, &mut mark, 0..2).await;
        }
        if polled(store.take_snapshot(), polls).await {
            break;
        }
        cuts += 1;
        begins(&broker, &store, true).await;
    }
    assert!(cuts > 10, "{cuts}");
    begins(&broker, &store, true).await;
    let messages = broker.snapshot_messages().await;
    store.take_snapshot().await.unwrap();
    store.take_snapshot().await.unwrap();
    assert!(broker.snapshot_messages().await <= messages + 8, "what was left half-way is used again");
    assert_eq!(broker.metrics.unfit.get(), 0);
}

/// Lets go of a future when it was polled so often; answers whether it came to its end.
async fn polled(future: impl Future<Output = Result<()>>, polls: usize) -> bool {
    let mut future = std::pin::pin!(future);
    let mut count = 0;
    std::future::poll_fn(|context| {
        count += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| true).unwrap()),
            Poll::Pending if count >= polls => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Takes one snapshot after the other until one fails, or it is enough: how many, and what came of the last.
async fn take_until(enough: Arc<AtomicBool>, store: JetStreamStore) -> (u64, Result<()>) {
    let (mut taken, mut last) = (0, Ok(()));
    while last.is_ok() && !enough.load(Ordering::Relaxed) {
        last = store.take_snapshot().await;
        taken += u64::from(last.is_ok());
    }
    (taken, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_does_not_grow_by_its_log_while_one_snapshot_follows_the_other() {
    let (broker, dir) = (JetStream::start().await, tempfile::tempdir().unwrap());
    let store = broker.open_in(dir.path()).await;
    let mut mark = begin(&store).await;
    let enough = Arc::new(AtomicBool::new(false));
    let taking = tokio::spawn(take_until(enough.clone(), store.clone()));
    let text = format!("\"{}\"", "x".repeat(8 << 10));
    for round in 0..300 {
        let event = |n| Event { state: state(&text), ..Event::new(&format!("e{n}"), &format!("{round}-{n}")) };
        let events: Vec<Event> = (0..100).map(event).collect();
        let batch = Batch { published: mark.tail.sequence, ..batch_of(&mark, &events) };
        mark = append_all(&store, &mark, batch).await;
    }
    enough.store(true, Ordering::Relaxed);
    let (taken, last) = taking.await.unwrap();
    last.unwrap();
    assert!(taken > 3, "{taken}");
    // It begins anew at 64 MiB, or when a snapshot has read the heads.
    let bytes = std::fs::metadata(dir.path().join("cache.sqlite-wal")).unwrap().len();
    assert!(bytes < 100 << 20, "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_while_snapshots_are_taken_has_a_whole_one() {
    let mut broker = JetStream::start().await;
    let (store, mut mark) = with_large_states(&broker, 8).await;
    store.take_snapshot().await.unwrap();
    let mut server = broker.server.take().unwrap();
    for round in 0..4 {
        grow(&store, &mut mark, 0..4).await;
        let enough = Arc::new(AtomicBool::new(false));
        let taking = tokio::spawn(take_until(enough.clone(), store.clone()));
        tokio::time::sleep(Duration::from_millis(30 + 17 * round)).await;
        tokio::task::block_in_place(|| server.restart());
        enough.store(true, Ordering::Relaxed);
        taking.await.unwrap().1.ok();
        begins(&broker, &store, true).await;
    }
    assert_eq!(broker.metrics.unfit.get(), 0);
}

#[tokio::test]
async fn a_snapshot_that_is_not_whole_is_not_used() {
    let broker = JetStream::start().await;
    let (store, _) = with_large_states(&broker, 6).await;
    store.take_snapshot().await.unwrap();
    let index = broker.snapshot("index").await;
    let parsed: Value = serde_json::from_slice(&index).unwrap();
    for kind in ["known", "heads", "waits"] {
        let slot = parsed[kind][0]["slot"].to_string();
        let chunk = broker.snapshot(&slot).await;
        let mut other = chunk.clone();
        other[40] ^= 1;
        for wrong in [Some(other), Some(chunk[1..].to_vec()), Some(Vec::new()), None] {
            broker.tamper(&slot, wrong).await;
            begins(&broker, &store, false).await;
        }
        broker.tamper(&slot, Some(chunk)).await;
        begins(&broker, &store, true).await;
    }
    // An index that is none, and those of another journal.
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = parsed.clone();
        change(&mut value);
        value.to_string().into_bytes()
    };
    let wrong = [
        b"{}".to_vec(),
        index[..index.len() - 1].to_vec(),
        changed(&|index| index["link"] = "00".repeat(32).into()),
        changed(&|index| index["sequence"] = (index["sequence"].as_u64().unwrap() + 1).into()),
        changed(&|index| index["stream"] = (index["stream"].as_u64().unwrap() - 1).into()),
        changed(&|index| index["stream"] = (index["stream"].as_u64().unwrap() + 1).into()),
        changed(&|index| index["epoch"] = 9.into()),
        changed(&|index| index["lines"]["after"] = 1.into()),
        changed(&|index| index["waits"] = serde_json::json!([])),
    ];
    for (n, wrong) in wrong.into_iter().enumerate() {
        let unfit = broker.metrics.unfit.get();
        broker.tamper("index", Some(wrong)).await;
        begins(&broker, &store, false).await;
        assert!(broker.metrics.unfit.get() > unfit, "{n}");
    }
    // The owner takes the next one from the beginning.
    store.take_snapshot().await.unwrap();
    begins(&broker, &store, true).await;
}

#[tokio::test]
async fn a_snapshot_of_a_journal_that_is_gone_is_not_used() {
    let broker = JetStream::start().await;
    let store = broker.open().await;
    let mut mark = begin(&store).await;
    live(&store, &mut mark, 0).await;
    store.take_snapshot().await.unwrap();
    broker.purge().await;
    let fresh = broker.open().await;
    assert_eq!(fresh.mark().await.unwrap(), Mark::default());
    fresh.claim().await.unwrap();
    append(&fresh, &[("a", "1")]).await;
    begins(&broker, &fresh, false).await;
    assert!(broker.metrics.unfit.get() > 0);
}

#[tokio::test]
async fn who_was_overtaken_takes_no_snapshot_and_spoils_none() {
    let broker = JetStream::start().await;
    let (old, _) = with_large_states(&broker, 6).await;
    let fenced = |result: Result<()>| assert!(matches!(result, Err(StoreError::Fenced { .. })), "{result:?}");
    // It is overtaken before its first one, and while nothing is there that could tell it.
    let new = broker.open().await;
    let mut mark = new.claim().await.unwrap();
    fenced(old.take_snapshot().await);
    begins(&broker, &new, false).await;
    new.take_snapshot().await.unwrap();
    fenced(old.take_snapshot().await);
    begins(&broker, &new, true).await;
    // Both write at once, from the same snapshot on.
    for round in 0..4 {
        grow(&new, &mut mark, 0..3).await;
        let newest = broker.open().await;
        mark = newest.claim().await.unwrap();
        grow(&newest, &mut mark, 3..6).await;
        let (late, own) = tokio::join!(new.take_snapshot(), newest.take_snapshot());
        fenced(late);
        own.unwrap();
        begins(&broker, &newest, true).await;
        mark = new.claim().await.unwrap();
        let own = new.take_snapshot().await;
        assert!(own.is_ok(), "{round}: {own:?}");
    }
    assert_eq!(broker.metrics.unfit.get(), 0);
}

#[tokio::test]
async fn a_full_stream_of_snapshots_stops_nothing() {
    let broker = JetStream::start().await;
    let (store, mut mark) = with_large_states(&broker, 2).await;
    store.take_snapshot().await.unwrap();
    broker.limit_snapshots(1 << 20).await;
    grow(&store, &mut mark, 2..8).await;
    let error = store.take_snapshot().await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    grow(&store, &mut mark, 0..1).await;
    begins(&broker, &store, true).await;
    broker.limit_snapshots(1 << 28).await;
    store.take_snapshot().await.unwrap();
    begins(&broker, &store, true).await;
}
