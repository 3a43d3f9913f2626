//! `POST /v1/events`: events in, 202 once the broker has them.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use rhizon_kernel::Envelope;

use super::App;
use super::admit::{Admitted, admit};
use super::caller::Caller;
use super::ingest::{self, BODY_BYTES};
use super::outcomes::{Awaited, preferred_wait};
use super::problem::Problem;
use super::publish::PublishError;
use super::recent::Reused;
use crate::telemetry::TraceContext;

/// How long a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Longest `tracestate` that an event takes along.
const TRACESTATE_BYTES: usize = 512;

/// How long a client should wait before it tries a full stream again.
const FULL_PAUSE: Duration = Duration::from_secs(5);

pub(super) async fn post(
    caller: Caller,
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let rights = caller.rights()?;
    refuse_when_full(&app)?;
    let body = read_body(body).await?;

    let rules = caller.policy().rules();
    let request = ingest::read(&headers, &body, rules.limits)?;
    let attributes = vec![KeyValue::new("messaging.batch.message_count", request.events.len().to_string())];
    let mut span = app.tracer.start("publish".to_owned(), SpanKind::Server, &trace_context(&headers), attributes);
    let now = Timestamp::now();
    let awaited = awaited(&caller, &headers, &request.events);
    let place = |index: usize, problem: Problem| {
        if request.batched { problem.within(&format!("[{index}]")) } else { problem }
    };
    let (mut messages, mut identities) = (Vec::new(), Vec::new());
    for (index, event) in request.events.into_iter().enumerate() {
        let Admitted { message, key, digest } = admit(event, &caller.identity, &rights, &rules, span.context(), now)
            .map_err(|problem| place(index, problem))?;
        identities.push((key, digest));
        messages.push(message);
    }

    let accepted = messages.len();
    let new = app.recent.claim(&identities).map_err(|Reused { index }| place(index, Problem::id_reused()))?;
    if accepted > 0 {
        app.capacity.send(&messages);
        app.queue.publish(messages).await.map_err(|error| {
            app.recent.release(&new);
            refusal(&error)
        })?;
        app.metrics.accepted(accepted);
    }
    span.outcome("accepted");
    if let (Some(awaited), [(_, digest)]) = (awaited, identities.as_slice())
        && let Some(outcomes) = awaited.outcomes(app.reader.as_ref(), *digest).await?
    {
        return Ok(outcomes);
    }
    let answer = format!(r#"{{"accepted":{accepted}}}"#);
    Ok((StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/json")], answer).into_response())
}

/// A single event whose outcomes the client would like to wait for, and may read.
fn awaited(caller: &Caller, headers: &HeaderMap, events: &[Envelope]) -> Option<Awaited> {
    let ([event], Ok(())) = (events, caller.may_read()) else { return None };
    preferred_wait(headers).map(|wait| Awaited::new(event, &caller.policy().agents, wait))
}

/// The last part of the stream is kept for agents, so that it can drain.
pub(super) fn refuse_when_full(app: &App) -> Result<(), Problem> {
    let Some(fill) = app.capacity.over_threshold() else { return Ok(()) };
    let detail = format!("its stream is {fill} % full; agents have to catch up, or events have to be purged");
    Err(Problem::too_many(detail, FULL_PAUSE))
}

async fn read_body(body: Body) -> Result<bytes::Bytes, Problem> {
    let too_slow = |_| Problem::invalid("body_incomplete", "", "the body did not arrive in time");
    match tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_BYTES)).await.map_err(too_slow)? {
        Ok(bytes) => Ok(bytes),
        Err(error) if is_too_large(&error) => {
            Err(Problem::too_large(format!("the body is larger than {BODY_BYTES} bytes; send fewer events at a time")))
        }
        Err(error) => Err(Problem::invalid("body_incomplete", "", format!("the body broke off: {error}"))),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
}

/// The request's trace context, if it is one (W3C Trace Context, version 00).
pub(super) fn trace_context(headers: &HeaderMap) -> TraceContext {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(parent) = text("traceparent").filter(|parent| is_trace_parent(parent)) else {
        return TraceContext::default();
    };
    let tracestate = text("tracestate").filter(|state| state.len() <= TRACESTATE_BYTES).map(str::to_owned);
    TraceContext { traceparent: Some(parent.to_owned()), tracestate }
}

fn is_trace_parent(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    lengths == [2, 32, 16, 2] && is_hex
}

pub(super) fn refusal(error: &PublishError) -> Problem {
    match error {
        PublishError::Full(_) => Problem::too_many(error.to_string(), FULL_PAUSE),
        PublishError::Refused(_) => Problem::too_large(error.to_string()),
        PublishError::Unavailable(_) => Problem::unavailable(
            "broker_away",
            format!("{error}; send the same events again, those that were stored have no second effect"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_trace_context_is_passed_on() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([
                ("traceparent".parse().unwrap(), text.parse().unwrap()),
                ("tracestate".parse().unwrap(), "a=b".parse().unwrap()),
            ]);
            let TraceContext { traceparent, tracestate } = trace_context(&headers);
            traceparent.zip(tracestate)
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(of(good), Some((good.to_owned(), "a=b".to_owned())));
        assert_eq!(of("00-xyz-01"), None);
        assert_eq!(of("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), None);
    }
}
