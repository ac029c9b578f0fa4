//! An assembler for filters.
//!
//! A [`Program`] is written once, for a machine with an accumulator A and an index register X, and comes out in two
//! forms: classic BPF for socket filters and packet fanout, which needs no rights of its own, and eBPF for tc, whose
//! `LD_ABS` reads packets in the same way. Reading beyond the packet ends either form with 0.
//!
//! Neither clang nor an object file is needed, and addresses and ports stand in the instructions.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

/// Where the packet's bytes begin for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// At the Ethernet header: socket filters, tc.
    Ethernet,
    /// At the IP header: packet fanout.
    Network,
}

/// What the kernel knows beside the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// EtherType.
    Protocol,
    /// To us (0), to all (1), to a group (2), to somebody else (3).
    PacketType,
    /// Whether there was a VLAN tag (1), which the kernel has taken off.
    VlanPresent,
    /// The tag.
    VlanTag,
}

/// How many bytes to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One.
    Byte,
    /// Two.
    Half,
    /// Four.
    Word,
}

/// What to compare A with a number for. Unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A = number.
    Equal,
    /// A ≥ number.
    AtLeast,
    /// A > number.
    Above,
    /// A and the number have a bit in common.
    AnyBit,
}

/// A place in a program to jump to, always forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A = bytes at `at` behind the IP header's begin, plus X if `indexed`.
    Load {
        size: Size,
        at: u16,
        indexed: bool,
    },
    LoadMeta(Meta),
    And(u32),
    ShiftLeft(u32),
    AddX,
    /// X = A.
    ToX,
    JumpIf {
        test: Test,
        number: u32,
        to: Label,
    },
    /// If A = X.
    JumpIfX {
        to: Label,
    },
    Jump {
        to: Label,
    },
    Return(u32),
}

/// See the module text.
#[derive(Clone, Debug, Default)]
pub struct Program {
    ops: Vec<Op>,
    /// By label: number of the operation it stands before.
    labels: Vec<Option<usize>>,
}

