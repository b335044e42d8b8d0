//! What the monitor answers: rows of `key=value`, then one line that begins with `ok` or `error`. Before: EL2, which has
//! carried a [`super::Command`] out; after: the console, or the runner.
//!
//! Numbers are decimal and without quotes, sizes in bytes; truth values are `true` and `false`; text that looks like either is
//! quoted.

use super::command::FORMS;
use super::words::{Plain, Quoted};
use crate::dev::net::Nic;
use core::fmt::{self, Display, Write};
use salp_hvc::calls::{MachineInfo, VmInfo, VmMemory, state_word};
use salp_hvc::manager::ImageInfo;
use salp_hvc::status;

/// A line of a reply as it is written. Whatever fails to be written is told at the end.
pub struct Row<'w> {
    out: &'w mut dyn Write,
    result: fmt::Result,
    is_empty: bool,
}

impl<'w> Row<'w> {
    /// Begins a row.
    pub fn new(out: &'w mut dyn Write) -> Self {
        Self { out, result: Ok(()), is_empty: true }
    }

    /// Begins the last line of a reply to what was done.
    pub fn ok(out: &'w mut dyn Write) -> Self {
        let result = out.write_str("ok");
        Self { out, result, is_empty: false }
    }

    fn pair(mut self, key: &str, value: fmt::Arguments<'_>) -> Self {
        let space = if self.is_empty { "" } else { " " };
        self.result = self.result.and_then(|()| write!(self.out, "{space}{key}={value}"));
        self.is_empty = false;
        self
    }

    /// Adds a number.
    pub fn number(self, key: &str, value: impl Into<u64>) -> Self {
        self.pair(key, format_args!("{}", value.into()))
    }

    /// Adds a truth value.
    pub fn flag(self, key: &str, value: bool) -> Self {
        self.pair(key, format_args!("{value}"))
    }

    /// Adds text.
    pub fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, format_args!("{}", Plain(value)))
    }

    /// Ends the line.
    ///
    /// # Errors
    ///
    /// If the writer has failed anywhere in it.
    pub fn end(self) -> fmt::Result {
        self.result.and_then(|()| self.out.write_char('\n'))
    }
}

/// Writes the last line of a reply: what went wrong, as a [`status`] and in words.
///
/// # Errors
///
/// If the writer fails.
pub fn error(out: &mut dyn Write, status: i64, message: &dyn Display) -> fmt::Result {
    writeln!(out, "error {} {}", status::word(status), Quoted(message))
}

/// Writes a row for each command.
///
/// # Errors
///
/// If the writer fails.
pub fn help(out: &mut dyn Write) -> fmt::Result {
    FORMS.iter().try_for_each(|form| Row::new(out).text("usage", form.usage).text("about", form.about).end())
}

/// Writes the row of a VM or snapshot in a list.
///
/// # Errors
///
/// If the writer fails.
pub fn list_row(out: &mut dyn Write, vm: &VmInfo) -> fmt::Result {
    listed(out, vm).end()
}

/// Writes a row with all that is known of a VM or snapshot.
///
/// # Errors
///
/// If the writer fails.
pub fn info_row(out: &mut dyn Write, vm: &VmInfo) -> fmt::Result {
    listed(out, vm)
        .number("family", vm.family)
        .number("index", vm.index)
        .pair("generation", format_args!("{}", Uuid(&vm.generation)))
        .flag("acknowledged", vm.acknowledged.get() != 0)
        .number("exits", vm.exits)
        .number("faults", vm.faults)
        .number("copied_pages", vm.copied_pages)
        .number("copied_nodes", vm.copied_nodes)
        .number("merged_pages", vm.merged_pages)
        .number("pause_ns", vm.pause)
        .end()
}

fn listed<'w>(out: &'w mut dyn Write, vm: &VmInfo) -> Row<'w> {
    Row::new(out)
        .number("id", vm.id)
        .text("name", name(&vm.name))
        .text("state", state_word(vm.state.get()))
        .number("source", vm.source)
        .number("vcpus", vm.vcpus)
        .number("memory", vm.memory)
        .number("promised", vm.promised)
        .pair("mac", format_args!("{}", Mac(&vm.mac)))
        .pair("uuid", format_args!("{}", Uuid(&vm.uuid)))
}

/// Writes a row with the memory of a VM.
///
/// # Errors
///
/// If the writer fails.
pub fn memory_row(out: &mut dyn Write, vm: &VmInfo, memory: &VmMemory) -> fmt::Result {
    Row::new(out)
        .number("id", vm.id)
        .text("name", name(&vm.name))
        .number("memory", vm.memory)
        .number("promised", vm.promised)
        .number("private", memory.private)
        .number("shared", memory.shared)
        .number("overhead", memory.overhead)
        .number("saved", memory.saved)
        .end()
}

/// Writes a row with the memory of the machine, and that of all VMs and snapshots together: what only one uses, what several
/// do (once), what sharing saves.
///
/// # Errors
///
/// If the writer fails.
pub fn machine_row(out: &mut dyn Write, machine: &MachineInfo, vms: &VmMemory) -> fmt::Result {
    Row::new(out)
        .number("total", machine.total)
        .number("free", machine.free)
        .number("promised", machine.promised)
        .number("guests", machine.guests)
        .number("nodes", machine.nodes)
        .number("private", vms.private)
        .number("shared", vms.shared)
        .number("saved", vms.saved)
        .number("hypervisor", machine.hypervisor)
        .number("images", machine.images)
        .number("vms", machine.vms)
        .number("starved", machine.starved)
        .end()
}

