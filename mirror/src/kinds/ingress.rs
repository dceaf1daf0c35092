//! `Ingress`: goes down under hosts that are registered for the tenant, with a class that is published; the addresses of its load balancer come up.
//!
//! One proxy serves all tenants, and what an Ingress says becomes its configuration. So nothing that the proxy might read as more than a path or
//! a host goes down, no annotation does, and each name belongs to one tenant.
//!
//! *Guarantees*: no Ingress of a tenant takes a request for a host that is not registered for it, nor for one that an older registration of
//! another tenant has. One that went down before, and whose hosts the tenant may not use any more, ends.
//!
//! *Caveats*: which of two Ingresses with one host and one path a proxy takes, and which certificate it shows for a host, is the proxy's business:
//! both may only be this tenant's by its hosts. An older registration that is made wider takes over at once.
//!
//! *Sources*: CVE-2021-25742, CVE-2021-25748, CVE-2024-7646 and CVE-2025-1974 of ingress-nginx for what annotations and paths did.

use std::collections::BTreeMap;

use common::{InSuper, InTenant, Name, Super, Tenant};
use serde_json::{Map, Value};

use crate::bound::{Bound, Takes};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::host::{Denied, Host};
use crate::kind::{Downward, Reference, Registered, Report, Resource};
use crate::metadata;
use crate::object::{Content, Meta, Object, items};
use crate::shape::{Table, Verdict, carry_spec};

/// The kind.
pub struct Ingress;

/// The fields of the spec.
const SPEC: &Table = &[
    (
        "defaultBackend",
        Verdict::Refuse("it would take what no Ingress of anybody's asks for; name a host that is registered for you in spec.rules[].host"),
    ),
    ("ingressClassName", Verdict::Rewrite("one that is published, else refused")),
    ("rules", Verdict::List(RULE)),
    ("tls", Verdict::List(TLS)),
];

const RULE: &Table = &[
    ("host", Verdict::Rewrite("one that is registered for the tenant (`spec.ingressHosts` of its VirtualCluster), else refused")),
    ("http", Verdict::Object(&[("paths", Verdict::List(PATH))])),
];

const PATH: &Table = &[
    (
        "backend",
        Verdict::Object(&[
            ("resource", Verdict::Refuse("an Ingress leads to Services; name one in backend.service")),
            ("service", Verdict::Object(SERVICE)),
        ]),
    ),
    ("path", Verdict::Rewrite("characters that a proxy reads as more than a path are refused")),
    ("pathType", Verdict::Rewrite("Exact, Prefix, or ImplementationSpecific for a path of letters, digits and `/._-` alone")),
];

const SERVICE: &Table = &[
    ("name", Verdict::Rewrite("the name in the super namespace")),
    ("port", Verdict::Object(&[("name", Verdict::Copy), ("number", Verdict::Copy)])),
];

const TLS: &Table = &[
    ("hosts", Verdict::Rewrite("as hosts of rules; none is refused")),
    ("secretName", Verdict::Rewrite("the name in the super namespace; the Secret goes down for it")),
];

/// Rules, paths and hosts of certificates of one Ingress that go down.
const MOST: usize = 500;

/// One proxy holds the configuration of all tenants' Ingresses, and reads it anew with each change of any.
const BOUNDS: [Bound; 2] = [
    Bound { reason: "TooManyIngresses", what: "Ingresses", most: 1000, takes: Takes::One },
    Bound {
        reason: "TooManyRules",
        what: "rules, paths and hosts of certificates of Ingresses",
        most: 5000,
        takes: Takes::Counted(|body| body.get("spec").and_then(Value::as_object).map_or(0, size)),
    },
];

/// The longest path, in bytes.
const LONGEST_PATH: usize = 1024;

/// What a path may have beside letters and digits. Left out of what RFC 3986 allows are quotes, `$`, `;` and brackets, by which text gets out of a
/// proxy's configuration into others', or is a pattern.
const IN_PATHS: &[u8] = b"-._~/%:@!&+,=";

