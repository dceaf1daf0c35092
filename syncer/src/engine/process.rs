//! Work on one key: look, decide, write, until there is nothing to do or nothing can be done.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{InSuper, InTenant, Name, Namespace, Super, Uid, keys};
use mirror::cx::Profile;
use mirror::facts::Seen;
use mirror::hold::{Hold, Missing};
use mirror::kind::{Demand, Downward, Observe};
use mirror::object::Object;
use mirror::plan::{Copy, Evidence, Mark, Outcome, Pair, Settled, Step, SuperSide, TenantSide, Want, plan};
use mirror::{Cx, Facts};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::intake::{chain, learn_address, super_known};
use super::patrol::has_patrolled;
use crate::brake::Say;
use crate::events::{About, Severity};
use crate::index::{Body, Key, Slot, Tokens, uid_of};
use crate::remote::{CallError, Patch};
use crate::repeat::Repeat;
use crate::tenant::{Attached, Tenant};
use crate::tokens;
use crate::work::Lane;
use crate::writer::{Verdict, judge};

/// How work on a key ended.
#[derive(Debug)]
enum End {
    /// Nothing to do until a side moves.
    Rest,
    /// Try again after a back-off, at least this long.
    Retry(Duration),
    /// Look again at this time (a token to renew).
    At(Instant),
}

/// Reads and plans a key takes at most before it goes back into the queue.
const ROUNDS: usize = 8;
/// The longest back-off.
const LONGEST: Duration = Duration::from_mins(1);
/// How long after a refusal the pair is looked at again, if neither side moves: a quota or a policy may have.
const REFUSED: Duration = Duration::from_mins(5);
/// Tries in vain after which the tenant is told that another has what it asks for: some seconds.
const CONTESTED: u32 = 5;

/// A worker that waits so long for a key takes up others beside it.
const PATIENCE: Duration = Duration::from_millis(500);
/// Keys that one worker has put aside at most.
const ASIDE: usize = 64;

/// How long the first Pods of a tenant wait for the address of their API server.
const ADDRESS: Duration = Duration::from_secs(30);

/// One key with everything around it.
struct Job<'a> {
    engine: &'a Engine,
    tenant: &'a Arc<Tenant>,
    attached: &'a Arc<Attached>,
    key: &'a Key,
    kind: &'static dyn Downward,
    namespace: Option<Namespace<Super>>,
    name: Name<Super>,
}

/// The part of a list that says how new it is, and whether there is anything in it.
#[derive(serde::Deserialize)]
struct Standing {
    #[serde(default)]
    metadata: crate::remote::ListMeta,
    #[serde(default)]
    items: Option<Vec<serde::de::IgnoredAny>>,
}

/// What steps have shown of the two copies.
#[derive(Default)]
struct Shown {
    tenant: Option<Facts>,
    sup: Option<Facts>,
}

impl Engine {
    /// Works on keys by turn, until asked to stop; a key that was begun is ended. One that takes long is put aside, so that an API server
    /// that answers late, or not at all, keeps no worker from the keys of others; its own tenant has only so many under way.
    pub(super) async fn work_until(&self, stop: &CancellationToken) {
        let mut aside = FuturesUnordered::new();
        loop {
            let (lane, key) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = aside.next() => continue,
                item = self.0.work.pop(), if aside.len() < ASIDE => item,
            };
            let mut job = Box::pin(self.work_guarded(lane, key));
            let patience = tokio::time::sleep(PATIENCE);
            tokio::pin!(patience);
            loop {
                tokio::select! {
                    () = &mut job => break,
                    Some(()) = aside.next() => {}
                    () = &mut patience => {
                        aside.push(job);
                        break;
                    }
                }
            }
        }
        while aside.next().await.is_some() {}
    }

    /// Works on one key. A panic stops here.
    async fn work_guarded(&self, lane: Lane, key: Key) {
        if let Some(tenant) = self.0.tenants.get(&lane)
            && AssertUnwindSafe(self.work_on(&tenant, &key)).catch_unwind().await.is_err()
        {
            tracing::error!(tenant = %lane, object = %key, "work on a key panicked");
            self.0.metrics.failed(key.kind.kind().resource().kind, "panicked");
            self.0.work.push_after(&lane, key.clone(), REFUSED);
        }
        self.0.work.done(&lane, &key);
    }

    async fn work_on(&self, tenant: &Arc<Tenant>, key: &Key) {
        let (Some(attached), Some(kind)) = (tenant.attached(), key.kind.downward()) else { return };
        if attached.is_halted() || !self.may_look(tenant, key, kind) {
            return;
        }
        let silent = attached.breaker.lock().wait(Instant::now());
        if let Some(wait) = silent {
            self.0.work.push_after(&tenant.lane, key.clone(), wait.mul_f64(rand::rng().random_range(1.0..2.0)));
            return;
        }
        let namespace = key.namespace.as_ref().map(|ns| attached.id.namespace(ns));
        let name = match kind.demand() {
            Demand::Contents => Name::of_namespace(&attached.id, &key.name),
            Demand::Always | Demand::Referenced => kind.rename(&key.name),
        };
        let job = Job { engine: self, tenant, attached: &attached, key, kind, namespace, name };
        let end = job.run().await;
        tenant.index.lock().make_room(key);
        match end {
            End::Rest => {}
            End::Retry(least) => {
                let failures = {
                    let mut index = tenant.index.lock();
                    let Some(entry) = index.get_mut(key) else { return };
                    entry.failures = entry.failures.saturating_add(1);
                    entry.failures
                };
                self.0.work.push_after(&tenant.lane, key.clone(), backoff(failures).max(least.min(LONGEST * 5)));
            }
            End::At(when) => self.0.work.push_after(&tenant.lane, key.clone(), when.saturating_duration_since(Instant::now())),
        }
    }

    /// Whether both sides of a kind have been listed, so that absence counts; for Pods that of their tokens too.
    fn may_look(&self, tenant: &Tenant, key: &Key, kind: &dyn Downward) -> bool {
        let listed = match kind.observe() {
            Observe::Watched if kind.graceful() => self.super_synced() && has_patrolled(tenant),
            Observe::Watched => self.super_synced(),
            Observe::Patrolled => self.super_synced() && tenant.index.lock().synced(key.kind, true),
        };
        listed && tenant.index.lock().synced(key.kind, false)
    }
}