/// Writes a row with a NIC of a VM and what went through its port.
///
/// # Errors
///
/// If the writer fails.
pub fn nic_row(out: &mut dyn Write, vm: &str, index: usize, nic: &Nic) -> fmt::Result {
    let counters = &nic.port.counters;
    let [a, b, c, d] = nic.port.ipv4;
    let mut row = Row::new(out)
        .text("vm", vm)
        .number("nic", index as u64)
        .text("segment", name(&nic.port.segment))
        .number("vlan", nic.port.vlan)
        .pair("vlans", format_args!("{}", nic.port.vlans))
        .pair("mac", format_args!("{}", Mac(&nic.port.mac)))
        .pair("ip", format_args!("{a}.{b}.{c}.{d}"))
        .flag("link", nic.is_link_up())
        .flag("driver", nic.is_live())
        .flag("broken", nic.is_broken());
    for (key, count) in [
        ("sent", counters.sent),
        ("sent_bytes", counters.sent_bytes),
        ("received", counters.received),
        ("received_bytes", counters.received_bytes),
        ("missed", counters.missed),
        ("quarantined", counters.quarantined),
        ("spoofed", counters.spoofed),
        ("limited", counters.limited),
        ("malformed", counters.malformed),
        ("breaches", counters.breaches),
    ] {
        row = row.number(key, count);
    }
    row.end()
}

/// Writes the row of an image in a list.
///
/// # Errors
///
/// If the writer fails.
pub fn image_row(out: &mut dyn Write, image: &ImageInfo) -> fmt::Result {
    Row::new(out)
        .number("id", image.id)
        .text("label", name(&image.label))
        .number("size", image.size)
        .number("users", image.users)
        .flag("finished", image.finished.get() != 0)
        .end()
}

/// Returns a name without its padding.
pub fn name(padded: &[u8]) -> &str {
    let name = padded.split(|&byte| byte == 0).next().unwrap_or_default();
    core::str::from_utf8(name).unwrap_or_default()
}

/// Sixteen bytes as UUIDs are written, the first byte first.
struct Uuid<'a>(&'a [u8; 16]);

impl Display for Uuid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A MAC address.
struct Mac<'a>(&'a [u8; 6]);

impl Display for Mac<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::Words;
    use super::*;
    use zerocopy::FromBytes;

    fn written(write: impl FnOnce(&mut dyn Write) -> fmt::Result) -> String {
        let mut text = String::new();
        write(&mut text).unwrap();
        text
    }

    fn web() -> VmInfo {
        let mut vm = VmInfo::read_from_bytes(&[0; size_of::<VmInfo>()]).unwrap();
        vm.name[..3].copy_from_slice(b"web");
        vm.uuid = core::array::from_fn(|index| index as u8 * 0x11);
        vm.mac = [0x02, 0, 0, 0xab, 0, 7];
        vm.memory = (512 << 20).into();
        vm.id = 7.into();
        vm.vcpus = 2.into();
        vm
    }

    #[test]
    fn a_vm_is_one_row() {
        let row = "id=7 name=web state=running source=0 vcpus=2 memory=536870912 promised=0 mac=02:00:00:ab:00:07 \
                   uuid=00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(written(|out| list_row(out, &web())), format!("{row}\n"));
        let info = written(|out| info_row(out, &web()));
        assert!(info.starts_with(row), "{info}");
        assert!(
            info.contains(" generation=00000000-0000-0000-0000-000000000000 acknowledged=false exits=0 "),
            "{info}"
        );
    }

    #[test]
    fn memory_is_counted_in_rows() {
        let mut memory = VmMemory::read_from_bytes(&[0; size_of::<VmMemory>()]).unwrap();
        memory.private = 8192.into();
        let row = written(|out| memory_row(out, &web(), &memory));
        assert_eq!(row, "id=7 name=web memory=536870912 promised=0 private=8192 shared=0 overhead=0 saved=0\n");
        let machine = MachineInfo::read_from_bytes(&[0; size_of::<MachineInfo>()]).unwrap();
        let row = written(|out| machine_row(out, &machine, &memory));
        let expected = "total=0 free=0 promised=0 guests=0 nodes=0 private=8192 shared=0 saved=0 hypervisor=0 images=0 vms=0 \
                        starved=0\n";
        assert_eq!(row, expected);
    }

    #[test]
    fn the_last_line_says_how_it_went() {
        assert_eq!(written(|out| Row::ok(out).end()), "ok\n");
        let done = written(|out| Row::ok(out).number("made", 2_u32).text("name", "7").flag("more", true).end());
        assert_eq!(done, "ok made=2 name=\"7\" more=true\n");
        let failed = written(|out| error(out, status::NOT_FOUND, &"there is no VM \"x\"\nat all"));
        assert_eq!(failed, "error not-found \"there is no VM \\\"x\\\"\\nat all\"\n");
    }

    #[test]
    fn help_is_rows_like_all_others() {
        let text = written(help);
        assert_eq!(text.lines().count(), FORMS.len());
        for (line, form) in text.lines().zip(&FORMS) {
            let mut line = line.as_bytes().to_vec();
            let mut words = Words::new(&mut line);
            assert_eq!(words.take().unwrap().unwrap().text, format!("usage={}", form.usage));
            assert_eq!(words.take().unwrap().unwrap().text, format!("about={}", form.about));
            assert_eq!(words.take(), Ok(None));
        }
    }
}
