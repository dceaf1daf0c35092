//! The `Authorization` header.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::TransportError;
use crate::kubeconfig::{Identity, Secret};

/// How long a token read from a file is used: the kubelet renews it at 80 % of its life, so a minute is early enough.
const FRESH: Duration = Duration::from_mins(1);

/// Largest token file that is read.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Where the token of the kubeconfig comes from.
pub(super) enum Bearer {
    /// There is none: a certificate says who we are.
    Absent,
    /// It stands in the kubeconfig.
    Fixed(HeaderValue),
    /// It stands in a file that is read again.
    File { path: PathBuf, last: Mutex<Option<(Instant, HeaderValue)>> },
}

impl Bearer {
    pub(super) fn new(identity: &Identity) -> Result<Self, TransportError> {
        Ok(match identity {
            Identity::Certificate { .. } => Self::Absent,
            Identity::Token(token) => Self::Fixed(header(token.expose())?),
            Identity::TokenFile(path) => Self::File { path: path.clone(), last: Mutex::new(None) },
        })
    }

    /// The header to send; the last known one if the file cannot be read just now.
    pub(super) async fn current(&self) -> Result<Option<HeaderValue>, TransportError> {
        match self {
            Self::Absent => Ok(None),
            Self::Fixed(header) => Ok(Some(header.clone())),
            Self::File { path, last } => {
                let known = last.lock().clone();
                match known {
                    Some((read, header)) if read.elapsed() < FRESH => Ok(Some(header)),
                    Some((_, stale)) => Ok(Some(from_file(path, last).await.unwrap_or(stale))),
                    None => from_file(path, last).await.map(Some),
                }
            }
        }
    }
}

async fn from_file(path: &PathBuf, last: &Mutex<Option<(Instant, HeaderValue)>>) -> Result<HeaderValue, TransportError> {
    let failed = |source| TransportError::Token { path: path.clone(), source };
    let bytes = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if bytes > MAX_TOKEN_BYTES {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
    let header = header(text.trim())?;
    *last.lock() = Some((Instant::now(), header.clone()));
    Ok(header)
}

/// The header for a token given with a call.
pub(super) fn given(token: &Secret) -> Result<HeaderValue, TransportError> {
    header(token.expose())
}

fn header(token: &str) -> Result<HeaderValue, TransportError> {
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| TransportError::Invalid { what: "the token holds characters that no header can" })?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kubelet renews a mounted token: by another file under the name.
    #[tokio::test(start_paused = true)]
    async fn a_token_file_is_read_again_and_one_that_cannot_be_leaves_the_last_good() {
        let dir = std::env::temp_dir().join(format!("vc-bearer-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("token");
        let bearer = Bearer::new(&Identity::TokenFile(path.clone())).unwrap();
        let current = async || bearer.current().await.map(|header| header.unwrap().to_str().unwrap().to_owned());
        assert!(matches!(current().await, Err(TransportError::Token { .. })), "there is none yet");
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(current().await.unwrap(), "Bearer first");
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(current().await.unwrap(), "Bearer first", "it was read just now");
        tokio::time::advance(FRESH).await;
        assert_eq!(current().await.unwrap(), "Bearer second");
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FRESH).await;
        assert_eq!(current().await.unwrap(), "Bearer second");
        std::fs::write(&path, "x".repeat(usize::try_from(MAX_TOKEN_BYTES).unwrap() + 1)).unwrap();
        assert_eq!(current().await.unwrap(), "Bearer second");
        std::fs::write(&path, "third").unwrap();
        assert_eq!(current().await.unwrap(), "Bearer third", "what could not be read is tried again at once");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
