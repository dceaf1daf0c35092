//! Reads kubeconfigs: strictly what a tenant supplied, a little wider what the operator of the program gave.
//!
//! A kubeconfig is a program in disguise: it can name commands to run, files to read and send, and hosts to trust blindly.
//! [`Kubeconfig::from_tenant`] takes only what is inline, names the field of everything else together with the mend, and
//! neither opens a file nor starts a process.

mod error;
mod file;
mod secret;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use url::Url;

pub use self::error::KubeconfigError;
use self::file::{Cluster, File, User};
pub use self::secret::Secret;

/// Largest kubeconfig that is looked at, in bytes: two certificates and a key take about 6 KiB.
pub const MAX_BYTES: usize = 64 * 1024;

/// Where Kubernetes mounts the identity of a Pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Name of the API server inside a cluster; it stands in every API server's own certificate.
const IN_CLUSTER_SERVER: &str = "https://kubernetes.default.svc";

/// Where containers find the address and the port of their API server; its certificate carries the address too.
const IN_CLUSTER_ADDRESS: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// How to reach an API server, whom to trust there and who to be.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// Address of the server, always `https`, possibly with a path.
    pub server: Url,
    /// The only certificate authorities that the server may be signed by, PEM.
    pub ca_pem: Vec<u8>,
    /// Who we are there.
    pub identity: Identity,
    /// Name that the server's certificate must carry, if not the host in `server`.
    pub tls_server_name: Option<String>,
}

impl std::fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubeconfig").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

/// Who a client is.
#[derive(Clone, PartialEq, Eq)]
pub enum Identity {
    /// A client certificate.
    Certificate {
        /// The chain, leaf first, PEM.
        chain_pem: Vec<u8>,
        /// Its private key, PEM.
        key_pem: Secret,
    },
    /// A bearer token.
    Token(Secret),
    /// A bearer token in a file that somebody renews; never from a tenant.
    TokenFile(PathBuf),
}

impl Kubeconfig {
    /// Parses a kubeconfig that a tenant supplied.
    ///
    /// # Guarantees
    /// No file is opened, no process is started, no name is looked up. What the file holds stands in no error.
    ///
    /// # Errors
    /// Every form that is refused has its own variant of [`KubeconfigError`], also where it stands in an entry that the
    /// current context does not use.
    pub fn from_tenant(text: &[u8]) -> Result<Self, KubeconfigError> {
        let file = File::parse(text)?;
        file.clusters.iter().try_for_each(|named| refuse_cluster(&named.cluster))?;
        file.users.iter().try_for_each(|named| refuse_user(&named.user))?;
        let (cluster, user) = file.current()?;
        Ok(Self {
            server: server(cluster)?,
            ca_pem: inline(cluster.ca_data.as_deref(), "certificate-authority-data")?.ok_or(KubeconfigError::MissingCa)?,
            identity: inline_identity(user)?,
            tls_server_name: cluster.tls_server_name.clone(),
        })
    }

    /// Reads the kubeconfig that the operator named on the command line.
    ///
    /// Beside what a tenant may write, files are read: `certificate-authority`, `client-certificate`, `client-key` and
    /// `tokenFile`, relative to the kubeconfig. Entries that the current context does not use are not judged.
    ///
    /// # Errors
    /// As [`Kubeconfig::from_tenant`], and [`KubeconfigError::Read`] for a file that cannot be read.
    pub fn trusted(path: &Path) -> Result<Self, KubeconfigError> {
        let file = File::parse(&read(path)?)?;
        let (cluster, user) = file.current()?;
        let dir = path.parent().unwrap_or_else(|| Path::new("."));
        refuse_cluster_always(cluster)?;
        refuse_user_always(user)?;
        Ok(Self {
            server: server(cluster)?,
            ca_pem: either(dir, cluster.ca_data.as_deref(), cluster.ca_file.as_deref(), "certificate-authority-data")?
                .ok_or(KubeconfigError::MissingCa)?,
            identity: trusted_identity(dir, user)?,
            tls_server_name: cluster.tls_server_name.clone(),
        })
    }

    /// The identity that Kubernetes mounts into a Pod; its token is read again as it is renewed. The server is where every client looks
    /// for it, by address: what runs on nodes must work where no name server does.
    ///
    /// # Errors
    /// [`KubeconfigError::Read`] outside of a Pod.
    pub fn in_cluster() -> Result<Self, KubeconfigError> {
        #[expect(clippy::disallowed_methods, reason = "nobody configures these: Kubernetes gives them to every container")]
        let [host, port] = IN_CLUSTER_ADDRESS.map(|name| std::env::var(name).unwrap_or_default());
        Self::mounted(Path::new(SERVICE_ACCOUNT), &in_cluster_server(&host, &port))
    }

    /// As [`Kubeconfig::in_cluster`], from another directory and for another server.
    pub fn mounted(dir: &Path, server: &str) -> Result<Self, KubeconfigError> {
        let token = dir.join("token");
        read(&token)?;
        Ok(Self { server: https(server)?, ca_pem: read(&dir.join("ca.crt"))?, identity: Identity::TokenFile(token), tls_server_name: None })
    }
}

fn in_cluster_server(host: &str, port: &str) -> String {
    match (host, port) {
        ("", _) | (_, "") => IN_CLUSTER_SERVER.to_owned(),
        _ if host.contains(':') => format!("https://[{host}]:{port}"),
        _ => format!("https://{host}:{port}"),
    }
}

