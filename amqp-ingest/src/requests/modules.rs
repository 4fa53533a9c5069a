//! Starting and stopping a family, which KAZOO knows as a module of Blackhole's.

use blackhole_common::{
    catalogue::Catalogue,
    wire::{FamilyReply, FamilyRequest},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Desk, Reply, envelope, gather::Gathered};
use crate::{
    error::IngestError,
    metrics::{RequestKind, RequestOutcome},
};

/// The exchange and the routing key of the request.
pub(super) const EXCHANGE: &str = "kapps";
/// See [`EXCHANGE`].
pub(super) const KEY: &str = "ws.module_req";

/// What names of Blackhole's modules begin with.
const PREFIXES: [&str; 2] = ["bh_", "blackhole_"];
/// All edges' answers take so many bytes at most.
const MOST_BYTES: usize = 1 << 20;

#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(rename = "Module")]
    module: String,
    #[serde(rename = "Action")]
    action: Action,
    /// As in KAZOO's Blackhole, what is not said is yes.
    #[serde(rename = "Persist", default = "yes", deserialize_with = "boolean")]
    persist: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Start,
    Stop,
}

/// The answer's own members.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
struct Done {
    persisted: bool,
    /// Whether the family serves now because of this request.
    started: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn yes() -> bool {
    true
}

/// KAZOO takes the words for it too.
fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "Persist is true or false")]
    enum Said {
        Plainly(bool),
        InWords(Word),
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        True,
        False,
    }
    Ok(match Option::<Said>::deserialize(deserializer)? {
        None | Some(Said::Plainly(true) | Said::InWords(Word::True)) => true,
        Some(Said::Plainly(false) | Said::InWords(Word::False)) => false,
    })
}

/// The family that KAZOO calls `module`.
fn family<'c>(catalogue: &'c Catalogue, module: &str) -> Option<&'c str> {
    let names = || catalogue.families().iter().map(|family| family.name.as_str());
    let found = |name: &str| names().find(|own| *own == name);
    found(module).or_else(|| PREFIXES.iter().find_map(|prefix| found(module.strip_prefix(prefix)?)))
}

impl Desk {
    /// Does it on all edges, and says what was done.
    ///
    /// # Errors
    /// When NATS is away.
    pub(super) async fn switch(&self, body: &[u8]) -> Result<Option<Reply>, IngestError> {
        let (envelope, wanted) = match envelope::read::<Wanted>(body, "module_req") {
            Ok(read) => read,
            Err(reason) => {
                self.drop_malformed(RequestKind::Module, &reason);
                return Ok(None);
            }
        };
        let (outcome, done) = self.switch_family(&wanted).await?;
        self.metrics.requests(RequestKind::Module, outcome).inc();
        Ok(self.reply("module_resp", &envelope, &done))
    }

    async fn switch_family(&self, wanted: &Wanted) -> Result<(RequestOutcome, Done), IngestError> {
        let Some(family) = family(&self.catalogue, &wanted.module) else {
            let known: Vec<&str> = self.catalogue.families().iter().map(|own| own.name.as_str()).collect();
            let error = format!("module doesn't exist: there are {}", known.join(", "));
            return Ok((
                RequestOutcome::Refused,
                Done { persisted: false, started: false, error: Some(error) },
            ));
        };
        let running = wanted.action == Action::Start;
        let request = FamilyRequest { family: family.to_owned(), running };
        // At once: an edge that gets it both ways does it once, and one that is silent gets it from the bucket.
        let (stored, asked) = tokio::join!(
            async {
                match wanted.persist {
                    true => self.stopped.store(family, running).await.map(|()| true),
                    false => Ok(false),
                }
            },
            self.asker.ask::<FamilyReply>(self.subjects.families(), &request, MOST_BYTES),
        );
        let (persisted, mut errors) = match stored {
            Ok(persisted) => (persisted, Vec::new()),
            Err(error) => (false, vec![format!("it is not persisted: {error}")]),
        };
        let (outcome, switched) = self.told(family, running, &asked?, &mut errors);
        tracing::info!(family, running, persisted, errors = errors.join("; "), "KAZOO switched a family");
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        let outcome = match (&error, outcome) {
            (Some(_), RequestOutcome::Done) => RequestOutcome::Refused,
            (_, outcome) => outcome,
        };
        Ok((outcome, Done { persisted, started: running && switched, error }))
    }

    /// What the edges said, and whether one of them has done it.
    fn told(
        &self,
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
        let outcome =
            if gathered.missing.is_empty() { RequestOutcome::Done } else { RequestOutcome::Partial };
        (outcome, gathered.parts.iter().any(|part| part.error.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_a_family_by_any_of_its_names() {
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
            assert_eq!(family(&catalogue, module), expected, "{module}");
        }
    }

    fn read(members: &str) -> Result<(Action, bool), String> {
        let body = format!(r#"{{"Module":"bh_call",{members}}}"#);
        let (_, wanted) = envelope::read::<Wanted>(body.as_bytes(), "module_req")?;
        Ok((wanted.action, wanted.persist))
    }

    #[test]
    fn what_is_not_said_is_persisted() {
        assert_eq!(read(r#""Action":"stop""#), Ok((Action::Stop, true)));
        assert_eq!(read(r#""Action":"start","Persist":null"#), Ok((Action::Start, true)));
        assert_eq!(read(r#""Action":"start","Persist":false"#), Ok((Action::Start, false)));
        assert_eq!(read(r#""Action":"start","Persist":"false""#), Ok((Action::Start, false)));
        assert!(read(r#""Action":"start","Persist":"maybe""#).unwrap_err().contains("true or false"));
        assert!(read(r#""Action":"restart""#).is_err());
        assert!(read(r#""Persist":true"#).is_err());
    }
}