impl Program {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next operation is what jumps to `label` go to.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.ops.len());
    }

    /// A = the bytes `at` behind the begin of the IP header.
    pub fn load(&mut self, size: Size, at: u16) {
        self.ops.push(Op::Load { size, at, indexed: false });
    }

    /// The same, X further on.
    pub fn load_indexed(&mut self, size: Size, at: u16) {
        self.ops.push(Op::Load { size, at, indexed: true });
    }

    /// A = what the kernel knows.
    pub fn load_meta(&mut self, meta: Meta) {
        self.ops.push(Op::LoadMeta(meta));
    }

    /// A &= `mask`.
    pub fn and(&mut self, mask: u32) {
        self.ops.push(Op::And(mask));
    }

    /// A <<= `bits`.
    pub fn shift_left(&mut self, bits: u32) {
        self.ops.push(Op::ShiftLeft(bits));
    }

    /// A += X.
    pub fn add_x(&mut self) {
        self.ops.push(Op::AddX);
    }

    /// X = A.
    pub fn to_x(&mut self) {
        self.ops.push(Op::ToX);
    }

    /// Goes to `to` if the test holds.
    pub fn jump_if(&mut self, test: Test, number: u32, to: Label) {
        self.ops.push(Op::JumpIf { test, number, to });
    }

    /// Goes to `to` if A = X.
    pub fn jump_if_x(&mut self, to: Label) {
        self.ops.push(Op::JumpIfX { to });
    }

    /// Goes to `to`.
    pub fn jump(&mut self, to: Label) {
        self.ops.push(Op::Jump { to });
    }

    /// Ends with `value`.
    pub fn ret(&mut self, value: u32) {
        self.ops.push(Op::Return(value));
    }

    /// As classic BPF.
    ///
    /// # Errors
    /// If it is longer than the kernel takes.
    pub fn classic(&self, base: Base) -> io::Result<Classic> {
        // Conditional jumps reach 255 instructions, so each is one over a jump that reaches any.
        let starts = self.starts(|op| match op {
            Op::JumpIf { .. } | Op::JumpIfX { .. } => 2,
            _ => 1,
        });
        let mut code = Vec::new();
        for op in &self.ops {
            let jump = |to: Label, after: usize| {
                let distance = self.target(to, &starts) - after - 1;
                libc::sock_filter { code: 0x05, jt: 0, jf: 0, k: u32::try_from(distance).unwrap_or(u32::MAX) }
            };
            let plain = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
            match *op {
                Op::Load { size, at, indexed } => {
                    let mode = if indexed { 0x40 } else { 0x20 };
                    code.push(plain(mode | size.classic(), base.offset() + u32::from(at)));
                }
                Op::LoadMeta(meta) => code.push(plain(0x20, AD_OFF + meta.classic())),
                Op::And(mask) => code.push(plain(0x54, mask)),
                Op::ShiftLeft(bits) => code.push(plain(0x64, bits)),
                Op::AddX => code.push(plain(0x0c, 0)),
                Op::ToX => code.push(plain(0x07, 0)),
                Op::JumpIf { test, number, to } => {
                    code.push(libc::sock_filter { code: 0x05 | test.bits(), jt: 0, jf: 1, k: number });
                    code.push(jump(to, code.len()));
                }
                Op::JumpIfX { to } => {
                    code.push(libc::sock_filter { code: 0x1d, jt: 0, jf: 1, k: 0 });
                    code.push(jump(to, code.len()));
                }
                Op::Jump { to } => code.push(jump(to, code.len())),
                Op::Return(value) => code.push(plain(0x06, value)),
            }
        }
        if code.len() > CLASSIC_MAX { Err(too_long()) } else { Ok(Classic(code)) }
    }

    /// As eBPF: A is r0, X is r7, the context is r6.
    pub(super) fn extended(&self, base: Base) -> io::Result<Vec<Insn>> {
        let starts = self.starts(|op| match op {
            Op::LoadMeta(Meta::Protocol) | Op::Return(_) => 2,
            _ => 1,
        });
        let mut code = vec![Insn::new(0xbf, 6, 1, 0, 0), Insn::new(0xb7, 7, 0, 0, 0)];
        let prologue = code.len();
        for op in &self.ops {
            let distance = |to: Label, at: usize| {
                i16::try_from(self.target(to, &starts) + prologue - at - 1).map_err(|_| too_long())
            };
            let at = code.len();
            match *op {
                Op::Load { size, at, indexed } => {
                    let mode = if indexed { 0x40 } else { 0x20 };
                    let offset = i32::try_from(base.offset() + u32::from(at)).map_err(|_| too_long())?;
                    let insn = Insn::new(mode | u8::try_from(size.classic()).unwrap_or(0), 0, 0, 0, offset);
                    code.push(if indexed { insn.with_source(7) } else { insn });
                }
                Op::LoadMeta(meta) => {
                    code.push(Insn::new(0x61, 0, 6, meta.extended(), 0));
                    if meta == Meta::Protocol {
                        // Stands there in the order of the wire.
                        code.push(Insn::new(0xdc, 0, 0, 0, 16));
                    }
                }
                Op::And(mask) => code.push(Insn::new(0x54, 0, 0, 0, mask.cast_signed())),
                Op::ShiftLeft(bits) => code.push(Insn::new(0x64, 0, 0, 0, bits.cast_signed())),
                Op::AddX => code.push(Insn::new(0x0c, 0, 7, 0, 0)),
                Op::ToX => code.push(Insn::new(0xbf, 7, 0, 0, 0)),
                // Compares 32 bits: a longer comparison would extend the sign of the number.
                Op::JumpIf { test, number, to } => {
                    let opcode = 0x06 | u8::try_from(test.bits()).unwrap_or(0);
                    code.push(Insn::new(opcode, 0, 0, distance(to, at)?, number.cast_signed()));
                }
                Op::JumpIfX { to } => code.push(Insn::new(0x1e, 0, 7, distance(to, at)?, 0)),
                Op::Jump { to } => code.push(Insn::new(0x05, 0, 0, distance(to, at)?, 0)),
                Op::Return(value) => {
                    code.push(Insn::new(0xb4, 0, 0, 0, value.cast_signed()));
                    code.push(Insn::new(0x95, 0, 0, 0, 0));
                }
            }
        }
        Ok(code)
    }

    /// Number of the instruction each operation begins with, and the number behind the last.
    fn starts(&self, length: impl Fn(&Op) -> usize) -> Vec<usize> {
        let mut at = 0;
        let mut starts = vec![0];
        starts.extend(self.ops.iter().map(|op| {
            at += length(op);
            at
        }));
        starts
    }

    fn target(&self, label: Label, starts: &[usize]) -> usize {
        starts[self.labels[label.0].expect("every label has a place")]
    }
}

