//! `PersistentVolumeClaim`: goes down with a class that is published; the volume that it gets there comes up as a
//! [`PersistentVolume`](super::persistent_volume::PersistentVolume), and the tenant's own controllers bind the two.
//!
//! A tenant asks for a new volume and never for a certain one: which volume there is of whom, and what it holds, is not the tenant's to say. It
//! may clone a claim of its own.
//!
//! *Guarantees*: a claim without a class, or with one that is not published, makes nothing in the super cluster. No class that is not published is told
//! of, unless the claim names it itself.
//!
//! *Caveats*: phase, access modes and whether a Pod uses the claim are written by the tenant's own controllers, once the volume is there. So that
//! each is written by one, nothing is reported before, and of those nothing after.

use common::{InSuper, InTenant, Name, Super, Tenant, keys};
use serde_json::{Map, Value};

use crate::bound::{Bound, Takes};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Downward, Hearsay, Report, Resource};
use crate::metadata;
use crate::object::{Content, Object, items};
use crate::scrub::Scrub;
use crate::shape::{Table, Verdict, carry_spec};

/// The kind.
pub struct PersistentVolumeClaim;

const NO_SOURCE: &str = "a new volume is empty, or a clone of a claim of yours in this namespace (kind PersistentVolumeClaim)";

/// The field that names a class of attributes, which may change.
const ATTRIBUTES: &str = "volumeAttributesClassName";

/// The fields of the spec.
const SPEC: &Table = &[
    ("accessModes", Verdict::Copy),
    ("dataSource", Verdict::Object(SOURCE)),
    ("dataSourceRef", Verdict::Object(SOURCE_REF)),
    ("resources", Verdict::Object(&[("limits", Verdict::Copy), ("requests", Verdict::Copy)])),
    ("selector", Verdict::Refuse("volumes of the super cluster are not the tenant's to choose; remove the field")),
    ("storageClassName", Verdict::Rewrite("one that is published, else refused")),
    (ATTRIBUTES, Verdict::Rewrite("one that is published, else refused")),
    ("volumeMode", Verdict::Copy),
    ("volumeName", Verdict::Force("the volume in the tenant; that in the super cluster has another name")),
];

const GROUP: (&str, Verdict) = ("apiGroup", Verdict::Refuse(NO_SOURCE));
const KIND: (&str, Verdict) = ("kind", Verdict::Rewrite("PersistentVolumeClaim; others are refused"));
const NAME: (&str, Verdict) = ("name", Verdict::Rewrite("the name in the super namespace"));

const SOURCE: &Table = &[GROUP, KIND, NAME];

const SOURCE_REF: &Table = &[GROUP, KIND, NAME, ("namespace", Verdict::Refuse(NO_SOURCE))];

/// The fields that a claim can still change in, as far as its class and its driver allow.
const CHANGES: [&str; 2] = ["resources", ATTRIBUTES];

/// What of the status the tenant's own controllers write.
const OWN: [&str; 2] = ["accessModes", "phase"];

/// The type of a condition that the tenant's own controller writes.
const OWN_CONDITION: &str = "Unused";

/// The fields of the status that speak of a class of attributes, and where each names it.
const OF_CLASSES: [(&str, &str); 2] =
    [("currentVolumeAttributesClassName", ""), ("modifyVolumeStatus", "/targetVolumeAttributesClassName")];

/// Each is a volume, of whatever size, that somebody pays for and that a driver makes and watches over.
const CLAIMS: Bound = Bound { reason: "TooManyClaims", what: "PersistentVolumeClaims", most: 1000, takes: Takes::One };

