//! A kernel in plain memory, and what it does to frames.
#![forbid(unsafe_code)]

mod frames;
mod hostile;
mod kernel;
mod model;