pub(super) fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "too many addresses, slices or static mappings for a filter of the kernel",
    )
}

impl Base {
    const fn offset(self) -> u32 {
        match self {
            Base::Ethernet => 14,
            Base::Network => 0,
        }
    }
}

impl Size {
    const fn classic(self) -> u16 {
        match self {
            Size::Word => 0x00,
            Size::Half => 0x08,
            Size::Byte => 0x10,
        }
    }
}

impl Test {
    /// `BPF_JEQ`, `BPF_JGE`, `BPF_JGT`, `BPF_JSET`.
    const fn bits(self) -> u16 {
        match self {
            Test::Equal => 0x10,
            Test::AtLeast => 0x30,
            Test::Above => 0x20,
            Test::AnyBit => 0x40,
        }
    }
}

impl Meta {
    /// `SKF_AD_*`.
    const fn classic(self) -> u32 {
        match self {
            Meta::Protocol => 0,
            Meta::PacketType => 4,
            Meta::VlanTag => 44,
            Meta::VlanPresent => 48,
        }
    }

    /// Offset in `struct __sk_buff`.
    const fn extended(self) -> i16 {
        match self {
            Meta::PacketType => 4,
            Meta::Protocol => 16,
            Meta::VlanPresent => 20,
            Meta::VlanTag => 24,
        }
    }
}

/// A program of classic BPF.
#[derive(Clone, Debug)]
pub struct Classic(Vec<libc::sock_filter>);

