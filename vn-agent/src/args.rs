//! What can be said to `vn-agent` on the command line or in its environment.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use runtime::args::duration;
use runtime::log::LogArgs;
use runtime::shutdown::ShutdownArgs;

use crate::credentials::{CredentialArgs, KubeletFiles};
use crate::guard::Limits;
use crate::issue::IssueArgs;

/// Logs, exec, attach, port-forward and metrics of a node, for each tenant its own
///
/// Tenants' API servers dial vn-agent as if it were the kubelet. It asks who is calling, whether the Pod is the caller's, and only
/// then the node.
#[derive(Debug, Parser)]
#[command(name = "vn-agent", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve tenants' API servers on this node
    Serve(Box<AgentArgs>),
    /// Issue the certificates that vn-agent, its callers and the kubelet know each other by
    ///
    /// A tenant's API server shows vn-agent a certificate that says which tenant it is. The agent CA signs those and the certificates
    /// that vn-agent itself shows; keep its key where no tenant reaches it, and let no tenant use it as a CA of its own. At the kubelet
    /// vn-agent shows a certificate for that one node, signed by a CA that the kubelet believes (its clientCAFile).
    ///
    /// Files are written as FILE.crt and FILE.key, readable by their owner alone; one that is there already is not overwritten unless
    /// --force is given.
    Issue(IssueArgs),
}

/// Flags of serving.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// Name of this node
    #[arg(long, env = "VN_NODE_NAME", value_name = "NAME")]
    pub node_name: String,

    /// Address that tenants' API servers dial; vNodes name the port
    #[arg(long, env = "VN_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:10550")]
    pub address: SocketAddr,

    /// Who is believed.
    #[command(flatten)]
    pub credentials: CredentialArgs,

    /// Who answers.
    #[command(flatten)]
    pub backend: BackendArgs,

    /// How much.
    #[command(flatten)]
    pub sessions: SessionArgs,

    /// Kubeconfig of the super cluster [default: the ServiceAccount of this Pod]
    #[arg(long, env = "VN_SUPER_KUBECONFIG", value_name = "FILE", help_heading = "Super cluster")]
    pub super_kubeconfig: Option<PathBuf>,

    /// Probes and metrics.
    #[command(flatten)]
    pub serve: runtime::serve::ServeArgs,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,

    /// Shutdown.
    #[command(flatten)]
    pub shutdown: ShutdownArgs,

    /// Threads that run the program
    #[arg(long, env = "VN_THREADS", value_name = "NUMBER", default_value = "2", help_heading = "Sessions")]
    pub threads: NonZeroUsize,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The kubelet if this node's credential is there, else the super cluster's API server
    Auto,
    /// The node's kubelet, by a credential for this node
    Kubelet,
    /// The super cluster's API server, by each tenant's own identity
    Super,
}

/// Flags about who answers.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Back end")]
pub struct BackendArgs {
    /// Who answers
    #[arg(long, env = "VN_BACKEND", value_enum, default_value_t = Mode::Auto)]
    pub backend: Mode,

    /// Host and port of this node's kubelet; the host stands in its serving certificate, unless --kubelet-server-name says another name
    #[arg(long, env = "VN_KUBELET_ADDRESS", value_name = "HOST:PORT")]
    pub kubelet_address: Option<String>,

    /// Name that the kubelet's serving certificate must carry
    #[arg(long, env = "VN_KUBELET_SERVER_NAME", value_name = "NAME")]
    pub kubelet_server_name: Option<String>,

    /// CA of the kubelet's serving certificate, PEM
    #[arg(long, env = "VN_KUBELET_CA_FILE", value_name = "FILE", default_value = "/etc/vn-agent/kubelet/ca.crt")]
    pub kubelet_ca_file: PathBuf,

    /// Certificate of vn-agent at this node's kubelet, PEM
    #[arg(long, env = "VN_KUBELET_CLIENT_CERT_FILE", value_name = "FILE", default_value = "/etc/vn-agent/kubelet/client.crt")]
    pub kubelet_client_cert_file: PathBuf,

    /// Its private key, PEM
    #[arg(long, env = "VN_KUBELET_CLIENT_KEY_FILE", value_name = "FILE", default_value = "/etc/vn-agent/kubelet/client.key")]
    pub kubelet_client_key_file: PathBuf,
}

impl BackendArgs {
    /// The files of the kubelet, in the mode that has one.
    pub fn kubelet_files(&self) -> Option<KubeletFiles> {
        let is_kubelet = match self.backend {
            Mode::Kubelet => true,
            Mode::Super => false,
            Mode::Auto => self.kubelet_client_cert_file.exists(),
        };
        is_kubelet.then(|| KubeletFiles {
            ca: self.kubelet_ca_file.clone(),
            certificate: self.kubelet_client_cert_file.clone(),
            key: self.kubelet_client_key_file.clone(),
        })
    }
}

/// Flags about how much.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sessions")]
pub struct SessionArgs {
    /// Sessions of one tenant on this node at once, as many for each tenant
    #[arg(long, env = "VN_TENANT_SESSIONS", value_name = "NUMBER", default_value = "256")]
    pub tenant_sessions: NonZeroUsize,

    /// Sessions on this node at once
    #[arg(long, env = "VN_SESSIONS", value_name = "NUMBER", default_value = "2048")]
    pub sessions: NonZeroUsize,

    /// Longest silence of a session, in both directions; for each session by itself, the same for all tenants
    #[arg(long, env = "VN_SESSION_IDLE", value_name = "DURATION", default_value = "4h", value_parser = duration)]
    pub session_idle: Duration,

    /// Longest life of a session; for each session by itself, the same for all tenants
    #[arg(long, env = "VN_SESSION_TOTAL", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub session_total: Duration,
}

impl SessionArgs {
    /// The same as bounds.
    pub fn limits(&self) -> Limits {
        Limits { per_tenant: self.tenant_sessions.get(), all: self.sessions.get(), idle: self.session_idle, total: self.session_total }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_fit_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn s53_without_a_ca_for_callers_nothing_starts() {
        let flags = ["vn-agent", "serve", "--node-name=n1", "--tls-cert-file=a", "--tls-key-file=b"];
        let error = Args::try_parse_from(flags).unwrap_err();
        assert!(error.to_string().contains("--client-ca-file"), "{error}");
    }
}
