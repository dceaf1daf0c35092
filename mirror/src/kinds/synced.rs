//! A kind of custom resources, as a `SyncedResource` configures it: a row that is made at run time, and goes down like any other.
//!
//! What nobody of us has read can carry anything: Pods, references out of the tenant's namespace, marks of ours. So nothing is carried that the
//! administrator has not named, and of what he names as a whole what leads out is refused unless it is named itself (`fields`).
//!
//! *Caveats*: what of the spec we never ask for stays as the super cluster has it; of what we ask for, what a controller there fills in is
//! taken away again unless the verdict is `CopyOrKeep`.

mod fields;

use std::collections::BTreeMap;

use common::api::{FieldVerdict, SyncedResourceSpec};
use common::{InSuper, InTenant, Owner, keys};
use serde_json::{Map, Value};

use self::fields::Fields;
pub use self::fields::Flaw;
use crate::KINDS;
use crate::bound::{Bound, Takes};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Downward, Report, Resource};
use crate::metadata;
use crate::object::{Content, Object};
use crate::observed::Observed;
use crate::scrub::Scrub;
use crate::shape::{Table, Verdict, carry_body};
use crate::size;

/// The rule by which a custom resource whose definition is not ours is refused.
const UNNAMED: &str = "the administrator of the super cluster does not let this field down; remove it, or ask for it";

/// A row.
pub struct Synced {
    resource: Resource,
    fields: Fields,
    tables: &'static [(&'static str, &'static Table)],
    selector: Option<&'static str>,
    /// The same, as labels.
    labels: BTreeMap<String, String>,
    bounds: &'static [Bound],
    /// Where what comes back stands, below the status; one that is empty is the whole.
    returns: Vec<Vec<String>>,
    said: &'static str,
}

impl Synced {
    /// Whether a row can be made of the configuration.
    ///
    /// *Errors*: what is wrong with it, for people.
    pub fn check(spec: &SyncedResourceSpec) -> Result<(), Flaw> {
        read(spec).map(drop)
    }

    /// The row of a kind in one of its versions.
    ///
    /// *Errors*: what is wrong with the configuration, for people.
    pub fn of(spec: &SyncedResourceSpec, version: &str) -> Result<Self, Flaw> {
        let (fields, selector) = read(spec)?;
        let returns: Vec<Vec<String>> = spec.returns.iter().map(|path| path.split('.').skip(1).map(str::to_owned).collect()).collect();
        let status = ("status", Verdict::Force("it comes back, or is the tenant's own"));
        let table: &'static Table = Box::leak(fields.table().into_iter().chain([status]).collect::<Vec<_>>().into_boxed_slice());
        let said = if spec.returns.is_empty() { "Nothing.".to_owned() } else { format!("`{}`.", spec.returns.join("`, `")) };
        Ok(Self {
            resource: Resource {
                group: leak(&spec.group),
                version: leak(version),
                api_version: leak(&format!("{}/{version}", spec.group)),
                kind: leak(&spec.kind),
                plural: leak(&spec.plural),
                namespaced: true,
                status: !returns.is_empty(),
            },
            fields,
            tables: Box::leak(Box::new([("", table)])),
            selector: selector.as_deref().map(leak),
            labels: spec.match_labels.clone(),
            bounds: Box::leak(Box::new([Bound {
                reason: "TooManyObjects",
                what: leak(&format!("{}.{}", spec.plural, spec.group)),
                most: usize::try_from(spec.most).unwrap_or(usize::MAX),
                takes: Takes::One,
            }])),
            returns,
            said: leak(&said),
        })
    }
}

