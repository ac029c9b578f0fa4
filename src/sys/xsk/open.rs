//! From options to a socket that is bound: memory, rings, queue.
//!
//! What the kernel or the driver may lack is tried in turn, each time from the beginning: a driver that refuses halfway
//! may have kept chunks of the fill ring it saw.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use super::Xsk;
use super::frames::{Frames, METADATA_BYTES, METADATA_ROOM_BYTES, PIECES_MAX, Rings, Sending};
use super::options::{BusyPoll, Copying, NoXsk, XskFacts, XskOptions};
use super::rings::{ADDRESS_BYTES, CompletionRing, DESCRIPTOR_BYTES, FillRing, RingMemory, RxRing, TxRing};
use crate::sys::umem::Umem;

/// See [`Xsk::open`].
pub(super) fn open(options: &XskOptions) -> Result<Xsk, NoXsk> {
    options.check()?;
    let mut why_copy = "copying was asked for".to_owned();
    if options.copying != Copying::Copy {
        let refused = match bind_any(options, libc::XDP_ZEROCOPY, true)? {
            Ok((ready, multi_buffer)) => return finish(ready, options, multi_buffer, None),
            Err(refused) => refused,
        };
        why_copy = match refused.raw_os_error() {
            Some(libc::EOPNOTSUPP) if options.fits() => "the driver does not offer it".to_owned(),
            Some(libc::EOPNOTSUPP) => "the driver does not offer it for frames longer than a chunk".to_owned(),
            _ => format!("the driver refused it: {refused}"),
        };
        if options.copying == Copying::ZeroCopy {
            // Said of a queue that is not there too, and then whoever moves the bytes.
            let is_odd = refused.raw_os_error() == Some(libc::EINVAL);
            let has_queue = !is_odd || bind_any(options, libc::XDP_COPY, false)?.is_ok();
            return Err(if has_queue { NoXsk::NoZeroCopy(why_copy) } else { NoXsk::NoQueue(options.queue) });
        }
    }
    match bind_any(options, libc::XDP_COPY, options.copying == Copying::Copy)? {
        Ok((ready, multi_buffer)) => finish(ready, options, multi_buffer, Some(why_copy)),
        // Nothing else of what is asked for can be wrong.
        Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => Err(NoXsk::NoQueue(options.queue)),
        Err(refused) => Err(NoXsk::Kernel { what: "bind", source: refused }),
    }
}

/// Binds a socket in `mode`, for frames in several pieces (`true`) or else without; if neither can be done for a reason that
/// another mode may not have, what the kernel said last: the first may only mean the pieces.
fn bind_any(options: &XskOptions, mode: u16, is_first: bool) -> Result<io::Result<(Ready, bool)>, NoXsk> {
    let mut refusal = None;
    // A driver would be content without pieces, and throw away what does not fit into one.
    let whole_only = if mode == libc::XDP_ZEROCOPY && !options.fits() { &[][..] } else { &[false] };
    for multi_buffer in [&[true][..], whole_only].concat() {
        let ready = ready(options, is_first && multi_buffer)?;
        let several = if multi_buffer { libc::XDP_USE_SG } else { 0 };
        match bind(ready.fd.as_fd(), options, mode | several | libc::XDP_USE_NEED_WAKEUP) {
            Ok(()) => return Ok(Ok((ready, multi_buffer))),
            Err(refused) => {
                if let Some(why) = hopeless(&refused, options) {
                    return Err(why);
                }
                refusal = Some(refused);
            }
        }
    }
    Ok(Err(refusal.unwrap_or_else(|| io::ErrorKind::Unsupported.into())))
}

/// A socket with memory and rings, all chunks for reception given to the kernel, not bound.
struct Ready {
    fd: OwnedFd,
    frames: Frames,
    /// The kernel takes metadata.
    metadata: bool,
}

