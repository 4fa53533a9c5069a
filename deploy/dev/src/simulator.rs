//! A simulated KAZOO: what a cluster publishes while people call, meet, fax and change their settings.
//!
//! [`Plan`] is the pure part: from a seed it yields what is published when. [`Publisher`] puts it on a broker, on the
//! exchanges that KAZOO uses, declared as KAZOO declares them.

mod accounts;
mod calls;
mod conferences;
mod documents;
mod plan;
mod presence;
mod publisher;
mod queues;
mod script;
mod voicemail;
mod words;

pub use accounts::{Account, SAMPLE_ACCOUNTS, sample, top_account};
pub use plan::{Plan, Settings};
pub use publisher::{Publisher, declare};
pub use script::Publication;
pub use words::{account_database, encode_word, gregorian, month_database};
