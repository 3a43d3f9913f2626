//! Ids that derive from what they stand for, so that the same event has the same ids in every run.

use uuid::Uuid;

use crate::chain::{Hash, prefixed};

/// UUIDv5 namespace of everything that Rhizon derives: UUIDv5(URL, "https://rhizon.dev/ids").
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_2a0e_4f0b_5c57_9c07_3b7f_2c7c_9d11);

/// Identity of an event: who put it on the stream, and CloudEvents' pair of `source` and `id`.
pub fn dedup_key(publisher: &str, source: &str, id: &str) -> Hash {
    prefixed(&[publisher.as_bytes(), source.as_bytes(), id.as_bytes()])
}

/// Identity of bytes that can't be decoded: where they were found, and what they are.
pub fn malformed_key(raw_subject: &str, digest: &Hash) -> Hash {
    dedup_key(raw_subject, "", &digest.to_string())
}

/// The id of an agent's output: from its cause, the agent, and its place among the outputs.
pub fn output_id(cause: &Hash, agent: &str, index: usize) -> String {
    let name = prefixed(&[b"output", &cause.0, agent.as_bytes(), &(index as u64).to_be_bytes()]);
    Uuid::new_v5(&NAMESPACE, &name.0).to_string()
}

/// The id of the event that a dead letter becomes when somebody sends it again: from the dead event's key and the agent.
pub fn redrive_id(dead: &Hash, agent: &str) -> String {
    Uuid::new_v5(&NAMESPACE, &prefixed(&[b"redrive", &dead.0, agent.as_bytes()]).0).to_string()
}

/// The id of a control command: given twice, it is the same command.
pub fn control_id(event_type: &str, agent: &str, about: &Hash) -> String {
    let name = prefixed(&[b"control", event_type.as_bytes(), agent.as_bytes(), &about.0]);
    Uuid::new_v5(&NAMESPACE, &name.0).to_string()
}

/// The correlation id of an event that came with none.
pub fn correlation_id(key: &Hash) -> String {
    Uuid::new_v5(&NAMESPACE, &prefixed(&[b"correlation", &key.0]).0).to_string()
}

/// What an agent may use in place of randomness: the same for the same event.
pub fn seed(key: &Hash, agent: &str) -> String {
    let mut hex = prefixed(&[b"seed", &key.0, agent.as_bytes()]).to_string();
    hex.truncate(32);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_in_every_run() {
        let key = dedup_key("gateway", "/s", "1");
        assert_eq!(key.to_string(), dedup_key("gateway", "/s", "1").to_string());
        assert_ne!(key, dedup_key("gateway", "/s1", ""));
        assert_eq!(output_id(&key, "permits", 0), output_id(&key, "permits", 0));
        assert_ne!(output_id(&key, "permits", 0), output_id(&key, "permits", 1));
        assert_ne!(output_id(&key, "permits", 0), correlation_id(&key));
        assert_ne!(redrive_id(&key, "permits"), redrive_id(&key, "ledger"));
        assert_ne!(control_id("ctl.dead.drop", "permits", &key), control_id("ctl.dead.redrive", "permits", &key));
    }
}