fn ready(options: &XskOptions, is_first: bool) -> Result<Ready, NoXsk> {
    let fd = new_socket()?;
    let (umem, chunks) =
        Umem::new(options.rx_chunks + options.tx_chunks, options.chunk_bytes).map_err(said("memory"))?;
    let metadata = register(fd.as_fd(), &umem, options, is_first)?;
    // A ring for every chunk that may stand in it: see `frames`.
    let (rx, tx) = (options.rx_chunks.next_power_of_two(), options.tx_chunks.next_power_of_two());
    for (ring, entries) in [
        (libc::XDP_UMEM_FILL_RING, rx),
        (libc::XDP_UMEM_COMPLETION_RING, tx),
        (libc::XDP_RX_RING, rx),
        (libc::XDP_TX_RING, tx),
    ] {
        set(fd.as_fd(), libc::SOL_XDP, ring, &entries).map_err(said("rings"))?;
    }
    let rings = map_rings(fd.as_fd(), rx, tx).map_err(said("rings"))?;
    let metadata_room = if metadata { METADATA_ROOM_BYTES } else { 0 };
    let sending = Sending { metadata_room, offload: false, pieces_max: 1 };
    let frames = Frames::new(umem, chunks, options.rx_chunks as usize, rings, sending);
    Ok(Ready { fd, frames, metadata })
}

fn new_socket() -> Result<OwnedFd, NoXsk> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(libc::AF_XDP, kind, 0) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => NoXsk::NoKernelSupport,
            Some(libc::EPERM | libc::EACCES) => NoXsk::NoRight,
            _ => NoXsk::Kernel { what: "socket", source: error },
        });
    }
    // SAFETY: the kernel has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the memory known; whether the kernel takes metadata in front of frames.
fn register(fd: BorrowedFd<'_>, umem: &Umem, options: &XskOptions, is_first: bool) -> Result<bool, NoXsk> {
    let (addr, len) = umem.span();
    let plain =
        libc::xdp_umem_reg { addr, len, chunk_size: options.chunk_bytes, headroom: 0, flags: 0, tx_metadata_len: 0 };
    let metadata = libc::xdp_umem_reg {
        flags: libc::XDP_UMEM_TX_METADATA_LEN,
        tx_metadata_len: u32::try_from(METADATA_BYTES).unwrap_or(0),
        ..plain
    };
    let mut waits = if is_first { 0 } else { UNLOCK_WAITS };
    loop {
        let error = match set(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &metadata) {
            Ok(()) => return Ok(true),
            // Kernels before 6.8 know neither the flag nor the field behind it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                match set(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &plain) {
                    Ok(()) => return Ok(false),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            // What the try before had locked is let go of a little later.
            Some(libc::ENOBUFS) if waits > 0 => {
                waits -= 1;
                std::thread::sleep(UNLOCK_WAIT);
            }
            Some(libc::ENOBUFS) => return Err(memory_lock(len)),
            Some(libc::EPERM) => return Err(NoXsk::NoRight),
            _ => return Err(NoXsk::Kernel { what: "registering memory", source: error }),
        }
    }
}

fn memory_lock(need: u64) -> NoXsk {
    let allowed = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft != nix::sys::resource::RLIM_INFINITY => format!("{} KiB", soft / 1024),
        _ => "less".to_owned(),
    };
    NoXsk::MemoryLock { need_kib: need / 1024, allowed }
}

fn map_rings(fd: BorrowedFd<'_>, rx: u32, tx: u32) -> io::Result<Rings> {
    // SAFETY: integers, for which zeros are values.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    get(fd, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    let wide = |offset: u64| libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::Unsupported));
    let fill_at = wide(libc::XDP_UMEM_PGOFF_FILL_RING)?;
    let completion_at = wide(libc::XDP_UMEM_PGOFF_COMPLETION_RING)?;
    Ok(Rings {
        fill: FillRing::new(RingMemory::of_socket(fd, fill_at, &offsets.fr, rx, ADDRESS_BYTES)?),
        rx: RxRing::new(RingMemory::of_socket(fd, libc::XDP_PGOFF_RX_RING, &offsets.rx, rx, DESCRIPTOR_BYTES)?),
        tx: TxRing::new(RingMemory::of_socket(fd, libc::XDP_PGOFF_TX_RING, &offsets.tx, tx, DESCRIPTOR_BYTES)?),
        completion: CompletionRing::new(RingMemory::of_socket(fd, completion_at, &offsets.cr, tx, ADDRESS_BYTES)?),
    })
}

fn bind(fd: BorrowedFd<'_>, options: &XskOptions, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::sa_family_t::try_from(libc::AF_XDP).unwrap_or(0),
        sxdp_flags: flags,
        sxdp_ifindex: options.ifindex,
        sxdp_queue_id: options.queue,
        sxdp_shared_umem_fd: 0,
    };
    let bytes = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: an address of that family and length, which lives through the call.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), bytes) };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Why no other way of binding can succeed, if so.
