//! The super cluster's API server as back end, whose paths name no UID: what S58 to S61 say of a kubelet holds of it as well.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bed::api_server::{ApiServer, echoes, is_session, placed, says, willing};
use bed::{Bed, LIMITS, Play, SOON, SWITCHED, play, spdy, super_namespace, tenant, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use vn_agent::guard::Limits;
use vn_agent::tenants::Tenants;

const LOG: &str = "/containerLogs/default/web/app";
const EXEC: &str = "/exec/default/web/app?command=cat&input=1&output=1";
const STREAMS: [&str; 3] = [EXEC, "/attach/default/web/app?input=1&output=1", "/portForward/default/web"];

fn web() -> Arc<ApiServer> {
    ApiServer::with([placed(1, "web", 7, "n1"), placed(2, "web", 8, "n1")])
}

/// The answer to a stream over WebSocket.
const WEBSOCKET: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Answers, but for the first `times` puts these Pods in the place of those that were looked up, before the answer.
fn replacing(sup: &Arc<ApiServer>, times: u32, by: impl Fn(u32) -> Vec<Value> + Send + Sync + 'static) -> Play {
    let (sup, count) = (Arc::clone(sup), AtomicU32::new(0));
    play(move |head, mut stream| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        if n < times {
            *sup.pods.lock() = by(n);
        }
        async move {
            let secret = says("secret").into_bytes();
            let answer = match head.to_lowercase() {
                head if head.contains("/log?") => &secret,
                head if head.contains("upgrade: websocket") => WEBSOCKET,
                _ => SWITCHED,
            };
            let _ = stream.write_all(answer).await;
            let _ = stream.write_all(b"secret").await;
            let _ = stream.flush().await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(n >= times || rest.is_empty(), "no byte of the stream passed");
        }
    })
}

/// A log and each stream, as bytes; `early` follows a stream's request.
fn requests(early: &str) -> Vec<String> {
    let log = format!("GET {LOG} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n");
    std::iter::once(log).chain(STREAMS.map(|path| spdy("POST", path) + early)).collect()
}

/// What was asked for in sessions.
fn sessions(bed: &Bed) -> usize {
    bed.heads.lock().iter().filter(|head| is_session(head)).count()
}

#[tokio::test]
async fn s59_a_pod_that_was_replaced_meanwhile_is_not_reached() {
    type Replaced = fn(u32) -> Vec<Value>;
    let ways: [(&str, Replaced, usize); 5] = [
        ("again and again", |n| vec![placed(1, "web", 70 + u128::from(n), "n1")], 2),
        ("by one on another node", |_| vec![placed(1, "web", 70, "n2")], 1),
        ("by one of the platform's", |_| vec![bare(placed(1, "web", 70, "n1"))], 1),
        ("by nothing", |_| Vec::new(), 1),
        // The same Pod by its UID, with a record of somebody else.
        ("in its record", |_| vec![recorded(placed(1, "web", 7, "n1"))], 1),
    ];
    for (how, by, tries) in ways {
        for request in requests("early") {
            let sup = web();
            let bed = sup.bed(replacing(&sup, u32::MAX, by)).await;
            let answer = bed.raw(&bed.caller(1), request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains("secret"), "replaced {how}: {request}\n{answer}");
            assert_eq!(sessions(&bed), tries, "replaced {how}: it is not tried for ever: {request}");
            bed.quiet().await;
        }
    }
}

/// Without its record.
fn bare(mut pod: Value) -> Value {
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations") {
        *annotations = json!({});
    }
    pod
}

/// With the record of another Pod of the tenant's.
fn recorded(mut pod: Value) -> Value {
    let other = placed(1, "web", 9, "n1");
    let record = other.pointer("/metadata/annotations").cloned().unwrap();
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations") {
        *annotations = record;
    }
    pod
}

#[tokio::test]
async fn s59_one_that_was_made_again_is_checked_like_the_first_and_reached() {
    for request in requests("") {
        let sup = web();
        let bed = sup.bed(replacing(&sup, 1, |_| vec![placed(1, "web", 70, "n1")])).await;
        let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let head = timeout(SOON, bed::head(&mut stream)).await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.1 101 "), "{request}\n{head}");
        let mut word = [0; 6];
        timeout(SOON, stream.read_exact(&mut word)).await.expect("what it says").unwrap();
        assert_eq!((&word, sessions(&bed)), (b"secret", 2), "{request}");
    }
    // Of the new one a container that is not its own is not shown, whatever the first had.
    let sup = web();
    let bed = sup.bed(replacing(&sup, 1, |_| vec![contains(placed(1, "web", 70, "n1"), "other")])).await;
    let answer = bed.get(&bed.caller(1), LOG).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("secret"), "{answer}");
}

