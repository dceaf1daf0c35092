//! `vc-syncer` as it runs in a cluster: the shipped manifests, its own `ServiceAccount`, a token, and nothing else.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use http::Request;
use kube::Client;

use crate::{
    bed::Bed,
    etcd::plain_client,
    manifests, metrics,
    pki::write,
    port::Port,
    process::{Process, Spec},
    shipped,
    wait::{Seen, eventually},
};

/// The namespace and name of the `ServiceAccount` that `manifests/` makes for the syncer.
pub const IDENTITY: (&str, &str) = ("vc-system", "vc-syncer");

/// How to run a syncer.
#[derive(Clone, Debug)]
pub struct SyncerOptions {
    /// Names its log and its kubeconfig; two syncers of one bed need two names.
    pub name: String,
    /// Further flags.
    pub args: Vec<String>,
    /// The program; found beside the running one if not set.
    pub program: Option<PathBuf>,
    /// Where it reaches the super cluster's API server; at its own address if not set.
    pub server: Option<String>,
    /// What is logged, as `--log` takes it; the default of the program if not set.
    pub log: Option<String>,
}

impl Default for SyncerOptions {
    fn default() -> Self {
        Self { name: "vc-syncer".to_owned(), args: Vec::new(), program: None, server: None, log: None }
    }
}

/// A running syncer; ended when dropped.
pub struct SyncerProcess {
    /// The program: kill, stop, pause, resume, restart, CPU time and memory are its methods.
    pub process: Process,
    client: Client,
    _port: Port,
}

impl SyncerProcess {
    /// Installs `manifests/` in the super cluster and starts a syncer under the identity made there.
    pub async fn start(bed: &Bed, options: SyncerOptions) -> anyhow::Result<Self> {
        manifests::install(&bed.sup.client()).await?;
        Self::start_installed(bed, options).await
    }

    /// Starts a syncer where the manifests are installed already: a second replica, or one with changed rights.
    pub async fn start_installed(bed: &Bed, options: SyncerOptions) -> anyhow::Result<Self> {
        let program = match options.program {
            Some(program) => program,
            None => program()?,
        };
        let kubeconfig = bed.dir().join(format!("{}.kubeconfig", options.name));
        let text = bed.sup.kubeconfig_of(IDENTITY.0, IDENTITY.1).await?;
        write(&kubeconfig, &text.replace(bed.sup.server(), options.server.as_deref().unwrap_or(bed.sup.server())))?;
        let port = Port::claim()?;
        let args = [
            "--super-kubeconfig".to_owned(),
            kubeconfig.display().to_string(),
            "--allow-addresses".to_owned(),
            "127.0.0.0/8".to_owned(),
            "--listen".to_owned(),
            format!("127.0.0.1:{}", port.number()),
            "--log-format".to_owned(),
            "json".to_owned(),
        ];
        let mut spec = Spec::new(&options.name, &program, args.into_iter().chain(options.args), bed.dir());
        spec.env.extend(options.log.map(|filter| ("VC_LOG".to_owned(), filter)));
        let client = plain_client(&format!("http://127.0.0.1:{}", port.number()))?;
        Ok(Self { process: Process::start(spec)?, client, _port: port })
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_ready(&self, timeout: Duration) -> anyhow::Result<()> {
        let ready = eventually("vc-syncer is ready", timeout, async || {
            self.process.check_running()?;
            Ok(Seen::Done(self.get("/readyz").await?))
        });
        ready.await.map(drop).with_context(|| format!("the end of its log:\n{}", self.process.log_tail(15)))
    }

    /// Does `work`, and starts the program again whenever it ends meanwhile, as a kubelet does: one that loses its lease ends.
    pub async fn kept_alive<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let keeper = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.process.start_again()?;
            }
        };
        tokio::select! {
            done = work => done,
            failed = keeper => failed,
        }
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        self.get("/metrics").await
    }

    /// The sum of a metric over all its labels that contain `labels`; 0 if there is none.
    pub async fn metric(&self, name: &str, labels: &str) -> anyhow::Result<f64> {
        Ok(metrics::sum(&self.metrics().await?, name, labels))
    }

    /// Fails if it has not written since its start, or if an update was answered with the version that was there before.
    pub async fn wrote_nothing_in_vain(&self) -> anyhow::Result<()> {
        let (all, vain) = (self.metric("vc_writes_total", "").await?, self.metric("vc_vain_writes_total", "").await?);
        let text = self.metrics().await?;
        let which: Vec<_> = text.lines().filter(|line| line.starts_with("vc_vain_writes_total")).collect();
        anyhow::ensure!(all > 0.0 && vain == 0.0, "{vain} of {all} writes changed nothing: {which:?}");
        Ok(())
    }

    /// CPU time so far, in seconds, over all runs.
    pub fn cpu_seconds(&self) -> f64 {
        self.process.cpu().as_secs_f64()
    }

    /// Resident memory now.
    pub fn rss_bytes(&self) -> u64 {
        self.process.rss_bytes()
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        Ok(self.client.request_text(Request::get(path).body(Vec::new())?).await?)
    }
}

/// The program: `$VC_SYNCER`, or what cargo built beside the running program.
pub fn program() -> anyhow::Result<PathBuf> {
    shipped::SYNCER.located()
}
