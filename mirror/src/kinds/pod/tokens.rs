//! `ServiceAccount` tokens: the tenant's, through a Secret that lives and dies with the super Pod; never the super cluster's.

use common::Uid;
use serde_json::{Map, Value, json};

use super::{Fields, object, object_mut, objects, objects_mut, service_account, text};
use crate::cx::Cx;
use crate::kind::TokenAsk;

/// The shortest life of a token that an API server grants, in seconds, and the one that a projection without a wish has.
const MIN_SECONDS: u64 = 600;
const DEFAULT_SECONDS: u64 = 3600;

/// What admission puts into every Pod. An API server turns this very number into a token of a year (`--service-account-extend-token-expiration`),
/// so the plain hour is asked for.
const ADMISSION_SECONDS: u64 = 3607;

const SOURCE: &str = "serviceAccountToken";

/// The tokens that a spec mounts, in the order of its volumes.
pub(super) fn asks(spec: &Value) -> Vec<TokenAsk> {
    let Some(fields) = spec.as_object() else {
        return Vec::new();
    };
    let account = service_account(Some(spec));
    let sources = objects(fields, "volumes").filter_map(|volume| object(volume, "projected")).flat_map(|volume| objects(volume, "sources"));
    sources.filter_map(|source| object(source, SOURCE)).enumerate().map(|(i, token)| ask(token, i, account)).collect()
}

fn ask(token: &Fields, i: usize, account: &str) -> TokenAsk {
    let seconds = token.get("expirationSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_SECONDS);
    let seconds = if seconds == ADMISSION_SECONDS { DEFAULT_SECONDS } else { seconds.max(MIN_SECONDS) };
    TokenAsk {
        key: key(i),
        service_account: account.to_owned(),
        audience: text(token, "audience").map(str::to_owned),
        expiration_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
    }
}

fn key(i: usize) -> String {
    format!("token-{i}")
}

/// Puts the Secret in the place of every token source, whatever its volume is called.
pub(super) fn apply(spec: &mut Fields, pod: Uid, cx: &Cx<'_>) {
    let secret = cx.tenant.token_secret(pod);
    let mut i = 0;
    for volume in objects_mut(spec, "volumes").filter_map(|volume| object_mut(volume, "projected")) {
        for source in objects_mut(volume, "sources") {
            let Some(Value::Object(token)) = source.remove(SOURCE) else {
                continue;
            };
            source.insert("secret".to_owned(), json!({"name": secret.as_str(), "items": [item(&token, i)]}));
            i += 1;
        }
    }
}

fn item(token: &Fields, i: usize) -> Value {
    let mut item = Map::new();
    item.insert("key".to_owned(), Value::String(key(i)));
    for field in ["path", "user"] {
        if let Some(value) = token.get(field) {
            item.insert(field.to_owned(), value.clone());
        }
    }
    Value::Object(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_what_an_api_server_accepts() {
        let of = |seconds: Value| ask(json!({"expirationSeconds": seconds}).as_object().unwrap(), 0, "a").expiration_seconds;
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
        let asks = asks(&spec);
        let keys: Vec<_> = asks.iter().map(|ask| (ask.key.as_str(), ask.service_account.as_str(), ask.audience.as_deref())).collect();
        assert_eq!(keys, [("token-0", "robot", None), ("token-1", "robot", Some("vault"))]);
    }
}