/// With these containers alone in its record.
fn contains(mut pod: Value, containers: &str) -> Value {
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(common::keys::CONTAINERS.to_owned(), json!(containers));
    }
    pod
}

#[tokio::test]
async fn s59_over_websocket_a_command_runs_once_at_most() {
    let sup = web();
    let bed = sup.bed(replacing(&sup, u32::MAX, |n| vec![placed(1, "web", 70 + u128::from(n), "n1")])).await;
    let exec = format!(
        "GET {EXEC} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    let answer = bed.raw(&bed.caller(1), exec.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("replaced or deleted") && !answer.contains("secret"), "{answer}");
    assert_eq!(sessions(&bed), 1, "one command was begun, and none after it");
    *sup.pods.lock() = vec![bare(placed(1, "web", 99, "n1"))];
    let answer = bed.raw(&bed.caller(1), exec.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(sessions(&bed), 1, "nothing was asked for");
}

#[tokio::test]
async fn s60_what_the_tenant_did_not_ask_for_is_not_its() {
    let sup = ApiServer::with([placed(1, "web", 7, "n1"), bare(placed(1, "stray", 8, "n1"))]);
    let bed = sup.bed(willing()).await;
    let caller = bed.caller(1);
    for (path, status) in [("web/istio-proxy", 403), ("stray/app", 404), ("stray/istio-proxy", 404)] {
        let log = bed.get(&caller, &format!("/containerLogs/default/{path}")).await;
        let exec = bed.raw(&caller, spdy("POST", &format!("/exec/default/{path}?command=sh")).as_bytes()).await;
        let attach = bed.raw(&caller, spdy("POST", &format!("/attach/default/{path}?output=1")).as_bytes()).await;
        for answer in [log, exec, attach] {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        }
    }
    let forward = bed.raw(&caller, spdy("POST", "/portForward/default/stray").as_bytes()).await;
    assert!(forward.starts_with("HTTP/1.1 404 "), "{forward}");
    assert_eq!(sessions(&bed), 0);
}

#[tokio::test]
async fn s58_bytes_sent_before_the_switch_reach_nobody_before_it() {
    let (told, mut tells) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let sup = web();
    let bed = sup
        .bed(play(move |_, mut stream| {
            let told = told.clone();
            async move {
                let mut early = vec![0; 64];
                let n = timeout(Duration::from_millis(300), stream.read(&mut early)).await.map_or(0, Result::unwrap);
                told.send(early.iter().copied().take(n).collect()).await.unwrap();
                stream.write_all(SWITCHED).await.unwrap();
                stream.flush().await.unwrap();
                let n = stream.read(&mut early).await.unwrap();
                told.send(early.iter().copied().take(n).collect()).await.unwrap();
            }
        }))
        .await;
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    stream.write_all(format!("{}GET /pods HTTP/1.1\r\n\r\n", spdy("POST", EXEC)).as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(tells.recv().await.unwrap(), b"", "nothing before the 101");
    assert_eq!(tells.recv().await.unwrap(), b"GET /pods HTTP/1.1\r\n\r\n", "then all of it, as bytes of the stream");
}

#[tokio::test]
async fn s58_an_answer_that_switches_nothing_switches_nothing() {
    let refusals = [
        "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/other\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nwhy",
    ];
    for answer in bed::UNSWITCHED.into_iter().chain(refusals) {
        let sup = web();
        let bed = sup
            .bed(play(move |_, mut stream| async move {
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }))
            .await;
        let smuggled = format!("{}GET {LOG} HTTP/1.1\r\nHost: n1\r\n\r\n", spdy("POST", EXEC));
        let got = bed.raw(&bed.caller(1), smuggled.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 502 ") && got.contains("\"kind\":\"Status\""), "{answer}\n{got}");
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got}");
        assert!(!got.to_lowercase().contains("location") && !got.contains("why"), "{got}");
        assert_eq!(sessions(&bed), 1, "what followed was no request");
        bed.quiet().await;
    }
}

/// That a session ends.
async fn ends(mut stream: bed::ClientStream) {
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the session ends");
}

#[tokio::test]
async fn s61_a_tenant_that_is_gone_has_no_sessions() {
    let bed = web().bed(willing()).await;
    let (a, b) = (bed.caller(1), bed.caller(2));
    let ((_, mut gone), (_, mut other)) = (bed.upgrade(&a, EXEC).await, bed.upgrade(&b, EXEC).await);
    echoes(&mut gone, b"both are there").await;
    echoes(&mut other, b"both are there").await;
    bed.tenants.send_replace(Arc::new(Tenants::from_iter([(tenant(2).uid(), "acme".to_owned())])));
    ends(gone).await;
    let asked = bed.heads.lock().len();
    let refused = bed.get(&a, LOG).await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("names no tenant that exists"), "{refused}");
    let later: Vec<_> = bed.heads.lock().iter().skip(asked).cloned().collect();
    let writer = tenant(1).writer();
    assert!(!later.iter().any(|head| head.contains(writer.as_str())), "nothing is asked for in its name: {later:#?}");
    echoes(&mut other, b"still here").await;
}

