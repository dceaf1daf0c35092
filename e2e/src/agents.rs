//! `vn-agent` on real nodes: a process in each machine's network, with the certificates that its own command issues.
//!
//! ```text
//! bed/agents/ca.{crt,key}                    the agent CA; tenants' API servers of a bed with a network verify vn-agent by it
//! bed/<tenant>/kubelet-client.{crt,key}      what a tenant's API server shows; read anew for each connection
//! bed/<machine>/agent/…                      what vn-agent shows to callers and to its kubelet
//! ```

mod sessions;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use common::Uid;
use http::Request;
use kube::Client;

use crate::{
    bed::Bed,
    dial::Caller,
    errand,
    etcd::plain_client,
    manifests, metrics,
    pki::write,
    process::{Process, Spec},
    real_nodes::{KUBELET_PORT, RealNode},
    shipped,
    wait::{Seen, eventually},
};

pub use sessions::SessionLine;

/// The namespace and name of the `ServiceAccount` that `manifests/` makes for vn-agent.
pub const IDENTITY: (&str, &str) = ("vc-agents", "vn-agent");

/// Where tenants' API servers dial it, as vNodes say.
pub const PORT: u16 = 10550;

/// Where its probes and metrics are, in the machine.
const PROBES: u16 = 10551;

/// Who answers for an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The node's kubelet, by a certificate for this node.
    #[default]
    Kubelet,
    /// The super cluster's API server, by each tenant's own identity.
    Super,
    /// Nobody is named, and no credential of the kubelet is there.
    None,
}

/// How to run vn-agent.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// Who answers.
    pub backend: Backend,
    /// Further flags.
    pub args: Vec<String>,
    /// The program; `$VN_AGENT` or what cargo built beside the running program if not set.
    pub program: Option<PathBuf>,
}

/// The program: `$VN_AGENT`, or what cargo built beside the running program.
pub fn program() -> anyhow::Result<PathBuf> {
    shipped::AGENT.located()
}

