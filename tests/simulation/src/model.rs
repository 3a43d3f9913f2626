//! The reference: events one after the other through the kernel, no batches, no crashes, no retries.

use std::collections::{BTreeMap, BTreeSet};

use rhizon_kernel::chain::{self, Hash};
use rhizon_kernel::egress::{self, Commit, Outcome, logical_time};
use rhizon_kernel::identity::seed;
use rhizon_kernel::ingress::{self, Arrival, Body, Decision, Reason};
use rhizon_kernel::{Config, Head};

use crate::behaviour::{self, Asked, Mood};
use crate::plan::Plan;

/// An event when it is its turn.
pub(crate) struct Event {
    /// Where it came: its rules are those of then.
    pub stream: u64,
    pub arrival: Arrival,
    /// Whose its id was when it came.
    pub known: Option<Hash>,
    /// Whether somebody took it back while it waited.
    pub taken_back: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    pub heads: BTreeMap<String, Head>,
    known: BTreeMap<Hash, Hash>,
    /// Events given up by a process that knew how often they were tried before it, and not how that ended.
    pub taken_over: BTreeSet<Hash>,
    pub commits: Vec<Commit>,
}

impl Model {
    /// Whose the event's id is, if it is another's: it belongs to who came first, decided or not.
    pub(crate) fn claim(&mut self, arrival: &Arrival) -> Option<Hash> {
        let known = self.known.get(&arrival.key).copied();
        self.known.entry(arrival.key).or_insert(arrival.digest);
        known
    }

    pub(crate) fn push(&mut self, plan: &Plan, config: &Config, agent: usize, event: &Event) {
        let Event { stream, arrival, known, taken_back } = event;
        let head = self.heads.get(&arrival.entity).cloned().unwrap_or_default();
        let commit = match ingress::decide(config, *stream, &head, known.as_ref(), arrival) {
            Decision::Duplicate | Decision::Ignore => return,
            Decision::Accept if *taken_back => egress::settle(&head, arrival, Outcome::Rejected, &ingress::cancelled()),
            Decision::Accept => self.answer(plan, config, agent, &head, arrival),
            Decision::Reject(reason) => egress::settle(&head, arrival, Outcome::Rejected, &reason),
            Decision::Conflict(reason) => egress::settle(&head, arrival, Outcome::Conflict, &reason),
            Decision::Note(_) => egress::note(&head, arrival),
        };
        self.heads.insert(commit.entity.clone(), commit.head.clone());
        self.commits.push(commit);
    }

    pub(crate) fn root(&self) -> Hash {
        let leaves: Vec<Hash> =
            self.heads.iter().map(|(key, head)| chain::leaf(key, head.version, &head.hash)).collect();
        chain::root(&leaves)
    }

    /// What must come of an accepted event in the end, however often it is tried.
    fn answer(&self, plan: &Plan, config: &Config, agent: usize, head: &Head, arrival: &Arrival) -> Commit {
        let key = arrival.key.to_string();
        let dead = |reason: &Reason| egress::settle(head, arrival, Outcome::DeadLettered, reason);
        match behaviour::mood(plan, agent, &key) {
            Mood::Kills | Mood::Hangs => return dead(&behaviour::gone()),
            Mood::Fails | Mood::Wrong if self.taken_over.contains(&arrival.key) => return dead(&behaviour::gone()),
            Mood::Fails => return dead(&behaviour::failure()),
            Mood::Refused => return egress::settle(head, arrival, Outcome::Rejected, &behaviour::refusal()),
            Mood::HangsOnce | Mood::FailsOnce | Mood::Wrong | Mood::Deletes | Mood::Works => {}
        }
        let subject = match &arrival.body {
            Body::Event { envelope, .. } => envelope.subject.as_str(),
            Body::Malformed { .. } => "",
        };
        let asked = Asked {
            agent,
            key: &key,
            seed: &seed(&arrival.key, &config.agent),
            subject,
            logical_time: format!("{:?}", logical_time(head, arrival)),
            version: head.version,
            state: head.state.as_deref(),
        };
        match egress::react(config, head, arrival, behaviour::react(plan, &asked)) {
            Ok(commit) => commit,
            Err(invalid) => dead(&Reason::new("agent_invalid_answer", invalid.to_string())),
        }
    }
}
