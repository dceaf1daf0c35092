//! Certificates of Pods: as a kubelet does, the syncer makes the key and a `PodCertificateRequest` in the tenant, and waits for the tenant's signer.
//!
//! *Sources*: KEP-4317; the kubelet's `podcertificate` manager, from which differs that keys of RSA are not made.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Name, Tenant, Uid, keys};
use jiff::Timestamp;
use mirror::facts::Seen;
use mirror::mounts::{CertificateAsk, CertificateKeys};
use pki::StubRequest;
use runtime::kubeconfig::Secret;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::PodOf;
use super::secret::{Contents, too_large};
use crate::remote::{CallError, Remote};
use crate::tenant::Attached;
use crate::writer::Fence;

/// Where a signer is waited for: the first distance and the longest.
const POLL: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// The longest chain, in bytes: an API server takes no more from a signer.
const MOST_BYTES: usize = 16 * 1024;
/// How soon and how late certificates are asked for anew, whatever a signer says: requests cost, and none lives longer than 91 days.
const REFRESH: (Duration, Duration) = (Duration::from_mins(10), Duration::from_hours(91 * 24));
/// What of a signer's own words is repeated, in characters.
const WORDS: usize = 300;

/// Certificates that were asked for, until all are there.
pub struct Pending {
    pod: Uid,
    asked: Vec<Asked>,
    polls: u32,
    refused: Option<String>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("polls", &self.polls).finish_non_exhaustive()
    }
}

enum Asked {
    /// The name of the request, and the key that it is for.
    Waits(Name<Tenant>, Secret),
    /// Key, chain, and when to ask anew.
    Given(Secret, String, Timestamp),
}

/// How far it is.
pub enum Progress {
    /// All are there.
    Given(Certificates),
    /// Look again after this.
    Wait(Duration),
    /// A signer says no, for good: its words.
    Refused(String),
}

/// Certificates in hand, not yet written.
pub struct Certificates {
    data: Vec<(CertificateKeys, Secret, String)>,
    refresh: Option<Timestamp>,
}

impl Certificates {
    /// Puts them into a Secret; says when to ask for others.
    pub fn put_into(self, contents: &mut Contents) -> Option<Instant> {
        for (keys, key, chain) in self.data {
            contents.put(keys.bundle, Some(Secret::new(format!("{}{chain}", key.expose()))));
            contents.put(keys.key, Some(key));
            contents.put(keys.chain, Some(Secret::new(chain)));
        }
        let refresh = self.refresh?;
        contents.note(keys::REFRESH_CERTIFICATES, refresh.to_string());
        Some(at(refresh))
    }
}

/// The moment at which certificates are asked for anew, as the monotonic clock has it.
pub fn at(refresh: Timestamp) -> Instant {
    let left = refresh.duration_since(Timestamp::now()).as_secs_f64().clamp(REFRESH.0.as_secs_f64(), REFRESH.1.as_secs_f64());
    Instant::now() + Duration::from_secs_f64(left)
}

/// Asks for what was not asked for yet, and looks what was given.
pub async fn advance(
    attached: &Attached,
    fence: &Fence,
    pod: &PodOf<'_>,
    asks: &[CertificateAsk],
    pending: &mut Option<Box<Pending>>,
) -> Result<Progress, CallError> {
    if asks.is_empty() {
        return Ok(Progress::Given(Certificates { data: Vec::new(), refresh: None }));
    }
    let own = pending.take().filter(|pending| pending.pod == pod.uid);
    let pending = pending.insert(own.unwrap_or_else(|| Box::new(Pending { pod: pod.uid, asked: Vec::new(), polls: 0, refused: None })));
    if let Some(refused) = &pending.refused {
        return Ok(Progress::Refused(refused.clone()));
    }
    if pending.asked.len() < asks.len() {
        let who = Who::of(&attached.remote, pod, asks).await?;
        for ask in asks.iter().skip(pending.asked.len()) {
            fence.check()?;
            pending.asked.push(request(&attached.remote, pod, &who, ask).await?);
        }
    }
    for i in 0..pending.asked.len() {
        let Some(Asked::Waits(name, key)) = pending.asked.get(i) else { continue };
        let answer = match attached.remote.get(&format!("{}/{name}", collection(pod)), None).await {
            Ok(bytes) => answer(&bytes)?,
            // Somebody has deleted it: this one and those after it are asked for anew, at the pace of looking.
            Err(error) if error.is_not_found() => {
                pending.asked.truncate(i);
                break;
            }
            Err(error) => return Err(error),
        };
        match answer {
            Answer::None => {}
            Answer::Issued(chain, refresh) => {
                let given = Asked::Given(key.clone(), chain, refresh);
                if let Some(slot) = pending.asked.get_mut(i) {
                    *slot = given;
                }
            }
            Answer::Refused(words) => {
                let field = asks.get(i).map(|ask| ask.field.as_str()).unwrap_or_default();
                let refused =
                    format!("{field}: the request {name} was refused by its signer: {words}; make the Pod anew once that is mended");
                pending.refused = Some(refused.clone());
                return Ok(Progress::Refused(refused));
            }
        }
    }
    let given: Vec<_> = pending.asked.iter().filter_map(Asked::given).collect();
    if given.len() < asks.len() {
        let wait = POLL.saturating_mul(1 << pending.polls.min(10)).min(LONGEST);
        pending.polls = pending.polls.saturating_add(1);
        return Ok(Progress::Wait(wait));
    }
    let refresh = given.iter().map(|(_, _, refresh)| *refresh).min();
    let data = asks.iter().zip(given).map(|(ask, (key, chain, _))| (ask.keys.clone(), key, chain)).collect();
    Ok(Progress::Given(Certificates { data, refresh }))
}

