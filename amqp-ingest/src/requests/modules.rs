//! Starts and stops families, which KAZOO calls modules of Blackhole.

use blackhole_common::{
    catalogue::Catalogue,
    wire::{FamilyReply, FamilyRequest},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    envelope::{self, Envelope},
    gather::Gathered,
    handler::{RequestHandler, Response},
};
use crate::{
    error::IngestError,
    metrics::{RequestKind, RequestOutcome},
};

/// The exchange of the request.
pub(super) const EXCHANGE: &str = "kapps";
/// The routing key of the request.
pub(super) const KEY: &str = "ws.module_req";

/// KAZOO's prefixes of module names.
const MODULE_PREFIXES: [&str; 2] = ["bh_", "blackhole_"];
/// Limit of all edges' replies together.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// A request to start or stop a family.
#[derive(Debug, Deserialize)]
pub struct ModuleRequest {
    /// KAZOO's name of the family.
    #[serde(rename = "Module")]
    pub module: String,
    /// What to do.
    #[serde(rename = "Action")]
    pub action: Action,
    /// True by default, as in KAZOO's Blackhole.
    #[serde(rename = "Persist", default = "default_persist", deserialize_with = "deserialize_persist")]
    pub persist: bool,
}

/// What to do with a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
}

/// The members of the response, besides the envelope's.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
struct ModuleResponse {
    persisted: bool,
    /// Whether this request started the family.
    started: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn default_persist() -> bool {
    true
}

/// Accepts booleans and, like KAZOO, the strings `true` and `false`.
fn deserialize_persist<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "Persist is true or false")]
    enum BooleanOrText {
        Boolean(bool),
        Text(TextBoolean),
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum TextBoolean {
        True,
        False,
    }
    Ok(match Option::<BooleanOrText>::deserialize(deserializer)? {
        None | Some(BooleanOrText::Boolean(true) | BooleanOrText::Text(TextBoolean::True)) => true,
        Some(BooleanOrText::Boolean(false) | BooleanOrText::Text(TextBoolean::False)) => false,
    })
}

/// Parses KAZOO's request.
///
/// # Errors
/// Why it is invalid, for the log.
pub fn parse(body: &[u8]) -> Result<(Envelope, ModuleRequest), String> {
    envelope::parse(body, "module_req")
}

/// The family with the module name `module`.
pub fn find_family<'c>(catalogue: &'c Catalogue, module: &str) -> Option<&'c str> {
    let names = || catalogue.families().iter().map(|family| family.name.as_str());
    let found = |name: &str| names().find(|own| *own == name);
    found(module).or_else(|| MODULE_PREFIXES.iter().find_map(|prefix| found(module.strip_prefix(prefix)?)))
}

impl RequestHandler {
    /// Starts or stops a family on all edges.
    ///
    /// # Errors
    /// If NATS is not available.
    pub(super) async fn switch_module(&self, body: &[u8]) -> Result<Option<Response>, IngestError> {
        let (envelope, request) = match parse(body) {
            Ok(parsed) => parsed,
            Err(reason) => {
                self.drop_malformed(RequestKind::Module, &reason);
                return Ok(None);
            }
        };
        let (outcome, response) = self.switch_family(&request).await?;
        self.metrics.requests(RequestKind::Module, outcome).inc();
        Ok(self.respond("module_resp", &envelope, &response))
    }

    async fn switch_family(
        &self,
        request: &ModuleRequest,
    ) -> Result<(RequestOutcome, ModuleResponse), IngestError> {
        let Some(family) = find_family(&self.catalogue, &request.module) else {
            let known: Vec<&str> = self.catalogue.families().iter().map(|own| own.name.as_str()).collect();
            let error = format!("module doesn't exist: there are {}", known.join(", "));
            return Ok((
                RequestOutcome::Refused,
                ModuleResponse { persisted: false, started: false, error: Some(error) },
            ));
        };
        let running = request.action == Action::Start;
        let family_request = FamilyRequest { family: family.to_owned(), running };
        // Concurrently: switching is idempotent, and an edge that misses the request reads the bucket.
        let (stored, gathered) = tokio::join!(
            async {
                match request.persist {
                    true => self.stopped.store(family, running).await.map(|()| true),
                    false => Ok(false),
                }
            },
            self.requester.request::<FamilyReply>(self.subjects.families(), &family_request, MAX_REPLY_BYTES),
        );
        let (persisted, mut errors) = match stored {
            Ok(persisted) => (persisted, Vec::new()),
            Err(error) => (false, vec![format!("it is not persisted: {error}")]),
        };
        let (outcome, switched) = collect_replies(family, running, &gathered?, &mut errors);
        tracing::info!(family, running, persisted, errors = errors.join("; "), "KAZOO switched a family");
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        let outcome = match (&error, outcome) {
            (Some(_), RequestOutcome::Done) => RequestOutcome::Refused,
            (_, outcome) => outcome,
        };
        Ok((outcome, ModuleResponse { persisted, started: running && switched, error }))
    }
}

