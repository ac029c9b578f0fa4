//! Which member has which inside address: written by the gateway, read by every worker for every packet.
//!
//! One place for each address of the inside network, found by subtraction. A place is a few words under a
//! version number that is odd while they change (a sequence lock): the reader tries again a bounded number of times.
//! There is one writer, the worker that owns the gateway.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use crate::ids::{MemberId, PortId, SessionId};
use crate::wire::ethernet::Mac;

/// Who may use an inside address, and how frames reach him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The card the address was leased to.
    pub mac: Mac,
    /// The port behind which the card is.
    pub port: PortId,
    /// The session of that port.
    pub session: SessionId,
    /// Whose lease it is.
    pub member: MemberId,
}

/// See the module text.
#[derive(Debug)]
pub struct Bindings {
    first: u32,
    places: Box<[Place]>,
}

#[derive(Debug, Default)]
struct Place {
    /// 0: never bound; odd: changing.
    version: AtomicU64,
    /// MAC (48 bits), [`BOUND`].
    mac: AtomicU64,
    port: AtomicU64,
    session: AtomicU64,
    member: AtomicU32,
}

impl Bindings {
    /// For `count` addresses from `first` on, none of them bound. Takes 40 bytes for each.
    pub fn new(first: Ipv4Addr, count: u32) -> Self {
        Self { first: first.into(), places: (0..count).map(|_| Place::default()).collect() }
    }

    /// Whether `address` is one of those that could be bound.
    #[inline]
    pub fn covers(&self, address: Ipv4Addr) -> bool {
        self.place(address).is_some()
    }

    /// Who has `address`; `None` also while that changes without end, which a writer that lives does not do.
    #[inline]
    pub fn of(&self, address: Ipv4Addr) -> Option<Binding> {
        let place = self.place(address)?;
        for _ in 0..READS_MAX {
            let version = place.version.load(Acquire);
            if version == 0 {
                return None;
            }
            let mac = place.mac.load(Relaxed);
            let binding = Binding {
                mac: Mac::from_bits(mac & MAC),
                port: PortId::from_bits(place.port.load(Relaxed)),
                session: SessionId(place.session.load(Relaxed)),
                member: MemberId(place.member.load(Relaxed)),
            };
            // The words above are read before the version is looked at again.
            fence(Acquire);
            if version & 1 == 0 && place.version.load(Relaxed) == version {
                return (mac & BOUND != 0).then_some(binding);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Binds `address`, or with `None` frees it. Only the owner of the gateway may call this. `false` if the address
    /// is not covered.
    pub fn set(&self, address: Ipv4Addr, binding: Option<Binding>) -> bool {
        let Some(place) = self.place(address) else { return false };
        let version = place.version.load(Relaxed);
        place.version.store(version + 1, Relaxed);
        // No word below is seen changed by a reader who sees the old version afterwards.
        fence(Release);
        match binding {
            Some(Binding { mac, port, session, member }) => {
                place.mac.store(mac.to_bits() | BOUND, Relaxed);
                place.port.store(port.bits(), Relaxed);
                place.session.store(session.0, Relaxed);
                place.member.store(member.0, Relaxed);
            }
            None => place.mac.store(0, Relaxed),
        }
        place.version.store(version + 2, Release);
        true
    }

    #[inline]
    fn place(&self, address: Ipv4Addr) -> Option<&Place> {
        self.places.get(u32::from(address).wrapping_sub(self.first) as usize)
    }
}

const MAC: u64 = (1 << 48) - 1;
const BOUND: u64 = 1 << 48;
/// Writing takes some nanoseconds and happens once in a lease's life.
const READS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(n: u8) -> Binding {
        Binding {
            mac: Mac([2, 0, 0, 0, 0, n]),
            port: PortId::new(1, n.into(), 7),
            session: SessionId(u64::from(n) << 40),
            member: MemberId(n.into()),
        }
    }

    #[test]
    fn bound_changed_freed() {
        let bindings = Bindings::new(Ipv4Addr::new(100, 64, 0, 0), 256);
        let address = Ipv4Addr::new(100, 64, 0, 9);
        assert_eq!((bindings.of(address), bindings.covers(address)), (None, true));
        for n in [1, 2] {
            assert!(bindings.set(address, Some(binding(n))));
            assert_eq!(bindings.of(address), Some(binding(n)));
        }
        assert!(bindings.set(address, None));
        assert_eq!(bindings.of(address), None);
        for outside in [Ipv4Addr::new(100, 64, 1, 0), Ipv4Addr::new(100, 63, 255, 255)] {
            assert!(!bindings.set(outside, Some(binding(1))));
            assert_eq!((bindings.of(outside), bindings.covers(outside)), (None, false));
        }
    }

    /// A reader sees the words of one binding, never of two.
    #[test]
    fn words_of_two_bindings_are_never_mixed() {
        let bindings = Bindings::new(Ipv4Addr::UNSPECIFIED, 1);
        bindings.set(Ipv4Addr::UNSPECIFIED, Some(binding(0)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..200_000u32).for_each(|n| {
                    bindings.set(Ipv4Addr::UNSPECIFIED, Some(binding((n % 251) as u8)));
                })
            });
            for _ in 0..200_000 {
                // While the words change without end a reader may give up.
                if let Some(found) = bindings.of(Ipv4Addr::UNSPECIFIED) {
                    assert_eq!(found, binding(found.mac.0[5]));
                }
            }
        });
        assert!(bindings.of(Ipv4Addr::UNSPECIFIED).is_some());
    }
}
