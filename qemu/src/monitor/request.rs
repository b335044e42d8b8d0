//! Requests: the JSON of scripts, and the words of people, by one table. A request becomes one line for EL2.

use anyhow::{Context, Result, bail, ensure};
use salp_core::monitor::MAX_LINE;
use salp_core::monitor::words::Quoted;
use serde_json::{Map, Value, json};

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Count,
    Pairs,
}

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Count => "a whole number from 0",
            Self::Pairs => "an object with text values, and no = in its keys",
        }
    }
}

/// Where a field stands in the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// As a word, always there.
    Word,
    /// As a word, if it is given.
    MaybeWord,
    /// Behind this option, if it is given.
    Option(&'static str),
}

/// A field of a request.
struct Field {
    name: &'static str,
    kind: Kind,
    place: Place,
}

const fn word(name: &'static str) -> Field {
    Field { name, kind: Kind::Text, place: Place::Word }
}

const fn option(name: &'static str, kind: Kind, option: &'static str) -> Field {
    Field { name, kind, place: Place::Option(option) }
}

/// What can be asked for, each with the fields besides `op`, in the order of the line.
const OPERATIONS: [(&str, &[Field]); 20] = [
    ("list", &[]),
    ("info", &[word("vm")]),
    (
        "clone",
        &[
            word("vm"),
            option("count", Kind::Count, "--count"),
            option("name", Kind::Text, "--name"),
            option("config", Kind::Pairs, "--config"),
            option("reserve", Kind::Text, "--reserve"),
        ],
    ),
    ("freeze", &[word("vm")]),
    ("unfreeze", &[word("vm")]),
    ("snapshot", &[word("vm"), word("name")]),
    ("revert", &[word("vm"), word("to")]),
    ("shutdown", &[word("vm")]),
    ("destroy", &[word("vm")]),
    ("start", &[word("vm")]),
    ("stop", &[word("vm")]),
    ("reset", &[word("vm")]),
    ("images", &[]),
    ("stats", &[Field { name: "vm", kind: Kind::Text, place: Place::MaybeWord }]),
    ("net", &[Field { name: "vm", kind: Kind::Text, place: Place::MaybeWord }]),
    ("console", &[word("vm")]),
    ("log", &[]),
    ("handover", &[Field { name: "image", kind: Kind::Text, place: Place::MaybeWord }]),
    ("confirm", &[]),
    ("help", &[]),
];

fn operation(name: &str) -> Result<&'static [Field]> {
    let found = OPERATIONS.iter().find(|operation| operation.0 == name).map(|operation| operation.1);
    found.with_context(|| {
        let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.0).collect();
        format!("there is no op {name:?}: it is one of {}", names.join(", "))
    })
}

/// Turns a request in JSON into a line for EL2.
///
/// # Errors
///
/// Says what is wrong, and what is expected.
pub fn line(request: &[u8]) -> Result<String> {
    let request: Value =
        serde_json::from_slice(request).context("a request is one JSON object on a line, like {\"op\":\"list\"}")?;
    let Value::Object(mut request) = request else {
        bail!("a request is one JSON object on a line, like {{\"op\":\"list\"}}");
    };
    let name = request.remove("op").context("op is missing: a request is like {\"op\":\"list\"}")?;
    let name = name.as_str().context("op is text, like {\"op\":\"list\"}")?;
    let fields = operation(name)?;
    let mut line = String::from(name);
    for field in fields {
        match request.remove(field.name) {
            Some(value) => add(&mut line, field, &value)
                .with_context(|| format!("{} of {name} is {}, and not {value}", field.name, field.kind.expected()))?,
            None => ensure!(field.place != Place::Word, "{} of {name} is missing", field.name),
        }
    }
    if let Some(other) = request.keys().next() {
        let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
        let known = if known.is_empty() { "no field besides op".into() } else { known.join(", ") };
        bail!("{name} has no field {other:?}, but {known}");
    }
    ensure!(line.len() <= MAX_LINE, "a request is at most {MAX_LINE} bytes as a line, and this one is {}", line.len());
    Ok(line)
}

