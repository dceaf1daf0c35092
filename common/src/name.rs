//! Names: how a tenant's namespace and object names become names in the super cluster, and nothing else does that.
//!
//! *Sources*: RFC 4648 (base32), Kubernetes "Object Names and IDs"; the hash is SHA-256 over length-prefixed fields.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::keys;
use crate::side::{Side, Super, Tenant};

/// What is wrong with a name that came from an API server or a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is no DNS-1123 subdomain of at most 253 characters.
    #[error("{0:?} is no valid object name (RFC 1123 subdomain, at most 253 characters)")]
    Object(String),
    /// The text is no DNS-1123 label of at most 63 characters.
    #[error("{0:?} is no valid namespace name (RFC 1123 label, at most 63 characters)")]
    Namespace(String),
    /// The text is no UUID.
    #[error("{0:?} is no valid UID (a UUID was expected)")]
    Uid(String),
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Whether the text is a DNS-1123 label of at most 63 characters: no separator stands in one.
pub fn is_label(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|part| {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            edge(part.bytes().next())
                && edge(part.bytes().last())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// The UID of an object: a UUID, kept as its 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uid(u128);

impl Uid {
    /// Made of its 128 bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Parses a UUID in its hyphenated form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let error = || NameError::Uid(shown(text));
        let hyphens = text.bytes().enumerate().all(|(i, b)| (b == b'-') == matches!(i, 8 | 13 | 18 | 23));
        if text.len() != 36 || !hyphens {
            return Err(error());
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.bytes().any(|b| !b.is_ascii_digit() && !(b'a'..=b'f').contains(&b)) {
            return Err(error());
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| error())
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            (v >> 80) & 0xffff,
            (v >> 64) & 0xffff,
            (v >> 48) & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a namespace on one side.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace<S>(Arc<str>, PhantomData<S>);

/// The name of an object on one side. Cluster-scoped and namespaced names alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name<S>(Arc<str>, PhantomData<S>);

macro_rules! text {
    ($type:ident) => {
        impl<S> $type<S> {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl<S> fmt::Display for $type<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl<S: Side> fmt::Debug for $type<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", S::NAME, self.0)
            }
        }
    };
}
text!(Namespace);
text!(Name);

impl Namespace<Tenant> {
    /// Takes a tenant's namespace name, by the grammar of Kubernetes: what a hostile API server claims is checked here.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if is_label(text) { Ok(Self(text.into(), PhantomData)) } else { Err(NameError::Namespace(shown(text))) }
    }
}

impl Name<Tenant> {
    /// Takes a tenant's object name, by the grammar of Kubernetes.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if is_subdomain(text) { Ok(Self(text.into(), PhantomData)) } else { Err(NameError::Object(shown(text))) }
    }

    /// The name of the same object inside its super namespace: unchanged, unless it starts with the prefix that is ours;
    /// then `vc.e.<rest>`, or `vc.h.<hash>` where that would be too long.
    ///
    /// *Guarantees*: injective; never one of our own names.
    pub fn same(&self) -> Name<Super> {
        let text = self.as_str();
        let Some(rest) = text.strip_prefix(keys::RESERVED_NAME_PREFIX) else {
            return Name(self.0.clone(), PhantomData);
        };
        let escaped = format!("{}e.{rest}", keys::RESERVED_NAME_PREFIX);
        let escaped =
            if escaped.len() <= 253 { escaped } else { format!("{}h.{}", keys::RESERVED_NAME_PREFIX, hash26(&["vc-name-v1", text])) };
        Name(escaped.into(), PhantomData)
    }

    /// The name with our prefix put before it, for the objects that every namespace of the super cluster has already.
    pub fn reserved(&self) -> Name<Super> {
        Name(format!("{}{}", keys::RESERVED_NAME_PREFIX, self.as_str()).into(), PhantomData)
    }
}

impl Name<Super> {
    /// The name in the tenant of what is called so in a super namespace by [`Name::same`]; `None` where a hash stands in its place, or it is no name.
    pub fn unescaped(text: &str) -> Option<Name<Tenant>> {
        let Some(rest) = text.strip_prefix(keys::RESERVED_NAME_PREFIX) else { return Name::parse(text).ok() };
        Name::parse(&format!("{}{}", keys::RESERVED_NAME_PREFIX, rest.strip_prefix("e.")?)).ok()
    }

    /// The name of the super namespace that stands for a tenant namespace, as an object's name.
    pub fn of_namespace(tenant: &TenantId, namespace: &Name<Tenant>) -> Self {
        Self(tenant.namespace(&Namespace(namespace.0.clone(), PhantomData)).0, PhantomData)
    }
}

/// Who a tenant is: the UID of its VirtualCluster, with the readable name for hints.
///
/// The 26-character id is SHA-256 over the length-prefixed fields (`vc-tenant-v1`, UID), cut to 128 bits, in lower-case base32.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TenantId {
    uid: Uid,
    id: Arc<str>,
    hint: Arc<str>,
}

