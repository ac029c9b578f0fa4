//! Views of headers on bytes. `new_checked` looks at the length once; accessors rely on it.
#![forbid(unsafe_code)]

pub mod ethernet;
