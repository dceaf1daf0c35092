//! Pages about the node, as they come from a kubelet that does as the test says.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bed::{Bed, SOON, ServerStream, play, pod, super_namespace, until};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use vn_agent::backend::Backend;

/// More than one part of a page: so much of what is the tenant's is held before it passes.
const MANY_LINES: usize = 8000;

/// So many lines of a Pod, each with this word.
fn lines(number: u128, name: &str, word: &str, count: usize) -> String {
    let namespace = super_namespace(number);
    let line = |n| format!("m{{container=\"app\",image=\"{word}-{n}\",namespace=\"{namespace}\",pod=\"{name}\"}} {n}\n");
    (0..count).map(line).collect::<Vec<_>>().concat()
}

async fn begin(stream: &mut ServerStream) {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n").await.unwrap();
}

type Pods = Arc<Mutex<Option<Arc<Mutex<Vec<Value>>>>>>;

/// The list of Pods that a bed made later gives.
fn list(pods: &Pods) -> Arc<Mutex<Vec<Value>>> {
    Arc::clone(pods.lock().as_ref().unwrap())
}

#[tokio::test]
async fn a_long_page_comes_in_parts_and_whole() {
    let bed = Bed::start(play(|_, mut stream| async move {
        begin(&mut stream).await;
        for word in ["one", "two", "three"] {
            stream.write_all(lines(2, "web", "foreign", MANY_LINES).as_bytes()).await.unwrap();
            stream.write_all(lines(1, "web", word, MANY_LINES).as_bytes()).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    }))
    .await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    let answer = bed.get(&bed.caller(1), "/metrics/cadvisor").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.to_lowercase().contains("transfer-encoding: chunked"), "{answer:.300}");
    for word in ["one", "two", "three"] {
        assert_eq!(answer.matches(&format!("image=\"{word}-")).count(), MANY_LINES, "{word}");
    }
    assert!(!answer.contains("foreign") && answer.ends_with("0\r\n\r\n"));
    bed.quiet().await;
}

