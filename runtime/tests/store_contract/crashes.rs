//! A server that dies in the middle of appends: what was acknowledged is there, and of the last one all or nothing.

use std::time::Duration;

use rhizon_runtime::store::postgres::PostgresStore;
use rhizon_runtime::store::{EventStore, StoreError};
use rhizon_tests::{nats, postgres};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Stores as _;
use super::events::batch;
use super::journal::JetStream;

/// Records of each batch.
const EACH: u64 = 20;
/// A server is killed so often, at another moment each time.
const ROUNDS: u64 = 3;

/// Appends batches until one fails, or until it is enough; answers how many records were acknowledged.
async fn append_on(store: impl EventStore, epoch: u64, from: u64, enough: watch::Receiver<bool>) -> u64 {
    let mut mark = store.mark().await.unwrap();
    assert_eq!((mark.epoch, mark.tail.sequence), (epoch, from));
    while !*enough.borrow() {
        let after = mark.tail.sequence;
        let ids: Vec<String> = (after..after + EACH).map(|n| n.to_string()).collect();
        let events: Vec<(&str, &str)> = ids.iter().map(|id| ("a", id.as_str())).collect();
        let one = batch(&mark, &events, true);
        let (tail, position) = (one.tail, one.position);
        match store.append(one).await {
            Ok(()) => (mark.tail, mark.position) = (tail, position),
            Err(StoreError::Failed { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    mark.tail.sequence
}

/// What the driver does after an unknown outcome: it looks until the store answers.
async fn look_again(store: &impl EventStore) -> u64 {
    let looking = async {
        loop {
            match store.mark().await {
                Ok(mark) => return mark.tail.sequence,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), looking).await.expect("the store answers again")
}

/// Kills the server beside the appends. What is there then is whole, and goes on being so.
async fn storm<S: EventStore>(store: S, mut crash: impl FnMut() + Send) {
    let epoch = store.claim().await.unwrap().epoch;
    let mut there = 0;
    for round in 0..ROUNDS {
        let (enough, is_enough) = watch::channel(false);
        let appends = tokio::spawn(append_on(store.clone(), epoch, there, is_enough));
        tokio::time::sleep(Duration::from_millis(60 + 7 * round)).await;
        tokio::task::block_in_place(&mut crash);
        enough.send_replace(true);
        let acknowledged = appends.await.unwrap();
        there = look_again(&store).await;
        assert!([acknowledged, acknowledged + EACH].contains(&there), "{acknowledged} acknowledged, {there} there");
    }
    assert!(there > 0);
    let mut seen = 0;
    while let Some(row) = store.journal(seen, 1).await.unwrap().pop() {
        seen += 1;
        assert_eq!(row.sequence, seen);
    }
    assert_eq!((seen, store.counts().await.unwrap().records), (there, there));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_keeps_what_it_acknowledged() {
    let mut server = tokio::task::block_in_place(postgres::start);
    let store = PostgresStore::open(&server.url(), "rhizon_a_0", "A", None).unwrap();
    storm(store, || server.crash()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_comes_later_is_waited_for() {
    let door = nats::free_port();
    let url = format!("postgres://rhizon@127.0.0.1:{door}/postgres?sslmode=disable");
    let open = || PostgresStore::open(&url, "rhizon_late_0", "A", None).unwrap();
    let (writes, reads) = (open(), open());
    let early = [writes.claim().await.unwrap_err(), reads.counts().await.unwrap_err()];
    assert!(early.iter().all(StoreError::is_transient), "{early:?}");

    let server = tokio::task::block_in_place(postgres::shared).port();
    let listener = TcpListener::bind(("127.0.0.1", door)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    assert_eq!(reads.counts().await.unwrap().records, 0);
    assert_eq!(writes.claim().await.unwrap().epoch, 1);
}

/// A workspace that is made anew has new streams, and its database still has the old positions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_other_streams_is_refused() {
    let url = tokio::task::block_in_place(postgres::shared).url();
    let open = |account| PostgresStore::open(&url, "rhizon_foreign_0", account, None).unwrap();
    assert_eq!(open("A").claim().await.unwrap().epoch, 1);
    let refused = [open("B").claim().await.unwrap_err(), open("B").counts().await.unwrap_err()];
    assert!(
        refused.iter().all(|error| matches!(error, StoreError::Foreign(_)) && !error.is_transient()),
        "{refused:?}"
    );
    assert_eq!(open("A").mark().await.unwrap().epoch, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_keeps_what_it_acknowledged() {
    let mut broker = JetStream::start().await;
    let store = broker.open().await;
    let mut server = broker.server.take().unwrap();
    storm(store.clone(), || server.restart()).await;
    // The journal alone gives the same as the cache that was there all the time.
    let rebuilt = broker.open().await;
    assert_eq!(rebuilt.mark().await.unwrap(), store.mark().await.unwrap());
}

#[tokio::test]
async fn a_journal_that_was_cut_off_is_noticed() {
    let broker = JetStream::start().await;
    let store = broker.open().await;
    let mark = store.claim().await.unwrap();
    broker.purge().await;
    let error = store.mark().await.unwrap_err();
    assert!(error.to_string().contains("it was lost or rolled back"), "{error}");
    assert!(store.append(batch(&mark, &[("a", "1")], true)).await.is_err());
}
