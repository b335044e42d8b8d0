//! What a user asks for: `--vm name=N,kernel=PATH,…`, and sizes.
//!
//! The command line comes before; [`place`](crate::place) and [`kernel`](crate::kernel) come next.

use crate::nic::Nic;
use anyhow::{Context, Result, bail, ensure};
use salp_hvc::bootset::{MAX_NICS, MAX_RAM, MAX_VCPUS, PAGE};
use std::str::FromStr;

pub use salp_board::size::Size;

/// What happens when a VM crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// It stays off.
    #[default]
    No,
    /// It is started again from its first state.
    OnCrash,
}

/// One VM as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRequest {
    /// Its name, 1 to 31 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// The kernel: a file, or the name of a stock guest.
    pub kernel: String,
    /// The initial RAM disk: a file, `busybox`, or `none`. `None`: what belongs to the kernel.
    pub initrd: Option<String>,
    /// How many vCPUs.
    pub cpus: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// The boot arguments. `None`: what belongs to the kernel.
    pub append: Option<String>,
    /// What happens when it crashes.
    pub restart: Restart,
    /// Where a flat binary is loaded. `None`: the default.
    pub load: Option<u64>,
    /// Where a flat binary starts. `None`: where it is loaded.
    pub entry: Option<u64>,
    /// Whether the VM gets its memory in pages of 4 KiB only.
    pub small_pages: bool,
    /// Whether it is frozen before its first instruction, to be cloned.
    pub frozen: bool,
    /// Whether it may make management calls.
    pub manager: bool,
    /// Whether it stays when it is off, to be started again.
    pub stays: bool,
    /// Whether it is off at first.
    pub off: bool,
    /// Its NICs.
    pub nics: Vec<Nic>,
}

/// The RAM of a VM that does not say how much it wants.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

impl VmRequest {
    /// Returns a VM with one vCPU and the default amount of memory.
    pub fn new(name: &str, kernel: &str) -> Self {
        Self {
            name: name.into(),
            kernel: kernel.into(),
            initrd: None,
            cpus: 1,
            memory: DEFAULT_MEMORY,
            append: None,
            restart: Restart::No,
            load: None,
            entry: None,
            small_pages: false,
            frozen: false,
            manager: false,
            stays: false,
            off: false,
            nics: Vec::new(),
        }
    }

    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    ///
    /// A sentence that names the VM and the limit.
    pub fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        let name = &self.name;
        ensure!((1..=MAX_VCPUS).contains(&self.cpus), "VM {name}: cpus={}: a VM has 1 to {MAX_VCPUS}", self.cpus);
        ensure!(self.memory >= 1 << 20, "VM {name}: memory={}: a VM has at least 1 MiB", Size(self.memory));
        ensure!(
            self.memory <= MAX_RAM,
            "VM {name}: memory={}: a VM has at most {}, what fits a 39-bit guest physical address space",
            Size(self.memory),
            Size(MAX_RAM)
        );
        ensure!(self.memory.is_multiple_of(PAGE), "VM {name}: memory={}: not a multiple of {PAGE} bytes", self.memory);
        ensure!(
            self.nics.len() <= MAX_NICS as usize,
            "VM {name}: {} NICs: a VM has at most {MAX_NICS}",
            self.nics.len()
        );
        Ok(())
    }
}

/// Checks the name of a VM.
///
/// # Errors
///
/// A sentence that says what names are made of.
pub fn check_name(name: &str) -> Result<()> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    ensure!((1..=31).contains(&name.len()) && letters, "VM name {name:?}: names are 1 to 31 of A-Z a-z 0-9 . _ -");
    Ok(())
}

impl FromStr for VmRequest {
    type Err = anyhow::Error;

    /// Reads `builtin`, or `key=value` pairs with commas between them; a comma inside a value is written twice.
    fn from_str(text: &str) -> Result<Self> {
        if text == "builtin" {
            return Ok(Self::new("builtin", "builtin"));
        }
        let mut vm = Self::new("", "");
        let mut seen: Vec<String> = Vec::new();
        for word in split(text) {
            let Some((key, value)) = word.split_once('=') else {
                bail!("{word:?} is not key=value (write a comma inside a value twice: `,,`)");
            };
            ensure!(key == "nic" || !seen.iter().any(|one| one == key), "{key}= is given twice");
            seen.push(key.into());
            match key {
                "name" => vm.name = value.into(),
                "kernel" => vm.kernel = value.into(),
                "initrd" => vm.initrd = Some(value.into()),
                "cpus" => vm.cpus = value.parse().with_context(|| format!("cpus={value} is not a number"))?,
                "memory" => vm.memory = size(value).with_context(|| format!("memory={value}"))?,
                "append" => vm.append = Some(value.into()),
                "load" => vm.load = Some(number(value).with_context(|| format!("load={value}"))?),
                "entry" => vm.entry = Some(number(value).with_context(|| format!("entry={value}"))?),
                "restart" => {
                    vm.restart = match value {
                        "no" => Restart::No,
                        "on-crash" => Restart::OnCrash,
                        _ => bail!("restart={value}: it is `no` or `on-crash`"),
                    }
                }
                "pages" => {
                    vm.small_pages = match value {
                        "small" => true,
                        "any" => false,
                        _ => bail!("pages={value}: it is `any` or `small`"),
                    }
                }
                "frozen" => vm.frozen = yes_or_no(value).with_context(|| format!("frozen={value}"))?,
                "manager" => vm.manager = yes_or_no(value).with_context(|| format!("manager={value}"))?,
                "stays" => vm.stays = yes_or_no(value).with_context(|| format!("stays={value}"))?,
                "off" => vm.off = yes_or_no(value).with_context(|| format!("off={value}"))?,
                "nic" => vm.nics.push(value.parse().with_context(|| format!("nic={value}"))?),
                _ => bail!(
                    "{key}= is not known: a VM has name, kernel, initrd, cpus, memory, append, restart, load, entry, \
                     pages, frozen, manager, stays, off, nic (write a comma inside a value twice: `,,`)"
                ),
            }
        }
        ensure!(!vm.kernel.is_empty(), "kernel= is missing");
        if vm.name.is_empty() {
            vm.name = default_name(&vm.kernel);
        }
        vm.check()?;
        Ok(vm)
    }
}

