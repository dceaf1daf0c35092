//! The way to the super cluster's API server: its kubeconfig, read again, and made anew when that has changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime::kubeconfig::{Kubeconfig, KubeconfigError};
use runtime::log::Chain;
use runtime::transport::{Transport, TransportConfig, TransportError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the kubeconfig is read: a token is renewed minutes before its end. One in a file of its own is read by whoever sends it.
const INTERVAL: Duration = Duration::from_secs(10);

/// How vn-agent calls itself towards API servers.
const USER_AGENT: &str = concat!("vn-agent/", env!("CARGO_PKG_VERSION"));

/// A server, whom to trust there, and who to be.
#[derive(Clone)]
pub struct Way {
    /// As it was read.
    pub kubeconfig: Kubeconfig,
    /// Calls as vn-agent itself.
    pub transport: Transport,
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig of the super cluster cannot be used")]
    Kubeconfig(#[from] KubeconfigError),
    /// What it holds cannot be used.
    #[error("the credentials of the super cluster cannot be used")]
    Transport(#[from] TransportError),
}

impl Way {
    /// By this kubeconfig.
    pub fn new(kubeconfig: Kubeconfig) -> Result<Self, WayError> {
        let transport = Transport::new(TransportConfig::trusted(kubeconfig.clone(), USER_AGENT))?;
        Ok(Self { kubeconfig, transport })
    }
}

/// Where the kubeconfig lies.
pub struct WaySource(Option<PathBuf>);

impl WaySource {
    /// In this file, or where Kubernetes mounts a Pod's identity.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    /// Reads it and makes the way.
    pub fn load(&self) -> Result<Way, WayError> {
        Way::new(self.read()?)
    }

    fn read(&self) -> Result<Kubeconfig, KubeconfigError> {
        match &self.0 {
            Some(path) => Kubeconfig::trusted(path),
            None => Kubeconfig::in_cluster(),
        }
    }

    /// Reads it again and again, until `stop`. One that cannot be used changes nothing.
    pub async fn follow(self, current: watch::Sender<Arc<Way>>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let way = match self.read() {
                Ok(kubeconfig) if kubeconfig == current.borrow().kubeconfig => continue,
                Ok(kubeconfig) => Way::new(kubeconfig),
                Err(error) => Err(error.into()),
            };
            match way {
                Ok(way) => {
                    info!("the kubeconfig of the super cluster has changed and is used");
                    current.send_replace(Arc::new(way));
                }
                Err(error) => warn!(error = %Chain(&error), "the kubeconfig of the super cluster cannot be used, the last good one holds"),
            }
        }
    }
}
