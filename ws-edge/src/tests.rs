//! Tests of several modules together.

mod contract;
mod isolation;
