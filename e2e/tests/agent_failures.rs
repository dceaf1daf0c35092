//! vn-agent, the kubelet behind it and the credentials of both fail, change and end while sessions run.
use std::{collections::BTreeSet, process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use e2e::{
    agents::{AgentOptions, AgentProcess},
    dial::{Caller, Channels},
    images::TOOLS,
    kubectl::Kubectl,
    machine,
    story::{Plot, Story, chapter, is_running, pod},
    wait::{Seen, eventually},
};
use futures::{StreamExt as _, future::try_join_all, stream};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How soon whoever has a session must know that it is over.
const PROMPT: Duration = Duration::from_secs(20);

/// Says again what it hears.
const ECHO: &str = "/exec/default/echo/main?command=cat&input=1&output=1";
const PORT: &str = "/portForward/default/echo";
const FOLLOW: &str = "/containerLogs/default/echo/main?follow=true";

#[tokio::test(flavor = "multi_thread")]
async fn r53_sessions_end_cleanly_with_vn_agent() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::with_agents("agent-ends", 2, 1);
    plot.agents.as_mut().unwrap().args = vec!["--drain-timeout=9s".to_owned()];
    let mut story = Story::play(plot).await.unwrap();
    echoes(&story).await.unwrap();
    story
        .tell(vec![chapter("killed under 50 sessions: all end with an error, and nothing is left of them", killed(&story))])
        .await
        .unwrap();
    story
        .tell(vec![chapter("asked to end: who ends in time ends well, the rest is cut, nobody new comes in", drained(&story))])
        .await
        .unwrap();
    story.agents.clear();
    story.tell(vec![chapter("sessions have bounds: a tenant's, all, silence and life", bounded(&story))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_hangs_under_a_thousand_sessions_costs_nothing() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::with_agents("agent-hangs", 1, 1);
    plot.agents.as_mut().unwrap().args = vec!["--tenant-sessions=2000".to_owned(), "--sessions=3000".to_owned()];
    let story = Story::play(plot).await.unwrap();
    echoes(&story).await.unwrap();
    story.tell(vec![chapter("a kubelet hangs under 1,000 sessions", hung(&story))]).await.unwrap();
}

/// A Pod `default/echo` of each tenant that says something now and then and serves a page.
async fn echoes(story: &Story) -> anyhow::Result<()> {
    let script = "httpd -p 8080 -h /; while :; do echo tick; sleep 1; done";
    let container = json!({ "name": "main", "image": TOOLS, "command": ["sh", "-c", script] });
    for tenant in &story.tenants {
        tenant.apply(&pod("echo", &json!({}), &json!({ "terminationGracePeriodSeconds": 1, "containers": [container] }))).await?;
    }
    for tenant in &story.tenants {
        tenant.sees("it runs", "default", "echo", is_running).await?;
    }
    Ok(())
}

/// A kubectl whose session is up.
struct Running {
    what: &'static str,
    child: Child,
}

impl Running {
    /// Starts one, says `input` to it, and waits for a line that holds `expected`.
    async fn start(what: &'static str, mut command: Command, input: &str, expected: &str) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).spawn().context("could not run kubectl")?;
        child.stdin.as_mut().context("no input")?.write_all(input.as_bytes()).await?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let heard = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains(expected) {
                    return Ok(());
                }
            }
            bail!("its output ended")
        };
        let heard = timeout(Duration::from_mins(1), heard).await.context("nothing is heard").flatten();
        if let Err(error) = heard {
            let _ = child.start_kill();
            let complaint = child.wait_with_output().await.map(|output| String::from_utf8_lossy(&output.stderr).into_owned())?;
            return Err(error.context(format!("{what}: {complaint}")));
        }
        // What else it writes is not of interest, and must not stop it.
        child.stdout = Some(lines.into_inner().into_inner());
        Ok(Self { what, child })
    }

    /// Waits for its end: its exit code, all that is left of its output, and what it complained of.
    async fn ends(mut self, patience: Duration) -> anyhow::Result<(Option<i32>, String, String)> {
        let _input = self.child.stdin.take();
        let output = timeout(patience, self.child.wait_with_output()).await;
        let output = output.with_context(|| format!("{} does not end within {patience:?}", self.what))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    }
}

