//! The cluster's own certificate authority, the certificates of its components and their kubeconfig files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::network::{API_SERVICE_IP, NODE_IP};
use super::node;
use crate::exec;

/// Who a certificate is for. Kubernetes reads the user from the common name and the groups from the organization.
struct Identity {
    file: &'static str,
    user: String,
    group: Option<&'static str>,
    /// Names under which it serves; a client has none.
    serves: Vec<String>,
}

impl Identity {
    fn client(file: &'static str, user: impl Into<String>, group: Option<&'static str>) -> Self {
        Self { file, user: user.into(), group, serves: Vec::new() }
    }

    fn server(file: &'static str, names: &[&str]) -> Self {
        let serves = names.iter().map(|&name| name.to_owned()).collect();
        Self { file, user: file.to_owned(), group: None, serves }
    }
}

/// Components that talk to the API server, each with a kubeconfig file of its own: the audit log then says who did what.
pub(super) const CLIENTS: &[&str] =
    &["admin", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "addons"];

fn identities() -> Vec<Identity> {
    let api_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        API_SERVICE_IP,
        NODE_IP,
    ];
    vec![
        Identity::server("apiserver", &api_names),
        Identity::server("kubelet-server", &[node::NAME, NODE_IP]),
        Identity::client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
        Identity::client("admin", "kubernetes-admin", Some("system:masters")),
        Identity::client("addons", "rhizon-addons", Some("system:masters")),
        Identity::client("kube-controller-manager", "system:kube-controller-manager", None),
        Identity::client("kube-scheduler", "system:kube-scheduler", None),
        Identity::client("kube-proxy", "system:kube-proxy", None),
        Identity::client("kubelet", format!("system:node:{}", node::NAME), Some("system:nodes")),
    ]
}

/// Makes everything in `folder` unless it is there; a half-made folder never has that name.
pub(super) fn ensure(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let unfinished = folder.with_extension("unfinished");
    fs::create_dir_all(&unfinished)?;
    write_all(&unfinished)?;
    // Kubernetes signs with RSA nearly everywhere, so the gateway's token check meets it here too.
    let key = unfinished.join("service-accounts.key");
    exec::run(exec::command("openssl", ["genrsa", "-out"]).arg(&key).arg("2048"))?;
    fs::rename(&unfinished, folder).with_context(|| format!("cannot finish {}", folder.display()))
}

fn write_all(folder: &Path) -> Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "rhizon-cluster");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = authority.self_signed(&authority_key)?.pem();
    write(&folder.join("ca.crt"), &certificate)?;
    write(&folder.join("ca.key"), &authority_key.serialize_pem())?;
    let issuer = Issuer::new(authority, authority_key);
    for identity in identities() {
        let (certificate, key) = issue(&identity, &issuer)?;
        write(&folder.join(format!("{}.crt", identity.file)), &certificate)?;
        write(&folder.join(format!("{}.key", identity.file)), &key)?;
    }
    Ok(())
}

fn issue(identity: &Identity, issuer: &Issuer<'_, KeyPair>) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(identity.serves.clone())?;
    params.distinguished_name.push(DnType::CommonName, &identity.user);
    if let Some(group) = identity.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !identity.serves.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

/// Writes `<client>.kubeconfig` for every client, with the certificates inside, so that the file can be copied anywhere.
pub(super) fn write_kubeconfigs(certificates: &Path, folder: &Path) -> Result<()> {
    for client in CLIENTS {
        let pem = |file: String| -> Result<String> { Ok(BASE64_STANDARD.encode(fs::read(certificates.join(file))?)) };
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rhizon",
            "clusters": [{"name": "rhizon", "cluster": {
                "server": format!("https://{NODE_IP}:6443"), "certificate-authority-data": pem("ca.crt".to_owned())? }}],
            "users": [{"name": client, "user": {
                "client-certificate-data": pem(format!("{client}.crt"))?, "client-key-data": pem(format!("{client}.key"))? }}],
            "contexts": [{"name": "rhizon", "context": {"cluster": "rhizon", "user": client}}],
        });
        write(&folder.join(format!("{client}.kubeconfig")), &serde_json::to_string_pretty(&config)?)?;
    }
    Ok(())
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
