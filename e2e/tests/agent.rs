//! What a tenant's kubectl does with Pods in real containers, through vn-agent: each tenant with its own, attach, run, debug, errors.

use anyhow::{Context as _, ensure};
use e2e::{
    images::TOOLS,
    kubectl::Kubectl,
    machine,
    story::{Actor, PATIENCE, Plot, Story, chapter, is_running, pod},
    wait::{Seen, eventually},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Calls of each kind and tenant.
const CALLS: usize = 25;

/// So many of all of them at once: each is a kubectl of its own, and more would wait for cores rather than for vn-agent.
const AT_ONCE: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_through_vn_agent() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::with_agents("agent", 2, 1)).await.unwrap();
    let chapters = vec![
        chapter("of two Pods of one name each tenant reaches its own", own(&story)),
        chapter("who attaches to a process talks with it", attach(&story)),
        chapter("a Pod that is run for one command gives its output and is gone", run(&story)),
        chapter("a debugger beside a container sees its processes", debug(&story)),
        chapter("a Pod that was made again under its name is reached at once", again(&story)),
        chapter("what cannot be is said as kubectl says it", errors(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("many at once reach their own", crowd(&story))]).await.unwrap();
    story.tell(vec![chapter("every session was logged and counted, as it was", accounts(&story))]).await.unwrap();
    story.tell(vec![chapter("of a vn-agent that is down kubectl says so", down(&story))]).await.unwrap();
}

/// A container that runs a script; `more` is merged into it.
fn container(name: &str, script: &str, more: &Value) -> Value {
    let mut container = json!({ "name": name, "image": TOOLS, "command": ["sh", "-c", script] });
    if let (Some(container), Some(more)) = (container.as_object_mut(), more.as_object()) {
        container.extend(more.clone());
    }
    container
}

async fn start(tenant: &Actor, name: &str, container: Value) -> anyhow::Result<()> {
    tenant.apply(&pod(name, &json!({}), &json!({ "restartPolicy": "Never", "containers": [container] }))).await?;
    tenant.sees("it runs", "default", name, is_running).await.map(drop)
}

async fn own(story: &Story) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        let whose = json!([{ "name": "WHOSE", "value": tenant.name }]);
        let twin = container("main", &format!("echo I am of {}; exec sleep 1000000", tenant.name), &json!({ "env": whose }));
        start(tenant, "twin", twin).await?;
    }
    for (i, tenant) in story.tenants.iter().enumerate() {
        let kubectl = story.kubectl(i)?;
        is_read(&kubectl, tenant).await?;
        is_entered(&kubectl, tenant).await?;
    }
    Ok(())
}

async fn is_read(kubectl: &Kubectl, tenant: &Actor) -> anyhow::Result<()> {
    let logs = kubectl.says(&["logs", "twin"]).await?;
    ensure!(logs.trim() == format!("I am of {}", tenant.name), "{}: the log is {logs:?}", tenant.name);
    Ok(())
}

async fn is_entered(kubectl: &Kubectl, tenant: &Actor) -> anyhow::Result<()> {
    let said = kubectl.says(&["exec", "twin", "--", "sh", "-c", "echo $WHOSE"]).await?;
    ensure!(said.trim() == tenant.name, "{}: exec says {said:?}", tenant.name);
    Ok(())
}

async fn crowd(story: &Story) -> anyhow::Result<()> {
    let kubectls = [story.kubectl(0)?, story.kubectl(1)?];
    let turns = (0..CALLS).flat_map(|_| story.tenants.iter().zip(&kubectls));
    let calls = turns.map(async |(tenant, kubectl)| {
        is_read(kubectl, tenant).await?;
        is_entered(kubectl, tenant).await
    });
    stream::iter(calls).buffer_unordered(AT_ONCE).try_collect().await
}

