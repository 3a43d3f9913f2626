//! How what is durable reaches the cache: at once where somebody needs it, otherwise behind the answers.

use super::super::sqlite::SqliteStore;
use super::super::{EventStore as _, Result, StoreError};
use super::message::Change;
use super::unwritten::Fill;
use super::{JetStreamStore, State, cache};

impl JetStreamStore {
    /// A plain append can wait for others; anything else goes into the cache behind all that came before it.
    pub(super) async fn take_in(&self, state: &mut State, change: &Change, sequence: u64) -> Result<()> {
        match change {
            Change::Append(batch) if batch.waits.is_empty() => {
                state.mark.follow(batch);
                self.0.unwritten.push(batch, sequence);
            }
            change => {
                self.settle().await?;
                cache::apply(&self.0.cache, change, sequence).await?;
                state.mark = self.0.cache.mark().await?;
            }
        }
        if let Change::Append(batch) = change {
            state.places.push(batch.after, batch.entries.len(), sequence);
        }
        Ok(())
    }

    /// Has the cache written when there is enough for it, and waits when it does not keep up.
    pub(super) async fn make_room(&self) -> Result<()> {
        match self.0.unwritten.fill() {
            Fill::Low => {}
            Fill::Enough if self.0.writing.try_lock().is_err() => {}
            Fill::Enough => {
                let store = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = store.settle().await {
                        tracing::warn!(%error, "writing the cache; trying again with the next append");
                    }
                });
            }
            Fill::Full => self.settle().await?,
        }
        Ok(())
    }

    /// Puts all that is durable into the cache. Runs to its end also when nobody waits for it.
    pub(super) async fn settle(&self) -> Result<()> {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let _turn = store.0.writing.lock().await;
            let appends = store.0.unwritten.all();
            match cache::apply_together(&store.0.cache, &appends).await {
                Ok(()) => store.0.unwritten.written(&appends),
                Err(error) => {
                    store.0.metrics.unwritten.inc();
                    return Err(error);
                }
            }
            Ok(())
        });
        task.await.map_err(|e| StoreError::Failed { doing: "write the cache", cause: e.to_string() })?
    }

    /// The cache, with all in it that is durable.
    pub(super) async fn settled(&self) -> Result<&SqliteStore> {
        self.settle().await?;
        Ok(&self.0.cache)
    }
}
