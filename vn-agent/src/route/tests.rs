//! The table of routes, against what API servers send and against what nobody should.

use proptest::prelude::*;

use super::*;

const UID: &str = "00000000-0000-4000-8000-000000000001";

fn get(path: &str, query: &str) -> Result<Route, RouteError> {
    Route::parse(&Method::GET, path, query)
}

fn place() -> Place<'static> {
    Place { namespace: "vc-a-x", name: "web", uid: Uid::from_bits(7) }
}

/// What becomes of a path and query at the kubelet.
fn at_kubelet(target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    get(path, query).unwrap().at_kubelet(place())
}

#[test]
fn what_api_servers_send_is_sent_on_about_the_pod_of_the_record() {
    let super_uid = Uid::from_bits(7);
    let cases = [
        ("/containerLogs/default/web/app", "/containerLogs/vc-a-x/web/app".to_owned()),
        (
            "/containerLogs/default/web/app?follow=true&limitBytes=10&previous=true&sinceSeconds=5&tailLines=0&timestamps=true",
            "/containerLogs/vc-a-x/web/app?follow=true&previous=true&timestamps=true&sinceSeconds=5&tailLines=0&limitBytes=10".to_owned(),
        ),
        (
            "/containerLogs/default/web/app?sinceTime=2026-01-02T03%3A04%3A05%2B01%3A00&stream=Stdout",
            "/containerLogs/vc-a-x/web/app?sinceTime=2026-01-02T02%3A04%3A05Z&stream=Stdout".to_owned(),
        ),
        (
            "/exec/default/web/app?command=sh&command=-c&command=echo+a%26b&error=1&input=1&output=1&tty=0",
            format!("/exec/vc-a-x/web/{super_uid}/app?command=sh&command=-c&command=echo%20a%26b&input=1&output=1&error=1"),
        ),
        ("/attach/default/web/app?output=1&tty=1", format!("/attach/vc-a-x/web/{super_uid}/app?output=1&tty=1")),
        ("/portForward/default/web", format!("/portForward/vc-a-x/web/{super_uid}")),
        ("/portForward/default/web?port=80%2C443", format!("/portForward/vc-a-x/web/{super_uid}?port=80%2C443")),
        ("/stats/summary?only_cpu_and_memory=true", "/stats/summary?only_cpu_and_memory=true".to_owned()),
        ("/stats/summary", "/stats/summary".to_owned()),
        ("/metrics/resource", "/metrics/resource".to_owned()),
        ("/metrics/cadvisor", "/metrics/cadvisor".to_owned()),
        ("/metrics/probes", "/metrics/probes".to_owned()),
        ("/pods", "/pods".to_owned()),
    ];
    for (asked, sent) in cases {
        assert_eq!(at_kubelet(asked), sent, "{asked}");
    }
}

#[test]
fn the_tenants_uid_is_read_and_never_sent_on() {
    for (path, query) in
        [("/exec/default/web/UID/app", "command=a"), ("/attach/default/web/UID/app", ""), ("/portForward/default/web/UID", "")]
    {
        let route = get(&path.replace("UID", UID), query).unwrap();
        assert_eq!(route.pod().unwrap().uid, Some(Uid::parse(UID).unwrap()), "{path}");
        assert!(!route.at_kubelet(place()).contains(UID), "{path}");
    }
}

#[test]
fn the_super_clusters_api_server_is_asked_in_its_own_words() {
    let exec = get("/exec/default/web/app", "command=true&input=1&output=1").unwrap();
    let expected = "/api/v1/namespaces/vc-a-x/pods/web/exec?container=app&command=true&stdin=true&stdout=true";
    assert_eq!(exec.at_api_server(place()).as_deref(), Some(expected));
    let forward = get("/portForward/default/web", "port=80%2C81").unwrap();
    assert_eq!(forward.at_api_server(place()).as_deref(), Some("/api/v1/namespaces/vc-a-x/pods/web/portforward?ports=80&ports=81"));
    let logs = get("/containerLogs/default/web/app", "follow=true").unwrap();
    assert_eq!(logs.at_api_server(place()).as_deref(), Some("/api/v1/namespaces/vc-a-x/pods/web/log?container=app&follow=true"));
    assert_eq!(get("/pods", "").unwrap().at_api_server(place()), None);
}

