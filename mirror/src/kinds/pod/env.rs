//! Environment variables: what a container reads of its own Pod, and where it finds its tenant's API server.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, json};

use super::{Fields, Own, containers_mut, object, objects, objects_mut, text, volumes};
use crate::cx::Cx;

/// Lets references to metadata lead to the tenant's values, and names the tenant's API server. What may change while the Pod lives is
/// read anew at each start of a container: it goes into these annotations of the super Pod, or where there are none to write, as it is now.
pub(super) fn apply(spec: &mut Fields, own: &Own<'_>, mut annotations: Option<&mut BTreeMap<String, String>>, cx: &Cx<'_>) {
    let service = cx.profile.kubernetes.map(|(address, port)| kubernetes_service(address, port)).unwrap_or_default();
    for (_, container) in containers_mut(spec) {
        for variable in objects_mut(container, "env") {
            match annotations.as_deref_mut() {
                Some(annotations) if changes(variable) => reference(variable, own, annotations),
                _ => literal(variable, own),
            }
        }
        point_to(container, &service);
    }
}

fn path(variable: &Fields) -> Option<&str> {
    object(variable, "valueFrom").and_then(|source| object(source, "fieldRef")).and_then(|field| text(field, "fieldPath"))
}

/// Whether it is of labels or annotations.
fn changes(variable: &Fields) -> bool {
    path(variable).is_some_and(|path| path.starts_with("metadata.labels") || path.starts_with("metadata.annotations"))
}

/// Points a `fieldRef` at an annotation with the tenant's value.
fn reference(variable: &mut Fields, own: &Own<'_>, annotations: &mut BTreeMap<String, String>) {
    let Some(served) = path(variable).and_then(|path| volumes::served(path, own, annotations)) else { return };
    variable.insert("valueFrom".to_owned(), json!({"fieldRef": served}));
}

/// Turns a `fieldRef` to metadata into the tenant's value. Addresses and the node's name are the super Pod's to tell.
fn literal(variable: &mut Fields, own: &Own<'_>) {
    if let Some(value) = path(variable).and_then(|path| own.field(path)) {
        variable.remove("valueFrom");
        variable.insert("value".to_owned(), Value::String(value.replace('$', "$$")));
    }
}

impl Own<'_> {
    /// The tenant's value of a field path that the downward API offers, if it is one of metadata or the `ServiceAccount`'s name.
    ///
    /// *Sources*: `ExtractFieldPathAsString` in Kubernetes `pkg/fieldpath`.
    pub(super) fn field(&self, path: &str) -> Option<String> {
        let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
        match path {
            "metadata.name" => Some(self.name.to_owned()),
            "metadata.namespace" => Some(self.namespace.to_owned()),
            "metadata.uid" => Some(self.uid.to_string()),
            "spec.serviceAccountName" => Some(self.service_account.to_owned()),
            "metadata.labels" => Some(lines(self.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())))),
            "metadata.annotations" => Some(lines(self.annotations.iter().map(|(key, value)| (*key, *value)))),
            _ => match (subscript("metadata.labels"), subscript("metadata.annotations")) {
                (Some(key), _) => Some(self.labels.get(key).cloned().unwrap_or_default()),
                (None, Some(key)) => Some((*self.annotations.get(key).unwrap_or(&"")).to_owned()),
                (None, None) => None,
            },
        }
    }
}

/// A map as the kubelet writes it into a file: `key="value"`, sorted, a line each, quoted as Go quotes strings.
fn lines<'a>(map: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let lines: Vec<String> = map.map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{07}' => out.push_str("\\a"),
            '\u{08}' => out.push_str("\\b"),
            '\u{0c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{0b}' => out.push_str("\\v"),
            c if printable(c) => out.push(c),
            c => out.push_str(&escaped(c)),
        }
    }
    out.push('"');
    out
}

fn escaped(c: char) -> String {
    let code = u32::from(c);
    match code {
        0..0x80 => format!("\\x{code:02x}"),
        0x80..0x1_0000 => format!("\\u{code:04x}"),
        _ => format!("\\U{code:08x}"),
    }
}

/// Rust escapes what is not printable; behind another character, combining marks are left alone, as in Go.
fn printable(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || !c.is_ascii() && format!("a{c}").escape_debug().eq(['a', c])
}

