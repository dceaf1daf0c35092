//! Steps into requests, one at a time and in order.

use common::{Namespace, Uid, keys};
use mirror::facts::Seen;
use mirror::hold::Hold;
use mirror::kind::Observe;
use mirror::mounts::Mounts;
use mirror::plan::{Evidence, Mark, Pair, Step, SuperSide, TenantSide};
use mirror::{Content, Facts};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{ADDRESS, End, Job, Shown};
use crate::engine::intake::learn_address;
use crate::index::Slot;
use crate::remote::{CallError, Patch};
use crate::repeat::Repeat;
use crate::tenant::WRITES;
use crate::writer::is_not_served;

impl Job<'_> {
    /// Executes steps in order; then what is held is. `None`: plan again at once.
    pub(super) async fn write(&self, pair: &Pair, steps: Vec<Step>, reported: Option<u64>, held: Option<Hold>) -> Option<End> {
        let mut shown = Shown::default();
        let (steps, held) = self.within_bounds(steps, held);
        if steps.is_empty() {
            return held.map(|hold| self.hold(pair, &hold));
        }
        if let Some(end) = self.paced(&steps).or_else(|| self.repeated(pair, &steps)) {
            return Some(end);
        }
        let settles = !steps.iter().any(|step| matches!(step, Step::DeleteSuper { .. } | Step::DeleteTenant { .. }));
        let again = steps.iter().any(|step| self.shows_a_choice(step));
        for step in steps {
            let (side, name) = step_name(&step);
            let create = matches!(step, Step::CreateSuper { .. } | Step::ShowNode(_));
            // Those whose answers are taken note of as they are.
            let is_update = matches!(step, Step::UpdateSuper { .. } | Step::MarkPlaced { .. } | Step::Report { .. });
            let offer = if let Step::Choose { offer, .. } = &step { Some(*offer) } else { None };
            let before = shown.versions(pair);
            let result = self.step(step, &mut shown).await;
            self.engine.0.metrics.wrote(side, self.kind.resource().kind, name, result.is_ok());
            match result {
                Ok(true) => {
                    match (side, &self.namespace) {
                        ("tenant", _) => self.attached.breaker.lock().answered(),
                        (_, Some(into)) => self.attached.denied.lock().let_in(into.as_str(), self.kind.resource().kind),
                        (_, None) => {}
                    }
                    if is_update && before == shown.versions(pair) {
                        self.engine.0.metrics.wrote_in_vain(side, self.kind.resource().kind);
                    }
                    tracing::debug!(tenant = %self.tenant.lane, object = %self.key, step = name, "wrote");
                    self.tell_lost(pair, &std::mem::take(&mut shown.lost));
                }
                // The step could not be taken now, and what it waits for wakes the key; should that be missed, the patrol looks again, which it does not
                // where a refusal stands.
                Ok(false) => {
                    self.not_sent();
                    if let Some(entry) = self.tenant.index.lock().get_mut(self.key) {
                        entry.told = None;
                    }
                    return Some(End::Rest);
                }
                Err(error) if offer.is_some_and(|offer| self.declined(&error, offer)) => return None,
                Err(error) => {
                    if error.code().is_some() {
                        self.tenant.counts.lock().refused(self.key);
                    }
                    let end = self.failed_step(&error, create, name).await;
                    if end.is_some() {
                        // What failed is paced by its back-off.
                        self.not_sent();
                    }
                    return end;
                }
            }
        }
        if again {
            return None;
        }
        if settles {
            let mounted = self.tenant.index.lock().get(self.key).map(|entry| entry.mounted).unwrap_or_default();
            return match self.mount(pair, mounted).await {
                Ok(end) => match held {
                    None => {
                        self.settle(pair, &shown, reported);
                        Some(end)
                    }
                    Some(refusal) => {
                        self.reported(pair, &shown, reported);
                        Some(self.hold(pair, &refusal).or(end))
                    }
                },
                Err(error) => self.failed_step(&error, false, "mount").await,
            };
        }
        Some(End::Rest)
    }

    /// The steps without one by which the tenant would have too much of what there is for all; that is held, as a refusal.
    fn within_bounds(&self, steps: Vec<Step>, held: Option<Hold>) -> (Vec<Step>, Option<Hold>) {
        let mut held = held;
        let mut fits = |step: &Step| {
            let (Step::CreateSuper { content, .. } | Step::UpdateSuper { content, .. }) = step else { return true };
            let over = self.tenant.counts.lock().ask(self.key, content).err();
            let fits = over.is_none();
            held = over.or(held.take());
            fits
        };
        let steps = steps.into_iter().filter(|step| fits(step)).collect();
        (steps, held)
    }

    /// The end, if too much was made or changed for this tenant lately.
    fn paced(&self, steps: &[Step]) -> Option<End> {
        steps.iter().find(|step| matches!(step, Step::CreateSuper { .. } | Step::UpdateSuper { .. }))?;
        let now = Instant::now();
        let until = self.tenant.writes.lock().take(&WRITES, now).err()?;
        self.engine.0.metrics.failed(self.kind.resource().kind, "paced");
        Some(End::Retry(until.saturating_duration_since(now)))
    }

    /// The loop guard: the end, if these very steps were sent before and nothing has moved since.
    pub(super) fn repeated(&self, pair: &Pair, steps: &[Step]) -> Option<End> {
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

    pub(super) fn not_sent(&self) {
        if let Some(entry) = self.tenant.index.lock().get_mut(self.key) {
            entry.repeat = None;
        }
    }

    pub(super) async fn step(&self, step: Step, shown: &mut Shown) -> Result<bool, CallError> {
        self.engine.fence().check()?;
        if self.attached.is_halted() {
            return Err(CallError::Fenced);
        }
        let tenant = &self.attached.remote;
        match step {
            Step::CreateSuper { content, mounts } => return self.create(content, mounts, shown).await,
            Step::UpdateSuper { content, uid, version } => {
                let bearer = self.bearer().await?;
                let namespace = self.namespace.as_ref().map(Namespace::as_str);
                let body = |content: &Content| content.to_update(&self.kind.resource(), namespace, self.name.as_str(), uid, &version);
                let mut content = content;
                let reply = match self.engine.sup().replace(&self.super_path(), body(&content), bearer.as_ref()).await {
                    Err(error) if is_not_served(&error) => {
                        content = self.kind.without_claims(content).ok_or(error)?;
                        self.engine.sup().replace(&self.super_path(), body(&content), bearer.as_ref()).await?
                    }
                    other => other?,
                };
                shown.sup = self.super_read(&reply);
                shown.lost = self.lost("super", &content.body, &reply);
            }
            Step::DeleteSuper { uid, grace_seconds } => {
                self.confirm_other().await?;
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
            Step::AddToSuper { uid, addition } => {
                let bearer = self.bearer().await?;
                let to = format!("{}/{}", self.super_path(), addition.subresource);
                let more = json!({"metadata": {"uid": uid.to_string()}, "spec": addition.spec});
                if !addition.annotations.is_empty() {
                    // What would be refused is not listed as the tenant's: somebody else may add it later.
                    self.engine.sup().patch(&format!("{to}?dryRun=All"), Patch::Strategic, &more, bearer.as_ref()).await?;
                    let whose = json!({"metadata": {"uid": uid.to_string(), "annotations": addition.annotations}});
                    self.engine.sup().patch(&self.super_path(), Patch::Merge, &whose, bearer.as_ref()).await?;
                }
                let reply = self.engine.sup().patch(&to, Patch::Strategic, &more, bearer.as_ref()).await?;
                shown.sup = self.super_read(&reply);
            }
            Step::ConditionsDown { uid, conditions } => {
                let bearer = self.bearer().await?;
                let patch = status_patch(uid, None, "/status/conditions", &conditions);
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
            Step::Report { uid, version, status } => {
                let patch = status_patch(uid, version.as_deref(), "/status", &status);
                let reply = tenant.patch(&format!("{}/status", self.tenant_path()), Patch::Json, &patch, None).await?;
                shown.tenant = Some(self.tenant_known(&reply)?);
                // Who reads this API server does not know the field either, so it is counted and nobody is told.
                self.lost("tenant", &Map::from_iter([("status".to_owned(), status)]), &reply);
            }
            Step::Choose { uid, version, choice, .. } => self.choose(uid, version, choice).await?,
            Step::DeleteTenant { uid, grace_seconds } => {
                tenant.delete(&self.tenant_path(), uid, grace_seconds, None).await?;
            }
        }
        Ok(true)
    }

    /// Creates the super copy in its namespace. What a Pod mounts of its tenant is asked for once it has a node, which its tokens name.
    pub(super) async fn create(&self, content: Content, mounts: Mounts, shown: &mut Shown) -> Result<bool, CallError> {
        let Some(namespace) = &self.key.namespace else { return Ok(false) };
        self.addresses_known()?;
        let Some(into) = self.engine.0.writer.namespace(self.tenant, self.attached, namespace).await? else { return Ok(false) };
        let bearer = self.engine.0.writer.token(self.attached).await?;
        self.will_mount(mounts);
        let resource = self.kind.resource();
        self.engine.fence().check()?;
        let mut content = content;
        let collection = resource.collection(Some(into.as_str()));
        let reply = loop {
            let body = content.to_create(&resource, Some(into.as_str()), self.name.as_str());
            match self.engine.sup().create(&collection, body, Some(&bearer)).await {
                // The super cluster does not serve the tenant's range, or family: it chooses.
                Err(error) if is_not_served(&error) => content = self.kind.without_claims(content).ok_or(error)?,
                other => break other?,
            }
        };
        learn_address(self.tenant, self.key, &reply);
        shown.sup = self.super_read(&reply);
        shown.lost = self.lost("super", &content.body, &reply);
        Ok(true)
    }

    /// A Pod is told its API server's address when it is made, and never again: the Service is waited for.
    pub(super) fn addresses_known(&self) -> Result<(), CallError> {
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

    pub(super) async fn bind(&self, uid: Uid, node: &str) -> Result<(), CallError> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": self.key.name.as_str(), "uid": uid.to_string(), "annotations": {keys::PLACED: node}},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.attached.remote.create(&format!("{}/binding", self.tenant_path()), binding.to_string().into_bytes(), None).await.map(|_| ())
    }

    /// Our Binding has landed; its echo is on the way.
    pub(super) fn placed(&self, node: &str) -> Option<Facts> {
        let mut index = self.tenant.index.lock();
        let Slot::Here(facts, ()) = &mut index.entry(self.key).tenant else { return None };
        facts.node = Some(node.into());
        facts.placed = true;
        Some(facts.clone())
    }
}

/// Which writes these are, and what the two sides are before them.
fn loop_mark(pair: &Pair, steps: &[Step]) -> u64 {
    let tenant = if let TenantSide::Here(copy) = &pair.tenant { Some(Mark::from(&copy.facts)) } else { None };
    let sup = if let SuperSide::Ours(copy, _) = &pair.sup { Some(Mark::from(&copy.facts)) } else { None };
    let mut text = format!("{tenant:?} {sup:?}");
    for step in steps {
        let what = match step {
            Step::CreateSuper { content, .. } | Step::UpdateSuper { content, .. } => content.annotations.get(keys::BUILT).cloned(),
            Step::DeleteSuper { uid, grace_seconds } | Step::DeleteTenant { uid, grace_seconds } => {
                Some(format!("{uid} {grace_seconds:?}"))
            }
            Step::AddToSuper { addition, .. } => Some(mirror::plan::value_hash(&Value::Object(addition.spec.clone())).to_string()),
            Step::ConditionsDown { conditions: value, .. } | Step::Report { status: value, .. } => {
                Some(mirror::plan::value_hash(value).to_string())
            }
            Step::Choose { offer, .. } => Some(offer.to_string()),
            Step::ShowNode(node) | Step::Bind { node, .. } | Step::MarkPlaced { node, .. } => Some(node.clone()),
        };
        text.push_str(step_name(step).1);
        text.push_str(&what.unwrap_or_default());
    }
    mirror::plan::value_hash(&Value::String(text))
}

fn status_patch(uid: Uid, version: Option<&str>, path: &str, value: &Value) -> Value {
    guarded(uid, version, [json!({"op": "add", "path": path, "value": value})])
}

/// A JSON patch that is only applied to the object of this UID, and at this version.
pub(super) fn guarded(uid: Uid, version: Option<&str>, operations: impl IntoIterator<Item = Value>) -> Value {
    let mut all = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid.to_string()})];
    all.extend(version.map(|version| json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})));
    all.extend(operations);
    Value::Array(all)
}

/// A step as it stands in logs and metrics: the side that it writes to, and its name.
fn step_name(step: &Step) -> (&'static str, &'static str) {
    match step {
        Step::CreateSuper { .. } => ("super", "create"),
        Step::UpdateSuper { .. } => ("super", "update"),
        Step::DeleteSuper { .. } => ("super", "delete"),
        Step::AddToSuper { .. } => ("super", "add"),
        Step::ConditionsDown { .. } => ("super", "conditions"),
        Step::ShowNode(_) => ("tenant", "show-node"),
        Step::Bind { .. } => ("tenant", "bind"),
        Step::MarkPlaced { .. } => ("tenant", "mark"),
        Step::Report { .. } => ("tenant", "report"),
        Step::Choose { .. } => ("tenant", "choose"),
        Step::DeleteTenant { .. } => ("tenant", "delete"),
    }
}
