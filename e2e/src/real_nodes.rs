//! Real nodes: containerd, kubelet and kube-proxy, each node on a [`Machine`] of its own, joined to the super cluster of a bed.

mod config;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use futures::future::try_join_all;
use indicatif::MultiProgress;
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::{
    bed::Bed,
    images,
    machine::Machine,
    pki::{Credentials, kubeconfig, write},
    process::Process,
    programs::NodePrograms,
    shipped::Shipped,
    wait::{Seen, eventually},
};

/// How long a server of a node may take to answer: a second or two, more where other tests run at once.
const READY: Duration = Duration::from_mins(2);

/// Where each kubelet listens, as in every cluster.
pub const KUBELET_PORT: u16 = 10250;

/// Which nodes to start.
#[derive(Clone, Debug)]
pub struct RealNodeOptions {
    /// How many, at most [`MACHINES`](crate::machine::MACHINES).
    pub count: u8,
    /// Images beside [`PAUSE`](images::PAUSE) and [`TOOLS`](images::TOOLS): constants of [`images`].
    pub images: Vec<&'static str>,
    /// Images of our own programs.
    pub shipped: Vec<Shipped>,
    /// Archives of further images.
    pub archives: Vec<PathBuf>,
    /// The name server of Pods that ask for the cluster's.
    pub name_server: Option<Ipv4Addr>,
}

impl RealNodeOptions {
    /// `count` nodes that know the tools and kubectl.
    pub fn new(count: u8) -> Self {
        Self { count, images: vec![images::KUBECTL], shipped: Vec::new(), archives: Vec::new(), name_server: None }
    }
}

/// One running node; ended when dropped, with all containers on it.
pub struct RealNode {
    /// kube-proxy.
    pub kube_proxy: Process,
    /// kubelet.
    pub kubelet: Process,
    /// containerd. Containers outlive it.
    pub containerd: Process,
    /// What they run on.
    pub machine: Machine,
}

/// Starts nodes `machine-0`, … and waits until they are Ready.
///
/// # Errors
/// If the bed was started without [`BedOptions::network`](crate::bed::BedOptions::network).
pub async fn start(bed: &Bed, options: &RealNodeOptions) -> anyhow::Result<Vec<RealNode>> {
    let programs = NodePrograms::locate_or_build(&MultiProgress::new()).await?;
    let mut archives = Vec::new();
    for image in [images::PAUSE, images::TOOLS].into_iter().chain(options.images.iter().copied()) {
        archives.push(images::archive(image, bed.programs(), &programs).await?);
    }
    for shipped in &options.shipped {
        let (shipped, dir) = (*shipped, bed.dir().to_owned());
        archives.push(tokio::task::spawn_blocking(move || shipped.write(&dir)).await??);
    }
    archives.extend(options.archives.iter().cloned());
    try_join_all((0..options.count).map(|i| RealNode::start(i, bed, &programs, &archives, options.name_server))).await
}

