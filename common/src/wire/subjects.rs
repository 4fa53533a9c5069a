//! The subjects, streams and buckets.

/// The subjects and other names below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// The subjects below `prefix` (`nats.prefix`).
    pub fn new(prefix: &str) -> Subjects {
        Subjects { prefix: prefix.to_owned() }
    }

    /// `<prefix>.ingest`, followed by tenant and routing key: amqp-ingest publishes here, and the stream stores it.
    pub fn ingest(&self) -> String {
        format!("{}.ingest", self.prefix)
    }

    /// `<prefix>.event`, followed by tenant and routing key: the stream republishes stored events here, for
    /// subscribers.
    pub fn event(&self) -> String {
        format!("{}.event", self.prefix)
    }

    /// auth-svc answers each [`AuthRequest`](super::AuthRequest) here with an [`AuthReply`](super::AuthReply), both JSON.
    pub fn auth_check(&self) -> String {
        format!("{}.auth.check", self.prefix)
    }

    /// auth-svc answers each [`NumberRequest`](super::NumberRequest) here with a [`NumberReply`](super::NumberReply), both JSON.
    pub fn auth_number(&self) -> String {
        format!("{}.auth.number", self.prefix)
    }

    /// auth-svc publishes an [`AuthChanged`](super::AuthChanged) here when its sources have changed.
    pub fn auth_changed(&self) -> String {
        format!("{}.auth.changed", self.prefix)
    }

    /// Every edge answers a [`SessionsRequest`](super::SessionsRequest) here with one or more [`SessionsReply`](super::SessionsReply)s, JSON. There is no
    /// queue group, so the caller has to gather the replies.
    pub fn sessions(&self) -> String {
        format!("{}.sessions", self.prefix)
    }

    /// Every edge publishes an [`EdgeHeartbeat`](super::EdgeHeartbeat) here, so that callers know from which edges to expect a reply.
    pub fn edges(&self) -> String {
        format!("{}.edges", self.prefix)
    }

    /// Every edge answers a [`FamilyRequest`](super::FamilyRequest) here with a [`FamilyReply`](super::FamilyReply), JSON. There is no queue group.
    pub fn families(&self) -> String {
        format!("{}.families", self.prefix)
    }

    /// The key-value bucket of persistently stopped families. Its keys are the families' names.
    pub fn stopped_families(&self) -> String {
        format!("{}_STOPPED_FAMILIES", self.stream())
    }

    /// The key-value bucket in which auth-svc remembers which account has which realm.
    pub fn realms(&self) -> String {
        format!("{}_REALMS", self.stream())
    }

    /// `<prefix>.state`, followed by tenant, family and a digest of the thing: the last event of each living thing, one
    /// message per subject. [`Subjects::state_progress`] is below it, too.
    pub fn state(&self) -> String {
        format!("{}.state", self.prefix)
    }

    /// How far the kept events are: a [`StateProgress`](super::StateProgress), JSON.
    pub fn state_progress(&self) -> String {
        format!("{}.state.progress", self.prefix)
    }

    /// The name of the stream of kept events.
    pub fn state_stream(&self) -> String {
        format!("{}_STATE", self.stream())
    }

    /// One amqp-ingest of a queue group answers a [`TargetedRequest`](super::TargetedRequest) here with a [`TargetedReply`](super::TargetedReply), JSON.
    pub fn targeted(&self) -> String {
        format!("{}.targeted", self.prefix)
    }

    /// The stream's name: `BLACKHOLE_V1` for the prefix `blackhole.v1`.
    pub fn stream(&self) -> String {
        self.prefix.replace('.', "_").to_ascii_uppercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_derived_from_the_prefix() {
        let subjects = Subjects::new("blackhole.v1");
        assert_eq!(subjects.ingest(), "blackhole.v1.ingest");
        assert_eq!(subjects.event(), "blackhole.v1.event");
        assert_eq!(subjects.auth_check(), "blackhole.v1.auth.check");
        assert_eq!(subjects.auth_number(), "blackhole.v1.auth.number");
        assert_eq!(subjects.auth_changed(), "blackhole.v1.auth.changed");
        assert_eq!(subjects.sessions(), "blackhole.v1.sessions");
        assert_eq!(subjects.edges(), "blackhole.v1.edges");
        assert_eq!(subjects.families(), "blackhole.v1.families");
        assert_eq!(subjects.targeted(), "blackhole.v1.targeted");
        assert_eq!(subjects.stream(), "BLACKHOLE_V1");
        assert_eq!(subjects.stopped_families(), "BLACKHOLE_V1_STOPPED_FAMILIES");
        assert_eq!(subjects.realms(), "BLACKHOLE_V1_REALMS");
        assert_eq!(subjects.state(), "blackhole.v1.state");
        assert_eq!(subjects.state_progress(), "blackhole.v1.state.progress");
        assert_eq!(subjects.state_stream(), "BLACKHOLE_V1_STATE");
    }
}
