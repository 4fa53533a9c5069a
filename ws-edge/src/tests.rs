//! Tests of several modules together.

mod isolation;