/// Where each controller reads the path in its own way, mostly as a pattern.
const IN_PATTERNS: &[u8] = b"-._/";

/// Domains of annotations that controllers are configured by, beside those with `ingress` in their name.
const CONTROLLERS: [&str; 13] = [
    "apisix.apache.org",
    "f5.com",
    "getambassador.io",
    "haproxy.com",
    "haproxy.org",
    "konghq.com",
    "networking.gke.io",
    "nginx.com",
    "nginx.org",
    "projectcontour.io",
    "traefik.containo.us",
    "traefik.io",
    "zalando.org",
];

impl Downward for Ingress {
    fn resource(&self) -> Resource {
        Resource {
            group: "networking.k8s.io",
            version: "v1",
            api_version: "networking.k8s.io/v1",
            kind: "Ingress",
            plural: "ingresses",
            namespaced: true,
            status: true,
        }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("spec", SPEC)]
    }

    fn bounds(&self) -> &'static [Bound] {
        &BOUNDS
    }

    fn returns(&self) -> &'static str {
        "The addresses of the load balancer (`status.loadBalancer`). No annotation goes down, whatever `--annotations-down` lists; one that a controller would be configured by is refused."
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        without_settings(&tenant.meta.annotations)?;
        let mut spec = carry_spec(tenant, SPEC, cx.policy.pass_unknown_fields)?;
        bounded(&spec)?;
        class(&spec, cx)?;
        if items(spec.get("rules")).next().is_none() {
            return Err(Hold::refuse("NotSupported", "spec.rules", "without a rule there is nothing to publish; add one, with a host"));
        }
        for (i, rule) in list_mut(&mut spec, "rules").iter_mut().enumerate() {
            rule_down(rule, &format!("spec.rules[{i}]"), cx)?;
        }
        for (i, tls) in list_mut(&mut spec, "tls").iter_mut().enumerate() {
            tls_down(tls, &format!("spec.tls[{i}]"), cx)?;
        }
        let meta = Meta { annotations: BTreeMap::new(), ..tenant.meta.clone() };
        metadata::down_with_spec(&meta, spec, cx.policy)
    }

    fn depends_on(&self) -> Option<Registered> {
        Some(Registered::Hosts)
    }

    fn may_stay(&self, InSuper(sup): &InSuper<Object>, cx: &Cx<'_>) -> bool {
        hosts(sup).all(|host| asked(host, "", cx).is_ok())
    }

    fn up(
        &self,
        InSuper(sup): &InSuper<Object>,
        _tenant: Option<&InTenant<Object>>,
        _cx: &Cx<'_>,
    ) -> Result<Option<InTenant<Report>>, Hold> {
        Ok(Some(InTenant(Report::of_balancer(sup))))
    }

    fn refers(&self) -> bool {
        true
    }

    fn references(&self, InTenant(tenant): &InTenant<Object>) -> Vec<Reference> {
        let names = secrets(tenant).filter_map(|name| Name::<Tenant>::parse(name).ok());
        references(names)
    }

    fn references_below(&self, InSuper(sup): &InSuper<Object>) -> Vec<Reference> {
        references(secrets(sup).filter_map(Name::<Super>::unescaped))
    }
}

fn references(names: impl Iterator<Item = Name<Tenant>>) -> Vec<Reference> {
    let mut found: Vec<Reference> = names.map(|name| Reference { kind: "Secret", name: name.as_str().to_owned() }).collect();
    found.sort();
    found.dedup();
    found
}

/// The names of the Secrets with certificates.
fn secrets(object: &Object) -> impl Iterator<Item = &str> {
    items(object.at("/spec/tls")).filter_map(|tls| tls.get("secretName")?.as_str()).filter(|name| !name.is_empty())
}

