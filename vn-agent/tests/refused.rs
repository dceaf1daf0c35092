//! What vn-agent refuses: callers without a name, requests in a form of their own, Pods and containers of others, and back ends that
//! answer what was not asked for.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;

use bed::{Bed, SOON, SWITCHED, play, pod, spdy, super_namespace, tenant};
use common::Uid;
use pki::{Authority, Leaf};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const EXEC: &str = "/exec/default/web/app?command=cat&input=1&output=1";

/// A kubelet that is never asked.
fn never() -> bed::Play {
    play(|head, _| async move { panic!("the kubelet was asked: {head}") })
}

/// A kubelet that answers with these bytes and ends.
fn says(answer: &'static str) -> bed::Play {
    play(move |_, mut stream| async move {
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    })
}

async fn bed_with_web(play: bed::Play) -> Bed {
    let bed = Bed::start(play).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    bed
}

/// Whether a caller comes as far as an answer.
async fn is_let_in(bed: &Bed, identity: Option<&pki::Identity>) -> bool {
    let Ok(mut stream) = bed.dial(identity).await else { return false };
    let _ = stream.write_all(b"GET /pods HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an end");
    answer.starts_with(b"HTTP/1.1 ")
}

#[tokio::test]
async fn s53_without_a_certificate_of_the_agent_ca_nobody_is_let_in() {
    let bed = bed_with_web(never()).await;
    let uid = tenant(1).uid();
    let stranger = Authority::create("agents", bed::HOUR).unwrap();
    let expired = bed.agent_ca.issue(&Leaf::Tenant(uid), std::time::Duration::ZERO).unwrap();
    let serving = bed.agent_ca.issue(&Leaf::Agent { node: "n1".to_owned(), addresses: vec![] }, bed::HOUR).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert!(!is_let_in(&bed, None).await, "no certificate");
    assert!(!is_let_in(&bed, Some(&stranger.issue(&Leaf::Tenant(uid), bed::HOUR).unwrap())).await, "another CA of the same name");
    assert!(!is_let_in(&bed, Some(&bed.ca.issue(&Leaf::Tenant(uid), bed::HOUR).unwrap())).await, "the cluster's CA");
    assert!(!is_let_in(&bed, Some(&expired)).await, "expired");
    assert!(!is_let_in(&bed, Some(&serving)).await, "not for clients");
    assert!(is_let_in(&bed, Some(&bed.caller(1))).await);
}

#[tokio::test]
async fn s54_a_certificate_reaches_the_pods_of_its_tenant_alone() {
    let bed = bed_with_web(never()).await;
    bed.pods.lock().push(pod(2, "only-b", 9));
    let a = bed.caller(1);
    for path in [
        "/containerLogs/default/only-b/app".to_owned(),
        format!("/containerLogs/{}/web/app", super_namespace(2)),
        format!("/containerLogs/{}/web/app", super_namespace(1)),
        "/containerLogs/kube-system/coredns/coredns".to_owned(),
    ] {
        let answer = bed.get(&a, &path).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("this tenant has no Pod of that name"), "{path}: {answer}");
    }
    let nobody = bed.agent_ca.issue(&Leaf::Tenant(tenant(3).uid()), bed::HOUR).unwrap();
    assert!(bed.get(&nobody, "/pods").await.starts_with("HTTP/1.1 403 "));
    let nameless = bed.agent_ca.issue(&Leaf::KubeletClient { node: "n1".to_owned() }, bed::HOUR).unwrap();
    assert!(!is_let_in(&bed, Some(&nameless)).await, "a client certificate without a URI");
}

