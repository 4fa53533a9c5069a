//! KAZOO's requests over AMQP.

use std::sync::LazyLock;

use amqp_ingest::requests::{listing, modules};
use blackhole_common::catalogue::Catalogue;

use crate::json::Json;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::load(None).unwrap());

/// Both kinds of requests. What is read is what any other parser reads; an answer can be addressed.
pub(crate) fn run(input: &[u8]) -> bool {
    let (listing, module) = (listing::parse(input), modules::parse(input));
    if let Ok((envelope, request)) = &listing {
        let id = envelope.server_id.as_deref().unwrap();
        assert!((1..=255).contains(&id.len()) && !id.chars().any(char::is_control), "{id:?}");
        assert!(request.account_id.is_some() || request.session_id.is_some());
        if let Some(json @ Json::Object(_)) = Json::parse(input) {
            assert_eq!(request.account_id.as_deref(), json.text("Account-ID"));
            assert_eq!(request.session_id.as_deref(), json.text("Socket-ID"));
        }
    }
    if let Ok((_, request)) = &module
        && let Some(family) = modules::find_family(&CATALOGUE, &request.module)
    {
        assert!(
            request.module.ends_with(family) && CATALOGUE.families().iter().any(|own| own.name == family)
        );
    }
    listing.is_ok() || module.is_ok()
}
