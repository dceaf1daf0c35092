//! One of the two ways to the kubelet: where it is dialled, as whom, and what the Pod is called there.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use e2e::agents;
use e2e::dial::{Caller, Connection};
use e2e::real_nodes::KUBELET_PORT;
use e2e::story::Story;
use futures::{SinkExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::POD;

/// The Pod's container.
pub(super) const CONTAINER: &str = "main";

/// A channel a stream, its number the first byte of each message: the form that kubelets have understood for longest.
const PROTOCOL: &str = "v4.channel.k8s.io";

/// Channels of a process.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESULT: u8 = 3;

/// Bytes a message, as kubectl's.
const MESSAGE: usize = 32 * 1024;

pub(super) struct Way {
    caller: Caller,
    namespace: String,
}

impl Way {
    /// To the kubelet itself, as an administrator of the super cluster.
    pub(super) fn direct(story: &Story) -> anyhow::Result<Self> {
        let node = story.real.first().context("there is no node")?;
        let authority = story.bed.sup.authority().dir();
        let address = format!("{}:{KUBELET_PORT}", node.machine.address());
        let caller = Caller::new(&address, &authority.join("ca.crt"), Some(&story.bed.sup.kubelet_client()))?;
        Ok(Self { caller, namespace: story.tenant(0)?.namespace_below("default") })
    }

    /// Through vn-agent, as the tenant's API server.
    pub(super) fn through(story: &Story) -> anyhow::Result<Self> {
        let ca = agents::authority(story.bed.dir()).with_extension("crt");
        let caller = Caller::new(story.agent(0)?.address(), &ca, Some(&story.bed.tenant(0)?.kubelet_client()))?;
        Ok(Self { caller, namespace: "default".to_owned() })
    }

    /// A connection on which nothing was asked yet.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        self.caller.connect().await
    }

    /// A process in the container: a shell that runs this.
    pub(super) async fn exec(&self, script: &str, has_input: bool) -> anyhow::Result<Exec> {
        let input = if has_input { "&input=1" } else { "" };
        let script = encoded(script);
        let path = format!("/exec/{}/{POD}/{CONTAINER}?command=sh&command=-c&command={script}&output=1&error=1{input}", self.namespace);
        Ok(Exec(self.caller.websocket(&path, PROTOCOL).await?))
    }

    /// A connection to a port of the Pod.
    pub(super) async fn port(&self, port: u16) -> anyhow::Result<Port> {
        let path = format!("/portForward/{}/{POD}?port={port}", self.namespace);
        let mut socket = self.caller.websocket(&path, PROTOCOL).await?;
        // Either channel begins with the port's number.
        for _ in 0..2 {
            let first = next(&mut socket).await?.context("it ended before it began")?;
            ensure!(first.len() == 3, "it begins with {first:?}");
        }
        Ok(Port(socket))
    }

    /// Reads the container's log to its end: its bytes, as they come over the wire without the head.
    pub(super) async fn log_bytes(&self) -> anyhow::Result<usize> {
        let mut stream = self.caller.connect().await?;
        let path = format!("/containerLogs/{}/{POD}/{CONTAINER}", self.namespace);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        stream.flush().await?;
        let (mut block, mut count) = (vec![0; 64 * 1024], 0);
        let mut head = true;
        loop {
            // A server that closes without a word of TLS has said all the same.
            let read = match stream.read(&mut block).await {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
                Err(error) => return Err(error.into()),
            };
            if read == 0 {
                return Ok(count);
            }
            if head {
                ensure!(block.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(block.get(..read).unwrap_or_default()));
                head = false;
            }
            count += read;
        }
    }
}

/// Asks for the node's Pods on a connection that stays open.
pub(super) async fn list(connection: &mut Connection) -> anyhow::Result<()> {
    connection.write_all(b"GET /pods HTTP/1.1\r\nHost: node\r\n\r\n").await?;
    connection.flush().await?;
    let mut answer = Vec::new();
    // Longer than one block of either server, so it comes in chunks.
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        ensure!(connection.read_buf(&mut answer).await? > 0, "the list of Pods broke off");
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// A text as it stands in a query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "%{byte:02X}");
        out
    })
}

/// Where messages come from.
type Source = dyn Stream<Item = tungstenite::Result<Message>> + Unpin + Send;

async fn next(socket: &mut Source) -> anyhow::Result<Option<Bytes>> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Binary(bytes) => return Ok(Some(bytes)),
            Message::Close(_) => return Ok(None),
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    Ok(None)
}

/// A running process.
pub(super) struct Exec(WebSocketStream<Connection>);

impl Exec {
    /// Waits for the first message that says anything.
    pub(super) async fn first(&mut self) -> anyhow::Result<()> {
        while let Some(message) = next(&mut self.0).await? {
            if message.len() > 1 {
                return Ok(());
            }
        }
        anyhow::bail!("the process ended without a word")
    }

    /// Feeds it so many bytes, and reads what it writes until its end.
    pub(super) async fn feed(self, count: usize) -> anyhow::Result<Vec<u8>> {
        let mut message = vec![b'x'; MESSAGE + 1];
        if let Some(channel) = message.first_mut() {
            *channel = STDIN;
        }
        let message = Bytes::from(message);
        let (mut sink, mut source) = self.0.split();
        let feed = async {
            for sent in 0..count / MESSAGE {
                let sending = sink.send(Message::Binary(message.clone())).await;
                sending.with_context(|| format!("after {} of {count} bytes", sent * MESSAGE))?;
            }
            anyhow::Ok(())
        };
        // What it says comes while it is fed, too; where it ends too early, that says why.
        let (sent, said) = tokio::join!(feed, result(&mut source));
        let said = said?;
        sent.map(|()| said)
    }

    /// Reads what it writes until its end.
    pub(super) async fn read(mut self) -> anyhow::Result<Vec<u8>> {
        result(&mut self.0).await
    }
}

async fn result(source: &mut Source) -> anyhow::Result<Vec<u8>> {
    let mut said = Vec::new();
    while let Some(message) = next(source).await? {
        match message.split_first() {
            Some((&STDOUT, bytes)) => said.extend_from_slice(bytes),
            Some((&RESULT, bytes)) => {
                let how = String::from_utf8_lossy(bytes);
                ensure!(how.contains("Success"), "the process failed: {how}");
                return Ok(said);
            }
            Some((&STDERR, bytes)) if !bytes.is_empty() => anyhow::bail!("it complains: {}", String::from_utf8_lossy(bytes)),
            Some(_) | None => {}
        }
    }
    anyhow::bail!("the process ended without a result, after {} bytes", said.len())
}

/// A forwarded connection.
pub(super) struct Port(WebSocketStream<Connection>);

impl Port {
    /// Sends some bytes and waits until as many have come back.
    pub(super) async fn ping(&mut self) -> anyhow::Result<()> {
        const QUESTION: &[u8] = b"\0a question of thirty-two bytes..";
        self.0.send(Message::Binary(Bytes::from_static(QUESTION))).await?;
        let mut left = QUESTION.len() - 1;
        while left > 0 {
            let answer = next(&mut self.0).await?.context("the echo ended")?;
            left = left.saturating_sub(answer.len() - 1);
        }
        Ok(())
    }

    /// Reads so many bytes.
    pub(super) async fn read(&mut self, count: usize) -> anyhow::Result<()> {
        let mut left = count;
        while left > 0 {
            let bytes = next(&mut self.0).await?.with_context(|| format!("it ended {left} bytes too early"))?;
            left = left.saturating_sub(bytes.len().saturating_sub(1));
        }
        Ok(())
    }
}
