//! Programs of the user's that run before a VM is frozen and after it goes on. [`freeze`](crate::freeze) and
//! [`watch`](crate::watch) run them.

use anyhow::{Context, Result, ensure};
use rustix::fs::{Access, access};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where hooks are unless somebody says otherwise.
pub const DIRECTORY: &str = "/etc/salp/hooks.d";

/// What hooks are run for; their argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before,
    After,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Programs in a directory, and commands for the shell.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// The directory; [`DIRECTORY`], if there is one, unless somebody says otherwise.
    pub directory: Option<PathBuf>,
    /// Commands that run before.
    pub before: Vec<String>,
    /// Commands that run after.
    pub after: Vec<String>,
}

impl Hooks {
    /// Runs the hooks for before, until one fails.
    ///
    /// # Errors
    ///
    /// Which one failed, and how.
    pub fn before(&self) -> Result<()> {
        self.programs(Phase::Before)?.iter_mut().try_for_each(|(name, command)| run(name, command))
    }

    /// Runs the hooks for after, all of them. Returns what failed.
    pub fn after(&self, environment: &[(String, String)]) -> Vec<anyhow::Error> {
        let mut programs = match self.programs(Phase::After) {
            Ok(programs) => programs,
            Err(error) => return vec![error],
        };
        let variables = || environment.iter().map(|(key, value)| (key, value));
        let results = programs.iter_mut().map(|(name, command)| run(name, command.envs(variables())));
        results.filter_map(Result::err).collect()
    }

    /// Returns what is to be run, with names for people.
    fn programs(&self, phase: Phase) -> Result<Vec<(String, Command)>> {
        let directory = match &self.directory {
            Some(directory) => Some(&**directory),
            None => Some(Path::new(DIRECTORY)).filter(|path| path.is_dir()),
        };
        let mut programs = Vec::new();
        for path in directory.map(executables).transpose()?.unwrap_or_default() {
            let mut command = Command::new(&path);
            command.arg(phase.word());
            programs.push((format!("the hook {} {}", path.display(), phase.word()), command));
        }
        let lines = if phase == Phase::Before { &self.before } else { &self.after };
        for line in lines {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", line]);
            programs.push((format!("the command `{line}`"), command));
        }
        Ok(programs)
    }
}

/// Returns the programs of a directory, by name. Files that start with a dot are none.
fn executables(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
        .collect();
    paths.sort();
    Ok(paths)
}

fn run(name: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{name} cannot be run"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A directory with hooks that write what they know to the file `log` beside them.
    ///
    /// Another process writes them: a program that this one has open, a child that another test starts meanwhile has
    /// open too, and what is open for writing cannot be run (`ETXTBSY`).
    fn directory(hooks: &[(&str, &str, &str)]) -> TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, mode, script) in hooks {
            let script = format!("#!/bin/sh\ncd {}\n{script}\n", directory.path().display());
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", r#"printf %s "$1" > "$2" && chmod "$3" "$2""#, "sh", &script]);
            assert!(shell.arg(directory.path().join(name)).arg(mode).status().expect("a shell").success());
        }
        directory
    }

    fn hooks(directory: &TempDir) -> Hooks {
        Hooks { directory: Some(directory.path().into()), ..Hooks::default() }
    }

    fn log(directory: &TempDir) -> String {
        fs::read_to_string(directory.path().join("log")).unwrap_or_default()
    }

    #[test]
    fn hooks_run_by_name_and_commands_behind_them() {
        let directory =
            directory(&[("20-b", "755", "echo b $1 >> log"), ("10-a", "755", "echo a $1 $SALP_NAME >> log")]);
        let mut hooks = hooks(&directory);
        let to_log = |word: &str| format!("echo {word} $SALP_NAME >> {}/log", directory.path().display());
        hooks.before = vec![to_log("first"), to_log("second")];
        hooks.after = vec![to_log("last")];
        hooks.before().expect("all succeed");
        assert!(hooks.after(&[("SALP_NAME".into(), "web-1".into())]).is_empty());
        assert_eq!(log(&directory), "a before\nb before\nfirst\nsecond\na after web-1\nb after\nlast web-1\n");
    }

    #[test]
    fn what_is_no_program_is_no_hook() {
        let log_it = "echo $0 >> log";
        let directory = directory(&[("README", "644", log_it), (".hidden", "755", log_it)]);
        fs::create_dir(directory.path().join("directory")).expect("made");
        hooks(&directory).before().expect("nothing to do");
        assert_eq!(log(&directory), "");
    }

    #[test]
    fn the_first_hook_that_fails_ends_those_before_a_freeze() {
        let directory = directory(&[("10-a", "755", "exit 7"), ("20-b", "755", "echo b >> log")]);
        let error = hooks(&directory).before().expect_err("a failure").to_string();
        assert!(error.contains("10-a before failed: exit status: 7"), "{error}");
        assert_eq!(log(&directory), "");
    }

    #[test]
    fn a_hook_that_fails_afterwards_does_not_stop_the_others() {
        let directory = directory(&[("10-a", "755", "exit 7"), ("20-b", "755", "echo b >> log")]);
        assert_eq!(hooks(&directory).after(&[]).len(), 1);
        assert_eq!(log(&directory), "b\n");
    }

    #[test]
    fn a_directory_that_was_named_must_be_there() {
        let hooks = Hooks { directory: Some("/nowhere".into()), ..Hooks::default() };
        assert!(hooks.before().expect_err("missing").to_string().contains("/nowhere"));
    }
}
