//! What a session may subscribe to: auth-svc's decisions, bindings checked against the catalogue, stopped families.

pub(crate) mod authorizer;
pub mod binding;
pub mod families;
