//! Answers about one event, by its key: what became of it, and the dead letters that are open.

use jiff::Timestamp;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::{Decided, Line, NoRecord, Part};

use super::{REPLY_BYTES, Refusal, ndjson, ok};
use crate::gateway::{After, Outcome, Question, Reply, Sent, WAITING};
use crate::store::{EventStore, Fate, Row};

pub(super) async fn event(store: &impl EventStore, question: Question) -> Result<Reply, Refusal> {
    let key = question.key.ok_or(Refusal::BadQuestion("'key' is missing"))?;
    let outcome = match store.fate(key).await?.ok_or(Refusal::UnknownEvent(key))? {
        Fate::Decided(row) => decided(&row)?,
        Fate::Parked { entity, due_ms, attempts } => {
            Outcome { attempts: Some(attempts), ..waiting(entity, due_ms.and_then(time)) }
        }
        Fate::Deferred { due_ms, sequence } => {
            let rows = store.journal(sequence.saturating_sub(1), 1).await?;
            let cause = decided(rows.first().ok_or(Refusal::UnknownEvent(key))?)?;
            Outcome { sequence: Some(sequence), ..waiting(cause.entity, time(due_ms)) }
        }
    };
    Ok(ok(&outcome))
}

/// A page of open dead letters, or the one with the key.
pub(super) async fn dead(store: &impl EventStore, question: Question) -> Result<Reply, Refusal> {
    let rows = match (question.key, question.after) {
        (Some(key), _) => vec![open(store, key).await?],
        (None, Some(After::Key(_))) => return Err(Refusal::BadQuestion("'after' is a sequence here")),
        (None, after) => {
            let after = if let Some(After::Sequence(sequence)) = after { sequence } else { 0 };
            let mut rows = store.dead_letters(after, REPLY_BYTES).await?;
            rows.truncate(question.limit.map_or(usize::MAX, |limit| limit as usize));
            rows
        }
    };
    Ok(Reply { body: ndjson(&rows), next: rows.last().map(|row| row.sequence) })
}

async fn open(store: &impl EventStore, key: Hash) -> Result<Row, Refusal> {
    let Some(Fate::Decided(row)) = store.fate(key).await? else { return Err(Refusal::NoDeadLetter(key)) };
    let found = store.dead_letters(row.sequence.saturating_sub(1), 1).await?;
    found.into_iter().next().filter(|found| found.sequence == row.sequence).ok_or(Refusal::NoDeadLetter(key))
}

fn waiting(entity: String, until: Option<Timestamp>) -> Outcome {
    Outcome {
        outcome: WAITING.to_owned(),
        entity,
        version: None,
        sequence: None,
        time: None,
        reason: None,
        outputs: Vec::new(),
        until,
        attempts: None,
        digest: None,
    }
}

fn decided(row: &Row) -> Result<Outcome, NoRecord> {
    let line = Line::parse(&row.line)?;
    let Part::Decided(bytes) = line.part else { return Err(NoRecord("decided")) };
    let (decided, observed) = (Decided::parse(bytes)?, line.observed()?);
    Ok(Outcome {
        outcome: decided.outcome.into_owned(),
        entity: decided.entity.into_owned(),
        version: Some(decided.after),
        sequence: Some(observed.sequence),
        time: Some(observed.time),
        reason: decided.reason,
        outputs: decided.outputs.iter().map(|raw| sent(raw.get())).collect::<Result<_, _>>()?,
        until: None,
        attempts: None,
        digest: decided.input.map(|input| Hash::of(&[input.get().as_bytes()])),
    })
}

fn sent(event: &str) -> Result<Sent, NoRecord> {
    serde_json::from_str(event).map_err(|_| NoRecord("outputs"))
}

fn time(milliseconds: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(milliseconds).ok()
}
