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

use super::secret::{Contents, too_large};
use super::{PodOf, encode, named};
use crate::remote::{CallError, Remote};
use crate::tenant::Attached;
use crate::writer::Fence;

/// Where a signer is waited for: the first distance and the longest.
const POLL: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// Looks after which the tenant is told whom it waits for: some seconds.
const PATIENT: u32 = 4;
/// The longest chain, in bytes: several times one of three certificates.
const MOST_BYTES: usize = 16 * 1024;
/// How soon and how late certificates are asked for anew, whatever a signer says: requests cost, and none lives longer than 91 days.
const REFRESH: (Duration, Duration) = (Duration::from_mins(10), Duration::from_hours(91 * 24));
/// What of a signer's own words is repeated, in characters.
const WORDS: usize = 300;

/// Certificates that were asked for, until all are there and written.
pub struct Pending {
    pod: Uid,
    asked: Vec<Asked>,
    polls: u32,
    refused: Option<String>,
    /// Nobody is asked before.
    next: Option<Instant>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("polls", &self.polls).finish_non_exhaustive()
    }
}

enum Asked {
    /// Not yet, or what was asked is gone.
    No,
    /// The name of the request, and the key that it is for.
    Waits(Name<Tenant>, Secret),
    /// Key, chain, and when to ask anew.
    Given(Secret, String, Timestamp),
}

/// How far it is.
pub enum Progress {
    /// All are there.
    Given(Certificates),
    /// Look again then; whose answer is waited for, once that takes long.
    Wait(Instant, Option<String>),
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
    let pending = pending.insert(own.unwrap_or_else(|| Box::new(Pending::new(pod.uid))));
    pending.asked.resize_with(asks.len(), || Asked::No);
    if let Some(refused) = &pending.refused {
        return Ok(Progress::Refused(refused.clone()));
    }
    if let Some(next) = pending.next.filter(|next| Instant::now() < *next) {
        return Ok(Progress::Wait(next, None));
    }
    let remote = &attached.remote;
    if pending.asked.iter().any(|asked| matches!(asked, Asked::No)) {
        let who = Who::of(remote, pod, asks).await?;
        for (asked, ask) in pending.asked.iter_mut().zip(asks) {
            if matches!(asked, Asked::No) {
                fence.check()?;
                *asked = request(remote, pod, &who, ask).await?;
            }
        }
    }
    let mut waits = None;
    for (asked, ask) in pending.asked.iter_mut().zip(asks) {
        let Asked::Waits(name, key) = asked else { continue };
        match remote.get(&format!("{}/{name}", collection(pod)), None).await {
            Ok(bytes) => match answer(&bytes)? {
                Answer::None => waits = Some(format!("{}: the signer {} has not answered the request {name} yet", ask.field, ask.signer)),
                Answer::Issued(chain, refresh) => *asked = Asked::Given(key.clone(), chain, refresh),
                Answer::Refused(words) => {
                    let refused = format!(
                        "{}: the request {name} was refused by its signer: {words}; make the Pod anew once that is mended",
                        ask.field
                    );
                    pending.refused = Some(refused.clone());
                    return Ok(Progress::Refused(refused));
                }
            },
            // Somebody has deleted it: it is asked for anew, at the pace of looking.
            Err(error) if error.is_not_found() => *asked = Asked::No,
            Err(error) => return Err(error),
        }
    }
    let given: Vec<_> = pending.asked.iter().filter_map(Asked::given).collect();
    if given.len() < asks.len() {
        return Ok(pending.wait(waits));
    }
    let refresh = given.iter().map(|(_, _, refresh)| *refresh).min();
    let data = asks.iter().zip(given).map(|(ask, (key, chain, _))| (ask.keys.clone(), key, chain)).collect();
    Ok(Progress::Given(Certificates { data, refresh }))
}

impl Pending {
    fn new(pod: Uid) -> Self {
        Self { pod, asked: Vec::new(), polls: 0, refused: None, next: None }
    }

    /// Whether all that was asked for has been given.
    pub fn is_given(&self) -> bool {
        self.refused.is_none() && self.asked.iter().all(|asked| matches!(asked, Asked::Given(..)))
    }

    fn wait(&mut self, whom: Option<String>) -> Progress {
        let next = Instant::now() + POLL.saturating_mul(1 << self.polls.min(10)).min(LONGEST);
        (self.polls, self.next) = (self.polls.saturating_add(1), Some(next));
        Progress::Wait(next, whom.filter(|_| self.polls > PATIENT))
    }
}

impl Asked {
    fn given(&self) -> Option<(Secret, String, Timestamp)> {
        match self {
            Self::Given(key, chain, refresh) => Some((key.clone(), chain.clone(), *refresh)),
            Self::Waits(..) | Self::No => None,
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
        let (account, node) = (named("ServiceAccount", account)?, named("node", pod.node)?);
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}", pod.namespace);
        Ok(Self { account: uid(tenant, &path).await?, node: uid(tenant, &format!("/api/v1/nodes/{node}")).await? })
    }
}

async fn uid(tenant: &Remote<Tenant>, path: &str) -> Result<Uid, CallError> {
    let bytes = tenant.get(path, None).await.map_err(|error| absent(error, "its ServiceAccount or its node is not there"))?;
    Seen::of(&bytes).map(|seen| seen.facts.uid).map_err(unreadable)
}

/// What is not there is said to the tenant: to look at the Pod again would not help.
fn absent(error: CallError, what: &str) -> CallError {
    if !error.is_not_found() {
        return error;
    }
    let message = format!("no certificate can be asked for this Pod: {what}");
    CallError::Status { side: "tenant", code: 422, reason: "NoCertificate".into(), message, retry_after: None }
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
    let reply = tenant.create(&collection(pod), body.to_string().into_bytes(), None).await;
    let reply = reply
        .map_err(|error| absent(error, "this API server knows no PodCertificateRequest (certificates.k8s.io/v1, since Kubernetes 1.37)"))?;
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
                let chain = encode(chain.into_iter().map(pem::Pem::into_contents));
                if chain.len() > MOST_BYTES {
                    return Err(too_large("certificates that this Pod mounts are"));
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

    #[test]
    fn every_key_that_goes_down_is_made() {
        for key_type in mirror::mounts::KEY_TYPES {
            assert!(StubRequest::new(key_type).is_ok(), "{key_type}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_asked_ever_less_and_told_of() {
        let mut pending = Pending::new(Uid::from_bits(1));
        let mut told = 0;
        for poll in 0..30 {
            let Progress::Wait(next, whom) = pending.wait(Some("the signer".to_owned())) else { panic!("{poll}") };
            assert!(next >= Instant::now() + POLL && next <= Instant::now() + LONGEST, "{poll}");
            told += usize::from(whom.is_some());
            assert_eq!(whom.is_some(), poll >= PATIENT, "{poll}");
        }
        assert!(told > 20);
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
