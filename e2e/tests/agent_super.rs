//! vn-agent where nobody wants credentials of kubelets: the super cluster's API server answers, to each tenant's own identity.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use e2e::{
    agents::{self, AgentOptions, AgentProcess, Backend, authority},
    images::TOOLS,
    machine,
    pki::{Credentials, Identity, kubeconfig, write},
    plane,
    story::{Plot, Story, chapter, is_running, pod},
    wait::{Seen, eventually},
};
use http::Request;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

/// For anything that a person waits for at a prompt.
const SOON: Duration = Duration::from_secs(30);

/// How kubectl is told which transport to use for exec and attach, and for port-forward.
const TRANSPORTS: [&str; 2] = ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"];

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
    let spaces: Api<Namespace> = Api::all(story.bed.sup.client());
    let space: Namespace = serde_json::from_value(json!({ "metadata": { "name": "of-the-platform" } }))?;
    spaces.create(&PostParams::default(), &space).await?;
    // Also one that somebody has put where the first tenant's Pods are.
    for (namespace, name) in [("of-the-platform", "plumbing"), (story.tenant(0)?.namespace_below("default").as_str(), "stray")] {
        let pods: Api<Pod> = Api::namespaced(story.bed.sup.client(), namespace);
        let spec = json!({ "automountServiceAccountToken": false, "containers": [{ "name": "main", "image": TOOLS }] });
        let theirs: Pod = serde_json::from_value(pod(name, &json!({}), &spec))?;
        eventually(format!("{namespace} takes Pods"), SOON, async || Ok(Seen::Done(pods.create(&PostParams::default(), &theirs).await?)))
            .await?;
        eventually(format!("{name} runs"), Duration::from_mins(1), async || {
            let pod = pods.get(name).await?;
            Ok(Seen::when(is_running(&pod), pod.status))
        })
        .await?;
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
        for websockets in ["true", "false"] {
            let command = |args: &[&str]| {
                let mut command = kubectl.command(args);
                command.envs(TRANSPORTS.map(|name| (name, websockets)));
                command
            };
            let script = "cat; echo $WHOSE; exit 7";
            let mut child = command(&["exec", "-i", "twin", "--", "sh", "-c", script]).stdin(Stdio::piped()).spawn()?;
            child.stdin.take().context("kubectl has no input")?.write_all(b"heard\n").await?;
            let output = timeout(SOON, child.wait_with_output()).await.context("exec does not end")??;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let (code, complaint) = (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned());
            ensure!(code == Some(7) && said == format!("heard\n{}\n", tenant.name), "{}: {code:?} {said:?} {complaint}", tenant.name);
            let said = first_line(command(&["attach", "twin"])).await?;
            ensure!(said == line, "{}: attach says {said:?}", tenant.name);
            let page = forwarded(command(&["port-forward", "twin", ":8080"])).await?;
            ensure!(page.trim_end().ends_with(&tenant.name), "{}: through port-forward comes {page:?}", tenant.name);
        }
    }
    audited(story, mark).await
}

/// What a command writes first.
async fn first_line(mut command: tokio::process::Command) -> anyhow::Result<String> {
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
    let line = timeout(SOON, lines.next_line()).await.context("it says nothing")??;
    child.start_kill()?;
    line.with_context(|| format!("{command:?} ended without a word"))
}

/// What the page behind a forwarded port is.
async fn forwarded(mut command: tokio::process::Command) -> anyhow::Result<String> {
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
    let line = timeout(SOON, lines.next_line()).await.context("it says nothing")??.context("it ended without a word")?;
    let port = line.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:")).with_context(|| format!("it says {line:?}"))?;
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port.parse()?)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        anyhow::Ok(page)
    };
    let page = timeout(SOON, exchange).await.context("no answer through the port")??;
    child.start_kill()?;
    Ok(page)
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

