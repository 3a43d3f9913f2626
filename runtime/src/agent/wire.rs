//! The agent protocol's JSON, version 1.

use rhizon_kernel::egress::{Draft, Reaction};
use rhizon_kernel::ingress::Reason;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Answer, Item};

/// What `GET /rhizon/v1/agent` answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Description {
    pub protocol: String,
    #[serde(default)]
    pub batch: bool,
}

pub(super) fn single(item: &Item) -> Vec<u8> {
    let mut out = Vec::with_capacity(item.envelope.len() + 512);
    push(&mut out, item);
    out
}

pub(super) fn batch(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.iter().map(|item| item.envelope.len() + 512).sum());
    out.extend_from_slice(b"{\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push(&mut out, item);
    }
    out.extend_from_slice(b"]}");
    out
}

fn push(out: &mut Vec<u8>, item: &Item) {
    out.extend_from_slice(b"{\"context\":");
    serde_json::to_writer(&mut *out, &item.context).expect("writing to memory does not fail");
    out.extend_from_slice(b",\"envelope\":");
    out.extend_from_slice(&item.envelope);
    out.extend_from_slice(b",\"state\":{\"version\":");
    out.extend_from_slice(item.version.to_string().as_bytes());
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(item.state.as_ref().map_or("null", |state| state.get()).as_bytes());
    out.extend_from_slice(b"}}");
}

#[derive(Deserialize)]
struct Batch {
    items: Vec<Box<RawValue>>,
}

/// An item that failed in a batch: a problem (RFC 9457) in place of a reaction.
#[derive(Deserialize)]
struct ItemProblem {
    problem: Problem,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub title: String,
    pub detail: String,
    pub retry: Option<bool>,
}

/// A batch that is no batch fails every one of its events; an item that is no reaction fails only itself.
pub(super) fn answers(body: &[u8], expected: usize) -> Vec<Answer> {
    let all = |why: String| (0..expected).map(|_| invalid(&why)).collect();
    let items = match serde_json::from_slice::<Batch>(body) {
        Ok(batch) => batch.items,
        Err(error) => return all(format!("the answer to receive-batch is not {{\"items\": […]}}: {error}")),
    };
    if items.len() != expected {
        return all(format!("{} events were sent, and {} items came back", expected, items.len()));
    }
    items.iter().enumerate().map(|(index, item)| item_answer(index, item)).collect()
}

fn item_answer(index: usize, item: &RawValue) -> Answer {
    match serde_json::from_str::<Reaction>(item.get()) {
        Ok(reaction) => Answer::Reaction(reaction),
        Err(error) => match serde_json::from_str::<ItemProblem>(item.get()) {
            Ok(ItemProblem { problem }) => refusal(problem.retry == Some(false), &problem, "problem"),
            Err(_) => invalid(&format!("items[{index}]: {error}")),
        },
    }
}

pub(super) fn reaction(body: &[u8]) -> Answer {
    serde_json::from_slice(body).map_or_else(|error| invalid(&error.to_string()), Answer::Reaction)
}

/// Events that a plain CloudEvents container answers with: none, one, or a batch.
pub(super) fn cloud_events(body: &[u8]) -> Answer {
    #[derive(Deserialize)]
    struct Event {
        r#type: String,
        subject: Option<String>,
        data: Option<Box<RawValue>>,
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Answer::Reaction(Reaction::default());
    }
    let events = serde_json::from_slice::<Vec<Event>>(body)
        .or_else(|_| serde_json::from_slice::<Event>(body).map(|event| vec![event]));
    let outputs = match events {
        Ok(events) => events.into_iter().map(|Event { r#type: event_type, subject, data }| Draft {
            event_type,
            subject,
            target: None,
            deliver_at: None,
            data,
        }),
        Err(error) => return invalid(&format!("the answer is neither a CloudEvent nor a batch of them: {error}")),
    };
    Answer::Reaction(Reaction { outputs: outputs.collect(), ..Reaction::default() })
}

pub(super) fn refusal(is_final: bool, problem: &Problem, fallback: &str) -> Answer {
    let words = [problem.title.as_str(), problem.detail.as_str()];
    let words: Vec<&str> = words.into_iter().filter(|text| !text.is_empty()).collect();
    let detail = if words.is_empty() { fallback.to_owned() } else { words.join(": ") };
    if is_final {
        Answer::Refused(Reason::new("agent_rejected", detail))
    } else {
        Answer::Failed(Reason::new("agent_failed", detail))
    }
}

fn invalid(why: &str) -> Answer {
    Answer::Failed(Reason::new("agent_invalid_answer", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_item_fails_only_itself() {
        let body = br#"{"items":[{"outputs":[],"state":{"n":1}},{"problem":{"title":"no","retry":false}},{"problem":{"detail":"later"}},{"output":[]}]}"#;
        let answers = answers(body, 4);
        assert!(matches!(&answers[0], Answer::Reaction(_)));
        assert!(matches!(&answers[1], Answer::Refused(reason) if reason.detail == "no"));
        assert!(matches!(&answers[2], Answer::Failed(reason) if reason.detail == "later"));
        assert!(
            matches!(&answers[3], Answer::Failed(reason) if reason.code == "agent_invalid_answer" && reason.detail.contains("items[3]"))
        );
    }

    #[test]
    fn a_wrong_number_of_items_fails_all() {
        let answers = answers(br#"{"items":[]}"#, 2);
        assert!(answers.iter().all(|a| matches!(a, Answer::Failed(r) if r.detail.contains("2 events were sent"))));
    }
}
