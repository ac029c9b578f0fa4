//! Lists over the places of the pool: each place is in at most one list, and leaves it without a search. And the places
//! in the order of when something is due.
#![forbid(unsafe_code)]

use crate::tick::Tick;

/// No place, no list.
const NONE: u32 = u32::MAX;

/// A number of doubly linked lists.
#[derive(Debug)]
pub(super) struct Lists {
    /// First and last of each list.
    ends: Box<[[u32; 2]]>,
    links: Box<[Link]>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    list: u32,
    before: u32,
    after: u32,
}

impl Lists {
    pub(super) fn new(lists: usize, places: usize) -> Self {
        Self {
            ends: vec![[NONE; 2]; lists.max(1)].into(),
            links: vec![Link { list: NONE, before: NONE, after: NONE }; places].into(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Puts `place` in front of `list`, out of any other.
    pub(super) fn push_front(&mut self, list: usize, place: u32) {
        self.remove(place);
        let first = self.ends[list][0];
        self.insert(list, NONE, place, first);
    }

    /// Puts `place` at the end of `list`, out of any other.
    pub(super) fn push_back(&mut self, list: usize, place: u32) {
        self.remove(place);
        let last = self.ends[list][1];
        self.insert(list, last, place, NONE);
    }

    pub(super) fn remove(&mut self, place: u32) {
        let Link { list, before, after } = self.links[place as usize];
        if list == NONE {
            return;
        }
        *self.after_of(list, before) = after;
        *self.before_of(list, after) = before;
        self.links[place as usize].list = NONE;
    }

    pub(super) fn first(&self, list: usize) -> Option<u32> {
        some(self.ends.get(list)?[0])
    }

    pub(super) fn iter(&self, list: usize) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first(list), |place| some(self.links[*place as usize].after))
    }

    fn insert(&mut self, list: usize, before: u32, place: u32, after: u32) {
        let list = u32::try_from(list).unwrap_or(NONE);
        self.links[place as usize] = Link { list, before, after };
        *self.after_of(list, before) = place;
        *self.before_of(list, after) = place;
    }

    fn after_of(&mut self, list: u32, place: u32) -> &mut u32 {
        if place == NONE { &mut self.ends[list as usize][0] } else { &mut self.links[place as usize].after }
    }

    fn before_of(&mut self, list: u32, place: u32) -> &mut u32 {
        if place == NONE { &mut self.ends[list as usize][1] } else { &mut self.links[place as usize].before }
    }
}

fn some(place: u32) -> Option<u32> {
    (place != NONE).then_some(place)
}

/// A binary heap of places that knows where each one stands, so that a date can be moved.
#[derive(Debug)]
pub(super) struct Timers {
    heap: Vec<(Tick, u32)>,
    at: Box<[u32]>,
}

impl Timers {
    pub(super) fn new(places: usize) -> Self {
        Self { heap: Vec::new(), at: vec![NONE; places].into() }
    }

    pub(super) fn set(&mut self, place: u32, due: Tick) {
        let at = match some(self.at[place as usize]) {
            Some(at) => at as usize,
            None => {
                self.heap.push((due, place));
                self.heap.len() - 1
            }
        };
        self.heap[at].0 = due;
        self.settle(at);
    }

    pub(super) fn cancel(&mut self, place: u32) {
        let Some(at) = some(std::mem::replace(&mut self.at[place as usize], NONE)) else { return };
        self.heap.swap_remove(at as usize);
        if (at as usize) < self.heap.len() {
            self.settle(at as usize);
        }
    }

    pub(super) fn next(&self) -> Option<(Tick, u32)> {
        self.heap.first().copied()
    }

    /// Moves what stands at `at` up or down to where it belongs.
    fn settle(&mut self, mut at: usize) {
        let entry = self.heap[at];
        while at > 0 && self.heap[(at - 1) / 2].0 > entry.0 {
            self.set_at(at, self.heap[(at - 1) / 2]);
            at = (at - 1) / 2;
        }
        loop {
            let child = (2 * at + 1..self.heap.len().min(2 * at + 3)).min_by_key(|child| self.heap[*child].0);
            match child {
                Some(child) if self.heap[child].0 < entry.0 => {
                    self.set_at(at, self.heap[child]);
                    at = child;
                }
                _ => break,
            }
        }
        self.set_at(at, entry);
    }

    fn set_at(&mut self, at: usize, entry: (Tick, u32)) {
        self.heap[at] = entry;
        self.at[entry.1 as usize] = u32::try_from(at).unwrap_or(NONE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn timers_are_a_sorted_map(steps in prop::collection::vec((0..40_u32, 0..100_u64, any::<bool>()), 0..300)) {
            let mut timers = Timers::new(40);
            let mut model = std::collections::BTreeMap::new();
            for (place, due, set) in steps {
                if set {
                    timers.set(place, Tick(due));
                    model.insert(place, Tick(due));
                } else {
                    timers.cancel(place);
                    model.remove(&place);
                }
                let first = timers.next();
                prop_assert_eq!(first.map(|(due, _)| due), model.values().min().copied());
                prop_assert!(first.is_none_or(|(due, place)| model.get(&place) == Some(&due)));
            }
            let mut left = Vec::new();
            while let Some((due, place)) = timers.next() {
                timers.cancel(place);
                left.push((due, place));
            }
            prop_assert!(left.is_sorted_by_key(|(due, _)| *due));
            prop_assert_eq!(left.len(), model.len());
        }

        #[test]
        fn lists_are_deques(steps in prop::collection::vec((0..3_usize, 0..20_u32, 0..3), 0..200)) {
            let mut lists = Lists::new(3, 20);
            let mut model = vec![std::collections::VecDeque::new(); 3];
            for (list, place, what) in steps {
                model.iter_mut().for_each(|list| list.retain(|other| *other != place));
                match what {
                    0 => { lists.push_front(list, place); model[list].push_front(place) }
                    1 => { lists.push_back(list, place); model[list].push_back(place) }
                    _ => lists.remove(place),
                }
                for (list, want) in model.iter().enumerate() {
                    prop_assert_eq!(&lists.iter(list).collect::<std::collections::VecDeque<_>>(), want);
                }
            }
        }
    }
}
