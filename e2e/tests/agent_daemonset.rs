//! `manifests/` as shipped, on a real node: the images of our programs, in Pods, with nothing but what the README has one type.

use std::{path::PathBuf, process::Output, time::Duration};

use anyhow::{Context as _, ensure};
use e2e::{
    agents,
    bed::{Bed, BedOptions},
    env,
    images::TOOLS,
    kubectl::Kubectl,
    machine,
    real_nodes::{self, RealNode, RealNodeOptions},
    shipped,
    story::{Actor, Standing, is_running, pod},
    wait::{Seen, eventually},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

/// A new image, a first start, probes: seconds here, more where other tests run at once.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_run_as_shipped() {
    if machine::skipped() {
        return;
    }
    let installed = Installed::begin().await.unwrap();
    let story = async {
        installed.syncer().await.context("the syncer serves a tenant from a Pod")?;
        installed.agent().await.context("vn-agent leads kubectl to a container")?;
        installed.restricted().await.context("both are as restricted as their manifests say")?;
        installed.rolled().await.context("a session outlives the Pod that carries it, until it is over")?;
        installed.without_credentials().await.context("the super cluster's API server answers where no node holds a credential")?;
        installed.steady().await.context("nothing was started twice")
    };
    if let Err(error) = story.await {
        panic!("{error:#}\n{}", installed.tail().await);
    }
}

struct Installed {
    tenant: Actor,
    node: RealNode,
    bed: Bed,
    admin: Kubectl,
}

impl Installed {
    async fn begin() -> anyhow::Result<Self> {
        let bed = Bed::start(BedOptions { network: true, ..BedOptions::new("agent-daemonset", 1) }).await?;
        let options = RealNodeOptions { shipped: vec![shipped::SYNCER, shipped::AGENT], ..RealNodeOptions::new(1) };
        let node = real_nodes::start(&bed, &options).await?.pop().context("no node was started")?;
        let admin = bed.sup.kubectl(bed.programs());
        apply(&["crds/"], &admin).await?;
        apply(&["namespace.yaml", "rbac.yaml", "admission.yaml"], &admin).await?;
        apply(&["deployment.yaml"], &admin).await?;
        let tenant = Actor::register(&bed, 0).await?;
        agents::introduce(&bed, 0, tenant.id.uid()).await?;
        Ok(Self { tenant, node, bed, admin })
    }

    async fn syncer(&self) -> anyhow::Result<()> {
        self.rolled_out("vc-system", "deployment/vc-syncer").await?;
        Standing::of(&self.tenant.name, &self.tenant.name, self.bed.sup.client()).is_ready().await?;
        self.tenant.takes_pods("default").await?;
        let container = json!({ "name": "main", "image": TOOLS, "command": ["sh", "-c", "echo I am here; exec sleep 1000000"] });
        self.tenant.apply(&pod("one", &json!({}), &json!({ "containers": [container] }))).await?;
        self.tenant.sees("it runs", "default", "one", is_running).await.map(drop)
    }

    /// Gives the node its files, then applies the manifests, in the order of the README.
    async fn agent(&self) -> anyhow::Result<()> {
        let (machine, ca) = (&self.node.machine, agents::authority(self.bed.dir()));
        let (name, address) = (machine.name(), machine.address().to_string());
        let here = self.bed.dir().join(format!("files-of-{name}"));
        let (ca, cluster, out) = (text(&ca), text(&self.bed.sup.authority().dir().join("ca")), |file: &str| text(&here.join(file)));
        agents::issue(&["agent", "--ca", &ca, "--node", name, "--address", &address, "--out", &out("tls")]).await?;
        agents::issue(&["kubelet-client", "--ca", &cluster, "--node", name, "--out", &out("kubelet/client")]).await?;
        std::fs::copy(format!("{cluster}.crt"), here.join("kubelet/ca.crt")).context("could not copy the CA of kubelets")?;
        let rights = agents::issue(&["kubelet-rights", "--node", name]).await?;
        succeeded(&self.admin.fed(&["apply", "-f", "-"], rights.as_bytes()).await?)?;
        // Where others go by ssh.
        machine.own("/etc").await?;
        let unpack = "(mkdir /etc/vn-agent && tar -C /etc/vn-agent -x && chown -R 65532:65532 /etc/vn-agent)";
        machine.run("sh".as_ref(), &["-c", &format!("tar -C {} -c . | {unpack}", text(&here))]).await?;

        apply(&["vn-agent.yaml", "rbac-vn-agent.yaml"], &self.admin).await?;
        self.admin.says(&["-n", "vc-agents", "create", "configmap", "vn-agent", &format!("--from-file=ca.crt={ca}.crt")]).await?;
        self.rolled_out("vc-agents", "daemonset/vn-agent").await?;
        self.leads_to_the_container().await
    }

