//! Snapshots: a store that begins with one answers what one does that reads all.

mod harm;

use std::time::Duration;

use rhizon_kernel::egress::StateChange;
use rhizon_runtime::store::jetstream::JetStreamStore;
use rhizon_runtime::store::{Batch, Deferred, EventStore, Mark, Parked, Result, StoreError, Waits};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Stores as _;
use super::events::{Event, batch_of, config, key, parked, state};
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
    let heads = store.entities(String::new(), 10_000, usize::MAX).await.unwrap();
    all.extend(heads.iter().map(|head| format!("{head:?}")));
    let due = store.due(i64::MAX, 10_000, usize::MAX).await.unwrap();
    all.push(format!(
        "{:?} {:?}",
        store.due(150, 10_000, usize::MAX).await.unwrap(),
        store.next_due(150).await.unwrap()
    ));
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
    events.push(Event { state: kept, before: Some(raw("\"kept\"").into()), ..event("same", 61) });
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