async fn attach(story: &Story) -> anyhow::Result<()> {
    let (tenant, kubectl) = (story.tenant(0)?, story.kubectl(0)?);
    let script = "while read line; do echo heard $line; done; echo end of input";
    let listens = container("main", script, &json!({ "stdin": true, "stdinOnce": true }));
    start(tenant, "listens", listens).await?;
    let mut attached = kubectl.start(&["attach", "-i", "listens"])?;
    attached.types("one\n").await?;
    attached.writes("heard one\n").await?;
    attached.types("two\n").await?;
    attached.writes("heard two\n").await?;
    attached.close_input();
    let (status, rest, errors) = attached.ends().await?;
    ensure!(status.success() && rest == "end of input\n", "{status}: {rest:?} {errors:?}");

    start(tenant, "speaks", container("main", "while [ ! -e /end ]; do echo still here; sleep 0.3; done; echo end", &json!({}))).await?;
    let mut attached = kubectl.over_spdy().start(&["attach", "speaks"])?;
    attached.writes("still here\nstill here\n").await?;
    kubectl.says(&["exec", "speaks", "--", "touch", "/end"]).await?;
    let (status, rest, errors) = attached.ends().await?;
    ensure!(status.success() && rest.ends_with("end\n"), "{status}: {rest:?} {errors:?}");

    let shell = container("main", "exec sh", &json!({ "stdin": true, "tty": true }));
    start(tenant, "terminal", shell).await?;
    let mut attached = kubectl.on_terminal(&["attach", "-it", "terminal"], (30, 90)).await?;
    attached.types("\r").await?;
    attached.writes("# ").await?;
    attached.types("stty size; exit\r").await?;
    attached.writes("30 90\r\n").await?;
    let (status, rest, errors) = attached.ends().await?;
    ensure!(status.success(), "{status}: {rest:?} {errors:?}");
    Ok(())
}

async fn run(story: &Story) -> anyhow::Result<()> {
    let (tenant, kubectl) = (story.tenant(1)?, story.kubectl(1)?);
    let image = format!("--image={TOOLS}");
    let script = "read line; echo read $line; exit 0";
    let output = kubectl.fed(&["run", "once", &image, "--restart=Never", "-i", "--rm", "--", "sh", "-c", script], b"a line\n").await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("read a line\n") && said.contains("\"once\" deleted"), "{output:?}");
    tenant.gone_everywhere::<Pod>("default", "once").await
}

async fn again(story: &Story) -> anyhow::Result<()> {
    let (tenant, kubectl) = (story.tenant(1)?, story.kubectl(1)?);
    for run in ["first", "second", "third"] {
        start(
            tenant,
            "again",
            container("main", &format!("echo {run}; exec sleep 1000000"), &json!({ "env": [{ "name": "RUN", "value": run }] })),
        )
        .await?;
        let said = kubectl.says(&["exec", "again", "--", "sh", "-c", "echo $RUN"]).await?;
        ensure!(said.trim() == run, "exec says {said:?} in the {run}");
        let log = kubectl.says(&["logs", "again"]).await?;
        ensure!(log.trim() == run, "the log of the {run} is {log:?}");
        kubectl.says(&["delete", "pod", "again", "--now"]).await?;
    }
    Ok(())
}

async fn debug(story: &Story) -> anyhow::Result<()> {
    let (tenant, kubectl) = (story.tenant(0)?, story.kubectl(0)?);
    start(tenant, "ailing", container("main", "echo secret > /of-main; exec sleep 123456", &json!({}))).await?;
    // vn-agent knows the Pod as it was before.
    kubectl.says(&["exec", "ailing", "--", "true"]).await?;
    let image = format!("--image={TOOLS}");
    // The profile that is the default adds a capability, which tenants may not.
    let debug = ["debug", "-it", "ailing", &image, "--target=main", "-c", "debugger", "--profile=baseline", "--", "sh"];
    let mut shell = kubectl.on_terminal(&debug, (24, 80)).await?;
    shell.types("\r").await?;
    shell.writes("# ").await?;
    shell.types("tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/root/of-main\r").await?;
    shell.writes("sleep 123456").await?;
    shell.writes("secret\r\n").await?;
    let beside = kubectl.says(&["exec", "ailing", "-c", "debugger", "--", "sh", "-c", "ls /of-main; hostname"]).await?;
    ensure!(beside == "ailing\n", "exec into the debugger says {beside:?}");
    shell.types("exit 0\r").await?;
    let (status, rest, errors) = shell.ends().await?;
    ensure!(status.success(), "{status}: {rest:?} {errors:?}");
    let log = kubectl.says(&["logs", "ailing", "-c", "debugger"]).await?;
    ensure!(log.contains("sleep 123456"), "the debugger's log is {log:?}");
    Ok(())
}