#[tokio::test]
async fn s59_what_is_said_of_a_name_after_it_has_changed_hands_is_not_shown() {
    let (pods, go_on) = (Pods::default(), Arc::new(Notify::new()));
    let (later, wait) = (Arc::clone(&pods), Arc::clone(&go_on));
    let bed = Bed::start(play(move |_, mut stream| {
        let (later, wait) = (Arc::clone(&later), Arc::clone(&wait));
        async move {
            begin(&mut stream).await;
            stream.write_all(lines(1, "web", "before", MANY_LINES).as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            wait.notified().await;
            // The Pod is gone and another has its name: the platform's, or a later one of the tenant's.
            *list(&later).lock() = vec![pod(1, "web", 70), pod(1, "other", 9)];
            stream.write_all(lines(1, "web", "secret", MANY_LINES).as_bytes()).await.unwrap();
            stream.write_all(lines(1, "other", "after", MANY_LINES).as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    }))
    .await;
    *bed.pods.lock() = vec![pod(1, "web", 7), pod(1, "other", 9)];
    *pods.lock() = Some(Arc::clone(&bed.pods));
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    stream.write_all(b"GET /metrics/cadvisor HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").await.unwrap();
    let head = bed::head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    go_on.notify_one();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.expect("an end").unwrap();
    assert!(answer.matches("image=\"before-").count() > MANY_LINES / 4, "what was confirmed has passed");
    assert_eq!(answer.matches("image=\"after-").count(), MANY_LINES, "and what is still the same Pod's does");
    assert!(!answer.contains("secret"));
    bed.quiet().await;
}

#[tokio::test]
async fn s59_what_is_said_of_a_name_before_it_was_the_tenants_is_not_shown() {
    for page in ["/metrics/resource", "/stats/summary", "/pods"] {
        let pods = Pods::default();
        let held = Arc::clone(&pods);
        let bed = Bed::start(play(move |head, mut stream| {
            // Between the list and the answer.
            *list(&held).lock() = vec![pod(1, "web", 70)];
            async move {
                let body = if head.starts_with("GET /stats") {
                    let reference = format!("\"podRef\":{{\"name\":\"web\",\"namespace\":\"{}\",\"uid\":\"x\"}}", super_namespace(1));
                    format!("{{\"pods\":[{{{reference},\"startTime\":\"secret\"}}]}}")
                } else {
                    lines(1, "web", "secret", 1)
                };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }))
        .await;
        *pods.lock() = Some(Arc::clone(&bed.pods));
        let answer = bed.get(&bed.caller(1), page).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("secret"), "{page}: {answer}");
    }
}

#[tokio::test]
async fn a_page_that_is_broken_off_is_cut_short_and_not_made_up() {
    let bed = Bed::start(play(|_, mut stream| async move {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.write_all(lines(1, "web", "one", 2 * MANY_LINES).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }))
    .await;
    bed.pods.lock().push(pod(1, "web", 7));
    let answer = bed.get(&bed.caller(1), "/metrics/cadvisor").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.ends_with("0\r\n\r\n"), "{answer:.300}");
    for (body, page) in [("<html>", "/stats/summary"), ("{\"pods\":[{}", "/stats/summary")] {
        let bed = Bed::start(play(move |_, mut stream| async move {
            begin(&mut stream).await;
            stream.write_all(body.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }))
        .await;
        let answer = bed.get(&bed.caller(1), page).await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("the kubelet's page cannot be read"), "{body}: {answer}");
    }
}

#[tokio::test]
async fn readers_that_take_nothing_keep_nobody_elses_page_from_coming() {
    let bed = Bed::start(play(|_, mut stream| async move {
        begin(&mut stream).await;
        for number in [1, 2] {
            // Several times what the buffers of a connection hold.
            for _ in 0..(if number == 1 { 10 } else { 1 }) {
                if stream.write_all(lines(number, "web", "x", MANY_LINES).as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        let _ = stream.shutdown().await;
    }))
    .await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    let caller = bed.caller(1);
    let mut stalled = Vec::new();
    let refused = loop {
        let mut stream = bed.dial(Some(&caller)).await.unwrap();
        stream.write_all(b"GET /metrics/cadvisor HTTP/1.1\r\nHost: n1\r\n\r\n").await.unwrap();
        let head = timeout(SOON, bed::head(&mut stream)).await.expect("an answer");
        if !head.starts_with("HTTP/1.1 200 ") {
            break head;
        }
        stalled.push(stream);
        assert!(stalled.len() < 20, "one tenant may have any number of pages open");
    };
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(stalled.len() > 4, "more than are read at once: {}", stalled.len());
    let other = timeout(2 * SOON, bed.get(&bed.caller(2), "/metrics/cadvisor")).await.expect("another tenant's page comes");
    assert_eq!(other.matches("image=\"x-").count(), MANY_LINES);
    drop(stalled);
    bed.quiet().await;
    assert!(bed.get(&caller, "/metrics/probes").await.starts_with("HTTP/1.1 200 "), "and then its own do again");
    // Else the last page's connection to the kubelet may be seen.
    timeout(Duration::from_secs(20), bed.quiet()).await.unwrap();
}

/// A kubelet with pages of no length.
fn brief() -> bed::Play {
    play(|_, mut stream| async move {
        begin(&mut stream).await;
        let _ = stream.shutdown().await;
    })
}

/// Long enough for who does not wait for a turn, and half of what others wait then.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn s61_a_tenant_that_asks_for_pages_in_a_loop_has_its_kubelet_measure_at_a_pace() {
    const MANY: usize = 60;
    let bed = Bed::start(brief()).await;
    let (greedy, other) = (bed.caller(1), bed.caller(2));
    let began = Instant::now();
    let asked = (0..MANY).map(|_| bed.get(&greedy, "/metrics/resource"));
    let other = async {
        until("some wait for their turn", || bed.agent.places.len() > MANY / 4).await;
        timeout(AT_ONCE, bed.get(&other, "/metrics/cadvisor")).await.expect("another tenant does not wait")
    };
    let (answers, other) = futures::join!(futures::future::join_all(asked), other);
    assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
    let most = 20 + began.elapsed().as_millis() / 500;
    let measured = bed.heads.lock().iter().filter(|head| head.contains("/metrics/resource")).count();
    assert!(measured as u128 <= most, "{measured} pages after {:?}", began.elapsed());
    let count = |answer: &str, word: &str| answers.iter().filter(|is| is.starts_with(answer) && is.contains(word)).count();
    assert!(count("HTTP/1.1 429 ", "asks too often") >= 1);
    // Who waits has none of the places for pages that are open, of which a tenant has six: all of them are served in the end.
    let served = count("HTTP/1.1 200 ", "");
    assert!(served >= 20, "{served} served");
}

#[tokio::test]
async fn s61_a_tenant_that_asks_for_pods_that_are_not_there_has_them_listed_at_a_pace() {
    const MANY: usize = 60;
    let bed = Bed::start(brief()).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    let caller = bed.caller(1);
    let asked = (0..MANY).map(|n| {
        let (bed, caller) = (&bed, &caller);
        async move { bed.get(caller, &format!("/containerLogs/default/none-{n}/app")).await }
    });
    let other = async {
        until("some wait for their turn", || bed.agent.places.len() > MANY / 4).await;
        timeout(AT_ONCE, bed.get(&bed.caller(2), "/containerLogs/default/none/app")).await.expect("another does not wait")
    };
    let (answers, other) = futures::join!(futures::future::join_all(asked), other);
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 429 ") && answer.contains("asks too often")).count();
    let absent = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 404 ")).count();
    assert!((1..=20).contains(&refused) && refused + absent == MANY, "{refused} refused, {absent} absent");
    // One that is there is not held up.
    let known = timeout(AT_ONCE, bed.get(&caller, "/containerLogs/default/web/app")).await.expect("it is known");
    assert!(known.starts_with("HTTP/1.1 200 "), "{known}");
}

#[tokio::test]
async fn one_list_that_knows_all_new_pods_serves_all_who_wait() {
    const MANY: u128 = 60;
    let bed = Bed::start(brief()).await;
    *bed.lag.lock() = Duration::from_millis(100);
    bed.pods.lock().extend((0..MANY).map(|n| pod(1, &format!("new-{n}"), 100 + n)));
    let caller = bed.caller(1);
    let asked = (0..MANY).map(|n| {
        let (bed, caller) = (&bed, &caller);
        async move { bed.get(caller, &format!("/containerLogs/default/new-{n}/app")).await }
    });
    let answers = timeout(AT_ONCE, futures::future::join_all(asked)).await.expect("nobody waits for a turn of its own");
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn s61_a_kubelet_rests_after_a_list_as_long_as_it_took() {
    const MANY: u32 = 5;
    const LAG: Duration = Duration::from_millis(200);
    let bed = Bed::start(brief()).await;
    *bed.lag.lock() = LAG;
    let Backend::Kubelet(kubelet) = &bed.agent.backend else { unreachable!("it is one") };
    let began = Instant::now();
    for _ in 0..MANY {
        // As each session does once it has its answer.
        kubelet.fresh().await.unwrap();
    }
    assert_eq!(bed.lists.load(Ordering::SeqCst), MANY as usize);
    assert!(began.elapsed() >= (2 * MANY - 1) * LAG, "{:?}", began.elapsed());
}