/// Full jitter over a doubling cap.
fn backoff(failures: u32) -> Duration {
    let cap = Duration::from_millis(100).saturating_mul(1 << failures.min(10)).min(LONGEST);
    cap.mul_f64(rand::rng().random_range(0.5..1.0))
}

impl Job<'_> {
    async fn run(&self) -> End {
        // Nobody tells us when an object that is not ours goes away.
        let is_foreign = self.tenant.index.lock().get(self.key).is_some_and(|entry| matches!(entry.sup, Slot::Foreign));
        if is_foreign && let Err(error) = self.fetch(Want::Super).await {
            return self.failed(&error, false).await;
        }
        for _ in 0..ROUNDS {
            let (pair, tokens) = self.pair();
            let profile = self.attached.profile();
            let planned = self.plan(&pair, &profile);
            if let Some(references) = planned.references {
                let references = if self.engine.0.options.sync_unreferenced { Vec::new() } else { references };
                let moved = self.tenant.index.lock().hold(self.key, &references);
                self.engine.0.work.push_each(&self.tenant.lane, moved);
            }
            self.engine.0.metrics.planned(self.kind.resource().kind, outcome_name(&planned.outcome));
            match planned.outcome {
                Outcome::Settled(reported) => match self.tokens(&pair, tokens).await {
                    Ok(end) => {
                        self.settle(&pair, &Shown::default(), reported);
                        return end;
                    }
                    Err(error) => return self.failed(&error, false).await,
                },
                Outcome::Forget => {
                    let unwanted = self.tenant.index.lock().forget(self.key);
                    self.engine.0.work.push_each(&self.tenant.lane, unwanted);
                    return End::Rest;
                }
                Outcome::Hold(hold) => return self.hold(&pair, &hold),
                Outcome::Fetch(want) => {
                    if let Err(error) = self.fetch(want).await {
                        return self.failed(&error, false).await;
                    }
                }
                Outcome::Write { steps, reported } => {
                    if let Some(end) = self.write(&pair, steps, reported).await {
                        return end;
                    }
                }
            }
        }
        End::Retry(Duration::ZERO)
    }

    fn plan(&self, pair: &Pair, profile: &Profile) -> mirror::plan::Plan {
        let nodes = self.attached.nodes();
        plan(self.kind, pair, &self.cx(profile, &nodes))
    }

    fn cx<'a>(&'a self, profile: &'a Profile, nodes: &'a std::collections::BTreeSet<String>) -> Cx<'a> {
        Cx {
            tenant: &self.attached.id,
            policy: &self.engine.0.policy,
            profile,
            namespace: self.key.namespace.as_ref().map(Namespace::as_str),
            super_namespace: self.namespace.as_ref(),
            nodes,
        }
    }

    /// The pair as the planner sees it.
    fn pair(&self) -> (Pair, Tokens) {
        let mut index = self.tenant.index.lock();
        // Until every holder has been asked, what is there stays.
        let there = index.get(self.key).is_some_and(|entry| matches!(entry.sup, Slot::Here(..)));
        let wanted = self.engine.0.options.sync_unreferenced || index.wanted(self.key) || (there && !index.holders_known());
        let Some(entry) = index.get(self.key) else {
            let (tenant, sup) = (TenantSide::Absent(Evidence::Seen), SuperSide::Absent(Evidence::Seen));
            return (Pair { tenant, sup, settled: None, wanted }, Tokens::None);
        };
        let (tenant, sup) = (entry.tenant.clone(), entry.sup.clone());
        let bytes = |body: &Option<Body>| body.as_ref().map(|body| body.bytes().clone());
        let (tenant_body, super_body) = (bytes(&entry.tenant_body), bytes(&entry.sup_body));
        let (settled, tokens) = (entry.settled, entry.tokens);
        drop(index);
        let parse = |bytes: Option<Bytes>| bytes.and_then(|bytes| Object::parse(&bytes).ok());
        let tenant = match tenant {
            Slot::Here(facts, ()) => TenantSide::Here(Copy { facts, body: parse(tenant_body).map(InTenant) }),
            Slot::Absent(evidence) => TenantSide::Absent(evidence),
            Slot::Unknown | Slot::Foreign => TenantSide::Absent(Evidence::Inferred),
        };
        let sup = match sup {
            Slot::Here(facts, place) if *place.name == *self.name.as_str() && *place.namespace == *self.namespace_text() => {
                SuperSide::Ours(Copy { facts, body: parse(super_body).map(InSuper) }, place.owner)
            }
            // Our record, but not in the place where it would be: nobody's.
            Slot::Here(..) | Slot::Foreign => SuperSide::Foreign,
            Slot::Absent(evidence) => SuperSide::Absent(evidence),
            Slot::Unknown => SuperSide::Absent(Evidence::Inferred),
        };
        (Pair { tenant, sup, settled, wanted }, tokens)
    }

    fn namespace_text(&self) -> &str {
        self.namespace.as_ref().map(Namespace::as_str).unwrap_or_default()
    }

    fn super_path(&self) -> String {
        self.kind.resource().path(self.namespace.as_ref().map(Namespace::as_str), self.name.as_str())
    }

    fn tenant_path(&self) -> String {
        self.kind.resource().path(self.key.namespace.as_ref().map(Namespace::as_str), self.key.name.as_str())
    }

    /// Reads one side, as a quorum read.
    async fn fetch(&self, want: Want) -> Result<(), CallError> {
        // What is not found is what was known before it was asked for; what turned up meanwhile is another.
        let before = self.tenant.index.lock().get(self.key).map(|entry| (uid_of(&entry.tenant), uid_of(&entry.sup))).unwrap_or_default();
        match want {
            Want::Tenant => match self.attached.remote.get(&self.tenant_path(), None).await {
                Ok(bytes) => self.tenant_known(&bytes).map(|_| ()),
                Err(error) if error.is_not_found() => {
                    self.confirm_absence().await?;
                    self.brake()?;
                    self.tenant.index.lock().tenant_gone(self.key, before.0);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Want::Super => {
                let bearer = self.bearer().await?;
                match self.engine.sup().get(&self.super_path(), bearer.as_ref()).await {
                    Ok(bytes) => {
                        self.super_read(&bytes);
                        Ok(())
                    }
                    Err(error) if error.is_not_found() || self.is_without_namespace(&error).await => {
                        self.brake()?;
                        let mut index = self.tenant.index.lock();
                        let entry = index.entry(self.key);
                        if uid_of(&entry.sup).is_none_or(|uid| Some(uid) == before.1) {
                            entry.sup = Slot::Absent(Evidence::Seen);
                            entry.sup_body = None;
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Whether nothing may be read because the whole super namespace is gone, and with it the right to read: the writer hears "forbidden",
    /// so the namespace is asked for as ourselves.
    async fn is_without_namespace(&self, error: &CallError) -> bool {
        let Some(namespace) = self.namespace.as_ref().filter(|_| error.code() == Some(403)) else { return false };
        if self.tenant.namespaces.lock().contains_key(namespace.as_str()) {
            return false;
        }
        let found = self.engine.sup().get(&format!("/api/v1/namespaces/{namespace}"), None).await;
        found.is_err_and(|error| error.is_not_found())
    }

    /// "Not found" counts only from the same life of the control plane, and only from a state that is not older than what the super
    /// copies were built from: an API server that came back from a backup may say it too.
    async fn confirm_absence(&self) -> Result<(), CallError> {
        let bytes = self.attached.remote.get("/api/v1/namespaces/kube-system", None).await?;
        let unreadable = |source| CallError::Unreadable { side: "tenant", source };
        let seen = Seen::of(&bytes).map_err(unreadable)?;
        if seen.facts.uid != self.attached.incarnation {
            tracing::error!(tenant = %self.tenant.lane, "the tenant's control plane was replaced");
            self.attached.halted.store(true, std::sync::atomic::Ordering::Relaxed);
            return Err(CallError::Fenced);
        }
        let collection = self.kind.resource().collection(self.key.namespace.as_ref().map(Namespace::as_str));
        let path = format!("{collection}?fieldSelector=metadata.name%3D{}", self.key.name);
        let list = self.attached.remote.list_metadata(path, None).await?;
        let list: Standing = serde_json::from_slice(&list).map_err(unreadable)?;
        let version: u64 = list.metadata.resource_version.parse().unwrap_or(0);
        let built = self.tenant.index.lock().built_high;
        if version < built {
            tracing::error!(tenant = %self.tenant.lane, version, built, "the tenant's API server shows an older state than was seen before");
            self.engine.regressed(self.tenant, self.attached, version, built);
            return Err(CallError::Fenced);
        }
        if list.items.is_some_and(|items| !items.is_empty()) {
            return Err(CallError::Status {
                side: "tenant",
                code: 409,
                reason: "Conflict".into(),
                message: "it is there again".into(),
                retry_after: None,
            });
        }
        Ok(())
    }

    /// Absence that was only inferred counts at a limited pace.
    fn brake(&self) -> Result<(), CallError> {
        let inferred = self.tenant.index.lock().get(self.key).is_some_and(|entry| {
            matches!((&entry.tenant, &entry.sup), (Slot::Unknown | Slot::Absent(Evidence::Inferred), Slot::Here(..)))
                || matches!((&entry.tenant, &entry.sup), (Slot::Here(facts, ()), Slot::Unknown | Slot::Absent(Evidence::Inferred)) if facts.placed)
        });
        if !inferred {
            return Ok(());
        }
        let objects = self.tenant.index.lock().len();
        match self.tenant.brake.lock().ask(Instant::now(), objects) {
            Say::Go => Ok(()),
            Say::Wait(wait) => Err(CallError::Status {
                side: "vc-syncer",
                code: 429,
                reason: "TooManyAbsent".into(),
                message: "many objects are gone without a trace; they are read again before anything is deleted for it".into(),
                retry_after: Some(wait),
            }),
        }
    }

    fn tenant_known(&self, bytes: &Bytes) -> Result<Facts, CallError> {
        let unreadable = |source| CallError::Unreadable { side: "tenant", source };
        let seen = Seen::of(bytes).map_err(unreadable)?;
        if seen.name != self.key.name.as_str() || seen.namespace != self.key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default() {
            return Err(unreadable(serde::de::Error::custom("it is another object than the one that was asked for")));
        }
        let facts = seen.facts;
        let mut index = self.tenant.index.lock();
        if index.is_overtaken(self.key, &facts, true) {
            return Ok(facts);
        }
        index.tenant_seen(self.key, facts.clone(), bytes.clone());
        // A read of what was known already brings its body back.
        index.body_read(self.key, facts.version, bytes, true);
        Ok(facts)
    }

    /// What a read of the super copy has shown: ours, or somebody else's.
    fn super_read(&self, bytes: &Bytes) -> Option<Facts> {
        let known = super_known(self.tenant, self.key, bytes);
        let mut index = self.tenant.index.lock();
        if let Some((facts, _)) = &known {
            index.body_read(self.key, facts.version, bytes, false);
        } else {
            let entry = index.entry(self.key);
            entry.sup = Slot::Foreign;
            entry.sup_body = None;
        }
        known.map(|(facts, _)| facts)
    }

    /// The tenant's own identity, for everything inside its namespaces.
    async fn bearer(&self) -> Result<Option<runtime::kubeconfig::Secret>, CallError> {
        if self.namespace.is_none() { Ok(None) } else { self.engine.0.writer.token(self.attached).await.map(Some) }
    }

    /// Executes steps in order. `None`: plan again at once.
    async fn write(&self, pair: &Pair, steps: Vec<Step>, reported: Option<u64>) -> Option<End> {
        let mut shown = Shown::default();
        if let Some(end) = self.repeated(pair, &steps) {
            return Some(end);
        }
        let settles = !steps.iter().any(|step| matches!(step, Step::DeleteSuper { .. } | Step::DeleteTenant { .. }));
        for step in steps {
            let (side, name) = step_name(&step);
            let create = matches!(step, Step::CreateSuper { .. } | Step::ShowNode(_));
            let result = self.step(step, &mut shown).await;
            self.engine.0.metrics.wrote(side, self.kind.resource().kind, name, result.is_ok());
            match result {
                Ok(true) => {
                    if side == "tenant" {
                        self.attached.breaker.lock().answered();
                    }
                    tracing::debug!(tenant = %self.tenant.lane, object = %self.key, step = name, "wrote");
                }
                // The step could not be taken now, and what it waits for wakes the key.
                Ok(false) => {
                    self.not_sent();
                    return Some(End::Rest);
                }
                Err(error) => {
                    let end = self.failed_step(&error, create, name).await;
                    if end.is_some() {
                        // What failed is paced by its back-off.
                        self.not_sent();
                    }
                    return end;
                }
            }
        }
        if settles {
            let tokens = self.tenant.index.lock().get(self.key).map(|entry| entry.tokens).unwrap_or_default();
            return match self.tokens(pair, tokens).await {
                Ok(end) => {
                    self.settle(pair, &shown, reported);
                    Some(end)
                }
                Err(error) => self.failed_step(&error, false, "tokens").await,
            };
        }
        Some(End::Rest)
    }

    /// The loop guard: the end, if these very steps were sent before and nothing has moved since.
    fn repeated(&self, pair: &Pair, steps: &[Step]) -> Option<End> {
        let pace = self.engine.0.options.patrol_interval;
        let what = loop_mark(pair, steps);
        let asked = {
            let mut index = self.tenant.index.lock();
            Repeat::ask(&mut index.get_mut(self.key)?.repeat, what, Instant::now(), pace)
        };
        let wait = asked.err()?;
        self.engine.0.metrics.failed(self.kind.resource().kind, "loop");
        tracing::warn!(tenant = %self.tenant.lane, object = %self.key, steps = steps.len(), "the same write does not hold, it waits for the patrol");
        let message = "what is written for this object does not hold: somebody else undoes it, or an API server does not keep it";
        self.tell(pair, "WriteDoesNotHold", message.to_owned());
        Some(End::Retry(wait))
    }

    fn not_sent(&self) {
        if let Some(entry) = self.tenant.index.lock().get_mut(self.key) {
            entry.repeat = None;
        }
    }

    async fn step(&self, step: Step, shown: &mut Shown) -> Result<bool, CallError> {
        self.engine.fence().check()?;
        if self.attached.is_halted() {
            return Err(CallError::Fenced);
        }
        let tenant = &self.attached.remote;
        match step {
            Step::CreateSuper { content, tokens: asks } => return self.create(content, asks, shown).await,
            Step::UpdateSuper { content, uid, version } => {
                let bearer = self.bearer().await?;
                let namespace = self.namespace.as_ref().map(Namespace::as_str);
                let body = content.to_update(&self.kind.resource(), namespace, self.name.as_str(), uid, &version);
                let reply = self.engine.sup().replace(&self.super_path(), body, bearer.as_ref()).await?;
                shown.sup = self.super_read(&reply);
            }
            Step::DeleteSuper { uid, grace_seconds } => {
                let bearer = self.bearer().await?;
                let reply = self.engine.sup().delete(&self.super_path(), uid, grace_seconds, bearer.as_ref()).await?;
                let left = Seen::of(&reply).is_ok_and(|seen| seen.facts.uid == uid && seen.facts.deleting);
                if left {
                    self.super_read(&reply);
                } else if self.kind.observe() == Observe::Patrolled {
                    self.tenant.index.lock().super_gone(self.key, uid, Evidence::Seen);
                    self.engine.0.work.push(&self.tenant.lane, self.key.clone());
                }
            }
            Step::ConditionsDown { uid, conditions } => {
                let bearer = self.bearer().await?;
                let patch = status_patch(uid, "/status/conditions", &conditions);
                let reply = self.engine.sup().patch(&format!("{}/status", self.super_path()), Patch::Json, &patch, bearer.as_ref()).await?;
                // Not noted as seen: what a kubelet wrote meanwhile is in the answer too, and was not reported.
                self.super_read(&reply);
            }
            Step::ShowNode(node) => self.engine.0.nodes.show(self.attached, &node).await?,
            Step::Bind { uid, node } => {
                self.bind(uid, &node).await?;
                shown.tenant = self.placed(&node);
            }
            Step::MarkPlaced { uid, node } => {
                let patch = json!({"metadata": {"uid": uid.to_string(), "annotations": {keys::PLACED: node}}});
                let reply = tenant.patch(&self.tenant_path(), Patch::Merge, &patch, None).await?;
                shown.tenant = Some(self.tenant_known(&reply)?);
            }
            Step::Report { uid, status } => {
                let patch = status_patch(uid, "/status", &status);
                let reply = tenant.patch(&format!("{}/status", self.tenant_path()), Patch::Json, &patch, None).await?;
                shown.tenant = Some(self.tenant_known(&reply)?);
            }
            Step::DeleteTenant { uid, grace_seconds } => {
                tenant.delete(&self.tenant_path(), uid, grace_seconds, None).await?;
            }
        }
        Ok(true)
    }

    /// Creates the super copy in its namespace; for a Pod with tokens: tokens first, then the Pod, then at once their Secret.
    async fn create(&self, content: mirror::Content, asks: Vec<mirror::kind::TokenAsk>, shown: &mut Shown) -> Result<bool, CallError> {
        let Some(namespace) = &self.key.namespace else { return Ok(false) };
        self.addresses_known()?;
        let Some(into) = self.engine.0.writer.namespace(self.tenant, self.attached, namespace).await? else { return Ok(false) };
        let batch =
            if asks.is_empty() { None } else { Some(tokens::request(self.attached, self.engine.fence(), &self.pod_of()?, &asks).await?) };
        let bearer = self.engine.0.writer.token(self.attached).await?;
        let resource = self.kind.resource();
        self.engine.fence().check()?;
        let body = content.to_create(&resource, Some(into.as_str()), self.name.as_str());
        let collection = resource.collection(Some(into.as_str()));
        let reply = match self.engine.sup().create(&collection, body, Some(&bearer)).await {
            Err(CallError::Status { code: 422, message, .. }) if message.contains("not in the valid range") => {
                // The super cluster does not serve the tenant's range: it chooses.
                let body = self.kind.without_claims(content).to_create(&resource, Some(into.as_str()), self.name.as_str());
                self.engine.sup().create(&collection, body, Some(&bearer)).await?
            }
            other => other?,
        };
        learn_address(self.tenant, self.key, &reply);
        shown.sup = self.super_read(&reply);
        if let Some(batch) = batch {
            self.note_tokens(Tokens::Missing);
            let stored = self.store_tokens(&reply, &bearer, &batch).await?;
            self.note_tokens(stored);
        }
        Ok(true)
    }

    /// A Pod is told its API server's address when it is made, and never again: the Service is waited for.
    fn addresses_known(&self) -> Result<(), CallError> {
        if !self.kind.graceful() || self.attached.profile().kubernetes.is_some() || self.attached.since.elapsed() > ADDRESS {
            return Ok(());
        }
        Err(CallError::Status {
            side: "vc-syncer",
            code: 503,
            reason: "NoAddress".into(),
            message: "the tenant's Service default/kubernetes is not in the super cluster yet".into(),
            retry_after: None,
        })
    }

    fn pod_of(&self) -> Result<tokens::PodOf<'_>, CallError> {
        let uid = match self.tenant.index.lock().get(self.key).map(|entry| entry.tenant.clone()) {
            Some(Slot::Here(facts, ())) => facts.uid,
            _ => {
                return Err(CallError::Status {
                    side: "tenant",
                    code: 404,
                    reason: "NotFound".into(),
                    message: String::new(),
                    retry_after: None,
                });
            }
        };
        Ok(tokens::PodOf {
            namespace: self.key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default(),
            name: self.key.name.as_str(),
            uid,
        })
    }

    fn note_tokens(&self, tokens: Tokens) {
        self.tenant.index.lock().entry(self.key).tokens = tokens;
    }

    async fn store_tokens(&self, pod: &Bytes, bearer: &runtime::kubeconfig::Secret, batch: &tokens::Batch) -> Result<Tokens, CallError> {
        let seen = Seen::of(pod).map_err(|source| CallError::Unreadable { side: "super", source })?;
        let (Ok(owner), Some(namespace)) = (&seen.owner, &self.namespace) else { return Ok(Tokens::Missing) };
        let name = self.attached.id.token_secret(owner.uid);
        let place = tokens::Place { namespace, name: &name, pod: (seen.name, seen.facts.uid), owner };
        let share = self.engine.0.options.renew_share;
        tokens::store(self.engine.sup(), self.engine.fence(), bearer, self.attached, &place, batch, share).await
    }

    /// Sees to the tokens of a settled Pod: missing, of an earlier super Pod, or due.
    async fn tokens(&self, pair: &Pair, known: Tokens) -> Result<End, CallError> {
        let SuperSide::Ours(sup, owner) = &pair.sup else { return Ok(end_for(known)) };
        let due = match known {
            Tokens::None => pair.settled.is_none(),
            Tokens::Missing => true,
            Tokens::Good { renew, pod, .. } => pod != sup.facts.uid || renew <= Instant::now(),
        };
        if sup.facts.deleting {
            return Ok(End::Rest);
        }
        if !self.kind.graceful() || !due {
            return Ok(end_for(known));
        }
        let body = match &pair.tenant {
            TenantSide::Here(copy) => copy.body.clone(),
            TenantSide::Absent(_) => return Ok(End::Rest),
        };
        let body = if let Some(body) = body {
            body
        } else {
            let bytes = self.attached.remote.get(&self.tenant_path(), None).await?;
            let unreadable = |error| CallError::Unreadable { side: "tenant", source: serde::de::Error::custom(error) };
            InTenant(Object::parse(&bytes).map_err(unreadable)?)
        };
        let asks = self.kind.tokens(&body);
        if asks.is_empty() {
            return Ok(End::Rest);
        }
        let Some(namespace) = &self.namespace else { return Ok(End::Rest) };
        let batch = tokens::request(self.attached, self.engine.fence(), &self.pod_of()?, &asks).await?;
        let bearer = self.engine.0.writer.token(self.attached).await?;
        let name = self.attached.id.token_secret(owner.uid);
        let place = tokens::Place { namespace, name: &name, pod: (self.name.as_str(), sup.facts.uid), owner };
        let share = self.engine.0.options.renew_share;
        let stored = tokens::store(self.engine.sup(), self.engine.fence(), &bearer, self.attached, &place, &batch, share).await?;
        self.note_tokens(stored);
        self.engine.0.metrics.renewed_token(true);
        Ok(end_for(stored))
    }

    async fn bind(&self, uid: Uid, node: &str) -> Result<(), CallError> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": self.key.name.as_str(), "uid": uid.to_string(), "annotations": {keys::PLACED: node}},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.attached.remote.create(&format!("{}/binding", self.tenant_path()), binding.to_string().into_bytes(), None).await.map(|_| ())
    }

    /// Our Binding has landed; its echo is on the way.
    fn placed(&self, node: &str) -> Option<Facts> {
        let mut index = self.tenant.index.lock();
        let Slot::Here(facts, ()) = &mut index.entry(self.key).tenant else { return None };
        facts.node = Some(node.into());
        facts.placed = true;
        Some(facts.clone())
    }

    /// The pair agrees, at what was planned on or what the steps have shown. What moved meanwhile comes again.
    fn settle(&self, pair: &Pair, shown: &Shown, reported: Option<u64>) {
        let tenant = match &pair.tenant {
            TenantSide::Here(copy) => Some(mark_after(&copy.facts, shown.tenant.as_ref())),
            TenantSide::Absent(_) => None,
        };
        let sup = match (&shown.sup, &pair.sup) {
            (Some(facts), _) => Some(Mark::from(facts)),
            (None, SuperSide::Ours(copy, _)) => Some(Mark::from(&copy.facts)),
            (None, SuperSide::Foreign | SuperSide::Absent(_)) => None,
        };
        let mut index = self.tenant.index.lock();
        let Some(entry) = index.get_mut(self.key) else { return };
        entry.settled = Some(Settled { tenant, sup, reported });
        entry.failures = 0;
        entry.told = None;
        if matches!(&entry.tenant, Slot::Here(facts, ()) if Some(Mark::from(facts)) == tenant) {
            entry.tenant_body = None;
        }
        if matches!(&entry.sup, Slot::Here(facts, _) if Some(Mark::from(facts)) == sup) {
            entry.sup_body = None;
        }
    }

    /// Nothing can be written for now: wait for what is missing, or tell the tenant and wait for a change.
    fn hold(&self, pair: &Pair, hold: &Hold) -> End {
        match hold {
            Hold::Until(Missing::SuperGone | Missing::VirtualNode(_)) => End::Rest,
            Hold::Refused(refusal) => {
                self.tell(pair, refusal.reason, hold.to_string());
                End::Retry(REFUSED)
            }
            Hold::Malformed(_) => {
                self.tell(pair, "Malformed", hold.to_string());
                End::Retry(REFUSED)
            }
        }
    }

    /// What the super API server said, as the tenant may read it.
    fn tell_scrubbed(&self, reason: &'static str, message: &str) {
        let (pair, _) = self.pair();
        let (profile, nodes) = (self.attached.profile(), self.attached.nodes());
        let scrubbed = mirror::scrub::Scrub::new(&self.cx(&profile, &nodes)).text(message).into_owned();
        self.tell(&pair, reason, scrubbed);
    }

    fn tell(&self, pair: &Pair, reason: &'static str, message: String) {
        let TenantSide::Here(copy) = &pair.tenant else { return };
        self.engine.0.metrics.refused(self.kind.resource().kind);
        let hash = mirror::plan::value_hash(&json!([reason, message]));
        let news = {
            let mut index = self.tenant.index.lock();
            index.get_mut(self.key).is_some_and(|entry| entry.told.replace(hash) != Some(hash))
        };
        if news {
            let resource = self.kind.resource();
            let about = About {
                kind: resource.kind,
                api_version: resource.api_version,
                namespace: self.key.namespace.as_ref().map(|ns| ns.as_str().to_owned()),
                name: self.key.name.as_str().to_owned(),
                uid: copy.facts.uid,
            };
            self.engine.0.recorder.tell(self.attached, about, Severity::Warning, reason, message);
        }
    }

    async fn failed(&self, error: &CallError, create: bool) -> End {
        self.failed_step(error, create, "read").await.unwrap_or(End::Retry(Duration::ZERO))
    }

    /// One place decides what an error means. `None`: plan again at once.
    async fn failed_step(&self, error: &CallError, create: bool, step: &'static str) -> Option<End> {
        let verdict = judge(error, create);
        self.engine.0.metrics.failed(self.kind.resource().kind, verdict_name(&verdict));
        tracing::debug!(tenant = %self.tenant.lane, object = %self.key, step, error = %chain(error), verdict = ?verdict_name(&verdict), "did not work");
        let tenant_side = matches!(error, CallError::Status { side: "tenant", .. });
        match error {
            CallError::Transport { side: "tenant", .. } => self.attached.breaker.lock().failed(Instant::now()),
            CallError::Status { side: "tenant", .. } => self.attached.breaker.lock().answered(),
            CallError::Transport { .. } | CallError::Status { .. } | CallError::Unreadable { .. } | CallError::Fenced => {}
        }
        match verdict {
            Verdict::Fenced => Some(End::Retry(Duration::from_secs(1))),
            Verdict::Retry(least) => Some(End::Retry(least)),
            Verdict::Reread | Verdict::Namespace if tenant_side => self.again(self.fetch(Want::Tenant).await),
            Verdict::Reread | Verdict::Taken => self.again(self.fetch(Want::Super).await),
            Verdict::Namespace => {
                self.regain().await;
                Some(End::Retry(Duration::from_millis(200)))
            }
            Verdict::Rejected { reason, message } => {
                self.tell_scrubbed(reason, &message);
                Some(End::Retry(REFUSED))
            }
            Verdict::Contested { reason, message } => {
                let failures = self.tenant.index.lock().get(self.key).map_or(0, |entry| entry.failures);
                if failures >= CONTESTED {
                    self.tell_scrubbed(reason, &message);
                }
                Some(End::Retry(Duration::ZERO))
            }
        }
    }

    /// Looks after the right to write into the super namespace, if that is there: a RoleBinding that is gone is made again.
    async fn regain(&self) {
        let (Some(into), Some(namespace)) = (&self.namespace, &self.key.namespace) else { return };
        let writer = &self.engine.0.writer;
        writer.mistrust(self.tenant, self.attached, into).await;
        if self.tenant.namespaces.lock().contains_key(into.as_str())
            && let Err(error) = writer.namespace(self.tenant, self.attached, namespace).await
        {
            tracing::debug!(tenant = %self.tenant.lane, namespace = %into, error = %chain(&error), "the right to write could not be regained");
        }
    }

    fn again(&self, read: Result<(), CallError>) -> Option<End> {
        match read {
            Ok(()) => None,
            Err(error) => {
                tracing::debug!(tenant = %self.tenant.lane, object = %self.key, error = %chain(&error), "could not read");
                if matches!(error, CallError::Transport { side: "tenant", .. }) {
                    self.attached.breaker.lock().failed(Instant::now());
                }
                Some(End::Retry(Duration::ZERO))
            }
        }
    }
}

/// The tenant's copy as it was planned on, with the status that we wrote since. The rest of what our write was answered with may be
/// somebody else's change between the two, which nobody has planned on yet.
fn mark_after(planned: &Facts, written: Option<&Facts>) -> Mark {
    Mark { status: written.map_or(planned.status, |facts| facts.status), ..Mark::from(planned) }
}

/// Which writes these are, and what the two sides are before them.
fn loop_mark(pair: &Pair, steps: &[Step]) -> u64 {
    let tenant = if let TenantSide::Here(copy) = &pair.tenant { Some(Mark::from(&copy.facts)) } else { None };
    let sup = if let SuperSide::Ours(copy, _) = &pair.sup { Some(Mark::from(&copy.facts)) } else { None };
    let mut text = format!("{tenant:?} {sup:?}");
    for step in steps {
        let what = match step {
            Step::CreateSuper { content, .. } | Step::UpdateSuper { content, .. } => content.annotations.get(keys::BUILT).cloned(),
            Step::DeleteSuper { uid, grace_seconds } | Step::DeleteTenant { uid, grace_seconds } => Some(format!("{uid} {grace_seconds:?}")),
            Step::ConditionsDown { conditions: value, .. } | Step::Report { status: value, .. } => Some(mirror::plan::value_hash(value).to_string()),
            Step::ShowNode(node) | Step::Bind { node, .. } | Step::MarkPlaced { node, .. } => Some(node.clone()),
        };
        text.push_str(step_name(step).1);
        text.push_str(&what.unwrap_or_default());
    }
    mirror::plan::value_hash(&Value::String(text))
}

fn status_patch(uid: Uid, path: &str, value: &Value) -> Value {
    json!([
        {"op": "test", "path": "/metadata/uid", "value": uid.to_string()},
        {"op": "add", "path": path, "value": value},
    ])
}

fn end_for(tokens: Tokens) -> End {
    match tokens {
        Tokens::Good { renew, .. } => End::At(renew),
        Tokens::Missing => End::Retry(Duration::ZERO),
        Tokens::None => End::Rest,
    }
}

/// A step as it stands in logs and metrics: the side that it writes to, and its name.
fn step_name(step: &Step) -> (&'static str, &'static str) {
    match step {
        Step::CreateSuper { .. } => ("super", "create"),
        Step::UpdateSuper { .. } => ("super", "update"),
        Step::DeleteSuper { .. } => ("super", "delete"),
        Step::ConditionsDown { .. } => ("super", "conditions"),
        Step::ShowNode(_) => ("tenant", "show-node"),
        Step::Bind { .. } => ("tenant", "bind"),
        Step::MarkPlaced { .. } => ("tenant", "mark"),
        Step::Report { .. } => ("tenant", "report"),
        Step::DeleteTenant { .. } => ("tenant", "delete"),
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Settled(_) => "settled",
        Outcome::Forget => "forget",
        Outcome::Write { .. } => "write",
        Outcome::Fetch(_) => "fetch",
        Outcome::Hold(_) => "hold",
    }
}

fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Retry(_) => "retry",
        Verdict::Reread => "reread",
        Verdict::Taken => "taken",
        Verdict::Namespace => "namespace",
        Verdict::Rejected { .. } => "rejected",
        Verdict::Contested { .. } => "contested",
        Verdict::Fenced => "fenced",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_came_between_a_plan_and_its_write_is_still_to_be_planned_on() {
        let of = |labels: &str, phase: &str| {
            let json = format!(
                r#"{{"metadata":{{"name":"a","uid":"00000000-0000-4000-8000-000000000001","resourceVersion":"1","labels":{labels}}},"status":{{"phase":"{phase}"}}}}"#
            );
            Seen::of(json.as_bytes()).unwrap().facts
        };
        let planned = of(r#"{"app":"old"}"#, "Pending");
        let answered = of(r#"{"app":"new"}"#, "Running");
        let mark = mark_after(&planned, Some(&answered));
        assert_eq!((mark.main, mark.status), (planned.main, answered.status));
        assert_ne!(mark.main, answered.main);
        assert_eq!(mark_after(&planned, None), Mark::from(&planned));
    }
}
