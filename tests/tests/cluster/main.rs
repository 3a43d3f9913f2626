//! Tests on the cluster that `KUBECONFIG` points at, one after the other. `cargo xtask test` brings it up, builds what
//! they need and sets what they read; `tests/README.md` says how to run one of them alone.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod deletion;
mod isolation;
mod journals;
mod kubectl;
mod mistakes;
mod network_policies;
mod roots;
mod rules;
mod shards;
mod steady_state;
mod support;