#[test]
fn s56_what_a_kubelet_serves_beside_the_table_is_not_there() {
    let others = [
        "/",
        "/run/default/web/app",
        "/runningpods",
        "/runningpods/",
        "/logs",
        "/logs/",
        "/logs/syslog",
        "/configz",
        "/debug/pprof/profile",
        "/debug/flags/v",
        "/metrics",
        "/metrics/",
        "/metrics/slis",
        "/stats",
        "/stats/",
        "/stats/container",
        "/spec",
        "/spec/",
        "/checkpoint/default/web/app",
        "/healthz",
        "/healthz/ping",
        "/proxy",
        "/flagz",
        "/statusz",
        "/pods/",
        "/api/v1/pods",
        "/cri/exec/token",
        "/containerLogs",
        "/exec",
        "/cri",
        "/stats/default/web/app",
        "/stats/default/web/uid/app",
        "/PODS",
        "/containerlogs/default/web/app",
        "/portforward/default/web",
    ];
    for path in others {
        assert_eq!(get(path, ""), Err(RouteError::NotFound), "{path}");
    }
}

#[test]
fn s55_only_canonical_paths_pass() {
    let long = format!("/containerLogs/{}/web/app", "a".repeat(64));
    let paths = [
        "",
        "containerLogs/default/web/app",
        "//containerLogs/default/web/app",
        "/containerLogs//web/app",
        "/containerLogs/default//app",
        "/containerLogs/default/web/",
        "/containerLogs/default/web/app/",
        "/containerLogs/default/web/app/more",
        "/containerLogs/./web/app",
        "/containerLogs/../web/app",
        "/containerLogs/default/../../pods",
        "/containerLogs/default/web%2fapp",
        "/containerLogs/default%2fweb/app/x",
        "/containerLogs/default/web/%61pp",
        "/containerLogs/Default/web/app",
        "/containerLogs/default/web/App",
        "/containerLogs/default/web/a.b",
        "/containerLogs/a.b/web/app",
        "/containerLogs/default/web_vc/app",
        "/containerLogs/default/web/app;x",
        "/exec/default/web/not-a-uid/app",
        "/exec/default/web/00000000-0000-4000-8000-00000000000A/app",
        "/portForward/default",
        "/portForward/default/web/uid/more",
        "/exec/default/web/uid/app/more",
        "/stats/summary/",
        "/metrics/resource/x",
        "/containerLogs/default/web /app",
        "/containerLogs/de\u{e9}/web/app",
        long.as_str(),
    ];
    for path in paths {
        assert_eq!(get(path, ""), Err(RouteError::NotFound), "{path}");
    }
}

#[test]
fn s55_only_known_parameters_with_values_of_their_grammar_pass() {
    let logs = [
        "follow=yes",
        "follow=true&follow=true",
        "tailLines=-1",
        "tailLines=all",
        "tailLines=01",
        "tailLines=+1",
        "tailLines=9223372036854775808",
        "limitBytes=0",
        "sinceSeconds=0",
        "sinceTime=yesterday",
        "sinceTime=-000001-01-01T00:00:00Z",
        "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        "stream=stdout",
        "insecureSkipTLSVerifyBackend=true",
        "container=other",
        "Follow=true",
        "follow",
        "pretty=true",
    ];
    for query in logs {
        assert!(matches!(get("/containerLogs/default/web/app", query), Err(RouteError::Query(_))), "{query}");
    }
    for query in ["", "command=", "input=1", "command=a&input=true", "command=a&stdin=1", "command=a&container=b", "command=a&tty=1&tty=0"]
    {
        assert!(matches!(get("/exec/default/web/app", query), Err(RouteError::Query(_))), "{query}");
    }
    for (path, query) in [
        ("/attach/default/web/app", "command=sh"),
        ("/portForward/default/web", "port=0"),
        ("/portForward/default/web", "port=65536"),
        ("/portForward/default/web", "port=80,"),
        ("/portForward/default/web", "ports=80"),
        ("/metrics/resource", "a=b"),
        ("/pods", "limit=1"),
        ("/stats/summary", "only_cpu_and_memory=true&only_cpu_and_memory=true"),
    ] {
        assert!(matches!(get(path, query), Err(RouteError::Query(_))), "{path}?{query}");
    }
}

#[test]
fn each_route_has_its_methods() {
    for method in [Method::HEAD, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::CONNECT, Method::TRACE] {
        assert_eq!(Route::parse(&method, "/exec/default/web/app", "command=a"), Err(RouteError::Method), "{method}");
    }
    assert!(Route::parse(&Method::POST, "/exec/default/web/app", "command=a").is_ok());
    for path in ["/containerLogs/default/web/app", "/pods", "/metrics/resource", "/stats/summary"] {
        assert_eq!(Route::parse(&Method::POST, path, ""), Err(RouteError::Method), "{path}");
    }
}

