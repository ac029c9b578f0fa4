//! Anonymous memory straight from the kernel: page-aligned, zeroed, and costing nothing until touched.
//!
//! The kernel may write into it behind our back (buffer rings), so this type hands out addresses
//! inside its bounds and never a reference; who reads must know that the kernel does not write there.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// Private anonymous memory, or a part of a file, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    keep: bool,
}

// SAFETY: it hands out addresses and touches no byte itself; unmapping may be done by any thread.
unsafe impl Send for Mapping {}

// SAFETY: as before.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of zeros, readable and writable. `len` is rounded up to whole pages.
    ///
    /// # Errors
    /// Those of mmap(2), mainly `ENOMEM`; `EINVAL` if `len` is zero.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: no address is asked for, so nothing mapped before is replaced.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, keep: false })
    }

    /// Maps `len` bytes of what `fd` stands for, from `offset` on, shared, readable and writable.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(super) fn shared(fd: BorrowedFd<'_>, offset: libc::off_t, len: usize) -> io::Result<Self> {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: no address is asked for, so nothing mapped before is replaced.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, rights, flags, fd.as_raw_fd(), offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, keep: false })
    }

    /// Address of the `len` bytes from `offset` on, valid as long as the mapping.
    ///
    /// # Panics
    /// If they do not lie inside the mapping.
    #[inline]
    pub(super) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset, "outside the mapping");
        // SAFETY: `offset` lies inside the mapping or one past its end.
        unsafe { self.base.add(offset) }
    }

    /// Leaves the memory mapped for ever: for when the kernel may still write into it.
    pub(super) fn keep_mapped(&mut self) {
        self.keep = true;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.keep {
            // SAFETY: `anonymous` or `shared` mapped exactly this range and nobody else unmaps it; addresses from
            // `at` are used only while the mapping lives.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}