/// The variables of the Service `default/kubernetes`, as a kubelet would set them; those of port 443 always, since the super cluster's
/// own would show through otherwise.
fn kubernetes_service(address: IpAddr, port: u16) -> Vec<(String, String)> {
    let host = address.to_string();
    let url = match address {
        IpAddr::V4(_) => format!("tcp://{host}:{port}"),
        IpAddr::V6(_) => format!("tcp://[{host}]:{port}"),
    };
    let mut variables = vec![
        ("KUBERNETES_SERVICE_HOST".to_owned(), host.clone()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), port.to_string()),
        ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), port.to_string()),
        ("KUBERNETES_PORT".to_owned(), url.clone()),
    ];
    let mut ports = vec![443, port];
    ports.dedup();
    for name in ports {
        variables.push((format!("KUBERNETES_PORT_{name}_TCP"), url.clone()));
        variables.push((format!("KUBERNETES_PORT_{name}_TCP_PROTO"), "tcp".to_owned()));
        variables.push((format!("KUBERNETES_PORT_{name}_TCP_PORT"), port.to_string()));
        variables.push((format!("KUBERNETES_PORT_{name}_TCP_ADDR"), host.clone()));
    }
    variables
}

/// Puts the variables first, so that the user's own can refer to them; one that the user sets stays the user's.
fn point_to(container: &mut Fields, service: &[(String, String)]) {
    if service.is_empty() {
        return;
    }
    let missing = |name: &str| objects(container, "env").all(|variable| text(variable, "name") != Some(name));
    let mut env: Vec<Value> =
        service.iter().filter(|(name, _)| missing(name)).map(|(name, value)| json!({"name": name, "value": value})).collect();
    if let Some(Value::Array(own)) = container.get_mut("env") {
        env.append(own);
    }
    container.insert("env".to_owned(), Value::Array(env));
}

#[cfg(test)]
mod tests {
    use common::Uid;

    use super::*;

    #[test]
    fn metadata_is_the_tenants_and_is_not_expanded() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let own = Own {
            namespace: "default",
            name: "web-0",
            uid: Uid::parse("d64ea0c0-91f8-46f5-8643-c0cab32ab0cd").unwrap(),
            service_account: "robot",
            labels: &labels,
            annotations: BTreeMap::from([("a.example/note", "$(HOME)")]),
        };
        let cases = [
            ("metadata.name", Some("web-0")),
            ("metadata.namespace", Some("default")),
            ("metadata.uid", Some("d64ea0c0-91f8-46f5-8643-c0cab32ab0cd")),
            ("metadata.labels['app']", Some("web")),
            ("metadata.labels['absent']", Some("")),
            ("metadata.annotations['a.example/note']", Some("$$(HOME)")),
            ("spec.serviceAccountName", Some("robot")),
            ("spec.nodeName", None),
            ("status.hostIP", None),
            ("status.podIPs", None),
        ];
        for (path, expected) in cases {
            let given = json!({"name": "X", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
            let mut variable = given.as_object().cloned().unwrap();
            literal(&mut variable, &own);
            let expected = expected.map_or(given, |value| json!({"name": "X", "value": value}));
            assert_eq!(Value::Object(variable), expected, "{path}");
        }
    }

    #[test]
    fn maps_are_written_as_the_kubelet_writes_them() {
        let map = [("a", "x"), ("b", "say \"hi\"\n\\ ü \u{1}\u{200b}e\u{301}")];
        assert_eq!(lines(map.into_iter()), "a=\"x\"\nb=\"say \\\"hi\\\"\\n\\\\ ü \\x01\\u200be\u{301}\"");
    }

    #[test]
    fn the_users_own_variable_wins_and_comes_last() {
        let mut container = json!({"env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "mine"}]}).as_object().cloned().unwrap();
        point_to(&mut container, &kubernetes_service("10.128.0.1".parse().unwrap(), 443));
        let named = |name: &str| objects(&container, "env").filter(|v| text(v, "name") == Some(name)).collect::<Vec<_>>();
        assert_eq!(named("KUBERNETES_SERVICE_HOST").len(), 1);
        assert_eq!(named("KUBERNETES_PORT_443_TCP")[0]["value"], "tcp://10.128.0.1:443");
        assert_eq!(container["env"].as_array().unwrap().last().unwrap()["value"], "mine");
    }

    #[test]
    fn another_port_still_covers_the_super_clusters_variables() {
        let variables = BTreeMap::from_iter(kubernetes_service("fd00::1".parse().unwrap(), 6443));
        assert_eq!(variables["KUBERNETES_PORT_443_TCP"], "tcp://[fd00::1]:6443");
        assert_eq!(variables["KUBERNETES_PORT_6443_TCP_ADDR"], "fd00::1");
    }
}
