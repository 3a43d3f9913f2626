//! What waits: parked events, timers, deferred outputs, dead letters.

use rhizon_runtime::store::{
    Batch, Deferred, Due, EventStore, Fate, Known, Mark, Parked, RELEASED_TOGETHER, StoreError, Waits,
};

use super::Stores;
use super::events::{Event, append, batch, batch_of, digest, key, observed, parked};

/// Changes what waits, without a record.
async fn change(store: &impl EventStore, waits: Waits) {
    let mark = store.mark().await.unwrap();
    store.append(Batch { waits, ..batch(&mark, &[], false) }).await.unwrap();
}

async fn due_events(store: &impl EventStore, now_ms: i64) -> Vec<u64> {
    store.due(now_ms, 1_000, usize::MAX).await.unwrap().parked.iter().map(|parked| parked.stream).collect()
}

pub(crate) async fn a_held_entity_lets_its_events_go_in_order_a_few_at_a_time(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    let behind = RELEASED_TOGETHER as u64 + 6;
    let mut park = vec![parked(1, "a", Some(100))];
    park.extend((2..2 + behind).map(|stream| parked(stream, "a", None)));
    park.push(parked(999, "b", Some(9_999)));
    change(&store, Waits { park: park.clone(), ..Waits::default() }).await;
    assert_eq!(store.due(99, 10, usize::MAX).await.unwrap(), Due::default());
    assert_eq!(store.due(100, 10, usize::MAX).await.unwrap().parked, park[..1]);
    let loaded = store.load(vec!["a".into(), "c".into(), "b".into()], vec![park[1].key]).await.unwrap();
    assert_eq!((loaded.held, loaded.known), (vec![behind + 1, 0, 1], vec![Some(Known::Parked(park[1].digest))]));
    let fate = Fate::Parked { entity: "a".into(), due_ms: Some(100), attempts: 0 };
    assert_eq!(store.fate(park[0].key).await.unwrap(), Some(fate));
    // Tried again, and to wait again: nobody passes it.
    let again = Parked { due_ms: Some(200), attempts: 1, ..park[0].clone() };
    change(&store, Waits { park: vec![again.clone()], ..Waits::default() }).await;
    assert_eq!(store.due(200, 10, usize::MAX).await.unwrap().parked, [again]);
    change(&store, Waits { unpark: vec![1], ..Waits::default() }).await;
    assert_eq!(due_events(&store, 0).await, (2..2 + RELEASED_TOGETHER as u64).collect::<Vec<_>>());
    change(&store, Waits { unpark: vec![2, 3, 4], ..Waits::default() }).await;
    assert_eq!(due_events(&store, 0).await, (5..5 + RELEASED_TOGETHER as u64).collect::<Vec<_>>());
    assert_eq!(store.counts().await.unwrap().parked, behind - 2);
    // One that was let go and must be tried again: nobody passes it.
    change(&store, Waits { park: vec![parked(5, "a", Some(300))], ..Waits::default() }).await;
    assert_eq!(store.due(299, 10, usize::MAX).await.unwrap().parked, []);
    assert_eq!(due_events(&store, 300).await, (5..5 + RELEASED_TOGETHER as u64).collect::<Vec<_>>());
    let size = park[0].payload.len();
    let within = async |limit_bytes| store.due(300, 1_000, limit_bytes).await.unwrap();
    assert_eq!((within(2 * size).await.parked.len(), within(2 * size + 1).await.parked.len()), (2, 3));
    assert!(!within(2 * size).await.is_all(1_000, 2 * size) && within(1 << 20).await.is_all(1_000, 1 << 20));
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.held, counts.parked), (behind - 2, behind - 2));
}

pub(crate) async fn what_waits_only_behind_others_has_its_turn_without_any(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    let timer = Parked { holds: false, ..parked(1, "a", Some(5_000)) };
    change(&store, Waits { park: vec![timer, parked(2, "a", None), parked(3, "a", None)], ..Waits::default() }).await;
    assert_eq!(due_events(&store, 0).await, [2], "a timer holds nobody, and an event that does holds the next");
    change(&store, Waits { unpark: vec![2], ..Waits::default() }).await;
    assert_eq!(due_events(&store, 0).await, [3]);
}

pub(crate) async fn a_timer_holds_nobody_and_is_due_at_once_when_it_is_taken_back(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    let timer = Parked { holds: false, ..parked(7, "a", Some(5_000)) };
    change(&store, Waits { park: vec![timer.clone(), parked(8, "a", Some(6_000))], ..Waits::default() }).await;
    assert_eq!(store.load(vec!["a".into()], vec![]).await.unwrap().held, [1]);
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.held, counts.parked), (1, 2));
    assert_eq!(store.next_due(0).await.unwrap(), Some(5_000));
    let held = parked(8, "a", None).key;
    change(&store, Waits { cancel: vec![timer.key, held, key("unknown")], ..Waits::default() }).await;
    let cancelled = Parked { due_ms: Some(0), cancelled: true, ..timer };
    assert_eq!(
        store.due(1, 10, usize::MAX).await.unwrap().parked,
        [cancelled],
        "an event in retry can't be taken back"
    );
    change(&store, Waits { unpark: vec![7], ..Waits::default() }).await;
    assert_eq!((due_events(&store, 1).await, store.next_due(1).await.unwrap()), (vec![], Some(6_000)));
}

