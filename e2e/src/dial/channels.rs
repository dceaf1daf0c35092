//! Streams of a Pod over WebSocket: messages, each of a channel.

use anyhow::{Context as _, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{Answer, Caller, Connection, PATIENCE};

/// The request of such a stream.
pub fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    )
}

impl Caller {
    /// A stream, or the answer that it was refused with.
    pub async fn stream(&self, path: &str) -> anyhow::Result<Result<Channels, Answer>> {
        let (head, mut connection) =
            timeout(PATIENCE, self.switch(&request(path))).await.with_context(|| format!("{path}: no answer"))??;
        if head.starts_with("HTTP/1.1 101 ") {
            // What is written is sent: neither side waits for more.
            let config = WebSocketConfig::default().write_buffer_size(0);
            return Ok(Ok(Channels(WebSocketStream::from_raw_socket(connection, Role::Client, Some(config)).await)));
        }
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, connection.read_to_end(&mut rest)).await.is_ok();
        Ok(Err(Answer { text: head + &String::from_utf8_lossy(&rest), ended }))
    }

    /// A stream.
    ///
    /// # Errors
    /// If it is refused: with the answer.
    pub async fn open(&self, path: &str) -> anyhow::Result<Channels> {
        self.stream(path).await?.or_else(|answer| bail!("{path}: {}", answer.text))
    }

    /// A connection that was switched to SPDY, with no stream inside: what a client of port-forward holds while nobody dials its port.
    pub async fn idle(&self, path: &str) -> anyhow::Result<Connection> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
             X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
        );
        let (head, connection) = timeout(PATIENCE, self.switch(&request)).await.with_context(|| format!("{path}: no answer"))??;
        ensure!(head.starts_with("HTTP/1.1 101 "), "{path}: {head}");
        Ok(connection)
    }

    /// Sends a request and reads the head of its answer, and no byte more.
    async fn switch(&self, request: &str) -> anyhow::Result<(String, Connection)> {
        let mut connection = self.connect().await?;
        connection.write_all(request.as_bytes()).await.context("could not send")?;
        connection.flush().await.context("could not send")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match connection.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        Ok((String::from_utf8_lossy(&head).into_owned(), connection))
    }
}

/// A stream that lives. Of exec, channel 0 is the process's input, 1 and 2 its outputs, 3 how it ended.
pub struct Channels(WebSocketStream<Connection>);

impl Channels {
    /// Sends bytes on a channel.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> anyhow::Result<()> {
        let message: Vec<u8> = [channel].into_iter().chain(bytes.iter().copied()).collect();
        self.0.send(Message::Binary(message.into())).await.context("could not send")
    }

    /// The next message; none once the stream has ended, in whichever way.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        while let Some(Ok(message)) = self.0.next().await {
            let is_message = message.is_binary() || message.is_text();
            if is_message && let Some((channel, bytes)) = message.into_data().split_first() {
                return Some((*channel, bytes.to_vec()));
            }
        }
        None
    }

    /// What is said on a channel until that ends with `end`.
    ///
    /// # Errors
    /// If anything is said on another.
    pub async fn hears(&mut self, channel: u8, end: &str) -> anyhow::Result<String> {
        let mut heard = String::new();
        let listen = async {
            while let Some((from, bytes)) = self.next().await {
                if from == channel {
                    heard += &String::from_utf8_lossy(&bytes);
                } else if !bytes.is_empty() {
                    bail!("channel {from} says {:?}", String::from_utf8_lossy(&bytes));
                }
                if heard.ends_with(end) {
                    return Ok(());
                }
            }
            bail!("the stream ended")
        };
        let result = timeout(PATIENCE, listen).await.unwrap_or_else(|_| bail!("nothing more came"));
        result.with_context(|| format!("heard {heard:?}, not {end:?}"))?;
        Ok(heard)
    }

    /// Sends a line to a process that says what it hears, and waits for it to come back: the stream lives.
    pub async fn lives(&mut self) -> anyhow::Result<()> {
        self.send(0, b"ping\n").await?;
        self.hears(1, "ping\n").await.map(drop)
    }

    /// What is said on any channel until a line ends, or the stream does.
    pub async fn line(&mut self) -> String {
        let mut heard = String::new();
        while !heard.ends_with('\n')
            && let Some((_, bytes)) = self.next().await
        {
            heard += &String::from_utf8_lossy(&bytes);
        }
        heard
    }

    /// All that is said on any channel until the stream ends.
    pub async fn rest(&mut self) -> String {
        let mut heard = String::new();
        while let Some((_, bytes)) = self.next().await {
            heard += &String::from_utf8_lossy(&bytes);
        }
        heard
    }
}
