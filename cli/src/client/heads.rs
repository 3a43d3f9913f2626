//! Where journals were when the operator last looked: `status.chainHeads` of a workspace. Who cuts off a journal's newest
//! records cannot change what is noted there.

use rhizon_kernel::chain::Hash;
use serde::Deserialize;
use serde_json::Value;

/// The audit chain's link at a record of a shard's journal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ChainHead {
    agent: String,
    #[serde(default)]
    shard: u32,
    pub(crate) sequence: u64,
    pub(crate) link: Hash,
    #[serde(default)]
    pub(crate) time: String,
}

/// The head of a shard's journal; `None` where it is not noted, or in a way that is not understood.
pub(super) fn of_shard(status: &Value, agent: &str, shard: u32) -> Option<ChainHead> {
    let heads = status["chainHeads"].as_array()?.iter().filter_map(|head| ChainHead::deserialize(head).ok());
    heads.into_iter().find(|head| head.agent == agent && head.shard == shard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_understood_is_left_out() {
        let link = Hash::of(&[b"x"]);
        let status = json!({"chainHeads": [
            {"agent": "ledger", "sequence": "many"},
            {"agent": "permits", "shard": 1, "sequence": 9, "link": link, "time": "t"},
            {"agent": "permits", "sequence": 7, "link": link, "time": "t", "new": 1},
        ]});
        assert_eq!(of_shard(&status, "permits", 0).map(|head| (head.sequence, head.link)), Some((7, link)));
        assert_eq!(of_shard(&status, "ledger", 0), None);
        assert_eq!(of_shard(&json!({}), "ledger", 0), None);
    }
}
