//! Who is calling: a bearer JWT against the public keys of its issuer.
//!
//! The keys come with the settings (the operator keeps them current), so the gateway asks nobody. An issuer's keys count
//! for its own tokens only, and a key for the one algorithm of its kind: the token chooses neither.

use std::collections::BTreeMap;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, dangerous, decode, decode_header};
use serde::Deserialize;

use super::signature;

/// How far two clocks may be apart.
const LEEWAY_SECONDS: u64 = 30;

/// Longest actor that an envelope carries, in bytes.
const ACTOR_BYTES: usize = 512;

/// A caller whose token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The token's `iss`.
    pub issuer: String,
    /// The token's `sub`.
    pub subject: String,
    /// What the caller's events carry as `actor`.
    pub actor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("send the header 'Authorization: Bearer <token>'")]
    NoToken,
    #[error("the token is no JWT")]
    NotAJwt,
    #[error("the token's issuer '{0}' is not known to this workspace")]
    UnknownIssuer(String),
    #[error("no key of the token's issuer fits it (algorithm {algorithm:?}, key id {kid:?})")]
    UnknownKey { algorithm: Algorithm, kid: Option<String> },
    #[error("the token is not accepted: {0}")]
    Refused(&'static str),
}

/// How the gateway learns who is calling.
#[derive(Debug)]
pub enum Authenticator {
    Tokens(Verifier),
    /// Local mode: whoever reaches the loopback address is this one.
    Everyone(Identity),
}

impl Authenticator {
    /// `authorization` is the header's value.
    pub fn identify(&self, authorization: Option<&str>) -> Result<Identity, AuthError> {
        match self {
            Self::Everyone(identity) => Ok(identity.clone()),
            Self::Tokens(verifier) => {
                let (scheme, token) =
                    authorization.and_then(|value| value.split_once(' ')).ok_or(AuthError::NoToken)?;
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(AuthError::NoToken);
                }
                verifier.verify(token.trim())
            }
        }
    }
}

/// Whose subjects an issuer speaks of, which decides how they appear in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerKind {
    /// The cluster's own: `system:serviceaccount:…` stands for itself.
    Cluster,
    /// Any other: its subjects are prefixed, so that none looks like a service account.
    Foreign,
}

/// Checks tokens for one audience.
#[derive(Debug)]
pub struct Verifier {
    audience: String,
    /// By the token's `iss`.
    issuers: BTreeMap<String, Issuer>,
}

#[derive(Debug)]
struct Issuer {
    kind: IssuerKind,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    public: DecodingKey,
}

#[derive(Debug, thiserror::Error)]
#[error("the keys of issuer '{issuer}' are no JWK set: {source}")]
pub struct InvalidKeys {
    issuer: String,
    source: serde_json::Error,
}

/// Each key for itself: one of a kind that is not known must not hide the others.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
}

impl Verifier {
    pub fn new(audience: impl Into<String>) -> Self {
        signature::install();
        Self { audience: audience.into(), issuers: BTreeMap::new() }
    }

    /// Trusts `issuer` (the token's `iss`) with the public keys of a JWK set (RFC 7517).
    pub fn trust(&mut self, kind: IssuerKind, issuer: &str, jwks: &serde_json::Value) -> Result<(), InvalidKeys> {
        let set = KeySet::deserialize(jwks).map_err(|source| InvalidKeys { issuer: issuer.to_owned(), source })?;
        let keys = set.keys.into_iter().filter_map(usable_key).collect();
        // The first one stays: a later entry must not replace the cluster's keys by its own.
        self.issuers.entry(issuer.to_owned()).or_insert(Issuer { kind, keys });
        Ok(())
    }

    fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        let header = decode_header(token).map_err(|_| AuthError::NotAJwt)?;
        let unchecked: Claims = dangerous::insecure_decode_claims(token).map_err(|_| AuthError::NotAJwt)?;
        let issuer = self.issuers.get(&unchecked.iss).ok_or_else(|| AuthError::UnknownIssuer(unchecked.iss.clone()))?;

        let mut refusal = AuthError::UnknownKey { algorithm: header.alg, kid: header.kid.clone() };
        let fits = |key: &&Key| key.algorithm == header.alg && (header.kid.is_none() || header.kid == key.id);
        for key in issuer.keys.iter().filter(fits) {
            match decode::<Claims>(token, &key.public, &self.validation(key.algorithm, &unchecked.iss)) {
                Ok(token) => return identity(issuer.kind, token.claims),
                Err(error) => refusal = AuthError::Refused(reason(error.kind())),
            }
        }
        Err(refusal)
    }

    fn validation(&self, algorithm: Algorithm, issuer: &str) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[&self.audience]);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation
    }
}

fn identity(kind: IssuerKind, claims: Claims) -> Result<Identity, AuthError> {
    let actor = match kind {
        IssuerKind::Cluster => claims.sub.clone(),
        IssuerKind::Foreign => format!("{}#{}", claims.iss, claims.sub),
    };
    if claims.sub.is_empty() || actor.len() > ACTOR_BYTES || actor.chars().any(char::is_control) {
        return Err(AuthError::Refused("its subject is empty, too long or has control characters"));
    }
    Ok(Identity { issuer: claims.iss, subject: claims.sub, actor })
}

/// A key for signatures of a kind that is accepted; others are passed over.
fn usable_key(jwk: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if jwk.common.key_algorithm.is_some_and(|given| given != named) {
        return None;
    }
    let public = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithm, public })
}

fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::ExpiredSignature => "it has expired; ask for a new one",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidAudience => "it is for another audience; ask for one with the audience rhizon/<workspace>",
        ErrorKind::MissingRequiredClaim(_) => "it lacks one of the claims exp, iss, aud and sub",
        _ => "it is malformed",
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
