//! One line on a terminal that tells how far a run has come.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Writes to standard error if that is a terminal; elsewhere it says nothing.
pub(crate) struct Progress {
    last: Option<Mutex<Instant>>,
}

impl Progress {
    /// For a run that begins now.
    pub(crate) fn new() -> Self {
        Self { last: std::io::stderr().is_terminal().then(|| Mutex::new(Instant::now())) }
    }

    /// `done` of `all`; told a few times a second, and at the end.
    pub(crate) fn counted(&self, what: &str, done: usize, all: usize) {
        let Some(last) = &self.last else { return };
        let Ok(mut last) = last.lock() else { return };
        if done == all || last.elapsed() >= Duration::from_millis(200) {
            *last = Instant::now();
            show(&format!("{what}: {done} of {all}"));
        }
    }

    /// Any line.
    pub(crate) fn line(&self, text: &str) {
        if self.last.is_some() {
            show(text);
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        if self.last.is_some() {
            show("");
        }
    }
}

fn show(text: &str) {
    // A terminal that has gone is no reason to stop.
    let _ = write!(std::io::stderr(), "\r{text}\x1b[K").and_then(|()| std::io::stderr().flush());
}
