//! Everything that the way of a frame must not do: the script expects each of these to be caught.

use std::hint::black_box;
use std::sync::{Mutex, RwLock};
use std::time::Instant;

use super::Piece;

#[derive(Default)]
pub(crate) struct Forbidden {
    mutex: Mutex<u64>,
    rwlock: RwLock<u64>,
    text: String,
}

impl Piece for Forbidden {
    fn run(&mut self) {
        allocate();
        lock(&self.mutex);
        read_lock(&self.rwlock);
        clock();
        self.text.clear();
        format(&mut self.text);
    }

    fn done(&mut self) -> u64 {
        u64::from(self.text == "7.")
    }
}

fn allocate() {
    drop(black_box(Box::new([7_u64; 5])));
}

/// Nobody else wants it: the price of a lock without a system call.
fn lock(mutex: &Mutex<u64>) {
    *black_box(mutex).lock().unwrap() += 1;
}

fn read_lock(lock: &RwLock<u64>) {
    black_box(*black_box(lock).read().unwrap());
}

fn clock() {
    black_box(Instant::now());
}

/// Into a string that has room: no allocation.
fn format(text: &mut String) {
    use std::fmt::Write as _;
    write!(text, "{}.", black_box(7)).unwrap();
}