fn deferred(id: &str, due_ms: i64, sequence: u64) -> Deferred {
    Deferred { key: key(id), due_ms, sequence, subject: "ev.evt.a.b.1.agent-a.c".into(), payload: vec![0, 200].into() }
}

pub(crate) async fn deferred_outputs_wait_until_they_are_due_fired_or_taken_back(stores: impl Stores) {
    let store = stores.open().await;
    let mark = store.claim().await.unwrap();
    let defer = vec![deferred("late", 900, 1), deferred("soon", 500, 2), deferred("first", 500, 1)];
    let mut whole = batch(&mark, &[("a", "1"), ("a", "2")], true);
    whole.waits.defer.clone_from(&defer);
    store.append(whole).await.unwrap();
    assert_eq!(store.due(500, 10, usize::MAX).await.unwrap().deferred, [defer[2].clone(), defer[1].clone()]);
    assert_eq!(store.due(500, 1, usize::MAX).await.unwrap().deferred.len(), 1);
    assert_eq!(store.due(500, 10, 2).await.unwrap().deferred, [defer[2].clone()], "its payload has two bytes");
    assert_eq!(store.due(500, 10, 3).await.unwrap().deferred.len(), 2);
    assert_eq!(store.next_due(500).await.unwrap(), Some(900));
    assert_eq!(store.fate(key("late")).await.unwrap(), Some(Fate::Deferred { due_ms: 900, sequence: 1 }));
    store.fired(mark.epoch, vec![key("soon"), key("unknown")]).await.unwrap();
    change(&store, Waits { cancel: vec![key("late")], ..Waits::default() }).await;
    assert_eq!(store.due(9_999, 10, usize::MAX).await.unwrap().deferred, [defer[2].clone()]);
    assert_eq!((store.fate(key("late")).await.unwrap(), store.next_due(500).await.unwrap()), (None, None));
    store.claim().await.unwrap();
    let error = store.fired(mark.epoch, vec![key("first")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { ours: 1, found: 2 }), "{error}");
    assert_eq!(store.counts().await.unwrap().deferred, 1);
}

pub(crate) async fn a_dead_letter_is_open_until_somebody_deals_with_it(stores: impl Stores) {
    let store = stores.open().await;
    let mark = store.claim().await.unwrap();
    let dead = |id: &str| Event { dead: true, ..Event::new("a", id) };
    store.append(batch_of(&mark, &[dead("1"), Event::new("a", "2"), dead("3")])).await.unwrap();
    let open =
        async || -> Vec<u64> { store.dead_letters(0, 1 << 20).await.unwrap().iter().map(|row| row.sequence).collect() };
    assert_eq!(open().await, [1, 3]);
    assert_eq!(store.dead_letters(1, 1).await.unwrap()[0].sequence, 3);
    change(&store, Waits { resolve: vec![key("1"), key("2")], ..Waits::default() }).await;
    assert_eq!((open().await, store.counts().await.unwrap().dead), (vec![3], 1));
}

pub(crate) async fn an_event_is_known_for_as_long_as_the_journal_and_has_one_fate(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    append(&store, &[("a", "first")]).await;
    for round in 0..30 {
        let ids: Vec<String> = (0..20).map(|n| format!("{round}-{n}")).collect();
        append(&store, &ids.iter().map(|id| ("b", id.as_str())).collect::<Vec<_>>()).await;
    }
    let known = store.load(vec![], vec![key("first")]).await.unwrap().known;
    assert_eq!(known, [Some(Known::Settled(digest("a", "first")))]);
    let Some(Fate::Decided(row)) = store.fate(key("3-7")).await.unwrap() else { panic!("it was decided") };
    assert_eq!((row.sequence, store.fate(key("nobody")).await.unwrap()), (1 + 3 * 20 + 8, None));
    assert_eq!(store.journal(row.sequence - 1, 1).await.unwrap(), [row]);
}

pub(crate) async fn a_record_is_found_by_the_time_it_was_made(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    let start = observed(1, 1).time;
    let at = async |seconds| store.sequence_at(start + jiff::SignedDuration::from_secs(seconds)).await.unwrap();
    assert_eq!(at(5).await, 0, "an empty journal");
    let ids: Vec<String> = (0..21).map(|n| n.to_string()).collect();
    let mark: Mark = append(&store, &ids.iter().map(|id| ("a", id.as_str())).collect::<Vec<_>>()).await;
    assert_eq!([at(-1).await, at(0).await, at(7).await, at(99).await], [0, 1, 8, mark.tail.sequence]);
}