#[tokio::test]
async fn s61_a_certificate_that_is_revoked_ends_its_sessions_and_no_others() {
    let bed = web().bed(willing()).await;
    let (old, new) = (bed.caller(1), bed.caller(1));
    let ((_, mut gone), (_, mut stays)) = (bed.upgrade(&old, EXEC).await, bed.upgrade(&new, EXEC).await);
    echoes(&mut gone, b"both are there").await;
    let list = bed.agent_ca.revoked(&[&old.certificate], 2, bed::HOUR).unwrap();
    std::fs::write(bed.files.client_crl_file.as_ref().unwrap(), list).unwrap();
    bed.reload().await;
    ends(gone).await;
    echoes(&mut stays, b"still here").await;
}

/// Connections that ask for a log and wait for their answer.
async fn asking(bed: &Bed, number: u128, count: usize) -> Vec<bed::ClientStream> {
    let caller = bed.caller(number);
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = bed.dial(Some(&caller)).await.unwrap();
        stream.write_all(format!("GET {LOG} HTTP/1.1\r\nHost: n1\r\n\r\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn s61_the_calls_of_one_tenant_that_get_no_answer_keep_no_other_waiting() {
    // More than there are turns for all.
    const MANY: usize = 300;
    let sup = web();
    let bed = sup.bed_with(willing(), Limits { per_tenant: MANY, ..LIMITS }).await;
    *sup.silent_about.lock() = Some(super_namespace(1));
    let stuck = asking(&bed, 1, MANY).await;
    until("all of them are under way", || bed.agent.places.len() == MANY).await;
    let answer = timeout(Duration::from_secs(5), bed.get(&bed.caller(2), LOG)).await.expect("another tenant is served");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(stuck);
    bed.quiet().await;
}

#[tokio::test]
async fn s61_who_waits_for_a_pod_to_be_looked_up_has_a_session() {
    let sup = web();
    let bed = sup.bed_with(willing(), Limits { per_tenant: 2, ..LIMITS }).await;
    *sup.silent_about.lock() = Some(super_namespace(1));
    let _stuck = asking(&bed, 1, 2).await;
    until("they are under way", || bed.heads.lock().iter().filter(|head| head.starts_with("GET /api/v1/")).count() == 2).await;
    let third = timeout(Duration::from_secs(5), bed.get(&bed.caller(1), LOG)).await.expect("an answer");
    assert!(third.starts_with("HTTP/1.1 429 "), "{third}");
    assert!(bed.get(&bed.caller(2), LOG).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn s61_who_waits_for_a_turn_among_its_tenants_calls_is_told_to_come_again() {
    // Five times as many as have turns: what gets no answer is given up after about as long as one waits.
    const MANY: usize = 60;
    let sup = web();
    let bed = sup.bed(willing()).await;
    *sup.silent_about.lock() = Some(super_namespace(1));
    let mut stuck = asking(&bed, 1, MANY).await;
    let head = timeout(SOON, bed::head(stuck.last_mut().unwrap())).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
}
