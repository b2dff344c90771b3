//! TLS from a certificate chain and a key in PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::StartFault;
use crate::settings::TlsSettings;

pub(super) fn acceptor(settings: &TlsSettings) -> Result<TlsAcceptor, StartFault> {
    let chain = CertificateDer::pem_file_iter(&settings.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|fault| unreadable("tls.cert", &settings.cert, &fault))?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .map_err(|fault| unreadable("tls.key", &settings.key, &fault))?;
    let wrong = |fault: rustls::Error| StartFault::Setting { name: "tls.cert", reason: fault.to_string() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn unreadable(name: &'static str, path: &Path, fault: &rustls::pki_types::pem::Error) -> StartFault {
    StartFault::Setting { name, reason: format!("cannot read {}: {fault}", path.display()) }
}