/// Makes a name out of the kernel's.
fn default_name(kernel: &str) -> String {
    let file = kernel.rsplit('/').next().unwrap_or_default();
    let name: String = file.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(31).collect();
    if name.is_empty() { "vm".into() } else { name }
}

/// Splits at commas; two commas are one inside a word.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let last = words.len() - 1;
        if c != ',' {
            words[last].push(c);
        } else if rest.next_if_eq(&',').is_some() {
            words[last].push(',');
        } else {
            words.push(String::new());
        }
    }
    words
}

fn yes_or_no(text: &str) -> Result<bool> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => bail!("it is `yes` or `no`"),
    }
}

/// Reads a number, decimal or with `0x` in front.
///
/// # Errors
///
/// A sentence that says what a number looks like.
pub fn number(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text:?} is not a number (decimal, or hexadecimal with 0x)"))
}

/// Reads a size: a number with `K`, `M`, `G` or `T` behind it (also as `MiB`); without one it counts MiB, as for QEMU.
///
/// # Errors
///
/// A sentence that says what a size looks like.
pub fn size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kib" => 10,
        "" | "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => bail!("{text:?} is not a size: write 512M or 2G"),
    };
    let count: u64 = digits.parse().ok().with_context(|| format!("{text:?} is not a size: write 512M or 2G"))?;
    count.checked_mul(1 << shift).with_context(|| format!("{text} is more than can be counted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        format!("{:#}", text.parse::<VmRequest>().expect_err(text))
    }

    #[test]
    fn a_vm_says_all_that_it_wants() {
        let text = "name=web,kernel=/boot/Image,initrd=x.img,cpus=4,memory=2G,append=console=ttyAMA0,,115200 quiet,\
                    restart=on-crash,load=0x40200000,entry=1075838976,pages=small,\
                    frozen=yes,manager=yes,stays=yes,off=yes,nic=lan,nic=dmz:52:54:00:00:00:01";
        let vm: VmRequest = text.parse().expect("a VM");
        assert_eq!(vm.name, "web");
        assert_eq!(vm.append.as_deref(), Some("console=ttyAMA0,115200 quiet"));
        assert_eq!((vm.cpus, vm.memory, vm.restart), (4, 2 << 30, Restart::OnCrash));
        assert_eq!((vm.load, vm.entry, vm.small_pages), (Some(0x4020_0000), Some(0x4020_0000), true));
        assert!(vm.frozen && vm.manager && vm.stays && vm.off && vm.nics.len() == 2);
        assert_eq!("kernel=x,frozen=no,manager=no".parse::<VmRequest>().ok(), Some(VmRequest::new("x", "x")));
    }

    #[test]
    fn a_kernel_is_enough() {
        let vm: VmRequest = "kernel=/a/b/Image-6.1".parse().expect("a VM");
        assert_eq!(vm, VmRequest::new("Image-6.1", "/a/b/Image-6.1"));
        assert_eq!("builtin".parse::<VmRequest>().expect("a VM").kernel, "builtin");
    }

    #[test]
    fn mistakes_are_named_with_the_limit() {
        assert!(refusal("kernel=x,cpus=9").contains("1 to 8"));
        assert!(refusal("kernel=x,cpus=0").contains("1 to 8"));
        assert!(refusal("kernel=x,name=a b").contains("1 to 31"));
        assert!(refusal(&format!("kernel=x,name={}", "n".repeat(32))).contains("1 to 31"));
        assert!(refusal("kernel=x,memory=64K").contains("at least 1 MiB"));
        assert!(refusal("kernel=x,memory=512G").contains("at most 511 GiB"));
        assert!(refusal("kernel=x,memory=lots").contains("512M"));
        assert!(refusal("name=x").contains("kernel= is missing"));
        assert!(refusal("kernel=x,kernel=y").contains("twice"));
        assert!(refusal("kernel=x,append=a,b").contains(",,"));
        assert!(refusal("kernel=x,disk=y").contains("disk="));
        assert!(refusal("kernel=x,restart=always").contains("on-crash"));
        assert!(refusal(&format!("kernel=x{}", ",nic=lan".repeat(5))).contains("at most 4"));
        assert!(refusal("kernel=x,nic=").contains("1 to 15"));
        assert!(refusal("kernel=x,frozen=1").contains("`yes` or `no`"));
        assert!(refusal("kernel=x,load=4g").contains("0x"));
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("512").ok(), Some(512 << 20));
        assert_eq!(size("512MiB").ok(), Some(512 << 20));
        assert_eq!(size("64g").ok(), Some(64 << 30));
        assert!(size("99999999999999T").is_err() && size("").is_err() && size("-1G").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "\\PC*", pairs in "([a-z]{1,6}=[0-9A-Za-z,]{0,8},?){0,6}") {
            let _ = text.parse::<VmRequest>();
            let _ = pairs.parse::<VmRequest>();
        }
    }
}
