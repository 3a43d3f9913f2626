//! The indexes of events and entities, with what is on its way there.
//!
//! ```text
//! append ─▶ follow, if others wrote ─▶ a stretch of older records joins the transaction ─▶ its own records are gathered
//! look   ─▶ follow, unless this is the owner ─▶ memory ─▶ the table, where the filter does not rule it out
//! ```

use std::sync::{Arc, MutexGuard, PoisonError};

use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::{Decided, Line, NoRecord, Part};
use sqlx::Row as _;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::super::rows::{failed, hash, number, signed};
use super::super::{Result, StoreError};
use super::append;
use super::filter::Filter;
use super::sweep::{Identity, KnownId, Stretch, Sweep};
use super::transaction::{Entries, Tx, transaction, with_keys};
use super::{PAGE, SqliteStore, journal, packed};

/// Keys of the index that are read together for the filter.
const KEYS: usize = 1_000;

#[derive(Default)]
pub(super) struct Indexes {
    state: std::sync::Mutex<State>,
    /// Held by who appends, or reads what others have appended.
    turn: Mutex<()>,
    tasks: std::sync::Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    sweep: Option<Sweep>,
    /// Absent until all keys of the index and of the sweep are in it.
    filter: Option<Filter>,
    /// A filter that is being made, and which making it is: another one is not to be taken for it.
    making: Option<Filter>,
    generation: u64,
    /// Whether nobody else can write.
    is_owner: bool,
    /// Whether a write had an end that is not known.
    in_doubt: bool,
    /// A record that can't be read.
    broken: Option<String>,
}

impl State {
    /// Others have brought records to the indexes that were never seen here.
    fn begin_behind(&mut self, swept: u64) {
        (self.sweep, self.filter, self.making) = (Some(Sweep::behind(swept)), None, None);
        self.generation += 1;
    }

    fn push(&mut self, sequence: u64, entity: Option<&str>, identity: Option<Identity>) {
        if let Some(sweep) = &mut self.sweep {
            sweep.push(sequence, entity, identity);
        }
        if let Some((key, _)) = identity {
            [&mut self.filter, &mut self.making].into_iter().flatten().for_each(|filter| filter.add(&key));
        }
    }

    fn moved(&mut self, stretch: &Stretch) {
        if let Some(sweep) = &mut self.sweep {
            sweep.moved(stretch);
        }
    }
}

/// What memory says of events.
#[derive(Default)]
pub(super) struct Found {
    pub(super) decided: Vec<(Hash, Hash, u64)>,
    /// Those that the index may have.
    pub(super) perhaps: Vec<Hash>,
}

impl Indexes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        let mut state = self.state();
        (state.sweep, state.filter, state.making) = (None, None, None);
        state.generation += 1;
    }

    fn next(&self, records: usize) -> Stretch {
        self.state().sweep.as_mut().map(|sweep| sweep.next(records)).unwrap_or_default()
    }

    fn find(&self, keys: &[Hash]) -> Found {
        let state = self.state();
        let mut found = Found::default();
        for key in keys.iter().filter(|key| state.filter.as_ref().is_none_or(|filter| filter.may_have(key))) {
            found.perhaps.push(*key);
            if let Some((digest, sequence)) = state.sweep.as_ref().and_then(|sweep| sweep.find(key)) {
                found.decided.push((*key, digest, sequence));
            }
        }
        found
    }

    pub(super) async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

