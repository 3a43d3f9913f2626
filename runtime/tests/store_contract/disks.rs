//! No room left, or not so much in one piece.

use rhizon_runtime::store::sqlite::SqliteStore;
use rhizon_runtime::store::{EventStore as _, Mark, StoreError};

use super::Stores as _;
use super::events::{Event, batch_of, state};
use super::journal::JetStream;

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
    let text = format!("\"{}\"", "x".repeat(64 << 10));
    let (mut stored, mut number) = (0, 0);
    let large = |mark: &Mark, number: i32| {
        batch_of(mark, &[Event { state: state(&text), ..Event::new("a", &number.to_string()) }])
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
