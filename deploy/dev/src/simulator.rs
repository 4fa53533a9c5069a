//! A simulated KAZOO: what a cluster publishes while people make calls, join conferences, send faxes and change
//! settings.
//!
//! [`Plan`] generates events and their times from a seed, without I/O. [`Publisher`] publishes them to KAZOO's
//! exchanges, declared exactly as KAZOO declares them.

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
