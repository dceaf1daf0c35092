//! What the identities of vn-agent may, and what not.

use anyhow::{Context as _, ensure};
use e2e::{
    agents::AgentProcess,
    dial::Caller,
    real_nodes::KUBELET_PORT,
    story::{Story, is_running, pod},
};
use serde_json::json;

use crate::{Scene, container};

impl Scene<'_> {
    pub(crate) async fn rights(&self) -> anyhow::Result<()> {
        let (agent, sup) = (self.story.agent(0)?, &self.story.bed.sup);
        let own = kube::Client::try_from(
            kube::Config::from_custom_kubeconfig(
                kube::config::Kubeconfig::read_from(agent.dir().join("super.kubeconfig"))?,
                &kube::config::KubeConfigOptions::default(),
            )
            .await?,
        )?;
        let node = Caller::new(
            sup.server().trim_start_matches("https://"),
            &sup.authority().dir().join("ca.crt"),
            Some(&agent.dir().join("client")),
        )?;
        let space = &self.target.namespace;
        for path in [
            format!("/api/v1/namespaces/{space}/pods"),
            format!("/api/v1/namespaces/{space}/pods/secret/log"),
            format!("/api/v1/namespaces/{space}/secrets"),
            "/api/v1/pods".to_owned(),
            "/api/v1/nodes".to_owned(),
            "/api/v1/nodes/machine-0".to_owned(),
            "/api/v1/nodes/machine-1/proxy/pods".to_owned(),
            "/api/v1/namespaces/vc-system/secrets".to_owned(),
        ] {
            let request = http::Request::get(&path).body(Vec::new())?;
            let refused = own.request_text(request).await.err().context(format!("vn-agent may GET {path}"))?;
            ensure!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{path}: {refused}");
            let answer = node.get(&path).await?;
            self.ears.hear(&path, &answer.text)?;
            ensure!(answer.status() == 403, "the credential of the node: {path}: {}", answer.text);
        }
        let allowed = self
            .story
            .bed
            .sup
            .kubectl(self.story.bed.programs())
            .says(&["auth", "can-i", "--list", "--as=vn-agent:machine-0", "--as-group=system:authenticated"])
            .await?;
        let beyond: Vec<&str> = allowed
            .lines()
            .skip(1)
            .filter(|line| !line.starts_with(' ') && !line.starts_with("self") && !line.contains("[machine-0]"))
            .collect();
        ensure!(beyond.is_empty(), "the credential of the node has rights beyond it: {beyond:?}");
        Ok(())
    }
}

/// Each node's credential opens that node's kubelet, and is refused by the other's, which would find no such Pod.
pub(crate) async fn apart(story: &Story) -> anyhow::Result<()> {
    let ca = story.bed.sup.authority().dir().join("ca.crt");
    for (i, node) in story.real.iter().enumerate() {
        let kubelet = format!("{}:{KUBELET_PORT}", node.machine.address());
        let credential = |agent: &AgentProcess| Caller::new(&kubelet, &ca, Some(&agent.dir().join("client")));
        for (j, agent) in story.agents.iter().enumerate() {
            let (caller, what) = (credential(agent)?, format!("vn-agent of node {j} at the kubelet of node {i}"));
            let pods = caller.get("/pods").await?;
            ensure!(pods.status() == if i == j { 200 } else { 403 }, "{what}: {}", pods.text);
            for path in [
                "/containerLogs/default/nobody/main",
                "/exec/default/nobody/main?command=env&output=1",
                "/attach/default/nobody/main?output=1",
                "/portForward/default/nobody?port=80",
            ] {
                let answer = caller.get(path).await?;
                ensure!(answer.status() == if i == j { 404 } else { 403 }, "{what}: {path}: {}", answer.text);
            }
        }
    }
    ensure!(story.real.len() == 2 && story.agents.len() == 2, "two nodes");
    Ok(())
}

/// A Pod a node: the tenant's API server dials the node's own vn-agent, which knows the Pods of its node and of no other.
pub(crate) async fn each_its_own(story: &Story) -> anyhow::Result<()> {
    let (tenant, kubectl) = (story.tenant(0)?, story.kubectl(0)?);
    let on: Vec<_> = story.real.iter().map(|node| format!("on-{}", node.name())).collect();
    for (node, name) in story.real.iter().zip(&on) {
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 1,
            "containers": [container(&format!("echo I am {name}; exec sleep 1000000"), name)],
        });
        tenant.apply(&pod(name, &json!({}), &spec)).await?;
    }
    for name in &on {
        tenant.sees("it runs", "default", name, is_running).await?;
        let (log, env) = (kubectl.says(&["logs", name]).await?, kubectl.says(&["exec", name, "--", "sh", "-c", "echo $WORD"]).await?);
        ensure!(log == format!("I am {name}\n") && env == format!("{name}\n"), "{name}: {log:?}, {env:?}");
    }
    for (i, agent) in story.agents.iter().enumerate() {
        let caller = agent.caller(&story.bed, 0)?;
        for (j, name) in on.iter().enumerate() {
            let answer = caller.get(&format!("/containerLogs/default/{name}/main")).await?;
            ensure!(answer.status() == if i == j { 200 } else { 404 }, "vn-agent {i} about {name}: {}", answer.text);
            let page = caller.get("/pods").await?;
            ensure!(page.text.contains(&format!("\"{name}\"")) == (i == j), "vn-agent {i} lists {}", page.text);
        }
    }
    Ok(())
}
