//! JSON that is answered or kept: a tree whose names and fixed texts are the program's own, and its text.
//!
//! [`serde_json`] reads what comes from others ([`Parsed`]). Its tree allocates every name and sorts them; an answer has 150, and
//! that was half of what a request costs. Here objects are lists in the order in which they are written.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Index, IndexMut};

/// What was read: see [`serde_json::Value`].
pub use serde_json::Value as Parsed;

#[doc(hidden)]
pub use alloc::vec;

/// A name or a text.
pub type Text = Cow<'static, str>;

/// A JSON value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// null.
    #[default]
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Number(u64),
    /// A number that is less than zero or not whole.
    Other(serde_json::Number),
    /// A text.
    String(Text),
    /// A list.
    Array(Vec<Value>),
    /// An object.
    Object(Map),
}

static NULL: Value = Value::Null;

/// The members of an object, each name once, in the order in which they were put in. They are few: names are looked for from the
/// first one on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(Text, Value)>);

impl Map {
    /// Returns the members. The caller takes care that no name is there twice.
    pub fn of(members: Vec<(Text, Value)>) -> Self {
        Self(members)
    }

    /// Returns how many members there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a member.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// Returns a member to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.0.iter_mut().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// Adds a member, or gives it another value.
    pub fn insert(&mut self, name: impl Into<Text>, value: Value) {
        let name = name.into();
        match self.get_mut(&name) {
            Some(place) => *place = value,
            None => self.0.push((name, value)),
        }
    }

    /// Returns the members.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Value)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Returns the members to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Text, &mut Value)> {
        self.0.iter_mut().map(|(name, value)| (&*name, value))
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a Text, &'a Value);
    type IntoIter =
        core::iter::Map<core::slice::Iter<'a, (Text, Value)>, fn(&'a (Text, Value)) -> (&'a Text, &'a Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl<N: Into<Text>> FromIterator<(N, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(members: I) -> Self {
        let mut map = Self::default();
        members.into_iter().for_each(|(name, value)| map.insert(name, value));
        map
    }
}

impl Value {
    /// Returns a member of an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_object()?.get(name)
    }

    /// Returns a member of an object to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        if let Self::Object(map) = self { map.get_mut(name) } else { None }
    }

    /// Returns the members of an object.
    pub fn as_object(&self) -> Option<&Map> {
        if let Self::Object(map) = self { Some(map) } else { None }
    }

    /// Returns the members of a list.
    pub fn as_array(&self) -> Option<&Vec<Self>> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// Returns the members of a list to change them.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Self>> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// Returns a text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Returns yes or no.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(is_true) = self { Some(*is_true) } else { None }
    }

    /// Returns a number that is whole.
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// Returns any number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number as f64),
            Self::Other(number) => number.as_f64(),
            _ => None,
        }
    }

    /// Returns whether it is an object.
    pub fn is_object(&self) -> bool {
        self.as_object().is_some()
    }

    /// Returns whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Returns what a JSON pointer (RFC 6901) of names without `~` and `/` leads to.
    pub fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Self> {
        pointer.split('/').skip(1).try_fold(self, |value, name| match value {
            Self::Object(map) => map.get_mut(name),
            Self::Array(items) => items.get_mut(name.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// Returns a member to change it, which is null if it was not there. What is no object becomes one.
    pub fn member(&mut self, name: Text) -> &mut Self {
        if !self.is_object() {
            *self = Self::Object(Map::default());
        }
        let Self::Object(Map(members)) = self else { unreachable!("it is an object now") };
        let at = members.iter().position(|(own, _)| *own == name).unwrap_or(members.len());
        if at == members.len() {
            members.push((name, Self::Null));
        }
        &mut members[at].1
    }

    /// Returns its text.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        write(self, &mut out, &|_| true);
        out
    }

    /// Returns a hash of its text without the members of objects whose names are not `wanted`. Who can choose what is hashed
    /// can make two that are the same.
    pub fn hash(&self, wanted: &dyn Fn(&str) -> bool) -> u64 {
        let mut text = Vec::with_capacity(4096);
        write(self, &mut text, wanted);
        text.resize(text.len().next_multiple_of(8), 0);
        // FxHash, eight bytes at a time.
        let mix = |hash: u64, word: &[u8; 8]| {
            (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x517c_c1b7_2722_0a95)
        };
        text.as_chunks::<8>().0.iter().fold(0xcbf2_9ce4_8422_2325, mix)
    }
}

/// Appends the text of a value, but for the members of objects whose names are not `wanted`.
fn write(value: &Value, out: &mut Vec<u8>, wanted: &dyn Fn(&str) -> bool) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(is_true) => out.extend_from_slice(if *is_true { b"true" } else { b"false" }),
        Value::Number(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Value::Other(number) => out.extend_from_slice(alloc::format!("{number}").as_bytes()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            let mut before = b'[';
            for item in items {
                out.push(core::mem::replace(&mut before, b','));
                write(item, out, wanted);
            }
            out.extend_from_slice(if before == b'[' { b"[]" } else { b"]" });
        }
        Value::Object(map) => {
            let mut before = b'{';
            for (name, value) in map.iter().filter(|(name, _)| wanted(name)) {
                out.push(core::mem::replace(&mut before, b','));
                write_text(name, out);
                out.push(b':');
                write(value, out, wanted);
            }
            out.extend_from_slice(if before == b'{' { b"{}" } else { b"}" });
        }
    }
}

/// Appends a text with what RFC 8259, section 7, has escaped.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if has_nothing_to_escape(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for &byte in text.as_bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..0x20 => out.extend_from_slice(alloc::format!("\\u{byte:04x}").as_bytes()),
                _ => out.push(byte),
            }
        }
    }
    out.push(b'"');
}

