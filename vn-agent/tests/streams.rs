//! Streams and logs through vn-agent, against a kubelet that does as the test says.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bed::{Bed, LIMITS, SOON, SWITCHED, play, pod, spdy, super_namespace, tenant, until};
use common::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use vn_agent::backend::Backend;
use vn_agent::guard::Limits;
use vn_agent::tenants::Tenants;

const EXEC: &str = "/exec/default/web/app?command=cat&input=1&output=1";

/// Answers a stream and echoes until the end of its input, then says goodbye and ends.
fn echo() -> bed::Play {
    play(|_, mut stream| async move {
        stream.write_all(SWITCHED).await.unwrap();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"goodbye").await;
        let _ = stream.shutdown().await;
    })
}

async fn bed_with_web(play: bed::Play) -> Bed {
    let bed = Bed::start(play).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    bed
}

#[tokio::test]
async fn an_exec_reaches_the_callers_own_pod_and_bytes_pass_as_they_are() {
    let bed = bed_with_web(echo()).await;
    for (number, uid) in [(1, 7), (2, 8)] {
        let (head, mut stream) = bed.upgrade(&bed.caller(number), EXEC).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
        stream.write_all(b"\x80\x03\x00\x01bytes").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an end").unwrap();
        assert_eq!(answer, b"\x80\x03\x00\x01bytesgoodbye", "the half that was not ended goes on");
        let seen = bed.heads.lock().pop().unwrap();
        let line =
            format!("POST /exec/{}/web/{}/app?command=cat&input=1&output=1 HTTP/1.1\r\n", super_namespace(number), Uid::from_bits(uid));
        assert!(seen.starts_with(&line), "{seen}");
    }
    bed.quiet().await;
}

