//! TLS towards one server: its own CA and nothing else, no session shared with another.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::TransportError;
use crate::kubeconfig::{Identity, Kubeconfig};

/// TLS 1.3 alone, as tenants get it.
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// TLS 1.2 too.
const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Session tickets kept per server: one for each connection that is usually open.
const SESSIONS: usize = 4;

/// The two ways to present ourselves to one server.
pub(super) struct TlsConfigs {
    /// As the kubeconfig says.
    pub(super) own: Arc<ClientConfig>,
    /// Without a client certificate: a server believes a certificate before a bearer token, so a call with a token of its
    /// own must not come over a connection that shows one. Absent if `own` shows none anyway.
    pub(super) bare: Option<Arc<ClientConfig>>,
}

impl TlsConfigs {
    pub(super) fn new(kubeconfig: &Kubeconfig, tls12: bool) -> Result<Self, TransportError> {
        let roots = Arc::new(roots(&kubeconfig.ca_pem)?);
        let bare = config(&roots, None, tls12)?;
        match &kubeconfig.identity {
            Identity::Certificate { chain_pem, key_pem } => {
                let identity = (chain(chain_pem)?, key(key_pem.expose())?);
                Ok(Self { own: config(&roots, Some(identity), tls12)?, bare: Some(bare) })
            }
            Identity::Token(_) | Identity::TokenFile(_) => Ok(Self { own: bare, bare: None }),
        }
    }
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn config(roots: &Arc<RootCertStore>, identity: Option<ClientIdentity>, tls12: bool) -> Result<Arc<ClientConfig>, TransportError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(if tls12 { TLS12 } else { TLS13 })
        .map_err(credential("the TLS versions"))?
        .with_root_certificates(Arc::clone(roots));
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(credential("client-certificate-data, client-key-data"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TransportError> {
    const WHAT: &str = "certificate-authority-data";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, WHAT)? {
        roots.add(certificate).map_err(credential(WHAT))?;
    }
    Ok(roots)
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    certificates(pem, "client-certificate-data")
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(credential(what))?;
    if found.is_empty() {
        return Err(TransportError::Credential { what, source: "it holds no certificate".into() });
    }
    Ok(found)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TransportError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(credential("client-key-data"))
}

fn credential<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl Fn(E) -> TransportError {
    move |source| TransportError::Credential { what, source: Box::new(source) }
}
