//! How much is done at a time, when only what comes back tells how large it is.

/// How many events a session begins with: their answers, be they as large as they may, are less than is read of one call.
const FIRST_EVENTS: usize = 8;

/// A number of events that grows while they bring little, and shrinks when they bring much.
#[derive(Debug)]
pub(super) struct Pace {
    pub events: usize,
    /// How many bytes they should bring, and how many there may be.
    room: usize,
    most: usize,
}

impl Pace {
    pub(super) const fn start(room: usize, most: usize) -> Self {
        Self { events: FIRST_EVENTS, room, most }
    }

    pub(super) const fn restart(&mut self) {
        self.events = FIRST_EVENTS;
    }

    /// So many events brought so many bytes.
    pub(super) fn fit(&mut self, events: usize, bytes: usize) {
        let fitting = self.room.saturating_mul(events) / bytes.max(1);
        self.events = fitting.min(self.events * 2).clamp(1, self.most.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_while_little_comes_and_fits_at_once_what_is_much() {
        let mut pace = Pace::start(4_000, 50);
        let mut after = |events, bytes| {
            pace.fit(events, bytes);
            pace.events
        };
        assert_eq!([after(8, 0), after(16, 16), after(32, 32), after(0, 0)], [16, 32, 50, 1]);
        assert_eq!([after(1, 10), after(2, 2_000), after(4, 4_000), after(4, 4_000)], [2, 4, 4, 4]);
        assert_eq!([after(4, 40_000), after(1, 1_000), after(1, 9_000)], [1, 2, 1]);
    }
}
