//! Entries by number, and lists through them.
//!
//! Entries lie in chunks, so that growing moves none and no allocation is large; a freed place is used again before the
//! slab grows.
#![forbid(unsafe_code)]

use std::ops::{Index, IndexMut};

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// See the module text.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Box<[T]>>,
    free: Vec<u32>,
    /// Places that were ever used.
    used: u32,
}

impl<T: Default> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), used: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<T>() + self.free.capacity() * size_of::<u32>()
    }

    pub(super) fn insert(&mut self, entry: T) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            if self.used as usize == self.chunks.len() * CHUNK {
                self.chunks.push((0..CHUNK).map(|_| T::default()).collect());
            }
            self.used += 1;
            self.used - 1
        });
        self[number] = entry;
        number
    }

    /// Takes an entry out. The caller knows that it is there.
    pub(super) fn remove(&mut self, number: u32) -> T {
        self.free.push(number);
        std::mem::take(&mut self[number])
    }

    /// One past the highest number that was ever given.
    pub(super) fn end(&self) -> u32 {
        self.used
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

/// Neighbours in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) prev: u32,
    pub(super) next: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { prev: NONE, next: NONE }
    }
}

/// Puts `number` before the first one of the list that begins at `head`.
pub(super) fn link<T: Default>(slab: &mut Slab<T>, head: &mut u32, number: u32, links: impl Fn(&mut T) -> &mut Links) {
    let next = std::mem::replace(head, number);
    *links(&mut slab[number]) = Links { prev: NONE, next };
    if next != NONE {
        links(&mut slab[next]).prev = number;
    }
}

/// Takes `number` out of the list that begins at `head`.
pub(super) fn unlink<T: Default>(
    slab: &mut Slab<T>,
    head: &mut u32,
    number: u32,
    links: impl Fn(&mut T) -> &mut Links,
) {
    let Links { prev, next } = std::mem::take(links(&mut slab[number]));
    if prev == NONE {
        if *head == number {
            *head = next;
        }
    } else {
        links(&mut slab[prev]).next = next;
    }
    if next != NONE {
        links(&mut slab[next]).prev = prev;
    }
}

/// 256 KiB of flows; of a million, the list of chunks fits the first cache.
const CHUNK: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Entry {
        value: u32,
        links: Links,
    }

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::new();
        let numbers: Vec<u32> = (0..3_000).map(|value| slab.insert(Entry { value, ..Entry::default() })).collect();
        assert!(numbers.iter().all(|n| slab[*n].value == *n));
        assert_eq!(slab.remove(7).value, 7);
        assert_eq!((slab.len(), slab.insert(Entry::default()), slab.end()), (2_999, 7, 3_000));
    }

    #[test]
    fn lists() {
        let mut slab = Slab::new();
        let mut head = NONE;
        let numbers: Vec<u32> = (0..5).map(|_| slab.insert(Entry::default())).collect();
        for n in &numbers {
            link(&mut slab, &mut head, *n, |e| &mut e.links);
        }
        let walk = |slab: &Slab<Entry>, head: u32| {
            let (mut found, mut at) = (Vec::new(), head);
            while at != NONE {
                found.push(at);
                at = slab[at].links.next;
            }
            found
        };
        assert_eq!(walk(&slab, head), [4, 3, 2, 1, 0]);
        for (out, left) in [(2, &[4, 3, 1, 0][..]), (4, &[3, 1, 0]), (0, &[3, 1]), (3, &[1]), (1, &[])] {
            unlink(&mut slab, &mut head, out, |e| &mut e.links);
            assert_eq!(walk(&slab, head), left);
        }
    }
}
