//! Who gets which events, and what their frames look like.

pub(crate) mod deliver;
pub mod dispatcher;
pub mod family_switch;
pub mod frame;
pub(crate) mod index;
mod live_buffer;
mod pattern_tree;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod watermark;
