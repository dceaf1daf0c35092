//! Certificates and tokens are replaced and revoked while sessions run: whoever they concern is ended or served by the new ones, nobody else.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use common::keys;
use e2e::{
    agents::{self, AgentOptions, AgentProcess},
    dial::{Caller, Channels},
    images::TOOLS,
    kubectl::{Kubectl, Running},
    machine,
    pki::write,
    story::{Plot, Story, chapter, is_running, pod},
    wait::{Seen, eventually},
};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout},
};

const ECHO: &str = "/exec/default/echo/main?command=cat&input=1&output=1";

/// What vn-agent says when it has listed the tenants.
const LISTED: &str = "\"tenants are known\"";

/// Files are read every ten seconds; a revocation is to be felt within a minute.
const FELT: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn s61_credentials_change_under_running_sessions() {
    if machine::skipped() {
        return;
    }
    let mut story = Story::play(Plot::with_agents("agent-rotation", 2, 1)).await.unwrap();
    // Again, with a list of revoked certificates, which must be there when it starts.
    story.agents.clear();
    let agent = with_list(&story).await.unwrap();
    let scene = Scene::set(&story, agent).await.unwrap();
    story.tell(vec![chapter("what vn-agent shows and who it is is replaced, and nobody notices", scene.own())]).await.unwrap();
    story.tell(vec![chapter("a certificate that is revoked ends its own sessions", scene.revoked())]).await.unwrap();
    story.tell(vec![chapter("one that its VirtualCluster names as revoked, at once", scene.named())]).await.unwrap();
    story.tell(vec![chapter("a certificate that expires ends its own session", scene.expired())]).await.unwrap();
    story
        .tell(vec![chapter("a tenant's API server that has another certificate begins anew, and alone", scene.introduced())])
        .await
        .unwrap();
    story.tell(vec![chapter("the agent CA is replaced by way of both", scene.authority())]).await.unwrap();
    story.tell(vec![chapter("a tenant that is gone has no sessions", scene.gone())]).await.unwrap();
}

fn list(story: &Story) -> PathBuf {
    story.bed.dir().join("agents/revoked.pem")
}

async fn with_list(story: &Story) -> anyhow::Result<AgentProcess> {
    let ca = agents::authority(story.bed.dir()).display().to_string();
    write(&list(story), &agents::issue(&["revoked", "--number", "1", "--ca", &ca]).await?)?;
    let args = vec![format!("--client-crl-file={}", list(story).display())];
    AgentProcess::start(&story.bed, story.real.first().context("a node")?, &AgentOptions { args, ..AgentOptions::default() }).await
}

/// An exec that says what it hears.
async fn echo(kubectl: &Kubectl) -> anyhow::Result<Running> {
    let mut echo = kubectl.start(&["exec", "-i", "echo", "--", "cat"])?;
    lives(&mut echo).await?;
    Ok(echo)
}

async fn lives(echo: &mut Running) -> anyhow::Result<()> {
    echo.types("ping\n").await?;
    let said = echo.writes("\n").await?;
    ensure!(said == "ping\n", "kubectl says {said:?}");
    Ok(())
}

struct Scene<'a> {
    story: &'a Story,
    agent: AgentProcess,
    caller: Caller,
    other: Caller,
}

async fn ends(stream: &mut Channels) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    timeout(FELT, stream.rest()).await.context("the session goes on")?;
    Ok(begin.elapsed())
}

impl<'a> Scene<'a> {
    async fn set(story: &'a Story, agent: AgentProcess) -> anyhow::Result<Self> {
        let container = json!({ "name": "main", "image": TOOLS });
        for tenant in &story.tenants {
            tenant.apply(&pod("echo", &json!({}), &json!({ "terminationGracePeriodSeconds": 1, "containers": [container] }))).await?;
        }
        for tenant in &story.tenants {
            tenant.sees("it runs", "default", "echo", is_running).await?;
        }
        let (caller, other) = (agent.caller(&story.bed, 0)?, agent.caller(&story.bed, 1)?);
        Ok(Self { story, agent, caller, other })
    }