    async fn leads_to_the_container(&self) -> anyhow::Result<()> {
        let kubectl = self.kubectl()?;
        let said = kubectl.says(&["logs", "one"]).await?;
        ensure!(said.trim() == "I am here", "the log is {said:?}");
        let said = kubectl.says(&["exec", "one", "--", "hostname"]).await?;
        ensure!(said.trim() == "one", "exec says {said:?}");
        Ok(())
    }

    async fn restricted(&self) -> anyhow::Result<()> {
        for program in shipped::ALL.map(|shipped| shipped.program) {
            let script =
                format!("for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" != {program} ] || {{ cat $p/status; cat $p/mounts; }}; done");
            let found = self.node.machine.run("sh".as_ref(), &["-c", &script]).await?;
            ensure!(found.contains(&format!("Name:\t{program}")), "{program} does not run");
            let field = |name: &str| found.lines().filter_map(|line| line.strip_prefix(name)).map(str::trim).collect::<Vec<_>>();
            let all = |name: &str, expected: &str| field(name).iter().all(|value| *value == expected);
            let ids = "65532\t65532\t65532\t65532";
            ensure!(all("Uid:", ids) && all("Gid:", ids), "{program} runs as {:?} {:?}", field("Uid:"), field("Gid:"));
            ensure!(all("CapPrm:", "0000000000000000"), "{program} has capabilities {:?}", field("CapPrm:"));
            ensure!(all("NoNewPrivs:", "1") && all("Seccomp:", "2"), "{program} may have more");
            let roots: Vec<_> = found.lines().filter(|line| line.split(' ').nth(1) == Some("/")).collect();
            let is_read_only =
                |mount: &&str| mount.split(' ').nth(3).is_some_and(|options| options.split(',').any(|option| option == "ro"));
            ensure!(!roots.is_empty() && roots.iter().all(is_read_only), "{program} may write to {roots:?}");
        }
        Ok(())
    }

    async fn rolled(&self) -> anyhow::Result<()> {
        let old = self.only("vc-agents").await?.name_any();
        let wait = "echo begun; while [ ! -e end ]; do sleep 0.1; done; echo ended";
        let mut session = self.kubectl()?.command(&["exec", "one", "--", "sh", "-c", wait]).spawn().context("could not run kubectl")?;
        let mut output = BufReader::new(session.stdout.take().context("kubectl has no output")?);
        let mut said = String::new();
        output.read_line(&mut said).await?;
        ensure!(said.trim() == "begun", "the session says {said:?}");
        self.admin.says(&["-n", "vc-agents", "rollout", "restart", "daemonset/vn-agent"]).await?;
        let agents: Api<Pod> = Api::namespaced(self.bed.sup.client(), "vc-agents");
        eventually("the old Pod is on its way out", PATIENCE, async || {
            let pod = agents.get(&old).await?;
            Ok(Seen::when(pod.metadata.deletion_timestamp.is_some(), pod.metadata))
        })
        .await?;
        eventually("it takes no callers any more", PATIENCE, async || {
            Ok(Seen::when(!self.kubectl()?.output(&["exec", "one", "--", "true"]).await?.status.success(), "it does"))
        })
        .await?;
        ensure!(session.try_wait()?.is_none(), "the session ended with the Pod");
        // Past vn-agent: nobody else can tell the container.
        let below = self.tenant.namespace_below("default");
        self.admin.says(&["-n", &below, "exec", "one", "--", "touch", "end"]).await?;
        let mut rest = String::new();
        output.read_to_string(&mut rest).await?;
        let status = session.wait().await?;
        ensure!(status.success() && rest.trim() == "ended", "the session ends with {status} and {rest:?}");
        self.rolled_out("vc-agents", "daemonset/vn-agent").await?;
        ensure!(self.only("vc-agents").await?.name_any() != old, "the old Pod is there");
        self.leads_to_the_container().await
    }

