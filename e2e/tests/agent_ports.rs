//! `kubectl port-forward` of a tenant through vn-agent: many connections, a Service, and a port where nobody listens.

use anyhow::{Context as _, ensure};
use e2e::{
    images::TOOLS,
    kubectl::{Kubectl, Running},
    machine,
    story::{Plot, Story, chapter, pod},
};
use futures::future::try_join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, timeout},
};

/// Connections through one kubectl: at once, and one after the other.
const AT_ONCE: usize = 100;
const IN_SEQUENCE: usize = 500;

/// Bytes that each connection sends and gets back.
const BYTES: usize = 20_000;

/// A web server that answers with what it is sent.
const ECHO: &str = r#"mkdir -p /www/cgi-bin; cd /www/cgi-bin
printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"; exec cat\n' > echo; chmod +x echo
exec httpd -f -p 8080 -h /www"#;

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_forwards_ports_through_vn_agent() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::with_agents("agent-ports", 2, 1)).await.unwrap();
    for tenant in &story.tenants {
        let echo = json!({
            "name": "main", "image": TOOLS, "command": ["sh", "-c", ECHO],
            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        });
        tenant.apply(&pod("echo", &json!({ "app": "echo" }), &json!({ "containers": [echo] }))).await.unwrap();
        let service = json!({ "selector": { "app": "echo" }, "ports": [{ "port": 80, "targetPort": 8080 }] });
        tenant.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "echo" }, "spec": service })).await.unwrap();
        tenant.running("default", "app=echo", 1).await.unwrap();
    }
    let (websocket, spdy) = (story.kubectl(0).unwrap(), story.kubectl(1).unwrap().over_spdy());
    let chapters = vec![
        chapter("many connections carry each its own bytes, over WebSocket", many(&websocket)),
        chapter("many connections carry each its own bytes, over SPDY", many(&spdy)),
        chapter("a Service leads to one of its Pods", service(&story)),
        chapter("a port where nobody listens is a clean error", refused(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("every session was logged and counted, as it was", accounts(&story))]).await.unwrap();
}

/// Forwards a free port to this one; kubectl, and which it is.
async fn forward(kubectl: &Kubectl, target: &str, port: u16) -> anyhow::Result<(Running, u16)> {
    let mut forward = kubectl.start(&["port-forward", "--address=127.0.0.1", target, &format!(":{port}")])?;
    let port = port_of(&mut forward).await?;
    Ok((forward, port))
}

async fn port_of(forward: &mut Running) -> anyhow::Result<u16> {
    forward.writes("Forwarding from 127.0.0.1:").await?;
    let line = forward.writes("\n").await?;
    line.split_whitespace().next().and_then(|number| number.parse().ok()).with_context(|| format!("kubectl says {line:?}"))
}

/// Sends bytes of its own, and sees that they come back.
async fn echoes(port: u16, number: usize) -> anyhow::Result<()> {
    let bytes: Vec<u8> = format!("{number} ").into_bytes().into_iter().cycle().take(BYTES).collect();
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("POST /cgi-bin/echo HTTP/1.0\r\nContent-Length: {BYTES}\r\n\r\n").as_bytes()).await?;
        stream.write_all(&bytes).await?;
        let mut answer = Vec::new();
        // Not to the end of the connection, which comes a second after it was closed inside.
        while !answer.ends_with(&bytes) && stream.read_buf(&mut answer).await? > 0 {}
        anyhow::Ok(answer)
    };
    let answer = timeout(Duration::from_mins(1), exchange).await.with_context(|| format!("connection {number} hangs"))?;
    let answer = answer.with_context(|| format!("connection {number} broke"))?;
    let head = String::from_utf8_lossy(answer.get(..answer.len().min(100)).unwrap_or_default());
    ensure!(answer.ends_with(&bytes), "connection {number}: {} bytes came back: {head:?}", answer.len());
    Ok(())
}

async fn many(kubectl: &Kubectl) -> anyhow::Result<()> {
    let (forward, port) = forward(kubectl, "pod/echo", 8080).await?;
    let all = async {
        try_join_all((0..AT_ONCE).map(|number| echoes(port, number))).await.context("at once")?;
        for number in 0..IN_SEQUENCE {
            echoes(port, number).await.context("in sequence")?;
        }
        anyhow::Ok(())
    };
    let Err(error) = all.await else { return Ok(()) };
    let (_, _, said) = forward.killed().await?;
    Err(error.context(format!("kubectl says {said:?}")))
}

async fn service(story: &Story) -> anyhow::Result<()> {
    let (_forward, port) = forward(&story.kubectl(0)?, "service/echo", 80).await?;
    echoes(port, 7).await
}

/// As where kubectl reaches the kubelet without vn-agent: it says why, and ends.
async fn refused(story: &Story) -> anyhow::Result<()> {
    let direct = story.bed.sup.kubectl(story.bed.programs());
    let through = nobody_listens(&story.kubectl(1)?, "default").await?;
    let straight = nobody_listens(&direct, &story.tenant(1)?.namespace_below("default")).await?;
    ensure!(through == straight, "{through:?}, directly {straight:?}");
    let why = "failed to connect to localhost:9999 inside namespace";
    ensure!(through.contains(why) && through.contains("connection refused"), "{through}");
    // The next is none the worse for it.
    let (_forward, port) = forward(&story.kubectl(1)?, "pod/echo", 8080).await?;
    echoes(port, 8).await
}

/// What kubectl says of a connection to such a port, without what is another each time.
async fn nobody_listens(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<String> {
    let mut forward = kubectl.start(&["port-forward", "--address=127.0.0.1", "-n", namespace, "pod/echo", ":9999"])?;
    let port = port_of(&mut forward).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut answer = Vec::new();
    // Closed or reset: kubectl is on its way out.
    let _ = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.context("the connection stays open")?;
    let (status, _, said) = forward.ends().await?;
    ensure!(!status.success() && answer.is_empty(), "{status}, {answer:?}: {said}");
    let why = said.split_once("err=").map_or(said.as_str(), |(_, why)| why);
    Ok(why.replace(&port.to_string(), "PORT"))
}

async fn accounts(story: &Story) -> anyhow::Result<()> {
    let sessions = story.agent(0)?.settled().await?;
    let least = u64::try_from((AT_ONCE + IN_SEQUENCE) * BYTES)?;
    for tenant in &story.tenants {
        let uid = tenant.id.uid().to_string();
        let most = sessions.iter().filter(|one| one.tenant == uid).max_by_key(|one| one.sent_bytes).context("no session")?;
        let passed = most.sent_bytes > least && most.received_bytes > least;
        ensure!(passed && most.verb == "portforward" && most.pod == "default/echo" && most.container.is_empty(), "{most:?}");
    }
    let odd: Vec<_> = sessions.iter().filter(|one| !one.is_fine()).collect();
    ensure!(odd.is_empty(), "{odd:?}");
    Ok(())
}
