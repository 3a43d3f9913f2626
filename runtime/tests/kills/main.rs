//! Real processes, killed or stopped at chosen steps: sidecars, brokers and databases; each time with a check of the whole
//! history at the end.

// A release build has no failpoints.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../common/events.rs"]
mod events;
mod history;
mod memory;
mod servers;
#[path = "../world/setup.rs"]
mod setup;
mod sidecar;
mod sizes;
mod stage;
mod steps;
mod takeover;
mod wait;
