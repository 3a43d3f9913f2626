//! Where the same root is promised, and whether it is there.
//!
//! `permits` reads one stream, the log, so its entities decide the same in every run. `ledger` reads what `permits` sends:
//! in the log's order with one shard and `ordering: Stream`; otherwise in the order in which shards or entities are done.

use super::Outcome;
use super::check::Kept;
use super::matrix::Run;

pub(super) const AGENTS: [&str; 2] = ["permits", "ledger"];

/// Of one agent over all runs.
pub(super) struct Verdict {
    pub agent: &'static str,
    /// How many runs were promised the same root, and that of the first of them.
    pub promised: usize,
    pub root: Option<String>,
    /// What breaks the promise.
    pub broken: Vec<String>,
    /// How many runs were promised nothing, and how many of them have that root all the same.
    pub others: usize,
    pub others_equal: usize,
}

fn is_promised(agent: &str, run: &Run) -> bool {
    agent == AGENTS[0] || run.keeps_order()
}

pub(super) fn judge(outcomes: &[Outcome]) -> [Verdict; 2] {
    [0, 1].map(|index| of_agent(index, outcomes))
}

fn of_agent(index: usize, outcomes: &[Outcome]) -> Verdict {
    let agent = AGENTS[index];
    let kept = outcomes.iter().filter_map(|outcome| Some((outcome, &outcome.kept.as_ref()?[index])));
    let (promised, others): (Vec<_>, Vec<_>) = kept.partition(|(outcome, _)| is_promised(agent, &outcome.run));
    let first = promised.first();
    let is_first = |kept: &Kept| first.is_some_and(|(_, first)| kept.leaves == first.leaves);
    let broken = promised.iter().filter(|(_, kept)| !is_first(kept)).map(|(outcome, kept)| {
        let (number, entity) =
            (first.map_or(0, |(run, _)| run.number), first.and_then(|(_, f)| f.first_difference(kept)));
        format!(
            "run {}: agent {agent} has another root than in run {number}; the first entity that differs: {}",
            outcome.number,
            entity.unwrap_or_default()
        )
    });
    Verdict {
        agent,
        promised: promised.len(),
        root: first.map(|(_, kept)| kept.root().to_string()),
        broken: broken.collect(),
        others: others.len(),
        others_equal: others.iter().filter(|(_, kept)| is_first(kept)).count(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rhizon_api::agent::Ordering;
    use rhizon_kernel::chain::Hash;
    use rhizon_tests::permits::States;

    use super::*;
    use crate::events::Compared;
    use crate::stores::Store;

    fn kept(hash: &[u8]) -> Kept {
        Kept { states: States::new(), leaves: [("e".to_owned(), Hash::of(&[hash]))].into() }
    }

    fn outcome(number: usize, shards: u32, ordering: Ordering, kept: [Kept; 2]) -> Outcome {
        let run = Run { store: Store::Postgres, batch: 1, concurrency: 1, shards, replicas: 1, ordering };
        Outcome { number, run, took: Duration::from_secs(1), states: Ok(Compared::Equal), kept: Some(kept) }
    }

    #[test]
    fn a_root_may_differ_where_streams_meet_and_nowhere_else() {
        let [permits, ledger] = judge(&[
            outcome(1, 1, Ordering::Stream, [kept(b"a"), kept(b"x")]),
            outcome(2, 4, Ordering::Stream, [kept(b"a"), kept(b"y")]),
            outcome(3, 1, Ordering::Entity, [kept(b"a"), kept(b"x")]),
            outcome(4, 1, Ordering::Stream, [kept(b"b"), kept(b"x")]),
        ]);
        assert_eq!((permits.promised, permits.others), (4, 0));
        let broken = "run 4: agent permits has another root than in run 1; the first entity that differs: e";
        assert_eq!(permits.broken, [broken]);
        assert_eq!((ledger.promised, ledger.others, ledger.others_equal, ledger.broken.len()), (2, 2, 1, 0));
    }
}