/// Paths that are nearly right: known words, names and what breaks them.
fn near_paths() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "containerLogs",
        "exec",
        "attach",
        "portForward",
        "stats",
        "summary",
        "metrics",
        "resource",
        "pods",
        "run",
        "default",
        "web",
        "app",
        UID,
        "",
        ".",
        "..",
        "%2f",
        "%2e",
        "a b",
        "A",
        "vc.x",
        "\u{e9}",
    ]);
    prop::collection::vec(words, 0..7).prop_map(|words| format!("/{}", words.join("/")))
}

fn near_queries() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "follow=true",
        "command=sh",
        "command=%41",
        "tty=1",
        "input=1",
        "tailLines=5",
        "port=80",
        "x=y",
        "=",
        "&",
        "%",
        "follow",
        "tty=2",
        "command=a+b",
    ]);
    prop::collection::vec(words, 0..5).prop_map(|words| words.join("&"))
}

/// What Go 1.26 reads in queries and paths: `url.ParseQuery`, sorted by key, and `url.ParseRequestURI`. Each byte is a character.
#[derive(serde::Deserialize)]
struct GoReads {
    queries: Vec<GoQuery>,
    paths: Vec<GoPath>,
}

#[derive(serde::Deserialize)]
struct GoQuery {
    raw: String,
    /// None where it is an error.
    pairs: Option<Vec<(String, String)>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct GoPath {
    raw: String,
    /// None where it is an error.
    path: Option<String>,
    /// What is not said by the path alone.
    #[serde(default)]
    raw_path: String,
    /// Whether `path.Clean` leaves it as it is.
    clean: bool,
}

fn go_reads() -> GoReads {
    serde_json::from_str(include_str!("go-urls.json")).unwrap()
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).unwrap()).collect()
}

#[test]
fn s55_a_query_that_is_accepted_means_the_same_to_go() {
    let (mut accepted, mut refused) = (0, 0);
    for GoQuery { raw, pairs } in go_reads().queries {
        let raw = String::from_utf8(bytes(&raw)).unwrap();
        let Ok(mut read) = query::pairs(&raw) else {
            refused += 1;
            continue;
        };
        accepted += 1;
        read.sort_by_key(|(key, _)| *key);
        let pairs = pairs.unwrap_or_else(|| panic!("Go refuses {raw:?}"));
        let go: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), bytes(value))).collect();
        assert_eq!(read, go, "{raw:?}");
    }
    assert!(accepted > 90 && refused > 90, "both are looked at: {accepted} {refused}");
}

#[test]
fn s55_a_path_that_is_accepted_means_the_same_to_go() {
    let (mut accepted, mut refused) = (0, 0);
    for GoPath { raw, path, raw_path, clean } in go_reads().paths {
        let raw = String::from_utf8(bytes(&raw)).unwrap();
        // A route may want more of its query than there is.
        if matches!(get(&raw, ""), Err(RouteError::NotFound | RouteError::Method)) {
            refused += 1;
            continue;
        }
        accepted += 1;
        assert_eq!((path.as_deref(), raw_path.as_str(), clean), (Some(raw.as_str()), "", true), "{raw:?}");
    }
    assert!(accepted > 15 && refused > 150, "both are looked at: {accepted} {refused}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// Whatever is accepted is sent on as exactly the segments that were named, and reads back as the same route.
    #[test]
    fn s55_what_is_sent_on_reads_back_as_what_was_asked(path in near_paths(), query in near_queries()) {
        if let Ok(route) = get(&path, &query) {
            let sent = match route.pod() {
                None => route.at_kubelet(place()),
                Some(pod) => {
                    let place = Place { namespace: pod.namespace.as_str(), name: pod.name.as_str(), uid: Uid::from_bits(7) };
                    route.at_kubelet(place)
                }
            };
            let (sent_path, sent_query) = sent.split_once('?').unwrap_or((&sent, ""));
            prop_assert!(sent.bytes().all(|b| b.is_ascii_graphic()));
            let mut again = get(sent_path, sent_query).unwrap();
            if let Route::Exec { pod, .. } | Route::Attach { pod, .. } | Route::PortForward { pod, .. } = &mut again {
                prop_assert_eq!(pod.uid, Some(Uid::from_bits(7)));
                pod.uid = route.pod().unwrap().uid;
            }
            prop_assert_eq!(again, route);
        }
    }

    #[test]
    fn text_of_any_kind_is_survived(path: String, query: String) {
        let _ = get(&path, &query);
    }
}
