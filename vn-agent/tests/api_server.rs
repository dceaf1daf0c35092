//! The super cluster's API server as back end: each request by the tenant's own identity, whose tokens are renewed.

mod bed;

use std::sync::Arc;
use std::time::Duration;

use bed::api_server::{ApiServer, bearer, echoes, is_session, placed, says, willing};
use bed::{Bed, play, spdy, super_namespace};
use common::Uid;
use tokio::io::AsyncWriteExt;

const LOG: &str = "/containerLogs/default/web/app?tailLines=1";
const EXEC: &str = "/exec/default/web/app?command=sh&input=1";

/// One Pod of tenant 1 on node n1 and one on another node.
fn pods() -> Arc<ApiServer> {
    ApiServer::with([placed(1, "web", 7, "n1"), placed(1, "elsewhere", 8, "n2")])
}

/// How often the tenant's token was asked for.
fn tokens(bed: &Bed) -> usize {
    let asked = format!("POST /api/v1/namespaces/vc-writers/serviceaccounts/{}/token ", bed::tenant(1).writer());
    bed.heads.lock().iter().filter(|head| head.starts_with(&asked)).count()
}

#[tokio::test]
async fn logs_and_streams_go_by_the_tenants_own_identity() {
    let bed = pods().bed(willing()).await;
    let caller = bed.caller(1);
    let logs = bed.get(&caller, LOG).await;
    assert!(logs.starts_with("HTTP/1.1 200 ") && logs.contains("a line\n"), "{logs}");
    let (head, mut stream) = bed.upgrade(&caller, EXEC).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    echoes(&mut stream, b"hello").await;

    assert_eq!(tokens(&bed), 1, "one token serves both");
    let heads = bed.heads.lock().clone();
    let others: Vec<_> = heads.iter().filter(|head| !head.contains("/serviceaccounts/")).collect();
    let token = format!("1-of-{}", bed::tenant(1).writer());
    assert!(others.len() >= 6 && others.iter().all(|head| bearer(head) == Some(&token)), "{heads:#?}");
    let exec = format!("POST /api/v1/namespaces/{}/pods/web/exec?container=app&command=sh&stdin=true HTTP/1.1", super_namespace(1));
    assert!(heads.iter().any(|head| head.starts_with(&exec)), "{heads:#?}");
}

#[tokio::test]
async fn who_waited_for_a_turn_uses_the_token_that_another_asked_for() {
    let bed = pods().bed(willing()).await;
    let caller = bed.caller(1);
    let answers = futures::future::join_all((0..40).map(|_| bed.get(&caller, LOG))).await;
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{answers:#?}");
    let asked = tokens(&bed);
    assert!(asked <= 12, "{asked}: no more than have turns at once");
}

#[tokio::test]
async fn what_is_not_the_tenants_or_not_here_is_not_there() {
    let bed = pods().bed(willing()).await;
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

#[tokio::test]
async fn a_token_that_was_refused_is_not_used_again() {
    let sup = pods();
    let (refusing, first) = (Arc::clone(&sup), format!("1-of-{}", bed::tenant(1).writer()));
    // The Pod is still shown for it; when it comes to the log, or to the stream, the token counts no more.
    let bed = sup
        .bed(play(move |head, mut stream| {
            let (refusing, first) = (Arc::clone(&refusing), first.clone());
            async move {
                let answer = if bearer(&head) == Some(&first) {
                    refusing.refused.lock().insert(first);
                    "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
                } else {
                    says("a line\n")
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }))
        .await;
    let caller = bed.caller(1);
    let refused = bed.get(&caller, LOG).await;
    assert!(refused.starts_with("HTTP/1.1 502 ") && refused.contains("does not know vn-agent's credential"), "{refused}");
    let served = bed.get(&caller, LOG).await;
    assert!(served.starts_with("HTTP/1.1 200 "), "by another token at once: {served}");
    assert_eq!(tokens(&bed), 2);
}

#[tokio::test]
async fn trouble_that_is_not_the_tokens_costs_no_token() {
    let sup = pods();
    let bed = sup.bed(willing()).await;
    let caller = bed.caller(1);
    assert!(bed.get(&caller, LOG).await.starts_with("HTTP/1.1 200 "));
    // An API server that is too busy is not asked for tokens on top.
    *sup.trouble.lock() = Some("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let busy = bed.get(&caller, LOG).await;
    assert!(busy.starts_with("HTTP/1.1 502 ") && busy.contains("(status 429)"), "{busy}");
    *sup.trouble.lock() = None;
    assert!(bed.get(&caller, LOG).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(tokens(&bed), 1);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_a_stream_outlives_it() {
    let bed = pods().bed(willing()).await;
    let caller = bed.caller(1);
    let (_, mut stream) = bed.upgrade(&caller, EXEC).await;
    echoes(&mut stream, b"with the first").await;
    let mut last = 0;
    // Of the ten minutes that a token lives it is used for eight.
    for (minutes, asked) in [(0, 1), (7, 1), (2, 2), (7, 2), (2, 3)] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(minutes)).await;
        tokio::time::resume();
        let logs = bed.get(&caller, LOG).await;
        assert!(logs.starts_with("HTTP/1.1 200 "), "{logs}");
        assert_eq!(tokens(&bed), asked, "{minutes} min after the last");
        let token = format!("{asked}-of-{}", bed::tenant(1).writer());
        let heads = bed.heads.lock().clone();
        let since: Vec<_> = heads.iter().skip(last).filter(|head| !head.contains("/serviceaccounts/")).collect();
        assert!(since.iter().any(|head| is_session(head)) && since.iter().all(|head| bearer(head) == Some(&token)), "{since:#?}");
        last = heads.len();
        echoes(&mut stream, b"goes on").await;
    }
}
