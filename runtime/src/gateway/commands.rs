//! The doors of people's commands: send a dead letter again, drop it, take back an event that is not due yet. Each goes to
//! the agent's sidecar as an event, and into its journal with who gave it.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use opentelemetry::trace::SpanKind;
use serde_json::{Value, json};

use super::App;
use super::caller::Caller;
use super::control::{About, By, Command, DeadLetter, command};
use super::events::{refusal, refuse_when_full, trace_context};
use super::outcomes::{Answers, Asked, ask};
use super::problem::Problem;
use super::reads::{event_key, invalid_query, json as answer, open_dead_letter};
use crate::bus::Outgoing;
use crate::telemetry::Span;

/// `POST /v1/agents/{agent}/dead/{key}/redrive`
pub(super) async fn redrive(
    caller: Caller,
    State(app): State<App>,
    Path((agent, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let granted = caller.may_command(Command::Redrive)?;
    refuse_when_full(&app)?;
    let dead = dead_letter(&caller, &app, &agent, &key).await?;
    let mut span = start(&app, &headers);
    let by = By { actor: &caller.identity.actor, roles: &granted, trace: span.context() };
    let rules = caller.policy().rules();
    let again = dead.again(&agent, &by, &rules)?;
    let note = command(Command::Redrive, &dead.about(&agent), &by, &rules);
    // The event goes first: if something breaks between the two, it is not lost, and its id keeps it from counting twice.
    publish(&app, &mut span, vec![again.message, note]).await?;
    Ok(accepted(&json!({"agent": agent, "key": key, "event": {"source": again.source, "id": again.id}})))
}

/// `DELETE /v1/agents/{agent}/dead/{key}`
pub(super) async fn drop(
    caller: Caller,
    State(app): State<App>,
    Path((agent, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let granted = caller.may_command(Command::Drop)?;
    let dead = dead_letter(&caller, &app, &agent, &key).await?;
    let mut span = start(&app, &headers);
    let by = By { actor: &caller.identity.actor, roles: &granted, trace: span.context() };
    let note = command(Command::Drop, &dead.about(&agent), &by, &caller.policy().rules());
    publish(&app, &mut span, vec![note]).await?;
    Ok(accepted(&json!({"agent": agent, "key": key})))
}

/// `DELETE /v1/events?source=…&id=…`
pub(super) async fn cancel(
    caller: Caller,
    State(app): State<App>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(asked) = asked.map_err(|error| invalid_query(&error))?;
    let granted = caller.may_command(Command::Cancel)?;
    let key = asked.key();
    let agents = caller.agents(asked.agent.as_deref())?;
    let mut answers = ask(app.reader.as_ref(), &agents, &asked.question()).await;
    answers.outcomes.retain(|answered| answered.outcome.is_timer());
    if answers.outcomes.is_empty() {
        return Err(nothing_waits(&answers));
    }
    let mut span = start(&app, &headers);
    let by = By { actor: &caller.identity.actor, roles: &granted, trace: span.context() };
    let rules = caller.policy().rules();
    let messages = answers.outcomes.iter().map(|answered| {
        let entity = &answered.outcome.entity;
        let about = About { agent: &answered.agent, key, entity, id: &asked.id, correlation: None };
        command(Command::Cancel, &about, &by, &rules)
    });
    let messages = messages.collect();
    publish(&app, &mut span, messages).await?;
    let cancelled = answers.outcomes.iter().map(
        |answered| json!({"agent": answered.agent, "entity": answered.outcome.entity, "until": answered.outcome.until}),
    );
    Ok(accepted(&json!({"cancelled": cancelled.collect::<Vec<_>>(), "silent": answers.silent})))
}

async fn dead_letter(caller: &Caller, app: &App, agent: &str, key: &str) -> Result<DeadLetter, Problem> {
    let key = event_key(key)?;
    DeadLetter::read(&open_dead_letter(caller, app.reader.as_ref(), agent, key).await?, key)
}

fn nothing_waits(answers: &Answers) -> Problem {
    if answers.silent.is_empty() {
        return Problem::not_found("no agent has this event waiting for its time: it was decided, or is not there yet");
    }
    let silent = answers.silent.join(", ");
    Problem::unavailable("agent_away", format!("no agent that answers has this event waiting; not asked: {silent}"))
}

fn start(app: &App, headers: &HeaderMap) -> Span {
    app.tracer.start("command".to_owned(), SpanKind::Server, &trace_context(headers), Vec::new())
}

async fn publish(app: &App, span: &mut Span, messages: Vec<Outgoing>) -> Result<(), Problem> {
    let accepted = messages.len();
    app.queue.publish(messages).await.map_err(|error| refusal(&error))?;
    app.metrics.accepted(accepted);
    span.outcome("accepted");
    Ok(())
}

/// The broker has the command; what becomes of it shows the journal.
fn accepted(body: &Value) -> Response {
    let mut response = answer(body).into_response();
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
