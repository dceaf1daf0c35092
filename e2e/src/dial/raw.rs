//! Bytes in any form, and whatever is answered.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{Caller, PATIENCE};

/// The most of an answer that is read.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// What was answered on a connection of its own.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// All that came.
    pub text: String,
    /// Whether the other side ended the connection.
    pub ended: bool,
}

impl Answer {
    /// The status, or 0 if no answer came.
    pub fn status(&self) -> u16 {
        let number = self.text.strip_prefix("HTTP/1.1 ").or(self.text.strip_prefix("HTTP/1.0 ")).and_then(|rest| rest.get(..3));
        number.and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    /// Whether the connection was ended without a word, as after a handshake that did not let its caller in.
    pub fn is_shut_out(&self) -> bool {
        self.ended && self.text.is_empty()
    }
}

impl Caller {
    /// Sends bytes on a new connection, and gives what comes until it ends, or has been silent for `silence`.
    ///
    /// # Errors
    /// If nobody is there. TLS 1.3 lets a caller speak before it is let in: one that is not sees its connection end.
    pub async fn raw(&self, bytes: &[u8], silence: Duration) -> anyhow::Result<Answer> {
        let mut stream = self.connect().await.context("could not dial")?;
        let mut answer = Answer { ended: true, ..Answer::default() };
        // One that is refused may be gone before all is sent; what it answered counts.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut got = Vec::new();
        let mut block = vec![0; 16 * 1024];
        loop {
            match timeout(silence, stream.read(&mut block)).await {
                Ok(Ok(n @ 1..)) if got.len() <= MOST_BYTES => got.extend_from_slice(block.get(..n).unwrap_or_default()),
                Ok(_) => break,
                Err(_) => {
                    answer.ended = false;
                    break;
                }
            }
        }
        answer.text = String::from_utf8_lossy(&got).into_owned();
        Ok(answer)
    }

    /// A GET on a connection that ends with it.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.get_within(path, PATIENCE).await
    }

    /// The same with an answer that may take so long.
    pub async fn get_within(&self, path: &str, patience: Duration) -> anyhow::Result<Answer> {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes(), patience).await
    }
}
