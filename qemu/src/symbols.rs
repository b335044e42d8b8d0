//! The symbol table in the image, for the backtrace of a panic at EL2, and the map for people.
//!
//! [`image`](crate::image) puts it in the packed area. Layout: [`salp_hvc::packed`].

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use salp_hvc::packed;
use std::collections::HashMap;
use zerocopy::IntoBytes;

/// Arguments of generic types and functions longer than this are left out of names.
const LONGEST_ARGUMENTS: usize = 60;

/// A function of the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its virtual address.
    pub address: u64,
    /// Its size in bytes; zero if the symbol does not say.
    pub size: u64,
    /// Its name, readable.
    pub name: String,
}

/// Returns the functions of an image in ascending order of address, one per address.
pub fn functions(elf: &ElfFile64<'_>) -> Vec<Function> {
    let mut functions: Vec<Function> = elf
        .symbols()
        .filter(|symbol| {
            let in_text = symbol
                .section_index()
                .and_then(|index| elf.section_by_index(index).ok())
                .is_some_and(|section| section.kind() == SectionKind::Text);
            let code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label);
            let label = symbol.name().is_ok_and(|name| name.is_empty() || name.starts_with(['$', '.']));
            // Names that the linker script makes up are bounds, not functions.
            let bound = symbol.kind() != SymbolKind::Text && symbol.name().is_ok_and(|name| name.starts_with("__"));
            in_text && code && !label && !bound
        })
        .filter_map(|symbol| {
            Some(Function { address: symbol.address(), size: symbol.size(), name: readable(symbol.name().ok()?) })
        })
        .collect();
    functions.sort();
    // Of several names for one address the one with a size comes last and is kept.
    functions.reverse();
    functions.dedup_by_key(|function| function.address);
    functions.reverse();
    functions
}

/// Makes a symbol's name readable: demangled, without its hash, long generic arguments left out. The image has a thousand of them: a
/// closure goes by its function's name.
pub fn readable(symbol: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(symbol)).replace("::{{closure}}", "");
    let mut short = String::new();
    let mut open: Vec<usize> = Vec::new();
    let mut last = ' ';
    for c in name.chars() {
        short.push(c);
        if c == '<' {
            open.push(short.len());
        } else if c == '>'
            && last != '-'
            && let Some(start) = open.pop()
            && short.len() - 1 - start > LONGEST_ARGUMENTS
        {
            short.truncate(start);
            short.push_str("..>");
        }
        last = c;
    }
    short
}

/// Writes the symbol table of functions whose addresses count from `image_start`. Each name is there once.
pub fn table(functions: &[Function], image_start: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut names: Vec<u8> = Vec::new();
    let mut places = HashMap::new();
    for function in functions {
        let Some(offset) = function.address.checked_sub(image_start).and_then(|offset| u32::try_from(offset).ok())
        else {
            continue;
        };
        let place = *places.entry(&function.name).or_insert_with(|| {
            let place = names.len() as u32;
            names.extend(function.name.bytes().filter(|&byte| byte != 0));
            names.push(0);
            place
        });
        records.push(packed::Symbol { offset: offset.into(), name: place.into() });
    }
    let start = packed::Symbols { count: (records.len() as u32).into() };
    [start.as_bytes(), records.as_bytes(), &names].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    #[test]
    fn names_are_readable_and_short() {
        assert_eq!(readable("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"), "core::fmt::Write::write_fmt");
        assert_eq!(
            readable("_ZN9salp_core3net4Port5admit28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE"),
            "salp_core::net::Port::admit"
        );
        assert_eq!(readable("vector_table"), "vector_table");
        let long = format!("a::b<{}>::c<u8>", "x".repeat(61));
        assert_eq!(readable(&long), "a::b<..>::c<u8>");
        assert_eq!(readable("f<fn() -> u8>::g"), "f<fn() -> u8>::g");
    }

    #[test]
    fn a_table_reads_back_in_order() {
        let function = |address, name: &str| Function { address, size: 4, name: name.into() };
        let functions = [function(0x1000, "start"), function(0x1040, "main"), function(0x1080, "start")];
        let blob = table(&functions, 0x1000);
        let (start, rest) = packed::Symbols::ref_from_prefix(&blob).expect("a start");
        let (symbols, names) =
            <[packed::Symbol]>::ref_from_prefix_with_elems(rest, start.count.get() as usize).expect("symbols");
        let read: Vec<(u32, &[u8])> = symbols
            .iter()
            .map(|s| (s.offset.get(), names[s.name.get() as usize..].split(|&b| b == 0).next().unwrap()))
            .collect();
        assert_eq!(read, [(0, &b"start"[..]), (0x40, &b"main"[..]), (0x80, &b"start"[..])]);
        assert_eq!(names, b"start\0main\0");
    }
}
