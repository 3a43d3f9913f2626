//! Several processes of one identity, one after the other or at once.

use futures::future::join_all;
use rhizon_runtime::store::{EventStore, StoreError};

use super::Stores;
use super::events::{append, batch};

pub(crate) async fn of_two_writers_with_one_identity_one_wins_and_never_both(stores: impl Stores) {
    let both = [stores.open().await, stores.open().await];
    both[0].claim().await.unwrap();
    for round in 0..20 {
        let mark = both[round % 2].mark().await.unwrap();
        let names = [format!("{round}-a"), format!("{round}-b")];
        let appends = both.iter().zip(&names).map(|(store, id)| store.append(batch(&mark, &[("a", id)], false)));
        let results = join_all(appends).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        let lost = results.into_iter().find_map(Result::err).unwrap();
        assert!(matches!(lost, StoreError::Conflict { .. }), "{lost}");
    }
    assert_eq!(both[1].mark().await.unwrap().tail.sequence, 20);
    assert_eq!(both[1].journal(0, 1 << 20).await.unwrap().len(), 20);
}

pub(crate) async fn two_that_start_at_the_same_moment_have_two_epochs(stores: impl Stores) {
    let both = join_all([stores.open(), stores.open()]).await;
    let claims = join_all(both.iter().map(EventStore::claim)).await;
    let mut epochs: Vec<u64> = claims.into_iter().map(|mark| mark.unwrap().epoch).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [1, 2]);
    let marks = join_all(both.iter().map(EventStore::mark)).await;
    assert!(marks.into_iter().any(|mark| mark.unwrap().epoch == 2));
}

pub(crate) async fn a_store_that_is_opened_again_has_everything(stores: impl Stores) {
    let store = stores.open().await;
    store.claim().await.unwrap();
    let mark = append(&store, &[("a", "1")]).await;
    drop(store);
    let store = stores.open().await;
    assert_eq!(store.mark().await.unwrap(), mark);
    assert_eq!(store.journal(0, 1).await.unwrap().len(), 1);
}
