//! Thousands of sessions that lose their edge at once.
