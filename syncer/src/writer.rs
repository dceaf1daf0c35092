//! Requests that change something: each is fenced by the lease, sent with the right identity, and its failure is judged in one place.

mod binding;
mod fence;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{InTenant, Namespace, Super, Tenant as TenantSide, TenantId, Uid, keys};
use mirror::cx::Policy;
use mirror::facts::Seen;
use mirror::kind::{Downward, KindId};
use mirror::object::Object;
use mirror::plan::recorded;
use mirror::{Cx, Facts};
use runtime::kubeconfig::Secret;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

pub use self::fence::Fence;
#[cfg(test)]
pub(crate) use self::fence::lease;
use crate::mounts::{secret, tokens};
use crate::remote::{CallError, Remote};
use crate::tenant::{Attached, SuperNamespace, Tenant};

/// What to do about a request that failed. There is no "drop".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after a back-off, at least this long.
    Retry(Duration),
    /// What we knew is out of date: read this side and plan again.
    Reread,
    /// Somebody has this name already: read it and see whose it is.
    Taken,
    /// The super namespace or the right to write into it is not there: see to it, then try again.
    Namespace,
    /// The server does not know who we are: the token is asked for anew before the next try.
    Stranger,
    /// The server says no to the object itself: tell the tenant, and wait for a change.
    Rejected {
        /// The Event's reason.
        reason: &'static str,
        /// What the server said.
        message: String,
    },
    /// What is asked for is somebody else's now, often only for a moment: try again, and tell the tenant if that does not help.
    Contested {
        /// The Event's reason.
        reason: &'static str,
        /// What the server said.
        message: String,
    },
    /// This process must not write.
    Fenced,
}

/// Super namespaces of one tenant at most. Each costs the super cluster a namespace, a RoleBinding, and what its controllers put there.
const NAMESPACES: usize = 2000;

fn too_many_namespaces() -> CallError {
    CallError::Status {
        side: "super",
        code: 422,
        reason: "TooManyNamespaces".into(),
        message: format!("this control plane has {NAMESPACES} namespaces in the super cluster, and no more are made; delete some"),
        retry_after: None,
    }
}

/// The reason of a super namespace whose name somebody else has.
const NAMESPACE_TAKEN: &str = "NamespaceTaken";

/// The reason of a Service whose address another has.
const ADDRESS_TAKEN: &str = "AddressTaken";

/// The least time before another try.
const SOON: Duration = Duration::from_millis(100);

/// Judges a failed request. `create` tells a name that is taken from a version that moved.
pub fn judge(error: &CallError, create: bool) -> Verdict {
    match error {
        CallError::Fenced => Verdict::Fenced,
        CallError::Transport { .. } | CallError::Unreadable { .. } | CallError::Endless { .. } => Verdict::Retry(SOON),
        CallError::Status { code, reason, message, retry_after, .. } => match code {
            404 if reason == tokens::REFUSED => Verdict::Contested { reason: tokens::REFUSED, message: message.clone() },
            404 if create => Verdict::Namespace,
            409 if create && reason == "AlreadyExists" => Verdict::Taken,
            409 if reason == NAMESPACE_TAKEN => Verdict::Rejected { reason: NAMESPACE_TAKEN, message: message.clone() },
            409 if reason == secret::NAME_TAKEN => Verdict::Rejected { reason: secret::NAME_TAKEN, message: message.clone() },
            404 | 409 => Verdict::Reread,
            401 => Verdict::Stranger,
            403 => forbidden(message),
            // The object of our JSON patch is another by now, or another version.
            422 if message.contains("test failed") => Verdict::Reread,
            // An address is free some time after its Service is gone, and a Service that is replaced asks for it at once.
            422 if message.contains("already allocated") => Verdict::Contested { reason: ADDRESS_TAKEN, message: message.clone() },
            400 | 413 | 422 => rejected("Rejected", message),
            _ => Verdict::Retry(retry_after.unwrap_or(SOON)),
        },
    }
}

/// Whether an address or a family was asked for that the super cluster does not serve.
pub fn is_not_served(error: &CallError) -> bool {
    let words = [
        "does not match the current range",
        "is not in the valid range",
        "not configured on this cluster",
        "not configured for dual-stack",
    ];
    matches!(error, CallError::Status { code: 422, message, .. } if words.iter().any(|words| message.contains(words)))
}

