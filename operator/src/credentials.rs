//! The Secret with a user's credentials: issued when due, kept as it is otherwise.

use crate::{
    cluster::Manifest,
    nats::{
        Error,
        claims::Permissions,
        credentials::{self, Issued},
        jwt,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use nkeys::KeyPair;
use rhizon_api::settings::paths;
use serde_json::json;

const DIGEST: &str = "rhizon.dev/credentials-digest";
const EXPIRES: &str = "rhizon.dev/credentials-expires";

/// Who gets credentials, and for what.
pub struct Wanted<'a> {
    pub namespace: &'a str,
    /// Name of the Secret.
    pub secret: &'a str,
    pub account: &'a KeyPair,
    /// Name of the user in the broker.
    pub user: &'a str,
    pub permissions: &'a Permissions,
    /// CA of the broker.
    pub ca_pem: Option<&'a str>,
}

/// The Secret as it should be: `live` with what is still good in it. `now` in seconds since 1970.
pub fn build(wanted: &Wanted<'_>, live: Option<&Secret>, now: i64) -> Result<Manifest, Error> {
    let Wanted { namespace, secret, account, user, permissions, ca_pem } = *wanted;
    let kept = |file: &str| live?.data.as_ref()?.get(file).map(|bytes| bytes.0.clone());
    let digest = credentials::digest(&account.public_key(), user, permissions);
    let (file, issued) = match (kept(paths::CREDENTIALS), live.and_then(issued)) {
        (Some(file), Some(issued)) if !credentials::is_due(Some(&issued), &digest, now) => (file, issued),
        _ => {
            let (file, issued) = credentials::issue(account, user, permissions, now)?;
            (file.into_bytes(), issued)
        }
    };
    let key = match kept(paths::MESSAGE_ID_KEY) {
        Some(key) => key,
        None => credentials::message_id_key()?,
    };
    let mut data = json!({
        paths::CREDENTIALS: STANDARD.encode(file),
        paths::MESSAGE_ID_KEY: STANDARD.encode(key),
    });
    if let Some(ca) = ca_pem {
        data[paths::CA] = json!(STANDARD.encode(ca));
    }
    Ok(Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret,
            "namespace": namespace,
            "annotations": {DIGEST: issued.digest, EXPIRES: issued.expires.to_string()},
        },
        "type": "Opaque",
        "data": data,
    })))
}

/// What the annotations say.
pub fn issued(secret: &Secret) -> Option<Issued> {
    let annotations = secret.metadata.annotations.as_ref()?;
    Some(Issued { digest: annotations.get(DIGEST)?.clone(), expires: annotations.get(EXPIRES)?.parse().ok()? })
}

/// Public key of the user whose credentials a Secret holds.
pub fn user_key(secret: &Secret) -> Option<String> {
    let file = std::str::from_utf8(&secret.data.as_ref()?.get(paths::CREDENTIALS)?.0).ok()?;
    file.lines().find_map(jwt::decode).map(|claims| claims.subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::{claims, credentials::LIFETIME_S};

    fn build_at(live: Option<&Secret>, account: &KeyPair, now: i64) -> Manifest {
        let permissions = claims::gateway_permissions();
        let wanted = Wanted {
            namespace: "permits",
            secret: "rhizon-gateway",
            account,
            user: "gateway",
            permissions: &permissions,
            ca_pem: Some("ca"),
        };
        build(&wanted, live, now).unwrap()
    }

    #[test]
    fn a_secret_stays_the_same_until_half_of_its_time_and_keeps_its_message_id_key() {
        let account = KeyPair::new_account();
        let first = build_at(None, &account, 1_000);
        let live: Secret = serde_json::from_value(first.value().clone()).unwrap();
        assert_eq!(build_at(Some(&live), &account, 1_000 + LIFETIME_S / 2), first);
        assert!(user_key(&live).unwrap().starts_with('U'));
        let renewed = build_at(Some(&live), &account, 1_001 + LIFETIME_S / 2);
        assert_ne!(renewed.value()["data"]["user.creds"], first.value()["data"]["user.creds"]);
        assert_eq!(renewed.value()["data"]["msg-id.key"], first.value()["data"]["msg-id.key"]);
    }
}
