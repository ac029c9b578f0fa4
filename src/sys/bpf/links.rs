//! Links of programs, whoever holds them: what an administrator's tool does with them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{ById, bpf, bpf_fd, link_detach, object_info};

/// Takes the XDP program with this id off its device, if it hangs there on a link, as `bpftool link detach` does; whether
/// there was one. (Indices of devices would not do: each network namespace has its own.)
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn detach(program: u32) -> io::Result<bool> {
    let mut id = 0;
    loop {
        let mut next = ById { id, next_id: 0, open_flags: 0 };
        // SAFETY: the attribute is that of the command and points to nothing.
        match unsafe { bpf(LINK_GET_NEXT_ID, &mut next) } {
            Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(false),
            answered => answered?,
        };
        id = next.next_id;
        // Gone in between, or not to be had: it is not the one.
        let Ok(link) = by_id(id) else { continue };
        // `struct bpf_link_info`: kind, id, program.
        let Ok(info) = object_info::<12>(link.as_fd()) else { continue };
        let word = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        if word(0) == LINK_XDP && word(8) == program {
            link_detach(link.as_fd())?;
            return Ok(true);
        }
    }
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attribute = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: the attribute is that of the command and points to nothing.
    unsafe { bpf_fd(LINK_GET_FD_BY_ID, &mut attribute) }
}

const LINK_GET_FD_BY_ID: i32 = 30;
const LINK_GET_NEXT_ID: i32 = 31;
/// `BPF_LINK_TYPE_XDP`.
const LINK_XDP: u32 = 6;
