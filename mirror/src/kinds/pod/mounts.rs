//! `ServiceAccount` tokens, trust bundles and certificates: the tenant's, through a Secret that lives and dies with the super Pod; never the super cluster's.

use common::Uid;
use serde_json::{Map, Value, json};

use super::{Fields, object, object_mut, objects, objects_mut, service_account, text};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::mounts::{BundleAsk, Bundles, CertificateAsk, CertificateKeys, KEY_TYPES, Mounts, TokenAsk};
use crate::size::printed_bytes;

/// The shortest life of a token that an API server grants, in seconds, and the one that a projection without a wish has.
const MIN_SECONDS: u64 = 600;
const DEFAULT_SECONDS: u64 = 3600;

/// What admission puts into every Pod. An API server turns this very number into a token of a year (`--service-account-extend-token-expiration`),
/// so the plain hour is asked for.
const ADMISSION_SECONDS: u64 = 3607;

const TOKEN: &str = "serviceAccountToken";
const BUNDLE: &str = "clusterTrustBundle";
const CERTIFICATE: &str = "podCertificate";

/// Certificates of one Pod: each costs its tenant's signer a request, and the syncer a key.
const MOST_CERTIFICATES: usize = 4;

/// Tokens, trust bundles and certificates of one Pod together, and what is said of them in bytes: a file costs a request or a look through all bundles.
const MOST_FILES: usize = 512;
const MOST_BYTES: usize = 64 * 1024;

/// The life of a certificate without a wish, in seconds; an API server writes it into the Pod itself.
const CERTIFICATE_SECONDS: u64 = 24 * 3600;

/// What a spec mounts, in the order of its volumes.
pub(super) fn of(spec: &Value) -> Mounts {
    let Some(fields) = spec.as_object() else {
        return Mounts::default();
    };
    let account = service_account(Some(spec));
    let mut mounts = Mounts::default();
    for (v, volume) in objects(fields, "volumes").enumerate() {
        for (s, source) in object(volume, "projected").into_iter().flat_map(|volume| objects(volume, "sources")).enumerate() {
            if let Some(token) = object(source, TOKEN) {
                mounts.tokens.push(token_ask(token, mounts.tokens.len(), account));
            }
            if let Some(bundle) = object(source, BUNDLE) {
                let field = format!("spec.volumes[{v}].projected.sources[{s}].{BUNDLE}");
                mounts.bundles.push(bundle_ask(bundle, mounts.bundles.len(), field));
            }
            if let Some(certificate) = object(source, CERTIFICATE) {
                let field = format!("spec.volumes[{v}].projected.sources[{s}].{CERTIFICATE}");
                mounts.certificates.push(certificate_ask(certificate, mounts.certificates.len(), field, account));
            }
        }
    }
    mounts
}