/// Runs `vn-agent issue` with these words, and gives what it wrote.
pub async fn issue(args: &[&str]) -> anyhow::Result<String> {
    let mut command = errand::command(program()?);
    command.arg("issue").args(args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = errand::run(command).await.context("could not run vn-agent")?;
    if !output.status.success() {
        bail!("vn-agent issue {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The agent CA of a bed: this, with `.crt` and `.key`.
pub fn authority(bed: &Path) -> PathBuf {
    bed.join("agents/ca")
}

/// Makes the agent CA of a bed.
pub(crate) async fn make_authority(bed: &Path) -> anyhow::Result<()> {
    issue(&["ca", "--out", &text(&authority(bed))]).await.map(drop)
}

/// Gives the API server of tenant `i` a certificate that says who it is, and starts it again.
pub async fn introduce(bed: &Bed, i: usize, tenant: Uid) -> anyhow::Result<()> {
    issue_anew(bed, i, tenant).await?;
    let plane = bed.tenant(i)?;
    plane.api_server.kill()?;
    plane.api_server.start_again()?;
    plane.wait_ready().await
}

/// Replaces the certificate that the API server of tenant `i` shows.
///
/// # Caveats
/// It sees that when it next dials, and then closes all connections that it dialled, the new one included: one request fails. See
/// `transport/cert_rotation.go` of client-go.
pub async fn issue_anew(bed: &Bed, i: usize, tenant: Uid) -> anyhow::Result<()> {
    let (out, ca) = (bed.tenant(i)?.kubelet_client(), authority(bed.dir()));
    issue(&["tenant", "--uid", &tenant.to_string(), "--ca", &text(&ca), "--out", &text(&out), "--force"]).await.map(drop)
}

/// A running vn-agent; ended when dropped.
pub struct AgentProcess {
    /// The program: kill, stop, pause, resume, restart, CPU time, memory and descriptors are its methods.
    pub process: Process,
    dir: PathBuf,
    address: String,
    client: Client,
}

impl AgentProcess {
    /// Starts one for a node, with the rights that `manifests/` and `vn-agent issue kubelet-rights` give it.
    pub async fn start(bed: &Bed, node: &RealNode, options: &AgentOptions) -> anyhow::Result<Self> {
        let (name, address, dir) = (node.name(), node.machine.address().to_string(), node.machine.dir().join("agent"));
        std::fs::create_dir_all(&dir).context("could not make the folder of vn-agent")?;
        let agent = Self {
            process: Process::start(Self::spec(bed, node, options, &dir).await?)?,
            client: plain_client(&format!("http://{address}:{PROBES}"))?,
            address: format!("{address}:{PORT}"),
            dir,
        };
        agent.wait_ready().await.with_context(|| format!("vn-agent on {name}"))?;
        Ok(agent)
    }

    async fn spec(bed: &Bed, node: &RealNode, options: &AgentOptions, dir: &Path) -> anyhow::Result<Spec> {
        let (name, address) = (node.name(), node.machine.address().to_string());
        let file = |name: &str| text(&dir.join(name));
        let ca = text(&authority(bed.dir()));
        issue(&["agent", "--node", name, "--address", &address, "--ca", &ca, "--out", &file("tls"), "--force"]).await?;
        write(&dir.join("super.kubeconfig"), &bed.sup.kubeconfig_of(IDENTITY.0, IDENTITY.1).await?)?;
        let mut args = vec![
            "serve".to_owned(),
            format!("--node-name={name}"),
            format!("--address={address}:{PORT}"),
            format!("--listen={address}:{PROBES}"),
            format!("--client-ca-file={ca}.crt"),
            format!("--tls-cert-file={}", file("tls.crt")),
            format!("--tls-key-file={}", file("tls.key")),
            format!("--super-kubeconfig={}", file("super.kubeconfig")),
            "--log-format=json".to_owned(),
        ];
        match options.backend {
            Backend::Super | Backend::None => {
                manifests::install_super_agent(&bed.sup.client()).await?;
                args.extend((options.backend == Backend::Super).then(|| "--backend=super".to_owned()));
            }
            Backend::Kubelet => {
                let cluster = bed.sup.authority().dir().join("ca");
                issue(&["kubelet-client", "--node", name, "--ca", &text(&cluster), "--out", &file("client"), "--force"]).await?;
                manifests::install_text(&issue(&["kubelet-rights", "--node", name]).await?, &bed.sup.client()).await?;
                args.extend([
                    format!("--kubelet-address={address}:{KUBELET_PORT}"),
                    format!("--kubelet-ca-file={}.crt", text(&cluster)),
                    format!("--kubelet-client-cert-file={}", file("client.crt")),
                    format!("--kubelet-client-key-file={}", file("client.key")),
                ]);
            }
        }
        args.extend(options.args.iter().cloned());
        let program = match &options.program {
            Some(program) => program.clone(),
            None => program()?,
        };
        let mut spec = node.machine.in_network("vn-agent", &program, args)?;
        spec.env.push(("VC_LOG".to_owned(), "info,vn_agent=debug".to_owned()));
        Ok(spec)
    }

    /// Where its certificates lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Host and port that tenants' API servers dial.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Somebody who dials it as tenant `i` does.
    pub fn caller(&self, bed: &Bed, i: usize) -> anyhow::Result<Caller> {
        Caller::new(&self.address, &authority(bed.dir()).with_extension("crt"), Some(&bed.tenant(i)?.kubelet_client()))
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let ready = eventually("vn-agent is ready", Duration::from_mins(1), async || {
            self.process.check_running()?;
            Ok(Seen::Done(self.get("/readyz").await?))
        });
        ready.await.map(drop).with_context(|| format!("the end of its log:\n{}", self.process.log_tail(15)))
    }

    /// Whether `/livez` says yes.
    pub async fn is_alive(&self) -> bool {
        self.get("/livez").await.is_ok()
    }

    /// What `/readyz` says if it says no; an error if nobody answers.
    pub async fn unready(&self) -> anyhow::Result<Option<String>> {
        match self.client.request_text(Request::get("/readyz?verbose").body(Vec::new())?).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) => Ok(Some(status.message)),
            Err(error) => Err(error.into()),
        }
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        self.get("/metrics").await
    }

    /// See [`metrics::sum`].
    pub async fn metric(&self, name: &str, labels: &str) -> anyhow::Result<f64> {
        Ok(metrics::sum(&self.metrics().await?, name, labels))
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        Ok(self.client.request_text(Request::get(path).body(Vec::new())?).await?)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
