//! vn-agent where nobody wants credentials of kubelets: the super cluster's API server answers, to each tenant's own identity.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{
    agents::{self, AgentOptions, AgentProcess, Backend},
    dial::Answer,
    images::TOOLS,
    kubectl::Kubectl,
    machine,
    pki::write,
    story::{Actor, OF_THE_PLATFORM, Plot, Story, chapter, is_running, platform, platform_pod, pod},
    wait::{Seen, eventually},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// For anything that a person waits for at a prompt.
const SOON: Duration = Duration::from_secs(30);

/// A line of the tenant's own Pod, as its API server asks for it.
const OWN_LOG: &str = "/containerLogs/default/twin/main?tailLines=1";

#[tokio::test(flavor = "multi_thread")]
async fn the_super_api_server_answers_to_each_tenants_own_identity() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::with_agents("agent-super", 2, 1);
    plot.agents = Some(AgentOptions { backend: Backend::Super, ..AgentOptions::default() });
    let mut story = Story::play(plot).await.unwrap();
    people(&story).await.unwrap();
    let chapters = vec![
        chapter("logs, exec, attach and port-forward reach one's own, and the audit log names the tenant", kubectl(&story)),
        chapter("what is another's or the platform's is not there", strangers(&story)),
        chapter("a page about the node is refused, with the reason", pages(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("of an API server that is down or silent kubectl says so", down(&story))]).await.unwrap();
    chosen(&mut story).await.unwrap();
}

/// Pods of one name in both tenants, one that only the second has, and two that are nobody's.
async fn people(story: &Story) -> anyhow::Result<()> {
    let talks = |name: &str| {
        let serve =
            format!("mkdir /www; echo {name} > /www/index.html; httpd -p 8080 -h /www; while :; do echo I am of {name}; sleep 1; done");
        json!({ "containers": [{
            "name": "main", "image": TOOLS, "command": ["sh", "-c", serve], "env": [{ "name": "WHOSE", "value": name }],
            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        }] })
    };
    for tenant in &story.tenants {
        tenant.apply(&pod("twin", &json!({}), &talks(&tenant.name))).await?;
    }
    story.tenant(1)?.apply(&pod("only-of-second", &json!({}), &talks("second"))).await?;
    platform(story.bed.sup.client()).await?;
    // Also one that somebody has put where the first tenant's Pods are.
    for (namespace, name) in [(OF_THE_PLATFORM, "plumbing"), (story.tenant(0)?.namespace_below("default").as_str(), "stray")] {
        platform_pod(story.bed.sup.client(), namespace, name, &json!({ "name": "main", "image": TOOLS })).await?;
    }
    for tenant in &story.tenants {
        tenant.sees("it runs", "default", "twin", is_running).await?;
    }
    story.tenant(1)?.sees("it runs", "default", "only-of-second", is_running).await.map(drop)
}

async fn kubectl(story: &Story) -> anyhow::Result<()> {
    let mark = story.bed.sup.audit().mark();
    for (i, tenant) in story.tenants.iter().enumerate() {
        let kubectl = story.kubectl(i)?;
        let line = format!("I am of {}", tenant.name);
        // It has said it once at least.
        let logs = kubectl.says(&["logs", "twin", "--tail=1"]).await?;
        ensure!(logs == format!("{line}\n"), "{}: the log is {logs:?}", tenant.name);
        for kubectl in [kubectl.over_spdy(), kubectl] {
            let output = kubectl.fed(&["exec", "-i", "twin", "--", "sh", "-c", "cat; echo $WHOSE; exit 7"], b"heard\n").await?;
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.code() == Some(7) && said == format!("heard\n{}\n", tenant.name), "{}: {output:?}", tenant.name);
            let said = kubectl.start(&["attach", "twin"])?.writes("\n").await?;
            ensure!(said.trim_end() == line, "{}: attach says {said:?}", tenant.name);
            let page = forwarded(&kubectl).await?;
            ensure!(page.trim_end().ends_with(&tenant.name), "{}: through port-forward comes {page:?}", tenant.name);
        }
    }
    audited(story, mark).await
}

/// What the page behind a forwarded port is.
async fn forwarded(kubectl: &Kubectl) -> anyhow::Result<String> {
    let mut forward = kubectl.start(&["port-forward", "twin", ":8080"])?;
    forward.writes("Forwarding from 127.0.0.1:").await?;
    let port = forward.writes(" ").await?;
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port.trim().parse()?)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        anyhow::Ok(page)
    };
    timeout(SOON, exchange).await.context("no answer through the port")?
}

/// Every call about a Pod was the tenant's own, by a credential of its own; vn-agent itself asked for tokens alone.
async fn audited(story: &Story, mark: e2e::audit::Mark) -> anyhow::Result<()> {
    let of_pods = ["log", "exec", "attach", "portforward"];
    let mut credentials = Vec::new();
    for tenant in &story.tenants {
        let (namespace, user) = (tenant.namespace_below("default"), format!("system:serviceaccount:vc-writers:{}", tenant.id.writer()));
        let calls = eventually(format!("{}: the audit log tells all", tenant.name), SOON, async || {
            let calls = story.bed.sup.audit().since(mark)?;
            let calls = calls.filter(|call| call.namespace == namespace && of_pods.contains(&call.subresource.as_str()));
            let all = of_pods.iter().all(|of| calls.0.iter().any(|call| call.subresource == *of && call.is_successful()));
            Ok(Seen::when(all, calls))
        })
        .await?;
        let others = calls.filter(|call| call.user != user || call.name != "twin");
        ensure!(others.is_empty(), "{}: {others:?}", tenant.name);
        credentials.push(calls.credentials());
    }
    let [first, second] = &credentials[..] else { anyhow::bail!("there are not two tenants") };
    ensure!(!first.is_empty() && first.is_disjoint(second), "credentials {first:?} and {second:?}");
    let agent = format!("system:serviceaccount:{}:{}", agents::IDENTITY.0, agents::IDENTITY.1);
    let own = story.bed.sup.audit().since(mark)?.filter(|call| call.user == agent && call.resource != "virtualclusters");
    ensure!(!own.is_empty() && own.0.iter().all(e2e::audit::Call::is_token), "vn-agent itself asked for {own:?}");
    Ok(())
}