/// Adds the edges' errors to `errors`. Also returns whether any edge has switched the family.
fn collect_replies(
    family: &str,
    running: bool,
    gathered: &Gathered<FamilyReply>,
    errors: &mut Vec<String>,
) -> (RequestOutcome, bool) {
    let failed = gathered.parts.iter().filter_map(|part| Some((&part.edge, part.error.as_ref()?)));
    errors.extend(failed.map(|(edge, error)| format!("{edge}: {error}")));
    if gathered.parts.is_empty() {
        errors.push("no edge has answered".into());
    }
    if !gathered.missing.is_empty() {
        let missing = gathered.missing.join(" ");
        tracing::warn!(family, running, missing, "edges did not say that they switched a family");
    }
    let outcome = if gathered.missing.is_empty() { RequestOutcome::Done } else { RequestOutcome::Partial };
    (outcome, gathered.parts.iter().any(|part| part.error.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_with_and_without_prefix() {
        let catalogue = Catalogue::load(None).unwrap();
        for (module, expected) in [
            ("call", Some("call")),
            ("bh_call", Some("call")),
            ("blackhole_presence", Some("presence")),
            ("bh_bh_call", None),
            ("Call", None),
            ("bh_", None),
            ("", None),
        ] {
            assert_eq!(find_family(&catalogue, module), expected, "{module}");
        }
    }

    fn parse(members: &str) -> Result<(Action, bool), String> {
        let body = format!(r#"{{"Module":"bh_call",{members}}}"#);
        let (_, request) = envelope::parse::<ModuleRequest>(body.as_bytes(), "module_req")?;
        Ok((request.action, request.persist))
    }

    #[test]
    fn persist_is_a_boolean_or_text_and_defaults_to_true() {
        for (members, expected) in [
            (r#""Action":"stop""#, (Action::Stop, true)),
            (r#""Action":"start","Persist":null"#, (Action::Start, true)),
            (r#""Action":"start","Persist":true"#, (Action::Start, true)),
            (r#""Action":"start","Persist":"true""#, (Action::Start, true)),
            (r#""Action":"start","Persist":false"#, (Action::Start, false)),
            (r#""Action":"start","Persist":"false""#, (Action::Start, false)),
        ] {
            assert_eq!(parse(members), Ok(expected), "{members}");
        }
    }

    #[test]
    fn invalid_requests_are_refused_with_a_reason() {
        for (members, expected) in [
            (r#""Action":"start","Persist":"maybe""#, "Persist is true or false"),
            (r#""Action":"restart""#, "unknown variant `restart`"),
            (r#""Persist":true"#, "missing field `Action`"),
        ] {
            let reason = parse(members).unwrap_err();
            assert!(reason.contains(expected), "{members}: {reason}");
        }
    }

    #[test]
    fn replies_of_edges_are_summarized() {
        let part = |edge: &str, error: Option<&str>| FamilyReply {
            edge: edge.into(),
            error: error.map(str::to_owned),
        };
        let collect = |parts: Vec<FamilyReply>, missing: Vec<String>| {
            let mut errors = vec!["earlier".to_owned()];
            let gathered = Gathered { parts, missing, truncated: false };
            let (outcome, switched) = collect_replies("call", true, &gathered, &mut errors);
            (outcome, switched, errors.join("; "))
        };
        let (done, partial) = (RequestOutcome::Done, RequestOutcome::Partial);
        assert_eq!(collect(vec![part("a", None)], vec![]), (done, true, "earlier".into()));
        assert_eq!(collect(vec![part("a", None)], vec!["b".into()]), (partial, true, "earlier".into()));
        assert_eq!(
            collect(vec![part("a", Some("x")), part("b", Some("y"))], vec![]),
            (done, false, "earlier; a: x; b: y".into())
        );
        assert_eq!(collect(vec![], vec![]), (done, false, "earlier; no edge has answered".into()));
    }
}
