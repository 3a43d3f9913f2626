//! `GET /v1/events`: what became of an event, asked of every agent; and waiting for that when an event is sent.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use futures::future::join_all;
use rhizon_api::settings::Agent;
use rhizon_kernel::EventType;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::config::RESERVED_SOURCE;
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::subject::GATEWAY;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

use super::App;
use super::caller::Caller;
use super::outcome::Outcome;
use super::problem::Problem;
use super::reader::{Question, ReadError, Reader, Reply, Verb};
use super::reads::{invalid_query, json};

/// Longest wait that a client may prefer (RFC 7240, section 4.3).
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Pauses between two looks grow from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Which event is meant.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    pub source: String,
    pub id: String,
    /// Who put it on the stream. Default: the agent that the source names, or the gateway.
    publisher: Option<String>,
    /// Only this agent is asked.
    pub agent: Option<String>,
}

impl Asked {
    pub(super) fn key(&self) -> Hash {
        let publisher = self.publisher.clone().unwrap_or_else(|| publisher_of(&self.source));
        dedup_key(&publisher, &self.source, &self.id)
    }

    pub(super) fn question(&self) -> Question {
        Question { key: Some(self.key()), ..Question::default() }
    }
}

/// Agents' sources are `/rhizon/<workspace>/agents/<agent>`.
fn publisher_of(source: &str) -> String {
    let rest = source.strip_prefix(RESERVED_SOURCE).and_then(|rest| rest.split_once("/agents/"));
    rest.map_or_else(|| GATEWAY.to_owned(), |(_, agent)| format!("agent-{agent}"))
}

