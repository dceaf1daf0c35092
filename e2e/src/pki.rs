//! Certificates and kubeconfigs of one control plane.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// A certificate authority whose files lie in one folder: `ca.crt`, `ca.key`, and a pair for each certificate.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// Makes an authority and writes its files.
    pub fn create(name: &str, dir: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write(&dir.join("ca.crt"), &issuer.pem())?;
        write(&dir.join("ca.key"), &issuer.key().serialize_pem())?;
        Ok(Self { dir: dir.to_owned(), issuer })
    }

    /// The authority's own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The folder of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A certificate for an API server at `address` whose Services start at `first_service`; writes `apiserver.{crt,key}`.
    pub fn server(&self, address: Ipv4Addr, first_service: Ipv4Addr) -> anyhow::Result<Identity> {
        let names = [&address.to_string(), &first_service.to_string(), "localhost", "kubernetes.default", "kubernetes.default.svc"];
        self.issue("apiserver", "kube-apiserver", None, names.map(str::to_owned).to_vec())
    }

    /// A client certificate; writes `<file>.{crt,key}`.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> anyhow::Result<Identity> {
        self.issue(file, user, group, Vec::new())
    }

    /// A certificate for a kubelet at `address`, as client and server; writes `<node>.{crt,key}`.
    pub fn kubelet(&self, node: &str, address: Ipv4Addr) -> anyhow::Result<Identity> {
        self.issue(node, &format!("system:node:{node}"), Some("system:nodes"), vec![address.to_string(), node.to_owned()])
    }

    /// The certificate that a request (PKCS#10, DER) asks for, valid between these times.
    pub fn sign(&self, request: &[u8], from: SystemTime, until: SystemTime) -> anyhow::Result<String> {
        let mut request = CertificateSigningRequestParams::from_der(&request.to_vec().into())?;
        (request.params.not_before, request.params.not_after) = (from.into(), until.into());
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// A key that signs `ServiceAccount` tokens; writes `sa.{key,pub}`.
    pub fn service_account_key(&self) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        write(&self.dir.join("sa.key"), &key.serialize_pem())?;
        write(&self.dir.join("sa.pub"), &key.public_key_pem())
    }

    fn issue(&self, file: &str, user: &str, group: Option<&str>, names: Vec<String>) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::new(names)?;
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let identity = Identity { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() };
        write(&self.dir.join(format!("{file}.crt")), &identity.certificate)?;
        write(&self.dir.join(format!("{file}.key")), &identity.key)?;
        Ok(identity)
    }
}

/// A certificate that nobody issued but its own key.
pub fn self_signed(names: &[&str]) -> anyhow::Result<Identity> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    Ok(Identity { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// How a kubeconfig says who it is.
#[derive(Clone, Debug)]
pub enum Credentials<'a> {
    /// By a client certificate.
    Certificate(&'a Identity),
    /// By a bearer token.
    Token(&'a str),
}

/// A kubeconfig with everything inline. It is JSON, which is YAML.
pub fn kubeconfig(server: &str, ca: &str, credentials: &Credentials<'_>) -> String {
    let user = match credentials {
        Credentials::Certificate(identity) => json!({
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }),
        Credentials::Token(token) => json!({ "token": token }),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "clusters": [{ "name": "main", "cluster": { "server": server, "certificate-authority-data": STANDARD.encode(ca) } }],
        "users": [{ "name": "main", "user": user }],
        "contexts": [{ "name": "main", "context": { "cluster": "main", "user": "main" } }],
    });
    format!("{config:#}\n")
}

/// Writes a file that only its owner reads, whole or not at all.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let unfinished = path.with_extension("unfinished");
    let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&unfinished);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&unfinished, path))
        .with_context(|| format!("could not write {}", path.display()))
}
