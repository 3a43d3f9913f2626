//! What the chart's broker mounts: its certificate, and the part of its configuration that only the operator knows.

use super::{Error, claims, jwt, keys};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use std::collections::BTreeMap;

/// Names in the Secret that the broker mounts.
pub const CONFIG_FILE: &str = "operator.conf";
pub const CERTIFICATE_FILE: &str = "tls.crt";
pub const KEY_FILE: &str = "tls.key";
pub const CA_FILE: &str = "ca.crt";
/// Name in the operator's own Secret.
pub const CA_KEY_FILE: &str = "ca.key";

/// A certificate authority of our own, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    pub certificate: String,
    pub key: String,
}

/// A certificate with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

fn wrong(error: &rcgen::Error) -> Error {
    Error::Tls { why: error.to_string() }
}

impl Authority {
    pub fn generate(year: i16) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(|e| wrong(&e))?;
        let certificate = Self::params(year).self_signed(&key).map_err(|e| wrong(&e))?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs a certificate for the broker, good until the end of the year after the next.
    pub fn issue(&self, names: &[String], year: i16) -> Result<Certificate, Error> {
        let authority_key = KeyPair::from_pem(&self.key).map_err(|e| wrong(&e))?;
        let issuer_params = Self::params(year);
        let issuer = Issuer::from_params(&issuer_params, &authority_key);
        let mut params = CertificateParams::new(names.to_vec()).map_err(|e| wrong(&e))?;
        params.distinguished_name.push(DnType::CommonName, "rhizon-nats");
        params.not_before = date_time_ymd(i32::from(year) - 1, 1, 1);
        params.not_after = date_time_ymd(i32::from(year) + 3, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(|e| wrong(&e))?;
        let certificate = params.signed_by(&key, &issuer).map_err(|e| wrong(&e))?;
        Ok(Certificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// All but the key: the same for the certificate itself and for what it signs.
    fn params(year: i16) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Rhizon broker CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(i32::from(year) - 1, 1, 1);
        params.not_after = date_time_ymd(i32::from(year) + 20, 1, 1);
        params
    }
}

/// The broker's DNS names: its Service, and its pods behind the headless one.
pub fn names(service: &str, namespace: &str) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    for host in [service.to_owned(), format!("*.{service}-headless"), format!("{service}-headless")] {
        for suffix in ["", ".NS", ".NS.svc", ".NS.svc.cluster.local"] {
            if !(suffix.is_empty() && host.starts_with('*')) {
                names.push(format!("{host}{}", suffix.replace("NS", namespace)));
            }
        }
    }
    names
}

/// The broker's configuration: whom it trusts.
pub fn configuration(keys: &keys::Installation, now: i64) -> Result<String, Error> {
    let keys::Installation { operator, operator_signing, system } = keys;
    let system_key = system.public_key();
    let operator_claims = claims::operator(&operator.public_key(), &operator_signing.public_key(), &system_key);
    let operator_jwt = jwt::encode(&operator_claims, operator, now)?;
    let system_jwt = jwt::encode(&claims::system_account(&system_key), operator_signing, now)?;
    Ok(format!(
        "operator: {operator_jwt}\nsystem_account: {system_key}\nresolver_preload {{ {system_key}: {system_jwt} }}\n"
    ))
}

/// The broker's Secret.
pub fn secret(configuration: String, authority: &Authority, certificate: Certificate) -> BTreeMap<String, String> {
    let Certificate { certificate, key } = certificate;
    [
        (CONFIG_FILE, configuration),
        (CA_FILE, authority.certificate.clone()),
        (CERTIFICATE_FILE, certificate),
        (KEY_FILE, key),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_has_the_services_names() {
        let names = names("rhizon-nats", "rhizon-system");
        assert!(names.contains(&"rhizon-nats.rhizon-system.svc".to_owned()));
        assert!(names.contains(&"*.rhizon-nats-headless.rhizon-system.svc.cluster.local".to_owned()));
        let authority = Authority::generate(2026).unwrap();
        let certificate = authority.issue(&names, 2026).unwrap();
        assert!(certificate.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
