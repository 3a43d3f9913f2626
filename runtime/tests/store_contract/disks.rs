//! No room left, or not so much in one piece.

use rhizon_runtime::store::sqlite::SqliteStore;
use rhizon_runtime::store::{Batch, EventStore as _, Known, Mark, StoreError};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::Stores as _;
use super::events::{Event, append, batch_of, state};
use super::journal::JetStream;

/// A small file system, for as long as the value lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "rhizon-test"])
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

/// One event with 64 KB of state.
fn large(mark: &Mark, number: u64) -> Batch {
    let text = format!("\"{}\"", "x".repeat(64 << 10));
    batch_of(mark, &[Event { state: state(&text), ..Event::new("a", &number.to_string()) }])
}

#[tokio::test]
async fn a_store_with_a_record_that_cant_be_read_is_not_claimed_and_can_be_looked_at() {
    let stores = super::Sqlite::start().await;
    let store = stores.open().await;
    store.claim().await.unwrap();
    append(&store, &[("a", "1"), ("a", "2"), ("b", "3")]).await;
    store.close().await;
    let options = SqliteConnectOptions::new().filename(stores.path());
    let mut file = SqliteConnection::connect_with(&options).await.unwrap();
    let lines: Vec<u8> = sqlx::query_scalar("SELECT lines FROM journal").fetch_one(&mut file).await.unwrap();
    let mut lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
    lines[1] = b"{}";
    sqlx::query("UPDATE journal SET lines = ?").bind(lines.join(&b'\n')).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
    let store = stores.open().await;
    let refused = store.claim().await.unwrap_err();
    assert!(matches!(&refused, StoreError::Broken(what) if what.starts_with("record 2: ")), "{refused}");
    assert!(!refused.is_transient());
    assert_eq!(store.journal(0, usize::MAX).await.unwrap().len(), 3);
    assert_eq!(store.history("b".into(), 0, usize::MAX).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room_again() {
    let disk = SmallDisk::mount(3);
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let store = SqliteStore::open(&disk.0.path().join("store.sqlite")).await.unwrap();
    store.claim().await.unwrap();
    let (mut stored, mut number) = (0, 0);
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

#[tokio::test]
async fn a_cache_without_room_loses_nothing_and_the_store_goes_on_when_there_is_room_again() {
    let (broker, disk) = (JetStream::start().await, SmallDisk::mount(64));
    let store = broker.open_in(disk.0.path()).await;
    let mut mark = store.claim().await.unwrap();
    let ballast = disk.0.path().join("ballast");
    let filled = std::fs::write(&ballast, vec![0; 64 << 20]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let mut number = 0;
    let error = loop {
        let one = large(&mark, number);
        let (key, tail, position) =
            (one.entries[0].decision.clone().unwrap().identity.unwrap().0, one.tail, one.position);
        match store.append(one).await {
            Ok(()) => (mark.tail, mark.position) = (tail, position),
            Err(error) => break error,
        }
        number += 1;
        let loaded = store.load(vec!["a".into()], vec![key]).await.unwrap();
        assert_eq!(loaded.heads[0].as_ref().map(|head| head.version), Some(number), "what is durable is known");
        assert!(matches!(loaded.known[..], [Some(Known::Settled(_))]), "{:?}", loaded.known);
        assert!(number < 1_000, "nobody waits for the cache");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(number > 0 && broker.metrics.unwritten.get() > 0);
    assert!(store.counts().await.is_err_and(|error| error.is_transient()));
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(store.counts().await.unwrap().records, number);
    store.append(large(&mark, number)).await.unwrap();
    assert_eq!(store.mark().await.unwrap().tail.sequence, number + 1);
    assert_eq!(broker.open().await.mark().await.unwrap(), store.mark().await.unwrap());
    store.close().await;
}

#[tokio::test]
async fn a_full_journal_stream_loses_nothing_and_says_so() {
    let broker = JetStream::start_with(1 << 20).await;
    let store = broker.open().await;
    let mut mark = store.claim().await.unwrap();
    let text = format!("\"{}\"", "x".repeat(100 << 10));
    let error = loop {
        let id = mark.tail.sequence.to_string();
        let one = batch_of(&mark, &[Event { state: state(&text), ..Event::new("a", &id) }]);
        match store.append(one).await {
            Ok(()) => mark = store.mark().await.unwrap(),
            Err(error) => break error,
        }
        assert!(mark.tail.sequence < 20, "the stream does not fill");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(mark.tail.sequence > 5);
    assert_eq!(broker.open().await.mark().await.unwrap(), mark, "what was acknowledged is there");
    // What is small still fits.
    store.append(batch_of(&mark, &[Event::new("a", "small")])).await.unwrap();
}

#[tokio::test]
async fn a_batch_that_the_broker_would_not_take_is_refused_before_it_is_sent() {
    let broker = JetStream::start().await;
    let store = broker.open().await;
    let mark = store.claim().await.unwrap();
    let text = format!("\"{}\"", "x".repeat(1 << 20));
    let large: Vec<Event> = (0..9).map(|n| Event { state: state(&text), ..Event::new("a", &n.to_string()) }).collect();
    let error = store.append(batch_of(&mark, &large)).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { bytes: 9_000_000.., limit: 8_000_000.. }), "{error}");
    assert!(!error.is_transient());
    store.append(batch_of(&mark, &large[..7])).await.unwrap();
}
