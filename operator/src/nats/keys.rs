//! Keys, as they are kept in Secrets of the operator's own namespace.
//!
//! A seed is written once and never changed: everything that was ever signed hangs on it.

use super::Error;
use nkeys::{KeyPair, KeyPairType};
use std::collections::BTreeMap;

/// The installation's keys: who may make accounts, and the system account.
pub struct Installation {
    pub operator: KeyPair,
    pub operator_signing: KeyPair,
    pub system: KeyPair,
}

/// The keys of a workspace's two accounts.
pub struct Workspace {
    pub data: KeyPair,
    pub runtime: KeyPair,
}

const OPERATOR: &str = "operator.nk";
const OPERATOR_SIGNING: &str = "operator-signing.nk";
const SYSTEM: &str = "system.nk";
const DATA: &str = "data.nk";
const RUNTIME: &str = "runtime.nk";

/// Content of a Secret.
pub type Seeds = BTreeMap<String, String>;

impl Installation {
    pub fn generate() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            operator_signing: KeyPair::new_operator(),
            system: KeyPair::new_account(),
        }
    }

    pub fn seeds(&self) -> Result<Seeds, Error> {
        seeds([(OPERATOR, &self.operator), (OPERATOR_SIGNING, &self.operator_signing), (SYSTEM, &self.system)])
    }

    pub fn from_seeds(seeds: &Seeds) -> Result<Self, Error> {
        // With somebody else's broker its identity stays with them; a signing key is all that is needed.
        let identity = if seeds.contains_key(OPERATOR) { OPERATOR } else { OPERATOR_SIGNING };
        Ok(Self {
            operator: read(seeds, identity, &KeyPairType::Operator)?,
            operator_signing: read(seeds, OPERATOR_SIGNING, &KeyPairType::Operator)?,
            system: read(seeds, SYSTEM, &KeyPairType::Account)?,
        })
    }
}

impl Workspace {
    pub fn generate() -> Self {
        Self { data: KeyPair::new_account(), runtime: KeyPair::new_account() }
    }

    pub fn seeds(&self) -> Result<Seeds, Error> {
        seeds([(DATA, &self.data), (RUNTIME, &self.runtime)])
    }

    pub fn from_seeds(seeds: &Seeds) -> Result<Self, Error> {
        Ok(Self {
            data: read(seeds, DATA, &KeyPairType::Account)?,
            runtime: read(seeds, RUNTIME, &KeyPairType::Account)?,
        })
    }
}

fn seeds<const N: usize>(keys: [(&str, &KeyPair); N]) -> Result<Seeds, Error> {
    keys.into_iter().map(|(name, key)| Ok((name.to_owned(), key.seed()?))).collect()
}

fn read(seeds: &Seeds, name: &str, kind: &KeyPairType) -> Result<KeyPair, Error> {
    let seed = seeds.get(name).ok_or_else(|| Error::Key { why: format!("{name} is missing from its Secret") })?;
    let key = KeyPair::from_seed(seed.trim()).map_err(|error| Error::Key { why: format!("{name}: {error}") })?;
    if &key.key_pair_type() == kind {
        Ok(key)
    } else {
        Err(Error::Key { why: format!("{name} holds a key of another kind") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_a_wrong_one_is_named() {
        let keys = Workspace::generate();
        let mut seeds = keys.seeds().unwrap();
        assert_eq!(Workspace::from_seeds(&seeds).unwrap().data.public_key(), keys.data.public_key());
        seeds.insert(RUNTIME.to_owned(), KeyPair::new_user().seed().unwrap());
        let error = Workspace::from_seeds(&seeds).err().unwrap();
        assert_eq!(error.to_string(), "a broker key cannot be used: runtime.nk holds a key of another kind");
    }
}