#[tokio::test]
async fn a_certificate_for_metrics_reaches_metrics_alone() {
    let bed = bed_with_web(says("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nscrape_error 0\n")).await;
    let metrics = bed.agent_ca.issue(&Leaf::TenantMetrics(tenant(1).uid()), bed::HOUR).unwrap();
    for path in ["/pods", "/containerLogs/default/web/app"] {
        assert!(bed.get(&metrics, path).await.starts_with("HTTP/1.1 403 "), "{path}");
    }
    assert!(bed.raw(&metrics, spdy("POST", EXEC).as_bytes()).await.starts_with("HTTP/1.1 403 "));
    assert!(bed.get(&metrics, "/metrics/resource").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn s56_pages_show_the_callers_own_pods() {
    let (a, b) = (super_namespace(1), super_namespace(2));
    let bed = Bed::start(play(move |head, mut stream| {
        let (a, b) = (a.clone(), b.clone());
        async move {
            let body = if head.starts_with("GET /stats/summary ") {
                let reference = |namespace: &str, uid| json!({"podRef": {"name": "web", "namespace": namespace, "uid": Uid::from_bits(uid).to_string()}});
                json!({"node": {"nodeName": "n1", "cpu": {}}, "pods": [reference(&a, 7), reference(&b, 8)]}).to_string()
            } else {
                format!("m{{namespace=\"{a}\",pod=\"web\"}} 1\nm{{namespace=\"{b}\",pod=\"web\"}} 2\nnode_x 3\n")
            };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }))
    .await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    for (number, value, uid) in [(1, "1", 1007), (2, "2", 1008)] {
        let caller = bed.caller(number);
        for page in ["/metrics/resource", "/metrics/cadvisor", "/metrics/probes"] {
            let answer = bed.get(&caller, page).await;
            assert!(answer.ends_with(&format!("\r\n\r\nm{{namespace=\"default\",pod=\"web\"}} {value}\n")), "{answer}");
        }
        for page in ["/stats/summary", "/pods"] {
            let answer = bed.get(&caller, page).await;
            assert!(answer.contains(&Uid::from_bits(uid).to_string()), "{answer}");
            assert!(!answer.contains(&super_namespace(1)) && !answer.contains(&super_namespace(2)), "{answer}");
            assert_eq!(answer.matches("\"uid\"").count(), 1, "{answer}");
        }
    }
}

#[tokio::test]
async fn s57_nothing_of_the_callers_own_identity_reaches_the_kubelet() {
    let bed = bed_with_web(says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")).await;
    let hostile = "Authorization: Bearer x\r\nImpersonate-User: system:admin\r\nX-Remote-User: admin\r\nX-Forwarded-For: 127.0.0.1\r\n\
                   Cookie: a=b\r\nProxy-Authorization: x\r\nConnection: Upgrade, Authorization, Host\r\nX-Any: y\r\nUpgrade: SPDY/3.1\r\n\r\n";
    bed.raw(&bed.caller(1), format!("POST {EXEC} HTTP/1.1\r\nHost: kubelet\r\n{hostile}").as_bytes()).await;
    let head = bed.heads.lock().pop().unwrap().to_lowercase();
    let names: Vec<&str> = head.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["accept", "accept-encoding", "connection", "host", "upgrade", "user-agent"], "{head}");
    assert!(head.contains("connection: upgrade\r\n") && !head.contains("host: kubelet"), "{head}");
}

#[tokio::test]
async fn s57_a_redirect_is_neither_followed_nor_relayed() {
    let bed = bed_with_web(says("HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/other\r\nContent-Length: 0\r\n\r\n")).await;
    let caller = bed.caller(1);
    for answer in [bed.get(&caller, "/containerLogs/default/web/app").await, bed.raw(&caller, spdy("POST", EXEC).as_bytes()).await] {
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("redirect"), "{answer}");
        assert!(!answer.to_lowercase().contains("location"), "{answer}");
    }
    assert_eq!(bed.heads.lock().len(), 2);
}

#[tokio::test]
async fn s58_requests_in_a_form_of_their_own_reach_nobody_and_end_the_connection() {
    let bed = bed_with_web(never()).await;
    let caller = bed.caller(1);
    let get = "GET /containerLogs/default/web/app";
    let smuggled = "GET /containerLogs/default/web/app HTTP/1.1\r\nHost: n1\r\n\r\n";
    let requests = [
        format!("{get} HTTP/1.0\r\n\r\n"),
        format!(
            "{get} HTTP/1.1\r\nHost: n1\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
            smuggled.len()
        ),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nContent-Length: 5\r\n\r\nhello{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nContent-Length: 0\r\nContent-Length: 7\r\n\r\n{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nX-A: b\r\n c\r\n\r\n{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nX-A : b\r\n\r\n{smuggled}"),
        format!("GET https://127.0.0.1/containerLogs/default/web/app HTTP/1.1\r\nHost: n1\r\n\r\n{smuggled}"),
        format!("CONNECT 127.0.0.1:10250 HTTP/1.1\r\nHost: n1\r\n\r\n{smuggled}"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n{smuggled}"),
        format!("{get} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{smuggled}"),
        format!("POST {EXEC} HTTP/1.1\r\nHost: n1\r\nUpgrade: SPDY/3.1\r\n\r\n{smuggled}"),
        format!("POST {EXEC} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 5\r\n\r\nhello{smuggled}"),
        format!("POST /exec/default/web/app?x=y HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n{smuggled}"),
    ];
    for request in requests {
        let answer = bed.raw(&caller, request.as_bytes()).await;
        let heads = answer.lines().filter(|line| line.starts_with("HTTP/1.")).count();
        assert!(heads <= 1, "one answer at most, and the end: {request}\n{answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"), "{request}\n{answer}");
    }
    assert!(bed.heads.lock().is_empty());
}

#[tokio::test]
async fn s58_an_answer_that_switches_nothing_switches_nothing() {
    let refusals = ["HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nwhy", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"];
    for answer in bed::UNSWITCHED.into_iter().chain(refusals) {
        let bed = bed_with_web(says(answer)).await;
        let smuggled = format!("{}GET /containerLogs/default/web/app HTTP/1.1\r\nHost: n1\r\n\r\n", spdy("POST", EXEC));
        let got = bed.raw(&bed.caller(1), smuggled.as_bytes()).await;
        let is_refusal = if answer.contains(" 400 ") { got.starts_with("HTTP/1.1 400 ") } else { got.starts_with("HTTP/1.1 502 ") };
        assert!(is_refusal && got.contains("\"kind\":\"Status\""), "{answer}\n{got}");
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got}");
        assert_eq!(bed.heads.lock().len(), 1, "what followed was no request");
        bed.quiet().await;
    }
}

#[tokio::test]
async fn s59_a_pod_that_was_replaced_meanwhile_is_not_reached() {
    let pods = Arc::new(parking_lot::Mutex::new(None::<Arc<parking_lot::Mutex<Vec<serde_json::Value>>>>));
    let swapped = Arc::clone(&pods);
    let next = std::sync::atomic::AtomicU32::new(70);
    let bed = Bed::start(play(move |head, mut stream| {
        // Each time the Pod is replaced after it was looked up and before the answer: the kubelet answers about the new one.
        let uid = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        *swapped.lock().as_ref().unwrap().lock() = vec![pod(1, "web", uid.into())];
        async move {
            let secret = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
            let answer: &[u8] = if head.starts_with("POST") { SWITCHED } else { secret };
            let _ = stream.write_all(answer).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "no byte of the stream passed");
        }
    }))
    .await;
    *pods.lock() = Some(Arc::clone(&bed.pods));
    let caller = bed.caller(1);
    for request in
        ["GET /containerLogs/default/web/app HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n".to_owned(), spdy("POST", EXEC) + "early"]
    {
        *bed.pods.lock() = vec![pod(1, "web", 7)];
        let _ = bed.get(&caller, "/pods").await;
        let answer = bed.raw(&caller, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("replaced or deleted"), "{answer}");
        assert!(!answer.contains("secret"), "{answer}");
    }
    bed.quiet().await;
}

#[tokio::test]
async fn s60_a_container_that_the_tenant_did_not_ask_for_is_not_its() {
    let bed = bed_with_web(never()).await;
    let caller = bed.caller(1);
    let answer = bed.get(&caller, "/containerLogs/default/web/istio-proxy").await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("container istio-proxy is not in the spec of pod default/web"),
        "{answer}"
    );
    let answer = bed.raw(&caller, spdy("POST", "/exec/default/web/istio-proxy?command=sh").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("\"reason\":\"Forbidden\""), "{answer}");
}

#[tokio::test]
async fn what_a_kubelet_says_is_passed_on_in_the_tenants_words() {
    let namespace = super_namespace(1);
    let bed = bed_with_web(play(move |_, mut stream| {
        let text = format!("container \"app\" in pod \"web_{namespace}\" is waiting to start");
        async move {
            let answer = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }))
    .await;
    let answer = bed.get(&bed.caller(1), "/containerLogs/default/web/app").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let expected = "vn-agent on node n1: the kubelet says: container \"app\" in pod \"web_default\" is waiting to start\n";
    assert!(answer.ends_with(expected), "{answer}");
}

#[tokio::test]
async fn a_kubelet_that_is_not_the_one_named_is_not_asked() {
    use rustls::pki_types::ServerName;
    use vn_agent::answer::Hop;
    use vn_agent::backend::dial::Dialer;

    let bed = bed_with_web(never()).await;
    let tasks = Arc::new(runtime::task::Tasks::new(&runtime::task::TaskMetrics::default()));
    let config = bed.credentials.borrow().kubelet.clone().unwrap();
    // The agent's own port stands in for somebody else who took the kubelet's: another CA has signed its certificate.
    let dialer = Dialer::new(bed.address.to_string(), ServerName::try_from("127.0.0.1").unwrap(), Hop::Kubelet, tasks);
    let request = http::Request::new(http_body_util::Empty::new());
    let failure = dialer.ask(&config, request, SOON).await.err().expect("a failure");
    assert_eq!(failure.status, http::StatusCode::BAD_GATEWAY);
    assert!(failure.message.contains("could not reach the kubelet"), "{failure}");
}

/// The certificate is of the right CA: it must be for this kubelet, by its address or by the name that a flag gives.
#[tokio::test]
async fn a_kubelet_must_be_the_one_that_is_named() {
    use rustls::pki_types::ServerName;
    use vn_agent::answer::Hop;
    use vn_agent::backend::Backend;
    use vn_agent::backend::dial::Dialer;
    use vn_agent::backend::kubelet::Kubelet;
    use vn_agent::metrics::AgentMetrics;

    for (name, is_it) in [("127.0.0.1", true), ("n1", true), ("n2", false), ("127.0.0.2", false)] {
        let bed = Bed::start_with(never(), bed::LIMITS, false, |address, _, credentials| {
            let tasks = Arc::new(runtime::task::Tasks::new(&runtime::task::TaskMetrics::default()));
            let dialer = Dialer::new(address.to_string(), ServerName::try_from(name).unwrap(), Hop::Kubelet, tasks);
            Backend::Kubelet(Kubelet::new(dialer, credentials, AgentMetrics::default()))
        })
        .await;
        bed.pods.lock().push(pod(1, "web", 7));
        let answer = bed.get(&bed.caller(1), "/pods").await;
        if is_it {
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"name\":\"web\""), "{name}: {answer}");
        } else {
            assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("its certificate is not to be believed"), "{name}: {answer}");
            assert_eq!(bed.lists.load(std::sync::atomic::Ordering::SeqCst), 0, "nothing was asked");
        }
    }
}

#[tokio::test]
async fn s61_a_tenant_that_is_not_known_yet_comes_in_anew() {
    let bed = bed_with_web(never()).await;
    // Without a word about the connection: it ends all the same.
    let answer = bed.raw(&bed.caller(3), b"GET /pods HTTP/1.1\r\nHost: n1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("names no tenant that exists"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

/// An authority between an anchor and its leaves, as one anchor has signed it.
fn cross_signed(anchor: &Issuer<'static, KeyPair>, params: &CertificateParams, key: &KeyPair) -> String {
    params.signed_by(key, anchor).unwrap().pem()
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

#[tokio::test]
async fn s54_a_leaf_that_two_anchors_vouch_for_is_one_caller() {
    let bed = bed_with_web(says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nlog")).await;
    let (mut anchors, mut signed) = (Vec::new(), Vec::new());
    let (between, between_key) = (authority("between"), KeyPair::generate().unwrap());
    for name in ["first", "second"] {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        anchors.push(params.self_signed(&key).unwrap().pem());
        signed.push(cross_signed(&Issuer::new(params, key), &between, &between_key));
    }
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("vc://{}", tenant(1).uid()).try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &Issuer::new(between, between_key)).unwrap().pem();
    let showing = |behind: &[&String]| pki::Identity {
        certificate: leaf.clone() + &behind.iter().copied().cloned().collect::<String>(),
        key: key.serialize_pem(),
    };
    let ways = [showing(&[&signed[0]]), showing(&[&signed[1]]), showing(&[&signed[0], &signed[1]]), showing(&[&signed[1], &signed[0]])];

    std::fs::write(&bed.files.client_ca_file, anchors.concat()).unwrap();
    bed.reload().await;
    for (n, way) in ways.iter().enumerate() {
        let own = bed.get(way, "/containerLogs/default/web/app").await;
        assert!(own.starts_with("HTTP/1.1 200 ") && own.ends_with("log"), "way {n}: {own}");
        let seen = bed.heads.lock().pop().unwrap();
        assert!(seen.contains(&format!("/{}/web/app", super_namespace(1))), "it is always the tenant that the leaf names: {seen}");
    }
    std::fs::write(&bed.files.client_ca_file, &anchors[1]).unwrap();
    bed.reload().await;
    assert!(!is_let_in(&bed, Some(&ways[0])).await, "the anchor that vouched for it is gone");
    assert!(is_let_in(&bed, Some(&ways[1])).await);
}
