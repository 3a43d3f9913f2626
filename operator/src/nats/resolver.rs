//! Accounts in the broker: looked up, pushed and deleted through the system account.

use super::{
    Error,
    credentials::LIFETIME_S,
    jwt::{self, Claims},
};
use async_nats::Client;
use nkeys::KeyPair;
use serde_json::{Map, Value, json};

/// In an account's claims: public keys of users, and until when issued credentials of theirs are no good.
const REVOCATIONS: &str = "revocations";

/// Makes the broker's claims of an account equal to `wanted`; who was revoked stays so. Returns whether it had to write.
pub async fn ensure_account(system: &Client, signer: &KeyPair, wanted: &Claims, now: i64) -> Result<bool, Error> {
    let found = look_up(system, &wanted.subject).await?;
    let mut wanted = wanted.clone();
    keep_revocations(&mut wanted, found.as_ref(), now);
    if found.as_ref() == Some(&wanted) {
        return Ok(false);
    }
    push(system, signer, &wanted, now).await.map(|()| true)
}

/// Ends a user: its connections now, and its credentials for good. An account that is gone has no users.
pub async fn revoke(system: &Client, signer: &KeyPair, account: &str, user: &str, now: i64) -> Result<(), Error> {
    let Some(found) = look_up(system, account).await? else { return Ok(()) };
    if !found.nats[REVOCATIONS][user].is_null() {
        return Ok(());
    }
    let mut wanted = found.clone();
    keep_revocations(&mut wanted, Some(&found), now);
    wanted.nats[REVOCATIONS][user] = json!(now);
    push(system, signer, &wanted, now).await
}

/// The account itself remembers who was revoked, and when, for as long as their credentials would have been good.
fn keep_revocations(wanted: &mut Claims, found: Option<&Claims>, now: i64) {
    let revoked = found.and_then(|found| found.nats[REVOCATIONS].as_object());
    let lasting: Map<String, Value> = revoked
        .into_iter()
        .flatten()
        .filter(|(_, since)| since.as_i64().is_some_and(|since| since + LIFETIME_S >= now))
        .map(|(user, since)| (user.clone(), since.clone()))
        .collect();
    if let Some(nats) = wanted.nats.as_object_mut() {
        nats.remove(REVOCATIONS);
        if !lasting.is_empty() {
            nats.insert(REVOCATIONS.to_owned(), Value::Object(lasting));
        }
    }
}

async fn push(system: &Client, signer: &KeyPair, claims: &Claims, now: i64) -> Result<(), Error> {
    request(system, "$SYS.REQ.CLAIMS.UPDATE", jwt::encode(claims, signer, now)?).await
}

/// What the broker knows of an account.
pub async fn look_up(system: &Client, public_key: &str) -> Result<Option<Claims>, Error> {
    let subject = format!("$SYS.REQ.ACCOUNT.{public_key}.CLAIMS.LOOKUP");
    let answer = system
        .request(subject.clone(), String::new().into())
        .await
        .map_err(|error| Error::unavailable(&subject, error))?;
    // An unknown account is answered with nothing.
    Ok(std::str::from_utf8(&answer.payload).ok().and_then(jwt::decode))
}

/// Deletes accounts. Those that are gone already are no error.
pub async fn delete_accounts(system: &Client, signer: &KeyPair, public_keys: &[String], now: i64) -> Result<(), Error> {
    let mut present = Vec::new();
    for public_key in public_keys {
        if look_up(system, public_key).await?.is_some() {
            present.push(public_key);
        }
    }
    if present.is_empty() {
        return Ok(());
    }
    let claims = Claims {
        subject: signer.public_key(),
        name: "delete".to_owned(),
        expires: None,
        nats: json!({"type": "generic", "version": 2, "accounts": present}),
    };
    request(system, "$SYS.REQ.CLAIMS.DELETE", jwt::encode(&claims, signer, now)?).await
}

async fn request(system: &Client, subject: &str, jwt: String) -> Result<(), Error> {
    let answer =
        system.request(subject.to_owned(), jwt.into()).await.map_err(|error| Error::unavailable(subject, error))?;
    let answer: Value = serde_json::from_slice(&answer.payload)
        .map_err(|error| Error::Answer { call: subject.to_owned(), why: error.to_string() })?;
    match answer.get("error") {
        None => Ok(()),
        Some(error) => Err(Error::Refused {
            call: subject.to_owned(),
            code: error["code"].as_u64().unwrap_or_default(),
            description: error["description"].as_str().unwrap_or_default().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(nats: &Value) -> Claims {
        Claims { subject: "A".to_owned(), name: "permits".to_owned(), expires: None, nats: nats.clone() }
    }

    #[test]
    fn a_revocation_lasts_as_long_as_the_credentials_would_have() {
        let found = claims(&json!({"type": "account", "revocations": {"old": 10, "new": 20}}));
        let kept = |now| {
            let mut wanted = claims(&json!({"type": "account"}));
            keep_revocations(&mut wanted, Some(&found), now);
            wanted.nats
        };
        assert_eq!(kept(LIFETIME_S), found.nats);
        assert_eq!(kept(LIFETIME_S + 11), json!({"type": "account", "revocations": {"new": 20}}));
        assert_eq!(kept(LIFETIME_S + 21), json!({"type": "account"}));
    }
}
