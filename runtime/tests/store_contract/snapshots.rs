//! Snapshots: a store that begins with one is the same, and one that is wrong does no harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::StateChange;
use rhizon_runtime::store::jetstream::JetStreamStore;
use rhizon_runtime::store::{Batch, Deferred, EventStore, Mark, Parked, Result, StoreError, Waits};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Stores as _;
use super::events::{Event, append, batch_of, config, key, parked, state};
use super::journal::JetStream;

/// Waits for records that are not there yet.
async fn patiently<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            match call().await {
                Err(StoreError::NotYet { have, of }) => assert!(have <= of),
                other => return other.unwrap(),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), waiting).await.expect("older records come")
}

/// All that a store answers, as text.
async fn everything(store: &JetStreamStore) -> Vec<String> {
    let mark = store.mark().await.unwrap();
    let mut all = vec![format!("{mark:?}"), format!("{:?}", store.counts().await.unwrap())];
    let heads = store.entities(String::new(), 10_000).await.unwrap();
    all.extend(heads.iter().map(|head| format!("{head:?}")));
    let due = store.due(i64::MAX, 10_000).await.unwrap();
    all.push(format!("{:?} {:?}", store.due(150, 10_000).await.unwrap(), store.next_due(150).await.unwrap()));
    all.extend(due.parked.iter().map(|parked| format!("{parked:?}")));
    all.extend(due.deferred.iter().map(|deferred| format!("{deferred:?}")));
    all.push(format!("{:?}", store.outbox(mark.published, 10_000).await.unwrap()));
    let (mut after, mut keys) = (0, vec![key("never")]);
    loop {
        let page = patiently(|| store.journal(after, 1 << 20)).await;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        keys.extend(page.iter().filter_map(|row| id_of(&row.line)).map(|id| key(&id)));
        all.extend(page.iter().map(|row| format!("{row:?}")));
    }
    keys.extend((0..20).map(|round| key(&format!("tried {round}"))).chain(due.parked.iter().map(|parked| parked.key)));
    let names: Vec<String> = heads.into_iter().map(|(entity, _)| entity).collect();
    let loaded = store.load(names.clone(), keys.clone()).await.unwrap();
    all.push(format!("{:?} {:?} {:?}", loaded.heads, loaded.held, loaded.known));
    for name in names {
        all.push(format!("{:?}", patiently(|| store.history(name.clone(), 0, 1 << 24)).await));
    }
    for key in keys {
        all.push(format!("{:?}", patiently(|| store.fate(key)).await));
    }
    all.push(format!("{:?}", patiently(|| store.dead_letters(0, 1 << 24)).await));
    all
}

