//! Why bindings are refused.

use blackhole_common::subject::SubjectError;
use thiserror::Error;

/// The longest binding, in bytes: the limit of AMQP routing keys.
pub(super) const MAX_BINDING_BYTES: usize = 255;

/// Why a binding is refused; the text is for the client.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BindingError {
    /// No running family has bindings with this first word.
    #[error("no available subscriptions to requested binding")]
    NoFamily,
    /// The family has no binding of this form.
    #[error("invalid format for {family} subscription : {binding}")]
    Format {
        /// The family.
        family: String,
        /// The client's text.
        binding: String,
    },
    /// A parameter's value is not in the catalogue.
    #[error("{parameter} {value} not supported")]
    Value {
        /// The parameter: `event`, `action`, `type`.
        parameter: String,
        /// The client's word.
        value: String,
    },
    /// A parameter's value is not in the form's list; the beginning of the text is the catalogue's.
    #[error("{text} {value}")]
    Unsupported {
        /// The catalogue's text.
        text: String,
        /// The client's word.
        value: String,
    },
    /// A parameter must not be a wildcard; the text is the catalogue's.
    #[error("{0}")]
    Required(String),
    /// The binding is too long.
    #[error("binding is longer than {MAX_BINDING_BYTES} bytes")]
    TooLong,
    /// The events do not say whose they are, and the token may have only its own user's.
    #[error(
        "events of {family} do not say whose they are, and the token may have only those of its own user"
    )]
    NoOwner {
        /// The family.
        family: String,
    },
    /// The binding needs the token's id, which auth-svc did not return.
    #[error("the token has no id of its own, which the requested binding needs")]
    NoTokenId,
    /// The database is not one of the account's, so that no event could match.
    #[error("invalid binding : the database is not one of the account's")]
    OtherDatabase,
    /// The binding needs the account's realm, and it has none.
    #[error("the account has no realm, which the requested binding needs")]
    NoRealm,
    /// It cannot become a subject.
    #[error("invalid binding : {0}")]
    Subject(#[from] SubjectError),
}
