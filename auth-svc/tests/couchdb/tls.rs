//! CouchDB behind TLS.

use std::path::PathBuf;

use blackhole_couchdb::kazoo;

use crate::{Sources, config, proxy::proxy};

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
