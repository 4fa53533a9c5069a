//! Views: which member of an event frame contains the event's body.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which member contains the event's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// `args`: the AMQP body as published.
    Args,
    /// `data`: the body normalized, as KAZOO 4.3 and 5 send it.
    Data,
    /// Both members.
    Both,
}

impl FromStr for View {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "args" => Ok(View::Args),
            "data" => Ok(View::Data),
            "both" => Ok(View::Both),
            _ => Err("view is one of args, data and both".to_owned()),
        }
    }
}
