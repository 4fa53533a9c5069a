//! Paths of the action `api`.

use url::Url;
use ws_edge::kazoo::crossbar::endpoint::checked;

/// An accepted path stays below the configured URL, whatever reads it.
pub(crate) fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(endpoint) = checked(text) else { return false };
    let whole = format!("http://crossbar.example.com:8000/base{endpoint}");
    let url = Url::parse(&whole).unwrap();
    assert_eq!((url.host_str(), url.port()), (Some("crossbar.example.com"), Some(8000)));
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none(), "{url}");
    let path = endpoint.split('?').next().unwrap();
    assert_eq!(url.path(), format!("/base{path}"));
    let uri: hyper::Uri = whole.parse().unwrap();
    assert_eq!(uri.authority().unwrap().as_str(), "crossbar.example.com:8000");
    assert_eq!((uri.path(), uri.query()), (url.path(), endpoint.split_once('?').map(|(_, query)| query)));
    true
}