/// Waits until the stream has ended.
async fn ended(stream: &mut Channels, patience: Duration) -> anyhow::Result<String> {
    timeout(patience, stream.rest()).await.with_context(|| format!("the stream does not end within {patience:?}"))
}

/// Descriptors of a tenant's API server and of the kubelet.
fn descriptors(story: &Story) -> anyhow::Result<[usize; 2]> {
    Ok([story.bed.tenant(0)?.api_server.descriptors(), story.real.first().context("a node")?.kubelet_descriptors()?])
}

/// How each kind of kubectl ended: with which code, complaining of what.
type Complaints = BTreeSet<(&'static str, Option<i32>, String)>;

async fn complaints(sessions: Vec<Running>) -> anyhow::Result<Complaints> {
    let mut complaints = BTreeSet::new();
    for session in sessions {
        let what = session.what;
        let (code, _, complaint) = session.ends(PROMPT).await?;
        complaints.insert((what, code, complaint.lines().last().unwrap_or_default().to_owned()));
    }
    Ok(complaints)
}

/// Starts one of three kinds.
async fn start(n: usize, kubectl: &Kubectl, namespace: &str) -> anyhow::Result<Running> {
    match n % 7 {
        0..=2 => Running::start("exec", kubectl.command(&["-n", namespace, "exec", "-i", "echo", "--", "cat"]), "ping\n", "ping").await,
        3..=5 => Running::start("logs", kubectl.command(&["-n", namespace, "logs", "-f", "--tail=1", "echo"]), "", "tick").await,
        _ => {
            Running::start("port-forward", kubectl.command(&["-n", namespace, "port-forward", "echo", ":8080"]), "", "Forwarding from")
                .await
        }
    }
}

async fn killed(story: &Story) -> anyhow::Result<()> {
    let (kubectl, agent) = (story.kubectl(0)?, story.agent(0)?);
    let caller = agent.caller(&story.bed, 0)?;
    kubectl.says(&["exec", "echo", "--", "true"]).await?;
    sleep(Duration::from_secs(2)).await;
    let before = descriptors(story)?;
    let sessions: Vec<_> = stream::iter((0..35).map(|n| start(n, &kubectl, "default"))).buffer_unordered(4).collect().await;
    let sessions = sessions.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut raw = try_join_all((0..15).map(|_| caller.open(ECHO))).await?;
    for stream in &mut raw {
        stream.lives().await?;
    }
    let during = descriptors(story)?;
    ensure!(during[0] >= before[0] + 35 && during[1] >= before[1] + 50, "sessions are not seen: {before:?}, then {during:?}");
    agent.process.kill()?;
    let killed = Instant::now();
    for stream in &mut raw {
        let last = ended(stream, PROMPT).await?;
        ensure!(last.is_empty(), "a stream that broke off says {last:?}");
    }
    let complaints = complaints(sessions).await?;
    eprintln!("    all ended within {:.1} s: {complaints:?}", killed.elapsed().as_secs_f64());
    eventually("no descriptor is left", Duration::from_secs(30), async || {
        let after = descriptors(story)?;
        Ok(Seen::when(after[0] <= before[0] + 2 && after[1] <= before[1] + 2, (before, during, after)))
    })
    .await?;
    let refused = kubectl.fails(&["exec", "echo", "--", "true"]).await?;
    ensure!(refused.contains("connection refused"), "{refused}");
    agent.process.start_again()?;
    agent.wait_ready().await?;
    ensure!(kubectl.says(&["exec", "echo", "--", "echo", "again"]).await? == "again\n");
    ensure!(kubectl.says(&["logs", "--tail=1", "echo"]).await? == "tick\n");
    caller.open(ECHO).await?.lives().await?;
    as_of_a_kubelet(story, &complaints).await
}

/// kubectl ends as it does where there is no vn-agent and the kubelet itself is killed.
async fn as_of_a_kubelet(story: &Story, complaints: &Complaints) -> anyhow::Result<()> {
    let (kubectl, node) = (story.bed.sup.kubectl(story.bed.programs()), story.real.first().context("a node")?);
    let below = story.tenant(0)?.namespace_below("default");
    let sessions = try_join_all([0, 3, 6].map(|n| start(n, &kubectl, &below))).await?;
    node.kubelet.kill()?;
    let expected = self::complaints(sessions).await?;
    node.kubelet.start_again()?;
    // The node counts as Ready all the while.
    let caller = story.agent(0)?.caller(&story.bed, 0)?;
    eventually("the kubelet knows the Pod again", Duration::from_mins(1), async || {
        let answer = caller.get("/pods").await;
        Ok(Seen::when(answer.status() == 200 && answer.text.contains("\"echo\""), answer))
    })
    .await?;
    ensure!(*complaints == expected, "through vn-agent {complaints:?}, without it {expected:?}");
    Ok(())
}

async fn drained(story: &Story) -> anyhow::Result<()> {
    let (kubectl, agent) = (story.kubectl(0)?, story.agent(0)?);
    let caller = agent.caller(&story.bed, 0)?;
    let ends = ["exec", "echo", "--", "sh", "-c", "echo begun; sleep 4; echo done; exit 7"];
    let ends = Running::start("exec that ends", kubectl.command(&ends), "", "begun").await?;
    let stays = Running::start("exec that stays", kubectl.command(&["exec", "-i", "echo", "--", "cat"]), "ping\n", "ping").await?;
    let logs = Running::start("logs that stay", kubectl.command(&["logs", "-f", "--tail=1", "echo"]), "", "tick").await?;
    let mut raw = caller.open(ECHO).await?;
    let mut idle = caller.connect().await?;
    let begin = Instant::now();
    let stop = agent.process.stop();
    let meanwhile = async {
        let gone =
            eventually("nobody new comes in", Duration::from_secs(5), async || Ok(Seen::when(caller.connect().await.is_err(), ()))).await;
        gone?;
        let mut nothing = [0];
        let silent = timeout(Duration::from_secs(3), idle.read(&mut nothing)).await.context("a connection without a session is kept")?;
        ensure!(!matches!(silent, Ok(1..)), "something was said");
        let refused = kubectl.fails(&["exec", "echo", "--", "true"]).await?;
        ensure!(refused.contains("connection refused"), "{refused}");
        raw.lives().await.context("a session goes on")?;
        let (code, output, complaint) = ends.ends(PROMPT).await?;
        ensure!(code == Some(7) && output.ends_with("done\n"), "{code:?} {output:?} {complaint:?}");
        ensure!(begin.elapsed() < Duration::from_secs(7), "it ended by itself");
        ended(&mut raw, PROMPT).await?;
        let cut = begin.elapsed();
        ensure!(cut > Duration::from_secs(6) && cut < Duration::from_secs(10), "the rest is cut after {cut:?}");
        let (code, _, complaint) = stays.ends(PROMPT).await?;
        eprintln!("    exec that is cut: {code:?} {complaint:?}");
        let (code, _, complaint) = logs.ends(PROMPT).await?;
        eprintln!("    logs that are cut: {code:?} {complaint:?}");
        anyhow::Ok(())
    };
    let (stopped, meanwhile) = tokio::join!(stop, meanwhile);
    stopped?;
    meanwhile?;
    let status = agent.process.exit_status().context("it runs on")?;
    ensure!(status.success(), "vn-agent ended with {status}");
    Ok(())
}

async fn bounded(story: &Story) -> anyhow::Result<()> {
    let args = ["--tenant-sessions=2", "--sessions=3", "--session-idle=4s", "--session-total=9s"].map(str::to_owned).to_vec();
    let node = story.real.first().context("a node")?;
    let agent = AgentProcess::start(&story.bed, node, &AgentOptions { args, ..AgentOptions::default() }).await?;
    let (a, b) = (agent.caller(&story.bed, 0)?, agent.caller(&story.bed, 1)?);
    let (mut silent, mut lively) = (a.open(ECHO).await?, a.open(ECHO).await?);
    let begin = Instant::now();
    let Err(third) = a.stream(ECHO).await? else { bail!("a third session of a tenant") };
    ensure!(third.status() == 429 && third.text.contains("of sessions on this node: this tenant has as many"), "{}", third.text);
    let said = story.kubectl(0)?.fails(&["exec", "echo", "--", "true"]).await?;
    ensure!(said.contains("of sessions on this node: this tenant has as many as one may have (2)"), "{said}");
    let mut other = b.open(ECHO).await?;
    let Err(fourth) = b.stream(ECHO).await? else { bail!("a fourth session of all") };
    ensure!(
        fourth.status() == 429 && fourth.text.contains("of sessions on this node: there are as many as there may be"),
        "{}",
        fourth.text
    );
    let silence = async {
        ended(&mut silent, PROMPT).await?;
        let after = begin.elapsed();
        ensure!(after > Duration::from_secs(3) && after < Duration::from_secs(8), "silence ended after {after:?}");
        Ok(())
    };
    let life = async {
        while lively.lives().await.is_ok() {
            sleep(Duration::from_millis(500)).await;
        }
        let after = begin.elapsed();
        ensure!(after > Duration::from_secs(8) && after < Duration::from_secs(14), "life ended after {after:?}");
        anyhow::Ok(())
    };
    tokio::try_join!(silence, life)?;
    ended(&mut other, PROMPT).await?;
    a.open(ECHO).await?.lives().await?;
    eventually("they are counted", PROMPT, async || {
        let mut counted = Vec::new();
        for outcome in ["idle", "total"] {
            counted.push(agent.metric("vc_agent_sessions_total", &format!("outcome=\"{outcome}\"")).await?);
        }
        Ok(Seen::when(counted == [2.0, 1.0], counted))
    })
    .await
    .map(drop)
}

/// Memory and descriptors of vn-agent.
#[derive(Clone, Copy, Debug)]
struct Cost {
    kib: u64,
    descriptors: usize,
}

impl Cost {
    fn of(agent: &AgentProcess) -> Self {
        Self { kib: agent.process.rss_bytes() / 1024, descriptors: agent.process.descriptors() }
    }
}

/// What a request is answered by, and how soon.
async fn refused_as_hung(n: u8, caller: &Caller) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    // Pages about the node have a bound of their own: a few at once.
    let paths = ["/containerLogs/default/echo/main?tailLines=1", "/pods"];
    for path in paths.into_iter().take(if n < 4 { 2 } else { 1 }) {
        let answer = caller.get(path).await;
        ensure!(answer.status() == 504 && answer.text.contains("the kubelet did not answer within"), "{path}: {}", answer.text);
    }
    let Err(answer) = caller.stream(ECHO).await? else { bail!("a stream begins at a kubelet that hangs") };
    ensure!(answer.status() == 504 && answer.text.contains("\"reason\":\"Timeout\""), "{}", answer.text);
    Ok(begin.elapsed())
}

