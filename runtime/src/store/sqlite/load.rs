//! What is known of entities and events.

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use sqlx::sqlite::SqliteRow;

use super::super::rows::{self, failed, hash, number, small};
use super::super::{Batch, Known, Result, StoreError};
use super::transaction::with_keys;
use super::{SqliteStore, packed};

impl SqliteStore {
    pub(super) async fn heads(&self, entities: &[String]) -> Result<Vec<(String, (Option<Head>, u64))>> {
        if entities.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT e.value, h.version, h.hash, h.time, h.state, \
                          (SELECT count(*) FROM parked WHERE entity = e.value AND holds = 1) \
                   FROM json_each(?) e LEFT JOIN heads h ON h.entity = e.value";
        let list = serde_json::to_string(entities).unwrap_or_default();
        let rows = sqlx::query(sql).bind(list).fetch_all(&self.readers).await.map_err(|e| failed("load", &e))?;
        rows.iter().map(rows::head_and_held).collect()
    }

    /// What is known of events: of one the last counts.
    pub(super) async fn known(&self, keys: &[Hash]) -> Result<Vec<(Hash, Known)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut known = self.undecided(keys).await?;
        let decided = self.decided(keys).await?.into_iter();
        known.extend(decided.map(|(key, digest, _)| (key, Known::Settled(digest))));
        Ok(known)
    }

    /// Most of the time nothing is parked and nothing was tried.
    async fn undecided(&self, keys: &[Hash]) -> Result<Vec<(Hash, Known)>> {
        let sql = "SELECT EXISTS (SELECT 1 FROM attempts) OR EXISTS (SELECT 1 FROM parked)";
        let any: bool = sqlx::query_scalar(sql).fetch_one(&self.readers).await.map_err(|e| failed("load", &e))?;
        if !any {
            return Ok(Vec::new());
        }
        let sql = packed!(
            "SELECT a.key, a.count, NULL, 0 AS stream, 0 AS place FROM keys JOIN attempts a USING (key) \
             UNION ALL SELECT p.key, NULL, p.digest, p.stream, 1 FROM keys JOIN parked p USING (key) \
             ORDER BY place, stream DESC"
        );
        let rows = with_keys(sql, keys).fetch_all(&self.readers).await.map_err(|e| failed("load", &e))?;
        let known = |row: &SqliteRow| {
            Ok(match number(row, 4)? {
                0 => Known::Tried(small(row, 1)?),
                _ => Known::Parked(hash(row, 2)?),
            })
        };
        rows.iter().map(|row| Ok((hash(row, 0)?, known(row)?))).collect()
    }

    /// An event has one effect: the last line of defence, whatever the driver knew.
    pub(super) async fn refuse_decided(&self, batch: &Batch) -> Result<()> {
        let identities = batch.entries.iter().filter_map(|entry| entry.decision.as_ref()?.identity);
        let keys: Vec<Hash> = identities.map(|(key, _)| key).collect();
        match self.decided(&keys).await?.first() {
            None => Ok(()),
            Some((.., sequence)) if *sequence > batch.after => Ok(()), // The batch is refused for what it follows.
            Some((key, _, sequence)) => {
                let cause = format!("record {sequence} has decided on event {key}");
                Err(StoreError::Failed { doing: "append", cause })
            }
        }
    }
}
