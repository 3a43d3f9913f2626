//! One entity's events in line, and its head as it will be.

use std::collections::VecDeque;

use rhizon_kernel::Head;

use super::slot::SlotId;
use crate::planted::{self, Fault};

#[derive(Debug)]
pub(super) struct Line {
    head: Head,
    waiting: VecDeque<SlotId>,
    /// Decided or parked, and not durable yet.
    unsaved: usize,
    /// Events in the store that whoever comes now must wait behind.
    held: u64,
}

impl Line {
    pub(super) fn new(head: Head, parked: u64) -> Self {
        Self { head, waiting: VecDeque::new(), unsaved: 0, held: parked }
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Of its state.
    pub(super) fn bytes(&self) -> usize {
        self.head.bytes()
    }

    /// Joins the line; answers whether nobody is before.
    pub(super) fn join(&mut self, id: SlotId) -> bool {
        self.waiting.push_back(id);
        self.waiting.len() == 1 || planted::is(Fault::LineJumped)
    }

    /// The first is done, with a new head unless it was skipped; answers who is first now.
    pub(super) fn advance(&mut self, head: Option<Head>) -> Option<SlotId> {
        if let Some(head) = head {
            self.head = head;
            self.unsaved += 1;
        }
        self.waiting.pop_front();
        self.waiting.front().copied()
    }

    pub(super) fn waiting(&self) -> &VecDeque<SlotId> {
        &self.waiting
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Another event is parked; a new one in the store unless it was there before.
    pub(super) fn park(&mut self, is_new: bool) {
        self.held += u64::from(is_new);
        self.unsaved += 1;
    }

    pub(super) fn unpark(&mut self) {
        self.held = self.held.saturating_sub(1);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held > 0 && !planted::is(Fault::ParkedOvertaken)
    }

    pub(super) fn appended(&mut self) {
        self.unsaved = self.unsaved.saturating_sub(1);
    }

    /// Whether the store does not know this head yet, or somebody waits for it.
    pub(super) fn is_in_use(&self) -> bool {
        (self.unsaved > 0 && !planted::is(Fault::HeadEvictedUnsaved)) || !self.waiting.is_empty()
    }
}
