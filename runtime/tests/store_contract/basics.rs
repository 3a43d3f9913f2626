//! Batches, fences, identities, reads.

use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::StateChange;
use rhizon_runtime::store::{Batch, EventStore as _, Known, Mark, StoreError};

use super::Stores;
use super::events::{Event, append, batch, batch_of, digest, key, state};

pub(crate) async fn a_new_store_is_empty_and_claims_count_up(stores: impl Stores) {
    let store = stores.open().await;
    assert_eq!(store.mark().await.unwrap(), Mark::default());
    assert_eq!(store.claim().await.unwrap().epoch, 1);
    assert_eq!(store.claim().await.unwrap().epoch, 2);
    assert!(store.journal(0, 1 << 20).await.unwrap().is_empty());
    let loaded = store.load(vec!["a".into()], vec![key("1")]).await.unwrap();
    assert!(loaded.heads[0].is_none() && loaded.known[0].is_none());
}

pub(crate) async fn a_batch_is_there_whole_with_all_that_it_changed(stores: impl Stores) {
    let store = stores.open().await;
    let mark = store.claim().await.unwrap();
    let mut whole = batch(&mark, &[("a", "1"), ("b", "2"), ("a", "3")], false);
    whole.config = Some(Hash::of(&[b"config"]));
    store.append(whole.clone()).await.unwrap();
    let after = store.mark().await.unwrap();
    assert_eq!((after.position, after.tail, after.config), (3, whole.tail, Some(Hash::of(&[b"config"]))));
    let loaded = store.load(vec!["b".into(), "c".into(), "a".into()], vec![key("9"), key("3")]).await.unwrap();
    let versions: Vec<Option<u64>> = loaded.heads.iter().map(|h| h.as_ref().map(|h| h.version)).collect();
    assert_eq!(versions, [Some(2), None, Some(3)], "in the order asked for, and the last of an entity's heads");
    let head = &whole.entries[2].decision.as_ref().unwrap().head;
    let kept = loaded.heads[2].as_ref().unwrap();
    assert_eq!((kept.time, kept.hash), (head.time, head.hash));
    assert_eq!(kept.state.as_ref().unwrap().get(), "{\"a\":1}");
    assert_eq!(loaded.known, [None, Some(Known::Settled(digest("a", "3")))]);
    let lines: Vec<_> = store.journal(0, 1 << 20).await.unwrap().into_iter().map(|row| row.line).collect();
    assert_eq!(lines, whole.entries.iter().map(|entry| entry.line.clone()).collect::<Vec<_>>());
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.records, counts.entities), (3, 2));
}