/// Adds a field to the line; `None` if it is of another kind.
fn add(line: &mut String, field: &Field, value: &Value) -> Option<()> {
    let mut push = |word: String| {
        if let Place::Option(option) = field.place {
            line.push_str(&format!(" {option}"));
        }
        line.push_str(&format!(" {word}"));
    };
    match field.kind {
        Kind::Text => push(Quoted(value.as_str()?).to_string()),
        Kind::Count => push(value.as_u64()?.to_string()),
        Kind::Pairs => {
            for (key, value) in value.as_object()? {
                push(Quoted(&format!("{key}={}", value.as_str().filter(|_| !key.contains('='))?)).to_string());
            }
        }
    }
    Some(())
}

/// Turns the words of a person, as EL2's own prompt takes them, into a request in JSON.
///
/// # Errors
///
/// Says what is wrong, and what is expected.
pub fn from_words(words: &[String]) -> Result<Value> {
    let (name, mut words) = words.split_first().context("there is no command: `help` lists them")?;
    let fields = operation(name)?;
    let mut request = Map::new();
    request.insert("op".into(), json!(name));
    let mut places = fields.iter().filter(|field| !matches!(field.place, Place::Option(_)));
    while let Some((word, rest)) = words.split_first() {
        words = rest;
        let option = fields.iter().find(|field| matches!(field.place, Place::Option(option) if option == word));
        let (field, word) = match option {
            Some(field) => {
                let (value, rest) = words.split_first().with_context(|| format!("{word} needs a value"))?;
                words = rest;
                (field, value)
            }
            None => {
                ensure!(!word.starts_with("--"), "{name} has no option {word}");
                (places.next().with_context(|| format!("{word:?} is one word too many for {name}"))?, word)
            }
        };
        match field.kind {
            Kind::Pairs => {
                let pairs = request.entry(field.name).or_insert_with(|| json!({}));
                let (key, value) = word.split_once('=').with_context(|| format!("{word:?} is not KEY=VALUE"))?;
                let before = pairs.as_object_mut().and_then(|pairs| pairs.insert(key.into(), json!(value)));
                ensure!(before.is_none(), "{key} is given twice");
            }
            kind => {
                let value = match kind {
                    Kind::Count => json!(word.parse::<u64>().with_context(|| format!("{word:?} is not a number"))?),
                    _ => json!(word),
                };
                ensure!(request.insert(field.name.into(), value).is_none(), "{} is given twice", field.name);
            }
        }
    }
    Ok(Value::Object(request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use salp_core::monitor::command::FORMS;
    use salp_core::monitor::parse;
    use salp_hvc::calls::MAX_CONFIG;

    fn refusal(request: &str) -> String {
        format!("{:#}", line(request.as_bytes()).expect_err(request))
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    /// Reads a line as EL2 does.
    fn read(line: &str) -> String {
        let (mut line, mut config) = (line.as_bytes().to_vec(), [0; MAX_CONFIG]);
        parse(&mut line, &mut config).map_or_else(|error| format!("error: {error}"), |command| format!("{command:?}"))
    }

    #[test]
    fn operations_are_the_commands_of_el2() {
        let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.0).collect();
        assert_eq!(names, FORMS.iter().map(|form| form.name()).collect::<Vec<_>>());
    }

    #[test]
    fn a_request_says_what_the_words_say() {
        for text in [
            "list",
            "info web",
            "freeze #7",
            "unfreeze web",
            "snapshot web before",
            "revert web before",
            "shutdown web",
            "destroy web",
            "start web",
            "stop web",
            "reset #7",
            "images",
            "stats",
            "stats web",
            "net",
            "net web",
            "console web",
            "log",
            "help",
            "clone web",
            "clone web --count 10 --name w --config role=worker --config motto=a=b --reserve 50%",
        ] {
            let request = from_words(&words(text)).expect(text);
            let line = line(request.to_string().as_bytes()).expect(text);
            assert_eq!(read(&line), read(text), "{line}");
            assert!(!read(text).starts_with("error"), "{}", read(text));
        }
    }

    #[test]
    fn mistakes_of_a_request_are_named_with_what_is_expected() {
        assert!(refusal("{\"op\":").contains("one JSON object on a line"));
        assert!(refusal("[1]").contains("one JSON object on a line"));
        assert!(refusal("{}").contains("op is missing"));
        assert!(refusal(r#"{"op":1}"#).contains("op is text"));
        assert!(refusal(r#"{"op":"reboot"}"#).contains("one of list, info, clone"));
        assert!(refusal(r#"{"op":"snapshot","vm":"web"}"#).contains("name of snapshot is missing"));
        assert!(refusal(r#"{"op":"freeze","vm":7}"#).contains("vm of freeze is text, and not 7"));
        assert!(refusal(r#"{"op":"clone","vm":"a","count":"2"}"#).contains("whole number"));
        assert!(refusal(r#"{"op":"clone","vm":"a","count":-1}"#).contains("whole number"));
        assert!(refusal(r#"{"op":"clone","vm":"a","count":1.5}"#).contains("whole number"));
        assert!(refusal(r#"{"op":"clone","vm":"a","config":{"k":1}}"#).contains("an object with text values"));
        assert!(refusal(r#"{"op":"clone","vm":"a","config":"k=v"}"#).contains("an object with text values"));
        assert!(refusal(r#"{"op":"clone","vm":"a","config":{"k=":"v"}}"#).contains("no = in its keys"));
        assert!(refusal(r#"{"op":"clone","vm":"a","Count":1}"#).contains("no field \"Count\", but vm, count, name"));
        assert!(refusal(r#"{"op":"list","vm":"a"}"#).contains("no field besides op"));
        let long = format!(r#"{{"op":"info","vm":"{}"}}"#, "n".repeat(MAX_LINE));
        assert!(refusal(&long).contains("at most 2048 bytes"));
    }

    #[test]
    fn a_name_that_looks_like_an_option_stays_a_name() {
        let line = line(br#"{"op":"clone","vm":"--count","name":"--reserve"}"#).expect("a line");
        assert!(
            read(&line).contains(r#"source: Name("--count"), count: 1, name: Some("--reserve")"#),
            "{}",
            read(&line)
        );
    }

    #[test]
    fn mistakes_of_a_person_are_named_too() {
        for (text, reason) in [
            ("reboot", "one of list"),
            ("list web", "one word too many"),
            ("clone web --fast", "no option --fast"),
            ("clone web --count", "--count needs a value"),
            ("clone web --count many", "not a number"),
            ("clone web --count 1 --count 2", "count is given twice"),
            ("clone web --config role", "KEY=VALUE"),
            ("clone web --config a=1 --config a=2", "a is given twice"),
        ] {
            let said = format!("{:#}", from_words(&words(text)).expect_err(text));
            assert!(said.contains(reason), "{text}: {said}");
        }
        assert!(from_words(&[]).is_err());
    }

    proptest! {
        #[test]
        fn any_request_is_one_line_or_refused(
            op in 0..OPERATIONS.len(),
            vm in any::<String>(),
            config in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..3),
            noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = line(&noise);
            for request in [
                json!({"op": OPERATIONS[op].0, "vm": vm}),
                json!({"op": "clone", "vm": vm, "name": vm, "config": config}),
                json!({"op": OPERATIONS[op].0, "vm": config, "name": vm, "to": vm, "count": op}),
            ] {
                if let Ok(line) = line(request.to_string().as_bytes()) {
                    prop_assert!(!line.contains('\n'), "{}", line);
                }
            }
        }

        #[test]
        fn a_configuration_reaches_el2_as_it_is(pairs in proptest::collection::btree_map("[a-z]{1,9}", "[^\\n\\x00]{0,20}", 0..4)) {
            let line = line(json!({"op": "clone", "vm": "web", "config": pairs}).to_string().as_bytes()).expect("a line");
            let (mut line, mut config) = (line.into_bytes(), [0; MAX_CONFIG]);
            let expected: String = pairs.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            match parse(&mut line, &mut config) {
                Ok(salp_core::monitor::Command::Clone(cloning)) => prop_assert_eq!(cloning.config, expected),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
