//! The server speaking TLS itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use systole::TlsSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::Connection;
use crate::fixture::server;

fn key(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys").join(name)
}

#[tokio::test]
async fn requests_come_over_tls_and_plain_text_does_not() {
    let setup = server().with(|settings| {
        settings.tls = Some(TlsSettings { cert: key("tls.cert.pem"), key: key("tls.key.pem") });
        settings.http.header_timeout = Duration::from_millis(500);
    });
    let server = setup.start().await;
    assert!(server.server.url().starts_with("https://"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(key("tls.cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("alive"), "{answer}");

    let mut plain = Connection::open(server.address).await;
    plain.send(b"GET /health HTTP/1.1\r\n\r\n").await;
    assert!(plain.answer().await.is_none());
    let mut silent = Connection::open(server.address).await;
    assert!(silent.is_closed_within(Duration::from_secs(5)).await);
}
