//! Bytes in any form, and whatever is answered.

use std::time::Duration;

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
}

impl Caller {
    /// Sends bytes on a new connection, and gives what comes until it ends, or has been silent for `silence`.
    pub async fn raw(&self, bytes: &[u8], silence: Duration) -> Answer {
        let mut answer = Answer { ended: true, ..Answer::default() };
        let Ok(mut stream) = self.connect().await else { return answer };
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
        answer
    }

    /// A GET on a connection that ends with it.
    pub async fn get(&self, path: &str) -> Answer {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes(), PATIENCE).await
    }
}