async fn errors(story: &Story) -> anyhow::Result<()> {
    let (kubectl, other) = (story.kubectl(0)?, story.kubectl(1)?);
    start(story.tenant(0)?, "alone", container("main", "exec sleep 1000000", &json!({}))).await?;
    let container = kubectl.fails(&["exec", "alone", "-c", "nobody", "--", "true"]).await?;
    ensure!(
        container.contains("container nobody is not valid for pod alone") || container.contains("container not found (\"nobody\")"),
        "{container}"
    );
    for verb in [&["logs", "alone"][..], &["exec", "alone", "--", "true"], &["attach", "alone"], &["port-forward", "alone", ":80"]] {
        let said = other.fails(verb).await?;
        ensure!(said.contains("(NotFound): pods \"alone\" not found"), "{verb:?} of another tenant's Pod: {said:?}");
    }
    Ok(())
}

async fn accounts(story: &Story) -> anyhow::Result<()> {
    let sessions = story.agent(0)?.settled().await?;
    for tenant in &story.tenants {
        let uid = tenant.id.uid().to_string();
        let of = |verb: &str| sessions.iter().filter(|one| one.tenant == uid && one.verb == verb && one.pod == "default/twin").count();
        ensure!(of("logs") == CALLS + 1 && of("exec") == CALLS + 1, "{}: {} logs, {} exec", tenant.name, of("logs"), of("exec"));
    }
    let attached: Vec<_> =
        sessions.iter().filter(|one| one.verb == "attach").map(|one| (one.pod.as_str(), one.container.as_str())).collect();
    for pair in [("default/listens", "main"), ("default/terminal", "main"), ("default/once", "once"), ("default/ailing", "debugger")] {
        ensure!(attached.contains(&pair), "{pair:?} is not among {attached:?}");
    }
    let odd: Vec<_> = sessions.iter().filter(|one| !one.is_fine()).collect();
    ensure!(odd.is_empty(), "{odd:?}");
    Ok(())
}

async fn down(story: &Story) -> anyhow::Result<()> {
    let (agent, kubectl) = (story.agent(0)?, story.kubectl(0)?);
    agent.process.kill()?;
    for verb in [&["logs", "twin"][..], &["exec", "twin", "--", "true"], &["attach", "twin"]] {
        let said = kubectl.fails(verb).await?;
        ensure!(said.contains(agent.address()) && said.contains("connection refused"), "{verb:?}: {said:?}");
    }
    agent.process.start_again()?;
    agent.wait_ready().await?;
    // The kubelet is the next hop.
    let kubelet = &story.real.first().context("no node")?.kubelet;
    kubelet.kill()?;
    for verb in [&["logs", "twin"][..], &["exec", "twin", "--", "true"], &["attach", "twin"]] {
        let said = kubectl.fails(verb).await?;
        let hop = said.split_once("vn-agent on node machine-0: ").map(|(_, why)| why);
        // The first finds the connections broken that were kept.
        let known =
            |why: &str| ["could not reach the kubelet", "the connection to the kubelet broke"].iter().any(|begin| why.starts_with(begin));
        ensure!(hop.is_some_and(known), "{verb:?}: {said:?}");
    }
    // No kubelet comes back for a vn-agent that is started again.
    ensure!(agent.is_alive().await, "/livez says that vn-agent is to be ended");
    // One that finds no kubelet is not ready, and says why; a rolling update stops there.
    agent.process.kill()?;
    agent.process.start_again()?;
    eventually("/readyz says no, and why", PATIENCE, async || {
        let why = agent.unready().await?;
        let is_it = |why: &str| why.contains("[-]backend failed: could not reach the kubelet") && why.contains("[+]tenants ok");
        Ok(Seen::when(why.as_deref().is_some_and(is_it), why))
    })
    .await?;
    ensure!(agent.is_alive().await, "/livez says that vn-agent is to be ended");
    kubelet.start_again()?;
    agent.wait_ready().await?;
    eventually("the kubelet is reached again", PATIENCE, async || Ok(Seen::Done(is_entered(&kubectl, story.tenant(0)?).await?))).await
}