/// Whether an answer is the log of the tenant's own Pod.
fn is_own_log(answer: &Answer, tenant: &Actor) -> bool {
    answer.status() == 200 && answer.text.contains(&format!("I am of {}\n", tenant.name))
}

async fn strangers(story: &Story) -> anyhow::Result<()> {
    let (first, second) = (story.tenant(0)?, story.tenant(1)?);
    let caller = story.agent(0)?.caller(&story.bed, 0)?;
    let own = caller.get(OWN_LOG).await?;
    ensure!(is_own_log(&own, first), "its own log is {own:?}");
    for place in [
        "default/only-of-second".to_owned(),
        "default/stray".to_owned(),
        format!("{OF_THE_PLATFORM}/plumbing"),
        format!("{}/twin", second.namespace_below("default")),
        format!("{}/twin", first.namespace_below("default")),
    ] {
        let answer = caller.get(&format!("/containerLogs/{place}/main")).await?;
        ensure!(answer.status() == 404 && answer.text.contains("no Pod of that name"), "{place}: {answer:?}");
    }
    // The API server itself lets the one tenant's identity no further than its own.
    let path = story.bed.dir().join("writer.kubeconfig");
    write(&path, &story.bed.sup.kubeconfig_of("vc-writers", first.id.writer().as_str()).await?)?;
    let writer = Kubectl::new(story.bed.programs().kubectl(), &path);
    for (namespace, name) in [(second.namespace_below("default"), "twin"), (OF_THE_PLATFORM.to_owned(), "plumbing")] {
        let refused = writer.fails(&["-n", &namespace, "logs", name]).await?;
        ensure!(refused.contains("forbidden"), "{namespace}/{name}: {refused}");
    }
    Ok(())
}

async fn pages(story: &Story) -> anyhow::Result<()> {
    let caller = story.agent(0)?.caller(&story.bed, 0)?;
    for path in ["/stats/summary", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes", "/pods"] {
        let answer = caller.get(path).await?;
        let says = answer.text.contains("need the kubelet as back end (--backend=kubelet)");
        ensure!(answer.status() == 404 && says, "{path}: {answer:?}");
    }
    Ok(())
}

/// The hop that fails is named; vn-agent goes on by itself.
async fn down(story: &Story) -> anyhow::Result<()> {
    let (server, kubectl) = (&story.bed.sup.api_server, story.kubectl(0)?);
    let verbs = [&["logs", "twin"][..], &["exec", "twin", "--", "true"], &["attach", "twin"]];
    server.kill()?;
    for verb in verbs {
        let said = kubectl.fails(verb).await?;
        let hop = said.split_once("vn-agent on node machine-0: ").map(|(_, why)| why);
        let known = [
            "no answer from the super cluster's API server",
            "could not reach the super cluster's API server",
            "the connection to the super cluster's API server broke",
        ];
        ensure!(hop.is_some_and(|why| known.iter().any(|begin| why.starts_with(begin))), "{verb:?}: {said:?}");
        ensure!(!said.contains(story.bed.sup.server().trim_start_matches("https://")), "where it is, is nobody's business: {said:?}");
    }
    ensure!(story.agent(0)?.is_alive().await, "/livez says that vn-agent is to be ended");
    server.start_again()?;
    story.bed.sup.wait_ready().await?;
    let line = format!("I am of {}\n", story.tenant(0)?.name);
    eventually("it is reached again", SOON, async || {
        let log = kubectl.output(&["logs", "twin", "--tail=1"]).await?;
        Ok(Seen::when(log.stdout == line.as_bytes(), log))
    })
    .await?;
    server.pause()?;
    let said = kubectl.fails(&["logs", "twin"]).await;
    server.resume()?;
    let said = said?;
    ensure!(said.contains("vn-agent on node machine-0: no answer from the super cluster's API server"), "{said:?}");
    Ok(())
}

/// Without a word about the back end, the credential for the kubelet decides.
async fn chosen(story: &mut Story) -> anyhow::Result<()> {
    for (backend, who, has_pages) in [(Backend::None, "api-server", false), (Backend::Kubelet, "kubelet", true)] {
        story.agents.clear();
        let options = AgentOptions { backend, ..AgentOptions::default() };
        let agent = AgentProcess::start(&story.bed, story.real.first().context("there is no node")?, &options).await?;
        let text = std::fs::read_to_string(agent.process.log_path())?;
        let said = text.lines().rfind(|line| line.contains("who answers")).unwrap_or_default();
        ensure!(said.contains(&format!("\"{who}\"")), "{backend:?}: {said}");
        let caller = agent.caller(&story.bed, 0)?;
        let own = caller.get(OWN_LOG).await?;
        ensure!(is_own_log(&own, story.tenant(0)?), "{backend:?}: the log is {own:?}");
        let page = caller.get("/metrics/resource").await?;
        ensure!((page.status() == 200) == has_pages, "{backend:?}: {page:?}");
        story.agents.push(agent);
    }
    Ok(())
}
