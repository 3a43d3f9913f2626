//! Tests on the cluster that `KUBECONFIG` points at, one after the other:
//! `cargo xtask up && cargo xtask images && cargo test -p rhizon-tests --features cluster --test cluster -- --test-threads=1`.

mod kubectl;
mod network_policies;
