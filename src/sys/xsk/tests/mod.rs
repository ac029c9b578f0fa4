//! A kernel in plain memory, and the one that runs here.

mod frames;
mod hostile;
mod kernel;
mod model;
mod netns;
mod redirect;
