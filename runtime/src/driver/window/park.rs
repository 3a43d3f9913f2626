//! Events that can't be decided now and must not hold up others: they wait in the store, and the position passes them.
//! Timers wait there until they are due. With `ordering: Entity`, so does an entity in retry when memory is short.

use rhizon_kernel::chain::Hash;
use rhizon_kernel::ingress::{self, Arrival, Body, Decision};

use super::slot::{Origin, SlotId, State};
use super::{Ordering, Window, line::Line};
use crate::driver::Settings;
use crate::planted::{self, Fault};
use crate::store::Parked;

/// How an event that has just arrived must wait in the store, if it must.
pub(super) fn must_wait(
    settings: &Settings,
    stream: u64,
    line: &Line,
    known: Option<&Hash>,
    arrival: &Arrival,
    now_ms: i64,
) -> Option<State> {
    if let Body::Event { envelope, .. } = &arrival.body
        && let Some(due_ms) = envelope.deliverat.map(jiff::Timestamp::as_millisecond).filter(|due_ms| *due_ms > now_ms)
        // Another version may be the one that is expected by then.
        && matches!(
            ingress::decide(&settings.config, stream, line.head(), known, arrival),
            Decision::Accept | Decision::Conflict(_)
        )
        && known.is_none()
        && !planted::is(Fault::TimerEarly)
    {
        return Some(State::Parking { due_ms: Some(due_ms), holds: false });
    }
    line.is_held().then_some(State::Parking { due_ms: None, holds: true })
}

impl Window<'_> {
    /// Of what is due, that which is not here already, and at most so many; from now on it is. Whether it is all of it, too.
    pub(in super::super) fn take_due(&mut self, due: Vec<Parked>, most: usize) -> (Vec<Parked>, bool) {
        let mut new: Vec<Parked> =
            due.into_iter().filter(|parked| !self.in_hand.contains_key(&parked.stream)).collect();
        let is_all = new.len() <= most;
        new.truncate(most);
        self.in_hand.extend(new.iter().map(|parked| (parked.stream, parked.payload.len())));
        (new, is_all)
    }

    /// How many events, and bytes of them, are here that the store keeps too.
    pub(in super::super) fn in_hand(&self) -> (usize, usize) {
        (self.in_hand.len(), self.in_hand.values().sum())
    }

    /// Whether the store is yet to learn that what it thinks is due has to wait again.
    pub(in super::super) fn parks_again(&self) -> bool {
        !self.parked_again.is_empty() && !planted::is(Fault::ParkedWhileLoading)
    }

    /// Parks the entities that wait for a retry, so that others find room.
    pub(in super::super) fn make_room(&mut self) {
        if self.settings.ordering == Ordering::Stream {
            return;
        }
        for (until_ms, id) in self.sleeping.clone() {
            let Some(entity) = self.slot(id).map(|slot| slot.arrival.entity.clone()) else { continue };
            let Some(waiting) = self.lines.get(&entity).map(|line| line.waiting().clone()) else { continue };
            self.sleeping.remove(&(until_ms, id));
            for waiting_id in waiting {
                self.park(waiting_id, (waiting_id == id).then_some(until_ms));
            }
            if let Some(line) = self.lines.get_mut(&entity) {
                line.clear();
            }
        }
    }

    fn park(&mut self, id: SlotId, due_ms: Option<i64>) {
        let Some(index) = self.index(id) else { return };
        let slot = &mut self.slots[index];
        if slot.is_repeated() {
            slot.state = State::Skipped;
            return;
        }
        slot.state = State::Parking { due_ms, holds: true };
        if matches!(slot.origin, Origin::Parked { .. }) {
            self.parked_again.insert(slot.stream);
        }
        let is_new = !matches!(slot.origin, Origin::Parked { holds: true, .. });
        if let Some(line) = self.lines.get_mut(&slot.arrival.entity) {
            line.park(is_new);
        }
    }
}
