//! A tenant of the fence, and what the syncer would write for it.

use common::{Name, Namespace, Owner, TenantId, Uid, keys};
use serde_json::{Value, json};

/// Where role bindings are, by namespace.
pub(crate) const ROLE_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces";

/// A tenant as the syncer would know it.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) namespace: String,
}

impl Tenant {
    pub(crate) fn new(uid: &str, name: &str) -> Self {
        let id = TenantId::new(Uid::parse(uid).unwrap(), name);
        let namespace = id.namespace(&Namespace::parse("default").unwrap()).to_string();
        Self { id, namespace }
    }

    /// The record that an object of this tenant carries.
    pub(crate) fn record(&self) -> Value {
        let owner = Owner { tenant: self.id.uid(), namespace: None, name: Name::parse("default").unwrap(), uid: self.id.uid() };
        json!({"labels": {keys::TENANT: self.id.as_str()}, "annotations": {keys::OWNER: owner.annotation()}})
    }

    /// An object of this tenant.
    pub(crate) fn object(&self, api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
        let mut metadata = self.record();
        metadata["name"] = json!(name);
        merged(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}), rest)
    }

    pub(crate) fn record_patch(&self) -> Value {
        json!({"metadata": self.record()})
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// The super namespace of the tenant's namespace `default`.
    pub(crate) fn space(&self) -> Value {
        let level = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        self.object("v1", "Namespace", &self.namespace, level)
    }

    /// What a namespace is called that bears its label and lacks the record.
    pub(crate) fn half_name(&self) -> String {
        self.id.namespace(&Namespace::parse("half").unwrap()).to_string()
    }

    /// That namespace.
    pub(crate) fn half(&self) -> Value {
        let labels = json!({keys::TENANT: self.id.as_str(), "pod-security.kubernetes.io/enforce": "baseline"});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.half_name(), "labels": labels}})
    }

    /// The `RoleBinding` of its writer in `namespace`.
    pub(crate) fn binding(&self, namespace: &str, change: Value) -> Value {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": keys::WRITER_ROLE, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": keys::WRITER_ROLE},
            "subjects": [self.subject()],
        });
        merged(binding, change)
    }

    pub(crate) fn subject(&self) -> Value {
        json!({"kind": "ServiceAccount", "name": self.id.writer(), "namespace": keys::WRITERS_NAMESPACE})
    }

    /// A Pod as the syncer makes it, with something changed.
    pub(crate) fn pod(&self, name: &str, change: Value) -> Value {
        let spec = json!({"spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "web"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "token", "projected": {"sources": [{"secret": {"name": "vc.token.x"}}]}}],
        }});
        merged(self.object("v1", "Pod", name, spec), change)
    }
}

/// A JSON merge patch: null takes away.
pub(crate) fn merged(mut base: Value, change: Value) -> Value {
    match (base.as_object_mut(), change) {
        (Some(fields), Value::Object(changes)) => {
            for (key, value) in changes {
                if value.is_null() {
                    fields.remove(&key);
                } else {
                    let held = fields.remove(&key).unwrap_or(Value::Null);
                    fields.insert(key, merged(held, value));
                }
            }
            base
        }
        (_, change) => change,
    }
}

pub(crate) fn labeled(key: &str, value: Value) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}

pub(crate) fn annotated(key: &str, value: Value) -> Value {
    json!({"metadata": {"annotations": {key: value}}})
}
