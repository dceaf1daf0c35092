//! Raw callers of vn-agent and of kubelets: TLS with a certificate, then whatever bytes or WebSocket messages a test likes.

pub mod channels;
mod raw;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest as _, handshake::client::Response, http::HeaderValue, protocol::WebSocketConfig},
};

pub use channels::Channels;
pub use raw::Answer;

use crate::pki::Identity;

/// How long an answer may take where nothing is wrong, with other tests on the machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A connection on which nothing has been said yet.
pub type Connection = TlsStream<TcpStream>;

/// Somebody who dials one server.
#[derive(Clone)]
pub struct Caller {
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Caller {
    /// Dials `address` (host and port), believes `ca`, and shows `<identity>.crt` with `<identity>.key`, if it is to show any.
    pub fn new(address: &str, ca: &Path, identity: Option<&Path>) -> anyhow::Result<Self> {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
        let pair =
            |pair: &Path| anyhow::Ok(Identity { certificate: read(&pair.with_extension("crt"))?, key: read(&pair.with_extension("key"))? });
        Self::showing(address, &read(ca)?, identity.map(pair).transpose()?.as_ref())
    }

    /// The same with all of it in memory. It may show a certificate whose key it does not have.
    pub fn showing(address: &str, ca: &str, identity: Option<&Identity>) -> anyhow::Result<Self> {
        let certificates = |pem: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
            Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
                let pair = CertifiedKey::new(certificates(certificate)?, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        // API servers resume no session with a kubelet: each connection begins with a whole handshake.
        config.resumption = Resumption::disabled();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Ok(Self { address: address.to_owned(), name: ServerName::try_from(host.to_owned())?, config: Arc::new(config) })
    }

    /// A new connection, with TLS done as far as the client's part goes.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.address).await.with_context(|| format!("could not reach {}", self.address))?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await.context("TLS failed")
    }

    /// A WebSocket of this subprotocol on a new connection.
    ///
    /// # Errors
    /// If the server answers otherwise: with the status and what it says.
    pub async fn websocket(&self, path: &str, protocol: &'static str) -> anyhow::Result<WebSocketStream<Connection>> {
        let mut request = format!("wss://{}{path}", self.address).into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
        // What is written is sent: neither side waits for more.
        let config = WebSocketConfig::default().write_buffer_size(0);
        match client_async_with_config(request, self.connect().await?, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => bail!("{path}: {}", refusal(&answer)),
            Err(error) => Err(error).with_context(|| path.to_owned()),
        }
    }
}

fn refusal(answer: &Response) -> String {
    let said = answer.body().as_deref().unwrap_or_default();
    format!("{}: {}", answer.status(), String::from_utf8_lossy(said))
}
