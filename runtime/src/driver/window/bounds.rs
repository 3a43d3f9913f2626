//! How much the window may hold: events in number and in bytes, states and decisions in bytes.

use super::line::Line;
use super::slot::Slot;
use super::{Ordering, Window};
use crate::driver::Bounds;
use crate::planted::{self, Fault};

/// Nothing is taken in when the window holds as many bytes of events: each is there in several forms on its way.
const ROOM_BYTES: usize = 1 << 20;

/// How many times the bound of states may be there before what waits is let go of.
const CROWDED_TIMES: usize = 4;

impl Window<'_> {
    pub(in super::super) fn has_room(&self) -> bool {
        self.slots.len() < 2 * self.settings.batch_events && self.bytes < ROOM_BYTES
    }

    /// Those that nobody waits for can be loaded again. Not while some are being loaded: these are not among them.
    pub(super) fn forget_heads(&mut self) {
        let Bounds { cached_heads, cached_bytes, .. } = self.settings.bounds;
        if self.lines.len() > cached_heads || self.lines.values().map(Line::bytes).sum::<usize>() > cached_bytes {
            self.lines.retain(|_, line| line.is_in_use());
        }
    }

    /// Whether more states may come in, by loads and by answers.
    pub(in super::super) fn has_room_for_states(&mut self) -> bool {
        let room = self.settings.bounds.states_bytes;
        if self.states_bytes >= room {
            if planted::is(Fault::HeadEvictedWhileLoading) {
                self.lines.retain(|_, line| line.is_in_use());
            }
            let used = self.lines.values().filter(|line| line.is_in_use()).map(Line::bytes).sum::<usize>();
            self.states_bytes = used + self.slots.iter().map(Slot::decided_bytes).sum::<usize>();
        }
        self.states_bytes < room
    }

    /// Bytes of states when they are so many that memory is in danger: each event that waits may make one of its own.
    pub(in super::super) fn crowded_bytes(&mut self) -> Option<usize> {
        let most = CROWDED_TIMES * self.settings.bounds.states_bytes;
        (!self.has_room_for_states() && self.states_bytes > most).then_some(self.states_bytes)
    }

    /// Whether an answer is what lets something leave: with `Stream` all wait for the front.
    pub(in super::super) fn needs_an_answer(&self) -> bool {
        self.settings.ordering == Ordering::Entity || self.ready.first() == Some(&self.first)
    }
}
