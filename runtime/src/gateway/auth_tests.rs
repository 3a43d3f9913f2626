//! Tokens of keys made here, and every way to get one wrong.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self as sig, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use rsa::pkcs8::EncodePrivateKey;
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const CLERK: &str = "system:serviceaccount:permits:clerk";

enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn rsa() -> Self {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(key.to_pkcs8_der().unwrap().as_bytes()).unwrap())
    }

    fn ec() -> Self {
        let (kind, random) = (&sig::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap())
    }

    fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Rsa(key) => {
                let public = sig::RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": encode(public.n), "e": encode(public.e)})
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key())}),
        };
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm().into();
        jwk
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "kid": "k1"}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let random = SystemRandom::new();
        let signed = match self {
            Self::Rsa(key) => {
                let mut bytes = vec![0; key.public().modulus_len()];
                key.sign(&sig::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut bytes).unwrap();
                bytes
            }
            Self::Ec(key) => key.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(text.as_bytes()).as_ref().to_vec(),
        };
        format!("{text}.{}", encode(signed))
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims(patch: &Value) -> Value {
    let now = jsonwebtoken::get_current_timestamp();
    let mut claims = json!({"iss": ISSUER, "sub": CLERK, "aud": ["rhizon/permits"], "exp": now + 600, "nbf": now});
    for (name, value) in patch.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn trusting(signer: &Signer) -> Authenticator {
    let mut verifier = Verifier::new("rhizon/permits");
    verifier.trust(IssuerKind::Cluster, ISSUER, &json!({"keys": [signer.jwk("k1")]})).unwrap();
    Authenticator::Tokens(verifier)
}

fn identify(authenticator: &Authenticator, token: &str) -> Result<Identity, AuthError> {
    authenticator.identify(Some(&format!("Bearer {token}")))
}

#[test]
fn each_of_the_three_algorithms_proves_who_calls() {
    let clerk = Identity { issuer: ISSUER.into(), subject: CLERK.into(), actor: CLERK.into() };
    for signer in [Signer::rsa(), Signer::ec(), Signer::ed()] {
        let authenticator = trusting(&signer);
        assert_eq!(identify(&authenticator, &signer.token(&claims(&json!({})))), Ok(clerk.clone()));
        let without_kid = signer.token_with(&json!({"alg": signer.algorithm()}), &claims(&json!({})));
        assert_eq!(identify(&authenticator, &without_kid), Ok(clerk.clone()));
    }
}

#[test]
fn a_token_with_one_thing_wrong_is_refused() {
    let signer = Signer::ed();
    let authenticator = trusting(&signer);
    let now = jsonwebtoken::get_current_timestamp();
    let refused = |patch: Value| match identify(&authenticator, &signer.token(&claims(&patch))) {
        Err(AuthError::Refused(why)) => why,
        other => panic!("{patch} gave {other:?}"),
    };
    assert!(refused(json!({"exp": now - 60})).contains("expired"));
    assert!(refused(json!({"nbf": now + 60})).contains("not valid yet"));
    assert!(refused(json!({"aud": "rhizon/other"})).contains("another audience"));
    assert!(refused(json!({"aud": null})).contains("lacks"));
    assert!(refused(json!({"exp": null})).contains("lacks"));
    assert!(refused(json!({"sub": ""})).contains("subject"));
    assert!(refused(json!({"sub": "a\nb"})).contains("subject"));
    assert!(refused(json!({"sub": "x".repeat(600)})).contains("subject"));
    let foreign = identify(&authenticator, &signer.token(&claims(&json!({"iss": "https://elsewhere"}))));
    assert_eq!(foreign, Err(AuthError::UnknownIssuer("https://elsewhere".into())));
}

#[test]
fn two_clocks_may_be_a_little_apart() {
    let signer = Signer::ed();
    let now = jsonwebtoken::get_current_timestamp();
    for patch in [json!({"exp": now - 10}), json!({"nbf": now + 10})] {
        assert!(identify(&trusting(&signer), &signer.token(&claims(&patch))).is_ok(), "{patch}");
    }
}

#[test]
fn a_forged_signature_is_refused_whatever_the_header_says() {
    let (owner, forger) = (Signer::ec(), Signer::ed());
    let authenticator = trusting(&owner);
    let other_key = Signer::ec().token(&claims(&json!({})));
    assert_eq!(identify(&authenticator, &other_key), Err(AuthError::Refused("its signature is wrong")));
    let other_algorithm = forger.token(&claims(&json!({})));
    assert!(matches!(identify(&authenticator, &other_algorithm), Err(AuthError::UnknownKey { .. })));
    let other_kid = owner.token_with(&json!({"alg": "ES256", "kid": "k2"}), &claims(&json!({})));
    assert!(matches!(identify(&authenticator, &other_kid), Err(AuthError::UnknownKey { .. })));
    for unsigned in [json!({"alg": "none"}), json!({"alg": "HS256", "kid": "k1"})] {
        assert!(identify(&authenticator, &owner.token_with(&unsigned, &claims(&json!({})))).is_err(), "{unsigned}");
    }
    let token = owner.token(&claims(&json!({})));
    let parts: Vec<&str> = token.split('.').collect();
    let changed = format!("{}.{}.{}", parts[0], encode(claims(&json!({"sub": "admin"})).to_string()), parts[2]);
    assert_eq!(identify(&authenticator, &changed), Err(AuthError::Refused("its signature is wrong")));
}

#[test]
fn a_foreign_issuer_speaks_for_itself_only() {
    let (cluster, company) = (Signer::ed(), Signer::ed());
    let Authenticator::Tokens(mut verifier) = trusting(&cluster) else { unreachable!() };
    let keys = json!({"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "new"}, company.jwk("k1")]});
    verifier.trust(IssuerKind::Foreign, "https://id.example", &keys).unwrap();
    verifier.trust(IssuerKind::Foreign, ISSUER, &keys).unwrap();
    let authenticator = Authenticator::Tokens(verifier);

    let posing = company.token(&claims(&json!({})));
    assert_eq!(identify(&authenticator, &posing), Err(AuthError::Refused("its signature is wrong")));
    let own = company.token(&claims(&json!({"iss": "https://id.example"})));
    assert_eq!(identify(&authenticator, &own).unwrap().actor, format!("https://id.example#{CLERK}"));
}

#[test]
fn keys_that_could_confuse_are_passed_over() {
    let signer = Signer::ed();
    let with = |field: &str, value: Value| {
        let mut jwk = signer.jwk("k1");
        jwk[field] = value;
        usable_key(jwk).is_some()
    };
    assert!(with("use", json!("sig")));
    assert!(!with("use", json!("enc")));
    assert!(!with("alg", json!("HS256")));
    assert!(!with("alg", json!("RS256")));
}

#[test]
fn without_a_token_nobody_is_anybody() {
    let authenticator = trusting(&Signer::ed());
    for header in [None, Some(""), Some("Bearer"), Some("Basic YTpi")] {
        assert_eq!(authenticator.identify(header), Err(AuthError::NoToken), "{header:?}");
    }
    assert_eq!(identify(&authenticator, "a.b.c"), Err(AuthError::NotAJwt));
    let local = Identity { issuer: "kubernetes".into(), subject: CLERK.into(), actor: CLERK.into() };
    assert_eq!(Authenticator::Everyone(local.clone()).identify(None), Ok(local));
}
