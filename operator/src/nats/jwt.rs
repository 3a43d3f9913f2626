//! NATS JWTs (nats-io/jwt v2): claims in, signed text out, and back.

use super::Error;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What a JWT says, before it is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// Public key that the JWT is about.
    pub subject: String,
    pub name: String,
    /// Seconds since 1970.
    pub expires: Option<i64>,
    /// The `nats` part, with `type` and `version`.
    pub nats: Value,
}

/// Signs claims. `now` in seconds since 1970.
pub fn encode(claims: &Claims, signer: &KeyPair, now: i64) -> Result<String, Error> {
    let mut payload = json!({
        "iat": now,
        "iss": signer.public_key(),
        "name": claims.name,
        "sub": claims.subject,
        "nats": claims.nats,
    });
    if let Some(expires) = claims.expires {
        payload["exp"] = json!(expires);
    }
    // The id is a digest of the content: it makes no two different JWTs the same to the resolver.
    payload["jti"] = json!(hex(&Sha256::digest(payload.to_string())));
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let text = format!("{}.{}", part(&header), part(&payload));
    let signature = signer.sign(text.as_bytes())?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// What a JWT says. The signature is not checked: use it on what the broker or we ourselves have stored.
pub fn decode(jwt: &str) -> Option<Claims> {
    let payload = jwt.split('.').nth(1)?;
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Some(Claims {
        subject: payload["sub"].as_str()?.to_owned(),
        name: payload["name"].as_str().unwrap_or_default().to_owned(),
        expires: payload["exp"].as_i64(),
        nats: payload["nats"].clone(),
    })
}

/// The text of a credentials file, as every NATS client reads it.
pub fn credentials_file(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_read_back_and_the_signature_holds() {
        let operator = KeyPair::new_operator();
        let claims = Claims {
            subject: KeyPair::new_account().public_key(),
            name: "permits".to_owned(),
            expires: Some(2_000),
            nats: json!({"type": "account", "version": 2}),
        };
        let jwt = encode(&claims, &operator, 1_000).unwrap();
        assert_eq!(decode(&jwt), Some(claims));
        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        operator.verify(signed.as_bytes(), &signature).unwrap();
        assert_eq!(decode("no.jwt"), None);
    }
}
