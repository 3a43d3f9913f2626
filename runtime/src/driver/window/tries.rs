//! What this process itself saw of tries that were made alone. The store counts such a try before it is made, so that a
//! process that dies of it is charged; one that lives knows better: a try that was never made, or whose answer was lost
//! with a session, failed nothing.

use std::collections::HashMap;

use rhizon_kernel::chain::Hash;
use rhizon_kernel::ingress::Reason;

#[derive(Debug, Clone, Default)]
pub(super) struct Try {
    /// How many failed, with those before this process.
    pub failed: u32,
    pub reason: Option<Reason>,
}

/// By the event's key, until it is settled. Outlives a session, not a process.
#[derive(Debug, Default)]
pub(in super::super) struct Tries(HashMap<Hash, Try>);

impl Tries {
    pub(super) fn seen(&self, key: &Hash) -> Option<&Try> {
        self.0.get(key)
    }

    /// A try is about to be made, and `failed` went before it.
    pub(super) fn begin(&mut self, key: Hash, failed: u32) {
        self.0.entry(key).or_default().failed = failed;
    }

    pub(super) fn failed(&mut self, key: &Hash, reason: &Reason) {
        if let Some(seen) = self.0.get_mut(key) {
            seen.failed += 1;
            seen.reason = Some(reason.clone());
        }
    }

    pub(super) fn settled(&mut self, key: &Hash) {
        self.0.remove(key);
    }
}
