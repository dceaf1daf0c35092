//! An authority: made or loaded, it issues leaves and lists those that are revoked.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SerialNumber,
};
use x509_parser::pem::Pem;

use crate::{Identity, Leaf};

/// How far clocks may differ: a certificate is valid from so long ago.
const SKEW: Duration = Duration::from_mins(5);

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key or a certificate could not be made.
    #[error("could not make {what}")]
    Make {
        /// Which.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// No key of this type is made.
    #[error("no key of this type is made")]
    KeyType,
    /// A name cannot stand in a certificate.
    #[error("the name cannot stand in a certificate")]
    Name(#[source] rcgen::Error),
    /// The authority's files cannot be read.
    #[error("could not read the {what} of the authority")]
    Load {
        /// Certificate or key.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// Something that is to be revoked is no certificate.
    #[error("there is no certificate to revoke")]
    Revoke,
    /// Something that is to be revoked was issued by somebody else: no list of this authority says anything of it.
    #[error("the certificate was not issued by this authority")]
    Foreign,
    /// The certificate is not that of an authority.
    #[error("the certificate is not that of an authority")]
    NoAuthority,
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new one, valid from now for `life`.
    pub fn create(name: &str, life: Duration) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        // It signs leaves and no further authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, life);
        let key = KeyPair::generate().map_err(make("the authority's key"))?;
        // Lists of revoked certificates are told apart by their authority's whole name: the next of the same name must not be taken for this one.
        let id = params.key_identifier(&key).into_iter().take(8).fold(0, |id, byte| id << 8 | u64::from(byte));
        params.distinguished_name.push(DnType::OrganizationalUnitName, format!("{id:016x}"));
        let certificate = params.self_signed(&key).map_err(make("the authority's certificate"))?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), issuer: Issuer::new(params, key) })
    }

    /// Loads one from its files, PEM.
    pub fn load(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let pair = KeyPair::from_pem(key).map_err(|source| PkiError::Load { what: "key", source })?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|_| PkiError::NoAuthority)?;
        let is_ca = pem.parse_x509().is_ok_and(|read| read.is_ca());
        if !is_ca {
            return Err(PkiError::NoAuthority);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, pair).map_err(|source| PkiError::Load { what: "certificate", source })?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), issuer })
    }

    /// Its certificate, PEM: what others trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key, PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Issues a leaf with a key of its own, valid from now for `life`.
    pub fn issue(&self, leaf: &Leaf, life: Duration) -> Result<Identity, PkiError> {
        let mut params = leaf.params()?;
        valid(&mut params, life);
        let key = KeyPair::generate().map_err(make("a key"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make("a certificate"))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The list of revoked leaves, PEM. `number` grows from one list to the next.
    pub fn revoked(&self, certificates: &[&str], number: u64, life: Duration) -> Result<String, PkiError> {
        let now = SystemTime::now();
        let revoked = certificates.iter().map(|pem| {
            Ok(RevokedCertParams {
                serial_number: self.serial(pem)?,
                revocation_time: now.into(),
                reason_code: Some(RevocationReason::CessationOfOperation),
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: (now - SKEW).into(),
            next_update: (now + life).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_, PkiError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(make("the list of revoked certificates"))
    }

    /// The serial number of the first certificate in a text, which this authority has issued.
    fn serial(&self, pem: &str) -> Result<SerialNumber, PkiError> {
        let (leaf, own) = (first(pem)?, first(&self.certificate)?);
        let (leaf, own) = (leaf.parse_x509().map_err(|_| PkiError::Revoke)?, own.parse_x509().map_err(|_| PkiError::NoAuthority)?);
        if leaf.issuer().as_raw() != own.subject().as_raw() {
            return Err(PkiError::Foreign);
        }
        Ok(SerialNumber::from_slice(leaf.raw_serial()))
    }
}

fn first(pem: &str) -> Result<Pem, PkiError> {
    Pem::iter_from_buffer(pem.as_bytes()).flatten().find(|pem| pem.label == "CERTIFICATE").ok_or(PkiError::Revoke)
}

fn valid(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + life).into();
}

pub(crate) fn make(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

#[cfg(test)]
mod tests {
    use common::Uid;
    use x509_parser::extensions::GeneralName;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    /// What a certificate says: common name, names, uses.
    fn read(pem: &str) -> (String, Vec<String>, (bool, bool), bool) {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let name = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
        let names = certificate.subject_alternative_name().unwrap().map(|names| names.value.general_names.clone()).unwrap_or_default();
        let names = names.iter().map(|name| {
            if let GeneralName::URI(uri) = name {
                return format!("uri {uri}");
            }
            if let GeneralName::IPAddress(bytes) = name { format!("ip {bytes:?}") } else { format!("{name:?}") }
        });
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        (name, names.collect(), (usage.client_auth, usage.server_auth), certificate.is_ca())
    }

    #[test]
    fn each_leaf_names_one_and_is_for_one_use() {
        let authority = Authority::create("agents", DAY).unwrap();
        let uid = Uid::from_bits(1);
        let issue = |leaf| read(&authority.issue(&leaf, DAY).unwrap().certificate);
        assert_eq!(issue(Leaf::Tenant(uid)), (uid.to_string(), vec![format!("uri vc://{uid}")], (true, false), false));
        let (_, names, usage, _) = issue(Leaf::TenantMetrics(uid));
        assert_eq!((names, usage), (vec![format!("uri vc://{uid}/metrics")], (true, false)));
        let agent = Leaf::Agent { node: "n1".to_owned(), addresses: vec!["192.0.2.1".parse().unwrap()] };
        assert_eq!(
            issue(agent),
            ("n1".to_owned(), vec!["DNSName(\"n1\")".to_owned(), "ip [192, 0, 2, 1]".to_owned()], (false, true), false)
        );
        let client = issue(Leaf::KubeletClient { node: "n1".to_owned() });
        assert_eq!(client, ("vn-agent:n1".to_owned(), vec![], (true, false), false));
    }

    #[test]
    fn two_authorities_of_one_name_are_told_apart() {
        let names = [(); 2].map(|()| {
            let authority = Authority::create("agents", DAY).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(authority.certificate().as_bytes()).unwrap();
            pem.parse_x509().unwrap().subject().to_string()
        });
        assert!(names[0] != names[1] && names.iter().all(|name| name.contains("CN=agents")), "{names:?}");
    }

    #[test]
    fn an_authority_that_was_saved_issues_as_before() {
        let made = Authority::create("agents", DAY).unwrap();
        let loaded = Authority::load(made.certificate(), made.key()).unwrap();
        let leaf = loaded.issue(&Leaf::Tenant(Uid::from_bits(1)), DAY).unwrap();
        let (_, leaf) = x509_parser::pem::parse_x509_pem(leaf.certificate.as_bytes()).unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(made.certificate().as_bytes()).unwrap();
        assert_eq!(leaf.parse_x509().unwrap().issuer(), ca.parse_x509().unwrap().subject());
    }

    #[test]
    fn a_leaf_is_no_authority() {
        let authority = Authority::create("agents", DAY).unwrap();
        let leaf = authority.issue(&Leaf::Tenant(Uid::from_bits(1)), DAY).unwrap();
        assert!(matches!(Authority::load(&leaf.certificate, &leaf.key), Err(PkiError::NoAuthority)));
    }

    #[test]
    fn what_is_revoked_stands_in_the_list() {
        let authority = Authority::create("agents", DAY).unwrap();
        let leaf = authority.issue(&Leaf::Tenant(Uid::from_bits(1)), DAY).unwrap();
        assert!(authority.revoked(&[&leaf.certificate], 1, DAY).unwrap().starts_with("-----BEGIN X509 CRL-----"));
        assert!(matches!(authority.revoked(&["nothing"], 1, DAY), Err(PkiError::Revoke)));
        let other = Authority::create("agents", DAY).unwrap();
        assert!(matches!(other.revoked(&[&leaf.certificate], 1, DAY), Err(PkiError::Foreign)), "it would revoke nobody");
    }
}