fn hopeless(error: &io::Error, options: &XskOptions) -> Option<NoXsk> {
    match error.raw_os_error()? {
        libc::EBUSY => Some(NoXsk::Busy(options.queue)),
        libc::ENODEV => Some(NoXsk::DeviceGone),
        libc::ENETDOWN => Some(NoXsk::DeviceDown),
        libc::EPERM | libc::EACCES => Some(NoXsk::NoRight),
        _ => None,
    }
}

fn finish(ready: Ready, options: &XskOptions, multi_buffer: bool, why_copy: Option<String>) -> Result<Xsk, NoXsk> {
    let Ready { fd, mut frames, metadata } = ready;
    let mut said_options = libc::xdp_options { flags: 0 };
    get(fd.as_fd(), libc::XDP_OPTIONS, &mut said_options).map_err(said("options"))?;
    let zero_copy = said_options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
    let facts = XskFacts {
        zero_copy,
        length_matters: options.copying != Copying::Copy && if zero_copy { !multi_buffer } else { !options.fits() },
        why_copy,
        multi_buffer,
        tx_checksum: metadata && (!zero_copy || options.trust_driver_checksum),
        busy_poll: options.busy_poll.is_some_and(|busy_poll| set_busy_poll(fd.as_fd(), busy_poll).is_ok()),
    };
    let pieces_max = match (multi_buffer, zero_copy) {
        (false, _) => 1,
        (true, true) => PIECES_ZERO_COPY_MAX,
        // One less than the kernel takes, whose first part does not always hold a whole chunk.
        (true, false) => PIECES_MAX - 1,
    };
    let metadata_room = if metadata { METADATA_ROOM_BYTES } else { 0 };
    frames.set_sending(Sending { metadata_room, offload: facts.tx_checksum, pieces_max });
    // What a kernel that copies may have under way for us; it works with less, too.
    let bytes = options.tx_chunks.saturating_mul(options.chunk_bytes).saturating_mul(2).min(i32::MAX as u32);
    let _ = set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);
    Ok(Xsk { fd, frames, facts, tx_chunks: options.tx_chunks as usize })
}

fn set_busy_poll(fd: BorrowedFd<'_>, busy_poll: BusyPoll) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1u32)?;
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &busy_poll.micros)?;
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &busy_poll.budget)
}

/// Sets an option; `T` is a structure of the kernel for it.
fn set<T: Plain>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the kernel reads at most `bytes` bytes of the value, which lives through the call and has no padding.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), bytes) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for an option of AF_XDP, all of which fill a structure of the kernel.
///
/// # Errors
/// If the kernel does not say.
pub(super) fn get<T: Plain>(fd: BorrowedFd<'_>, option: i32, into: &mut T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let mut bytes = size;
    // SAFETY: the kernel writes at most `bytes` bytes to `into`, all of whose bit patterns are values, and how many to
    // `bytes`.
    let done = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, std::ptr::from_mut(into).cast(), &raw mut bytes)
    };
    match (done, bytes == size) {
        (0, true) => Ok(()),
        // Older kernels have shorter structures, whose fields stand elsewhere.
        (0, false) => Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel is too old")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Structures of the kernel.
///
/// # Safety
/// They have no padding, and every bit pattern is a value.
pub(super) unsafe trait Plain {}

// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: two integers of 64 bits, four of 32.
unsafe impl Plain for libc::xdp_umem_reg {}
// SAFETY: sixteen integers of 64 bits.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: an integer.
unsafe impl Plain for libc::xdp_options {}
// SAFETY: six integers of 64 bits.
unsafe impl Plain for libc::xdp_statistics {}

fn said(what: &'static str) -> impl Fn(io::Error) -> NoXsk {
    move |source| NoXsk::Kernel { what, source }
}

/// What drivers with zero-copy send of a frame in several pieces; more, and they throw it away.
const PIECES_ZERO_COPY_MAX: usize = 8;
/// Locked memory is given back by a work queue of the kernel, within milliseconds.
const UNLOCK_WAITS: u32 = 20;
const UNLOCK_WAIT: Duration = Duration::from_millis(5);
