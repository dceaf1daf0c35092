//! `ServiceAccount` tokens: asked of the tenant's own API server, bound to the tenant's Pod and its node, renewed in time.

use std::time::Duration;

use common::keys;
use jiff::Timestamp;
use mirror::mounts::TokenAsk;
use runtime::kubeconfig::Secret;
use serde_json::json;
use tokio::time::Instant;

use super::secret::{Contents, too_large};
use super::{PodOf, named};
use crate::remote::CallError;
use crate::tenant::Attached;
use crate::writer::{Fence, Issued, read_token};

/// Tokens in hand, not yet written.
pub struct Batch {
    data: Vec<(String, Secret)>,
    issued: Timestamp,
    expires: Timestamp,
}

impl Batch {
    /// Puts them into a Secret; says when to renew them, at this share of their life, if there are any.
    pub fn put_into(self, contents: &mut Contents, share: f64) -> Option<Instant> {
        if self.data.is_empty() {
            return None;
        }
        for (key, token) in self.data {
            contents.put(key, Some(token));
        }
        contents.note(keys::TOKEN_ISSUED, self.issued.to_string());
        contents.note(keys::TOKEN_EXPIRES, self.expires.to_string());
        Some(renewal(self.issued, self.expires, share))
    }
}

/// Asks the tenant's API server for each token, bound to the tenant's Pod.
pub async fn request(attached: &Attached, fence: &Fence, pod: &PodOf<'_>, asks: &[TokenAsk]) -> Result<Batch, CallError> {
    let issued = Timestamp::now();
    let mut batch = Batch { data: Vec::new(), issued, expires: Timestamp::MAX };
    let mut bytes = 0_usize;
    for ask in asks {
        fence.check()?;
        let account = named("ServiceAccount", &ask.service_account)?;
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod.namespace);
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": ask.audience.iter().collect::<Vec<_>>(),
                "expirationSeconds": ask.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid.to_string()},
            },
        });
        let reply = attached.remote.create(&path, body.to_string().into_bytes(), None).await.map_err(|error| refused(error, ask))?;
        let Issued { token, expires } = read_token(&reply, "tenant")?;
        bytes = bytes.saturating_add(token.expose().len());
        if bytes > MOST_BYTES {
            return Err(too_large("tokens that this Pod mounts are"));
        }
        batch.expires = batch.expires.min(expires);
        batch.data.push((ask.key.clone(), token));
    }
    Ok(batch)
}

/// What the tokens of one Pod may be together, in bytes: they must fit into one Secret (1 MiB) in base64, beside trust bundles and certificates.
const MOST_BYTES: usize = 256 * 1024;

/// The reason of a token that there is no account for.
pub const REFUSED: &str = "TokenRefused";

/// A ServiceAccount that is not there is no namespace that is not there: its own reason says so.
fn refused(error: CallError, ask: &TokenAsk) -> CallError {
    if !error.is_not_found() {
        return error;
    }
    let message = format!("there is no token for the ServiceAccount {}; make it, or delete the Pod", ask.service_account);
    CallError::Status { side: "tenant", code: 404, reason: REFUSED.into(), message, retry_after: None }
}

/// The shortest and the longest life that a token is believed to have, in seconds: no API server grants less; none needs more.
const LIVES: (f64, f64) = (600.0, 366.0 * 24.0 * 3600.0);

/// When tokens of this life are to be renewed: at `share` of it, by the monotonic clock from now.
///
/// *Guarantees*: never at once, whatever a hostile API server or a clock that is wrong says of the expiry: renewing costs a write in the
/// super cluster.
pub fn renewal(issued: Timestamp, expires: Timestamp, share: f64) -> Instant {
    let life = expires.duration_since(issued).as_secs_f64().clamp(LIVES.0, LIVES.1);
    let age = Timestamp::now().duration_since(issued).as_secs_f64().max(0.0);
    Instant::now() + Duration::from_secs_f64((life * share - age).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_of_an_hour_is_renewed_after_48_minutes() {
        let minutes = Duration::from_mins;
        let now = Timestamp::now();
        // As it is issued, and as a syncer finds it that starts half an hour later.
        for age in [0, 30] {
            let issued = now - minutes(age);
            let left = renewal(issued, issued + minutes(60), 0.8) - Instant::now();
            assert!(left > minutes(47 - age) && left < minutes(49 - age), "{age} min old: in {left:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_never_renewed_at_once_whatever_its_api_server_says_of_its_life() {
        let now = Timestamp::now();
        let second = Duration::from_secs(1);
        for expires in [Timestamp::MIN, now - second, now, now + second] {
            assert!(renewal(now, expires, 0.8) >= Instant::now() + Duration::from_secs(470), "{expires}");
        }
        assert!(renewal(now, Timestamp::MAX, 0.8) <= Instant::now() + Duration::from_hours(24 * 300));
        // Long due, after a restart; and issued in the future, by a clock that was wrong then.
        assert!(renewal(now - Duration::from_hours(10), now, 0.8) >= Instant::now() + second);
        assert!(renewal(Timestamp::MAX, now, 0.8) <= Instant::now() + Duration::from_mins(10));
    }
}