pub(crate) async fn a_refused_batch_changes_nothing(stores: impl Stores) {
    let store = stores.open().await;
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

pub(crate) async fn an_older_epoch_is_fenced_everywhere(stores: impl Stores) {
    let store = stores.open().await;
    let old = store.claim().await.unwrap();
    let new = store.claim().await.unwrap();
    let fenced = |error: StoreError| assert!(matches!(error, StoreError::Fenced { ours: 1, found: 2 }), "{error}");
    fenced(store.append(batch(&old, &[("a", "1")], true)).await.unwrap_err());
    fenced(store.count_attempt(old.epoch, key("1")).await.unwrap_err());
    fenced(store.mark_published(old.epoch, 1).await.unwrap_err());
    store.append(batch(&new, &[("a", "1")], true)).await.unwrap();
}

pub(crate) async fn tries_are_counted_until_the_event_is_decided(stores: impl Stores) {
    let store = stores.open().await;
    let mark = store.claim().await.unwrap();
    assert_eq!(store.count_attempt(mark.epoch, key("1")).await.unwrap(), 1);
    assert_eq!(store.count_attempt(mark.epoch, key("1")).await.unwrap(), 2);
    let known = async |id: &str| store.load(vec![], vec![key(id)]).await.unwrap().known[0];
    assert_eq!(known("1").await, Some(Known::Tried(2)));
    append(&store, &[("a", "1")]).await;
    assert_eq!(known("1").await, Some(Known::Settled(digest("a", "1"))));
}

pub(crate) async fn the_outbox_holds_what_emits_until_it_is_published(stores: impl Stores) {
    let store = stores.open().await;
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

pub(crate) async fn reads_go_page_by_page(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    let ids: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let events: Vec<(&str, &str)> =
        ids.iter().map(|id| (if id.len() == 1 { "short" } else { "long" }, id.as_str())).collect();
    append(&store, &events).await;
    let first = store.journal(0, 2_000).await.unwrap();
    assert!(!first.is_empty() && first.len() < 5, "at least one row, and then what fits");
    let (mut seen, mut after) = (0, 0);
    loop {
        let page = store.journal(after, 5_000).await.unwrap();
        let Some(last) = page.last() else { break };
        (seen, after) = (seen + page.len(), last.sequence);
    }
    assert_eq!(seen, 50);
    assert_eq!(store.history("short".into(), 0, 1 << 20).await.unwrap().len(), 10);
    assert_eq!(store.history("short".into(), 4, 1 << 20).await.unwrap().len(), 6);
    let keys = async |after: &str, limit| -> Vec<String> {
        store.entities(after.into(), limit, usize::MAX).await.unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys("", 1).await, ["long"]);
    assert_eq!(keys("long", 10).await, ["short"]);
    let within = async |limit_bytes| store.entities(String::new(), 10, limit_bytes).await.unwrap().len();
    assert_eq!([within(0).await, within(1).await, within(1_000).await], [0, 1, 2], "those that begin within it");
}

/// A key that some database would trip over.
const ODD: &str = "é \\/'\"%";

pub(crate) async fn states_may_be_empty_or_a_megabyte_or_unchanged_or_gone(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    let large = format!("\"{}\"", "ü".repeat(512 << 10));
    let changes = [("\"\"", "\"\""), ("{}", "{}"), (large.as_str(), large.as_str()), ("same", &large), ("gone", "")];
    for (index, (change, expected)) in changes.into_iter().enumerate() {
        let change = match change {
            "same" => StateChange::Unchanged,
            "gone" => StateChange::Delete,
            text => state(text),
        };
        let mark = store.mark().await.unwrap();
        // The driver knows the whole head, also when its record only says that the state stayed.
        let loaded = store.load(vec![ODD.into()], vec![]).await.unwrap();
        let before = loaded.heads[0].as_ref().and_then(|head| head.state.clone());
        let event = Event { state: change, before, ..Event::new(ODD, &index.to_string()) };
        store.append(batch_of(&mark, &[event])).await.unwrap();
        let loaded = store.load(vec![ODD.into()], vec![]).await.unwrap();
        let kept = loaded.heads[0].as_ref().unwrap();
        let kept = (kept.version, kept.state.as_ref().map_or("", |state| state.get()));
        assert_eq!(kept, (index as u64 + 1, expected));
    }
}

pub(crate) async fn keys_may_be_anything_and_are_listed_in_the_order_of_their_bytes(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    // As long as a key may be.
    let long = "k".repeat(256);
    let mut keys = ["B", "a", ODD, "é", "\u{10ffff}", &long];
    let events: Vec<(&str, String)> = keys.iter().map(|key| (*key, format!("{key:.9}{}", key.len()))).collect();
    let events: Vec<(&str, &str)> = events.iter().map(|(key, id)| (*key, id.as_str())).collect();
    append(&store, &events).await;
    keys.sort_unstable();
    // The first key is the one before all others.
    let mut seen = vec![String::new()];
    while let Some((next, _)) = store.entities(seen.last().unwrap().clone(), 1, usize::MAX).await.unwrap().pop() {
        assert_eq!(store.history(next.clone(), 0, 1 << 20).await.unwrap().len(), 1);
        seen.push(next);
    }
    assert_eq!(seen[1..], keys);
    let loaded = store.load(keys.iter().map(ToString::to_string).collect(), vec![]).await.unwrap();
    assert!(loaded.heads.iter().all(Option::is_some));
}

pub(crate) async fn a_position_moves_without_records_and_never_back(stores: impl Stores) {
    let store = stores.open().await;
    let mark = store.claim().await.unwrap();
    store.append(Batch { position: 17, ..batch(&mark, &[], false) }).await.unwrap();
    assert_eq!(store.mark().await.unwrap().position, 17);
    // A batch from before, that was on its way for long: it still fits behind the last record.
    store.append(Batch { position: 11, ..batch(&mark, &[], false) }).await.unwrap();
    assert_eq!(store.mark().await.unwrap().position, 17);
}