    /// Waits until the agent has read so many changes.
    async fn has_read(&self, changes: f64) -> anyhow::Result<()> {
        eventually("the change is read", FELT, async || {
            let read = self.agent.metric("vc_agent_reloads_total", "outcome=\"ok\"").await?;
            Ok(Seen::when(read >= changes, read))
        })
        .await
        .map(drop)
    }

    async fn reads(&self) -> anyhow::Result<f64> {
        self.agent.metric("vc_agent_reloads_total", "outcome=\"ok\"").await
    }

    /// How often its log has said so.
    fn said(&self, what: &str) -> anyhow::Result<usize> {
        let log = std::fs::read_to_string(self.agent.process.log_path()).context("vn-agent has no log")?;
        Ok(log.lines().filter(|line| line.contains(what)).count())
    }

    /// Waits until so many sessions have ended for their certificate.
    async fn ended_by_certificate(&self, count: f64) -> anyhow::Result<()> {
        eventually("they end for their certificate", FELT, async || {
            let ended = self.by_certificate().await?;
            Ok(Seen::when(ended >= count, ended))
        })
        .await
        .map(drop)
    }

    async fn by_certificate(&self) -> anyhow::Result<f64> {
        self.agent.metric("vc_agent_sessions_total", "outcome=\"certificate\"").await
    }

    async fn issue(&self, args: &[&str], out: &std::path::Path) -> anyhow::Result<()> {
        let out = out.display().to_string();
        agents::issue(&[args, &["--out", &out, "--force"]].concat()).await.map(drop)
    }

    /// What a caller is shown.
    async fn shown(&self) -> anyhow::Result<Vec<u8>> {
        let connection = self.caller.connect().await?;
        let chain = connection.get_ref().1.peer_certificates().context("it shows nothing")?;
        Ok(chain.first().context("it shows nothing")?.to_vec())
    }

    async fn own(&self) -> anyhow::Result<()> {
        let (mut stream, mut other) = (self.caller.open(ECHO).await?, self.other.open(ECHO).await?);
        let mut kubectl = echo(&self.story.kubectl(0)?).await?;
        let (before, shown, lists) = (self.reads().await?, self.shown().await?, self.said(LISTED)?);
        let node = self.story.real.first().context("a node")?;
        let (name, address) = (node.name(), node.machine.address().to_string());
        let ca = agents::authority(self.story.bed.dir()).display().to_string();
        let cluster = self.story.bed.sup.authority().dir().join("ca").display().to_string();
        let dir = self.agent.dir();
        self.issue(&["agent", "--node", name, "--address", &address, "--ca", &ca], &dir.join("tls")).await?;
        self.has_read(before + 1.0).await?;
        eventually("the new certificate is shown", FELT, async || Ok(Seen::when(self.shown().await? != shown, ()))).await?;
        self.issue(&["kubelet-client", "--node", name, "--ca", &cluster], &dir.join("client")).await?;
        self.has_read(before + 2.0).await?;
        let sup = &self.story.bed.sup;
        write(&dir.join("super.kubeconfig"), &sup.kubeconfig_of(agents::IDENTITY.0, agents::IDENTITY.1).await?)?;
        // Tenants are listed anew by it.
        eventually("the new token is used", FELT, async || Ok(Seen::when(self.said(LISTED)? > lists, ()))).await?;
        stream.lives().await?;
        other.lives().await?;
        lives(&mut kubectl).await?;
        // Over a new connection to the kubelet: one that was opened with earlier credentials is not taken.
        self.caller.open(ECHO).await?.lives().await?;
        self.agent.wait_ready().await
    }

