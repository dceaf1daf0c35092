//! What a hostile tenant has in hand: certificates of any CA that it reaches, and requests in any form. And who listens for what it must not hear.

use std::{cell::Cell, path::Path};

use anyhow::{Context as _, ensure};
use e2e::pki::Identity;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// Listens to all that a hostile caller is answered.
pub(crate) struct Ears {
    forbidden: Vec<String>,
    heard: Cell<usize>,
}

impl Ears {
    /// These are never to be heard.
    pub(crate) fn new(forbidden: Vec<String>) -> Self {
        Self { forbidden, heard: Cell::new(0) }
    }

    /// Fails if what was answered holds anything of another's.
    pub(crate) fn hear(&self, asked: &str, answered: &str) -> anyhow::Result<()> {
        self.heard.set(self.heard.get() + 1);
        let found = self.forbidden.iter().find(|word| answered.contains(word.as_str()));
        ensure!(found.is_none(), "{asked:?} reaches another tenant: {found:?} in {answered}");
        Ok(())
    }

    /// How many answers were listened to.
    pub(crate) fn count(&self) -> usize {
        self.heard.get()
    }
}

/// Signs whatever it is told to.
pub(crate) struct Forger {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Forger {
    /// With the CA in `path.crt` and `path.key`.
    pub(crate) fn with(path: &Path) -> anyhow::Result<Self> {
        let read = |end: &str| std::fs::read_to_string(path.with_extension(end)).with_context(|| format!("no {end} of {}", path.display()));
        let pem = read("crt")?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&read("key")?)?)?, pem })
    }

    /// With a CA of its own that calls itself as the agent CA does.
    pub(crate) fn of_its_own() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "vn-agents");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A client certificate with these URIs among its names, changed as asked.
    pub(crate) fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::default();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate()?;
        Ok(Identity { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    /// The CA's certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }
}

/// A Pod of another tenant, by all that can be known of it.
pub(crate) struct Target {
    /// Its namespace in the super cluster.
    pub(crate) namespace: String,
    /// Its UID in its tenant.
    pub(crate) uid: String,
    /// Its UID in the super cluster.
    pub(crate) uid_below: String,
}

/// Paths that lead, if anything does, to the container `main` of the target `default/secret`, or to what a kubelet says of the whole node.
pub(crate) fn paths(target: &Target) -> Vec<String> {
    let Target { namespace, uid, uid_below } = target;
    let mut paths: Vec<String> = KUBELET.iter().map(|path| (*path).to_owned()).collect();
    for space in ["default", namespace] {
        for pod in [
            "secret".to_owned(),
            format!("secret/{uid}"),
            format!("secret/{uid_below}"),
            format!("twin/{uid}"),
            format!("twin/{uid_below}"),
        ] {
            paths.extend([
                format!("/exec/{space}/{pod}/main?command=env&output=1"),
                format!("/attach/{space}/{pod}/main?output=1"),
                format!("/portForward/{space}/{pod}?port=8080"),
                format!("/containerLogs/{space}/{pod}/main"),
                format!("/run/{space}/{pod}/main?cmd=env"),
                format!("/checkpoint/{space}/{pod}/main"),
            ]);
        }
    }
    for way in [
        "/containerLogs/NS%2Fsecret/main",
        "/containerLogs/default%2F..%2FNS/secret/main",
        "/containerLogs/default/..%2FNS%2Fsecret/main",
        "/containerLogs/default/../NS/secret/main",
        "/containerLogs/default/twin/../../NS/secret/main",
        "/containerLogs/default/twin/main/../../../NS/secret/main",
        "/containerLogs/default/twin/main%2F..%2F..%2F..%2FNS%2Fsecret%2Fmain",
        "/pods/../containerLogs/NS/secret/main",
        "/pods/..%2FcontainerLogs%2FNS%2Fsecret%2Fmain",
        "/./containerLogs/NS/secret/main",
        "//containerLogs/NS/secret/main",
        "/containerLogs//NS/secret/main",
        "/containerLogs/NS//secret/main",
        "/containerLogs/NS/secret//main",
        "/containerLogs//secret/main",
        "/containerLogs/NS/secret/main/",
        "/containerLogs/NS/secret/main/..",
        "/containerLogs/NS/secret/main%00",
        "/containerLogs/NS%20/secret/main",
        "/containerLogs/%4eS/secret/main",
        "/containerLogs/default;NS/secret/main",
        "/containerLogs/default\\..\\NS/secret/main",
        "/containerLogs/default/twin%2F..%2F..%2FNS%2Fsecret/main",
        "/containerlogs/NS/secret/main",
        "/ContainerLogs/NS/secret/main",
        "/%63ontainerLogs/NS/secret/main",
        "/containerLogs/ns/secret/main",
        "/containerLogs/Default/secret/main",
        "/containerLogs/DEFAULT/SECRET/MAIN",
        "/containerLogs/default/twin/main?container=secret",
        "/containerLogs/default/twin/main?namespace=NS&pod=secret",
        "/containerLogs/default/twin/main?tailLines=1&tailLines=2",
        "/containerLogs/default/twin/main?tailLines=1;pod=secret",
        "/containerLogs/default/twin/main?%74ailLines=1",
        "/containerLogs/default/twin/main?follow=true%26pod=secret",
        "/containerLogs/default/twin/main?insecureSkipTLSVerifyBackend=true",
        "/containerLogs/default/twin/main#/../../../NS/secret/main",
        "/containerLogs/default/twin/main?",
        "/exec/default/twin/main?command=env&container=secret&output=1",
        "/exec/default/twin/main?output=1",
        "/exec/default/twin/main/extra?command=env&output=1",
        "/portForward/default/twin?port=8080&pod=secret",
        "/portForward/default/twin?port=0",
        "/portForward/default/twin?port=65536",
        "/portForward/default/twin?port=8080%2F..%2FNS",
    ] {
        paths.push(way.replace("NS", namespace));
    }
    paths
}

/// What a kubelet serves beside its Pods' streams.
const KUBELET: [&str; 40] = [
    "/",
    "/api",
    "/api/v1/pods",
    "/attach",
    "/checkpoint",
    "/configz",
    "/containerLogs",
    "/cri/exec/token",
    "/debug",
    "/debug/flags/v",
    "/debug/pprof",
    "/debug/pprof/",
    "/debug/pprof/heap",
    "/exec",
    "/flagz",
    "/healthz",
    "/healthz/ping",
    "/healthz/syncloop",
    "/livez",
    "/logs",
    "/logs/",
    "/logs/?query=kubelet",
    "/logs/pods/",
    "/logs/../../etc/passwd",
    "/metrics",
    "/metrics/",
    "/metrics/slis",
    "/pods/",
    "/pods?all=true",
    "/pods?labelSelector=",
    "/portForward",
    "/readyz",
    "/run",
    "/runningpods",
    "/runningpods/",
    "/spec",
    "/spec/",
    "/stats",
    "/stats/container",
    "/statusz",
];

/// Bytes that read differently to different readers, each hiding `inner`.
pub(crate) fn smuggled(inner: &str) -> Vec<String> {
    let get = "GET /containerLogs/default/twin/main HTTP/1.1\r\nHost: node\r\n";
    let upgrade = "GET /exec/default/twin/main?command=cat&input=1&output=1 HTTP/1.1\r\nHost: node\r\n";
    let websocket =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let length = inner.len();
    vec![
        format!("{get}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}"),
        format!("{get}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{inner}"),
        format!("{get}Content-Length: 0, {length}\r\n\r\n{inner}"),
        format!("{get}Content-Length: +0\r\n\r\n{inner}"),
        format!("{get}Content-Length: 00\r\n\r\n{inner}"),
        format!("{get}Content-Length: -1\r\n\r\n{inner}"),
        format!("{get}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}X: a\r\x00\r\n\r\n{inner}"),
        format!("GET /containerLogs/default/twin/main HTTP/1.0\r\n\r\n{inner}"),
        format!("GET /containerLogs/default/twin/main\r\n\r\n{inner}"),
        format!("GET /containerLogs/default/twin/main HTTP/2.0\r\n\r\n{inner}"),
        format!("GET /containerLogs/default/twin/main HTTP/1.1 HTTP/1.1\r\nHost: node\r\n\r\n{inner}"),
        format!("GET https://node/containerLogs/default/twin/main HTTP/1.1\r\nHost: node\r\n\r\n{inner}"),
        format!("GET node:10250/containerLogs/default/twin/main HTTP/1.1\r\nHost: node\r\n\r\n{inner}"),
        format!("CONNECT node:10250 HTTP/1.1\r\nHost: node\r\n\r\n{inner}"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{inner}"),
        format!("{get}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n{inner}"),
        format!("{upgrade}{websocket}Content-Length: {length}\r\n\r\n{inner}"),
        format!("{upgrade}{websocket}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{upgrade}{websocket}Upgrade: SPDY/3.1\r\n\r\n{inner}"),
        format!("{upgrade}Connection: Upgrade\r\nUpgrade: websocket, SPDY/3.1\r\n\r\n{inner}"),
        format!("{upgrade}Connection: close\r\nUpgrade: websocket\r\n\r\n{inner}"),
        format!("{upgrade}Connection: Upgrade\r\nUpgrade: SPDY/3.0\r\n\r\n{inner}"),
        format!(
            "{upgrade}{websocket}Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.YWRtaW4, v4.channel.k8s.io\r\n\r\n{inner}"
        ),
        format!(
            "{upgrade}{websocket}Sec-WebSocket-Protocol: v4.channel.k8s.io, BASE64URL.bearer.authorization.k8s.io.YWRtaW4\r\n\r\n{inner}"
        ),
    ]
}
