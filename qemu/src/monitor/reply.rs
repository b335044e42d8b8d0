//! What EL2 answers, for programs: rows and an outcome, and the same in JSON.

use anyhow::{Context, Result, anyhow, bail};
use salp_core::monitor::words::Words;
use serde_json::{Map, Value, json};

/// A line of `key=value`: numbers, truth values and text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row(pub Map<String, Value>);

impl Row {
    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Returns a value that is a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// Returns a value that is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    fn read(line: &str) -> Result<Self> {
        let broken = || format!("EL2 answers {line:?}, which is no row");
        let mut bytes = line.as_bytes().to_vec();
        let mut words = Words::new(&mut bytes);
        let mut row = Map::new();
        while let Some(word) = words.take().map_err(|error| anyhow!("{error}")).with_context(broken)? {
            let (key, value) = word.text.split_once('=').with_context(broken)?;
            let value = match (value, word.is_quoted) {
                ("true", false) => json!(true),
                ("false", false) => json!(false),
                (digits, false) => digits.parse::<u64>().map_or_else(|_| json!(digits), |number| json!(number)),
                (text, true) => json!(text),
            };
            row.insert(key.into(), value);
        }
        Ok(Self(row))
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its rows, in order.
    pub rows: Vec<Row>,
    outcome: Result<Row, Refusal>,
}

#[derive(Clone, Debug, PartialEq)]
struct Refusal {
    code: String,
    message: String,
}

impl Reply {
    /// Reads the lines of a reply.
    ///
    /// # Errors
    ///
    /// Names the line that is none of a reply.
    pub fn read(lines: &[String]) -> Result<Self> {
        let (last, rows) = lines.split_last().context("a reply has a last line")?;
        let rows = rows.iter().map(|line| Row::read(line)).collect::<Result<_>>()?;
        let outcome = match last.split_once(' ').unwrap_or((last, "")) {
            ("ok", pairs) => Ok(Row::read(pairs)?),
            ("error", rest) => {
                let (code, message) = rest.split_once(' ').unwrap_or((rest, ""));
                let mut message = message.as_bytes().to_vec();
                let word = Words::new(&mut message).take().map_err(|error| anyhow!("{error}"));
                let message = word.with_context(|| format!("EL2 answers {last:?}"))?.map_or("", |word| word.text);
                Err(Refusal { code: code.into(), message: message.into() })
            }
            _ => bail!("EL2 answers {last:?}, which ends no reply"),
        };
        Ok(Self { rows, outcome })
    }

    /// Returns whether EL2 did it.
    pub fn is_ok(&self) -> bool {
        self.outcome.is_ok()
    }

    /// Returns a value of the last line.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.outcome.as_ref().ok()?.get(key)
    }

    /// Returns a number of the last line.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.as_u64()
    }

    /// Returns why EL2 refused, as a word (`salp_hvc::status`).
    pub fn error(&self) -> Option<&str> {
        self.outcome.as_ref().err().map(|refusal| &*refusal.code)
    }

    /// Returns why EL2 refused, for people.
    pub fn message(&self) -> Option<&str> {
        self.outcome.as_ref().err().map(|refusal| &*refusal.message)
    }

    /// Returns the reply as scripts get it.
    pub fn to_json(&self) -> Value {
        match &self.outcome {
            Ok(last) => {
                let mut object = Map::new();
                object.insert("ok".into(), json!(true));
                object.extend(last.0.clone());
                object.insert("rows".into(), self.rows.iter().map(|row| Value::Object(row.0.clone())).collect());
                Value::Object(object)
            }
            Err(refusal) => failure(&refusal.code, &refusal.message),
        }
    }
}

/// Returns the reply in JSON to what was not done.
pub fn failure(code: &str, message: &str) -> Value {
    json!({"ok": false, "error": code, "message": message})
}

/// Returns whether a line is the last one of a reply.
pub(super) fn is_last(line: &str) -> bool {
    matches!(line.split(' ').next(), Some("ok" | "error"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use salp_core::monitor::reply;

    fn read(text: &str) -> Result<Reply> {
        Reply::read(&text.lines().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn values_keep_their_kinds_and_rows_their_order() {
        let reply = read("id=7 name=web up=true\nid=8 name=\"8\" up=\"true\"\nok made=2 first=7").expect("a reply");
        assert_eq!(
            reply.to_json().to_string(),
            r#"{"ok":true,"made":2,"first":7,"rows":[{"id":7,"name":"web","up":true},{"id":8,"name":"8","up":"true"}]}"#
        );
        assert_eq!((reply.number("made"), reply.value("none"), reply.error()), (Some(2), None, None));
    }

    #[test]
    fn a_refusal_has_a_code_and_a_message() {
        let reply = read("error no-memory \"40 MiB are \\\"missing\\\"\"").expect("a reply");
        assert_eq!(reply.to_json(), failure("no-memory", "40 MiB are \"missing\""));
        assert_eq!(read("error busy").expect("a reply").message(), Some(""));
    }

    #[test]
    fn what_is_no_reply_is_named() {
        for (text, line) in [("id\nok", "id"), ("", "last line"), ("id=\"1\nok", "id="), ("okay", "okay")] {
            let error = format!("{:#}", read(text).expect_err("no reply"));
            assert!(error.contains(line), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_el2_writes_is_read_back(text in any::<String>(), number in any::<u64>(), flag in any::<bool>()) {
            let mut lines = String::new();
            reply::Row::new(&mut lines).text("t", &text).number("n", number).flag("f", flag).end().expect("a row");
            reply::Row::ok(&mut lines).text("t", &text).end().expect("a line");
            let lines: Vec<String> = lines.split_terminator('\n').map(String::from).collect();
            let reply = Reply::read(&lines).expect("a reply");
            prop_assert_eq!(reply.to_json(), json!({"ok": true, "t": text, "rows": [{"t": text, "n": number, "f": flag}]}));
        }

        #[test]
        fn no_lines_break_the_reader(lines in proptest::collection::vec("\\PC{0,20}|(ok|error|[a-z]=)[ \"a-z=0-9]{0,20}", 0..4)) {
            let _ = Reply::read(&lines);
        }
    }
}