    async fn revoked(&self) -> anyhow::Result<()> {
        let dir = self.story.bed.dir().join("agents");
        let ca = agents::authority(self.story.bed.dir());
        let uid = self.story.tenant(0)?.id.uid().to_string();
        self.issue(&["tenant", "--uid", &uid, "--ca", &ca.display().to_string()], &dir.join("stolen")).await?;
        let stolen = Caller::new(self.agent.address(), &ca.with_extension("crt"), Some(&dir.join("stolen")))?;
        let (mut theirs, mut own, mut other) = (stolen.open(ECHO).await?, self.caller.open(ECHO).await?, self.other.open(ECHO).await?);
        let mut log = stolen.connect().await?;
        log.write_all(b"GET /containerLogs/default/echo/main?follow=true HTTP/1.1\r\nHost: node\r\n\r\n").await?;
        let before = self.by_certificate().await?;
        let certificate = dir.join("stolen.crt").display().to_string();
        let text = agents::issue(&["revoked", &certificate, "--number", "2", "--ca", &ca.display().to_string()]).await?;
        write(&list(self.story), &text)?;
        let after = ends(&mut theirs).await?;
        eprintln!("    revoked: the session ended after {after:.1?}");
        timeout(FELT, tokio::io::copy(&mut log, &mut tokio::io::sink())).await.context("the log goes on")?.ok();
        self.ended_by_certificate(before + 2.0).await?;
        ensure!(stolen.get("/pods").await?.is_shut_out(), "it is let in again");
        own.lives().await?;
        other.lives().await
    }

    /// Without a file on any node.
    async fn named(&self) -> anyhow::Result<()> {
        let (out, ca) = (self.story.bed.dir().join("agents/lost"), agents::authority(self.story.bed.dir()));
        let uid = self.story.tenant(0)?.id.uid().to_string();
        self.issue(&["tenant", "--uid", &uid, "--ca", &ca.display().to_string()], &out).await?;
        let lost = Caller::new(self.agent.address(), &ca.with_extension("crt"), Some(&out))?;
        let (mut theirs, mut own, mut other) = (lost.open(ECHO).await?, self.caller.open(ECHO).await?, self.other.open(ECHO).await?);
        let (before, reads) = (self.by_certificate().await?, self.reads().await?);
        let serial = agents::issue(&["serial", &out.with_extension("crt").display().to_string()]).await?;
        let annotations = json!({ keys::REVOKED_CERTIFICATES: serial.trim() });
        self.story.standing(0)?.change(&json!({ "metadata": { "annotations": annotations } })).await?;
        let after = ends(&mut theirs).await?;
        eprintln!("    named as revoked: the session ended after {after:.1?}");
        self.ended_by_certificate(before + 1.0).await?;
        let refused = lost.get("/pods").await?;
        ensure!(refused.status() == 403 && refused.text.contains("expired or is revoked"), "{}", refused.text);
        ensure!(self.reads().await? <= reads, "a file has changed, which may have been why");
        own.lives().await?;
        other.lives().await
    }

    async fn expired(&self) -> anyhow::Result<()> {
        let (out, ca) = (self.story.bed.dir().join("agents/short"), agents::authority(self.story.bed.dir()));
        let uid = self.story.tenant(0)?.id.uid().to_string();
        self.issue(&["tenant", "--uid", &uid, "--life", "20s", "--ca", &ca.display().to_string()], &out).await?;
        let short = Caller::new(self.agent.address(), &ca.with_extension("crt"), Some(&out))?;
        let (mut theirs, mut own, mut other) = (short.open(ECHO).await?, self.caller.open(ECHO).await?, self.other.open(ECHO).await?);
        let before = self.by_certificate().await?;
        theirs.lives().await?;
        let after = ends(&mut theirs).await?;
        eprintln!("    expired: the session ended after {after:.1?}");
        self.ended_by_certificate(before + 1.0).await?;
        ensure!(short.get("/pods").await?.is_shut_out(), "it is let in again");
        own.lives().await?;
        other.lives().await
    }