/// Returns whether no byte is a control character, a quotation mark or a backslash.
fn has_nothing_to_escape(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Eight bytes at a time: the highest bit of each is set where it is less than a bound, and where it is zero.
    let is_less = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word & HIGHS;
    let is = |word: u64, byte: u8| is_less(word ^ ONES * u64::from(byte), 1);
    let escapes = |word: u64| is_less(word, 0x20) | is(word, b'"') | is(word, b'\\');
    let (words, rest) = bytes.as_chunks::<8>();
    let found = words.iter().fold(0, |found, word| found | escapes(u64::from_le_bytes(*word)));
    // What is left over, as the last of the eight bytes that end there, or with spaces before it.
    let last = bytes.last_chunk::<8>().map(|last| u64::from_le_bytes(*last));
    let last = last.unwrap_or_else(|| rest.iter().fold(ONES * u64::from(b' '), |word, byte| word << 8 | u64::from(*byte)));
    found | escapes(last) == 0
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.to_vec()).unwrap_or_default())
    }
}

impl Index<&'static str> for Value {
    type Output = Self;

    fn index(&self, name: &'static str) -> &Self {
        self.get(name).unwrap_or(&NULL)
    }
}

impl IndexMut<&'static str> for Value {
    /// Returns a member to change it, which is null if it was not there. What is no object becomes one.
    fn index_mut(&mut self, name: &'static str) -> &mut Self {
        self.member(name.into())
    }
}

impl Index<usize> for Value {
    type Output = Self;