/// What is asked, if it can be meant.
fn read(spec: &SyncedResourceSpec) -> Result<(Fields, Option<String>), Flaw> {
    if KINDS.iter().any(|row| row.resource().kind == spec.kind) {
        return Err(Flaw(format!("spec.kind: {} is the name of a kind that is built in", spec.kind)));
    }
    Ok((Fields::of(&spec.fields)?, selector(spec)?))
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// The label selector of those that go down.
fn selector(spec: &SyncedResourceSpec) -> Result<Option<String>, Flaw> {
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    for (key, value) in &spec.match_labels {
        if key.is_empty() || !is_plain(key) || !is_plain(value) {
            return Err(Flaw(format!("spec.matchLabels: {key}={value} is no label")));
        }
    }
    let pairs: Vec<String> = spec.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok((!pairs.is_empty()).then(|| pairs.join(",")))
}

impl Downward for Synced {
    fn resource(&self) -> Resource {
        self.resource
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        self.tables
    }

    fn returns(&self) -> &'static str {
        self.said
    }

    fn bounds(&self) -> &'static [Bound] {
        self.bounds
    }

    fn tenant_selector(&self) -> Option<&'static str> {
        self.selector
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        if !self.labels.iter().all(|(key, value)| tenant.meta.labels.get(key) == Some(value)) {
            return Err(Hold::Stays);
        }
        let table = self.tables.first().map_or(&[][..], |(_, table)| *table);
        // Never what is unknown, whatever the policy says of kinds whose schema we know.
        let mut body = carry_body(&tenant.body, table, false).map_err(unnamed)?;
        self.fields.rewrite(&mut body, cx)?;
        let mut content = Content { body, ..metadata::down(&tenant.meta, cx.policy) };
        if self.resource.status {
            content.annotations.insert(keys::GENERATION.to_owned(), tenant.meta.generation.to_string());
        }
        size::cap(content, size::MOST_BYTES).map(InSuper)
    }

    fn amend(&self, InSuper(asked): InSuper<Content>, InSuper(current): &InSuper<Object>, cx: &Cx<'_>) -> InSuper<Content> {
        let mut asked = metadata::merge(asked, &current.meta, cx.policy);
        self.fields.keep(&mut asked.body, &current.body);
        InSuper(asked)
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, _: Option<&InTenant<Object>>, cx: &Cx<'_>) -> Result<Option<InTenant<Report>>, Hold> {
        let Some(below) = sup.body.get("status").and_then(Value::as_object).filter(|_| self.resource.status) else { return Ok(None) };
        let mut status = Map::new();
        for path in &self.returns {
            pick(below, path, &mut status);
        }
        let label = sup.meta.labels.get(keys::TENANT).map(String::as_str);
        let owner = Owner::read(label, sup.meta.annotations.get(keys::OWNER).map(String::as_str)).ok();
        let scrub = Scrub::new(cx).with_uid(sup.meta.uid, owner.map(|owner| owner.uid));
        let mut status = Value::Object(status);
        tell(&mut status, &scrub, &Observed::of(sup));
        Ok(Some(InTenant(Report { node: None, status })))
    }
}

/// What a table says of a field that it does not name, as it is of these kinds.
fn unnamed(hold: Hold) -> Hold {
    match hold {
        Hold::Refused(refusal) if refusal.reason == "UnknownField" => Hold::refuse("NotSupported", refusal.field, UNNAMED),
        Hold::Refused(_) | Hold::Until(_) | Hold::Malformed(_) | Hold::Stays => hold,
    }
}

/// Takes what stands at a path over, and what is on the way with it.
fn pick(from: &Map<String, Value>, path: &[String], into: &mut Map<String, Value>) {
    let Some((first, rest)) = path.split_first() else {
        into.extend(from.iter().map(|(key, value)| (key.clone(), value.clone())));
        return;
    };
    let Some(value) = from.get(first) else { return };
    match (rest.is_empty(), value) {
        (true, _) => {
            into.insert(first.clone(), value.clone());
        }
        (false, Value::Object(fields)) => {
            if let Value::Object(below) = into.entry(first.clone()).or_insert_with(|| Value::Object(Map::new())) {
                pick(fields, rest, below);
            }
        }
        (false, _) => {}
    }
}

/// Every text as the tenant may read it, every generation in its numbers.
fn tell(value: &mut Value, scrub: &Scrub<'_>, observed: &Observed) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(new) = scrub.text(text) {
                *text = new;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| tell(item, scrub, observed)),
        Value::Object(fields) => {
            observed.apply(fields);
            fields.values_mut().for_each(|field| tell(field, scrub, observed));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What becomes of a field, for people.
fn verdict(of: FieldVerdict, values: &[String]) -> Verdict {
    match of {
        FieldVerdict::Copy if values.is_empty() => Verdict::Copy,
        FieldVerdict::CopyOrKeep if values.is_empty() => {
            Verdict::Rewrite("carried; where there is none, what the super cluster chose stays")
        }
        FieldVerdict::Copy | FieldVerdict::CopyOrKeep => {
            Verdict::Rewrite(leak(&format!("one of {}; others are refused", values.join(", "))))
        }
        FieldVerdict::Selector | FieldVerdict::Labels => Verdict::Rewrite("keys as labels have them in the super cluster"),
        FieldVerdict::Namespace => Verdict::Rewrite("the namespace in the super cluster; another than the object's own is refused"),
        FieldVerdict::LeaveOut => Verdict::Force("the administrator of the super cluster says so"),
        FieldVerdict::Refuse => Verdict::Refuse("the administrator of the super cluster refuses it; remove it"),
    }
}