impl Asked {
    fn given(&self) -> Option<(Secret, String, Timestamp)> {
        match self {
            Self::Given(key, chain, refresh) => Some((key.clone(), chain.clone(), *refresh)),
            Self::Waits(..) => None,
        }
    }
}

fn collection(pod: &PodOf<'_>) -> String {
    format!("/apis/certificates.k8s.io/v1/namespaces/{}/podcertificaterequests", pod.namespace)
}

/// The UIDs that a request names.
struct Who {
    account: Uid,
    node: Uid,
}

impl Who {
    async fn of(tenant: &Remote<Tenant>, pod: &PodOf<'_>, asks: &[CertificateAsk]) -> Result<Self, CallError> {
        let account = asks.first().map(|ask| ask.service_account.as_str()).unwrap_or_default();
        let account = uid(tenant, &format!("/api/v1/namespaces/{}/serviceaccounts/{account}", pod.namespace)).await?;
        Ok(Self { account, node: uid(tenant, &format!("/api/v1/nodes/{}", pod.node)).await? })
    }
}

async fn uid(tenant: &Remote<Tenant>, path: &str) -> Result<Uid, CallError> {
    let bytes = tenant.get(path, None).await?;
    Seen::of(&bytes).map(|seen| seen.facts.uid).map_err(unreadable)
}

fn unreadable(source: serde_json::Error) -> CallError {
    CallError::Unreadable { side: "tenant", source }
}

async fn request(tenant: &Remote<Tenant>, pod: &PodOf<'_>, who: &Who, ask: &CertificateAsk) -> Result<Asked, CallError> {
    let made = StubRequest::new(&ask.key_type).map_err(|error| unreadable(serde::de::Error::custom(error)))?;
    let pod_uid = pod.uid.to_string();
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": {
            "generateName": "req-",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod_uid}],
        },
        "spec": {
            "signerName": ask.signer, "podName": pod.name, "podUID": pod_uid,
            "serviceAccountName": ask.service_account, "serviceAccountUID": who.account.to_string(),
            "nodeName": pod.node, "nodeUID": who.node.to_string(),
            "maxExpirationSeconds": ask.max_expiration_seconds,
            "stubPKCS10Request": STANDARD.encode(&made.request),
            "unverifiedUserAnnotations": ask.annotations,
        },
    });
    let reply = tenant.create(&collection(pod), body.to_string().into_bytes(), None).await?;
    let name = Seen::of(&reply).map(|seen| Name::<Tenant>::parse(seen.name)).map_err(unreadable)?;
    let name = name.map_err(|error| unreadable(serde::de::Error::custom(error)))?;
    Ok(Asked::Waits(name, Secret::new(made.key)))
}

/// What a signer has said.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing yet.
    None,
    /// The chain, PEM, and when to ask anew.
    Issued(String, Timestamp),
    /// No, and why.
    Refused(String),
}

#[derive(Deserialize)]
struct Asking {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    conditions: Vec<Condition>,
    certificate_chain: String,
    begin_refresh_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

fn answer(bytes: &[u8]) -> Result<Answer, CallError> {
    let Asking { status } = serde_json::from_slice(bytes).map_err(unreadable)?;
    for condition in status.conditions {
        match condition.r#type.as_str() {
            "Issued" => {
                let chain = pem::parse_many(&status.certificate_chain).unwrap_or_default();
                let clean: Vec<_> = chain.into_iter().map(|one| pem::Pem::new("CERTIFICATE", one.into_contents())).collect();
                let chain = super::trust_bundles::encode(&clean);
                if chain.len() > MOST_BYTES {
                    return Err(too_large("certificates"));
                }
                // Who does not say when to ask anew is asked soon.
                return Ok(Answer::Issued(chain, status.begin_refresh_at.unwrap_or_else(Timestamp::now)));
            }
            "Denied" | "Failed" => {
                let words = format!("{} {}", condition.reason, condition.message);
                return Ok(Answer::Refused(words.trim().chars().take(WORDS).collect()));
            }
            _ => {}
        }
    }
    Ok(Answer::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: &serde_json::Value) -> Answer {
        answer(json!({"metadata": {}, "status": status}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_signer_says_is_taken_as_a_kubelet_takes_it() {
        let one = pem::encode_config(&pem::Pem::new("X", b"a".as_slice()), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF));
        assert_eq!(said(&json!({})), Answer::None);
        assert_eq!(said(&json!({"conditions": [{"type": "Other"}]})), Answer::None);
        let refresh = "2030-01-01T00:00:00Z";
        let status =
            json!({"conditions": [{"type": "Issued"}], "certificateChain": format!("words\n{one}more\n"), "beginRefreshAt": refresh});
        assert_eq!(said(&status), Answer::Issued(one.replace(" X-", " CERTIFICATE-"), refresh.parse().unwrap()));
        let status = json!({"conditions": [{"type": "Denied", "reason": "No", "message": "x".repeat(WORDS * 2)}]});
        assert!(matches!(said(&status), Answer::Refused(words) if words.starts_with("No xx") && words.len() == WORDS));
    }

    #[tokio::test(start_paused = true)]
    async fn certificates_are_never_asked_for_anew_at_once_whatever_their_signer_says() {
        let (now, day) = (Timestamp::now(), Duration::from_hours(24));
        assert!(at(Timestamp::MIN) >= Instant::now() + REFRESH.0 && at(now) >= Instant::now() + REFRESH.0);
        assert!(at(Timestamp::MAX) <= Instant::now() + REFRESH.1);
        let tomorrow = at(now + day);
        assert!(tomorrow > Instant::now() + day / 2 && tomorrow <= Instant::now() + day);
    }
}
