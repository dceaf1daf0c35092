//! What can go wrong between us and an API server.

use std::net::IpAddr;
use std::path::PathBuf;

use http::StatusCode;

use super::Reply;

/// Why a call gave no usable answer.
///
/// # Caveats
/// Nothing here was read from a body, but for [`TransportError::Refused`], whose text does not show it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The certificates or keys of the kubeconfig cannot be used.
    #[error("could not use {what} of the kubeconfig")]
    Credential {
        /// Which part.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The token file of a trusted kubeconfig cannot be read.
    #[error("could not read the token in {}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The request itself cannot be sent.
    #[error("could not form the request: {what}")]
    Invalid {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The name could not be resolved, or nobody listens.
    #[error("could not connect to {server}")]
    Connect {
        /// Host and port.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// The name leads to an address that is not allowed.
    #[error("{server} leads to {address}, which is denied here (--deny-addresses, --allow-addresses)")]
    AddressDenied {
        /// Host and port.
        server: String,
        /// The first address that was denied.
        address: IpAddr,
    },
    /// The server could not prove who it is, or refused our certificate.
    #[error("could not agree on TLS with {server}")]
    Tls {
        /// Host and port.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something took too long.
    #[error("{server} took too long: {step}")]
    Timeout {
        /// Host and port.
        server: String,
        /// What was waited for.
        step: Step,
    },
    /// Something was too large.
    #[error("{server} sent {bound} of more than {limit_bytes} bytes")]
    TooLarge {
        /// Host and port.
        server: String,
        /// What it was.
        bound: Bound,
        /// Its limit.
        limit_bytes: usize,
    },
    /// A redirect, which is never followed.
    #[error("{server} answered {status}, a redirect: those are not followed")]
    Redirect {
        /// Host and port.
        server: String,
        /// Which.
        status: StatusCode,
    },
    /// A compressed body, which was not asked for and is never unpacked.
    #[error("{server} sent a compressed body, which was not asked for")]
    Encoded {
        /// Host and port.
        server: String,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the connection to {server} broke")]
    Closed {
        /// Host and port.
        server: String,
        /// How.
        source: hyper::Error,
    },
    /// A watch was answered with something else than a stream.
    #[error("{server} refused the watch with {}", reply.status)]
    Refused {
        /// Host and port.
        server: String,
        /// Its whole answer.
        reply: Box<Reply>,
    },
}

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Resolving the name and opening the connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The response headers.
    Headers,
    /// The response body.
    Body,
    /// The next line of a watch.
    Line,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Tls => "TLS handshake",
            Self::Headers => "response headers",
            Self::Body => "response body",
            Self::Line => "next line of a watch",
        })
    }
}

/// What was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The body of an answer.
    Body,
    /// One line of a watch.
    Line,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Body => "a body",
            Self::Line => "a line",
        })
    }
}

/// Errors by what one does about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Our own credentials or request: no use to repeat it.
    Invalid,
    /// Nobody reached.
    Connect,
    /// The server is not the one that was named.
    Tls,
    /// Too slow.
    Timeout,
    /// Too large.
    TooLarge,
    /// A redirect.
    Redirect,
    /// A compressed body.
    Encoded,
    /// Broken on the way: it is unknown whether the server did what was asked.
    Closed,
    /// An address that is not allowed.
    AddressDenied,
    /// An answer with this status.
    Http(StatusCode),
}

impl TransportError {
    /// What sort of error it is.
    pub fn kind(&self) -> Failure {
        match self {
            Self::Credential { .. } | Self::Token { .. } | Self::Invalid { .. } => Failure::Invalid,
            Self::Connect { .. } => Failure::Connect,
            Self::AddressDenied { .. } => Failure::AddressDenied,
            Self::Tls { .. } => Failure::Tls,
            Self::Timeout { .. } => Failure::Timeout,
            Self::TooLarge { .. } => Failure::TooLarge,
            Self::Redirect { .. } => Failure::Redirect,
            Self::Encoded { .. } => Failure::Encoded,
            Self::Closed { .. } => Failure::Closed,
            Self::Refused { reply, .. } => Failure::Http(reply.status),
        }
    }

    /// The answer to a refused watch.
    pub fn reply(&self) -> Option<&Reply> {
        if let Self::Refused { reply, .. } = self { Some(reply) } else { None }
    }
}
