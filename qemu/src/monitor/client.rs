//! The monitor for people: finds the machine, asks it, shows what it answers as a table.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What directories of machines begin with, in the host's directory for temporary files.
pub const DIRECTORY: &str = "salp-";

/// The name of the server's socket in them.
pub const SOCKET: &str = "monitor";

/// A table that is wider than this many characters is shown as lists.
const WIDTH: usize = 160;

/// Connects to the monitor at `path`, or to that of the only machine that runs.
///
/// # Errors
///
/// Which sockets there are if it is not one.
pub fn connect(path: Option<&Path>) -> Result<UnixStream> {
    if let Some(path) = path {
        return UnixStream::connect(path).with_context(|| format!("no machine answers at {}", path.display()));
    }
    only(running(&std::env::temp_dir()))
}

fn only(mut found: Vec<(PathBuf, UnixStream)>) -> Result<UnixStream> {
    match (found.pop(), &found[..]) {
        (None, _) => bail!("no machine of this user's runs: start one with `salp up`, or name its --socket"),
        (Some((_, stream)), []) => Ok(stream),
        (Some((last, _)), others) => {
            let paths = others.iter().map(|(path, _)| path).chain([&last]).map(|path| path.display().to_string());
            bail!("several machines run: choose one with --socket\n{}", paths.collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Returns the monitors that take connections, of machines with their files in `directory`.
fn running(directory: &Path) -> Vec<(PathBuf, UnixStream)> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let machines = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(DIRECTORY));
    let sockets = machines.map(|entry| entry.path().join(SOCKET));
    sockets.filter_map(|path| UnixStream::connect(&path).ok().map(|stream| (path, stream))).collect()
}

/// Sends a request and waits for its reply.
///
/// # Errors
///
/// If the machine ends first.
pub fn ask(stream: UnixStream, request: &Value) -> Result<Value> {
    let mut stream = BufReader::new(stream);
    writeln!(stream.get_mut(), "{request}").context("the machine has ended")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    serde_json::from_str(&line).context("the machine has ended")
}

/// Shows a reply to a person: its rows as a table, then what else it says.
pub fn table(reply: &Value) -> String {
    let rows: Vec<Vec<(&str, String)>> = reply["rows"].as_array().into_iter().flatten().map(pairs).collect();
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in rows.iter().flatten() {
        if !keys.contains(key) {
            keys.push(key);
        }
    }
    let cell = |row: &[(&str, String)], key: &str| {
        row.iter().find(|pair| pair.0 == key).map_or_else(String::new, |pair| pair.1.clone())
    };
    let mut lines: Vec<Vec<String>> = vec![keys.iter().map(ToString::to_string).collect()];
    lines.extend(rows.iter().map(|row| keys.iter().map(|key| cell(row, key)).collect()));
    let widths: Vec<usize> = (0..keys.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    if rows.is_empty() {
        // No table.
    } else if widths.iter().map(|width| width + 2).sum::<usize>() > WIDTH + 2 {
        let width = keys.iter().map(|key| key.chars().count()).max().unwrap_or_default();
        let lists = rows.iter().map(|row| row.iter().map(|(key, value)| format!("{key:width$}  {value}\n")).collect());
        text.push_str(&lists.collect::<Vec<String>>().join("\n"));
    } else {
        for line in lines {
            let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
    }
    let others = pairs(reply).into_iter().filter(|(key, _)| !matches!(*key, "ok" | "rows"));
    let others: Vec<String> = others.map(|(key, value)| format!("{key}={value}")).collect();
    if !others.is_empty() {
        text.push_str(&others.join(" "));
        text.push('\n');
    }
    text
}

fn pairs(object: &Value) -> Vec<(&str, String)> {
    let pairs = object.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (&**key, value.as_str().map_or_else(|| value.to_string(), printable))).collect()
}

/// Takes away what would move the cursor of a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Monitor, fake, server::Server};
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_become_a_table_and_wide_rows_lists() {
        let reply = json!({"ok": true, "made": 2, "rows": [{"id": 7, "name": "web"}, {"id": 10, "name": "a\u{1b}b", "up": true}]});
        assert_eq!(table(&reply), "id  name  up\n7   web\n10  a.b   true\nmade=2\n");
        assert_eq!(table(&json!({"ok": true, "rows": []})), "");
        let wide = "x".repeat(WIDTH);
        let lists = table(&json!({"rows": [{"id": 7, "text": wide}, {"id": 8, "text": "y"}]}));
        assert_eq!(lists, format!("id    7\ntext  {wide}\n\nid    8\ntext  y\n"));
    }

    #[test]
    fn the_only_machine_is_found_and_answers() {
        let temporary = tempfile::tempdir().expect("a directory");
        let machine = |name: &str| {
            let directory = temporary.path().join(name);
            fs::create_dir(&directory).expect("a directory");
            directory.join(SOCKET)
        };
        let start = |path: &Path| {
            Server::start(path, Monitor::new(fake::el2(fake::one_vm)).expect("a monitor")).expect("a server")
        };
        assert!(only(running(temporary.path())).is_err());
        let (ended, other, first) = (machine("salp-ended"), machine("other"), machine("salp-1"));
        drop(std::os::unix::net::UnixListener::bind(ended).expect("a socket"));
        let _other = start(&other);
        let server = start(&first);
        let stream = only(running(temporary.path())).expect("one");
        assert_eq!(ask(stream, &json!({"op": "list"})).expect("a reply")["rows"][0]["name"], "web");
        let _second = start(&machine("salp-2"));
        let several = only(running(temporary.path())).expect_err("two").to_string();
        assert!(several.contains("salp-1") && several.contains("salp-2"), "{several}");
        drop(server);
        assert!(only(running(temporary.path())).is_ok());
        assert!(connect(Some(&first)).is_err());
    }
}
