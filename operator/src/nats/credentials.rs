//! Credentials of sidecars and gateways: issued for a day, renewed at half, left alone in between.

use super::{
    Error, claims,
    claims::Permissions,
    jwt::{self, hex},
};
use nkeys::KeyPair;
use sha2::{Digest as _, Sha256};

/// How long credentials are good, in seconds.
pub const LIFETIME_S: i64 = 24 * 3600;

/// What is known of the credentials in a Secret, from its annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Digest of account, name and permissions.
    pub digest: String,
    /// Seconds since 1970.
    pub expires: i64,
}

/// A digest of what credentials allow: other permissions need other credentials.
pub fn digest(account: &str, name: &str, permissions: &Permissions) -> String {
    let Permissions { publish, subscribe, answers } = permissions;
    let text = serde_json::json!([account, name, publish, subscribe, answers]).to_string();
    hex(&Sha256::digest(text))
}

/// Whether new credentials are due: none yet, other permissions, or half of their time is over.
pub fn is_due(issued: Option<&Issued>, digest: &str, now: i64) -> bool {
    issued.is_none_or(|issued| issued.digest != digest || issued.expires - now < LIFETIME_S / 2)
}

/// Seconds until [`is_due`] says yes.
pub fn due_in(issued: &Issued, now: i64) -> i64 {
    (issued.expires - now - LIFETIME_S / 2).max(0)
}

/// A credentials file for a new user of an account.
pub fn issue(account: &KeyPair, name: &str, permissions: &Permissions, now: i64) -> Result<(String, Issued), Error> {
    let user = KeyPair::new_user();
    let expires = now + LIFETIME_S;
    let claims = claims::user(&user.public_key(), name, permissions, expires);
    let file = jwt::credentials_file(&jwt::encode(&claims, account, now)?, &user.seed()?);
    Ok((file, Issued { digest: digest(&account.public_key(), name, permissions), expires }))
}

/// 32 unguessable bytes, for the HMAC of message ids.
pub fn message_id_key() -> Result<Vec<u8>, Error> {
    // A fresh key's seed is 32 bytes of the system's randomness in base32.
    let (_, bytes) = nkeys::decode_seed(&KeyPair::new_user().seed()?)?;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_due_when_they_are_missing_other_or_half_over() {
        let issued = Issued { digest: "a".to_owned(), expires: LIFETIME_S };
        assert!(is_due(None, "a", 0));
        assert!(is_due(Some(&issued), "b", 0));
        assert!(!is_due(Some(&issued), "a", LIFETIME_S / 2));
        assert!(is_due(Some(&issued), "a", LIFETIME_S / 2 + 1));
        assert_eq!(due_in(&issued, 0), LIFETIME_S / 2);
    }
}