impl TenantId {
    /// Made from the VirtualCluster's UID and its name; the name is only a hint for readers.
    pub fn new(uid: Uid, virtual_cluster: &str) -> Self {
        let id = hash26(&["vc-tenant-v1", &uid.to_string()]);
        Self { uid, id: id.into(), hint: virtual_cluster.into() }
    }

    /// The name of the VirtualCluster, for readers; others may have the same.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// The UID of the VirtualCluster.
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// The 26 characters that stand in labels and in the writer's name.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The name of the super namespace of a tenant's namespace: `vc-<hint>-<hash>`, at most 50 characters.
    ///
    /// *Guarantees*: injective over (VirtualCluster UID, tenant namespace), stable for ever; see the test vectors.
    pub fn namespace(&self, namespace: &Namespace<Tenant>) -> Namespace<Super> {
        let hash = Self::namespace_hash(self.uid, namespace.as_str());
        let readable = format!("{}-{}", self.hint, namespace.as_str());
        let hint: String = readable.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').take(20).collect();
        let hint = hint.trim_matches('-');
        let name = if hint.is_empty() { format!("vc-{hash}") } else { format!("vc-{hint}-{hash}") };
        Namespace(name.into(), PhantomData)
    }

    /// Whether a super namespace of this name is that of a tenant's namespace, whatever the readable part of it says.
    pub fn is_namespace_of(tenant: Uid, namespace: &str, name: &str) -> bool {
        let rest = name.strip_prefix("vc-").unwrap_or_default();
        let hash = rest.rsplit_once('-').map_or(rest, |(_, hash)| hash);
        !rest.is_empty() && hash == Self::namespace_hash(tenant, namespace)
    }

    fn namespace_hash(tenant: Uid, namespace: &str) -> String {
        hash26(&["vc-namespace-v1", &tenant.to_string(), namespace])
    }

    /// The name of the tenant's writer, a ServiceAccount in [`keys::WRITERS_NAMESPACE`].
    pub fn writer(&self) -> String {
        format!("w-{}", self.id)
    }

    /// The name of the Secret with the tokens of one of the tenant's Pods.
    pub fn token_secret(&self, pod: Uid) -> Name<Super> {
        let hash = hash26(&["vc-token-v1", &self.uid.to_string(), &pod.to_string()]);
        Name(format!("{}{hash}", keys::TOKEN_SECRET_PREFIX).into(), PhantomData)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// SHA-256 over length-prefixed fields, cut to 128 bits, RFC 4648 base32 in lower case without padding: 26 characters.
pub fn hash26(fields: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field.as_bytes());
    }
    let digest = hasher.finalize();
    let cut = digest.get(..16).unwrap_or_default();
    data_encoding::BASE32_NOPAD.encode(cut).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(uid: &str, name: &str) -> TenantId {
        TenantId::new(Uid::parse(uid).unwrap(), name)
    }

    fn ns(text: &str) -> Namespace<Tenant> {
        Namespace::parse(text).unwrap()
    }

    fn name(text: &str) -> Name<Tenant> {
        Name::parse(text).unwrap()
    }

