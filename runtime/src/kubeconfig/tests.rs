//! Every refused form of a kubeconfig, and the few that are taken.

use super::*;

/// Base64 of `-----BEGIN X-----`.
const PEM: &str = "LS0tLS1CRUdJTiBYLS0tLS0=";

/// A kubeconfig of one entry each; `cluster` and `user` are flow mappings' contents.
fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\npreferences: {{}}\ncurrent-context: c\n\
         clusters:\n- name: a\n  cluster: {{{cluster}}}\n\
         users:\n- name: b\n  user: {{{user}}}\n\
         contexts:\n- name: c\n  context: {{cluster: a, user: b, namespace: d}}\n"
    )
}

fn cluster() -> String {
    format!("server: 'https://a.example:6443', certificate-authority-data: {PEM}")
}

fn refused(cluster: &str, user: &str) -> String {
    Kubeconfig::from_tenant(kubeconfig(cluster, user).as_bytes()).unwrap_err().to_string()
}

fn refused_text(text: &str) -> KubeconfigError {
    Kubeconfig::from_tenant(text.as_bytes()).unwrap_err()
}

#[test]
fn a_token_and_a_ca_are_enough() {
    let text = kubeconfig(&format!("{}, tls-server-name: x.example", cluster()), "token: t0ken");
    let read = Kubeconfig::from_tenant(text.as_bytes()).unwrap();
    assert_eq!(read.server.as_str(), "https://a.example:6443/");
    assert_eq!(read.ca_pem, b"-----BEGIN X-----");
    assert_eq!(read.tls_server_name.as_deref(), Some("x.example"));
    let Identity::Token(token) = read.identity else { panic!("not a token") };
    assert_eq!(token.expose(), "t0ken");
}

#[test]
fn a_client_certificate_with_its_key_is_an_identity() {
    let user = format!("client-certificate-data: {PEM}, client-key-data: {PEM}");
    let read = Kubeconfig::from_tenant(kubeconfig(&cluster(), &user).as_bytes()).unwrap();
    assert!(matches!(read.identity, Identity::Certificate { .. }));
}

#[test]
fn json_is_read_too_and_a_harmless_flag_may_say_no() {
    let text = format!(
        r#"{{"clusters":[{{"name":"a","cluster":{{"server":"https://h","insecure-skip-tls-verify":false,
        "certificate-authority-data":"{PEM}"}}}}],"users":[{{"name":"b","user":{{"token":"t"}}}}],
        "contexts":[{{"name":"c","context":{{"cluster":"a","user":"b"}}}}]}}"#
    );
    assert_eq!(Kubeconfig::from_tenant(text.as_bytes()).unwrap().server.host_str(), Some("h"));
}

#[test]
fn p1_p2_p3_s45_each_refused_field_of_a_user_is_named_with_its_mend() {
    for (user, names, mend) in [
        ("exec: {apiVersion: v1, command: /bin/sh, args: [-c, id]}", "exec", "token"),
        ("auth-provider: {name: gcp, config: {cmd-path: /bin/sh}}", "auth-provider", "token"),
        ("tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token", "tokenFile", "into token"),
        ("client-certificate: /etc/a.pem", "client-certificate ", "client-certificate-data"),
        ("client-key: /etc/a.pem", "client-key ", "client-key-data"),
        ("token: t, as: admin", "user.as ", "remove"),
        ("token: t, as-uid: '1'", "as-uid", "remove"),
        ("token: t, as-groups: ['system:masters']", "as-groups", "remove"),
        ("token: t, as-user-extra: {a: [b]}", "as-user-extra", "remove"),
        ("username: a", "username", "token"),
        ("password: a", "password", "token"),
        ("", "no credentials", "token"),
        ("token: ''", "no credentials", "token"),
        (&format!("client-certificate-data: {PEM}"), "client-key-data", "missing"),
        (&format!("client-key-data: {PEM}"), "client-certificate-data", "missing"),
        (&format!("client-certificate-data: {PEM}, client-key-data: {PEM}, token: t"), "both", "keep one"),
        (&format!("client-certificate-data: '%', client-key-data: {PEM}"), "client-certificate-data", "base64"),
        ("client-certificate-data: AAAA, client-key-data: AAAA", "client-certificate-data", "PEM"),
    ] {
        let message = refused(&cluster(), user);
        assert!(message.contains(names) && message.contains(mend), "{user}: {message}");
    }
}

