//! The RoleBinding that lets a tenant's writer write into one super namespace: made, and mended where somebody changed it.

use common::{Namespace, Super, Uid, keys};
use serde::de::Error as _;
use serde_json::{Value, json};

use super::Writer;
use crate::remote::CallError;
use crate::tenant::Attached;

const GROUP: &str = "rbac.authorization.k8s.io";

impl Writer {
    /// Sees to the binding in a namespace. One that was there before is read first: most often it has its binding, and that is right.
    pub(super) async fn bind(&self, attached: &Attached, namespace: &Namespace<Super>, is_new: bool) -> Result<(), CallError> {
        let collection = format!("/apis/{GROUP}/v1/namespaces/{namespace}/rolebindings");
        let path = format!("{collection}/{}", keys::WRITER_ROLE);
        let wanted = wanted(attached.id.as_str(), &attached.id.writer());
        let mut found = None;
        if !is_new {
            found = match self.sup.get(&path, None).await {
                Err(error) if error.is_not_found() => None,
                other => Some(other?),
            };
        }
        if found.is_none() {
            found = match self.sup.create(&collection, wanted.to_string().into_bytes(), None).await {
                Err(error) if error.is_already_exists() => Some(self.sup.get(&path, None).await?),
                other => return other.map(|_| ()),
            };
        }
        let unreadable = |source| CallError::Unreadable { side: "super", source };
        match mend(&found.unwrap_or_default(), &wanted).map_err(unreadable)? {
            Mend::Nothing => {}
            Mend::Update(binding) => {
                tracing::warn!(tenant = %attached.id, %namespace, "somebody changed the binding of the tenant's writer, it is mended");
                self.sup.replace(&path, binding.to_string().into_bytes(), None).await?;
            }
            Mend::Replace(uid) => {
                tracing::warn!(tenant = %attached.id, %namespace, "the binding of the tenant's writer leads to another role, it is replaced");
                self.sup.delete(&path, uid, None, None).await?;
                self.sup.create(&collection, wanted.to_string().into_bytes(), None).await?;
            }
        }
        Ok(())
    }
}

/// What a binding that is there needs.
#[derive(Debug, PartialEq)]
enum Mend {
    Nothing,
    /// Other subjects: this is written in its place.
    Update(Value),
    /// Another role, which cannot be changed: this one goes, and a right one comes.
    Replace(Uid),
}

fn wanted(tenant: &str, writer: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding",
        "metadata": {"name": keys::WRITER_ROLE, "labels": {keys::TENANT: tenant}},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": keys::WRITER_ROLE},
        "subjects": [{"kind": "ServiceAccount", "namespace": keys::WRITERS_NAMESPACE, "name": writer}],
    })
}

/// Compares by what is granted to whom; what else people write on it is theirs.
fn mend(found: &[u8], wanted: &Value) -> Result<Mend, serde_json::Error> {
    let mut found: Value = serde_json::from_slice(found)?;
    if found.get("roleRef") != wanted.get("roleRef") {
        let uid = found.pointer("/metadata/uid").and_then(Value::as_str).and_then(|uid| Uid::parse(uid).ok());
        return uid.map(Mend::Replace).ok_or_else(|| serde_json::Error::custom("a RoleBinding without a UID"));
    }
    let subjects = wanted.get("subjects").cloned().unwrap_or_default();
    if found.get("subjects") == Some(&subjects) {
        return Ok(Mend::Nothing);
    }
    if let Some(fields) = found.as_object_mut() {
        fields.insert("subjects".to_owned(), subjects);
    }
    Ok(Mend::Update(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(change: impl FnOnce(&mut Value)) -> (Value, Value) {
        let wanted = wanted("t", "w-t");
        let mut found = wanted.clone();
        found["metadata"]["uid"] = Uid::from_bits(7).to_string().into();
        found["metadata"]["resourceVersion"] = "5".into();
        change(&mut found);
        (found, wanted)
    }

    #[test]
    fn a_binding_that_grants_what_it_should_is_left_alone() {
        let (found, wanted) = found(|found| found["metadata"]["labels"] = json!({"theirs": "too"}));
        assert_eq!(mend(found.to_string().as_bytes(), &wanted).unwrap(), Mend::Nothing);
    }

    #[test]
    fn other_subjects_are_put_right_at_the_version_that_was_read() {
        let user = json!({"kind": "User", "name": "eve", "apiGroup": GROUP});
        let right = wanted("t", "w-t")["subjects"][0].clone();
        for subjects in [
            json!(null),
            json!([]),
            json!([user]),
            json!([right, user]),
            json!([{"kind": "ServiceAccount", "name": "w-t", "namespace": "x"}]),
        ] {
            let (found, wanted) = found(|found| found["subjects"] = subjects);
            let Mend::Update(written) = mend(found.to_string().as_bytes(), &wanted).unwrap() else { panic!("{found}") };
            assert_eq!((&written["subjects"], &written["metadata"]), (&wanted["subjects"], &found["metadata"]));
        }
    }

    #[test]
    fn another_role_goes_by_its_uid() {
        let (found, wanted) = found(|found| found["roleRef"]["name"] = "cluster-admin".into());
        assert_eq!(mend(found.to_string().as_bytes(), &wanted).unwrap(), Mend::Replace(Uid::from_bits(7)));
        assert!(mend(b"{}", &wanted).is_err());
    }
}
