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

use super::super::rows::{self, failed, hash, number, signed};
use super::super::{Result, StoreError};
use super::append::{self, Entries, Tx};
use super::filter::Filter;
use super::sweep::{Identity, Stretch, Sweep};
use super::{SqliteStore, packed};

/// Records that are read together when this process did not write them.
const PAGE: u64 = 1_000;
/// Keys of the index that are read together for the filter.
const KEYS: usize = 20_000;

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
    /// Absent until all keys of the index are in it.
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
        let mut state = self.state();
        let stretch = state.sweep.as_mut().map(|sweep| sweep.next(records)).unwrap_or_default();
        let State { filter, making, .. } = &mut *state;
        for filter in [filter, making].into_iter().flatten() {
            stretch.known.iter().for_each(|(key, ..)| filter.add(key));
        }
        stretch
    }

    /// Whether the filter has become too small.
    fn appended<'a>(&self, entries: impl Entries<'a>, stretch: &Stretch) -> bool {
        let mut state = self.state();
        if let Some(sweep) = &mut state.sweep {
            for entry in entries {
                let decision = entry.decision.as_ref();
                let entity = decision.map(|decision| decision.entity.as_str());
                sweep.push(entry.sequence, entity, decision.and_then(|decision| decision.identity));
            }
            sweep.moved(stretch);
        }
        state.making.is_none() && state.filter.as_ref().is_some_and(Filter::is_full)
    }

    fn find(&self, keys: &[Hash]) -> Found {
        let state = self.state();
        let mut found = Found::default();
        for key in keys {
            if let Some((digest, sequence)) = state.sweep.as_ref().and_then(|sweep| sweep.find(key)) {
                found.decided.push((*key, digest, sequence));
            }
            if state.filter.as_ref().is_none_or(|filter| filter.may_have(key)) {
                found.perhaps.push(*key);
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
        let done = append::transaction(&self.writer, doing, async |tx: &mut Tx| {
            work(tx).await?;
            append::move_stretch(tx, &stretch).await
        })
        .await;
        if done.is_err() {
            self.indexes.state().in_doubt = true;
        } else if self.indexes.appended(entries, &stretch) {
            self.make_filter();
        }
        done
    }

    /// Takes note of records that this process has not written. The turn must be taken.
    pub(super) async fn follow(&self) -> Result<()> {
        let row = sqlx::query("SELECT sequence, swept FROM mark").fetch_one(&self.readers).await;
        let row = row.map_err(|e| failed("read the mark", &e))?;
        let (end, swept) = (number(&row, 0)?, number(&row, 1)?);
        let (kept, mut broken) = {
            let mut state = self.indexes.state();
            (state.sweep.take(), state.broken.take())
        };
        let mut sweep = kept.filter(|sweep| sweep.swept() == swept).unwrap_or_else(|| Sweep::behind(swept));
        while sweep.end() < end {
            let sql = "SELECT sequence, line FROM journal WHERE sequence > ? AND sequence <= ? ORDER BY sequence";
            let until = end.min(sweep.end() + PAGE);
            let query = sqlx::query(sql).bind(signed(sweep.end())).bind(signed(until));
            let page = query.fetch_all(&self.readers).await.map_err(|e| failed("read the journal", &e))?;
            for row in &page {
                let row = rows::journal_row(row)?;
                let named = named(&row.line).unwrap_or_else(|error| {
                    broken.get_or_insert(format!("record {}: {error}", row.sequence));
                    None
                });
                let (entity, identity) = named.unzip();
                sweep.push(row.sequence, entity.as_deref(), identity);
            }
            if page.is_empty() {
                broken.get_or_insert(format!("record {} is missing", sweep.end() + 1));
                break;
            }
        }
        let mut state = self.indexes.state();
        (state.sweep, state.in_doubt, state.broken) = (Some(sweep), false, broken);
        let is_new = state.filter.is_none() && state.making.is_none();
        drop(state);
        if is_new {
            self.make_filter();
        }
        Ok(())
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
            let query = append::with_keys(sql, &perhaps);
            for row in query.fetch_all(&self.readers).await.map_err(|e| failed("look for events", &e))? {
                decided.push((hash(&row, 0)?, hash(&row, 1)?, number(&row, 2)?));
            }
        }
        Ok(decided)
    }

    /// Up to where the index has an entity's records, and the next ones behind `after` that it has not.
    pub(super) async fn fresh_of_entity(&self, entity: &str, after: u64, limit: usize) -> Result<(u64, Vec<u64>)> {
        self.look().await?;
        let state = self.indexes.state();
        let Some(sweep) = &state.sweep else { return Ok((0, Vec::new())) };
        let fresh = sweep.of_entity(entity).filter(|sequence| *sequence > after).take(limit).collect();
        Ok((sweep.swept(), fresh))
    }

    /// In the background, from all keys of the index. The turn must be taken: what joins the index from now on joins the
    /// filter too.
    fn make_filter(&self) {
        let generation = {
            let mut state = self.indexes.state();
            let keys = state.sweep.as_ref().map_or(0, Sweep::end);
            let keys = keys.max(state.filter.as_ref().map_or(0, Filter::keys));
            state.making = Some(Filter::for_keys(keys));
            state.generation += 1;
            state.generation
        };
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

/// Entity and identity of the event that a record decided; none for a config record.
pub(in super::super) fn named(line: &[u8]) -> std::result::Result<Option<(String, Identity)>, NoRecord> {
    let Part::Decided(bytes) = Line::parse(line)?.part else { return Ok(None) };
    let decided = Decided::parse(bytes)?;
    let identity = decided.identity()?;
    Ok(Some((decided.entity.into_owned(), identity)))
}