    fn index(&self, at: usize) -> &Self {
        self.as_array().and_then(|items| items.get(at)).unwrap_or(&NULL)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Value {
    /// Returns the number, or null for one that JSON does not have.
    fn from(value: f64) -> Self {
        serde_json::Number::from_f64(value).map_or(Self::Null, Self::Other)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        u64::try_from(value).map_or_else(|_| Self::Other(value.into()), Self::Number)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        i64::from(value).into()
    }
}

macro_rules! whole {
    ($($number:ty)*) => {
        $(impl From<$number> for Value {
            fn from(value: $number) -> Self {
                Self::Number(value as u64)
            }
        })*
    };
}

whole!(u8 u16 u32 u64 usize);

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::String(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(Cow::Owned(text))
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::String(text)
    }
}

impl<T: Clone + Into<Self>> From<&T> for Value {
    fn from(value: &T) -> Self {
        value.clone().into()
    }
}

impl<A: Into<Self>, B: Into<Self>> From<(A, B)> for Value {
    fn from((first, second): (A, B)) -> Self {
        Self::Array(Vec::from([first.into(), second.into()]))
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Object(map)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Self>, const N: usize> From<[T; N]> for Value {
    fn from(items: [T; N]) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Clone + Into<Self>> From<&[T]> for Value {
    fn from(items: &[T]) -> Self {
        Self::Array(items.iter().cloned().map(Into::into).collect())
    }
}

impl<T: Into<Self>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

impl From<Parsed> for Value {
    fn from(parsed: Parsed) -> Self {
        match parsed {
            Parsed::Null => Self::Null,
            Parsed::Bool(value) => Self::Bool(value),
            Parsed::Number(number) => number.as_u64().map_or(Self::Other(number), Self::Number),
            Parsed::String(text) => text.into(),
            Parsed::Array(items) => items.into(),
            // Each name is there once.
            Parsed::Object(map) => {
                Self::Object(Map(map.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
            }
        }
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(other)
    }
}

/// Returns a [`Value`] that is written as in JSON. Names are literals, or expressions in parentheses; values are `null`, lists,
/// objects, or expressions of what a value can be made [`From`].
#[macro_export]
macro_rules! json {
    (@members [$($done:tt)*]) => {
        $crate::Value::Object($crate::Map::of($crate::vec![$($done)*]))
    };
    (@members [$($done:tt)*] $name:tt : null $(, $($rest:tt)*)?) => {
        $crate::json!(@members [$($done)* ($name.into(), $crate::Value::Null),] $($($rest)*)?)
    };
    (@members [$($done:tt)*] $name:tt : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $crate::json!(@members [$($done)* ($name.into(), $crate::json!({ $($inner)* })),] $($($rest)*)?)
    };
    (@members [$($done:tt)*] $name:tt : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::json!(@members [$($done)* ($name.into(), $crate::json!([ $($inner)* ])),] $($($rest)*)?)
    };
    (@members [$($done:tt)*] $name:tt : $value:expr $(, $($rest:tt)*)?) => {
        $crate::json!(@members [$($done)* ($name.into(), $crate::Value::from($value)),] $($($rest)*)?)
    };
    (@items [$($done:tt)*]) => { $crate::Value::Array($crate::vec![$($done)*]) };
    (@items [$($done:tt)*] null $(, $($rest:tt)*)?) => {
        $crate::json!(@items [$($done)* $crate::Value::Null,] $($($rest)*)?)
    };
    (@items [$($done:tt)*] { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $crate::json!(@items [$($done)* $crate::json!({ $($inner)* }),] $($($rest)*)?)
    };
    (@items [$($done:tt)*] [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::json!(@items [$($done)* $crate::json!([ $($inner)* ]),] $($($rest)*)?)
    };
    (@items [$($done:tt)*] $value:expr $(, $($rest:tt)*)?) => {
        $crate::json!(@items [$($done)* $crate::Value::from($value),] $($($rest)*)?)
    };
    (null) => { $crate::Value::Null };
    ({ $($members:tt)* }) => { $crate::json!(@members [] $($members)*) };
    ([ $($items:tt)* ]) => { $crate::json!(@items [] $($items)*) };
    ($value:expr) => { $crate::Value::from($value) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Others are read back almost as they were.
            any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0 + 0.0625)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn is_same(written: &Value, read: &Parsed) -> bool {
        match (written, read) {
            (Value::Array(items), Parsed::Array(others)) => {
                items.len() == others.len() && items.iter().zip(others).all(|(item, other)| is_same(item, other))
            }
            (Value::Object(map), Parsed::Object(others)) => {
                let has =
                    |(name, value): (&Text, &Value)| others.get(&**name).is_some_and(|other| is_same(value, other));
                map.len() == others.len() && map.iter().all(has)
            }
            (written, read) => *written == Value::from(read.clone()),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(value in any_value()) {
            let read: Parsed = serde_json::from_slice(&value.to_vec()).unwrap();
            prop_assert!(is_same(&value, &read), "{} is read as {}", value, read);
        }

        #[test]
        fn texts_are_escaped_as_others_do_it(text in "[ -~\u{0}-\u{20}\"\\\\\u{7f}-\u{a0}\u{1f600}]{0,40}") {
            let read: String = serde_json::from_slice(&Value::from(text.clone()).to_vec()).unwrap();
            prop_assert_eq!(read, text);
        }
    }

    #[test]
    fn a_tree_is_written_as_it_stands() {
        let name = "b";
        let value = json!({ "z": null, "a": [1, { "c": true }, [], "x\"y"], (name): -1, "f": 0.5, "o": {} });
        assert_eq!(alloc::format!("{value}"), r#"{"z":null,"a":[1,{"c":true},[],"x\"y"],"b":-1,"f":0.5,"o":{}}"#);
    }

    #[test]
    fn members_that_are_not_wanted_are_left_out_at_any_depth() {
        let mut out = Vec::new();
        write(&json!({ "a": 1, "b": { "a": 2, "c": 3 }, "d": [{ "a": 4 }] }), &mut out, &|name| name != "a");
        assert_eq!(out, br#"{"b":{"c":3},"d":[{}]}"#);
    }

    #[test]
    fn a_member_that_is_named_is_made() {
        let mut value = json!({ "a": 1 });
        value["b"]["c"] = 2.into();
        value["a"] = "x".into();
        assert_eq!(value, json!({ "a": "x", "b": { "c": 2 } }));
        assert_eq!(value["none"]["at all"], Value::Null);
    }
}