/// All hosts, empty for a rule that has none.
fn hosts(object: &Object) -> impl Iterator<Item = &str> {
    let of_rules = items(object.at("/spec/rules")).map(|rule| rule.get("host").and_then(Value::as_str).unwrap_or_default());
    let of_tls = items(object.at("/spec/tls")).flat_map(|tls| items(tls.get("hosts"))).map(|host| host.as_str().unwrap_or_default());
    of_rules.chain(of_tls)
}

/// Refuses what would make another Ingress of it once it is left out: whom a proxy lets in, and where it leads, stands in annotations.
fn without_settings(annotations: &BTreeMap<String, String>) -> Result<(), Hold> {
    let Some(key) = annotations.keys().find(|key| configures(key)) else { return Ok(()) };
    let message = if key == "kubernetes.io/ingress.class" {
        "the class is named in spec.ingressClassName alone; remove the annotation"
    } else {
        "annotations configure the ingress controller of the whole super cluster, so none goes down, and without this one the Ingress would not do \
         what it says; remove it, or ask the administrator for a class that does it"
    };
    Err(Hold::refuse("AnnotationNotAllowed", format!("metadata.annotations[{key:.128}]"), message))
}

/// Whether controllers are configured by an annotation of this key.
fn configures(key: &str) -> bool {
    let Some((domain, name)) = key.split_once('/') else { return false };
    let domain = domain.to_ascii_lowercase();
    let is_within = |of: &str| domain.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    domain.contains("ingress") || (domain == "kubernetes.io" && name.starts_with("ingress.")) || CONTROLLERS.into_iter().any(is_within)
}

/// Rules, paths, certificates and their hosts.
fn size(spec: &Map<String, Value>) -> usize {
    let rules = items(spec.get("rules")).map(|rule| 1 + items(rule.get("http").and_then(|http| http.get("paths"))).count());
    let tls = items(spec.get("tls")).map(|tls| 1 + items(tls.get("hosts")).count());
    rules.chain(tls).sum()
}

fn bounded(spec: &Map<String, Value>) -> Result<(), Hold> {
    if size(spec) <= MOST {
        return Ok(());
    }
    let message = format!("at most {MOST} rules, paths and hosts of certificates of one Ingress go down; make several of it");
    Err(Hold::refuse("TooLarge", "spec", message))
}

fn class(spec: &Map<String, Value>, cx: &Cx<'_>) -> Result<(), Hold> {
    let class = text(spec, "ingressClassName");
    if cx.published.is_published("IngressClass", class) {
        return Ok(());
    }
    let said = if class.is_empty() { "no class is named" } else { "no class of this name is published" };
    let message = format!(
        "{said}; name one that is in your cluster by the super cluster's doing (`kubectl get ingressclasses -l {}=true`)",
        common::keys::PUBLIC
    );
    Err(Hold::refuse("NoIngressClass", "spec.ingressClassName", message))
}

fn rule_down(rule: &mut Value, at: &str, cx: &Cx<'_>) -> Result<(), Hold> {
    let host = rule.get("host").and_then(Value::as_str).unwrap_or_default();
    asked(host, &format!("{at}.host"), cx)?;
    let Some(Value::Array(paths)) = rule.get_mut("http").and_then(|http| http.get_mut("paths")) else { return Ok(()) };
    for (i, path) in paths.iter_mut().enumerate() {
        let at = format!("{at}.http.paths[{i}]");
        let Value::Object(path) = path else { return Err(Hold::Malformed(format!("{at} is no object").into())) };
        plain(text(path, "path"), text(path, "pathType"), &at)?;
        if let Some(Value::Object(service)) = path.get_mut("backend").and_then(|backend| backend.get_mut("service")) {
            rename(service, "name", &format!("{at}.backend.service.name"))?;
        }
    }
    Ok(())
}