#[test]
fn s45_each_refused_field_of_a_cluster_is_named_with_its_mend() {
    for (cluster, names, mend) in [
        (&format!("{}, proxy-url: 'http://p'", cluster()), "proxy-url", "remove"),
        (&format!("{}, insecure-skip-tls-verify: true", cluster()), "insecure-skip-tls-verify", "certificate-authority-data"),
        (&"server: 'https://a', certificate-authority: /etc/ca.pem".to_owned(), "certificate-authority ", "-data"),
        (&"server: 'https://a'".to_owned(), "certificate-authority-data", "missing"),
        (&"server: 'https://a', certificate-authority-data: ''".to_owned(), "certificate-authority-data", "missing"),
        (&format!("certificate-authority-data: {PEM}"), "server", "https://"),
        (&format!("server: 'http://a', certificate-authority-data: {PEM}"), "server", "https://"),
        (&format!("server: 'https://u@a', certificate-authority-data: {PEM}"), "user name", "users"),
        (&format!("server: 'https://u:p@a', certificate-authority-data: {PEM}"), "user name", "users"),
        (&format!("server: 'https://a?b', certificate-authority-data: {PEM}"), "server", "https://"),
        (&format!("server: 'https://', certificate-authority-data: {PEM}"), "server", "https://"),
        (&format!("server: a.example, certificate-authority-data: {PEM}"), "server", "https://"),
    ] {
        let message = refused(cluster, "token: t");
        assert!(message.contains(names) && message.contains(mend), "{cluster}: {message}");
    }
}

#[test]
fn p1_s45_what_is_refused_is_refused_in_entries_that_nobody_uses() {
    let text = kubeconfig(&cluster(), "token: t").replace("contexts:", "- name: z\n  user: {exec: {command: id}}\ncontexts:");
    assert!(matches!(refused_text(&text), KubeconfigError::Exec));
}

#[test]
fn s46_anchors_aliases_tags_and_merge_keys_are_refused() {
    let valid = kubeconfig(&cluster(), "token: t");
    for (from, to) in [
        ("token: t", "token: &x t"),
        ("token: t", "token: *x"),
        ("token: t", "token: !!str t"),
        ("token: t", "token: ! t"),
        ("token: t", "token: !include /etc/passwd"),
        ("user: {token", "user: {<<: {token: a}, token"),
        ("kind: Config", "kind: &x Config"),
        ("kind: Config", "%TAG ! tag:a,2000:\nkind: Config"),
    ] {
        let text = valid.replace(from, to);
        assert_ne!(text, valid);
        let error = refused_text(&text);
        let is_named =
            matches!(error, KubeconfigError::Indirection { .. } | KubeconfigError::UnknownField { .. } | KubeconfigError::Yaml { .. });
        assert!(is_named, "{to}: {error}");
    }
    assert!(matches!(refused_text(&valid.replace("token: t", "token: &x t")), KubeconfigError::Indirection { line: 10 }));
}

#[test]
fn s46_a_comment_may_hold_any_sign() {
    let text = format!("# a & b: *all* !\n{}", kubeconfig(&cluster(), "token: t"));
    Kubeconfig::from_tenant(text.as_bytes()).unwrap();
}

#[test]
fn s46_large_deep_double_and_unknown_are_refused() {
    let valid = kubeconfig(&cluster(), "token: t");
    let padded = format!("{valid}#{}", " ".repeat(10 * 1024 * 1024));
    assert!(matches!(refused_text(&padded), KubeconfigError::TooLarge { .. }));
    let deep = valid.replace("preferences: {}", &format!("preferences: {}{}", "[".repeat(30_000), "]".repeat(30_000)));
    assert!(matches!(refused_text(&deep), KubeconfigError::Yaml { .. }));
    let twice = valid.replace("token: t", "token: t, token: u");
    assert!(matches!(refused_text(&twice), KubeconfigError::Yaml { what: "a key stands twice in one mapping", .. }));
    let documents = format!("{valid}---\n{valid}");
    assert!(matches!(refused_text(&documents), KubeconfigError::Yaml { .. }));
    let unknown = refused_text(&valid.replace("token: t", "token: t, tokenUrl: u"));
    assert!(unknown.to_string().contains("tokenUrl"), "{unknown}");
    assert!(matches!(Kubeconfig::from_tenant(b"\xff").unwrap_err(), KubeconfigError::NotText));
}

