//! Certificates: whom to believe, what to show to callers, and who to be at the kubelet; read again when the files change.
//!
//! *Guarantees*: without a CA for callers nothing starts. Sessions of TLS are not resumed: each handshake verifies anew. A set of files
//! that cannot be used changes nothing; the last good one holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::log::Chain;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::AgentMetrics;

/// How often the files are looked at: what a revocation by a list waits for here. A kubelet takes up to two minutes to bring a ConfigMap or a
/// Secret that has changed; that is the longer part where the list comes as one. What a `VirtualCluster` revokes waits for neither.
const INTERVAL: Duration = Duration::from_secs(10);

/// Sessions of TLS kept for the one kubelet.
const KUBELET_SESSIONS: usize = 32;

/// Largest file that is read, in bytes.
const MOST_FILE_BYTES: usize = 1024 * 1024;

/// Where the files lie.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Callers")]
pub struct CredentialArgs {
    /// CA that signs the certificates of callers, PEM: the agent CA alone, never one that a tenant can use
    #[arg(long, env = "VN_CLIENT_CA_FILE", value_name = "FILE")]
    pub client_ca_file: PathBuf,

    /// Certificates of callers that are revoked, PEM; once given it must be there
    #[arg(long, env = "VN_CLIENT_CRL_FILE", value_name = "FILE")]
    pub client_crl_file: Option<PathBuf>,

    /// Certificate that callers see, PEM: the node's addresses among its names
    #[arg(long, env = "VN_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: PathBuf,

    /// Its private key, PEM
    #[arg(long, env = "VN_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: PathBuf,
}

/// What the kubelet is believed by and sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletFiles {
    /// CA of the kubelet's serving certificate.
    pub ca: PathBuf,
    /// Our certificate there.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// All credentials at one moment.
pub struct Credentials {
    /// How callers are met.
    pub server: Arc<ServerConfig>,
    /// Whom a certificate must come from.
    pub clients: Arc<dyn ClientCertVerifier>,
    /// How the kubelet is met, in the mode that does.
    pub kubelet: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else than was expected.
    #[error("could not read PEM in {}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file does not hold what it is there for.
    #[error("there is no {what} in {}", path.display())]
    Empty {
        /// What is missing.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// What they hold cannot be used, or does not fit together.
    #[error("what is in {} cannot be used", path.display())]
    Tls {
        /// In which file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Credentials {
    /// Whether a chain that a caller showed is good now, leaf first.
    pub fn is_good(&self, chain: &[CertificateDer<'_>]) -> bool {
        chain.split_first().is_some_and(|(leaf, rest)| self.clients.verify_client_cert(leaf, rest, UnixTime::now()).is_ok())
    }
}

/// The files and what they held when they were last read.
pub struct Source {
    callers: CredentialArgs,
    kubelet: Option<KubeletFiles>,
}

/// The contents of all files, in their order.
type Contents = Vec<Vec<u8>>;

impl Source {
    /// Of these files.
    pub fn new(callers: CredentialArgs, kubelet: Option<KubeletFiles>) -> Self {
        Self { callers, kubelet }
    }

    fn paths(&self) -> Vec<&Path> {
        let callers = &self.callers;
        let mut paths: Vec<&Path> = vec![&callers.client_ca_file, &callers.tls_cert_file, &callers.tls_key_file];
        paths.extend(callers.client_crl_file.as_deref());
        if let Some(kubelet) = &self.kubelet {
            paths.extend([kubelet.ca.as_path(), &kubelet.certificate, &kubelet.key]);
        }
        paths
    }

    async fn contents(&self) -> Result<Contents, CredentialError> {
        let mut contents = Vec::new();
        for path in self.paths() {
            let failed = |source| CredentialError::Read { path: path.to_owned(), source };
            let bytes = tokio::fs::read(path).await.map_err(failed)?;
            if bytes.len() > MOST_FILE_BYTES {
                return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
            }
            contents.push(bytes);
        }
        Ok(contents)
    }

    /// Reads the files and makes of them what TLS needs.
    pub async fn load(&self) -> Result<(Credentials, Contents), CredentialError> {
        let contents = self.contents().await?;
        let held = self.paths().into_iter().zip(&contents).collect();
        let credentials = self.build(&Held(held))?;
        Ok((credentials, contents))
    }

    fn build(&self, held: &Held<'_>) -> Result<Credentials, CredentialError> {
        let callers = &self.callers;
        let roots = Arc::new(held.roots(&callers.client_ca_file)?);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        if let Some(path) = &callers.client_crl_file {
            // Whom no list speaks of is not revoked; a list of another CA says nothing.
            verifier = verifier.with_crls(held.revoked(path)?).only_check_end_entity_revocation().allow_unknown_revocation_status();
        }
        // What is wrong with the CA was said above.
        let clients = verifier.build().map_err(tls(callers.client_crl_file.as_ref().unwrap_or(&callers.client_ca_file)))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls(&callers.tls_cert_file))?
            .with_client_cert_verifier(Arc::clone(&clients))
            .with_single_cert(held.chain(&callers.tls_cert_file)?, held.key(&callers.tls_key_file)?)
            .map_err(tls(&callers.tls_cert_file))?;
        // An upgrade is a thing of HTTP/1.1.
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A session that is resumed would not be verified again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let kubelet = self.kubelet.as_ref().map(|files| held.kubelet(files, provider)).transpose()?;
        Ok(Credentials { server: Arc::new(server), clients, kubelet })
    }

    /// Reads the files again and again, until `stop`.
    pub async fn follow(
        self,
        mut last: Contents,
        current: watch::Sender<Arc<Credentials>>,
        metrics: AgentMetrics,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let result = match self.contents().await {
                Ok(contents) if contents == last => continue,
                Ok(contents) => {
                    let held = Held(self.paths().into_iter().zip(&contents).collect());
                    self.build(&held).inspect(|_| last.clone_from(&contents))
                }
                Err(error) => Err(error),
            };
            metrics.reloaded(result.is_ok());
            match result {
                Ok(credentials) => {
                    info!("certificates have changed and are used");
                    current.send_replace(Arc::new(credentials));
                }
                Err(error) => warn!(error = %Chain(&error), "certificates cannot be used, the last good ones hold"),
            }
        }
    }
}

/// Files and their contents.
struct Held<'a>(Vec<(&'a Path, &'a Vec<u8>)>);

impl Held<'_> {
    fn bytes(&self, path: &Path) -> &[u8] {
        self.0.iter().find(|(held, _)| *held == path).map_or(&[], |(_, bytes)| bytes.as_slice())
    }

