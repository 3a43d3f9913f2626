//! The reading half of the API: what sidecars answer, passed on to callers with the reader right.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use rhizon_api::settings::Agent;
use rhizon_kernel::chain::Hash;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::caller::Caller;
use super::problem::Problem;
use super::reader::{After, Question, ReadError, Reader, Reply, Verb};

pub(super) type Readers = State<Arc<dyn Reader>>;
pub(super) type Page<T> = Result<Query<T>, QueryRejection>;

/// What is asked of an agent, by who may read it.
pub(super) fn may_ask<T>(caller: &Caller, agent: &str, asked: Page<T>) -> Result<T, Problem> {
    caller.may_read_of(agent)?;
    asked.map(|Query(asked)| asked).map_err(|error| invalid_query(&error))
}

/// One row of the list of agents; a sidecar that does not answer is listed as not ready.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    shards: u32,
    #[serde(flatten)]
    status: Status,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Status {
    ready: bool,
    position: u64,
    records: u64,
    entities: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
}

/// `GET /v1/agents`
pub(super) async fn agents(caller: Caller, State(reader): Readers) -> Result<Response, Problem> {
    caller.may_read()?;
    let agents = &caller.policy().agents;
    let answers = join_all(agents.iter().map(|agent| whole(reader.as_ref(), agent))).await;
    let items: Vec<Listed> = agents
        .iter()
        .zip(answers)
        .map(|(agent, answer)| Listed { name: &agent.name, shards: agent.shards, status: answer.unwrap_or_default() })
        .collect();
    Ok(json(&serde_json::json!({ "items": items })))
}

/// An agent's shards as one: it is where the last of them is. Each shard has a root of its own.
async fn whole(reader: &dyn Reader, agent: &Agent) -> Option<Status> {
    let ask = async |shard| {
        let question = Question { shard: Some(shard), root: agent.shards == 1, ..Question::default() };
        let reply = reader.ask(&agent.name, Verb::Status, question).await.ok()?.into_json().ok()?;
        serde_json::from_str::<Status>(reply.get()).ok()
    };
    let shards = join_all((0..agent.shards).map(ask)).await.into_iter().collect::<Option<Vec<_>>>()?;
    shards.into_iter().reduce(|all, shard| Status {
        ready: all.ready && shard.ready,
        position: all.position.min(shard.position),
        records: all.records + shard.records,
        entities: all.entities + shard.entities,
        root: None,
    })
}

#[derive(Deserialize)]
pub(super) struct OneShard {
    #[serde(default)]
    shard: u32,
}

/// `GET /v1/agents/{agent}?shard=<n>`: the first shard, or another one.
pub(super) async fn agent(
    caller: Caller,
    State(reader): Readers,
    Path(agent): Path<String>,
    shard: Page<OneShard>,
) -> Result<Response, Problem> {
    let OneShard { shard } = may_ask(&caller, &agent, shard)?;
    let question = Question { shard: Some(shard), root: true, ..Question::default() };
    let reply = reader.ask(&agent, Verb::Status, question).await.and_then(Reply::into_json);
    let text = reply.map_err(|error| problem(&caller, &agent, &error))?;
    let status = serde_json::from_str(text.get())
        .map_err(|error| problem(&caller, &agent, &ReadError::Unreadable(error.to_string())))?;
    Ok(json(&serde_json::json!(Listed { name: &agent, shards: caller.agent(&agent)?.shards, status })))
}

/// `GET /v1/agents/{agent}/entities/{entity}`
pub(super) async fn entity(
    caller: Caller,
    State(reader): Readers,
    Path((agent, entity)): Path<(String, String)>,
) -> Result<Response, Problem> {
    caller.may_read_of(&agent)?;
    let question = Question { entity: Some(entity), ..Question::default() };
    answer(&caller, reader.as_ref(), &agent, Verb::Entity, question).await
}

#[derive(Deserialize)]
pub(super) struct RecordPage {
    shard: Option<u32>,
    after: Option<u64>,
    limit: Option<u32>,
}

impl From<RecordPage> for Question {
    fn from(page: RecordPage) -> Self {
        let RecordPage { shard, after, limit } = page;
        Self { shard, after: after.map(After::Sequence), limit, ..Self::default() }
    }
}

/// `GET /v1/agents/{agent}/entities/{entity}/history?after=<seq>&limit=<n>`
pub(super) async fn history(
    caller: Caller,
    State(reader): Readers,
    Path((agent, entity)): Path<(String, String)>,
    page: Page<RecordPage>,
) -> Result<Response, Problem> {
    let page = may_ask(&caller, &agent, page)?;
    let question = Question { entity: Some(entity), ..page.into() };
    lines(&caller, reader, agent, Verb::History, vec![question]).await
}

/// `GET /v1/agents/{agent}/journal?after=<seq>`
pub(super) async fn journal(
    caller: Caller,
    State(reader): Readers,
    Path(agent): Path<String>,
    page: Page<RecordPage>,
) -> Result<Response, Problem> {
    let page = may_ask(&caller, &agent, page)?;
    lines(&caller, reader, agent, Verb::Journal, vec![page.into()]).await
}

