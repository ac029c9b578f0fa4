//! What is counted, by whom, and how it is read.
#![forbid(unsafe_code)]

pub mod closes;
pub mod counters;
pub mod drops;
