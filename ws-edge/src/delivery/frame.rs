//! Event frames: what they are made of, and building them.

pub mod builder;
pub mod event;
pub mod normalize;
pub mod shown_key;
pub mod template;
