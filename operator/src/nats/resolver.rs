//! Accounts in the broker: looked up, pushed and deleted through the system account.

use super::{
    Error,
    jwt::{self, Claims},
};
use async_nats::Client;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// Makes the broker's claims of an account equal to `wanted`. Returns whether it had to write.
pub async fn ensure_account(system: &Client, signer: &KeyPair, wanted: &Claims, now: i64) -> Result<bool, Error> {
    if look_up(system, &wanted.subject).await?.as_ref() == Some(wanted) {
        return Ok(false);
    }
    let jwt = jwt::encode(wanted, signer, now)?;
    request(system, "$SYS.REQ.CLAIMS.UPDATE", jwt).await?;
    Ok(true)
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
