//! Reading what the journal holds behind the cache, and taking it in. A rebuild is the same from the beginning, or from
//! where a snapshot ends.
//!
//! ```text
//! pull ─▶ pages ─▶ take apart, check the chain ─▶ steps ─▶ write to the cache
//! ```
//!
//! The three go on side by side.

use std::time::Duration;

use tokio::sync::mpsc;

use super::super::{EventStore as _, Loaded, Result, StoreError};
use super::snapshot::{Proof, Proven};
use super::steps::{Step, Steps};
use super::{JetStreamStore, State, cache};
use crate::bus::{self, BusError};

/// Pages, and steps, that wait for the next one to have time.
const AHEAD: usize = 2;
/// How often it is begun anew when somebody else disturbs it.
const TRIES: u32 = 8;

impl JetStreamStore {
    /// Takes in all that the journal holds; answers whether a message of this id was among it.
    pub(super) async fn catch_up(&self, state: &mut State, id: Option<&str>) -> Result<bool> {
        self.settle().await?;
        if state.applied == 0 {
            self.begin(state).await?;
        }
        let (mut found, mut tries) = (false, 0);
        while let Err(error) = self.read_on(state, id, &mut found).await {
            tries += 1;
            match error {
                Unread::Store(error) => return Err(error),
                // Another process reads through the same consumer, or a replica of the broker is behind.
                Unread::Bus(BusError::Gap(_)) | Unread::Lost(_) if tries < TRIES => {
                    tokio::time::sleep(pause(tries)).await;
                }
                other => return Err(other.into_store()),
            }
        }
        (state.mark, state.behind) = (self.0.cache.mark().await?, false);
        Ok(found)
    }

    /// Begins with a snapshot, if there is one that the journal agrees with; otherwise with nothing.
    async fn begin(&self, state: &mut State) -> Result<()> {
        for tries in 1..=TRIES {
            let Some(proof) = self.begin_with_snapshot().await? else { return Ok(()) };
            match self.prove_snapshot(state, proof).await {
                Ok(()) => return Ok(()),
                Err(Unread::Bus(BusError::Gap(_))) => tokio::time::sleep(pause(tries)).await,
                Err(Unread::Unproven(why)) => {
                    self.unfit(&why);
                    break;
                }
                Err(other) => return Err(other.into_store()),
            }
        }
        self.clear().await
    }

    async fn prove_snapshot(&self, state: &mut State, mut proof: Proof) -> std::result::Result<(), Unread> {
        let mut turn = self.0.journal.turn().await;
        let mut reader = self.0.journal.read(proof.begin(), &mut turn).await?;
        loop {
            let page = reader.next_and_rest().await?;
            if page.is_empty() {
                return Err(Unread::Unproven("the journal ends before it".into()));
            }
            match self.prove(&mut proof, &page).await? {
                Proven::NotYet => {}
                Proven::No(why) => return Err(Unread::Unproven(why)),
                Proven::Yes { stream } => {
                    state.applied = stream;
                    return Ok(());
                }
            }
        }
    }

    async fn read_on(&self, state: &mut State, id: Option<&str>, found: &mut bool) -> std::result::Result<(), Unread> {
        let mut turn = self.0.journal.turn().await;
        // The last one is read again: it must still be there.
        let last = state.applied;
        let mut reader = self.0.journal.read(last.max(1), &mut turn).await?;
        let mut steps = Steps::behind(self.0.cache.mark().await?.tail);
        let (send_page, mut pages) = mpsc::channel::<Vec<bus::Message>>(AHEAD);
        let (send_step, ready) = mpsc::channel(AHEAD);
        let pulling = async move {
            let mut page = reader.next().await?;
            if last > 0 {
                if page.first().map(|message| message.stream) != Some(last) {
                    return Err(Unread::Lost(last));
                }
                page.remove(0);
            }
            // When nobody takes them any more, that has failed and is told.
            while send_page.send(page).await.is_ok() {
                page = reader.next().await?;
                if page.is_empty() {
                    break;
                }
            }
            Ok(())
        };
        let taking_apart = async move {
            while let Some(page) = pages.recv().await {
                for message in page {
                    *found |= steps.take(&message, id)?;
                    while let Some(step) = steps.next() {
                        // When nobody writes any more, that has failed and is told.
                        if send_step.send(step).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            while let Some(step) = steps.last() {
                let _ = send_step.send(step).await;
            }
            Ok::<_, Unread>(())
        };
        let writing = async {
            let mut ready = ready; // Whoever waits to send hears of its end.
            while let Some(step) = ready.recv().await {
                self.write_step(state, step).await?;
            }
            Ok::<_, Unread>(())
        };
        // Whatever fails, a step under way is written to its end, and what it says to be written is.
        let (pulled, taken_apart, written) = tokio::join!(pulling, taking_apart, writing);
        written.and(taken_apart).and(pulled)
    }

    async fn write_step(&self, state: &mut State, step: Step) -> Result<()> {
        match step {
            Step::Change(change, stream) => {
                cache::apply(&self.0.cache, &change, stream).await?;
                state.applied = stream;
            }
            Step::Appends(appends) => {
                let (entities, keys) = appends.wanted();
                let loaded = if entities.is_empty() && keys.is_empty() {
                    Loaded::default()
                } else {
                    self.0.cache.load(entities.clone(), keys.clone()).await?
                };
                self.0.metrics.read.inc_by(appends.records() as u64);
                for (after, records, stream) in &appends.places {
                    state.places.push(*after, *records, *stream);
                }
                let (batch, stream) = appends.into_batch(entities, keys, loaded);
                cache::apply_append(&self.0.cache, &batch, stream).await?;
                state.applied = stream;
            }
        }
        Ok(())
    }
}

/// Longer each time, and never the same for two that disturb each other.
fn pause(tries: u32) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let longest = 20 << tries;
    Duration::from_millis(RandomState::new().hash_one(tries) % longest)
}

/// Why the journal could not be read to its end.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(
        "it no longer has the message at {0} of its stream, which was there before: it was lost or rolled back. Restore the \
         stream, or delete the cache to go on from what is there"
    )]
    Lost(u64),
    #[error("{0}")]
    Unproven(String),
}

impl Unread {
    fn into_store(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            other => StoreError::Failed { doing: "read the journal", cause: other.to_string() },
        }
    }
}
