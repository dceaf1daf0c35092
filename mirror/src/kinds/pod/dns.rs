//! Name resolution and host names: a Pod asks its tenant's name server, for its tenant's names.

use serde_json::{Map, Value, json};

use super::{Fields, Own, object, objects, text};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::object::items;

/// What a Pod may have of name servers and search domains; the API server's own limits.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// The longest host name, in bytes, by Linux and the API server.
const MAX_HOSTNAME: usize = 64;

/// Points the Pod at the tenant's name server and settles its host name.
pub(super) fn apply(spec: &mut Fields, own: &Own<'_>, cx: &Cx<'_>) -> Result<(), Hold> {
    host_name(spec, own, domain(cx))?;
    if !matches!(text(spec, "dnsPolicy"), None | Some("ClusterFirst" | "ClusterFirstWithHostNet")) {
        return Ok(());
    }
    let Some(server) = cx.profile.dns else {
        spec.insert("dnsPolicy".to_owned(), json!("Default"));
        return Ok(());
    };
    let own_config = object(spec, "dnsConfig").cloned().unwrap_or_default();
    let domain = domain(cx);
    let searches = [format!("{}.svc.{domain}", own.namespace), format!("svc.{domain}"), domain.to_owned()];
    let mut config = Map::new();
    config.insert("nameservers".to_owned(), joined([server.to_string()], &own_config, "nameservers", MAX_NAMESERVERS));
    config.insert("searches".to_owned(), joined(searches, &own_config, "searches", MAX_SEARCHES));
    config.insert("options".to_owned(), options(&own_config));
    spec.insert("dnsPolicy".to_owned(), json!("None"));
    spec.insert("dnsConfig".to_owned(), Value::Object(config));
    Ok(())
}

fn domain<'a>(cx: &Cx<'a>) -> &'a str {
    if cx.profile.cluster_domain.is_empty() { "cluster.local" } else { &cx.profile.cluster_domain }
}

/// Ours, then the user's, each once.
fn joined<const N: usize>(ours: [String; N], config: &Fields, key: &str, most: usize) -> Value {
    let mut all = Vec::from(ours);
    for item in items(config.get(key)).filter_map(Value::as_str) {
        if !all.iter().any(|known| known == item) {
            all.push(item.to_owned());
        }
    }
    all.truncate(most);
    json!(all)
}

/// `ndots:5`, as a kubelet sets it for cluster names, unless the user says otherwise.
fn options(config: &Fields) -> Value {
    let mut all: Vec<Value> = objects(config, "options").cloned().map(Value::Object).collect();
    if objects(config, "options").all(|option| text(option, "name") != Some("ndots")) {
        all.insert(0, json!({"name": "ndots", "value": "5"}));
    }
    Value::Array(all)
}

/// A node makes `<host>.<subdomain>.<super namespace>.svc.<super domain>` of a subdomain, which would show the super cluster's names and
/// resolves nowhere. So it is left out; where the whole name is asked for as host name, the tenant's is set as an override.
fn host_name(spec: &mut Fields, own: &Own<'_>, domain: &str) -> Result<(), Hold> {
    let subdomain = spec.remove("subdomain");
    let whole = spec.remove("setHostnameAsFQDN").and_then(|whole| whole.as_bool()) == Some(true);
    let Some(subdomain) = subdomain.as_ref().and_then(Value::as_str).filter(|subdomain| whole && !subdomain.is_empty()) else {
        return Ok(());
    };
    if text(spec, "hostnameOverride").is_some() {
        return Ok(());
    }
    let host = text(spec, "hostname").unwrap_or(own.name);
    let name = format!("{host}.{subdomain}.{}.svc.{domain}", own.namespace);
    if name.len() > MAX_HOSTNAME {
        return Err(Hold::refuse(
            "NotSupported",
            "spec.setHostnameAsFQDN",
            format!("the whole name {name} is longer than {MAX_HOSTNAME} characters; use shorter names, or remove the field"),
        ));
    }
    spec.remove("hostname");
    spec.insert("hostnameOverride".to_owned(), Value::String(name));
    Ok(())
}
