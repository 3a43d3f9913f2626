//! The Rhizon operator: custom resources in; namespaces, broker accounts, streams and workloads out.

pub mod nats;
