//! JSON objects of which some fields pass, as they stand.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::pods::SuperPod;

/// The fields of an object, each as it stands.
pub(super) type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// An object that is built anew.
pub(super) type Object<'a> = BTreeMap<&'a str, Field<'a>>;

/// The value of a field in it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Field<'a> {
    /// As it stood.
    Raw(&'a RawValue),
    Text(String),
    Object(Object<'a>),
    List(Vec<Object<'a>>),
}

/// The fields with these names.
pub(super) fn only<'a>(fields: &Fields<'a>, names: &[&'a str]) -> Object<'a> {
    names.iter().filter_map(|name| Some((*name, Field::Raw(fields.get(*name)?)))).collect()
}

/// Of a list of objects those that are about the tenant's own containers, with these fields.
pub(super) fn of_own_containers<'a>(list: &'a RawValue, names: &[&'a str], pod: &SuperPod) -> serde_json::Result<Vec<Object<'a>>> {
    let entries: Option<Vec<Fields<'_>>> = serde_json::from_str(list.get())?;
    let own =
        entries.unwrap_or_default().into_iter().filter(|entry| text(entry, "name").is_some_and(|name| pod.containers.contains(&*name)));
    Ok(own.map(|entry| only(&entry, names)).collect())
}

/// A field that is a text.
pub(super) fn text<'a>(fields: &Fields<'a>, name: &str) -> Option<Cow<'a, str>> {
    serde_json::from_str::<Text<'a>>(fields.get(name)?.get()).ok().map(|text| text.0)
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
