//! The records that a cache which began with a snapshot does not have yet, and how they come.
//!
//! ```text
//! records   1 … filled │ filled+1 … until │ until+1 … the end
//!           are here   │ are not          │ are here
//! ```

use std::sync::{PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use rhizon_kernel::record::{Line, Tail};

use super::super::sqlite::SqliteStore;
use super::super::{Batch, EventStore as _, Result, StoreError};
use super::message::{self, Kind};
use super::{Inner, JetStreamStore, cache, records};
use crate::bus::jetstream::Reader;

/// Records of one transaction: appends wait for it.
const TOGETHER: usize = 1_000;
/// What failed is tried again after this long.
const PAUSE: Duration = Duration::from_secs(2);

/// Absent when nothing is missing.
pub(super) struct Gap(RwLock<Option<Missing>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// The end of what is here from the beginning on, and the stream sequence of the message with it.
    pub(super) filled: Tail,
    pub(super) stream: u64,
    /// The last record that is not here.
    pub(super) until: u64,
}

impl Missing {
    /// Everything up to a record.
    pub(super) fn all(until: u64) -> Self {
        Self { filled: Tail::default(), stream: 0, until }
    }
}

impl Gap {
    /// A cache in which nothing is applied is begun anew.
    pub(super) async fn open(cache: &SqliteStore, applied: u64) -> Result<Self> {
        let missing = if applied == 0 { None } else { cache::missing(cache).await? };
        Ok(Self(RwLock::new(missing)))
    }

    pub(super) fn missing(&self) -> Option<Missing> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, missing: Option<Missing>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Whether the record behind `after` is here.
    pub(super) fn check(&self, after: u64) -> Result<()> {
        match self.missing() {
            Some(Missing { filled, until, .. }) if (filled.sequence..until).contains(&after) => {
                Err(StoreError::NotYet { have: filled.sequence, of: until })
            }
            _ => Ok(()),
        }
    }

    /// Whether all records behind `after` are here.
    pub(super) fn check_behind(&self, after: u64) -> Result<()> {
        match self.missing() {
            Some(Missing { filled, until, .. }) if after < until => {
                Err(StoreError::NotYet { have: filled.sequence, of: until })
            }
            _ => Ok(()),
        }
    }
}

impl JetStreamStore {
    /// Gets the missing records, and uses half of the time at most.
    pub(super) fn fill_in_background(&self) {
        if self.0.gap.missing().is_none() {
            return;
        }
        let inner = std::sync::Arc::downgrade(&self.0);
        self.spawn(async move {
            let mut filling = Filling { inner, reader: None };
            loop {
                let begun = Instant::now();
                match filling.step().await {
                    Ok(true) => tokio::time::sleep(begun.elapsed()).await,
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(%error, "older records of the journal do not come; trying again");
                        filling.reader = None;
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }
}

struct Filling {
    inner: Weak<Inner>,
    /// And whose turn it was when it was opened.
    reader: Option<(Reader, u64)>,
}

impl Filling {
    /// Takes the next page; answers whether there is more to do.
    async fn step(&mut self) -> Result<bool> {
        let Some(inner) = self.inner.upgrade() else { return Ok(false) };
        let Some(mut missing) = inner.gap.missing() else { return Ok(false) };
        let failed = |cause: String| StoreError::Failed { doing: "read older records", cause };
        let page = {
            let mut turn = inner.journal.turn().await;
            if self.reader.as_ref().is_none_or(|(_, opened)| *opened != *turn) {
                let reader =
                    inner.journal.read(missing.stream + 1, &mut turn).await.map_err(|e| failed(e.to_string()))?;
                self.reader = Some((reader, *turn));
            }
            let Some((reader, _)) = &mut self.reader else { return Ok(true) };
            reader.next_and_rest().await.map_err(|e| failed(e.to_string()))?
        };
        if page.is_empty() {
            return Err(failed("the journal ends before them".into()));
        }
        let mut batch = Batch::default();
        for message in page {
            if missing.filled.sequence >= missing.until {
                break;
            }
            let (header, lines) = message::decode(&message.payload)?;
            missing.stream = message.stream;
            let Kind::Append { .. } = header.kind else { continue };
            for line in lines {
                let record = records::read(&mut missing.filled, line).map_err(|e| failed(e.to_string()))?;
                batch.entries.push(record.into_entry());
            }
            if batch.entries.len() >= TOGETHER {
                inner.fill(std::mem::take(&mut batch), missing).await?;
            }
        }
        inner.fill(batch, missing).await?;
        if missing.filled.sequence < missing.until {
            return Ok(true);
        }
        inner.close_gap(missing).await?;
        Ok(false)
    }
}

impl Inner {
    async fn fill(&self, batch: Batch, missing: Missing) -> Result<()> {
        cache::fill(&self.cache, &batch.entries, missing).await?;
        self.metrics.filled.inc_by(batch.entries.len() as u64);
        self.gap.set(Some(missing));
        Ok(())
    }

    /// What came must lead to what was here.
    async fn close_gap(&self, missing: Missing) -> Result<()> {
        let next = self.cache.journal(missing.until, 1).await?;
        let links = next
            .first()
            .and_then(|row| Line::parse(&row.line).ok())
            .is_some_and(|line| missing.filled.sequence == missing.until && line.follows(&missing.filled.link));
        if !links {
            let cause = format!("record {} does not lead to the one behind it", missing.until);
            return Err(StoreError::Failed { doing: "read older records", cause });
        }
        cache::close_gap(&self.cache).await?;
        self.gap.set(None);
        tracing::info!(records = missing.until, "all older records of the journal are here");
        Ok(())
    }
}
