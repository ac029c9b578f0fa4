//! Everything `unsafe`, and every system call the standard library and `nix` do not wrap.
//!
//! Each file wraps one kernel object in safe types; nothing above sees a raw pointer.