/// What admission says while it is not ready to decide: nothing about the object.
///
/// *Sources*: the plugins `ServiceAccount` and `ResourceQuota`, and `WaitForReady` of all that have informers, in Kubernetes 1.30–1.35.
/// The last is said to the syncer itself, which may not give away what it does not have: its own role is to be mended.
const UNDECIDED: [&str; 4] = [
    "error looking up service account",
    "status unknown for quota",
    "not yet ready to handle request",
    "is attempting to grant RBAC permissions",
];

/// The policies that come with the syncer, which say what a tenant may change.
const OUR_POLICIES: &str = "vc-";

/// A refusal, as much as a tenant may read of it. What policies and webhooks of the super cluster's own say is written for its
/// administrators: who has them, and about what and whom. Of our policies it is what they say.
fn rejected(reason: &'static str, message: &str) -> Verdict {
    let policies: Vec<&str> = message.split("ValidatingAdmissionPolicy '").skip(1).collect();
    let message = match policies.last() {
        _ if message.contains("admission webhook") || !policies.iter().all(|policy| policy.starts_with(OUR_POLICIES)) => FOREIGN,
        Some(policy) => policy.split_once(" denied request: ").map_or(FOREIGN, |(_, said)| said),
        None => message,
    };
    Verdict::Rejected { reason, message: message.to_owned() }
}

/// What a tenant reads of a refusal that is none of ours.
const FOREIGN: &str = "a policy of the super cluster does not allow it; its administrator can say why";

/// What a "forbidden" means. Only what the authorizer says is about rights; all else is about the object, and looking after the
/// RoleBinding mends none of it.
fn forbidden(message: &str) -> Verdict {
    let says = |what: &str| message.contains(what);
    let rejected = |reason| rejected(reason, message);
    if says("violates PodSecurity") || says("ValidatingAdmissionPolicy") || says("admission webhook") {
        rejected("PolicyDenied")
    } else if says("exceeded quota") {
        rejected("QuotaExceeded")
    } else if says("is being terminated") || (says("User \"") && says("\" cannot ")) {
        Verdict::Namespace
    } else if UNDECIDED.iter().any(|what| says(what)) {
        Verdict::Retry(SOON)
    } else {
        rejected("Forbidden")
    }
}

/// Writes to the super cluster with each tenant's own identity. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    sup: Remote<Super>,
    fence: Fence,
    policy: Arc<Policy>,
}

#[derive(Deserialize)]
struct TokenReply {
    status: TokenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    token: String,
    expiration_timestamp: String,
}

/// A token that an API server has issued.
pub struct Issued {
    /// The token.
    pub token: Secret,
    /// When it expires, RFC 3339.
    pub expires: jiff::Timestamp,
}

/// Reads the answer to a TokenRequest. The expiry is the one in the answer, never the token's own.
pub fn read_token(bytes: &[u8], side: &'static str) -> Result<Issued, CallError> {
    let unreadable = |source| CallError::Unreadable { side, source };
    let reply: TokenReply = serde_json::from_slice(bytes).map_err(unreadable)?;
    let expires = reply.status.expiration_timestamp.parse().map_err(|error: jiff::Error| unreadable(serde::de::Error::custom(error)))?;
    Ok(Issued { token: Secret::new(reply.status.token), expires })
}

/// How long a writer's token is asked for, in seconds.
const WRITER_TOKEN_SECONDS: u32 = 3600;

impl Writer {
    /// Writes through `sup` while `fence` allows, as `policy` wants namespaces to be.
    pub fn new(sup: Remote<Super>, fence: Fence, policy: Arc<Policy>) -> Self {
        Self { sup: sup.fenced(fence.clone()), fence, policy }
    }

    /// The super API server.
    pub fn sup(&self) -> &Remote<Super> {
        &self.sup
    }

    /// The right to write.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The tenant's writer token, asked for anew at 80 % of its life.
    pub async fn token(&self, attached: &Attached) -> Result<Secret, CallError> {
        let mut slot = attached.writer.lock().await;
        if let Some((token, renew)) = slot.as_ref()
            && Instant::now() < *renew
        {
            return Ok(token.clone());
        }
        let issued = self.issue(&attached.id).await?;
        let renew = Instant::now() + Duration::from_secs(u64::from(WRITER_TOKEN_SECONDS) * 4 / 5);
        *slot = Some((issued.token.clone(), renew));
        Ok(issued.token)
    }

