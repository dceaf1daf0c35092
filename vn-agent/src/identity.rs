//! Who is calling: the one URI in the verified client certificate, and nothing else in it.
//!
//! *Guarantees*: reads what TLS has verified against the agent CA; never decides on a subject, a DNS name or the issuer. A certificate
//! that names nobody, several, or somebody in a form that is not ours names nobody.

use std::fmt;

use common::{NameError, Uid};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a URI of ours begins with.
const SCHEME: &str = "vc://";

/// What follows the UID in a certificate for metrics alone.
const METRICS: &str = "/metrics";

/// A caller, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The UID of its `VirtualCluster`.
    pub tenant: Uid,
    /// What the certificate is for.
    pub scope: Scope,
}

/// What a client certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All routes: the tenant's API server.
    Everything,
    /// Metrics and stats alone: the tenant's metrics-server.
    Metrics,
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate or its names cannot be read.
    #[error("the client certificate cannot be read")]
    Unreadable,
    /// It has no URI among its names.
    #[error("the client certificate has no URI vc://<VirtualCluster UID> among its names")]
    Absent,
    /// It has more than one URI.
    #[error("the client certificate has more than one URI among its names")]
    Several,
    /// Its URI is of another form.
    #[error("the URI of the client certificate is not of the form vc://<VirtualCluster UID> or vc://<VirtualCluster UID>/metrics")]
    Foreign,
    /// Its URI is of our form and holds no UID.
    #[error("the URI of the client certificate holds no UID")]
    Uid(#[source] NameError),
}

impl Caller {
    /// Reads the caller off a leaf certificate that TLS has verified, DER.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
        if !rest.is_empty() {
            return Err(IdentityError::Unreadable);
        }
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?.ok_or(IdentityError::Absent)?;
        let mut uris = Vec::new();
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::Invalid(..) => return Err(IdentityError::Unreadable),
                // Beside the one URI a certificate may name hosts; they mean nothing here.
                GeneralName::OtherName(..)
                | GeneralName::RFC822Name(_)
                | GeneralName::DNSName(_)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RegisteredID(_) => {}
            }
        }
        Self::of_uris(&uris)
    }

    /// Reads the caller off all URIs of a certificate.
    pub fn of_uris(uris: &[&str]) -> Result<Self, IdentityError> {
        let [uri] = uris else {
            return Err(if uris.is_empty() { IdentityError::Absent } else { IdentityError::Several });
        };
        let name = uri.strip_prefix(SCHEME).ok_or(IdentityError::Foreign)?;
        let (uid, scope) = match name.strip_suffix(METRICS) {
            Some(uid) => (uid, Scope::Metrics),
            None => (name, Scope::Everything),
        };
        if uid.contains('/') {
            return Err(IdentityError::Foreign);
        }
        Ok(Self { tenant: Uid::parse(uid).map_err(IdentityError::Uid)?, scope })
    }
}

/// The serial number of a certificate, in hexadecimal as [`serial_number`] has it; nothing if the certificate cannot be read.
pub fn serial(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    serial_number(&certificate.raw_serial_as_string())
}

/// A serial number as people write it, in one form: in lower case, without colons and leading zeros. Nothing if it is none.
pub fn serial_number(text: &str) -> Option<String> {
    let text = text.trim().trim_start_matches("serial=").replace(':', "");
    let digits = text.trim_start_matches('0');
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| digits.to_ascii_lowercase())
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.scope {
            Scope::Everything => "",
            Scope::Metrics => METRICS,
        };
        write!(f, "{SCHEME}{}{end}", self.tenant)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "d64ea0c0-91f8-46f5-8643-c0cab32ab0cd";

    #[test]
    fn one_uri_of_our_form_names_a_tenant_and_a_scope() {
        let tenant = Uid::parse(UID).unwrap();
        assert_eq!(Caller::of_uris(&[&format!("vc://{UID}")]), Ok(Caller { tenant, scope: Scope::Everything }));
        assert_eq!(Caller::of_uris(&[&format!("vc://{UID}/metrics")]), Ok(Caller { tenant, scope: Scope::Metrics }));
    }

    #[test]
    fn s54_anything_else_names_nobody() {
        let ours = format!("vc://{UID}");
        assert_eq!(Caller::of_uris(&[]), Err(IdentityError::Absent));
        assert_eq!(Caller::of_uris(&[&ours, &ours]), Err(IdentityError::Several));
        assert_eq!(Caller::of_uris(&[&ours, "spiffe://x/y"]), Err(IdentityError::Several));
        let foreign = [
            format!("VC://{UID}"),
            format!("spiffe://{UID}"),
            format!("vc:{UID}"),
            format!("vc://{UID}/"),
            format!("vc://{UID}/metrics/metrics"),
            format!("vc://a/{UID}"),
            format!("vc://{UID}/Metrics"),
            format!(" vc://{UID}"),
        ];
        for uri in foreign {
            assert_eq!(Caller::of_uris(&[&uri]), Err(IdentityError::Foreign), "{uri}");
        }
        for uri in ["vc://", "vc:///metrics", &format!("vc://{}", UID.to_uppercase()), &format!("vc://{UID}?x"), &format!("vc://{UID}\0")] {
            assert!(Caller::of_uris(&[uri]).is_err(), "{uri}");
        }
        assert_eq!(Caller::of_certificate(b"no certificate"), Err(IdentityError::Unreadable));
    }

    #[test]
    fn a_serial_number_is_the_same_however_it_is_written() {
        for text in ["0a1b2c", "A1B2C", "0A:1B:2C", " 0a1b2c\n", "serial=0A1B2C"] {
            assert_eq!(serial_number(text).as_deref(), Some("a1b2c"), "{text}");
        }
        for text in ["", "0", "00:00", "x", "a b", "-1"] {
            assert_eq!(serial_number(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_uri_that_is_accepted_is_printed_as_it_was(uri in "(vc://)?[0-9a-f-]{0,37}(/metrics)?") {
            if let Ok(caller) = Caller::of_uris(&[&uri]) {
                prop_assert_eq!(caller.to_string(), uri);
            }
        }

        #[test]
        fn bytes_of_any_kind_are_survived(bytes: Vec<u8>) {
            prop_assert!(Caller::of_certificate(&bytes).is_err());
        }
    }
}
