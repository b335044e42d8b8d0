//! When an image is to be started. Before: bodies of requests ([`push`](super::push),
//! [`resources::updates`](crate::resources::updates)). After: [`install`](super::install).

use salp_json::{Parsed, Value, json};

use crate::resources::body::Body;
use crate::resources::fields::{Field, Shape, field, needed};
use crate::resources::read_time;

/// How requests say it.
pub const TIME: &str = "@Redfish.OperationApplyTime";
/// How they say which window.
pub const WINDOW: &str = "@Redfish.MaintenanceWindow";
const START: &str = "MaintenanceWindowStartTime";
const DURATION: &str = "MaintenanceWindowDurationInSeconds";
/// The longest window, in seconds: a week.
const LONGEST: u64 = 7 * 86400;

/// What they say.
pub const TIMES: [&str; 4] = ["Immediate", "OnReset", "AtMaintenanceWindowStart", "OnStartUpdateRequest"];

/// What bodies hold of it.
pub const FIELDS: [Field; 2] = [
    field(TIME, Shape::Word(&TIMES)),
    field(WINDOW, Shape::Object(&[needed(START, Shape::Text("")), needed(DURATION, Shape::Number(1, LONGEST))])),
];

/// When an image is to be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Now: the machine is reset.
    Immediate,
    /// When the machine is reset the next time.
    #[default]
    OnReset,
    /// In a window that begins at this time, in seconds since 1970, and is so long.
    Window(u64, u64),
    /// When somebody asks for it.
    OnRequest,
}

impl When {
    /// Reads it out of a body. What says nothing means the next reset, whoever makes it.
    pub fn read(body: &mut Body, now: u64) -> Self {
        let word = body.word(TIME, &TIMES);
        let window = body.inside(WINDOW, |body| {
            let start = body.needed_parsed(START, read_time);
            let duration = body.number(DURATION, 1..=LONGEST);
            body.needed(DURATION, &duration);
            start.zip(duration)
        });
        match (word.as_deref(), window.flatten()) {
            (Some("Immediate"), _) => Self::Immediate,
            (Some("OnStartUpdateRequest"), _) => Self::OnRequest,
            (Some("AtMaintenanceWindowStart"), Some((start, duration))) => {
                if now >= start + duration {
                    body.refuse(WINDOW, "It is over.");
                }
                Self::Window(start, duration)
            }
            (Some("AtMaintenanceWindowStart"), None) => {
                body.needed(WINDOW, &None::<()>);
                Self::OnReset
            }
            _ => Self::OnReset,
        }
    }

    /// Returns it as it is kept.
    pub fn kept(self) -> Value {
        match self {
            Self::Immediate => json!([0]),
            Self::OnReset => json!([1]),
            Self::Window(start, duration) => json!([2, start, duration]),
            Self::OnRequest => json!([3]),
        }
    }

    /// Returns what was kept.
    pub fn put_back(kept: &Parsed) -> Option<Self> {
        Some(match kept[0].as_u64()? {
            0 => Self::Immediate,
            1 => Self::OnReset,
            2 => Self::Window(kept[1].as_u64()?, kept[2].as_u64()?),
            3 => Self::OnRequest,
            _ => return None,
        })
    }
}