    /// A token of a tenant's writer, attached or not.
    pub async fn issue(&self, id: &TenantId) -> Result<Issued, CallError> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", keys::WRITERS_NAMESPACE, id.writer());
        let ask =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": WRITER_TOKEN_SECONDS}})
                .to_string();
        let reply = match self.sup.create(&path, ask.clone().into_bytes(), None).await {
            Err(error) if error.is_not_found() => {
                self.make_account(id).await?;
                self.sup.create(&path, ask.into_bytes(), None).await?
            }
            other => other?,
        };
        read_token(&reply, "super")
    }

    /// Forgets the writer's token: the server did not take it.
    pub async fn forget_token(&self, attached: &Attached) {
        *attached.writer.lock().await = None;
    }

    async fn make_account(&self, id: &TenantId) -> Result<(), CallError> {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": id.writer(), "labels": {keys::TENANT: id.as_str()}},
            "automountServiceAccountToken": false,
        });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts", keys::WRITERS_NAMESPACE);
        done_or_there(self.sup.create(&path, account.to_string().into_bytes(), None).await)
    }

    /// Makes the super namespace of a tenant namespace, with its record and the writer's RoleBinding, or checks the record of the one
    /// that is there. `None`: not now, it is being deleted.
    ///
    /// *Errors*: `NamespaceTaken` (as a status 409) where somebody else's namespace has the name.
    pub async fn namespace(
        &self,
        tenant: &Tenant,
        attached: &Attached,
        namespace: &Namespace<TenantSide>,
    ) -> Result<Option<Namespace<Super>>, CallError> {
        let name = attached.id.namespace(namespace);
        if let Some(ready) = Self::known(tenant, attached, &name) {
            return Ok(ready.then_some(name));
        }
        let _one = attached.making_namespace.lock().await;
        if let Some(ready) = Self::known(tenant, attached, &name) {
            return Ok(ready.then_some(name));
        }
        let (there, count) = {
            let namespaces = tenant.namespaces.lock();
            (namespaces.contains_key(name.as_str()), namespaces.len())
        };
        if !there && count >= NAMESPACES {
            return Err(too_many_namespaces());
        }
        if !there {
            let made = self.create_namespace(tenant, attached, namespace, &name).await;
            note_taken(tenant, namespace, &name, &made);
            if !made? {
                return Ok(None);
            }
        }
        self.bind(attached, &name, !there).await?;
        if let Some(known) = tenant.namespaces.lock().get_mut(name.as_str()) {
            known.bound = true;
        }
        Ok(Some(name))
    }

    /// `Some(true)`: ready to be written into. `Some(false)`: not now. `None`: to be made, or its binding to be looked after.
    fn known(tenant: &Tenant, attached: &Attached, name: &Namespace<Super>) -> Option<bool> {
        let namespaces = tenant.namespaces.lock();
        let known = namespaces.get(name.as_str())?;
        if known.deleting || known.incarnation.is_some_and(|uid| uid != attached.incarnation) {
            return Some(false);
        }
        let current = Namespace::parse(&known.tenant_namespace).ok().and_then(|ns| attached.tenant_namespaces.get(&ns).map(|uid| *uid));
        if current.is_some_and(|uid| uid != known.tenant_uid) {
            return Some(false);
        }
        known.bound.then_some(true)
    }

    async fn create_namespace(
        &self,
        tenant: &Tenant,
        attached: &Attached,
        namespace: &Namespace<TenantSide>,
        name: &Namespace<Super>,
    ) -> Result<bool, CallError> {
        let Some(kind) = KindId::named("Namespace").and_then(KindId::downward) else { return Ok(false) };
        let resource = kind.resource();
        let bytes = attached.remote.get(&resource.path(None, namespace.as_str()), None).await?;
        let unreadable = |source| CallError::Unreadable { side: "tenant", source };
        let body = Object::parse(&bytes).map_err(|error| unreadable(serde::de::Error::custom(error)))?;
        if body.meta.name != namespace.as_str() {
            return Err(unreadable(serde::de::Error::custom("it is another object than the one that was asked for")));
        }
        if body.meta.deletion.is_some() {
            return Ok(false);
        }
        let facts = Seen::of_resource(&bytes, &resource).map_err(unreadable)?.facts;
        attached.tenant_namespaces.insert(namespace.clone(), facts.uid);
        let content = self.namespace_content(kind, attached, body, &facts, name)?;
        let created = self.sup.create(&resource.collection(None), content, None).await;
        let bytes = match created {
            Err(error) if error.is_already_exists() => self.sup.get(&resource.path(None, name.as_str()), None).await?,
            other => other?,
        };
        match note_namespace(tenant, &bytes) {
            Some(owner) if owner == (attached.id.uid(), facts.uid) => Ok(true),
            Some((uid, _)) if uid == attached.id.uid() => Ok(false),
            Some(_) | None => Err(CallError::Status {
                side: "super",
                code: 409,
                reason: NAMESPACE_TAKEN.into(),
                message: format!("the namespace {name} of the super cluster is not this tenant's; ask the administrator to remove it"),
                retry_after: None,
            }),
        }
    }

    fn namespace_content(
        &self,
        kind: &dyn Downward,
        attached: &Attached,
        body: Object,
        facts: &Facts,
        name: &Namespace<Super>,
    ) -> Result<Vec<u8>, CallError> {
        let body = InTenant(body);
        let content = attached.with_cx(&self.policy, |cx| {
            let cx = Cx { super_namespace: Some(name), ..cx };
            kind.down(&body, &cx).map(|asked| recorded(asked.0, &body, facts, &cx))
        });
        let mut content = content.map_err(|hold| CallError::Status {
            side: "tenant",
            code: 422,
            reason: "Held".into(),
            message: hold.to_string(),
            retry_after: None,
        })?;
        content.annotations.insert(keys::INCARNATION.to_owned(), attached.incarnation.to_string());
        Ok(content.to_create(&kind.resource(), None, name.as_str()))
    }

    /// The right to write was refused: the binding is looked after again before the next try.
    pub fn mistrust(&self, tenant: &Tenant, name: &Namespace<Super>) {
        if let Some(known) = tenant.namespaces.lock().get_mut(name.as_str()) {
            known.bound = false;
        }
    }
}