#[tokio::test]
async fn a_websocket_passes_too() {
    let bed = bed_with_web(play(|head, mut stream| async move {
        assert!(head.to_lowercase().contains("sec-websocket-key: dghlihnhbxbszsbub25jzq=="), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nframe";
        stream.write_all(answer).await.unwrap();
        let _ = stream.shutdown().await;
    }))
    .await;
    let request = format!(
        "GET {EXEC} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = bed::head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("sec-websocket-accept: "), "{head}");
    let mut frame = [0; 5];
    timeout(SOON, stream.read_exact(&mut frame)).await.expect("a frame").unwrap();
    assert_eq!(&frame, b"frame", "what came with the 101 is not lost");
}

#[tokio::test]
async fn s58_bytes_sent_before_the_switch_reach_nobody_before_it() {
    let (told, mut tells) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let bed = bed_with_web(play(move |_, mut stream| {
        let told = told.clone();
        async move {
            let mut early = [0; 64];
            let n = timeout(Duration::from_millis(300), stream.read(&mut early)).await.map_or(0, Result::unwrap);
            told.send(early[..n].to_vec()).await.unwrap();
            stream.write_all(SWITCHED).await.unwrap();
            let n = stream.read(&mut early).await.unwrap();
            told.send(early[..n].to_vec()).await.unwrap();
        }
    }))
    .await;
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    stream.write_all(format!("{}GET /pods HTTP/1.1\r\n\r\n", spdy("POST", EXEC)).as_bytes()).await.unwrap();
    assert_eq!(tells.recv().await.unwrap(), b"", "nothing before the 101");
    assert_eq!(tells.recv().await.unwrap(), b"GET /pods HTTP/1.1\r\n\r\n", "then all of it, as bytes of the stream");
}

#[tokio::test]
async fn what_the_far_side_does_not_take_is_not_read_from_the_near_one() {
    let bed = bed_with_web(play(|_, mut stream| async move {
        stream.write_all(SWITCHED).await.unwrap();
        std::future::pending::<()>().await;
    }))
    .await;
    let (_, mut stream) = bed.upgrade(&bed.caller(1), EXEC).await;
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let flood = async move {
        let block = vec![7; 64 * 1024];
        while stream.write_all(&block).await.is_ok() {
            count.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
    };
    // Until nothing has moved for a second: then all that waits lies in the kernel's buffers and our two windows.
    let still = async {
        let mut last = u64::MAX;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = written.load(Ordering::Relaxed);
            if now == last {
                return now;
            }
            last = now;
        }
    };
    let taken = tokio::select! { () = flood => panic!("the stream ended"), taken = still => taken };
    assert!(taken < 32 * 1024 * 1024, "{taken} bytes were taken that nobody reads");
}

#[tokio::test]
async fn a_caller_that_goes_takes_its_session_at_the_node_along() {
    let (told, mut tells) = tokio::sync::mpsc::channel::<()>(4);
    let bed = bed_with_web(play(move |head, mut stream| {
        let told = told.clone();
        async move {
            let answer: &[u8] =
                if head.starts_with("POST") { SWITCHED } else { b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n" };
            stream.write_all(answer).await.unwrap();
            while let Ok(1..) = stream.read(&mut [0; 64]).await {}
            told.send(()).await.unwrap();
        }
    }))
    .await;
    let caller = bed.caller(1);
    let (_, stream) = bed.upgrade(&caller, EXEC).await;
    drop(stream);
    timeout(SOON, tells.recv()).await.expect("the kubelet sees the end of a stream");
    let mut stream = bed.dial(Some(&caller)).await.unwrap();
    stream.write_all(b"GET /containerLogs/default/web/app?follow=true HTTP/1.1\r\nHost: n1\r\n\r\n").await.unwrap();
    let head = bed::head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    drop(stream);
    timeout(SOON, tells.recv()).await.expect("the kubelet sees the end of a log");
    bed.quiet().await;
}

#[tokio::test]
async fn a_log_that_says_nothing_yet_is_waited_for_and_let_go_with_its_caller() {
    let (told, mut tells) = tokio::sync::mpsc::channel::<()>(4);
    let bed = bed_with_web(play(move |_, mut stream| {
        let told = told.clone();
        async move {
            told.send(()).await.unwrap();
            while let Ok(1..) = stream.read(&mut [0; 64]).await {}
            told.send(()).await.unwrap();
        }
    }))
    .await;
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    stream.write_all(b"GET /containerLogs/default/web/app?follow=true HTTP/1.1\r\nHost: n1\r\n\r\n").await.unwrap();
    timeout(SOON, tells.recv()).await.expect("the kubelet is asked");
    drop(stream);
    timeout(SOON, tells.recv()).await.expect("the kubelet sees the end");
    bed.quiet().await;
}

#[tokio::test]
async fn fifty_sessions_run_at_once_and_leave_nothing_behind() {
    let bed = Arc::new(bed_with_web(echo()).await);
    let caller = Arc::new(bed.caller(1));
    // Once, so that what is kept for the next request is there before it is counted.
    drop(bed.upgrade(&caller, EXEC).await);
    bed.quiet().await;
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let sessions = (0..50_u8).map(|n| {
        let (bed, caller) = (Arc::clone(&bed), Arc::clone(&caller));
        async move {
            let (_, mut stream) = bed.upgrade(&caller, EXEC).await;
            let bytes = vec![n; 300_000];
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let send = async {
                write.write_all(&bytes).await.unwrap();
                write.flush().await.unwrap();
            };
            let mut back = vec![0; bytes.len()];
            let ((), result) = tokio::join!(send, read.read_exact(&mut back));
            result.unwrap();
            assert!(back == bytes);
            stream
        }
    });
    let open = timeout(6 * SOON, futures::future::join_all(sessions)).await.expect("all sessions");
    assert_eq!(bed.agent.places.len(), 50);
    drop(open);
    bed.quiet().await;
    // Both ends of what is kept for the next sessions are in this process.
    until("descriptors are closed", || std::fs::read_dir("/proc/self/fd").unwrap().count() <= before + 2 * bed::KEPT).await;
}

#[tokio::test]
async fn one_tenants_sessions_have_a_bound_and_anothers_go_on() {
    let bed = Bed::with_limits(echo(), Limits { per_tenant: 2, ..LIMITS }).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    let (a, b) = (bed.caller(1), bed.caller(2));
    let first = bed.upgrade(&a, EXEC).await;
    let second = bed.upgrade(&a, EXEC).await;
    assert!(first.0.contains(" 101 ") && second.0.contains(" 101 "));
    let third = bed.raw(&a, spdy("POST", EXEC).as_bytes()).await;
    assert!(third.starts_with("HTTP/1.1 429 ") && third.contains("\"reason\":\"TooManyRequests\""), "{third}");
    assert!(bed.upgrade(&b, EXEC).await.0.contains(" 101 "));
    drop(first);
    until("a place is free", || bed.agent.places.len() <= 2).await;
    assert!(bed.upgrade(&a, EXEC).await.0.contains(" 101 "));
}

#[tokio::test]
async fn a_session_in_which_nothing_moves_ends() {
    let bed = Bed::with_limits(echo(), Limits { idle: Duration::from_millis(400), ..LIMITS }).await;
    bed.pods.lock().push(pod(1, "web", 7));
    let (_, mut stream) = bed.upgrade(&bed.caller(1), EXEC).await;
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the session ends");
    bed.quiet().await;
}

#[tokio::test]
async fn s61_a_tenant_that_is_gone_has_no_sessions() {
    let bed = bed_with_web(echo()).await;
    let (a, b) = (bed.caller(1), bed.caller(2));
    let (_, mut gone) = bed.upgrade(&a, EXEC).await;
    let (_, mut other) = bed.upgrade(&b, EXEC).await;
    bed.tenants.send_replace(Arc::new(Tenants::from_iter([(tenant(2).uid(), "acme".to_owned())])));
    let mut rest = Vec::new();
    let _ = timeout(SOON, gone.read_to_end(&mut rest)).await.expect("the session ends");
    let refused = bed.get(&a, "/pods").await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("names no tenant that exists"), "{refused}");
    other.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    timeout(SOON, other.read_exact(&mut echo)).await.expect("an echo").unwrap();
}

#[tokio::test]
async fn s61_a_certificate_that_is_revoked_ends_its_sessions_and_no_others() {
    let bed = bed_with_web(echo()).await;
    let (old, new) = (bed.caller(1), bed.caller(1));
    let (_, mut gone) = bed.upgrade(&old, EXEC).await;
    let (_, mut stays) = bed.upgrade(&new, EXEC).await;
    let list = bed.agent_ca.revoked(&[&old.certificate], 2, bed::HOUR).unwrap();
    std::fs::write(bed.files.client_crl_file.as_ref().unwrap(), list).unwrap();
    bed.reload().await;
    let mut rest = Vec::new();
    let _ = timeout(SOON, gone.read_to_end(&mut rest)).await.expect("the session ends");
    stays.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    timeout(SOON, stays.read_exact(&mut echo)).await.expect("an echo").unwrap();
    let again = bed.dial(Some(&old)).await;
    let is_refused = match again {
        Err(_) => true,
        // With TLS 1.3 the refusal comes after the client thinks that it is done.
        Ok(mut stream) => stream.read_to_end(&mut rest).await.is_err(),
    };
    assert!(is_refused);
}

#[tokio::test]
async fn logs_pass_as_they_come_and_keep_the_connection() {
    let bed = bed_with_web(play(|_, mut stream| async move {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    }))
    .await;
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET /containerLogs/default/web/app?tailLines=2 HTTP/1.1\r\nHost: n1\r\n\r\n").await.unwrap();
        let head = bed::head(&mut stream).await.to_lowercase();
        assert!(head.starts_with("http/1.1 200 ") && head.contains("content-type: text/plain") && !head.contains("set-cookie"), "{head}");
        let mut text = String::new();
        while !text.ends_with("0\r\n\r\n") {
            text.push(char::from(timeout(SOON, stream.read_u8()).await.expect("more").unwrap()));
        }
        assert!(text.contains("one\n") && text.contains("two\n"), "{text}");
    }
    let heads = bed.heads.lock().clone();
    assert!(heads[0].starts_with(&format!("GET /containerLogs/{}/web/app?tailLines=2 HTTP/1.0", super_namespace(1))), "{heads:?}");
}

const FOLLOW: &[u8] = b"GET /containerLogs/default/web/app?follow=true HTTP/1.1\r\nHost: n1\r\n\r\n";

/// Has the Pod on the node, and asks for its log.
async fn follow(bed: &Bed) -> bed::ClientStream {
    bed.pods.lock().push(pod(1, "web", 7));
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    stream.write_all(FOLLOW).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// As the flags have them if nothing is said.
const LONG: Limits = Limits { idle: Duration::from_hours(4), total: Duration::from_hours(24), ..LIMITS };

/// Time is paused once the log is there: then nobody waits for the hours.
#[tokio::test]
async fn a_log_is_followed_for_hours_while_a_line_comes_now_and_then() {
    let bed = Bed::with_limits(
        play(|_, mut stream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nline 0\n").await.unwrap();
            for n in 1..=3 {
                tokio::time::sleep(bed::HOUR).await;
                stream.write_all(format!("line {n}\n").as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            std::future::pending::<()>().await;
        }),
        LONG,
    )
    .await;
    let mut stream = follow(&bed).await;
    let head = timeout(SOON, bed::head(&mut stream)).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    tokio::time::pause();
    let began = Instant::now();
    let mut text = String::new();
    while !text.contains("line 3\n") {
        text.push(char::from(stream.read_u8().await.expect("it goes on")));
    }
    assert!((0..=3).all(|n| text.contains(&format!("line {n}\n"))), "{text}");
    assert!(began.elapsed() + Duration::from_secs(1) >= 3 * bed::HOUR, "{:?}", began.elapsed());
    // What says nothing for four hours more ends.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it was cut and has not ended: {}", String::from_utf8_lossy(&rest));
    let after = began.elapsed();
    assert!(after + Duration::from_secs(1) >= 7 * bed::HOUR && after < 7 * bed::HOUR + Duration::from_mins(2), "{after:?}");
}

/// Past what a head may take, the sight of a guard and a stall: the kubelet is asked now and then whether it is there.
#[tokio::test]
async fn a_log_that_says_nothing_for_minutes_is_still_followed() {
    let speak = Arc::new(tokio::sync::Notify::new());
    let spoken = Arc::clone(&speak);
    let bed = Bed::with_limits(
        play(move |_, mut stream| {
            let spoken = Arc::clone(&spoken);
            async move {
                spoken.notified().await;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nat last\n").await.unwrap();
                let _ = stream.shutdown().await;
            }
        }),
        LONG,
    )
    .await;
    let mut stream = follow(&bed).await;
    until("the kubelet is asked for the log", || !bed.heads.lock().is_empty()).await;
    let Backend::Kubelet(kubelet) = &bed.agent.backend else { unreachable!("it is one") };
    // Time stands still while a thread is at work beside the test, and is moved on by hand: what is on its way between two sockets takes none.
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let beside = tokio::task::spawn_blocking(move || wait.recv().is_err());
    tokio::time::pause();
    for _ in 0..20 {
        let before = bed.lists.load(Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(31)).await;
        #[expect(clippy::disallowed_types, reason = "tokio's stands still here")]
        let since = std::time::Instant::now();
        while bed.lists.load(Ordering::SeqCst) == before {
            assert!(since.elapsed() < SOON, "nobody asks whether the kubelet is there");
            tokio::task::yield_now().await;
        }
        kubelet.fresh().await.expect("and answers");
        // Who else waited for that list goes on, and waits anew from now.
        tokio::task::yield_now().await;
        assert_eq!(bed.agent.places.len(), 1, "the session goes on");
    }
    speak.notify_one();
    let mut text = String::new();
    while !text.contains("at last\n") {
        text.push(char::from(stream.read_u8().await.expect("it goes on")));
    }
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    drop(end);
    assert!(beside.await.unwrap());
}
