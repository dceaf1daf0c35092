//! What callers can make vn-agent write to its log.

mod bed;

use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use bed::{Bed, LIMITS, SWITCHED, play, pod, until};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use vn_agent::guard::Limits;

/// Messages of the log, with all that they say.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn of(&self, message: &str) -> Vec<String> {
        self.0.lock().iter().filter(|line| line.contains(message)).cloned().collect()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.lock().push(text.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

/// Everything runs on the thread of the test, so that its subscriber sees it.
#[tokio::test]
async fn refusals_of_one_tenant_and_of_strangers_fill_no_log() {
    const MANY: usize = 300;
    let lines = Lines::default();
    let _set = tracing::subscriber::set_default(lines.clone());
    let bed = Bed::start(play(|_, _| async {})).await;
    let (a, b) = (bed.caller(1), bed.caller(2));
    let mut stream = bed.dial(Some(&a)).await.unwrap();
    for _ in 0..MANY {
        stream.write_all(b"GET /none HTTP/1.1\r\nHost: n1\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        assert!(bed::head(&mut stream).await.starts_with("HTTP/1.1 404 "));
        let mut rest = [0; 1024];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await.unwrap();
    }
    assert!(bed.get(&b, "/none").await.starts_with("HTTP/1.1 404 "));
    // At once twenty, then one a second.
    let refused = lines.of("not served");
    assert!((20..60).contains(&refused.len()), "{} lines: {refused:#?}", refused.len());
    assert!(refused.iter().any(|line| line.contains(&bed::tenant(2).uid().to_string())), "the other tenant's is there: {refused:#?}");

    for _ in 0..MANY {
        TcpStream::connect(bed.address).await.unwrap().write_all(b"no handshake of TLS\r\n").await.unwrap();
    }
    until("a handshake that failed is logged", || !lines.of("caller not let in").is_empty()).await;
    let served = bed.get(&b, "/none").await;
    assert!(served.starts_with("HTTP/1.1 404 "), "{served}");
    let strangers = lines.of("caller not let in");
    assert!(strangers.len() < 60, "{} lines", strangers.len());
}

const LOG: &str = "/containerLogs/default/web/app";

/// A kubelet with logs of a line, pages about nobody, and streams that end at once.
fn willing() -> bed::Play {
    play(|head, mut stream| async move {
        let answer: &[u8] = match head {
            head if head.starts_with("POST ") => SWITCHED,
            head if head.contains("/containerLogs/") => b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\na line\n",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        };
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    })
}

/// What a field of a line says.
fn number(line: &str, field: &str) -> usize {
    let value = line.split(' ').find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn logs_that_are_served_fill_no_log_and_none_is_left_out() {
    const MANY: usize = 200;
    let lines = Lines::default();
    let _set = tracing::subscriber::set_default(lines.clone());
    let bed = Bed::start(willing()).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    let (a, b) = (bed.caller(1), bed.caller(2));
    for _ in 0..MANY {
        assert!(bed.get(&a, LOG).await.starts_with("HTTP/1.1 200 "));
    }
    assert!(bed.get(&b, LOG).await.starts_with("HTTP/1.1 200 "));
    bed.quiet().await;
    bed.agent.quiet.tell_merged();
    let of = |tenant: u128| format!("tenant={} ", bed::tenant(tenant).uid());
    let single: Vec<_> = lines.of("message=session ").into_iter().filter(|line| line.contains(&of(1))).collect();
    // At once a hundred, then one a second.
    assert!((100..MANY).contains(&single.len()), "{} lines: {single:#?}", single.len());
    let more = lines.of("message=more sessions ");
    let [more] = more.as_slice() else { panic!("one line for all others: {more:#?}") };
    assert!(more.contains(&of(1)) && more.contains("verb=\"logs\""), "{more}");
    let merged = number(more, "sessions");
    assert_eq!(single.len() + merged, MANY, "{more}");
    assert_eq!((number(more, "received_bytes"), number(more, "not_ok")), (7 * merged, 0), "{more}");
    assert!(lines.of("message=session ").iter().any(|line| line.contains(&of(2))), "the other tenant's is there");
}

#[tokio::test]
async fn each_stream_has_a_line_of_its_own() {
    const MANY: usize = 40;
    let lines = Lines::default();
    let _set = tracing::subscriber::set_default(lines.clone());
    let bed = Bed::start(willing()).await;
    bed.pods.lock().push(pod(1, "web", 7));
    let caller = bed.caller(1);
    for _ in 0..MANY {
        let (head, stream) = bed.upgrade(&caller, "/exec/default/web/app?command=true&output=1").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        drop(stream);
    }
    bed.quiet().await;
    assert_eq!(lines.of("message=session ").iter().filter(|line| line.contains("verb=\"exec\"")).count(), MANY);
}

#[tokio::test]
async fn connections_beyond_a_tenants_number_are_told_of_the_tenant() {
    const MANY: usize = 150;
    let lines = Lines::default();
    let _set = tracing::subscriber::set_default(lines.clone());
    let bed = Bed::with_limits(willing(), Limits { per_tenant: 1, ..LIMITS }).await;
    let caller = bed.caller(1);
    let mut held = Vec::new();
    for _ in 0..MANY {
        held.push(bed.dial(Some(&caller)).await.unwrap());
    }
    let told = || lines.of("caller not let in");
    until("it is told", || !told().is_empty()).await;
    let tenant = format!("tenant={} ", bed::tenant(1).uid());
    assert!(told().iter().all(|line| line.contains(&tenant) && line.contains("too many connections")), "{:#?}", told());
    assert_eq!(bed.agent.quiet.about_a_stranger(), Some(0), "and no line of strangers is taken");
}

#[tokio::test]
async fn what_was_served_whole_is_logged_as_such() {
    let lines = Lines::default();
    let _set = tracing::subscriber::set_default(lines.clone());
    let bed = Bed::start(willing()).await;
    bed.pods.lock().push(pod(1, "web", 7));
    let paths = ["/stats/summary", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes", "/pods", LOG];
    for path in paths {
        let answer = bed.get(&bed.caller(1), path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    bed.quiet().await;
    let sessions = lines.of("message=session ");
    assert_eq!(sessions.iter().filter(|line| line.contains("outcome=\"ok\"")).count(), paths.len(), "{sessions:#?}");
}

#[tokio::test]
async fn s54_who_is_refused_or_names_nobody_stands_in_the_log() {
    let lines = Lines::default();
    let _set = tracing::subscriber::set_default(lines.clone());
    let bed = Bed::start(willing()).await;
    bed.pods.lock().push(pod(2, "web", 8));
    let unknown = bed.get(&bed.caller(3), LOG).await;
    assert!(unknown.starts_with("HTTP/1.1 403 "), "{unknown}");
    let foreign = bed.get(&bed.caller(2), "/containerLogs/default/web/other").await;
    assert!(foreign.starts_with("HTTP/1.1 403 "), "{foreign}");
    let refused = lines.of("message=not served ");
    for (tenant, reason) in [(3, "names no tenant that exists"), (2, "is not in the spec")] {
        let tenant = format!("tenant={} ", bed::tenant(tenant).uid());
        let is_told = |line: &String| line.contains(&tenant) && line.contains("code=403 ") && line.contains(reason);
        assert_eq!(refused.iter().filter(|line| is_told(line)).count(), 1, "{tenant}{reason}: {refused:#?}");
    }
    // Of the agent CA and for clients, but without a URI.
    let nobody = bed.agent_ca.issue(&pki::Leaf::KubeletClient { node: "n1".to_owned() }, bed::HOUR).unwrap();
    if let Ok(mut stream) = bed.dial(Some(&nobody)).await {
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
    }
    until("it is told", || lines.of("caller not let in").iter().any(|line| line.contains("has no URI vc://") && line.contains("peer=")))
        .await;
}