impl Classic {
    /// A filter that takes nothing.
    pub fn nothing() -> Self {
        Self(vec![libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }])
    }

    /// Sets it as option of a socket that takes such programs.
    pub(in crate::sys) fn set(&self, socket: RawFd, level: i32, option: i32) -> io::Result<()> {
        let len = u16::try_from(self.0.len()).map_err(|_| too_long())?;
        // The kernel only reads it, whatever the field's type says.
        let program = libc::sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        let bytes = libc::socklen_t::try_from(size_of_val(&program)).map_err(|_| too_long())?;
        // SAFETY: points to a program of `len` instructions; both live through the call, which copies them.
        let done = unsafe { libc::setsockopt(socket, level, option, (&raw const program).cast(), bytes) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// An instruction of eBPF.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u8,
    /// Two, four bits each.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

impl Insn {
    const fn new(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        Self { code, registers, offset, immediate }
    }

    const fn with_source(self, src: u8) -> Self {
        Self::new(self.code, 0, src, self.offset, self.immediate)
    }
}

/// `SKF_AD_OFF`: offsets from here on name what is no byte of the packet.
const AD_OFF: u32 = (-0x1000i32).cast_unsigned();
/// `BPF_MAXINSNS`.
const CLASSIC_MAX: usize = 4096;

/// The machine itself, so that programs can be tried without the kernel.
#[cfg(test)]
pub(crate) mod machine {
    use super::*;

    /// What [`Meta`] says of a frame.
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Facts {
        pub(crate) packet_type: u32,
        pub(crate) vlan: Option<u16>,
    }

    impl Program {
        /// What it returns for `frame`.
        pub(crate) fn run(&self, frame: &[u8], facts: Facts) -> u32 {
            let starts: Vec<_> = (0..=self.ops.len()).collect();
            let (mut a, mut x, mut at) = (0u32, 0u32, 0);
            loop {
                let op = self.ops[at];
                at += 1;
                let test = |holds: bool, to: Label, at: &mut usize| {
                    if holds {
                        *at = self.target(to, &starts);
                    }
                };
                match op {
                    Op::Load { size, at, indexed } => {
                        let from = 14 + usize::from(at) + if indexed { x as usize } else { 0 };
                        let bytes = match size {
                            Size::Byte => 1,
                            Size::Half => 2,
                            Size::Word => 4,
                        };
                        let Some(bytes) = frame.get(from..from + bytes) else { return 0 };
                        a = bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                    }
                    Op::LoadMeta(Meta::Protocol) => a = u32::from(u16::from_be_bytes([frame[12], frame[13]])),
                    Op::LoadMeta(Meta::PacketType) => a = facts.packet_type,
                    Op::LoadMeta(Meta::VlanPresent) => a = u32::from(facts.vlan.is_some()),
                    Op::LoadMeta(Meta::VlanTag) => a = u32::from(facts.vlan.unwrap_or(0)),
                    Op::And(mask) => a &= mask,
                    Op::ShiftLeft(bits) => a <<= bits,
                    Op::AddX => a = a.wrapping_add(x),
                    Op::ToX => x = a,
                    Op::JumpIf { test: kind, number, to } => {
                        let holds = match kind {
                            Test::Equal => a == number,
                            Test::AtLeast => a >= number,
                            Test::Above => a > number,
                            Test::AnyBit => a & number != 0,
                        };
                        test(holds, to, &mut at);
                    }
                    Op::JumpIfX { to } => test(a == x, to, &mut at),
                    Op::Jump { to } => test(true, to, &mut at),
                    Op::Return(value) => return value,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn takes_port_80() -> Program {
        let mut p = Program::new();
        let (yes, no, untagged) = (p.label(), p.label(), p.label());
        p.load_meta(Meta::VlanPresent);
        p.jump_if(Test::Equal, 0, untagged);
        p.load_meta(Meta::VlanTag);
        p.jump_if(Test::AnyBit, 0xfff, no);
        p.place(untagged);
        p.load_meta(Meta::PacketType);
        p.jump_if(Test::Above, 0, no);
        p.load(Size::Byte, 0);
        p.and(0xf);
        p.shift_left(2);
        p.to_x();
        p.load_indexed(Size::Half, 2);
        p.jump_if(Test::Equal, 80, yes);
        // Far enough that a conditional jump of classic BPF does not reach it.
        (1000..1200).for_each(|port| p.jump_if(Test::Equal, port, yes));
        p.load(Size::Word, 12);
        p.to_x();
        p.load(Size::Word, 16);
        p.jump_if_x(yes);
        p.place(no);
        p.ret(0);
        p.place(yes);
        p.ret(7);
        p
    }

    fn frame(port: u16, src: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45]);
        frame.resize(14 + 40, 0);
        frame[26..34].copy_from_slice(&[200, 0, 0, src, 200, 0, 0, 2]);
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame
    }

    /// The kernel checks a classic program when a socket takes it; offsets and tests are then those of its machine.
    #[test]
    fn the_kernel_takes_and_runs_the_classic_form() {
        let program = takes_port_80();
        for (port, src) in [(80, 1), (81, 1), (1199, 1), (81, 2)] {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            receiver.set_nonblocking(true).unwrap();
            let classic = program.classic(Base::Ethernet).unwrap();
            classic.set(receiver.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER).unwrap();
            sender.send(&frame(port, src)).unwrap();
            let taken = receiver.recv(&mut [0; 100]).unwrap_or(0);
            assert_eq!(taken, program.run(&frame(port, src), machine::Facts::default()) as usize, "{port} {src}");
            assert_eq!(taken > 0, port != 81 || src == 2);
        }
    }

    #[test]
    fn programs_beyond_what_the_kernel_takes_are_refused() {
        let mut p = Program::new();
        let end = p.label();
        (0..3000).for_each(|n| p.jump_if(Test::Equal, n, end));
        p.place(end);
        p.ret(0);
        assert!(p.classic(Base::Ethernet).is_err());
        assert!(p.extended(Base::Ethernet).is_ok());
        let mut jumps = Program::new();
        let end = jumps.label();
        jumps.jump(end);
        (0..40_000).for_each(|_| jumps.and(1));
        jumps.place(end);
        jumps.ret(0);
        assert!(jumps.extended(Base::Ethernet).is_err(), "jumps have 16 bits");
    }
}