#[test]
fn s46_no_garbage_is_taken_and_none_panics() {
    for text in ["", "[]", "null", "a", "{", "clusters: [", "\u{0}", "- - - -", "clusters: a", "---", "? ? ?", "\t", "{}"] {
        refused_text(text);
    }
    let valid = kubeconfig(&cluster(), "token: t");
    for end in 0..valid.len() {
        let _ = Kubeconfig::from_tenant(&valid.as_bytes()[..end]);
    }
}

#[test]
fn s50_no_error_repeats_a_credential() {
    let sentinel = "s3ntinel";
    for text in [
        kubeconfig(&cluster(), "token: t").replace("token: t", &format!("token: {sentinel}, {sentinel}")),
        kubeconfig(&cluster(), "token: t").replace("token: t", &format!("token: [{sentinel}]")),
        kubeconfig(&cluster(), "token: t").replace("token: t", &format!("token:{sentinel}")),
        kubeconfig(&cluster(), &format!("token: {sentinel}, client-key-data: {sentinel}")),
        kubeconfig(&format!("server: 'https://{sentinel}@a'"), "token: t"),
    ] {
        let error = refused_text(&text);
        let printed = format!("{error} {error:?}");
        assert!(!printed.contains(sentinel), "{printed}");
    }
}

#[test]
fn a_context_that_leads_nowhere_is_refused() {
    let valid = kubeconfig(&cluster(), "token: t");
    for (from, to) in [("current-context: c", "current-context: x"), ("user: b", "user: x"), ("cluster: a,", "cluster: x,")] {
        assert!(matches!(refused_text(&valid.replace(from, to)), KubeconfigError::Dangling { .. }), "{to}");
    }
}

#[test]
fn the_operators_kubeconfig_may_name_files_beside_it() {
    let dir = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("ca.pem"), "ca").unwrap();
    std::fs::write(dir.join("config"), kubeconfig("server: 'https://a', certificate-authority: ca.pem", "tokenFile: token")).unwrap();
    let read = Kubeconfig::trusted(&dir.join("config")).unwrap();
    assert_eq!(read.ca_pem, b"ca");
    assert!(matches!(read.identity, Identity::TokenFile(path) if path == dir.join("token")));
    std::fs::write(dir.join("config"), kubeconfig(&cluster(), "exec: {command: id}")).unwrap();
    assert!(matches!(Kubeconfig::trusted(&dir.join("config")).unwrap_err(), KubeconfigError::Exec));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_identity_of_a_pod_is_read_from_where_it_is_mounted() {
    let dir = std::env::temp_dir().join(format!("mounted-{}", std::process::id()));
    assert!(matches!(Kubeconfig::mounted(&dir, "https://a").unwrap_err(), KubeconfigError::Read { .. }));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("ca.crt"), "ca").unwrap();
    std::fs::write(dir.join("token"), "t").unwrap();
    let read = Kubeconfig::mounted(&dir, "https://a").unwrap();
    assert!(matches!(read.identity, Identity::TokenFile(path) if path == dir.join("token")));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_server_of_a_pod_is_found_without_a_name_server() {
    assert_eq!(in_cluster_server("10.96.0.1", "443"), "https://10.96.0.1:443");
    assert_eq!(in_cluster_server("fd00::1", "443"), "https://[fd00::1]:443");
    for nothing in [("", ""), ("10.96.0.1", ""), ("", "443")] {
        assert_eq!(in_cluster_server(nothing.0, nothing.1), "https://kubernetes.default.svc");
    }
}
