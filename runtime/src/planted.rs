//! Faults planted on purpose: the simulation must find each of them (`tests/simulation/tests/planted.rs`). They exist in
//! test builds with the feature `planted-faults` only; in any other build, and in every release build, `is` is `false`.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Outputs leave before their commit is durable.
    PublishBeforeCommit,
    /// The broker is told of a position that is not durable yet.
    AcknowledgeBeforeCommit,
    /// The position covers events that were pulled and not decided.
    PositionAheadOfCommit,
    /// A consumer's sequence may leave out numbers.
    GapAccepted,
    /// The last event of a pull is not looked up among the known ones.
    DedupOffByOne,
    /// What became durable while identities were loaded is not looked up.
    RecentForgotten,
    /// An event goes to its agent whatever version of the entity it expects.
    ExpectedVersionLost,
    /// The store appends whatever the journal ends with.
    StaleAppendAccepted,
    /// A publish does not wait for the one before it.
    PipelinedOutputs,
    /// A record with some of its outputs published counts as published.
    HalfRecordPublished,
    /// What was committed and not published is not looked for.
    OutboxNotRecovered,
    /// Everyone who was with the agent when it died is charged.
    NeighboursCharged,
    /// Others go to the agent while it has one that must be alone.
    LoneHasCompany,
    /// A try counts, made or not.
    TriesForgotten,
    /// A timer does not wait.
    TimerEarly,
    /// A timer's output leaves the store before it is published.
    TimerForgottenEarly,
    /// A decided event stays among those that wait.
    ParkedNotReleased,
    /// An event passes those of its entity that wait in the store.
    ParkedOvertaken,
    /// The position follows parked events too.
    PositionOfParked,
    /// An event is due although one before it of its entity is not.
    ReleasedOvertakes,
    /// An event is parked while one from behind it is on its way.
    ParkedWhileLoading,
    /// What is found to be due is taken although an append changes it meanwhile.
    StaleDueTaken,
    /// A deleted entity begins anew.
    TombstoneForgotten,
    /// An older owner may go on.
    FenceNotChecked,
    /// A head that the store does not know yet may leave memory.
    HeadEvictedUnsaved,
    /// Heads may leave memory while others are loaded, also those that are not since they were there.
    HeadEvictedWhileLoading,
    /// An entity's events do not wait for each other.
    LineJumped,
    /// A timer is set for what is due already and can't be done yet.
    TimerSpins,
    /// A process that was overtaken while it attached calls the store lost.
    OvertakenCalledLost,
    /// A start that meets its own config record stops.
    OwnRecordForeign,
    /// A rejection for a used id is appended before an open event in front of it.
    ReusedIdNotHeld,
    /// The newest rules are for every event.
    PlaceIgnored,
    /// The newest rules are for every event that has waited.
    PlaceOfParkedLost,
    /// What is ignored occupies its id.
    IgnoredTakesId,
    /// A command about a dead letter is journaled, and the dead letter stays open.
    DeadLetterStaysOpen,
    // By who stands in for the operator:
    /// A place is picked while processes still read with the rules before.
    PlaceWhileReading,
    /// Filters are narrowed before the place is passed.
    NarrowedEarly,
    /// One shard's filter lets through the entities of the other.
    ShardsOverlap,
}

impl Fault {
    pub const ALL: [Fault; 38] = [
        Self::PositionOfParked,
        Self::ReleasedOvertakes,
        Self::TimerEarly,
        Self::TimerForgottenEarly,
        Self::ParkedNotReleased,
        Self::ParkedOvertaken,
        Self::ParkedWhileLoading,
        Self::StaleDueTaken,
        Self::PublishBeforeCommit,
        Self::AcknowledgeBeforeCommit,
        Self::PositionAheadOfCommit,
        Self::GapAccepted,
        Self::DedupOffByOne,
        Self::RecentForgotten,
        Self::ExpectedVersionLost,
        Self::StaleAppendAccepted,
        Self::PipelinedOutputs,
        Self::HalfRecordPublished,
        Self::OutboxNotRecovered,
        Self::NeighboursCharged,
        Self::LoneHasCompany,
        Self::TriesForgotten,
        Self::TombstoneForgotten,
        Self::FenceNotChecked,
        Self::HeadEvictedUnsaved,
        Self::HeadEvictedWhileLoading,
        Self::LineJumped,
        Self::TimerSpins,
        Self::OvertakenCalledLost,
        Self::OwnRecordForeign,
        Self::ReusedIdNotHeld,
        Self::PlaceIgnored,
        Self::PlaceOfParkedLost,
        Self::IgnoredTakesId,
        Self::DeadLetterStaysOpen,
        Self::PlaceWhileReading,
        Self::NarrowedEarly,
        Self::ShardsOverlap,
    ];
}

#[cfg(all(feature = "planted-faults", debug_assertions))]
mod switch {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants a fault in everything that runs on this thread from now on, or takes it away.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    pub fn is(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }
}

#[cfg(not(all(feature = "planted-faults", debug_assertions)))]
mod switch {
    pub const fn is(_: super::Fault) -> bool {
        false
    }
}

pub use switch::is;
#[cfg(all(feature = "planted-faults", debug_assertions))]
pub use switch::plant;
