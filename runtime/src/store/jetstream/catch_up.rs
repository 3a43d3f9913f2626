//! Reading what the journal holds behind the cache, and taking it in. A rebuild is the same from the beginning.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;

use super::super::{Batch, EventStore as _, Known, Loaded, Result, StoreError};
use super::message::{self, Change, Header, Kind};
use super::{JetStreamStore, State, cache, records};
use crate::bus::{self, BusError};

/// Messages without anything that waits are taken in together, up to so many records.
const TOGETHER: usize = 4_000;
/// How often it is begun anew when somebody else disturbs it.
const TRIES: u32 = 8;

impl JetStreamStore {
    /// Takes in all that the journal holds; answers whether a message of this id was among it.
    pub(super) async fn catch_up(&self, state: &mut State, id: Option<&str>) -> Result<bool> {
        let (mut found, mut tries) = (false, 0);
        while let Err(error) = self.read_on(state, id, &mut found).await {
            tries += 1;
            match error {
                Unread::Store(error) => return Err(error),
                // Another process reads through the same consumer, or a replica of the broker is behind.
                Unread::Bus(BusError::Gap(_)) | Unread::Lost(_) if tries < TRIES => {
                    tokio::time::sleep(pause(tries)).await;
                }
                other => return Err(StoreError::Failed { doing: "read the journal", cause: other.to_string() }),
            }
        }
        state.behind = false;
        Ok(found)
    }

    async fn read_on(&self, state: &mut State, id: Option<&str>, found: &mut bool) -> std::result::Result<(), Unread> {
        // The last one is read again: it must still be there.
        let last = state.applied;
        let mut reader = self.journal.read(last.max(1)).await?;
        let mut page = reader.next().await?;
        if last > 0 {
            if page.first().map(|message| message.stream) != Some(last) {
                return Err(Unread::Lost(last));
            }
            page.remove(0);
        }
        loop {
            *found |= self.take_in(state, page, id).await?;
            page = reader.next().await?;
            if page.is_empty() {
                return Ok(());
            }
        }
    }

    async fn take_in(&self, state: &mut State, page: Vec<bus::Message>, id: Option<&str>) -> Result<bool> {
        let mut found = false;
        let mut appends = Appends::default();
        for message in page {
            let (header, lines) = message::decode(&message.payload)?;
            found |= id == Some(header.id.as_str());
            let together = appends.is_continued_by(&header);
            if !together || appends.lines.len() > TOGETHER {
                self.take_in_appends(state, std::mem::take(&mut appends)).await?;
            }
            let Header { epoch, kind, .. } = header;
            let change = match kind {
                Kind::Append { .. } => {
                    appends.add(epoch, kind, lines, message.stream);
                    continue;
                }
                Kind::Claim => Change::Claim { epoch },
                Kind::Attempt { key } => Change::Attempt { epoch, key },
                Kind::Published { sequence } => Change::Published { epoch, sequence },
                Kind::Fired { keys } => Change::Fired { epoch, keys },
            };
            cache::apply(&self.cache, &change, message.stream).await?;
            state.applied = message.stream;
        }
        self.take_in_appends(state, appends).await?;
        Ok(found)
    }

    /// Derives from the lines what they change.
    async fn take_in_appends(&self, state: &mut State, appends: Appends) -> Result<()> {
        let Appends { mut batch, lines, stream } = appends;
        if stream == 0 {
            return Ok(());
        }
        let mut tail = self.cache.mark().await?.tail;
        let read = lines.into_iter().map(|line| records::read(&mut tail, line));
        let records = read.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| StoreError::Failed {
            doing: "read the journal",
            cause: format!("the message at {stream} of its stream: {e}"),
        })?;
        let (entities, keys) = records::wanted(&records);
        let Loaded { heads, known, .. } = self.cache.load(entities.clone(), keys.clone()).await?;
        let states: HashMap<_, _> =
            entities.into_iter().zip(heads.into_iter().map(|head| head.and_then(|head| head.state))).collect();
        let is_taken = |known: &Option<Known>| matches!(known, Some(Known::Settled(_)));
        let taken: HashSet<_> =
            keys.into_iter().zip(&known).filter(|(_, known)| is_taken(known)).map(|(key, _)| key).collect();
        batch.entries = records::entries(records, states, taken);
        batch.tail = tail;
        cache::apply(&self.cache, &Change::Append(Box::new(batch)), stream).await?;
        state.applied = stream;
        Ok(())
    }
}

/// Longer each time, and never the same for two that disturb each other.
fn pause(tries: u32) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let longest = 20 << tries;
    Duration::from_millis(RandomState::new().hash_one(tries) % longest)
}

/// Appends that follow each other, as one.
#[derive(Default)]
struct Appends {
    batch: Batch,
    lines: Vec<Bytes>,
    /// Stream sequence of the last one; 0 when there is none.
    stream: u64,
}

impl Appends {
    fn is_continued_by(&self, header: &Header) -> bool {
        let is_plain = matches!(&header.kind, Kind::Append { waits, .. } if waits.is_empty());
        is_plain && self.batch.waits.is_empty() && (self.stream == 0 || self.batch.epoch == header.epoch)
    }

    fn add(&mut self, epoch: u64, kind: Kind, lines: Vec<Bytes>, stream: u64) {
        let Kind::Append { after, position, published, config, waits } = kind else { return };
        if self.stream == 0 {
            self.batch.after = after;
        }
        self.batch.epoch = epoch;
        self.batch.position = self.batch.position.max(position);
        self.batch.published = self.batch.published.max(published);
        self.batch.config = config.or(self.batch.config);
        self.batch.waits = waits;
        self.lines.extend(lines);
        self.stream = stream;
    }
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
}