/// Remembers a super namespace that is somebody else's, for the administrator to see and the patrol to look at.
fn note_taken(tenant: &Tenant, namespace: &Namespace<TenantSide>, name: &Namespace<Super>, made: &Result<bool, CallError>) {
    let mut taken = tenant.taken.lock();
    if matches!(made, Err(CallError::Status { side: "super", reason, .. }) if reason == NAMESPACE_TAKEN) {
        taken.insert(name.as_str().into(), namespace.clone());
    } else {
        taken.remove(name.as_str());
    }
}

/// Takes a super namespace into what is known of its tenant. Returns whose it is: VirtualCluster UID and tenant namespace UID.
pub fn note_namespace(tenant: &Tenant, bytes: &Bytes) -> Option<(Uid, Uid)> {
    let seen = Seen::of(bytes).ok()?;
    let owner = seen.owner.ok()?;
    let object = Object::parse(bytes).ok()?;
    let incarnation = object.meta.annotations.get(keys::INCARNATION).and_then(|text| Uid::parse(text).ok());
    let name: Arc<str> = seen.name.into();
    let mut namespaces = tenant.namespaces.lock();
    let bound = namespaces.get(&name).map(|known| known.bound);
    let known = SuperNamespace {
        uid: seen.facts.uid,
        tenant_namespace: owner.name.as_str().into(),
        tenant_uid: owner.uid,
        incarnation,
        deleting: seen.facts.deleting,
        bound: bound.unwrap_or(false),
    };
    namespaces.insert(name, known);
    Some((owner.tenant, owner.uid))
}

