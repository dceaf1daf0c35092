//! What the identities of vn-agent may, and what not.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use e2e::{
    agents::{self, AgentProcess},
    dial::{Answer, Caller, PATIENCE},
    real_nodes::KUBELET_PORT,
    story::{Story, is_running, pod},
};
use serde_json::{Value, json};

use super::{Scene, container};

/// Asks for a token of a ServiceAccount.
const TOKEN: &str = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":600}}"#;

/// What somebody with an identity of vn-agent's asks the super cluster's API server.
struct Identity {
    who: &'static str,
    caller: Caller,
    /// Headers, beside what TLS says.
    headers: String,
}

impl Identity {
    async fn asks(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: server\r\n{}Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.headers,
            body.len()
        );
        self.caller.raw(request.as_bytes(), PATIENCE).await
    }
}

impl Scene<'_> {
    pub(crate) async fn rights(&self) -> anyhow::Result<()> {
        let (agent, sup) = (self.story.agent(0)?, &self.story.bed.sup);
        let (address, ca) = (sup.server().trim_start_matches("https://"), sup.authority().dir().join("ca.crt"));
        let config: Value = serde_json::from_str(&std::fs::read_to_string(agent.dir().join("super.kubeconfig"))?)?;
        let token = config.pointer("/users/0/user/token").and_then(Value::as_str).context("the kubeconfig has no token")?;
        let account = Identity {
            who: "vn-agent's ServiceAccount",
            caller: Caller::new(address, &ca, None)?,
            headers: format!("Authorization: Bearer {token}\r\n"),
        };
        let mut identities = vec![account];
        // Where the kubelet answers, this node's credential for it.
        if self.has_pages {
            let caller = Caller::new(address, &ca, Some(&agent.dir().join("client")))?;
            identities.push(Identity { who: "the credential of the node", caller, headers: String::new() });
        }
        for identity in &identities {
            for (method, path, body) in self.beyond() {
                let what = format!("{}: {method} {path}", identity.who);
                let answer = identity.asks(method, &path, &body).await?;
                self.ears.hear(&what, &answer.text)?;
                ensure!(answer.status() == 403, "{what}: {}", answer.text);
            }
            // A tenant's own identity is asked for where the super cluster's API server answers, and nowhere else.
            let path = format!("/api/v1/namespaces/vc-writers/serviceaccounts/{}/token", self.victim.id.writer());
            let answer = identity.asks("POST", &path, TOKEN).await?;
            ensure!(answer.status() == if self.has_pages { 403 } else { 201 }, "{}: {path}: {}", identity.who, answer.status());
        }
        let everywhere = "virtualclusters.tenancy.x-k8s.io [] [] [get list watch]";
        let of_super = ["serviceaccounts/token [] [] [create]", everywhere];
        let in_writers = if self.has_pages { &of_super[1..] } else { &of_super[..] };
        let account = format!("system:serviceaccount:{}:{}", agents::IDENTITY.0, agents::IDENTITY.1);
        for (namespace, expected) in
            [("vc-writers", in_writers), (agents::IDENTITY.0, &of_super[1..]), (self.target.namespace.as_str(), &of_super[1..])]
        {
            self.may(&account, namespace, expected).await?;
        }
        if self.has_pages {
            let own = [
                "nodes/metrics [] [machine-0] [get]",
                "nodes/pods [] [machine-0] [get]",
                "nodes/proxy [] [machine-0] [create get]",
                "nodes/stats [] [machine-0] [get]",
            ];
            self.may("vn-agent:machine-0", "default", &own).await?;
        }
        Ok(())
    }

    /// Reads and writes that no identity of vn-agent's may do: method, path and body.
    fn beyond(&self) -> Vec<(&'static str, String, String)> {
        let space = format!("/api/v1/namespaces/{}", self.target.namespace);
        let core = |path: &str| format!("/api/v1/{path}");
        let role = "/apis/rbac.authorization.k8s.io/v1";
        let reads = [
            format!("{space}/pods"),
            format!("{space}/pods/secret/log"),
            format!("{space}/pods/secret/exec?command=env&stdout=1"),
            format!("{space}/secrets"),
            core("pods"),
            core("nodes"),
            core("nodes/machine-0"),
            core("nodes/machine-1/proxy/pods"),
            core("namespaces/vc-system/secrets"),
            core("namespaces/vc-writers/serviceaccounts"),
            core("namespaces/vc-writers/secrets"),
        ];
        let named = |kind: &str| json!({ "kind": kind, "metadata": { "name": "made-by-vn-agent" } }).to_string();
        let admin = json!({
            "metadata": { "name": "made-by-vn-agent" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": agents::IDENTITY.1, "namespace": agents::IDENTITY.0 }],
        });
        let marked = json!({ "metadata": { "labels": { "made-by": "vn-agent" } } }).to_string();
        let wider = json!({ "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }] }).to_string();
        let tenant = format!("/apis/tenancy.x-k8s.io/v1alpha1/namespaces/{0}/virtualclusters/{0}", self.victim.name);
        let writes = [
            ("POST", format!("{space}/pods"), named("Pod")),
            ("PATCH", format!("{space}/pods/secret"), marked.clone()),
            ("PATCH", format!("{space}/pods/secret/ephemeralcontainers"), marked.clone()),
            ("DELETE", format!("{space}/pods/secret"), String::new()),
            ("POST", format!("{space}/pods/secret/eviction"), named("Eviction")),
            ("POST", format!("{space}/pods/secret/exec?command=env&stdout=1"), String::new()),
            ("POST", format!("{space}/pods/secret/portforward"), String::new()),
            ("POST", format!("{space}/secrets"), named("Secret")),
            ("POST", core("nodes/machine-1/proxy/run/default/secret/main?cmd=env"), String::new()),
            ("PATCH", core("nodes/machine-0"), marked.clone()),
            // Tokens of any identity that is no tenant's writer.
            ("POST", format!("{space}/serviceaccounts/default/token"), TOKEN.to_owned()),
            ("POST", core("namespaces/vc-system/serviceaccounts/vc-syncer/token"), TOKEN.to_owned()),
            ("POST", core("namespaces/vc-agents/serviceaccounts/vn-agent/token"), TOKEN.to_owned()),
            ("POST", core("namespaces/kube-system/serviceaccounts/namespace-controller/token"), TOKEN.to_owned()),
            ("POST", core("namespaces/vc-writers/serviceaccounts"), named("ServiceAccount")),
            ("POST", core("namespaces/vc-writers/pods"), named("Pod")),
            ("POST", core("namespaces/vc-writers/secrets"), named("Secret")),
            ("POST", format!("{role}/clusterrolebindings"), admin.to_string()),
            ("PATCH", format!("{role}/clusterroles/vn-agent"), wider.clone()),
            ("PATCH", format!("{role}/namespaces/vc-writers/roles/vn-agent"), wider),
            ("PATCH", tenant.clone(), marked),
            ("DELETE", tenant, String::new()),
        ];
        reads.map(|path| ("GET", path, String::new())).into_iter().chain(writes).collect()
    }

    /// That somebody may in a namespace exactly this, beside what anybody of its sort may: know about itself, the server and what is public.
    async fn may(&self, who: &str, namespace: &str, expected: &[&str]) -> anyhow::Result<()> {
        let anybody = if who.starts_with("system:serviceaccount:") { "system:serviceaccount:default:nobody" } else { "nobody" };
        let (all, common) = (self.listed(who, namespace).await?, self.listed(anybody, namespace).await?);
        let rights: BTreeSet<String> = all.difference(&common).cloned().collect();
        let expected: BTreeSet<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        ensure!(rights == expected, "{who} in {namespace}: it may {rights:?}, not {expected:?}");
        Ok(())
    }

    /// All that somebody may in a namespace: resources, paths, names and verbs.
    async fn listed(&self, who: &str, namespace: &str) -> anyhow::Result<BTreeSet<String>> {
        let mut words: Vec<String> = ["auth", "can-i", "--list", "-n", namespace].map(str::to_owned).into();
        words.extend([format!("--as={who}"), "--as-group=system:authenticated".to_owned()]);
        if let Some((of, _)) = who.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
            words.extend(["--as-group=system:serviceaccounts".to_owned(), format!("--as-group=system:serviceaccounts:{of}")]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let bed = &self.story.bed;
        Ok(bed.sup.kubectl(bed.programs()).says(&words).await?.lines().skip(1).map(sorted).collect())
    }
}

/// A line of a list of rights with single spaces, and its verbs in order.
fn sorted(line: &str) -> String {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let (rest, verbs) = line.rsplit_once('[').unwrap_or((&line, ""));
    let verbs: BTreeSet<&str> = verbs.trim_end_matches(']').split(' ').collect();
    format!("{rest}[{}]", verbs.into_iter().collect::<Vec<_>>().join(" "))
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