    async fn without_credentials(&self) -> anyhow::Result<()> {
        self.node.machine.run("rm".as_ref(), &["-r", "/etc/vn-agent/kubelet"]).await?;
        apply(&["rbac-vn-agent-super.yaml"], &self.admin).await?;
        self.admin.says(&["-n", "vc-agents", "rollout", "restart", "daemonset/vn-agent"]).await?;
        self.rolled_out("vc-agents", "daemonset/vn-agent").await?;
        let log = self.admin.says(&["-n", "vc-agents", "logs", &self.only("vc-agents").await?.name_any()]).await?;
        ensure!(log.contains("who answers backend=\"api-server\""), "its log says {log}");
        self.leads_to_the_container().await
    }

    /// The Pods of a namespace that are there to stay. A DaemonSet's next Pod begins when the last one's containers have ended, which is
    /// before that one is gone: after a rollout both can be listed.
    async fn staying(&self, namespace: &str) -> anyhow::Result<Vec<Pod>> {
        let pods = Api::<Pod>::namespaced(self.bed.sup.client(), namespace).list(&ListParams::default()).await?;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    async fn only(&self, namespace: &str) -> anyhow::Result<Pod> {
        let mut pods = self.staying(namespace).await?;
        ensure!(pods.len() == 1, "{namespace} has {} Pods", pods.len());
        pods.pop().context("there is none")
    }

    async fn steady(&self) -> anyhow::Result<()> {
        for namespace in ["vc-system", "vc-agents"] {
            for pod in self.staying(namespace).await? {
                let statuses = pod.status.clone().and_then(|status| status.container_statuses).unwrap_or_default();
                ensure!(is_running(&pod) && statuses.iter().all(|status| status.restart_count == 0), "{}: {statuses:?}", pod.name_any());
            }
        }
        Ok(())
    }

    async fn rolled_out(&self, namespace: &str, what: &str) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.admin.says(&["-n", namespace, "rollout", "status", what, &timeout]).await.map(drop)
    }

    fn kubectl(&self) -> anyhow::Result<Kubectl> {
        Ok(self.bed.tenant(0)?.kubectl(self.bed.programs()))
    }

    /// What an administrator would look at.
    async fn tail(&self) -> String {
        let mut said = String::new();
        for args in [
            &["get", "pods", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--field-selector=type=Warning"],
            &["-n", "vc-agents", "logs", "daemonset/vn-agent", "--tail=15"],
            &["-n", "vc-system", "logs", "deployment/vc-syncer", "--tail=15"],
        ] {
            said += &self.admin.says(args).await.unwrap_or_else(|error| format!("{error:#}\n"));
        }
        said
    }
}

/// `kubectl apply` of files of `manifests/`, as they are.
async fn apply(files: &[&str], admin: &Kubectl) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = files.iter().map(|file| env::workspace().join("manifests").join(file)).collect();
    let paths: Vec<String> = paths.iter().map(|path| text(path)).collect();
    let args: Vec<&str> = ["apply"].into_iter().chain(paths.iter().flat_map(|path| ["-f", path.as_str()])).collect();
    admin.says(&args).await.map(drop)
}

fn succeeded(output: &Output) -> anyhow::Result<()> {
    ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}