    async fn introduced(&self) -> anyhow::Result<()> {
        let (mut raw, mut other) = (self.caller.open(ECHO).await?, self.other.open(ECHO).await?);
        let (mut first, mut second) = (echo(&self.story.kubectl(0)?).await?, echo(&self.story.kubectl(1)?).await?);
        agents::issue_anew(&self.story.bed, 0, self.story.tenant(0)?.id.uid()).await?;
        // An API server looks at its files when it dials, once a second at most. When it sees the change it ends all that it has dialled, the
        // connection that it sees it by too.
        let kubectl = self.story.kubectl(0)?;
        eventually("its sessions end", FELT, async || {
            let _ = kubectl.output(&["exec", "echo", "--", "true"]).await?;
            Ok(Seen::when(first.has_ended()?, ()))
        })
        .await?;
        let said = kubectl.says(&["exec", "echo", "--", "echo", "again"]).await?;
        ensure!(said == "again\n", "{said}");
        lives(&mut second).await?;
        raw.lives().await?;
        other.lives().await
    }

    async fn authority(&self) -> anyhow::Result<()> {
        let dir = self.story.bed.dir().join("agents");
        let (ca, next) = (agents::authority(self.story.bed.dir()), dir.join("next"));
        self.issue(&["ca"], &next).await?;
        let uid = self.story.tenant(1)?.id.uid().to_string();
        self.issue(&["tenant", "--uid", &uid, "--ca", &next.display().to_string()], &dir.join("renewed")).await?;
        let old = std::fs::read_to_string(ca.with_extension("crt"))?;
        let new = std::fs::read_to_string(next.with_extension("crt"))?;
        let renewed = Caller::new(self.agent.address(), &ca.with_extension("crt"), Some(&dir.join("renewed")))?;
        ensure!(renewed.get("/pods").await?.is_shut_out(), "a CA that nobody named is believed");
        let (mut first, mut second) = (self.caller.open(ECHO).await?, self.other.open(ECHO).await?);
        let before = self.reads().await?;
        write(&ca.with_extension("crt"), &format!("{old}{new}"))?;
        self.has_read(before + 1.0).await?;
        let mut third = renewed.open(ECHO).await?;
        for stream in [&mut first, &mut second, &mut third] {
            stream.lives().await?;
        }
        // The old one goes: whoever has nothing else is out. Lists of its own revoked ones stay, and say nothing of the new one's.
        write(&ca.with_extension("crt"), &new)?;
        ends(&mut first).await?;
        ends(&mut second).await?;
        third.lives().await?;
        ensure!(self.caller.get("/pods").await?.is_shut_out(), "a CA that is gone is believed");
        let before = self.reads().await?;
        write(&ca.with_extension("crt"), &format!("{old}{new}"))?;
        self.has_read(before + 1.0).await?;
        third.lives().await
    }

    async fn gone(&self) -> anyhow::Result<()> {
        let (mut stays, mut goes) = (self.caller.open(ECHO).await?, self.other.open(ECHO).await?);
        let mut kubectl = echo(&self.story.kubectl(0)?).await?;
        let standing = self.story.standing(1)?;
        let begin = Instant::now();
        let delete = async {
            standing.delete().await?;
            anyhow::Ok(begin.elapsed())
        };
        let end = async {
            ends(&mut goes).await?;
            anyhow::Ok(begin.elapsed())
        };
        let (deleted, ended) = tokio::try_join!(delete, end)?;
        eprintln!("    its sessions ended after {ended:.1?}; it was gone after {deleted:.1?}");
        let refused = self.other.get("/pods").await?;
        ensure!(refused.status() == 403 && refused.text.contains("names no tenant that exists"), "{}", refused.text);
        stays.lives().await?;
        lives(&mut kubectl).await?;
        self.caller.open(ECHO).await?.lives().await
    }
}