/// Somebody who shows vn-agent what the API server of tenant `i` does, and asks what no API server asks.
async fn caller(story: &Story, i: usize, agent: &AgentProcess) -> anyhow::Result<Client> {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()));
    let pair = story.bed.tenant(i)?.kubelet_client();
    let identity = Identity { certificate: read(pair.with_extension("crt"))?, key: read(pair.with_extension("key"))? };
    let ca = read(authority(story.bed.dir()).with_extension("crt"))?;
    let path = story.bed.dir().join(format!("caller-{i}.kubeconfig"));
    write(&path, &kubeconfig(&format!("https://{}", agent.address()), &ca, &Credentials::Certificate(&identity)))?;
    plane::client_that_asks_once(&path).await
}

async fn asked(client: &Client, path: &str) -> Result<String, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map_err(|error| format!("{error:?}"))
}

async fn strangers(story: &Story) -> anyhow::Result<()> {
    let (first, second) = (story.tenant(0)?, story.tenant(1)?);
    let caller = caller(story, 0, story.agent(0)?).await?;
    let own = asked(&caller, "/containerLogs/default/twin/main?tailLines=1").await;
    ensure!(own.as_deref() == Ok(&format!("I am of {}\n", first.name)), "its own log is {own:?}");
    for place in [
        "default/only-of-second".to_owned(),
        "default/stray".to_owned(),
        "of-the-platform/plumbing".to_owned(),
        format!("{}/twin", second.namespace_below("default")),
        format!("{}/twin", first.namespace_below("default")),
    ] {
        let answer = asked(&caller, &format!("/containerLogs/{place}/main")).await;
        let refused = answer.as_ref().err().is_some_and(|error| error.contains("404") && error.contains("no Pod of that name"));
        ensure!(refused, "{place}: {answer:?}");
    }
    // The API server itself lets the one tenant's identity no further than its own.
    let path = story.bed.dir().join("writer.kubeconfig");
    write(&path, &story.bed.sup.kubeconfig_of("vc-writers", first.id.writer().as_str()).await?)?;
    let writer = e2e::kubectl::Kubectl::new(story.bed.programs().kubectl(), &path);
    for (namespace, name) in [(second.namespace_below("default"), "twin"), ("of-the-platform".to_owned(), "plumbing")] {
        let refused = writer.fails(&["-n", &namespace, "logs", name]).await?;
        ensure!(refused.contains("forbidden"), "{namespace}/{name}: {refused}");
    }
    Ok(())
}

async fn pages(story: &Story) -> anyhow::Result<()> {
    let caller = caller(story, 0, story.agent(0)?).await?;
    for path in ["/stats/summary", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes", "/pods"] {
        let answer = asked(&caller, path).await;
        let says = |error: &String| error.contains("404") && error.contains("need the kubelet as back end (--backend=kubelet)");
        ensure!(answer.as_ref().err().is_some_and(says), "{path}: {answer:?}");
    }
    Ok(())
}

/// Without a word about the back end, the credential for the kubelet decides.
async fn chosen(story: &mut Story) -> anyhow::Result<()> {
    let log = "/containerLogs/default/twin/main?tailLines=1";
    for (backend, who, has_pages) in [(Backend::None, "api-server", false), (Backend::Kubelet, "kubelet", true)] {
        story.agents.clear();
        let options = AgentOptions { backend, ..AgentOptions::default() };
        let agent = AgentProcess::start(&story.bed, story.real.first().context("there is no node")?, &options).await?;
        let text = std::fs::read_to_string(agent.process.log_path())?;
        let said = text.lines().rfind(|line| line.contains("who answers")).unwrap_or_default();
        ensure!(said.contains(&format!("\"{who}\"")), "{backend:?}: {said}");
        let caller = caller(story, 0, &agent).await?;
        let own = asked(&caller, log).await;
        ensure!(own.as_deref() == Ok(&format!("I am of {}\n", story.tenant(0)?.name)), "{backend:?}: the log is {own:?}");
        let page = asked(&caller, "/metrics/resource").await;
        ensure!(page.is_ok() == has_pages, "{backend:?}: {page:?}");
        story.agents.push(agent);
    }
    Ok(())
}