fn token_ask(token: &Fields, i: usize, account: &str) -> TokenAsk {
    let seconds = token.get("expirationSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_SECONDS);
    let seconds = if seconds == ADMISSION_SECONDS { DEFAULT_SECONDS } else { seconds.max(MIN_SECONDS) };
    TokenAsk {
        key: token_key(i),
        service_account: account.to_owned(),
        audience: text(token, "audience").map(str::to_owned),
        expiration_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
    }
}

fn bundle_ask(bundle: &Fields, i: usize, field: String) -> BundleAsk {
    let of = match text(bundle, "name") {
        Some(name) => Bundles::Named(name.to_owned()),
        None => Bundles::Signed {
            signer: text(bundle, "signerName").unwrap_or_default().to_owned(),
            selector: bundle.get("labelSelector").filter(|selector| !selector.is_null()).map(Value::to_string),
        },
    };
    BundleAsk { key: bundle_key(i), field, of, optional: bundle.get("optional") == Some(&Value::Bool(true)) }
}

fn certificate_ask(certificate: &Fields, i: usize, field: String, account: &str) -> CertificateAsk {
    let annotations = object(certificate, "userAnnotations").into_iter().flatten();
    let annotations = annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    CertificateAsk {
        keys: CertificateKeys::new(i),
        field,
        service_account: account.to_owned(),
        signer: text(certificate, "signerName").unwrap_or_default().to_owned(),
        key_type: text(certificate, "keyType").unwrap_or_default().to_owned(),
        max_expiration_seconds: certificate.get("maxExpirationSeconds").and_then(Value::as_u64).unwrap_or(CERTIFICATE_SECONDS),
        annotations: annotations.collect(),
    }
}

fn token_key(i: usize) -> String {
    format!("token-{i}")
}

fn bundle_key(i: usize) -> String {
    format!("bundle-{i}")
}

/// Puts the Secret in the place of every such source, whatever its volume is called.
pub(super) fn apply(spec: &mut Fields, pod: Uid, cx: &Cx<'_>) -> Result<(), Hold> {
    let secret = cx.tenant.token_secret(pod);
    cap(spec)?;
    let (mut tokens, mut bundles, mut certificates) = (0, 0, 0);
    for (v, volume) in objects_mut(spec, "volumes").enumerate() {
        let Some(volume) = object_mut(volume, "projected") else { continue };
        for (s, source) in objects_mut(volume, "sources").enumerate() {
            let mut items = Vec::new();
            if let Some(Value::Object(token)) = source.remove(TOKEN) {
                items.extend(item(&token, "path", token_key(tokens)));
                tokens += 1;
            }
            if let Some(Value::Object(bundle)) = source.remove(BUNDLE) {
                items.extend(item(&bundle, "path", bundle_key(bundles)));
                bundles += 1;
            }
            if let Some(Value::Object(certificate)) = source.remove(CERTIFICATE) {
                may_be_made(&certificate, certificates).map_err(|message| {
                    Hold::refuse("NotSupported", format!("spec.volumes[{v}].projected.sources[{s}].{CERTIFICATE}"), message)
                })?;
                let keys = CertificateKeys::new(certificates);
                let paths = [("credentialBundlePath", keys.bundle), ("keyPath", keys.key), ("certificateChainPath", keys.chain)];
                items.extend(paths.into_iter().filter_map(|(path, key)| item(&certificate, path, key)));
                certificates += 1;
            }
            if !items.is_empty() {
                source.insert("secret".to_owned(), json!({"name": secret.as_str(), "items": items}));
            }
        }
    }
    Ok(())
}

/// Refuses what would cost more than a Pod may.
fn cap(spec: &Fields) -> Result<(), Hold> {
    let volumes = objects(spec, "volumes").filter_map(|volume| object(volume, "projected"));
    let sources = volumes.flat_map(|volume| objects(volume, "sources"));
    let asked: Vec<&Fields> =
        sources.flat_map(|source| [TOKEN, BUNDLE, CERTIFICATE].into_iter().filter_map(|kind| object(source, kind))).collect();
    let bytes: usize = asked.iter().copied().map(printed_bytes).sum();
    if asked.len() > MOST_FILES || bytes > MOST_BYTES {
        let message = format!(
            "{} tokens, trust bundles and certificates are asked for, in {bytes} bytes; at most {MOST_FILES} in {MOST_BYTES} go down: mount fewer, or \
             name less",
            asked.len()
        );
        return Err(Hold::refuse("TooLarge", "spec.volumes", message));
    }
    Ok(())
}

fn may_be_made(certificate: &Fields, before: usize) -> Result<(), String> {
    if before >= MOST_CERTIFICATES {
        return Err(format!("a Pod may have {MOST_CERTIFICATES} certificates; mount fewer"));
    }
    match text(certificate, "keyType") {
        Some(key_type) if KEY_TYPES.contains(&key_type) => Ok(()),
        _ => Err(format!("keys are made of these types: {}; choose one of them", KEY_TYPES.join(", "))),
    }
}

/// The file that a source names in this field, if it does.
fn item(asked: &Fields, path: &str, key: String) -> Option<Value> {
    let mut item = Map::new();
    item.insert("key".to_owned(), Value::String(key));
    item.insert("path".to_owned(), Value::String(text(asked, path)?.to_owned()));
    if let Some(user) = asked.get("user") {
        item.insert("user".to_owned(), user.clone());
    }
    Some(Value::Object(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_what_an_api_server_accepts() {
        let of = |seconds: Value| token_ask(json!({"expirationSeconds": seconds}).as_object().unwrap(), 0, "a").expiration_seconds;
        assert_eq!([of(json!(3607)), of(json!(10)), of(json!(7200)), of(Value::Null), of(json!(-5))], [3600, 600, 7200, 3600, 3600]);
        assert_eq!(of(json!(1u64 << 40)), u32::MAX);
    }

    #[test]
    fn tokens_are_found_by_structure_and_counted_over_all_volumes() {
        let spec = json!({"serviceAccountName": "robot", "volumes": [
            {"name": "kube-api-access-x", "emptyDir": {}},
            {"name": "a", "projected": {"sources": [{"configMap": {"name": "c"}}, {"serviceAccountToken": {"path": "one"}}]}},
            {"name": "b", "projected": {"sources": [{"serviceAccountToken": {"path": "two", "audience": "vault"}}]}},
        ]});
        let asks = of(&spec).tokens;
        let keys: Vec<_> = asks.iter().map(|ask| (ask.key.as_str(), ask.service_account.as_str(), ask.audience.as_deref())).collect();
        assert_eq!(keys, [("token-0", "robot", None), ("token-1", "robot", Some("vault"))]);
    }

    #[test]
    fn trust_bundles_are_asked_for_by_name_or_by_signer_and_selector() {
        let bundle = |asked: Value| json!({"clusterTrustBundle": asked});
        let spec = json!({"volumes": [
            {"name": "a", "projected": {"sources": [bundle(json!({"name": "ours", "path": "a"})), {"serviceAccountToken": {"path": "t"}}]}},
            {"name": "b", "projected": {"sources": [
                bundle(json!({"signerName": "a.b/c", "path": "b", "optional": true})),
                bundle(json!({"signerName": "a.b/c", "labelSelector": {}, "path": "c"})),
            ]}},
        ]});
        let mounts = of(&spec);
        let signed = |selector| Bundles::Signed { signer: "a.b/c".to_owned(), selector };
        let of: Vec<_> = mounts.bundles.iter().map(|ask| (ask.key.as_str(), ask.of.clone(), ask.optional)).collect();
        let all = [
            ("bundle-0", Bundles::Named("ours".to_owned()), false),
            ("bundle-1", signed(None), true),
            ("bundle-2", signed(Some("{}".to_owned())), false),
        ];
        assert_eq!(of, all);
        assert_eq!(mounts.bundles[2].field, "spec.volumes[1].projected.sources[1].clusterTrustBundle");
        assert_eq!(mounts.tokens.len(), 1);
    }

    #[test]
    fn s33_mounts_without_end_are_refused() {
        let of = |count: usize, text: &str| {
            let source = json!({"clusterTrustBundle": {"name": text, "path": "a"}});
            let spec = json!({"volumes": [{"name": "a", "projected": {"sources": vec![source; count]}}]});
            cap(spec.as_object().unwrap())
        };
        assert_eq!(of(MOST_FILES, "a"), Ok(()));
        for refused in [of(MOST_FILES + 1, "a"), of(2, &"a".repeat(MOST_BYTES / 2))] {
            assert!(matches!(refused, Err(Hold::Refused(refusal)) if refusal.reason == "TooLarge"));
        }
    }
}