async fn hung(story: &Story) -> anyhow::Result<()> {
    let (agent, node) = (story.agent(0)?, story.real.first().context("a node")?);
    let caller = agent.caller(&story.bed, 0)?;
    caller.open(ECHO).await?.lives().await?;
    let before = Cost::of(agent);
    let idle: Vec<_> = stream::iter(0..955).map(|_| caller.idle(PORT)).buffer_unordered(16).collect().await;
    let idle = idle.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut execs: Vec<_> = stream::iter(0..40).map(|_| caller.open(ECHO)).buffer_unordered(4).collect().await;
    let mut logs = Vec::new();
    // A kubelet that follows a log takes a watch of files, of which a machine has few.
    for _ in 0..5 {
        let mut log = caller.connect().await?;
        log.write_all(format!("GET {FOLLOW} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).await?;
        ensure!(timeout(PROMPT, log.read(&mut [0; 512])).await?? > 0, "a log says nothing");
        logs.push(log);
    }
    let mut floods: Vec<Channels> = execs.split_off(20).into_iter().collect::<anyhow::Result<_>>()?;
    let mut execs: Vec<Channels> = execs.into_iter().collect::<anyhow::Result<_>>()?;
    for stream in execs.iter_mut().chain(&mut floods) {
        stream.lives().await?;
    }
    let full = Cost::of(agent);
    ensure!(agent.metric("vc_agent_sessions_running", "").await? >= 1000.0, "{}", agent.metrics().await?);

    node.kubelet.pause()?;
    let begin = Instant::now();
    let mut most = full;
    // Twenty push all they can, twelve ask anew, until half a minute is over.
    let push = floods.iter_mut().map(|stream| async move {
        let block = vec![b'x'; 32 * 1024];
        while begin.elapsed() < Duration::from_secs(28) {
            let _ = timeout(Duration::from_secs(1), stream.send(0, &block)).await;
        }
    });
    // The log of a container that says nothing begins late: it is given up by what else the kubelet leaves unanswered.
    let follow = async {
        let answer = caller.get(FOLLOW).await;
        ensure!(answer.status() == 504 && answer.text.contains("the kubelet did not answer within"), "{FOLLOW}: {}", answer.text);
        anyhow::Ok(())
    };
    let caller = &caller;
    let ask = (0..12).map(|n| async move {
        let mut slowest = Duration::ZERO;
        while begin.elapsed() < Duration::from_secs(20) {
            slowest = slowest.max(refused_as_hung(n, caller).await?);
        }
        anyhow::Ok(slowest)
    });
    let watch = async {
        while begin.elapsed() < Duration::from_secs(28) {
            let now = Cost::of(agent);
            most = Cost { kib: most.kib.max(now.kib), descriptors: most.descriptors.max(now.descriptors) };
            sleep(Duration::from_millis(250)).await;
        }
    };
    let (asked, followed, _, ()) = tokio::join!(try_join_all(ask), follow, futures::future::join_all(push), watch);
    let (at_end, lasted) = (Cost::of(agent), begin.elapsed());
    node.kubelet.resume()?;
    followed?;
    let slowest = asked?.into_iter().max().unwrap_or_default();
    eprintln!(
        "    before {before:?}; at 1,000 {full:?}; hung for {lasted:.1?}: at most {most:?}, at its end {at_end:?}; slowest three refusals {slowest:.1?}"
    );
    ensure!(at_end.descriptors <= full.descriptors + 8, "descriptors are left");
    ensure!(most.descriptors <= full.descriptors + 40, "descriptors grow");
    // What the twenty push waits in windows; the rest is what the twelve cost.
    ensure!(most.kib <= full.kib + 8 * 1024, "memory grows");

    for stream in &mut execs {
        stream.lives().await.context("after the kubelet went on")?;
    }
    for log in &mut logs {
        ensure!(timeout(PROMPT, log.read(&mut [0; 512])).await?? > 0, "a log says nothing any more");
    }
    caller.open(ECHO).await?.lives().await?;
    node.wait_ready(&story.bed).await?;
    drop((idle, execs, logs, floods));
    let after = eventually("all is given back", Duration::from_mins(1), async || {
        let now = Cost::of(agent);
        Ok(Seen::when(now.descriptors <= before.descriptors + 8, now))
    });
    eprintln!("    after {:?}", after.await?);
    Ok(())
}
