//! The per-core loop: the only place where all layers meet. Start reading at `turn.rs`.

pub mod exchange;
pub mod io;
pub mod mem;