    fn all<T: PemObject>(&self, path: &Path) -> Result<Vec<T>, CredentialError> {
        let found: Result<Vec<T>, _> = T::pem_slice_iter(self.bytes(path)).collect();
        found.map_err(|source| CredentialError::Pem { path: path.to_owned(), source })
    }

    fn chain(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
        let chain = self.all::<CertificateDer<'static>>(path)?;
        if chain.is_empty() { Err(CredentialError::Empty { what: "certificate", path: path.to_owned() }) } else { Ok(chain) }
    }

    fn key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
        PrivateKeyDer::from_pem_slice(self.bytes(path)).map_err(|source| CredentialError::Pem { path: path.to_owned(), source })
    }

    fn revoked(&self, path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialError> {
        // Nobody is revoked by a list that says so. A file without one, as a mount that is not ready, must not take back what an earlier one said.
        let lists = self.all(path)?;
        if lists.is_empty() {
            Err(CredentialError::Empty { what: "list of revoked certificates", path: path.to_owned() })
        } else {
            Ok(lists)
        }
    }

    fn roots(&self, path: &Path) -> Result<RootCertStore, CredentialError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.chain(path)? {
            roots.add(certificate).map_err(tls(path))?;
        }
        Ok(roots)
    }

    fn kubelet(&self, files: &KubeletFiles, provider: Arc<rustls::crypto::CryptoProvider>) -> Result<Arc<ClientConfig>, CredentialError> {
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(tls(&files.certificate))?
            .with_root_certificates(self.roots(&files.ca)?)
            .with_client_auth_cert(self.chain(&files.certificate)?, self.key(&files.key)?)
            .map_err(tls(&files.certificate))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(KUBELET_SESSIONS);
        Ok(Arc::new(config))
    }
}

/// How a server is met whom this CA has signed, without a certificate of our own.
pub fn of_server(ca_pem: &[u8]) -> Result<Arc<ClientConfig>, CredentialError> {
    let path = Path::new("the kubeconfig");
    let ca = ca_pem.to_vec();
    let roots = Held(vec![(path, &ca)]).roots(path)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(tls(path))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(KUBELET_SESSIONS);
    Ok(Arc::new(config))
}

fn tls<E: std::error::Error + Send + Sync + 'static>(path: &Path) -> impl Fn(E) -> CredentialError {
    move |source| CredentialError::Tls { path: path.to_owned(), source: Box::new(source) }
}
