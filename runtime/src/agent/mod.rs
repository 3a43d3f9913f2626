//! The agent port: whoever answers events with reactions.

pub mod http;
mod wire;

use std::future::Future;
use std::sync::Arc;

use rhizon_kernel::egress::{Reaction, StateChange, logical_time};
use rhizon_kernel::identity::seed;
use rhizon_kernel::ingress::{Arrival, Body, Reason};
use rhizon_kernel::{Config, Head};
use serde_json::value::RawValue;

use crate::telemetry::TraceContext;

/// One event as the agent is asked about it.
#[derive(Debug, Clone)]
pub struct Item {
    pub context: Context,
    /// JSON of the envelope, with its trace context.
    pub envelope: Vec<u8>,
    pub version: u64,
    pub state: Option<Arc<RawValue>>,
}

impl Item {
    /// What the agent is told about an accepted event; `None` for what can't be decoded.
    pub fn new(config: &Config, arrival: &Arrival, head: &Head, attempt: u32, trace: &TraceContext) -> Option<Self> {
        let Body::Event { json, .. } = &arrival.body else { return None };
        let context = Context {
            agent: config.agent.clone(),
            logical_time: logical_time(head, arrival),
            seed: seed(&arrival.key, &config.agent),
            attempt,
            deadline_ms: u64::try_from(http::DEADLINE.as_millis()).unwrap_or(u64::MAX),
            idempotency_key: arrival.key.to_string(),
        };
        let envelope = json.in_trace(trace.traceparent.as_deref(), trace.tracestate.as_deref());
        Some(Self { context, envelope, version: head.version, state: head.state.clone() })
    }
}

/// What an agent may use besides the envelope and the state, and stay deterministic (all but `attempt` and `deadline_ms`).
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    pub agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_time: Option<jiff::Timestamp>,
    pub seed: String,
    pub attempt: u32,
    pub deadline_ms: u64,
    /// The same for every try of this event: for calls that the agent makes itself.
    pub idempotency_key: String,
}

/// The answer to one event.
#[derive(Debug)]
pub enum Answer {
    Reaction(Reaction),
    /// Try again, within the retry policy.
    Failed(Reason),
    /// Do not try again: the agent says that this event can never be handled.
    Refused(Reason),
}

impl Answer {
    /// Of the state and the outputs' data.
    pub fn bytes(&self) -> usize {
        let Self::Reaction(Reaction { outputs, state }) = self else { return 0 };
        let state = if let StateChange::Set(state) = state { state.get().len() } else { 0 };
        state + outputs.iter().filter_map(|output| output.data.as_ref()).map(|data| data.get().len()).sum::<usize>()
    }
}

/// Why there are no answers at all.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing was handed over: no event is at fault.
    #[error("the agent can't be reached: {0}")]
    Unreachable(String),
    /// The events were handed over, and no answer came back: one of them may be at fault.
    #[error("the agent went away while it had the events: {0}")]
    Lost(String),
}

pub trait Agent: Clone + Send + Sync + 'static {
    /// How many events may go in one call.
    fn batch(&self) -> usize;
    /// One answer per item, in their order.
    fn call(&self, items: Vec<Item>) -> impl Future<Output = Result<Vec<Answer>, CallError>> + Send;
}

/// An agent in the same process: a function from an event to an answer.
#[derive(Clone)]
pub struct InProcess<F>(pub F);

impl<F: Fn(&Item) -> Answer + Clone + Send + Sync + 'static> Agent for InProcess<F> {
    fn batch(&self) -> usize {
        usize::MAX
    }

    async fn call(&self, items: Vec<Item>) -> Result<Vec<Answer>, CallError> {
        Ok(items.iter().map(&self.0).collect())
    }
}
