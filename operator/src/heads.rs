//! The heads of the agents' audit chains, as their sidecars told them: published in the workspace's status, so that a
//! journal whose newest records are cut off is noticed.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use rhizon_api::workspace::ChainHead;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A head is published at most this often.
const INTERVAL: SignedDuration = SignedDuration::from_mins(1);
/// A status has room for this many.
const MAX_HEADS: usize = 2_000;

/// Where a chain ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Records in the journal.
    pub sequence: u64,
    pub link: String,
}

/// Agent and shard.
pub type Key = (String, u32);
pub type Seen = BTreeMap<Key, Head>;

/// What was seen last, by namespace. It may be lost: the next look brings it back.
#[derive(Default)]
pub struct Heads {
    seen: Mutex<HashMap<String, Seen>>,
}

impl Heads {
    pub fn see(&self, namespace: &str, key: Key, head: Head) {
        self.lock().entry(namespace.to_owned()).or_default().insert(key, head);
    }

    pub fn of(&self, namespace: &str) -> Seen {
        self.lock().get(namespace).cloned().unwrap_or_default()
    }

    /// Another agent of the name begins anew.
    pub fn forget(&self, namespace: &str, agent: &str) {
        if let Some(seen) = self.lock().get_mut(namespace) {
            seen.retain(|(name, _), _| name != agent);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to publish next: of the agents that there are, what is new and due. No head ever goes back.
pub fn publish(before: &[ChainHead], seen: &Seen, agents: &[&str], now: Timestamp) -> Vec<ChainHead> {
    let mut next: BTreeMap<Key, ChainHead> =
        before.iter().map(|head| ((head.agent.clone(), head.shard), head.clone())).collect();
    for (key, Head { sequence, link }) in seen {
        let (agent, shard) = key;
        let is_due =
            next.get(key).is_none_or(|old| old.sequence < *sequence && now.duration_since(old.time.0) >= INTERVAL);
        if is_due {
            let head = ChainHead {
                agent: agent.clone(),
                shard: *shard,
                sequence: *sequence,
                link: link.clone(),
                time: Time(now),
            };
            next.insert(key.clone(), head);
        }
    }
    next.into_values().filter(|head| agents.contains(&head.agent.as_str())).take(MAX_HEADS).collect()
}

/// The first journal that is not what it was: shorter than its published head, or as long and another.
pub fn truncated(published: &[ChainHead], seen: &Seen) -> Option<String> {
    published.iter().find_map(|old| {
        let now = seen.get(&(old.agent.clone(), old.shard))?;
        let is_whole = now.sequence > old.sequence || (now.sequence == old.sequence && now.link == old.link);
        (!is_whole).then(|| {
            format!(
                "the journal of {} (shard {}) has {} records and ends in {}; it had {} and ended in {} at {}",
                old.agent, old.shard, now.sequence, now.link, old.sequence, old.link, old.time.0
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn seen(sequence: u64, link: &str) -> Seen {
        [(("ledger".to_owned(), 0), Head { sequence, link: link.to_owned() })].into()
    }

    #[test]
    fn a_head_is_published_when_it_is_new_and_once_a_minute() {
        let agents = ["ledger"];
        let first = publish(&[], &seen(5, "a"), &agents, at(0));
        assert_eq!((first[0].sequence, first[0].link.as_str(), first[0].time.0), (5, "a", at(0)));
        assert_eq!(publish(&first, &seen(9, "b"), &agents, at(59)), first);
        let second = publish(&first, &seen(9, "b"), &agents, at(60));
        assert_eq!(second[0].sequence, 9);
        assert_eq!(publish(&second, &seen(9, "b"), &agents, at(999)), second);
        assert_eq!(publish(&second, &Seen::new(), &agents, at(999)), second, "a new operator knows nothing yet");
        assert_eq!(publish(&second, &seen(9, "b"), &[], at(999)), [], "the agent is gone");
    }

    #[test]
    fn a_journal_that_went_back_is_noticed_and_its_head_stays() {
        let agents = ["ledger"];
        let published = publish(&[], &seen(5, "a"), &agents, at(0));
        assert_eq!(truncated(&published, &seen(5, "a")), None);
        assert_eq!(truncated(&published, &seen(6, "b")), None);
        assert_eq!(truncated(&published, &Seen::new()), None);
        assert!(truncated(&published, &seen(5, "x")).is_some());
        let why = truncated(&published, &seen(4, "z")).unwrap();
        assert!(why.contains("has 4 records") && why.contains("it had 5"), "{why}");
        assert_eq!(publish(&published, &seen(4, "z"), &agents, at(600)), published);
    }
}
