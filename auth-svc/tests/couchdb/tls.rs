//! CouchDB behind TLS.

use std::{path::PathBuf, sync::Arc};

use blackhole_couchdb::kazoo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{Sources, config};

/// A proxy with this certificate in front of a server. Returns its port.
async fn proxy(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>, server: &str) -> u16 {
    let chain = vec![CertificateDer::from_pem_slice(certificate.cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificate.signing_key.serialize_pem().as_bytes()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                // A client that does not trust the certificate goes away.
                let Ok(mut inside) = acceptor.accept(stream).await else { return };
                let mut outside = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn only_a_certificate_of_the_ca_file_is_trusted() {
    let server = kazoo::start().await;
    let certificate = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (right, wrong) = (certificate(), certificate());
    let port = proxy(&right, &server.url()).await;
    let file = |name: &str, pem: &str| {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("couchdb-{name}.pem"));
        std::fs::write(&file, pem).unwrap();
        file
    };
    let mut config = config(&format!("https://localhost:{port}"));
    config.ca_file = Some(file("right", &right.cert.pem()));
    let sources = Sources::with(&config).await;
    assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    for ca_file in [Some(file("wrong", &wrong.cert.pem())), None] {
        config.ca_file = ca_file;
        let error = crate::load(&config).await.unwrap_err();
        assert!(error.contains("invalid peer certificate"), "{error}");
    }
    config.ca_file = Some(file("empty", "no certificate"));
    assert!(crate::load(&config).await.unwrap_err().contains("couchdb-empty.pem: contains no certificate"));
}