/// What agents know of an event.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub outcomes: Vec<Answered>,
    /// Agents whose sidecars do not answer.
    pub silent: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Answered {
    pub agent: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Asks all of them side by side: of each the entity's shard, or all shards where the entity is not known.
pub(super) async fn ask(reader: &dyn Reader, agents: &[Agent], question: &Question) -> Answers {
    let all = join_all(agents.iter().map(|agent| ask_agent(reader, agent, question))).await;
    let mut answers = Answers::default();
    for (agent, answer) in agents.iter().zip(all) {
        match answer {
            Ok(Some(outcome)) => answers.outcomes.push(Answered { agent: agent.name.clone(), outcome }),
            Ok(None) => {}
            Err(_) => answers.silent.push(agent.name.clone()),
        }
    }
    answers
}

async fn ask_agent(reader: &dyn Reader, agent: &Agent, question: &Question) -> Result<Option<Outcome>, ReadError> {
    let shards = if question.entity.is_some() { vec![None] } else { (0..agent.shards).map(Some).collect() };
    let ask = |shard| ask_shard(reader, &agent.name, Question { shard, ..question.clone() });
    let mut result = Ok(None);
    for answer in join_all(shards.into_iter().map(ask)).await {
        match answer {
            Ok(Some(outcome)) => return Ok(Some(outcome)),
            Ok(None) => {}
            Err(error) => result = Err(error),
        }
    }
    result
}

async fn ask_shard(reader: &dyn Reader, agent: &str, question: Question) -> Result<Option<Outcome>, ReadError> {
    match reader.ask(agent, Verb::Event, question).await.and_then(Reply::into_json) {
        Ok(text) => serde_json::from_str(text.get()).map_err(|error| ReadError::Unreadable(error.to_string())),
        Err(ReadError::Refused { code, .. }) if code == "not_found" => Ok(None),
        Err(error) => Err(error),
    }
}

/// `GET /v1/events?source=…&id=…`
pub(super) async fn get(
    caller: Caller,
    State(app): State<App>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Problem> {
    caller.may_read()?;
    let Query(asked) = asked.map_err(|error| invalid_query(&error))?;
    let answers = ask(app.reader.as_ref(), &caller.agents(asked.agent.as_deref())?, &asked.question()).await;
    if answers.outcomes.is_empty() {
        return Err(nobody_knows(&answers.silent));
    }
    Ok(json(&body(&asked.source, &asked.id, &answers)))
}

fn nobody_knows(silent: &[String]) -> Problem {
    if silent.is_empty() {
        let detail = "no agent knows this event yet: it may still be on its way, or nobody subscribes to its type";
        return Problem::not_found(detail);
    }
    let detail = format!("no agent knows this event, and these do not answer: {}", silent.join(", "));
    Problem::unavailable("agent_away", detail)
}

fn body(source: &str, id: &str, answers: &Answers) -> serde_json::Value {
    let mut body = serde_json::json!({"source": source, "id": id, "outcomes": answers.outcomes});
    if !answers.silent.is_empty() {
        body["silent"] = answers.silent.clone().into();
    }
    body
}

/// An event that was sent, and whose outcomes its sender waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    source: String,
    id: String,
    question: Question,
    receivers: Vec<Agent>,
    wait: Duration,
}

impl Awaited {
    pub(super) fn new(event: &rhizon_kernel::Envelope, agents: &[Agent], wait: Duration) -> Self {
        let rhizon_kernel::Envelope { source, id, event_type, subject, target, .. } = event;
        let key = Some(dedup_key(GATEWAY, source, id));
        Self {
            source: source.clone(),
            id: id.clone(),
            question: Question { entity: Some(subject.clone()), key, ..Question::default() },
            receivers: receivers(agents, event_type, target.as_deref()),
            wait,
        }
    }

    /// The outcomes of all receivers; `None` when time is up before. An agent that has decided on other content under this
    /// id tells that the id was reused.
    pub(super) async fn outcomes(self, reader: &dyn Reader, digest: Hash) -> Result<Option<Response>, Problem> {
        let deadline = Instant::now() + self.wait;
        let all = all_outcomes(reader, self.receivers, &self.question);
        let Ok(outcomes) = timeout_at(deadline, all).await else { return Ok(None) };
        if outcomes.iter().any(|answered| answered.outcome.digest.is_some_and(|decided| decided != digest)) {
            return Err(Problem::id_reused());
        }
        let answers = Answers { outcomes, silent: Vec::new() };
        let mut response = json(&body(&self.source, &self.id, &answers)).into_response();
        response.headers_mut().insert("preference-applied", HeaderValue::from_static("wait"));
        Ok(Some(response))
    }
}

async fn all_outcomes(reader: &dyn Reader, receivers: Vec<Agent>, question: &Question) -> Vec<Answered> {
    let (mut missing, mut outcomes, mut pause) = (receivers, Vec::new(), FIRST_PAUSE);
    loop {
        let answers = ask(reader, &missing, question).await;
        outcomes.extend(answers.outcomes.into_iter().filter(|answered| answered.outcome.is_final()));
        missing.retain(|agent| outcomes.iter().all(|answered| answered.agent != agent.name));
        if missing.is_empty() {
            outcomes.sort_by(|a, b| a.agent.cmp(&b.agent));
            return outcomes;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn receivers(agents: &[Agent], event_type: &EventType, target: Option<&str>) -> Vec<Agent> {
    let takes = |agent: &&Agent| {
        target.is_none_or(|target| agent.name == target)
            && agent.subscribes.iter().any(|pattern| pattern.matches(event_type.as_str()))
    };
    agents.iter().filter(takes).cloned().collect()
}

/// How long the client would like to wait: `Prefer: wait=<seconds>`, among other preferences.
pub(super) fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let wait = lines.flat_map(|line| line.split(',')).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse().ok()?;
        name.trim().eq_ignore_ascii_case("wait").then(|| Duration::from_secs(seconds))
    })?;
    Some(wait.min(LONGEST_WAIT)).filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_found_among_other_preferences() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", text.parse().unwrap());
            preferred_wait(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("wait=10"), Some(10));
        assert_eq!(wait("respond-async, Wait = \"20\"; foo=bar"), Some(20));
        assert_eq!(wait("wait=600"), Some(30));
        for none in ["wait", "wait=soon", "wait=0", "return=minimal"] {
            assert_eq!(wait(none), None, "{none}");
        }
    }

    #[test]
    fn a_source_says_who_published() {
        assert_eq!(publisher_of("/logs/a"), "gateway");
        assert_eq!(publisher_of("/rhizon/permits/agents/ledger"), "agent-ledger");
    }

    #[test]
    fn who_subscribes_is_waited_for_unless_one_is_meant() {
        let agent = |name: &str, pattern: &str| Agent {
            name: name.into(),
            subscribes: vec![pattern.parse().unwrap()],
            shards: 1,
        };
        let agents = [agent("a", "cmd.permit.*"), agent("b", "cmd.permit.record"), agent("c", "evt.permit.recorded")];
        let of = |target| -> Vec<String> {
            let receivers = receivers(&agents, &"cmd.permit.record".parse().unwrap(), target);
            receivers.into_iter().map(|agent| agent.name).collect()
        };
        assert_eq!(of(None), ["a", "b"]);
        assert_eq!(of(Some("b")), ["b"]);
        assert!(of(Some("c")).is_empty());
    }
}
