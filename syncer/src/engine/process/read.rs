//! Reading one side of a pair, and what an absence is worth.

use bytes::Bytes;
use common::Namespace;
use mirror::Facts;
use mirror::facts::Seen;
use mirror::plan::{Evidence, Want};
use tokio::time::Instant;

use super::{Job, Standing};
use crate::brake::Say;
use crate::engine::configured::DEFINITIONS;
use crate::engine::intake::super_known;
use crate::index::{Slot, uid_of};
use crate::remote::CallError;

impl Job<'_> {
    /// Reads one side, as a quorum read.
    pub(super) async fn fetch(&self, want: Want) -> Result<(), CallError> {
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
    pub(super) async fn is_without_namespace(&self, error: &CallError) -> bool {
        let Some(namespace) = self.namespace.as_ref().filter(|_| error.code() == Some(403)) else { return false };
        if self.tenant.namespaces.lock().contains_key(namespace.as_str()) {
            return false;
        }
        let found = self.engine.sup().get(&format!("/api/v1/namespaces/{namespace}"), None).await;
        found.is_err_and(|error| error.is_not_found())
    }

    /// "Not found" counts only as [`Job::confirm_life`] says, and if it still is so.
    pub(super) async fn confirm_absence(&self) -> Result<(), CallError> {
        if self.confirm_life().await?.items.is_none_or(|items| items.is_empty()) {
            return Ok(());
        }
        Err(CallError::Status {
            side: "tenant",
            code: 409,
            reason: "Conflict".into(),
            message: "it is there again".into(),
            retry_after: None,
        })
    }

    /// That another object has the name now counts as an absence does: an emptied control plane makes the same namespaces anew.
    pub(super) async fn confirm_other(&self) -> Result<(), CallError> {
        let is_other = self.tenant.index.lock().get(self.key).is_some_and(
            |entry| matches!((&entry.tenant, &entry.sup), (Slot::Here(facts, ()), Slot::Here(_, place)) if facts.uid != place.owner.uid),
        );
        if is_other {
            self.confirm_life().await?;
        }
        Ok(())
    }

    /// What a tenant's API server says of an object's end counts only from the same life of the control plane, and only from a state that
    /// is not older than what the super copies were built from: one that came back from a backup, or empty, may say it too. Returns what
    /// it has of that name.
    async fn confirm_life(&self) -> Result<Standing, CallError> {
        let bytes = self.attached.remote.get("/api/v1/namespaces/kube-system", None).await?;
        let unreadable = |source| CallError::Unreadable { side: "tenant", source };
        let seen = Seen::of(&bytes).map_err(unreadable)?;
        if seen.facts.uid != self.attached.incarnation {
            tracing::error!(tenant = %self.tenant.lane, "the tenant's control plane was replaced");
            self.engine.replaced(self.tenant, self.attached);
            return Err(CallError::Fenced);
        }
        let collection = self.kind.resource().collection(self.key.namespace.as_ref().map(Namespace::as_str));
        let path = format!("{collection}?fieldSelector=metadata.name%3D{}", self.key.name);
        let list = match self.attached.remote.list_metadata(path, None).await {
            // A kind that nobody defines has no objects.
            Err(error) if error.is_not_found() && self.key.kind.is_made() => {
                let resource = self.kind.resource();
                let path = format!("{DEFINITIONS}?fieldSelector=metadata.name%3D{}.{}", resource.plural, resource.group);
                let definitions = self.attached.remote.list_metadata(path, None).await?;
                let definitions: Standing = serde_json::from_slice(&definitions).map_err(unreadable)?;
                if definitions.items.as_ref().is_some_and(|items| !items.is_empty()) {
                    return Err(error);
                }
                definitions
            }
            list => serde_json::from_slice(&list?).map_err(unreadable)?,
        };
        let version: u64 = list.metadata.resource_version.parse().unwrap_or(0);
        let built = self.tenant.index.lock().built_high;
        if self.attached.is_set_back(version, built) {
            tracing::error!(tenant = %self.tenant.lane, version, built, "the tenant's API server shows an older state than was seen before");
            self.engine.regressed(self.tenant, self.attached, version, built);
            return Err(CallError::Fenced);
        }
        Ok(list)
    }

    /// Absence that was only inferred counts at a limited pace.
    pub(super) fn brake(&self) -> Result<(), CallError> {
        let inferred = self.tenant.index.lock().get(self.key).is_some_and(|entry| {
            matches!((&entry.tenant, &entry.sup), (Slot::Unknown | Slot::Absent(Evidence::Inferred), Slot::Here(..)))
                || matches!((&entry.tenant, &entry.sup), (Slot::Here(facts, ()), Slot::Unknown | Slot::Absent(Evidence::Inferred)) if facts.placed || entry.ran(facts.uid))
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

    pub(super) fn tenant_known(&self, bytes: &Bytes) -> Result<Facts, CallError> {
        let unreadable = |source| CallError::Unreadable { side: "tenant", source };
        let seen = Seen::of_resource(bytes, &self.kind.resource()).map_err(unreadable)?;
        if seen.name != self.key.name.as_str() || seen.namespace != self.key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default() {
            return Err(unreadable(serde::de::Error::custom("it is another object than the one that was asked for")));
        }
        let facts = seen.facts;
        let mut index = self.tenant.index.lock();
        if index.is_overtaken(self.key, &facts, true) {
            return Ok(facts);
        }
        index.tenant_seen(self.key, facts.clone(), bytes);
        // A read of what was known already brings its body back.
        index.body_read(self.key, facts.version, bytes, true);
        Ok(facts)
    }

    /// What a read of the super copy has shown: ours, or somebody else's.
    pub(super) fn super_read(&self, bytes: &Bytes) -> Option<Facts> {
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
    pub(super) async fn bearer(&self) -> Result<Option<runtime::kubeconfig::Secret>, CallError> {
        if self.namespace.is_none() { Ok(None) } else { self.engine.0.writer.token(self.attached).await.map(Some) }
    }
}
