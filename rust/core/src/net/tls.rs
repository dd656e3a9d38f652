//! The TLS client configuration.
//!
//! Invariant: verified by default; the one way around is `insecure`, asked for by that name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::{Error, ErrorKind, Result};
use crate::net::TlsSettings;

/// Build the configuration once per side.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| usage(format!("TLS could not be set up: {error}")))?;
    let builder = if settings.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        builder.with_root_certificates(roots(settings.ca.as_deref())?)
    };
    let config = match (&settings.cert, &settings.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(key)
                // The parser's error quotes what it could not read: that may be the key.
                .map_err(|_| usage("the client key is no PEM private key".to_owned()))?;
            builder
                .with_client_auth_cert(certificates("the client certificate", cert)?, key)
                .map_err(|error| usage(unsuitable(&error)))?
        }
        _ => return Err(usage("a client certificate and its key go together".to_owned())),
    };
    Ok(Arc::new(config))
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

fn unsuitable(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "the client certificate and key do not fit: the key belongs to another certificate".to_owned()
        }
        other => format!("the client certificate and key do not fit: {other}"),
    }
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| usage(format!("{what} is no PEM certificate: {error}")))?;
    if found.is_empty() {
        return Err(usage(format!("{what} holds no PEM certificate")));
    }
    Ok(found)
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    if let Some(pem) = ca {
        for certificate in certificates("the CA file", pem)? {
            store
                .add(certificate)
                .map_err(|error| usage(format!("a certificate of the CA file can't be used: {error}")))?;
        }
        return Ok(store);
    }
    // Some systems ship a root or two that can't be parsed; the others still count.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(usage(
            "the system has no root certificates to trust; name a CA file".to_owned(),
        ));
    }
    Ok(store)
}

/// Accepts any certificate; signatures of the handshake are still checked.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
