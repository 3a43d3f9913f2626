//! What a sidecar answers to people: status, states, histories and the journal, straight from its store.

mod events;

use bytes::{BufMut as _, Bytes, BytesMut};
use rhizon_api::agent::OperatingMode;
use rhizon_kernel::Head;
use rhizon_kernel::chain::{self, Hash};
use rhizon_kernel::record::NoRecord;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::driver::Report;
use crate::gateway::{After, Question, Reply, Verb};
use crate::store::{EventStore, Row, StoreError};

/// A reply stays well below the broker's largest payload.
const REPLY_BYTES: usize = 512 << 10;
const PAGE_ENTITIES: usize = 1_000;
/// Of states, where only what is known of them counts.
const PAGE_BYTES: usize = 4 << 20;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    ready: bool,
    mode: OperatingMode,
    shard: u32,
    shards: usize,
    /// Whether nothing that was taken is unfinished, and how many calls, appends and publishes are under way.
    idle: bool,
    in_flight: usize,
    position: u64,
    records: u64,
    entities: u64,
    parked: u64,
    held: u64,
    deferred: u64,
    dead: u64,
    /// Of the last record.
    link: Hash,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Hash>,
    last_error: Option<String>,
}

/// What an answer tells besides what the store holds.
#[derive(Debug, Clone)]
pub struct Circumstances {
    pub report: Report,
    pub mode: OperatingMode,
    pub shard: u32,
    pub shards: usize,
}

#[derive(Serialize)]
struct View<'a> {
    entity: &'a str,
    version: u64,
    hash: Hash,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<jiff::Timestamp>,
    state: Option<&'a RawValue>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the agent has no record of entity '{0}'")]
    NotFound(String),
    #[error("the agent knows no event with the key {0}")]
    UnknownEvent(Hash),
    #[error("no open dead letter has the key {0}: it was dealt with, or there never was one")]
    NoDeadLetter(Hash),
    #[error("the question is not understood: {0}")]
    BadQuestion(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the journal is broken: {0}")]
    Broken(#[from] NoRecord),
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::UnknownEvent(_) | Self::NoDeadLetter(_) => "not_found",
            Self::BadQuestion(_) => "bad_question",
            Self::Store(_) => "store",
            Self::Broken(_) => "broken_journal",
        }
    }
}

/// Answers one question; refusals are answers too.
pub async fn answer(store: &impl EventStore, circumstances: Circumstances, verb: Verb, question: Question) -> Reply {
    let answered = match verb {
        Verb::Status => status(store, circumstances, question.root).await,
        Verb::Entities => entities(store, question).await,
        Verb::Entity => entity(store, question).await,
        Verb::History | Verb::Journal => lines(store, verb, question).await,
        Verb::Event => events::event(store, question).await,
        Verb::Dead => events::dead(store, question).await,
    };
    answered.unwrap_or_else(|refusal| refused(refusal.code(), &refusal.to_string()))
}

pub fn refused(code: &str, detail: &str) -> Reply {
    let error = serde_json::json!({"error": {"code": code, "detail": detail}});
    Reply { body: Bytes::from(error.to_string()), next: None }
}

async fn status(store: &impl EventStore, circumstances: Circumstances, with_root: bool) -> Result<Reply, Refusal> {
    let Circumstances { report, mode, shard, shards } = circumstances;
    let (counts, mark) = (store.counts().await?, store.mark().await?);
    let status = Status {
        ready: report.attached,
        mode,
        shard,
        shards,
        idle: report.idle,
        in_flight: report.in_flight,
        position: report.position,
        records: mark.tail.sequence,
        entities: counts.entities,
        parked: counts.parked,
        held: counts.held,
        deferred: counts.deferred,
        dead: counts.dead,
        link: mark.tail.link,
        root: if with_root { Some(root(store).await?) } else { None },
        last_error: report.last_error,
    };
    Ok(ok(&status))
}

/// The Merkle root over all entities, read page by page.
pub async fn root(store: &impl EventStore) -> Result<Hash, StoreError> {
    let mut leaves = Vec::new();
    let mut after = String::new();
    loop {
        let page = store.entities(after, PAGE_ENTITIES, PAGE_BYTES).await?;
        leaves.extend(page.iter().map(|(entity, head)| chain::leaf(entity, head.version, &head.hash)));
        match page.into_iter().last() {
            Some((last, _)) => after = last,
            None => return Ok(chain::root(&leaves)),
        }
    }
}