impl Downward for PersistentVolumeClaim {
    fn resource(&self) -> Resource {
        Resource {
            group: "",
            version: "v1",
            api_version: "v1",
            kind: "PersistentVolumeClaim",
            plural: "persistentvolumeclaims",
            namespaced: true,
            status: true,
        }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("spec", SPEC)]
    }

    fn bounds(&self) -> &'static [Bound] {
        &[CLAIMS]
    }

    fn hearsay(&self) -> Hearsay {
        Hearsay::Message
    }

    fn returns(&self) -> &'static str {
        "The volume, as a PersistentVolume of the tenant's; once that is bound, the status (size, progress of growth, attributes, health), but for what the \
         tenant's own controllers write (phase, access modes, whether it is in use)."
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let mut spec = carry_spec(tenant, SPEC, cx.policy.pass_unknown_fields)?;
        let class = spec.get("storageClassName").and_then(Value::as_str).unwrap_or_default();
        if !cx.published.is_published("StorageClass", class) {
            let message = format!(
                "volumes are made by a StorageClass that is published (`kubectl get storageclasses -l {}=true`); make the claim anew with one of those",
                keys::PUBLIC
            );
            return Err(Hold::refuse("NoStorageClass", "spec.storageClassName", message));
        }
        let attributes = spec.get(ATTRIBUTES).and_then(Value::as_str).unwrap_or_default();
        if !attributes.is_empty() && !cx.published.is_published("VolumeAttributesClass", attributes) {
            let message = format!(
                "volumes are changed by a VolumeAttributesClass that is published (`kubectl get volumeattributesclasses -l {}=true`); name one of \
                 those, or none",
                keys::PUBLIC
            );
            return Err(Hold::refuse("NoVolumeAttributesClass", format!("spec.{ATTRIBUTES}"), message));
        }
        for field in ["dataSource", "dataSourceRef"] {
            if let Some(source) = spec.get_mut(field).and_then(Value::as_object_mut) {
                source_down(source, field)?;
            }
        }
        metadata::down_with_spec(&tenant.meta, spec, cx.policy)
    }

    /// The spec of the super copy with the size and the attributes asked for: nothing else of it can change.
    fn amend(&self, InSuper(asked): InSuper<Content>, InSuper(current): &InSuper<Object>, cx: &Cx<'_>) -> InSuper<Content> {
        let mut content = metadata::merge(asked, &current.meta, cx.policy);
        let asked = content.body.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(mut spec) = current.body.get("spec").and_then(Value::as_object).cloned() {
            // Attributes that were asked for and are not there yet may be asked for no longer.
            if is_bound(current) && current.text("/status/currentVolumeAttributesClassName").is_none() {
                spec.remove(ATTRIBUTES);
            }
            spec.extend(asked.into_iter().filter(|(field, _)| CHANGES.contains(&field.as_str())));
            content.body.insert("spec".to_owned(), Value::Object(spec));
        }
        InSuper(content)
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, tenant: Option<&InTenant<Object>>, cx: &Cx<'_>) -> Result<Option<InTenant<Report>>, Hold> {
        let Some(InTenant(tenant)) = tenant.filter(|tenant| is_bound(tenant) && is_bound(sup)) else { return Ok(None) };
        let fields = |object: &Object| object.at("/status").and_then(Value::as_object).cloned().unwrap_or_default();
        let (mut status, own) = (fields(sup), fields(tenant));
        for field in OWN.into_iter().chain(["conditions"]) {
            status.remove(field);
        }
        let named = |class: &str| tenant.text(&format!("/spec/{ATTRIBUTES}")) == Some(class);
        for (field, at) in OF_CLASSES {
            let class = status.get(field).and_then(|value| value.pointer(at)).and_then(Value::as_str);
            if class.is_some_and(|class| !named(class) && !cx.published.is_published("VolumeAttributesClass", class)) {
                status.remove(field);
            }
        }
        Scrub::new(cx).with_uid(sup.meta.uid, Some(tenant.meta.uid)).messages(&mut status);
        status.extend(own.into_iter().filter(|(field, _)| OWN.contains(&field.as_str())));
        let conditions = conditions(sup, tenant, cx);
        if !conditions.is_empty() {
            status.insert("conditions".to_owned(), Value::Array(conditions));
        }
        Ok(Some(InTenant(Report { node: None, status: Value::Object(status) })))
    }

    fn report_follows(&self, _tenant: &InTenant<Object>) -> bool {
        true
    }

    fn report_needs_tenant(&self, _sup: &InSuper<Object>) -> bool {
        true
    }
}

fn is_bound(copy: &Object) -> bool {
    copy.text("/status/phase") == Some("Bound")
}

/// The super cluster's conditions in the order of the tenant's, and the one that is the tenant's own.
fn conditions(sup: &Object, tenant: &Object, cx: &Cx<'_>) -> Vec<Value> {
    let list = |object: &Object| -> Vec<Value> { items(object.at("/status/conditions")).cloned().collect() };
    let is_own = |condition: &Value| condition.get("type").and_then(Value::as_str) == Some(OWN_CONDITION);
    let scrub = Scrub::new(cx).with_uid(sup.meta.uid, Some(tenant.meta.uid));
    let mut below: Vec<Value> = list(sup).into_iter().filter(|condition| !is_own(condition)).collect();
    below.iter_mut().filter_map(Value::as_object_mut).for_each(|condition| scrub.messages(condition));
    let mut out = Vec::new();
    for condition in list(tenant) {
        if is_own(&condition) {
            out.push(condition);
        } else if let Some(at) = below.iter().position(|other| other.get("type") == condition.get("type")) {
            out.push(below.remove(at));
        }
    }
    out.extend(below);
    out
}

/// What a volume is a clone of: a claim in the same namespace, by its name there.
fn source_down(source: &mut Map<String, Value>, field: &str) -> Result<(), Hold> {
    if source.get("kind").and_then(Value::as_str) != Some("PersistentVolumeClaim") {
        return Err(Hold::refuse("NotSupported", format!("spec.{field}.kind"), NO_SOURCE));
    }
    let name = source.get("name").and_then(Value::as_str).unwrap_or_default();
    let name: Name<Super> = Name::<Tenant>::parse(name)
        .map_err(|error| Hold::refuse("InvalidName", format!("spec.{field}.name"), format!("no claim can be called so: {error}")))?
        .same();
    source.insert("name".to_owned(), Value::from(name.as_str()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::every_leaf_has_a_verdict;

    #[test]
    fn every_leaf_of_the_spec_has_a_verdict() {
        every_leaf_has_a_verdict::<k8s_openapi::api::core::v1::PersistentVolumeClaimSpec>(SPEC, &[]);
    }
}
