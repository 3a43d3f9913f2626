//! What leaves the window for the store.

use std::collections::BTreeSet;

use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::waiting_bytes;
use rhizon_kernel::ingress::Control;

use super::slot::{Harvest, Origin, Saved, Settled, Slot, SlotId, State};
use super::{Ordering, Window};
use crate::planted::{self, Fault};

/// A batch ends behind the record that reaches this: with the largest record it stays below what a store takes at once.
const BATCH_BYTES: usize = 1 << 20;

impl Window<'_> {
    /// Whether so many at the front need nothing more.
    pub(in super::super) fn has_decided(&self, count: usize) -> bool {
        let is_open = |slot: &Slot| matches!(slot.state, State::Waiting | State::Calling | State::Backoff);
        self.slots.iter().take(count).filter(|slot| !is_open(slot)).count() == count
    }

    /// Takes what can be appended now: with `Stream` the decided front, with `Entity` all that is decided, but for what
    /// was decided by an event before it that is still open, and what comes after that in its line.
    pub(in super::super) fn harvest(&mut self, max: usize) -> Option<Harvest> {
        let mut harvest = Harvest::default();
        let mut open = false;
        let mut held: BTreeSet<&str> = BTreeSet::new();
        for (id, slot) in (self.first..).zip(&mut self.slots) {
            match &slot.state {
                State::Taken => {}
                State::Waiting | State::Calling | State::Backoff => {
                    if self.settings.ordering == Ordering::Stream {
                        break;
                    }
                    open = true;
                }
                State::Skipped => {
                    harvest.skipped += 1;
                    harvest.duplicates += usize::from(slot.is_repeated());
                    harvest.unpark(slot);
                    slot.state = State::Taken;
                }
                // After a crash it would be due before what was decided first and is still here; or, with another's id, it
                // would come from the stream once more, and nothing would tell that it is the same.
                State::Parking { holds, .. }
                    if open && (slot.known.is_some() || *holds && held.contains(slot.arrival.entity.as_str())) =>
                {
                    held.insert(&slot.arrival.entity);
                }
                State::Parking { .. } | State::Decided(_) if harvest.is_full(max) => break,
                State::Parking { due_ms, holds } => {
                    harvest.bytes += waiting_bytes(slot.payload.len());
                    harvest.waits.park.push(slot.parked(*due_ms, *holds));
                    let identity = slot.known.is_none().then_some((slot.arrival.key, slot.arrival.digest));
                    harvest.parked.push(Saved { entity: slot.arrival.entity.clone(), identity });
                    slot.state = State::Taken;
                }
                State::Decided(_)
                    if open
                        && (slot.known.is_some() || held.contains(slot.arrival.entity.as_str()))
                        && !planted::is(Fault::ReusedIdNotHeld) =>
                {
                    held.insert(&slot.arrival.entity);
                }
                State::Decided(_) => harvest.take(id, slot),
            }
        }
        if harvest.settled.is_empty() && harvest.skipped == 0 && harvest.waits.is_empty() {
            return None;
        }
        while self.slots.front().is_some_and(|slot| matches!(slot.state, State::Taken)) {
            let slot = self.slots.pop_front()?;
            self.first += 1;
            self.bytes -= slot.payload.len();
            // What was parked has a place of long ago, or ahead of others that were not settled before a crash.
            if slot.origin == Origin::Stream || planted::is(Fault::PositionOfParked) {
                self.position = slot.stream;
            }
        }
        harvest.position = self.position;
        if planted::is(Fault::PositionAheadOfCommit) {
            harvest.position = self.slots.back().map_or(self.position, |slot| slot.stream);
        }
        Some(harvest)
    }

    /// The harvest is durable.
    pub(in super::super) fn appended(&mut self, saved: Vec<Saved>, settled: &[Hash], unparked: &[u64]) {
        for Saved { entity, identity } in saved {
            if let Some((key, digest)) = identity {
                self.pending.remove(&key);
                if !planted::is(Fault::RecentForgotten) {
                    self.recent.insert(key, digest);
                }
            }
            if let Some(line) = self.lines.get_mut(&entity) {
                line.appended();
            }
        }
        for key in settled {
            self.tries.settled(key);
        }
        for stream in unparked {
            self.in_hand.remove(stream);
            self.parked_again.remove(stream);
        }
    }
}

impl Harvest {
    fn is_full(&self, max: usize) -> bool {
        self.settled.len() >= max || self.bytes >= BATCH_BYTES
    }

    fn take(&mut self, id: SlotId, slot: &mut Slot) {
        let State::Decided(commit) = std::mem::replace(&mut slot.state, State::Taken) else { return };
        match slot.control {
            Some(Control::Redrive(_) | Control::Drop(_)) if planted::is(Fault::DeadLetterStaysOpen) => {}
            Some(Control::Redrive(key) | Control::Drop(key)) => self.waits.resolve.push(key),
            Some(Control::Cancel(key)) => self.waits.cancel.push(key),
            None => {}
        }
        self.unpark(slot);
        self.bytes += commit.bytes();
        self.settled.push(Settled {
            id,
            stream: slot.stream,
            attempts: slot.attempts + u32::from(slot.answered),
            trace: std::mem::take(&mut slot.trace),
            first: slot.known.is_none(),
            commit: *commit,
        });
    }

    fn unpark(&mut self, slot: &Slot) {
        if matches!(slot.origin, Origin::Parked { .. }) && !planted::is(Fault::ParkedNotReleased) {
            self.waits.unpark.push(slot.stream);
        }
    }
}
