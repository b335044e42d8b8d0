//! The test protocol on the console, one line for each event. Before: the test guests. After: whoever reads the console.
//!
//! ```text
//! TEST name                         a case starts
//! PASS name | FAIL name: reason | SKIP name: reason
//! BENCH name count=N value=N        a figure, in ticks of the virtual counter unless the name says otherwise
//! DONE passed=N failed=N skipped=N  the end; then SYSTEM_OFF
//! PANIC vCPU: reason                the guest itself failed; DONE with failed=1 and SYSTEM_OFF follow
//! ```

use core::fmt;
use core::panic::PanicInfo;

use spin::mutex::SpinMutex;

use crate::rt::{console, cpu, sysreg};
use crate::{machine, println, psci, words};

/// How a case ended that did not pass. The reason has been printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The machine is wrong.
    Failed,
    /// The machine lacks what the case is about.
    Skipped,
}

/// The case that is running.
static CASE: SpinMutex<&str> = SpinMutex::new("");

/// What a case returns.
pub type Outcome = Result<(), Stop>;

/// One case of a test guest.
pub struct Case {
    /// Its name, as in `only=NAME`.
    pub name: &'static str,
    /// The case itself.
    pub run: fn() -> Outcome,
}

/// Prints that the case has failed.
pub fn fail(reason: fmt::Arguments<'_>) -> Stop {
    println!("FAIL {}: {reason}", *CASE.lock());
    Stop::Failed
}

/// Prints that the case is skipped.
pub fn skip(reason: fmt::Arguments<'_>) -> Stop {
    println!("SKIP {}: {reason}", *CASE.lock());
    Stop::Skipped
}

/// Makes the table of cases from functions, and runs those that the boot arguments select.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $crate::test::run(&[$($crate::test::Case { name: stringify!($name), run: $name }),*])
    };
}

/// Ends a case as failed unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err($crate::test::fail(format_args!($($arg)+)));
        }
    };
}

/// Ends a case as failed unless both are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr, $($arg:tt)+) => {
        match ($left, $right) {
            (left, right) => $crate::check!(
                left == right,
                "{}: {left:#x?}, expected {right:#x?}",
                format_args!($($arg)+)
            ),
        }
    };
}

/// Ends a case as skipped.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => {
        return Err($crate::test::skip(format_args!($($arg)+)))
    };
}

/// Runs the cases that `only=` selects and prints the results.
pub fn run(cases: &[Case]) {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in cases.iter().filter(|case| words::selects(machine::bootargs(), "only", case.name)) {
        println!("TEST {}", case.name);
        *CASE.lock() = case.name;
        match (case.run)() {
            Ok(()) => {
                passed += 1;
                println!("PASS {}", case.name);
            }
            Err(Stop::Failed) => failed += 1,
            Err(Stop::Skipped) => skipped += 1,
        }
    }
    done(passed, failed, skipped);
}

/// Prints a figure: `value`, a mean or a sum as the name says, over `count` events.
pub fn bench(name: &str, count: u64, value: u64) {
    println!("BENCH {name} count={count} value={value}");
}

/// Prints the last line.
pub fn done(passed: u32, failed: u32, skipped: u32) {
    println!("DONE passed={passed} failed={failed} skipped={skipped}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    sysreg::mask_all();
    console::break_lock();
    println!("PANIC {}: {info}", cpu::index());
    done(0, 1, 0);
    psci::system_off()
}