impl RealNode {
    async fn start(i: u8, bed: &Bed, programs: &NodePrograms, images: &[PathBuf], name_server: Option<Ipv4Addr>) -> anyhow::Result<Self> {
        let name = format!("machine-{i}");
        let machine = Machine::start(&name, i, bed.network()?, bed.dir()).await?;
        let containerd = start_containerd(&machine, programs).await.context("containerd did not start")?;
        for archive in images {
            let args = ["-n", "k8s.io", "images", "import", "--local", &archive.display().to_string()];
            machine.run(&programs.ctr, &args).await.context("could not import an image")?;
        }
        credentials(&machine, bed, name_server)?;
        let file = |name: &str| machine.dir().join(name).display().to_string();
        let args = [
            format!("--config={}", file("kubelet.json")),
            format!("--kubeconfig={}", file("kubelet.kubeconfig")),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", machine.address()),
        ];
        let kubelet = Process::start(machine.spec("kubelet", &programs.kubelet, args, &[])?)?;
        let args = [
            format!("--kubeconfig={}", file("kube-proxy.kubeconfig")),
            format!("--hostname-override={name}"),
            format!("--bind-address={}", machine.address()),
            // Session affinity needs it: the kernels of small machines lack what the mode nftables does it with.
            "--proxy-mode=iptables".to_owned(),
            format!("--cluster-cidr={}", machine.pods()),
            // The limit is the whole machine's.
            "--conntrack-max-per-core=0".to_owned(),
        ];
        let kube_proxy = Process::start(machine.spec("kube-proxy", &programs.kube_proxy, args, &[])?)?;
        let node = Self { kube_proxy, kubelet, containerd, machine };
        node.wait_ready(bed).await?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// How many files, sockets and the like the kubelet has open: of the program itself, not of what waits for it outside the machine.
    pub fn kubelet_descriptors(&self) -> anyhow::Result<usize> {
        let entrance = self.kubelet.pid().context("the kubelet was not started")?.to_string();
        let is_child = |dir: &Path| {
            let stat = std::fs::read_to_string(dir.join("stat")).unwrap_or_default();
            // The name in parentheses may hold spaces; the parent is the second field after it.
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split_whitespace().nth(1) == Some(&entrance))
        };
        let all = std::fs::read_dir("/proc").context("could not list processes")?.flatten().map(|entry| entry.path());
        let own = all.into_iter().find(|dir| is_child(dir)).context("the kubelet does not run")?;
        Ok(std::fs::read_dir(own.join("fd")).context("the kubelet is gone")?.count())
    }

    /// Waits until the node is Ready and takes Pods.
    pub async fn wait_ready(&self, bed: &Bed) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(bed.sup.client());
        eventually(format!("{} is Ready", self.name()), READY, async || {
            for process in [&self.containerd, &self.kubelet, &self.kube_proxy] {
                process.check_running()?;
            }
            let node = nodes.get(self.name()).await?;
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            Ok(Seen::when(ready && taints.is_empty(), (conditions, taints)))
        })
        .await
        .map(drop)
        .with_context(|| format!("the end of its kubelet's log:\n{}", self.kubelet.log_tail(15)))
    }
}

async fn start_containerd(machine: &Machine, programs: &NodePrograms) -> anyhow::Result<Process> {
    let beside = programs.containerd.parent().context("containerd has no folder")?;
    let network = machine.dir().join("cni");
    std::fs::create_dir_all(&network).context("could not make the folder of the network plugins")?;
    write(&network.join("10-bridge.conflist"), &config::network(&machine.pods()).to_string())?;
    let file = machine.dir().join("containerd.toml");
    write(&file, &config::containerd(&network, programs))?;
    let args = ["--config".to_owned(), file.display().to_string()];
    let containerd = Process::start(machine.spec("containerd", &programs.containerd, args, &[beside])?)?;
    eventually("containerd answers", READY, async || {
        containerd.check_running()?;
        Ok(Seen::Done(machine.run(&programs.ctr, &["version"]).await?))
    })
    .await?;
    Ok(containerd)
}

/// Writes what kubelet and kube-proxy are called with.
fn credentials(machine: &Machine, bed: &Bed, name_server: Option<Ipv4Addr>) -> anyhow::Result<()> {
    let (authority, name) = (bed.sup.authority(), machine.name());
    let file = |name: &str| machine.dir().join(name);
    let identity = authority.kubelet(name, machine.address())?;
    let of = |identity| kubeconfig(bed.sup.server(), &authority.pem(), &Credentials::Certificate(identity));
    write(&file("kubelet.kubeconfig"), &of(&identity))?;
    let proxy = authority.client(&format!("{name}-proxy"), "system:kube-proxy", None)?;
    write(&file("kube-proxy.kubeconfig"), &of(&proxy))?;
    let pair = |end: &str| authority.dir().join(format!("{name}.{end}"));
    let mut settings = config::kubelet(machine.address(), &authority.dir().join("ca.crt"), &pair("crt"), &pair("key"), machine.cgroup());
    if let (Some(address), Some(settings)) = (name_server, settings.as_object_mut()) {
        settings.insert("clusterDNS".to_owned(), serde_json::json!([address]));
    }
    write(&file("kubelet.json"), &settings.to_string())
}

/// The text of a path for a settings file.
fn text(path: &Path) -> String {
    path.display().to_string()
}
