//! Control threads.
