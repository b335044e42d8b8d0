//! `salp`: the front door. Without arguments it starts one Debian guest under Salp, in this terminal.
//!
//! Everything that it does is a function of the library beside it; here are the command line, what is said to a person,
//! and the exit status.

#![forbid(unsafe_code)]

mod ask;
mod cli;
mod up;

use clap::Parser;
use cli::{Arguments, Command, Release};
use salp_qemu::keys::Signer;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("salp: {error:#}");
            ExitCode::from(cli::EXIT_NOT_STARTED)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command.unwrap_or(Command::Up(arguments.up)) {
        Command::Up(options) => up::run(options),
        Command::Bare(options) => up::run_bare(options),
        Command::Monitor(options) => ask::run(&options),
        Command::Image(release) => {
            let image = salp_qemu::image::build_signed(&signer(&release)?)?;
            print!("{}", image.report());
            for file in [&image.bin, &image.elf, &image.map, &image.bundle] {
                println!("{}", file.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Keys { release } => {
            let (file, key) = match release {
                Some(file) => (file.clone(), salp_qemu::keys::make(&file)?),
                None => (salp_qemu::keys::write_development()?, Signer::development()),
            };
            println!("{}\npublic key {}", file.display(), key.public_text());
            Ok(ExitCode::SUCCESS)
        }
        Command::Flash(release) => {
            println!("{}", salp_qemu::flash::build_signed(&signer(&release)?)?.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Setup { guests } => {
            let qemu = salp_qemu::setup::Qemu::find()?;
            for target in [salp_qemu::image::TARGET, salp_qemu::image::LINUX_TARGET] {
                salp_qemu::setup::ensure_target(target)?;
            }
            println!("{} (QEMU {}.{})", qemu.program.display(), qemu.version.0, qemu.version.1);
            if guests {
                for stock in &salp_qemu::debian::STOCK {
                    // Before the kernel: both come in one package.
                    stock.modules()?;
                    println!("{:<12} {}  {}", stock.name, stock.fetch()?.display(), stock.about);
                }
                println!("{:<12} {}", "busybox", salp_qemu::debian::busybox()?.display());
                println!("{:<12} {}", "stress-ng", salp_qemu::debian::stress_ng()?.display());
                println!("{:<12} {}", "QEMU 10", salp_qemu::setup::Qemu::find_10()?.program.display());
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns the key that is asked for.
fn signer(release: &Release) -> anyhow::Result<Signer> {
    release.key.as_deref().map_or_else(|| Ok(Signer::development()), Signer::release)
}