fn id_of(line: &[u8]) -> Option<String> {
    let line: Value = serde_json::from_slice(line).unwrap();
    line["decided"]["input"]["id"].as_str().map(str::to_owned)
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

/// A round of an agent's life: of everything that a store keeps something comes, and something goes.
async fn live(store: &JetStreamStore, mark: &mut Mark, round: u64) {
    let event = |entity: &str, n: u64| Event::new(entity, &format!("{round}-{n}"));
    let mut events: Vec<Event> =
        (0..60).map(|n| Event { emits: n > 50, ..event(&format!("e{}", n % 13), n) }).collect();
    events.push(Event { state: state(&format!("{{\"round\":{round}}}")), ..event("changes", 60) });
    let kept = if round == 0 { state("\"kept\"") } else { StateChange::Unchanged };
    events.push(Event { state: kept, before: Some(raw("\"kept\"")), ..event("same", 61) });
    let gone = if round.is_multiple_of(2) { state("[1]") } else { StateChange::Delete };
    events.push(Event { state: gone, ..event("comes and goes", 62) });
    events.push(Event { dead: true, ..event("dies", 63) });
    events.push(Event { state: state(&format!("{round}")), ..event(&format!("new {round}"), 64) });
    let at = 1_000 + 10 * round;
    let deferred = |id: String, due_ms| Deferred {
        key: key(&id),
        due_ms,
        sequence: 1,
        subject: "ev.x".into(),
        payload: "é".into(),
    };
    let mut waits = Waits {
        park: vec![
            parked(at, "held", Some(100 + at.cast_signed())),
            parked(at + 1, "held", None),
            Parked { holds: false, ..parked(at + 2, "timed", Some(9_000)) },
        ],
        defer: vec![deferred(format!("later {round}"), 500), deferred(format!("soon {round}"), 5)],
        ..Waits::default()
    };
    if round > 0 {
        waits.unpark = vec![at - 10];
        waits.resolve = vec![key(&format!("{}-63", round - 1))];
        waits.cancel = vec![key(&format!("later {}", round - 1)), parked(at - 8, "timed", None).key];
    }
    *mark = append_all(store, mark, Batch { waits, ..batch_of(mark, &events) }).await;
    store.count_attempt(mark.epoch, key(&format!("tried {round}"))).await.unwrap();
    store.count_attempt(mark.epoch, key(&format!("tried {}", round / 2))).await.unwrap();
    store.fired(mark.epoch, vec![key(&format!("soon {round}"))]).await.unwrap();
    if round.is_multiple_of(3) {
        store.mark_published(mark.epoch, mark.tail.sequence - 4).await.unwrap();
    }
}

async fn append_all(store: &JetStreamStore, mark: &Mark, batch: Batch) -> Mark {
    let mark = Mark { tail: batch.tail, position: batch.position, ..mark.clone() };
    store.append(batch).await.unwrap();
    mark
}

/// The rounds of one owner, with a config at the beginning.
async fn begin(store: &JetStreamStore) -> Mark {
    let mark = store.claim().await.unwrap();
    let change = mark.config_change(&config(), "test", "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
    append_all(store, &mark, change).await
}

async fn a_store_that_begins_with_a_snapshot_is_the_same_as_one_that_reads_all(broker: JetStream) {
    let store = broker.open().await;
    let mut mark = begin(&store).await;
    for round in 0..16 {
        live(&store, &mut mark, round).await;
        if [3, 4, 9, 13].contains(&round) {
            store.take_snapshot().await.unwrap();
        }
        if ![4, 9, 15].contains(&round) {
            continue;
        }
        let used = broker.metrics.used.get();
        let (first, second) = (broker.open().await, broker.open_without_snapshot().await);
        let expected = everything(&store).await;
        assert_eq!(everything(&first).await, expected);
        assert_eq!(broker.metrics.used.get(), used + 1);
        assert_eq!(everything(&second).await, expected);
        assert_eq!(broker.metrics.used.get(), used + 1);
        // It can go on, and take the next snapshot itself.
        if round == 9 {
            mark = first.claim().await.unwrap();
            live(&first, &mut mark, 100).await;
            first.take_snapshot().await.unwrap();
            assert_eq!(everything(&broker.open().await).await, everything(&first).await);
            // And the first owner again, which does not know that snapshot, and begins a new one.
            mark = store.claim().await.unwrap();
            let error = first.take_snapshot().await.unwrap_err();
            assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
        }
    }
    assert_eq!(broker.metrics.unfit.get(), 0);
}

#[tokio::test]
async fn a_store_that_begins_with_a_snapshot_is_the_same() {
    a_store_that_begins_with_a_snapshot_is_the_same_as_one_that_reads_all(JetStream::start().await).await;
}

#[tokio::test]
async fn the_same_holds_for_snapshots_with_three_replicas() {
    let servers = rhizon_tests::nats::start_cluster(3);
    super::journal::create_journal(&servers[0].url(), 3, 1 << 30).await;
    let broker = JetStream::on(&servers[1].url(), "replicated").await;
    a_store_that_begins_with_a_snapshot_is_the_same_as_one_that_reads_all(broker).await;
}

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
        let heads = store.entities(String::new(), 1_000).await.unwrap();
        let state = |head: &Head| head.state.as_ref().map(|state| Hash::of(&[state.get().as_bytes()]));
        let heads: Vec<_> =
            heads.iter().map(|(name, head)| (name.clone(), head.version, head.hash, state(head))).collect();
        let parked = store.due(i64::MAX, 1_000).await.unwrap().parked;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_does_not_grow_by_its_log_while_one_snapshot_follows_the_other() {
    let (broker, dir) = (JetStream::start().await, tempfile::tempdir().unwrap());
    let store = broker.open_in(dir.path()).await;
    let mut mark = begin(&store).await;
    let done = Arc::new(AtomicBool::new(false));
    let taking = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let mut taken = 0;
            while !done.load(Ordering::Relaxed) {
                store.take_snapshot().await.unwrap();
                taken += 1;
            }
            taken
        }
    });
    let text = format!("\"{}\"", "x".repeat(8 << 10));
    for round in 0..300 {
        let event = |n| Event { state: state(&text), ..Event::new(&format!("e{n}"), &format!("{round}-{n}")) };
        let events: Vec<Event> = (0..100).map(event).collect();
        mark = append_all(&store, &mark, batch_of(&mark, &events)).await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(taking.await.unwrap() > 3);
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
        let taking = tokio::spawn({
            let (store, enough) = (store.clone(), enough.clone());
            async move { while !enough.load(Ordering::Relaxed) && store.take_snapshot().await.is_ok() {} }
        });
        tokio::time::sleep(Duration::from_millis(30 + 17 * round)).await;
        tokio::task::block_in_place(|| server.restart());
        enough.store(true, Ordering::Relaxed);
        taking.await.unwrap();
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
