//! (module text)
pub mod sha0;
