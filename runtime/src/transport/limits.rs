//! How much, how fast and how long an API server may answer.

use std::time::Duration;

/// Bounds of everything that a server can make long, large or slow.
///
/// The defaults are those for a tenant that may be hostile.
#[derive(Debug, Clone)]
pub struct Limits {
    /// To resolve the name and open the TCP connection.
    pub connect: Duration,
    /// To finish the TLS handshake.
    pub tls: Duration,
    /// From sending a request to its response headers.
    pub headers: Duration,
    /// From the headers to the end of a [`super::Class::Unary`] body.
    pub unary: Duration,
    /// From the headers to the end of a [`super::Class::List`] body: etcd's own time-out for a request is 60 s.
    pub list: Duration,
    /// How far a body may fall behind `bytes_per_second`.
    pub grace: Duration,
    /// Slowest average at which a body may come.
    pub bytes_per_second: u64,
    /// Longest silence on a watch between two whole lines. API servers send a bookmark about every minute.
    pub silence: Duration,
    /// Largest body of a unary call. An object in etcd has at most 1.5 MiB; its JSON may be a little larger.
    pub unary_bytes: usize,
    /// Largest body of a page of a list.
    pub list_bytes: usize,
    /// Largest body of an answer that is no success.
    pub error_bytes: usize,
    /// Longest line of a watch.
    pub line_bytes: usize,
    /// Largest request body.
    pub request_bytes: usize,
    /// Longest wait that a server can ask for.
    pub retry_after: Duration,
    /// Calls in flight at once; further ones wait their turn.
    pub calls: usize,
    /// Calls on one connection at once.
    pub calls_per_connection: usize,
    /// Watches on one connection at once. A stock API server allows 100 streams; the 101st would hang in silence.
    pub watches_per_connection: usize,
    /// Oldest silence of a connection that nobody uses before it is closed.
    pub idle: Duration,
    /// Time between two HTTP/2 pings on a connection in use.
    pub ping: Duration,
    /// Longest wait for the answer to a ping.
    pub pong: Duration,
    /// Whether TLS 1.2 will do.
    pub tls12: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            tls: Duration::from_secs(5),
            headers: Duration::from_secs(10),
            unary: Duration::from_secs(30),
            list: Duration::from_mins(1),
            grace: Duration::from_secs(5),
            bytes_per_second: 16 * 1024,
            silence: Duration::from_secs(90),
            unary_bytes: 2 * 1024 * 1024,
            list_bytes: 32 * 1024 * 1024,
            error_bytes: 64 * 1024,
            line_bytes: 4 * 1024 * 1024,
            request_bytes: 3 * 1024 * 1024,
            retry_after: Duration::from_mins(1),
            calls: 8,
            calls_per_connection: 60,
            watches_per_connection: 90,
            idle: Duration::from_secs(90),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(10),
            tls12: false,
        }
    }
}

impl Limits {
    /// For the super cluster: more calls at once, and TLS 1.2 will do.
    ///
    /// Nothing that etcd stores there is too large to be read, for what cannot be read stops all tenants: of 1.5 MiB an API server makes six
    /// times as much, since it writes `<`, `>` and `&` as six bytes each, and the two names around it are longer than in a tenant.
    pub fn trusted() -> Self {
        const MIB: usize = 1024 * 1024;
        Self { calls: 240, tls12: true, unary_bytes: 16 * MIB, line_bytes: 16 * MIB, list_bytes: 128 * MIB, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s33_what_etcd_stores_of_the_super_cluster_can_always_be_read() {
        let stored = 1536 * 1024;
        let limits = Limits::trusted();
        // All of it markup, and as much of names and managed fields around it.
        let printed = 6 * stored + stored;
        assert!(limits.line_bytes > printed && limits.unary_bytes > printed && limits.list_bytes > printed);
    }
}
