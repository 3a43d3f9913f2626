//! An issuer of bearer tokens, as a cluster's API server is one for service accounts.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

/// What the cluster's own issuer is called.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A key, for as long as the value lives.
#[derive(Debug)]
pub struct Issuer {
    key: Ed25519KeyPair,
}

impl Issuer {
    /// # Panics
    /// When the system has no randomness.
    pub fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        Self { key: Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("the key that was made") }
    }

    /// The public key as a JWK set (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encode(self.key.public_key())}]})
    }

    /// A token for ten minutes.
    ///
    /// # Panics
    /// When the clock is before 1970.
    pub fn token(&self, subject: &str, audience: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        let claims = json!({"iss": ISSUER, "sub": subject, "aud": [audience], "exp": now + 600});
        let text = format!("{}.{}", encode(r#"{"alg":"EdDSA","kid":"k"}"#), encode(claims.to_string()));
        format!("{text}.{}", encode(self.key.sign(text.as_bytes())))
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