/// `GET /v1/agents/{agent}/dead?shard=<n>&after=<seq>&limit=<n>`: of all shards, or of one.
pub(super) async fn dead(
    caller: Caller,
    State(reader): Readers,
    Path(agent): Path<String>,
    page: Page<RecordPage>,
) -> Result<Response, Problem> {
    let page = may_ask(&caller, &agent, page)?;
    let question = Question::from(page);
    let shards = match question.shard {
        None => (0..caller.agent(&agent)?.shards).map(Some).collect(),
        given => vec![given],
    };
    let questions = shards.into_iter().map(|shard| Question { shard, ..question.clone() }).collect();
    lines(&caller, reader, agent, Verb::Dead, questions).await
}

/// `GET /v1/agents/{agent}/dead/{key}`
pub(super) async fn dead_letter(
    caller: Caller,
    State(reader): Readers,
    Path((agent, key)): Path<(String, String)>,
) -> Result<Response, Problem> {
    caller.may_read_of(&agent)?;
    let record = open_dead_letter(&caller, reader.as_ref(), &agent, event_key(&key)?).await?;
    Ok(([(CONTENT_TYPE, "application/json")], record).into_response())
}

/// The record of a dead letter that nobody has dealt with.
pub(super) async fn open_dead_letter(
    caller: &Caller,
    reader: &dyn Reader,
    agent: &str,
    key: Hash,
) -> Result<Bytes, Problem> {
    let mut none = ReadError::NoAnswer;
    for shard in 0..caller.agent(agent)?.shards {
        let question = Question { key: Some(key), shard: Some(shard), ..Question::default() };
        match page(reader, agent, Verb::Dead, question).await {
            Ok((line, _)) => return Ok(line.slice(..line.len().saturating_sub(1))),
            Err(error) => none = error,
        }
    }
    Err(problem(caller, agent, &none))
}

pub(super) fn event_key(text: &str) -> Result<Hash, Problem> {
    let wrong = || Problem::invalid("invalid_key", "key", "an event's key is 64 lower-case hexadecimal digits");
    Hash::from_hex(text.as_bytes()).ok_or_else(wrong)
}

async fn answer(
    caller: &Caller,
    reader: &dyn Reader,
    agent: &str,
    verb: Verb,
    question: Question,
) -> Result<Response, Problem> {
    let reply = reader.ask(agent, verb, question).await.and_then(Reply::into_json);
    Ok(json_text(&reply.map_err(|error| problem(caller, agent, &error))?))
}

/// Pages as one stream, question after question. The first page is there before the answer begins, so that its error still
/// has a status; a later error breaks the connection off, which no client takes for the end.
async fn lines(
    caller: &Caller,
    reader: Arc<dyn Reader>,
    agent: String,
    verb: Verb,
    questions: Vec<Question>,
) -> Result<Response, Problem> {
    let mut pages = Pages { reader, agent, verb, questions: questions.into() };
    let first = pages.next().await.map_err(|error| problem(caller, &pages.agent, &error))?.unwrap_or_default();
    let rest = stream::try_unfold(pages, |mut pages| async move {
        let page = pages.next().await?;
        Ok::<_, ReadError>(page.map(|page| (page, pages)))
    });
    let body = Body::from_stream(stream::once(async move { Ok(first) }).chain(rest));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// What is still to be asked.
struct Pages {
    reader: Arc<dyn Reader>,
    agent: String,
    verb: Verb,
    questions: VecDeque<Question>,
}

impl Pages {
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some(question) = self.questions.pop_front() else { return Ok(None) };
        let limited = question.limit.is_some();
        let (body, next) = page(self.reader.as_ref(), &self.agent, self.verb, question.clone()).await?;
        if let Some(after) = next.filter(|_| !limited) {
            self.questions.push_front(Question { after: Some(After::Sequence(after)), ..question });
        }
        Ok(Some(body))
    }
}

async fn page(
    reader: &dyn Reader,
    agent: &str,
    verb: Verb,
    question: Question,
) -> Result<(Bytes, Option<u64>), ReadError> {
    let reply = reader.ask(agent, verb, question).await?.into_lines()?;
    Ok((reply.body, reply.next))
}

pub(super) fn problem(caller: &Caller, agent: &str, error: &ReadError) -> Problem {
    match error {
        ReadError::NoAnswer if !caller.policy().agents.iter().any(|known| known.name == agent) => {
            caller.no_such_agent(agent)
        }
        ReadError::NoAnswer => {
            let detail = format!("the sidecar of agent '{agent}' does not answer; look at `kubectl get rhizonagents`");
            Problem::unavailable("agent_away", detail)
        }
        ReadError::Refused { code, detail } if code == "not_found" => Problem::not_found(detail.clone()),
        ReadError::Refused { code, detail } if code == "bad_question" => {
            Problem::invalid("invalid_query", "query", detail.clone())
        }
        ReadError::Refused { detail, .. } => Problem::unavailable("agent_refuses", detail.clone()),
        ReadError::Unreadable(_) => Problem::unavailable("agent_unreadable", error.to_string()),
    }
}

pub(super) fn invalid_query(error: &QueryRejection) -> Problem {
    Problem::invalid("invalid_query", "query", error.body_text())
}

pub(super) fn json(value: &serde_json::Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

pub(super) fn json_text(text: &RawValue) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.get().to_owned()).into_response()
}
