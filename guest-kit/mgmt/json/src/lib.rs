//! JSON that is answered or kept: a tree whose names and fixed texts are the program's own, and its text.
//!
//! [`serde_json`] reads what comes from others ([`Parsed`]). Its tree allocates every name and sorts them; an answer has 150, and
//! that was half of what a request costs. Here objects are lists in the order in which they are written.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod text;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Index, IndexMut};

use text::Writer;

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
        self.to_hashed_vec(&|_| true).0
    }

    /// Returns its text, and a hash of it that is the same whatever is said in members of objects whose names do not stay. Who can
    /// choose what is hashed can make two that are the same.
    pub fn to_hashed_vec(&self, stays: &dyn Fn(&str) -> bool) -> (Vec<u8>, u64) {
        let mut writer = Writer::new(stays);
        writer.value(self);
        writer.finish()
    }
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
    fn a_hash_is_of_what_stays_at_any_depth() {
        let tree = |changes: u64, stays: u64| json!({ "a": changes, "b": { "a": { "c": changes, "b": [changes] }, "c": stays }, "d": [{ "a": [changes] }], "e": stays });
        let hash = |value: &Value| value.to_hashed_vec(&|name| name != "a").1;
        let all =
            [(1, 1), (123_456_789_012, 1), (1, 2), (1, 123_456_789_012)].map(|(one, other)| hash(&tree(one, other)));
        assert_eq!(all[0], all[1]);
        assert!(all[0] != all[2] && all[0] != all[3] && all[2] != all[3]);
        assert_ne!(hash(&json!({ "b": ["x", ""] })), hash(&json!({ "b": ["", "x"] })));
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