    #[test]
    fn published_vectors_hold() {
        let acme = tenant("d64ea0c0-91f8-46f5-8643-c0cab32ab0cd", "acme");
        let pod = Uid::parse("00000000-0000-4000-8000-000000000001").unwrap();
        let vectors = [
            acme.as_str().to_owned(),
            acme.namespace(&ns("default")).to_string(),
            acme.namespace(&ns("kube-system")).to_string(),
            acme.namespace(&ns(&"a".repeat(63))).to_string(),
            acme.writer(),
            acme.token_secret(pod).to_string(),
            name("vc.mine").same().to_string(),
            name("kube-root-ca.crt").reserved().to_string(),
        ];
        insta::assert_json_snapshot!("name_vectors", vectors);
    }

    #[test]
    fn a_super_namespace_is_known_by_its_hash_alone() {
        let uid = Uid::parse("d64ea0c0-91f8-46f5-8643-c0cab32ab0cd").unwrap();
        for hint in ["", "acme", "a-b"] {
            let name = TenantId::new(uid, hint).namespace(&ns("default"));
            assert!(TenantId::is_namespace_of(uid, "default", name.as_str()), "{name}");
            assert!(!TenantId::is_namespace_of(uid, "other", name.as_str()), "{name}");
            assert!(!TenantId::is_namespace_of(Uid::from_bits(1), "default", name.as_str()), "{name}");
        }
        for name in ["", "vc-", "default", "kube-system"] {
            assert!(!TenantId::is_namespace_of(uid, "default", name), "{name}");
        }
    }

    #[test]
    fn names_that_end_differently_stay_apart() {
        let acme = tenant("d64ea0c0-91f8-46f5-8643-c0cab32ab0cd", "acme");
        let stem = "n".repeat(62);
        assert_ne!(acme.namespace(&ns(&format!("{stem}a"))), acme.namespace(&ns(&format!("{stem}b"))));
    }

    #[test]
    fn hyphens_between_tenant_and_namespace_do_not_alias() {
        let uid = "d64ea0c0-91f8-46f5-8643-c0cab32ab0cd";
        assert_ne!(tenant(uid, "a").namespace(&ns("b-c")), tenant(&uid.replace("d6", "d7"), "a-b").namespace(&ns("c")));
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for bad in ["", "a/b", "..", "%2f", "A", "a_b", "a\0", "-a", "a-", ".a", "a..b", &"a".repeat(254), "\u{202e}a"] {
            assert!(Name::<Tenant>::parse(bad).is_err(), "{bad:?}");
            assert!(Namespace::<Tenant>::parse(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "",
            "a,b=c",
            "00000000-0000-4000-8000-00000000000g",
            "00000000000040008000000000000001",
            "+0000000-0000-4000-8000-000000000001",
        ] {
            assert!(Uid::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn object_names_are_injective(a in "(vc\\.)?(e\\.|h\\.|token\\.)?[a-z0-9]{1,12}", b in "(vc\\.)?(e\\.|h\\.|token\\.)?[a-z0-9]{1,12}") {
            let (a, b) = (name(&a), name(&b));
            prop_assert_eq!(a == b, a.same() == b.same());
            prop_assert!(Name::unescaped(a.same().as_str()).is_none_or(|back| back == a));
            prop_assert!(Name::<Tenant>::parse(a.same().as_str()).is_ok());
            prop_assert!(!a.same().as_str().starts_with("vc.token.") && a.same().as_str() != "vc.kube-root-ca.crt");
        }

        #[test]
        fn namespaces_are_injective_and_short(u in 0u128..4, v in 0u128..4, a in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", b in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
            let left = TenantId::new(Uid(u), "t").namespace(&ns(&a));
            let right = TenantId::new(Uid(v), "t").namespace(&ns(&b));
            prop_assert_eq!((u, &a) == (v, &b), left == right);
            prop_assert!(left.as_str().len() <= 50 && is_label(left.as_str()));
        }

        #[test]
        fn uids_print_as_they_were_read(value: u128) {
            let text = Uid(value).to_string();
            prop_assert_eq!(Uid::parse(&text).unwrap(), Uid(value));
        }
    }
}
