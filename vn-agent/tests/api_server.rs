//! The super cluster's API server as back end: each request by the tenant's own identity.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;

use bed::{Bed, SWITCHED, play, pod, spdy, super_namespace};
use common::Uid;
use runtime::kubeconfig::{Identity, Kubeconfig, Secret};
use runtime::task::{TaskMetrics, Tasks};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vn_agent::backend::Backend;
use vn_agent::backend::sup::Super;
use vn_agent::way::Way;

/// An API server with one Pod of tenant 1 on node n1 and one on another node.
fn api_server() -> bed::Play {
    play(|head, mut stream| async move {
        let line = head.lines().next().unwrap_or_default().to_owned();
        let own = format!("/api/v1/namespaces/{}/pods/", super_namespace(1));
        let answer = if line.contains("/serviceaccounts/") {
            // The body follows; what stands in it is the same every time.
            let _ = stream.read(&mut [0; 1024]).await;
            let token = line.split('/').nth(6).unwrap_or_default().to_owned();
            json!({"status": {"token": format!("of-{token}"), "expirationTimestamp": "2030-01-01T00:00:00Z"}}).to_string()
        } else if line.starts_with(&format!("GET {own}web ")) {
            placed(pod(1, "web", 7), "n1")
        } else if line.starts_with(&format!("GET {own}elsewhere ")) {
            placed(pod(1, "elsewhere", 8), "n2")
        } else if line.contains("/web/exec?") {
            let _ = stream.write_all(SWITCHED).await;
            let _ = stream.write_all(b"hello").await;
            let _ = stream.flush().await;
            return drop(stream.read(&mut [0; 64]).await);
        } else if line.contains("/web/log?") {
            "a line\n".to_owned()
        } else {
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
            return;
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}", answer.len());
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    })
}

/// A Pod on a node.
fn placed(mut pod: Value, node: &str) -> String {
    if let Some(fields) = pod.as_object_mut() {
        fields.insert("spec".to_owned(), json!({"nodeName": node}));
    }
    pod.to_string()
}

async fn bed() -> Bed {
    Bed::start_with(api_server(), bed::LIMITS, true, |address, ca, _| {
        let me = ca.issue(&pki::Leaf::KubeletClient { node: "n1".to_owned() }, bed::HOUR).unwrap();
        let kubeconfig = Kubeconfig {
            server: format!("https://{address}").parse().unwrap(),
            ca_pem: ca.certificate().as_bytes().to_vec(),
            identity: Identity::Certificate { chain_pem: me.certificate.into_bytes(), key_pem: Secret::new(me.key) },
            tls_server_name: None,
        };
        let ways = tokio::sync::watch::channel(Arc::new(Way::new(kubeconfig).unwrap())).1;
        let tasks = Arc::new(Tasks::new(&TaskMetrics::default()));
        Backend::Super(Super::new("n1", ways, tasks).unwrap())
    })
    .await
}

#[tokio::test]
async fn logs_and_streams_go_by_the_tenants_own_identity() {
    let bed = bed().await;
    let caller = bed.caller(1);
    let logs = bed.get(&caller, "/containerLogs/default/web/app?tailLines=1").await;
    assert!(logs.starts_with("HTTP/1.1 200 ") && logs.contains("a line\n"), "{logs}");
    let (head, mut stream) = bed.upgrade(&caller, "/exec/default/web/app?command=sh&input=1").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");

    let heads = bed.heads.lock().clone();
    let writer = bed::tenant(1).writer();
    let tokens = heads
        .iter()
        .filter(|head| head.starts_with(&format!("POST /api/v1/namespaces/vc-writers/serviceaccounts/{writer}/token ")))
        .count();
    assert_eq!(tokens, 1, "one token serves both: {heads:#?}");
    let others: Vec<_> = heads.iter().filter(|head| !head.contains("/serviceaccounts/")).collect();
    let bearer = format!("authorization: bearer of-{writer}\r\n");
    assert!(others.len() >= 6 && others.iter().all(|head| head.to_lowercase().contains(&bearer)), "{heads:#?}");
    let exec = format!("POST /api/v1/namespaces/{}/pods/web/exec?container=app&command=sh&stdin=true HTTP/1.1", super_namespace(1));
    assert!(heads.iter().any(|head| head.starts_with(&exec)), "{heads:#?}");
}

#[tokio::test]
async fn what_is_not_the_tenants_or_not_here_is_not_there() {
    let bed = bed().await;
    let a = bed.caller(1);
    let elsewhere = bed.get(&a, "/containerLogs/default/elsewhere/app").await;
    assert!(elsewhere.starts_with("HTTP/1.1 404 ") && elsewhere.contains("does not run on this node"), "{elsewhere}");
    for path in ["/containerLogs/default/none/app", "/containerLogs/other/web/app"] {
        let answer = bed.get(&a, path).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("this tenant has no Pod of that name"), "{answer}");
    }
    // Tenant 2 has another namespace below, in which its own identity sees nothing here.
    let b = bed.raw(&bed.caller(2), spdy("POST", "/exec/default/web/app?command=sh").as_bytes()).await;
    assert!(b.starts_with("HTTP/1.1 404 "), "{b}");
    let page = bed.get(&a, "/metrics/resource").await;
    assert!(page.starts_with("HTTP/1.1 404 ") && page.contains("--backend=kubelet"), "{page}");
    assert!(!bed.heads.lock().iter().any(|head| head.contains(&Uid::from_bits(7).to_string())));
}