fn done_or_there(result: Result<Bytes, CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The facts of a super copy that is only patrolled: it is seen without its content, so any new version is a move.
pub fn without_content(facts: Facts) -> Facts {
    Facts { main: facts.version, status: 0, ..facts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(side: &'static str, code: u16, reason: &str) -> CallError {
        CallError::Status { side, code, reason: reason.into(), message: "m".into(), retry_after: None }
    }

    #[test]
    fn an_address_that_is_not_served_is_told_from_one_that_is_taken() {
        let answer = |why: &str| CallError::Status {
            side: "super",
            code: 422,
            reason: "Invalid".into(),
            message: format!(
                "Service \"a\" is invalid: spec.clusterIPs: Invalid value: [\"172.30.0.1\"]: failed to allocate IP 172.30.0.1: {why}"
            ),
            retry_after: None,
        };
        assert!(is_not_served(&answer("the provided network does not match the current range")));
        assert!(is_not_served(&answer("the provided IP (172.30.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16")));
        assert!(is_not_served(&answer("spec.ipFamilies[1]: Invalid value: [\"IPv4\",\"IPv6\"]: not configured on this cluster")));
        assert!(is_not_served(&answer("spec.clusterIPs[1]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster")));
        assert!(is_not_served(&answer("spec.ipFamilyPolicy: this cluster is not configured for dual-stack services")));
        assert!(!is_not_served(&answer("provided IP is already allocated")));
    }

    #[test]
    fn s42_a_token_that_expires_on_a_day_that_there_is_not_is_none() {
        let read = |expires: &str| {
            let answer = format!(r#"{{"status":{{"token":"t","expirationTimestamp":"{expires}"}}}}"#);
            read_token(answer.as_bytes(), "tenant").map(|issued| issued.expires)
        };
        assert!(read("2026-01-01T00:00:00Z").is_ok());
        for no_day in
            ["9999-12-31T23:59:59Z", "+999999-01-01T00:00:00Z", "-999999-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026", "never", ""]
        {
            assert!(matches!(read(no_day), Err(CallError::Unreadable { side: "tenant", .. })), "{no_day}");
        }
        // The first and the last that there are can be read; when a token is renewed has bounds of its own.
        assert!(read("-009999-01-02T01:59:59Z").is_ok() && read("9999-12-30T22:00:00Z").is_ok());
    }

    #[test]
    fn what_another_try_cannot_mend_is_told_and_not_tried_in_a_hurry() {
        assert!(matches!(judge(&status("super", 409, NAMESPACE_TAKEN), true), Verdict::Rejected { reason: NAMESPACE_TAKEN, .. }));
        assert!(matches!(judge(&status("tenant", 404, tokens::REFUSED), true), Verdict::Contested { reason: tokens::REFUSED, .. }));
        assert_eq!(judge(&status("super", 404, "NotFound"), true), Verdict::Namespace);
        assert_eq!(judge(&status("tenant", 409, "Conflict"), false), Verdict::Reread);
    }

    #[test]
    fn s51_what_policies_of_the_super_cluster_say_is_for_its_administrators() {
        let told = |code, message: &str| {
            let error = CallError::Status { side: "super", code, reason: String::new(), message: message.into(), retry_after: None };
            let Verdict::Rejected { reason, message } = judge(&error, true) else { panic!("not rejected: {message}") };
            (reason, message)
        };
        let ours = "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'vc-tenant-writer-pods' with binding 'b' denied request: no";
        // Of our own what it says, and not how it is called.
        assert_eq!(told(422, ours), ("Rejected", "no".to_owned()));
        assert_eq!(told(403, ours), ("PolicyDenied", "no".to_owned()));
        for (code, reason, message) in [
            (403, "PolicyDenied", "admission webhook \"w.acme.example\" denied the request: team b has node-7"),
            (400, "Rejected", "admission webhook \"w.acme.example\" denied the request: team b has node-7"),
            (422, "Rejected", "ValidatingAdmissionPolicy 'team-b' with binding 'b' denied request: node-7"),
        ] {
            let (told_reason, told) = told(code, message);
            assert_eq!(told_reason, reason);
            assert!(!told.contains("acme") && !told.contains("team") && !told.contains("node-7"), "{told}");
        }
    }

    #[test]
    fn s34_only_what_the_authorizer_says_is_taken_for_a_missing_right() {
        let word = |verdict: &Verdict| match verdict {
            Verdict::Namespace => "a right",
            Verdict::Retry(_) => "not now",
            Verdict::Rejected { reason, .. } => *reason,
            Verdict::Reread | Verdict::Taken | Verdict::Stranger | Verdict::Contested { .. } | Verdict::Fenced => "something else",
        };
        let cases = [
            (
                r#"pods is forbidden: User "system:serviceaccount:vc-writers:w-a" cannot create resource "pods" in API group "" in the namespace "vc-a""#,
                "a right",
            ),
            (r#"pods "a" is forbidden: unable to create new content in namespace vc-a because it is being terminated"#, "a right"),
            (r#"pods "a" is forbidden: maximum cpu usage per Container is 1, but limit is 2"#, "Forbidden"),
            (r#"pods "a" is forbidden: failed quota: q: must specify limits.cpu for: main"#, "Forbidden"),
            (r#"pods "a" is forbidden: pod rejected: RuntimeClass "kata" not found"#, "Forbidden"),
            (r#"pods "a" is forbidden: pod node label selector conflicts with its namespace node label selector"#, "Forbidden"),
            (r#"pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"#, "QuotaExceeded"),
            (r#"pods "a" is forbidden: violates PodSecurity "baseline:latest": host namespaces"#, "PolicyDenied"),
            (r#"pods "a" is forbidden: error looking up service account vc-a/default: serviceaccount "default" not found"#, "not now"),
            (r#"pods "a" is forbidden: status unknown for quota: q, resources: pods"#, "not now"),
        ];
        for (message, expected) in cases {
            let error =
                CallError::Status { side: "super", code: 403, reason: "Forbidden".into(), message: message.into(), retry_after: None };
            assert_eq!(word(&judge(&error, true)), expected, "{message}");
        }
        assert_eq!(judge(&status("super", 401, "Unauthorized"), true), Verdict::Stranger);
    }
}
