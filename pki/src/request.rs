//! The key of a Pod's certificate, and the request that proves that whoever asks has it.

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
};

use crate::authority::{PkiError, make};

/// A new key, and a request for a certificate of it that names nobody: a signer takes from it the key alone.
pub struct StubRequest {
    /// The private key, PEM of PKCS#8.
    pub key: String,
    /// The request, DER of PKCS#10.
    pub request: Vec<u8>,
}

impl std::fmt::Debug for StubRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StubRequest").finish_non_exhaustive()
    }
}

impl StubRequest {
    /// Makes a key of this type, as a Pod names it.
    ///
    /// *Errors*: a type of which none is made: RSA keys cost seconds of CPU, which whoever makes them for others should not give away.
    pub fn new(key_type: &str) -> Result<Self, PkiError> {
        let algorithm = match key_type {
            "ECDSAP256" => &PKCS_ECDSA_P256_SHA256,
            "ECDSAP384" => &PKCS_ECDSA_P384_SHA384,
            "ECDSAP521" => &PKCS_ECDSA_P521_SHA512,
            "ED25519" => &PKCS_ED25519,
            _ => return Err(PkiError::KeyType),
        };
        let key = KeyPair::generate_for(algorithm).map_err(make("a key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(make("a request"))?;
        Ok(Self { key: key.serialize_pem(), request: request.der().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    use super::*;

    #[test]
    fn a_request_has_the_key_and_names_nobody() {
        for key_type in ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"] {
            let made = StubRequest::new(key_type).unwrap();
            let (rest, read) = X509CertificationRequest::from_der(&made.request).unwrap();
            assert!(rest.is_empty());
            assert_eq!(read.certification_request_info.subject.to_string(), "");
            assert!(made.key.starts_with("-----BEGIN PRIVATE KEY-----"), "{key_type}");
            let key = KeyPair::from_pem(&made.key).unwrap();
            assert_eq!(read.certification_request_info.subject_pki.subject_public_key.data, key.public_key_raw(), "{key_type}");
            assert_eq!(format!("{made:?}"), "StubRequest { .. }");
        }
        assert!(matches!(StubRequest::new("RSA4096"), Err(PkiError::KeyType)));
    }
}