fn tls_down(tls: &mut Value, at: &str, cx: &Cx<'_>) -> Result<(), Hold> {
    let Value::Object(tls) = tls else { return Err(Hold::Malformed(format!("{at} is no object").into())) };
    let mut hosts = items(tls.get("hosts")).enumerate().peekable();
    if hosts.peek().is_none() {
        let message = "without hosts the certificate would be for every name that the proxy serves; name those of your rules";
        return Err(Hold::refuse("NoHost", format!("{at}.hosts"), message));
    }
    for (i, host) in hosts {
        asked(host.as_str().unwrap_or_default(), &format!("{at}.hosts[{i}]"), cx)?;
    }
    if text(tls, "secretName").is_empty() {
        tls.remove("secretName");
        return Ok(());
    }
    rename(tls, "secretName", &format!("{at}.secretName"))
}

/// Whether the tenant may publish under a host.
fn asked(host: &str, at: &str, cx: &Cx<'_>) -> Result<(), Hold> {
    const ADMINISTRATOR: &str = "the administrator registers hosts (spec.ingressHosts of the VirtualCluster)";
    if host.is_empty() {
        let message = "without a host it would take requests for every name; name one that is registered for you";
        return Err(Hold::refuse("NoHost", at, message));
    }
    let parsed: Host = host.parse().map_err(|error| Hold::refuse("HostInvalid", at, format!("{host:.80?} is no host: {error}")))?;
    match cx.profile.hosts.ask(&parsed) {
        Ok(()) => Ok(()),
        Err(Denied::NothingRegistered) => {
            Err(Hold::refuse("HostNotRegistered", at, format!("no host is registered for this control plane; {ADMINISTRATOR}")))
        }
        Err(Denied::NotRegistered) => {
            let message = format!("{parsed} is not registered for this control plane; use a host that is, or ask: {ADMINISTRATOR}");
            Err(Hold::refuse("HostNotRegistered", at, message))
        }
        Err(Denied::Taken) => {
            let message = format!(
                "{parsed}, or a part of it, was registered for another control plane before; use another host, or ask: {ADMINISTRATOR}"
            );
            Err(Hold::refuse("HostTaken", at, message))
        }
    }
}

/// Refuses a path that a proxy may read as more than one.
fn plain(path: &str, kind: &str, at: &str) -> Result<(), Hold> {
    let (more, said) = match kind {
        "Exact" | "Prefix" => {
            (IN_PATHS, "a path is made of letters, digits and -._~/%:@!&+,= alone; remove the others, or encode them (%28)")
        }
        "ImplementationSpecific" => (
            IN_PATTERNS,
            "controllers read it as a pattern, so it is made of letters, digits and -._/ alone; use the pathType Prefix or Exact",
        ),
        _ => {
            return Err(Hold::refuse(
                "NotSupported",
                format!("{at}.pathType"),
                "it is Exact, Prefix or ImplementationSpecific; choose one of them",
            ));
        }
    };
    if path.len() > LONGEST_PATH {
        let message = format!("it is longer than {LONGEST_PATH} characters; make it shorter");
        return Err(Hold::refuse("PathNotAllowed", format!("{at}.path"), message));
    }
    let is_plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte));
    if is_plain && (path.is_empty() || path.starts_with('/')) {
        return Ok(());
    }
    let said = if is_plain { "it begins with a /; put one before it" } else { said };
    Err(Hold::refuse("PathNotAllowed", format!("{at}.path"), said))
}

