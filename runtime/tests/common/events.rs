//! Events as the gateway puts them on the stream.

use rhizon_kernel::Envelope;
use rhizon_kernel::identity::{correlation_id, dedup_key};
use rhizon_kernel::subject::Subject;
use rhizon_runtime::bus::Outgoing;

pub(crate) const WORKSPACE: &str = "permits";

pub(crate) fn admitted(mut envelope: Envelope) -> Outgoing {
    let key = dedup_key("gateway", &envelope.source, &envelope.id);
    envelope.workspace = Some(WORKSPACE.into());
    envelope.correlationid = Some(correlation_id(&key));
    envelope.actor = Some("clerk".into());
    let subject = Subject::new("gateway", &envelope.event_type, &envelope.subject, envelope.target.as_deref());
    Outgoing { subject: subject.to_string(), key, payload: envelope.to_json().into() }
}
