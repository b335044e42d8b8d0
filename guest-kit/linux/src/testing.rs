//! A guest device for tests: a page of registers that behaves as the real one's.

use crate::device::{Device, Registers};
use salp_hvc::agent::AgentReport;
use salp_hvc::device as layout;
use std::cell::{Cell, RefCell};

/// Registers in memory.
#[derive(Debug)]
pub struct Fake {
    page: RefCell<Vec<u8>>,
    loads_of_epoch: Cell<u32>,
    loads_of_random: Cell<u64>,
    /// At this load of EPOCH, these registers come in place of the present ones.
    change: RefCell<Option<(u32, Box<Fake>)>>,
    /// These come when the VM is frozen.
    clone: RefCell<Option<Box<Fake>>>,
    commands: RefCell<Vec<u32>>,
    staged: Cell<usize>,
}

impl Fake {
    /// Returns the registers of a VM that is no clone.
    pub fn source(name: &str) -> Self {
        Self::new(name, 0, 0, "")
    }

    /// Returns the registers of clone number `index`.
    pub fn clone_of(name: &str, index: u32) -> Self {
        Self::new(&format!("{name}-{index}"), index, 1, &format!("role={name}\n"))
    }

    /// Returns the registers of a VM with this identity.
    pub fn new(name: &str, index: u32, epoch: u32, config: &str) -> Self {
        let fake = Self {
            page: RefCell::new(vec![0; layout::SIZE as usize]),
            loads_of_epoch: Cell::new(0),
            loads_of_random: Cell::new(0),
            change: RefCell::new(None),
            clone: RefCell::new(None),
            commands: RefCell::new(Vec::new()),
            staged: Cell::new(0),
        };
        fake.set32(layout::MAGIC, layout::MAGIC_VALUE);
        fake.set32(layout::VERSION, layout::VERSION_VALUE);
        fake.set32(layout::INDEX, index);
        fake.set32(layout::EPOCH, epoch);
        fake.set(layout::NAME, name.as_bytes());
        fake.set(layout::UUID, &std::array::from_fn::<u8, 16, _>(|at| 0x40 + at as u8));
        fake.set(layout::GENERATION, &std::array::from_fn::<u8, 16, _>(|at| 0x80 + at as u8));
        fake.set(layout::MAC, &[0x52, 0x54, 0, 0x12, 0x34, index as u8]);
        fake.set32(layout::CONFIG_LENGTH, config.len() as u32);
        fake.set(layout::CONFIG, config.as_bytes());
        fake
    }

    /// Returns the device that has these registers.
    pub fn device(self) -> Device<Self> {
        Device::new(self).expect("a guest device")
    }

    /// Sets a register of 4 bytes.
    pub fn set32(&self, offset: u64, value: u32) {
        self.set(offset, &value.to_le_bytes());
    }

    /// Lets a freeze return in this clone.
    pub fn becoming(self, clone: Fake) -> Self {
        *self.clone.borrow_mut() = Some(Box::new(clone));
        self
    }

    /// Lets the VM get another identity just before load number `load` of EPOCH.
    pub fn change_at_load_of_epoch(&self, load: u32, other: Fake) {
        *self.change.borrow_mut() = Some((load, Box::new(other)));
    }

    /// Lets the VM get another identity now.
    pub fn become_clone(&self, clone: &Fake) {
        self.page.replace(clone.page.borrow().clone());
    }

    /// Returns the commands that were written.
    pub fn commands(&self) -> Vec<u32> {
        self.commands.borrow().clone()
    }

    /// Returns how many words of reports were written.
    pub fn staged(&self) -> usize {
        self.staged.get()
    }

    fn set(&self, offset: u64, bytes: &[u8]) {
        self.page.borrow_mut()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn load<const N: usize>(&self, offset: u64) -> [u8; N] {
        assert!(offset.is_multiple_of(N as u64), "{offset:#x} is not aligned to {N}");
        self.page.borrow()[offset as usize..][..N].try_into().expect("inside the page")
    }
}

impl Registers for Fake {
    fn read32(&self, offset: u64) -> u32 {
        if offset == layout::EPOCH {
            self.loads_of_epoch.set(self.loads_of_epoch.get() + 1);
            if let Some((_, other)) = self.change.borrow_mut().take_if(|(load, _)| *load == self.loads_of_epoch.get()) {
                self.become_clone(&other);
            }
        }
        u32::from_le_bytes(self.load(offset))
    }

    fn read64(&self, offset: u64) -> u64 {
        if offset == layout::RANDOM {
            self.loads_of_random.set(self.loads_of_random.get() + 1);
            return self.loads_of_random.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        u64::from_le_bytes(self.load(offset))
    }

    fn write32(&self, offset: u64, value: u32) {
        if (layout::REPORT..layout::REPORT + size_of::<AgentReport>() as u64).contains(&offset) {
            self.staged.set(self.staged.get() + 1);
            return;
        }
        assert_eq!(offset, layout::COMMAND, "no register that can be written");
        self.commands.borrow_mut().push(value);
        match value {
            layout::COMMAND_FREEZE => {
                if let Some(clone) = self.clone.take() {
                    self.become_clone(&clone);
                }
            }
            layout::COMMAND_ACKNOWLEDGE => self.set32(layout::ACKNOWLEDGED, 1),
            layout::COMMAND_REPORT => {}
            other => panic!("command {other}"),
        }
    }
}
