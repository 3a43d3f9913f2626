//! Checks the signatures of JWTs with ring, which the broker's TLS brings anyway.
//!
//! `jsonwebtoken` leaves the cryptography to a provider. This one verifies what Kubernetes and OIDC issuers sign with,
//! RS256, ES256 and EdDSA, and nothing else: no shared secrets, no `none`, and it signs nothing.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error as SignatureError, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| verifier(*algorithm, key),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes this module the process's way to check JWTs; further calls change nothing.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only when a program that embeds the runtime has chosen a provider before: then that one checks.
        let _ = PROVIDER.install_default();
    });
}

/// What the key must be follows from the algorithm, never the other way round.
fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { .. })
        | (Algorithm::ES256 | Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(_)) => {}
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    }
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(PublicKey { algorithm, key: key.clone() }))
}

struct PublicKey {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for PublicKey {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> std::result::Result<(), SignatureError> {
        let result = match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signed)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signed)
            }
            _ => Err(ring::error::Unspecified),
        };
        result.map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
