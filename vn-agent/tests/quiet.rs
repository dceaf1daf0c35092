//! What callers can make vn-agent write to its log.

mod bed;

use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use bed::{Bed, play, until};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

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