/// Puts the name in the super namespace in place of the tenant's.
fn rename(fields: &mut Map<String, Value>, key: &str, at: &str) -> Result<(), Hold> {
    let name: Name<Super> = Name::<Tenant>::parse(text(fields, key))
        .map_err(|error| Hold::refuse("InvalidName", at, format!("nothing can be called so: {error}")))?
        .same();
    fields.insert(key.to_owned(), Value::from(name.as_str()));
    Ok(())
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> &'a str {
    fields.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list_mut<'a>(spec: &'a mut Map<String, Value>, key: &str) -> &'a mut [Value] {
    spec.get_mut(key).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::every_leaf_has_a_verdict;

    #[test]
    fn every_leaf_of_the_spec_has_a_verdict() {
        every_leaf_has_a_verdict::<k8s_openapi::api::networking::v1::IngressSpec>(SPEC, &[]);
    }

    #[test]
    fn s24_a_path_is_a_path_and_nothing_else() {
        let ask = |path: &str, kind: &str| plain(path, kind, "").is_ok();
        for path in ["/", "/a/b.html", "/a_b-c", ""] {
            assert!(ask(path, "Prefix") && ask(path, "Exact") && ask(path, "ImplementationSpecific"), "{path}");
        }
        for path in ["/a%20b", "/a:b@c", "/~user", "/a+b", "/a=b,c&d!"] {
            assert!(ask(path, "Prefix") && ask(path, "Exact") && !ask(path, "ImplementationSpecific"), "{path}");
        }
        // What ends a word, a block or a text in a configuration, or stands for something there.
        for path in [
            "/a b",
            "/a;b",
            "/a{b",
            "/a}b",
            "/a\"b",
            "/a'b",
            "/a`b",
            "/$a",
            "/a\\b",
            "/a\nb",
            "/a\rb",
            "/a\tb",
            "/a\u{0}b",
            "/a\u{7f}b",
            "/a#b",
            "/a<b",
            "/a|b",
            "/a^b",
            "/é",
            "/\u{2028}",
            "/.*",
            "/(a)",
            "/[a]",
            "/a?",
            "a",
            "*",
        ] {
            assert!(!ask(path, "Prefix") && !ask(path, "Exact") && !ask(path, "ImplementationSpecific"), "{path:?}");
        }
        assert!(!ask("/", "") && !ask("/", "Regex") && !ask("/", "exact"));
        assert!(!ask(&"/a".repeat(LONGEST_PATH), "Exact"));
    }

    #[test]
    fn s24_what_controllers_are_configured_by_is_refused() {
        for key in [
            "nginx.ingress.kubernetes.io/configuration-snippet",
            "nginx.ingress.kubernetes.io/auth-url",
            "NGINX.Ingress.kubernetes.io/server-snippet",
            "ingress.kubernetes.io/rewrite-target",
            "alb.ingress.kubernetes.io/group.name",
            "traefik.ingress.kubernetes.io/router.middlewares",
            "haproxy-ingress.github.io/config-backend",
            "ingress.cloud.ibm.com/location-snippet",
            "kubernetes.io/ingress.class",
            "kubernetes.io/ingress.global-static-ip-name",
            "nginx.org/server-snippets",
            "custom.nginx.org/x",
            "haproxy.org/backend-config-snippet",
            "konghq.com/plugins",
            "traefik.io/x",
        ] {
            assert!(configures(key), "{key}");
        }
        // Left out without a word: what works in the tenant's own cluster.
        for key in [
            "kubectl.kubernetes.io/last-applied-configuration",
            "cert-manager.io/issuer",
            "external-dns.alpha.kubernetes.io/target",
            "note",
            "a/ingress.class",
        ] {
            assert!(!configures(key), "{key}");
        }
    }

    #[test]
    fn s33_rules_without_end_are_refused() {
        let with = |count: usize| bounded(&Map::from_iter([("rules".to_owned(), Value::from(vec![json!({}); count]))]));
        assert!(with(MOST).is_ok());
        assert!(matches!(with(MOST + 1), Err(Hold::Refused(refusal)) if refusal.reason == "TooLarge"));
        let paths = json!([{"http": {"paths": vec![json!({}); MOST]}}]);
        assert!(bounded(&Map::from_iter([("rules".to_owned(), paths)])).is_err());
        let hosts = json!([{"hosts": vec![json!("a.example.com"); MOST]}]);
        assert!(bounded(&Map::from_iter([("tls".to_owned(), hosts)])).is_err());
    }
}