impl SqliteStore {
    /// A transaction that writes records behind `after`, and takes a stretch of older ones to the indexes.
    pub(in super::super) async fn append_behind<'a>(
        &self,
        doing: &'static str,
        after: u64,
        entries: impl Entries<'a>,
        work: impl AsyncFnOnce(&mut Tx) -> Result<()>,
    ) -> Result<()> {
        let _turn = self.indexes.turn.lock().await;
        let is_here = |state: &State| !state.in_doubt && state.sweep.as_ref().is_some_and(|sweep| sweep.end() == after);
        if !is_here(&self.indexes.state()) {
            self.follow().await?;
        }
        let stretch = self.indexes.next(entries.clone().into_iter().count());
        let done = transaction(&self.writer, doing, async |tx: &mut Tx| {
            work(tx).await?;
            append::move_stretch(tx, &stretch).await
        })
        .await;
        let mut state = self.indexes.state();
        if done.is_err() {
            state.in_doubt = true;
            return done;
        }
        for entry in entries {
            let decision = entry.decision.as_ref();
            let (entity, identity) = (decision.map(|d| d.entity.as_str()), decision.and_then(|d| d.identity));
            state.push(entry.sequence, entity, identity);
        }
        state.moved(&stretch);
        if state.making.is_none() && state.filter.as_ref().is_some_and(Filter::is_full) {
            self.make_filter(&mut state);
        }
        Ok(())
    }

    /// Takes note of records that this process has not written. The turn must be taken.
    async fn follow(&self) -> Result<()> {
        let row = sqlx::query("SELECT sequence, swept FROM mark").fetch_one(&self.readers).await;
        let row = row.map_err(|e| failed("read the mark", &e))?;
        let (end, swept) = (number(&row, 0)?, number(&row, 1)?);
        let seen = self.indexes.state().sweep.as_ref().map(Sweep::end).filter(|seen| *seen >= swept);
        let (records, broken) = self.named_behind(seen.unwrap_or(swept), end).await?;
        let mut state = self.indexes.state();
        if seen.is_none() {
            state.begin_behind(swept);
        }
        for (sequence, named) in records {
            let (entity, identity) = named.unzip();
            state.push(sequence, entity.as_deref(), identity);
        }
        state.in_doubt = false;
        state.broken = state.broken.take().or(broken);
        if state.filter.is_none() && state.making.is_none() {
            self.make_filter(&mut state);
        }
        Ok(())
    }

    /// What records bring to the indexes, and the first of them that can't be read.
    async fn named_behind(&self, after: u64, end: u64) -> Result<(Vec<(u64, Option<Named>)>, Option<String>)> {
        let (mut reader, mut records, mut broken, mut last) = (self.reader().await?, Vec::new(), None, after);
        while last < end {
            let page = journal::behind(&mut reader, last, PAGE, usize::MAX).await?;
            if page.is_empty() {
                broken.get_or_insert(format!("record {} is missing", last + 1));
                break;
            }
            for row in page.into_iter().filter(|row| row.sequence <= end) {
                let named = named(&row.line).unwrap_or_else(|error| {
                    broken.get_or_insert(format!("record {}: {error}", row.sequence));
                    None
                });
                records.push((row.sequence, named));
                last = row.sequence;
            }
        }
        Ok((records, broken))
    }

    /// The tables were written to in another way.
    pub(in super::super) fn forget(&self) {
        self.indexes.forget();
    }

    /// From now on nobody else writes. Whoever can't read what was decided must not decide.
    pub(in super::super) async fn own(&self) -> Result<()> {
        let _turn = self.indexes.turn.lock().await;
        self.follow().await?;
        let mut state = self.indexes.state();
        state.is_owner = true;
        state.broken.clone().map_or(Ok(()), |what| Err(StoreError::Broken(what)))
    }

    /// Looks whether others have written, unless nobody else can.
    async fn look(&self) -> Result<()> {
        let is_here = |state: &State| state.is_owner && !state.in_doubt && state.sweep.is_some();
        if is_here(&self.indexes.state()) {
            return Ok(());
        }
        let _turn = self.indexes.turn.lock().await;
        self.follow().await
    }

    /// What is decided of events: key, digest and record, and of one event that which counts last.
    pub(in super::super) async fn decided(&self, keys: &[Hash]) -> Result<Vec<(Hash, Hash, u64)>> {
        self.look().await?;
        let Found { mut decided, perhaps } = self.indexes.find(keys);
        if !perhaps.is_empty() {
            let sql = packed!("SELECT k.key, k.digest, k.sequence FROM keys CROSS JOIN known k USING (key)");
            let query = with_keys(sql, &perhaps);
            for row in query.fetch_all(&self.readers).await.map_err(|e| failed("look for events", &e))? {
                decided.push((hash(&row, 0)?, hash(&row, 1)?, number(&row, 2)?));
            }
        }
        Ok(decided)
    }

    /// Tells ids and entities of the records behind the first up to the second; answers whether all of them are in memory.
    pub(in super::super) fn between(
        &self,
        records: (u64, u64),
        known_id: impl FnMut(KnownId),
        entity: impl FnMut(&str),
    ) -> bool {
        self.indexes.state().sweep.as_ref().is_some_and(|sweep| sweep.between(records, known_id, entity))
    }

    /// Up to where the index has an entity's records, and the next ones behind `after` that it has not.
    pub(super) async fn fresh_of_entity(&self, entity: &str, after: u64, limit: usize) -> Result<(u64, Vec<u64>)> {
        self.look().await?;
        let state = self.indexes.state();
        let Some(sweep) = &state.sweep else { return Ok((0, Vec::new())) };
        let fresh = sweep.of_entity(entity).filter(|sequence| *sequence > after).take(limit).collect();
        Ok((sweep.swept(), fresh))
    }

    /// In the background, from all keys of the index. The turn must be taken: what comes from now on joins the filter too.
    fn make_filter(&self, state: &mut State) {
        let sweep = state.sweep.as_ref();
        let keys = sweep.map_or(0, Sweep::end).max(state.filter.as_ref().map_or(0, Filter::keys));
        let mut making = Filter::for_keys(keys);
        sweep.into_iter().flat_map(Sweep::keys).for_each(|key| making.add(key));
        state.making = Some(making);
        state.generation += 1;
        let generation = state.generation;
        let (indexes, readers) = (Arc::downgrade(&self.indexes), self.readers.clone());
        let mut tasks = self.indexes.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let mut last = Vec::new();
            loop {
                let query = sqlx::query("SELECT key FROM known WHERE key > ? ORDER BY key LIMIT ?");
                let query = query.bind(last.clone()).bind(signed(KEYS as u64));
                let Some(indexes) = indexes.upgrade() else { return };
                let page = query.fetch_all(&readers).await;
                let mut state = indexes.state();
                let ours = state.generation == generation;
                let (Ok(page), Some(making)) = (&page, state.making.as_mut().filter(|_| ours)) else {
                    if ours {
                        state.making = None;
                    }
                    if let Err(error) = page {
                        tracing::warn!(%error, "reading known ids; each event is looked up until the next start");
                    }
                    return;
                };
                page.iter().filter_map(|row| hash(row, 0).ok()).for_each(|key| making.add(&key));
                match page.last().map(|row| row.try_get::<Vec<u8>, _>(0)) {
                    Some(Ok(key)) if page.len() == KEYS => last = key,
                    _ => {
                        state.filter = state.making.take();
                        return;
                    }
                }
            }
        });
    }
}

/// Entity and identity of an event.
type Named = (String, Identity);

/// Those of the event that a record decided; none for a config record.
pub(in super::super) fn named(line: &[u8]) -> std::result::Result<Option<Named>, NoRecord> {
    let Part::Decided(bytes) = Line::parse(line)?.part else { return Ok(None) };
    let decided = Decided::parse(bytes)?;
    let identity = decided.identity()?;
    Ok(Some((decided.entity.into_owned(), identity)))
}
