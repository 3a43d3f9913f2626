//! What the agent is asked about, and what its answers, failures and absences make of it.

use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::{self, Outcome};
use rhizon_kernel::head::Head;
use rhizon_kernel::ingress::Reason;

use super::line::Line;
use super::slot::{SlotId, State};
use super::{Window, gone};
use crate::agent::Answer;
use crate::planted::{self, Fault};
use crate::telemetry::TraceContext;

impl Window<'_> {
    /// Retries that are due are ready.
    pub(in super::super) fn wake(&mut self, now_ms: i64) {
        while let Some(&(until, id)) = self.sleeping.first().filter(|(until, _)| *until <= now_ms) {
            self.sleeping.remove(&(until, id));
            self.ready.insert(id);
        }
    }

    /// The slots to ask the agent about now, in stream order. A lone slot goes with nothing beside it.
    pub(in super::super) fn next_calls(&mut self, room: usize) -> Vec<SlotId> {
        if self.alone.is_some() && !planted::is(Fault::LoneHasCompany) {
            return Vec::new();
        }
        let lone = self.ready.iter().copied().find(|id| self.slot(*id).is_some_and(|slot| slot.lone));
        let chosen: Vec<SlotId> = match lone {
            Some(_) if self.calling > 0 => Vec::new(),
            Some(id) => {
                self.alone = Some(id);
                vec![id]
            }
            None => self.ready.iter().copied().take(room).collect(),
        };
        for id in &chosen {
            self.ready.remove(id);
            if let Some(index) = self.index(*id) {
                self.slots[index].state = State::Calling;
                self.calling += 1;
            }
        }
        chosen
    }

    pub(in super::super) fn is_lone(&self, id: SlotId) -> bool {
        self.slot(id).is_some_and(|slot| slot.lone)
    }

    /// The span that handles an event has begun: what follows continues it.
    pub(in super::super) fn set_trace(&mut self, id: SlotId, trace: TraceContext) {
        if let Some(index) = self.index(id) {
            self.slots[index].trace = trace;
        }
    }

    /// The head of the entity that a slot is for, as it will be when all before it are appended.
    pub(in super::super) fn head(&self, id: SlotId) -> Option<&Head> {
        self.lines.get(&self.slot(id)?.arrival.entity).map(Line::head)
    }

    /// Takes the agent's answer to a slot. Returns the reason of a failed try.
    pub(in super::super) fn answered(&mut self, id: SlotId, answer: Answer, now_ms: i64) -> Option<Reason> {
        let index = self.index(id)?;
        self.called(id);
        let slot = &mut self.slots[index];
        let line = self.lines.get_mut(&slot.arrival.entity)?;
        let reason = match answer {
            Answer::Reaction(reaction) => {
                match egress::react(&self.settings.config, line.head(), &slot.arrival, reaction) {
                    Ok(commit) => {
                        slot.answered = true;
                        self.decided(index, commit);
                        return None;
                    }
                    Err(invalid) => Reason::new("agent_invalid_answer", invalid.to_string()),
                }
            }
            Answer::Failed(reason) => reason,
            Answer::Refused(reason) => {
                slot.answered = true;
                let commit = egress::settle(line.head(), &slot.arrival, Outcome::Rejected, &reason);
                self.decided(index, commit);
                return Some(reason);
            }
        };
        slot.attempts += 1;
        slot.counted = false;
        self.tries.failed(&slot.arrival.key, &reason);
        if slot.attempts >= self.settings.retry.attempts {
            let commit = egress::settle(line.head(), &slot.arrival, Outcome::DeadLettered, &reason);
            self.decided(index, commit);
        } else {
            let until_ms =
                now_ms.saturating_add_unsigned(self.settings.retry.delay_ms(slot.attempts, &slot.arrival.key));
            slot.state = State::Backoff;
            self.sleeping.insert((until_ms, id));
        }
        Some(reason)
    }

    /// The agent went away while it had these: only one that was alone may be at fault.
    pub(in super::super) fn lost(&mut self, ids: &[SlotId], now_ms: i64) -> Option<Reason> {
        if let [id] = ids
            && self.is_lone(*id)
        {
            return self.answered(*id, Answer::Failed(gone()), now_ms);
        }
        for id in ids {
            if planted::is(Fault::NeighboursCharged) {
                self.answered(*id, Answer::Failed(gone()), now_ms);
                continue;
            }
            self.wait_again(*id);
            if let Some(index) = self.index(*id) {
                self.slots[index].lone = true;
            }
        }
        None
    }

    /// The agent was not there: no event is at fault.
    pub(in super::super) fn unreachable(&mut self, ids: &[SlotId]) {
        for id in ids {
            self.wait_again(*id);
        }
    }

    fn wait_again(&mut self, id: SlotId) {
        if let Some(index) = self.index(id) {
            self.slots[index].state = State::Waiting;
            self.slots[index].attempts += u32::from(planted::is(Fault::TriesForgotten));
            self.called(id);
            self.ready.insert(id);
        }
    }

    /// The agent has it no more.
    fn called(&mut self, id: SlotId) {
        self.calling -= 1;
        self.alone = self.alone.filter(|alone| *alone != id);
    }

    /// A lone try is about to be made; answers the key to count it under, unless that is done.
    pub(in super::super) fn begin_lone(&mut self, id: SlotId) -> Option<Hash> {
        let slot = &self.slots[self.index(id)?];
        self.tries.begin(slot.arrival.key, slot.attempts);
        (!slot.counted).then_some(slot.arrival.key)
    }

    /// The lone try that comes next was counted durably.
    pub(in super::super) fn counted(&mut self, id: SlotId) {
        if let Some(index) = self.index(id) {
            self.slots[index].counted = true;
        }
    }
}
