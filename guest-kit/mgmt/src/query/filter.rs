//! `$filter`: which members of a collection are wanted. Before: [`query`](super). After: nothing.
//!
//! Grammar: `or` binds less than `and`, that less than `not`; parentheses; comparisons of a property, a path with slashes, with
//! a text in quotes, a number, `true`, `false` or `null`.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;

use salp_json::{Parsed, Value};

/// How deep parentheses and `not` may be: what reads them calls itself.
const DEEPEST: usize = 16;

type Compare = fn(Ordering) -> bool;

/// Comparisons by name.
const COMPARISONS: [(&str, Compare); 6] = [
    ("eq", Ordering::is_eq),
    ("ne", Ordering::is_ne),
    ("gt", Ordering::is_gt),
    ("ge", Ordering::is_ge),
    ("lt", Ordering::is_lt),
    ("le", Ordering::is_le),
];

/// A condition.
#[derive(Debug)]
pub enum Filter {
    /// One of these.
    Any(Vec<Filter>),
    /// All of these.
    All(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// A property compared with a value.
    Compare {
        /// The way to the property.
        path: String,
        /// The name of the comparison.
        name: &'static str,
        /// What is compared with.
        with: Value,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    Word(String),
    Literal(Value),
}

/// Takes a text apart.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' => {
                tokens.push(if first == '(' { Token::Open } else { Token::Close });
                1
            }
            '\'' => {
                let (mut value, mut at) = (String::new(), 1);
                loop {
                    let end = at + rest.get(at..)?.find('\'')?;
                    value += &rest[at..end];
                    at = end + 1;
                    // Two quotes are one.
                    if !rest[at..].starts_with('\'') {
                        break;
                    }
                    value.push('\'');
                    at += 1;
                }
                tokens.push(Token::Literal(value.into()));
                at
            }
            _ => {
                let end = rest.find([' ', '(', ')', '\'']).unwrap_or(rest.len());
                let word = &rest[..end];
                let is_number = first.is_ascii_digit() || first == '-';
                tokens.push(match word {
                    "true" | "false" | "null" => Token::Literal(serde_json::from_str::<Parsed>(word).ok()?.into()),
                    _ if is_number => Token::Literal(serde_json::from_str::<Parsed>(word).ok()?.into()),
                    _ => Token::Word(word.to_string()),
                });
                end
            }
        };
        rest = rest[length..].trim_start();
    }
    Some(tokens)
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    /// Takes a word if it comes next.
    fn take(&mut self, word: &str) -> bool {
        let is_next = matches!(self.tokens.get(self.at), Some(Token::Word(next)) if next == word);
        self.at += usize::from(is_next);
        is_next
    }

    fn list(&mut self, word: &str, part: fn(&mut Self) -> Option<Filter>) -> Option<Vec<Filter>> {
        let mut parts = Vec::from([part(self)?]);
        while self.take(word) {
            parts.push(part(self)?);
        }
        Some(parts)
    }

    fn any(&mut self) -> Option<Filter> {
        self.list("or", |reader| reader.list("and", Self::one).map(Filter::All)).map(Filter::Any)
    }

    fn one(&mut self) -> Option<Filter> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let filter = if self.take("not") { Filter::Not(Box::new(self.one()?)) } else { self.comparison()? };
        self.depth -= 1;
        Some(filter)
    }

    fn comparison(&mut self) -> Option<Filter> {
        let path = match self.next()? {
            Token::Open => {
                let inner = self.any()?;
                return (self.next()? == Token::Close).then_some(inner);
            }
            Token::Word(path) => path,
            _ => return None,
        };
        let Token::Word(name) = self.next()? else { return None };
        let &(name, _) = COMPARISONS.iter().find(|(known, _)| *known == name)?;
        let Token::Literal(with) = self.next()? else { return None };
        Some(Filter::Compare { path, name, with })
    }
}

/// Compares what can be compared.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => Some(left.cmp(right)),
        (Value::Number(_) | Value::Other(_), Value::Number(_) | Value::Other(_)) => {
            left.as_f64()?.partial_cmp(&right.as_f64()?)
        }
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

impl Filter {
    /// Reads a condition.
    pub fn new(text: &str) -> Option<Self> {
        let mut reader = Reader { tokens: tokens(text)?, at: 0, depth: 0 };
        let filter = reader.any()?;
        (reader.at == reader.tokens.len()).then_some(filter)
    }

    /// Returns whether a resource fulfils the condition. A property that is not there is null; what cannot be compared is not
    /// equal, and neither more nor less.
    pub fn takes(&self, resource: &Value) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.takes(resource)),
            Self::All(parts) => parts.iter().all(|part| part.takes(resource)),
            Self::Not(inner) => !inner.takes(resource),
            Self::Compare { path, name, with } => {
                let value = path.split('/').try_fold(resource, |value, name| value.get(name)).unwrap_or(&Value::Null);
                let compare = COMPARISONS.iter().find(|(known, _)| known == name).map(|&(_, compare)| compare);
                match order(value, with) {
                    Some(order) => compare.is_some_and(|compare| compare(order)),
                    None => *name == "ne",
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use salp_json::json;

    #[test]
    fn a_condition_is_what_it_says() {
        let vm =
            json!({ "Name": "it's", "Count": 2, "Size": 0.5, "On": true, "Oem": { "Salp": { "State": "running" } } });
        for (text, takes) in [
            ("Name eq 'it''s'", true),
            ("Count gt 1 and Size le 0.5", true),
            ("Count ge 2.5", false),
            ("Count lt 10 and Count ne 3", true),
            ("On eq true", true),
            ("On eq 'true'", false),
            ("Oem/Salp/State eq 'running'", true),
            ("Missing eq null", true),
            ("Missing gt 1", false),
            ("Missing ne 1", true),
            ("not (Count eq 2)", false),
            ("Count eq 3 or Count eq 2 and On eq true", true),
            ("(Count eq 2 or Count eq 3) and On eq false", false),
            ("not Count eq 2 or On eq true", true),
        ] {
            assert_eq!(Filter::new(text).map(|filter| filter.takes(&vm)), Some(takes), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        let deep = "(".repeat(100_000);
        for text in
            ["", "A", "A eq", "A is 1", "1 eq A", "A eq 1 B", "(A eq 1", "A eq 1)", "A eq 'x", "and", "A eq 1x", &deep]
        {
            assert!(Filter::new(text).is_none(), "{text:.20}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c '()0-9/]{0,40}|\\PC{0,30}") {
            let _ = Filter::new(&text).map(|filter| filter.takes(&json!({ "a": 1 })));
        }
    }
}
