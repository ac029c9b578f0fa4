//! Reads an object file as clang makes it of a C program for BPF: one program, and the maps it names.
//!
//! Maps stand in a section of their own, five numbers each, named by symbols; where the program loads the address of one,
//! a relocation says so. Everything else that an object could have (several programs, data, calls between sections) is
//! refused.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::os::fd::RawFd;

use object::read::elf::{ElfFile64, ElfSection64};
use object::{Architecture, LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags};
use object::{RelocationTarget, SectionIndex};

use super::Insn;
use super::map::Definition;

/// Why an object is not what we take for one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the XDP program built into this one cannot be used: {0}")]
pub struct BadObject(String);

/// A program and its maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    code: Vec<Insn>,
    pub(super) license: CString,
    pub(super) maps: Vec<(String, Definition)>,
    /// Number of the instruction that loads a map, number of the map.
    references: Vec<(usize, usize)>,
}

type Elf<'a> = ElfFile64<'a, LittleEndian>;

impl Object {
    /// Reads the program in the section `name`.
    pub(super) fn read(bytes: &[u8], name: &str) -> Result<Self, BadObject> {
        if cfg!(target_endian = "big") {
            return Err(bad("it is built for little-endian machines, and this is none"));
        }
        let elf: Elf<'_> = ElfFile64::parse(bytes).map_err(|error| bad(format!("no ELF file of 64 bits ({error})")))?;
        if elf.architecture() != Architecture::Bpf {
            return Err(bad("it is not for BPF"));
        }
        let program = section(&elf, name)?;
        let (code, rest) = contents(&program)?.as_chunks();
        if code.is_empty() || !rest.is_empty() {
            return Err(bad(format!("section {name} does not consist of instructions")));
        }
        let code: Vec<_> = code.iter().copied().map(instruction).collect();
        let license = contents(&section(&elf, "license")?)?;
        let license = CString::from_vec_with_nul(license.to_vec()).map_err(|_| bad("its licence is no string"))?;
        let (place, maps) = maps(&elf)?;
        let references = references(&elf, &program, place, &code, maps.len())?;
        Ok(Self { code, license, maps, references })
    }

    /// The instructions, with the descriptors of its maps (in their order) where it loads them.
    pub(super) fn code(&self, maps: &[RawFd]) -> Result<Vec<Insn>, BadObject> {
        let mut code = self.code.clone();
        for (at, map) in &self.references {
            let fd = maps.get(*map).ok_or_else(|| bad("a map is missing"))?;
            let insn = code.get_mut(*at).ok_or_else(|| bad("a reference to a map is outside"))?;
            insn.immediate = *fd;
            insn.registers = insn.registers & 0x0f | PSEUDO_MAP_FD << 4;
        }
        Ok(code)
    }
}

fn bad(what: impl Into<String>) -> BadObject {
    BadObject(what.into())
}

fn section<'a, 'b>(elf: &'b Elf<'a>, name: &str) -> Result<ElfSection64<'a, 'b, LittleEndian>, BadObject> {
    elf.section_by_name(name).ok_or_else(|| bad(format!("it has no section {name}")))
}

fn contents<'a>(section: &ElfSection64<'a, '_, LittleEndian>) -> Result<&'a [u8], BadObject> {
    section.data().map_err(|error| bad(format!("a section lies outside the file ({error})")))
}

fn instruction(bytes: [u8; 8]) -> Insn {
    let [code, registers, o0, o1, i0, i1, i2, i3] = bytes;
    Insn { code, registers, offset: i16::from_le_bytes([o0, o1]), immediate: i32::from_le_bytes([i0, i1, i2, i3]) }
}

/// Where the maps stand, and what they are, in the order of their places.
fn maps(elf: &Elf<'_>) -> Result<(SectionIndex, Vec<(String, Definition)>), BadObject> {
    let section = section(elf, "maps")?;
    let (definitions, rest) = contents(&section)?.as_chunks::<DEFINITION_BYTES>();
    if !rest.is_empty() {
        return Err(bad("section maps does not consist of definitions"));
    }
    let mut maps = Vec::new();
    for (place, bytes) in (0u64..).step_by(DEFINITION_BYTES).zip(definitions) {
        let (numbers, _) = bytes.as_chunks();
        let number = |n: usize| numbers.get(n).copied().map_or(0, u32::from_le_bytes);
        let definition = Definition {
            kind: number(0),
            key_bytes: number(1),
            value_bytes: number(2),
            entries: number(3),
            flags: number(4),
        };
        let mut symbols = elf.symbols();
        let symbol = symbols.find(|symbol| {
            symbol.section_index() == Some(section.index()) && symbol.address() == place && symbol.is_global()
        });
        let name = symbol.and_then(|symbol| symbol.name().ok()).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| bad(format!("the map at {place} has no name")))?;
        maps.push((name.to_owned(), definition));
    }
    Ok((section.index(), maps))
}

/// Which instructions load which maps.
fn references(
    elf: &Elf<'_>,
    program: &ElfSection64<'_, '_, LittleEndian>,
    maps: SectionIndex,
    code: &[Insn],
    map_count: usize,
) -> Result<Vec<(usize, usize)>, BadObject> {
    let mut found = Vec::new();
    for (place, relocation) in program.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            return Err(bad("it refers to something without a symbol"));
        };
        let symbol = elf.symbol_by_index(symbol).map_err(|error| bad(format!("a symbol is missing ({error})")))?;
        if relocation.flags() != (RelocationFlags::Elf { r_type: R_BPF_64_64 }) || symbol.section_index() != Some(maps)
        {
            return Err(bad("it refers to something that is no map"));
        }
        let at = usize::try_from(place / INSN_BYTES).ok().filter(|_| place % INSN_BYTES == 0);
        // A map's address fills two instructions.
        let at = at.filter(|at| code.get(*at).is_some_and(|insn| insn.code == LOAD_64) && at + 1 < code.len());
        let at = at.ok_or_else(|| bad("a reference to a map is not where one is loaded"))?;
        let map = usize::try_from(symbol.address()).ok().filter(|at| at % DEFINITION_BYTES == 0);
        let map = map.map(|at| at / DEFINITION_BYTES).filter(|map| *map < map_count);
        found.push((at, map.ok_or_else(|| bad("it refers to a map that does not exist"))?));
    }
    Ok(found)
}

const DEFINITION_BYTES: usize = 20;
const INSN_BYTES: u64 = 8;
/// `BPF_LD | BPF_IMM | BPF_DW`.
const LOAD_64: u8 = 0x18;
/// `BPF_PSEUDO_MAP_FD`, as source register: the immediate is a descriptor.
const PSEUDO_MAP_FD: u8 = 1;
const R_BPF_64_64: object::elf::RelocationType = object::elf::R_BPF_64_64;
