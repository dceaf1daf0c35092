//! What may be wrong with a kubeconfig, each with the field and the mend.

use std::path::PathBuf;

/// Why a kubeconfig was refused.
///
/// The text of each names the field and what to write instead; none repeats what the file holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeconfigError {
    /// It is larger than [`super::MAX_BYTES`].
    #[error("kubeconfig has {bytes} bytes, more than 65536: keep one cluster, one user and one context")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is not UTF-8.
    #[error("kubeconfig is not UTF-8 text: write it as plain YAML")]
    NotText,
    /// YAML that cannot be read as a kubeconfig.
    #[error("kubeconfig is not valid at line {line}, column {column}: {what}")]
    Yaml {
        /// Where.
        line: u64,
        /// Where.
        column: u64,
        /// What rule it breaks.
        what: &'static str,
    },
    /// A field that no kubeconfig has.
    #[error("kubeconfig has the unknown field {field} at line {line}: remove it")]
    UnknownField {
        /// Its name, if it is short and plain, else a placeholder.
        field: String,
        /// Where.
        line: u64,
    },
    /// An anchor, alias or tag.
    #[error("kubeconfig uses a YAML anchor, alias or tag at line {line}: write the value out, in quotes if it is text")]
    Indirection {
        /// Where.
        line: u64,
    },
    /// `exec`.
    #[error("users[].user.exec would run a command here: use client-certificate-data with client-key-data, or token")]
    Exec,
    /// `auth-provider`.
    #[error("users[].user.auth-provider may run a command here: use client-certificate-data with client-key-data, or token")]
    AuthProvider,
    /// `tokenFile`.
    #[error("users[].user.tokenFile names a file on this machine: put the token itself into token")]
    TokenFile,
    /// A field that names a file.
    #[error("{field} names a file on this machine: put the content, base64-encoded, into {instead}")]
    Path {
        /// The field.
        field: &'static str,
        /// The field to use.
        instead: &'static str,
    },
    /// `proxy-url`.
    #[error("clusters[].cluster.proxy-url is not allowed: remove it, the server must be reachable directly")]
    ProxyUrl,
    /// `insecure-skip-tls-verify`.
    #[error(
        "clusters[].cluster.insecure-skip-tls-verify is not allowed: remove it and put the server's CA into \
         certificate-authority-data"
    )]
    Insecure,
    /// `as` and its family.
    #[error("users[].user.{field} asks to act as somebody else: remove it and use the credentials of that user")]
    Impersonation {
        /// The field.
        field: &'static str,
    },
    /// `username` or `password`.
    #[error("users[].user.{field} is basic authentication, which Kubernetes no longer has: use token or a client certificate")]
    Basic {
        /// The field.
        field: &'static str,
    },
    /// No CA.
    #[error("clusters[].cluster.certificate-authority-data is missing: put the CA of the server there, base64-encoded PEM")]
    MissingCa,
    /// No server.
    #[error("clusters[].cluster.server is missing: write https://HOST:PORT")]
    MissingServer,
    /// A server that is no URL of one.
    #[error("clusters[].cluster.server is not the address of a server: write https://HOST:PORT")]
    BadServer,
    /// A server without TLS.
    #[error("clusters[].cluster.server does not use https: write https://HOST:PORT")]
    NotHttps,
    /// Credentials within the URL.
    #[error("clusters[].cluster.server holds a user name: write https://HOST:PORT and put the credentials under users")]
    UserInfo,
    /// `current-context`, or what it leads to, is not there.
    #[error("{field} is missing or names an entry that is not there, or is there twice")]
    Dangling {
        /// The field that leads nowhere.
        field: &'static str,
    },
    /// Not base64.
    #[error("{field} is not base64")]
    NotBase64 {
        /// The field.
        field: &'static str,
    },
    /// Base64 of something that is not PEM.
    #[error("{field} does not hold PEM: encode the whole file, with its BEGIN and END lines")]
    NotPem {
        /// The field.
        field: &'static str,
    },
    /// A certificate without its key.
    #[error("users[].user.client-key-data is missing beside client-certificate-data")]
    MissingKey,
    /// A key without its certificate.
    #[error("users[].user.client-certificate-data is missing beside client-key-data")]
    MissingCertificate,
    /// Nobody.
    #[error("users[].user has no credentials: use client-certificate-data with client-key-data, or token")]
    MissingIdentity,
    /// Two at once.
    #[error("users[].user has both a client certificate and a token: keep one")]
    TwoIdentities,
    /// A file that the operator named cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