/// What no tenant may write about a cluster.
fn refuse_cluster(cluster: &Cluster) -> Result<(), KubeconfigError> {
    refuse_cluster_always(cluster)?;
    if cluster.ca_file.is_some() {
        return Err(path("certificate-authority", "certificate-authority-data"));
    }
    Ok(())
}

fn refuse_cluster_always(cluster: &Cluster) -> Result<(), KubeconfigError> {
    if cluster.proxy_url.is_some() {
        return Err(KubeconfigError::ProxyUrl);
    }
    if cluster.insecure.unwrap_or(false) {
        return Err(KubeconfigError::Insecure);
    }
    Ok(())
}

/// What no tenant may write about a user.
fn refuse_user(user: &User) -> Result<(), KubeconfigError> {
    refuse_user_always(user)?;
    if user.certificate_file.is_some() {
        return Err(path("client-certificate", "client-certificate-data"));
    }
    if user.key_file.is_some() {
        return Err(path("client-key", "client-key-data"));
    }
    if user.token_file.is_some() {
        return Err(KubeconfigError::TokenFile);
    }
    Ok(())
}

fn refuse_user_always(user: &User) -> Result<(), KubeconfigError> {
    if user.exec.is_some() {
        return Err(KubeconfigError::Exec);
    }
    if user.auth_provider.is_some() {
        return Err(KubeconfigError::AuthProvider);
    }
    if let Some(field) = user.impersonation() {
        return Err(KubeconfigError::Impersonation { field });
    }
    if let Some(field) = user.basic() {
        return Err(KubeconfigError::Basic { field });
    }
    Ok(())
}

fn path(field: &'static str, instead: &'static str) -> KubeconfigError {
    KubeconfigError::Path { field, instead }
}

fn server(cluster: &Cluster) -> Result<Url, KubeconfigError> {
    https(cluster.server.as_deref().ok_or(KubeconfigError::MissingServer)?)
}

fn https(text: &str) -> Result<Url, KubeconfigError> {
    let url = Url::parse(text).map_err(|_| KubeconfigError::BadServer)?;
    if url.scheme() != "https" {
        return Err(KubeconfigError::NotHttps);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(KubeconfigError::UserInfo);
    }
    if !url.has_host() || url.query().is_some() || url.fragment().is_some() {
        return Err(KubeconfigError::BadServer);
    }
    Ok(url)
}

fn inline_identity(user: &User) -> Result<Identity, KubeconfigError> {
    let chain = inline(user.certificate_data.as_deref(), "client-certificate-data")?;
    let key = inline(user.key_data.as_ref().map(Secret::expose), "client-key-data")?;
    match (chain, key, token(user)) {
        (Some(chain_pem), Some(key), None) => Ok(Identity::Certificate { chain_pem, key_pem: pem_secret(key)? }),
        (None, None, Some(token)) => Ok(Identity::Token(token)),
        (Some(_), None, _) => Err(KubeconfigError::MissingKey),
        (None, Some(_), _) => Err(KubeconfigError::MissingCertificate),
        (Some(_), Some(_), Some(_)) => Err(KubeconfigError::TwoIdentities),
        (None, None, None) => Err(KubeconfigError::MissingIdentity),
    }
}

fn trusted_identity(dir: &Path, user: &User) -> Result<Identity, KubeconfigError> {
    if let (Some(file), None) = (&user.token_file, token(user)) {
        return Ok(Identity::TokenFile(dir.join(file)));
    }
    let chain = either(dir, user.certificate_data.as_deref(), user.certificate_file.as_deref(), "client-certificate-data")?;
    let key = either(dir, user.key_data.as_ref().map(Secret::expose), user.key_file.as_deref(), "client-key-data")?;
    match (chain, key, token(user)) {
        (Some(chain_pem), Some(key), _) => Ok(Identity::Certificate { chain_pem, key_pem: pem_secret(key)? }),
        (None, None, Some(token)) => Ok(Identity::Token(token)),
        (Some(_), None, _) => Err(KubeconfigError::MissingKey),
        (None, Some(_), _) => Err(KubeconfigError::MissingCertificate),
        (None, None, None) => Err(KubeconfigError::MissingIdentity),
    }
}

fn token(user: &User) -> Option<Secret> {
    user.token.clone().filter(|token| !token.expose().is_empty())
}

fn pem_secret(key: Vec<u8>) -> Result<Secret, KubeconfigError> {
    String::from_utf8(key).map(Secret::new).map_err(|_| KubeconfigError::NotPem { field: "client-key-data" })
}

/// Decodes an inline field; empty is absent, as in Kubernetes' own client.
fn inline(data: Option<&str>, field: &'static str) -> Result<Option<Vec<u8>>, KubeconfigError> {
    let Some(data) = data.filter(|data| !data.is_empty()) else { return Ok(None) };
    let compact: Vec<u8> = data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pem = STANDARD.decode(compact).map_err(|_| KubeconfigError::NotBase64 { field })?;
    if pem.starts_with(b"-----BEGIN ") { Ok(Some(pem)) } else { Err(KubeconfigError::NotPem { field }) }
}

fn either(dir: &Path, data: Option<&str>, file: Option<&str>, field: &'static str) -> Result<Option<Vec<u8>>, KubeconfigError> {
    match (inline(data, field)?, file) {
        (Some(pem), _) => Ok(Some(pem)),
        (None, Some(file)) => read(&dir.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KubeconfigError> {
    std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
}