async fn entities(store: &impl EventStore, question: Question) -> Result<Reply, Refusal> {
    let after = match question.after {
        None => String::new(),
        Some(After::Key(key)) => key,
        Some(After::Sequence(_)) => return Err(Refusal::BadQuestion("'after' is a key here")),
    };
    let limit = question.limit.map_or(PAGE_ENTITIES, |limit| limit as usize).clamp(1, PAGE_ENTITIES);
    let page = store.entities(after, limit, REPLY_BYTES).await?;
    let mut size = 0;
    let fits = page.iter().take_while(|(_, head)| {
        let before = size;
        size += head.bytes() + 256;
        before == 0 || size < REPLY_BYTES
    });
    let items: Vec<View<'_>> = fits.map(|(entity, head)| view(entity, head)).collect();
    let is_last = items.len() == page.len() && page.len() < limit && size < REPLY_BYTES;
    let next = if is_last { None } else { items.last().map(|item| item.entity) };
    Ok(ok(&serde_json::json!({"items": items, "next": next})))
}

async fn entity(store: &impl EventStore, question: Question) -> Result<Reply, Refusal> {
    let entity = question.entity.ok_or(Refusal::BadQuestion("'entity' is missing"))?;
    let loaded = store.load(vec![entity.clone()], Vec::new()).await?;
    match loaded.heads.into_iter().next().flatten() {
        Some(head) => Ok(ok(&view(&entity, &head))),
        None => Err(Refusal::NotFound(entity)),
    }
}

fn view<'a>(entity: &'a str, head: &'a Head) -> View<'a> {
    View { entity, version: head.version, hash: head.hash, time: head.time, state: head.state.as_deref() }
}

async fn lines(store: &impl EventStore, verb: Verb, question: Question) -> Result<Reply, Refusal> {
    let after = match question.after {
        None => 0,
        Some(After::Sequence(sequence)) => sequence,
        Some(After::Key(_)) => return Err(Refusal::BadQuestion("'after' is a sequence here")),
    };
    let mut rows = match (verb, question.entity) {
        (Verb::History, Some(entity)) => {
            let rows = store.history(entity.clone(), after, REPLY_BYTES).await?;
            if rows.is_empty() && after == 0 {
                return Err(Refusal::NotFound(entity));
            }
            rows
        }
        (Verb::History, None) => return Err(Refusal::BadQuestion("'entity' is missing")),
        _ => store.journal(after, REPLY_BYTES).await?,
    };
    if let Some(limit) = question.limit {
        rows.truncate(limit as usize);
    }
    // An empty page ends the reading, so the last record need not be known.
    let next = rows.last().map(|row| row.sequence);
    Ok(Reply { body: ndjson(&rows), next })
}

fn ndjson(rows: &[Row]) -> Bytes {
    let mut out = BytesMut::with_capacity(rows.iter().map(|row| row.line.len() + 1).sum());
    for row in rows {
        out.put_slice(&row.line);
        out.put_u8(b'\n');
    }
    out.freeze()
}

fn ok(value: &impl Serialize) -> Reply {
    #[derive(Serialize)]
    struct Ok<'a, T> {
        ok: &'a T,
    }
    let body = serde_json::to_vec(&Ok { ok: value }).expect("answers have only string keys");
    Reply { body: body.into(), next: None }
}

/// The verb and question of a request on `rq.<agent>.<verb>`.
pub fn parse(subject: &str, payload: &[u8]) -> Option<(Verb, Question)> {
    let verb = Verb::ALL.into_iter().find(|verb| subject.rsplit('.').next() == Some(verb.as_str()))?;
    let question = if payload.is_empty() { Question::default() } else { serde_json::from_slice(payload).ok()? };
    Some((verb, question))
}

/// The agent's name in a subject `rq.<agent>.<verb>`.
pub fn subject(agent: &str, verb: Verb) -> String {
    format!("rq.{agent}.{}", verb.as_str())
}
