//! What each path says and does. Before: [`table`](crate::table). After: [`hypervisor`](crate::hypervisor),
//! [`auth`](crate::auth).

pub mod accounts;
pub mod aggregation;
pub mod body;
pub mod boot;
pub mod certificates;
pub mod clones;
pub mod console;
pub mod events;
pub mod fields;
pub mod hardware;
pub mod images;
pub mod logs;
pub mod making;
pub mod managers;
pub mod media;
pub mod metrics;
pub mod network;
pub mod nics;
pub mod power;
pub mod registries;
pub mod root;
pub mod schemas;
pub mod sessions;
pub mod snapshots;
pub mod software;
pub mod systems;
pub mod tasks;
pub mod telemetry;
pub mod updates;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Value, json};

use crate::appliance::Appliance;
use crate::audit::Audit;
use crate::auth::{Auth, Who, hex};
use crate::events::Events;
use crate::flow::Sink;
use crate::http::{Request, Response};
use crate::hypervisor::Hypervisor;
use crate::images::Library;
use crate::message::Failure;
use crate::service::{self, Facts};
use crate::state;
use crate::table::Variables;
use crate::tasks::{Job, Order, Tasks};
use crate::telemetry::Telemetry;
use crate::tls::keys::Keys;
use crate::updates::Updates;

/// A request on its way to a resource.
pub struct Call<'a> {
    /// The request.
    pub request: &'a Request,
    /// The segments of its path that the pattern leaves open.
    pub variables: Variables<'a>,
    /// Who asks; nobody only where everybody may.
    pub who: Option<&'a Who>,
    /// The time, in seconds since 1970.
    pub now: u64,
    /// Accounts and sessions.
    pub auth: &'a mut Auth,
    /// Who changed what.
    pub audit: &'a Audit,
    /// What has happened, and who is told.
    pub events: &'a mut Events,
    /// What takes longer than a request.
    pub tasks: &'a mut Tasks,
    /// Reports and thresholds.
    pub telemetry: &'a mut Telemetry,
    /// Images, as this request has found them.
    pub library: &'a Library,
    /// The appliance itself.
    pub appliance: &'a mut Appliance,
    /// Updates under way.
    pub updates: &'a mut Updates,
    /// Keys and certificates of the server.
    pub keys: &'a mut Keys,
    /// The hypervisor.
    pub hypervisor: &'a mut dyn Hypervisor,
    /// What the service knows of itself.
    pub facts: Facts,
    /// How many requests there have been.
    pub requests: u64,
}

/// What a resource answers.
#[derive(Debug)]
pub enum Outcome {
    /// The request is good so far: its body goes here.
    Body(Box<dyn Sink>),
    /// What goes on as a task.
    Task(Order, Box<dyn Job>),
    /// An answer as it is, which may go on behind its head.
    Answer(Response),
    /// A part of something has come, and what there is of it now.
    Accepted(Value),
    /// A resource, or the answer of an action.
    Resource(Value),
    /// A new resource.
    Created {
        /// What it is.
        value: Value,
        /// Where it is.
        location: String,
        /// What opens it: of a session.
        token: Option<String>,
    },
    /// Something that is no JSON.
    Text {
        /// The media type.
        kind: &'static str,
        /// The text.
        body: String,
    },
    /// It is done, and there is nothing to say.
    Done,
}

/// A function of a resource.
pub type Handler = fn(&mut Call<'_>) -> Result<Outcome, Failure>;

impl Call<'_> {
    /// Returns the failure that says that nothing is here.
    pub fn missing(&self) -> Failure {
        Failure::new(404, "ResourceMissingAtURI", &[&self.request.path])
    }

    /// Returns whether what is to be kept of listeners and reports fits into its record.
    pub fn fits(&self) -> bool {
        state::fits(self.events, self.telemetry)
    }

    /// Returns the first open segment of the path as an identifier, as this service writes it.
    pub fn id(&self) -> Result<u64, Failure> {
        let text = self.variables[0];
        let is_plain = !text.starts_with(['0', '+']);
        text.parse().ok().filter(|_| is_plain).ok_or_else(|| self.missing())
    }
}

/// Returns a collection.
pub fn collection(path: &str, kind: &str, name: &'static str, members: impl Iterator<Item = String>) -> Value {
    let members: Vec<Value> = members.map(|path| json!({ "@odata.id": path })).collect();
    json!({
        "@odata.id": path.to_string(),
        "@odata.type": format!("#{kind}.{kind}"),
        "Name": name,
        "Members@odata.count": members.len(),
        "Members": members,
    })
}

/// Returns the answer of an action that says where something is now.
fn located(value: &Value, location: String) -> Response {
    service::resource(200, value.clone()).field("Location", location)
}

/// Returns a UUID as text.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// Reads a UUID.
pub fn read_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u32> = text.chars().filter(|&c| c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | *digit as u8)).collect();
    let bytes = <[u8; 16]>::try_from(bytes).ok().filter(|bytes| digits.len() == 32 && *bytes != [0; 16])?;
    text.eq_ignore_ascii_case(&uuid(&bytes)).then_some(bytes)
}

/// Returns a time as text (RFC 3339), from seconds since 1970.
pub fn time(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86400);
    let rest = seconds % 86400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Reads a time as text (RFC 3339), and returns seconds since 1970.
pub fn read_time(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let (clock, offset) = rest.split_at(rest.find(['Z', 'z', '+', '-'])?);
    let number = |text: &str, digits: usize| {
        let is_plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_plain { text.parse::<u64>().ok() } else { None }
    };
    let three = |text: &str, by: char, first: usize| {
        let mut parts = text.split(by);
        let numbers = [number(parts.next()?, first)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?];
        parts.next().is_none().then_some(numbers)
    };
    let [year, month, day] = three(date, '-', 4)?;
    // Parts of a second are not kept.
    let [hour, minute, second] = three(clock.split('.').next()?, ':', 2)?;
    let days = days(year, month, day)?;
    let ahead = match offset {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            let ahead = (number(hours, 2)? * 60 + number(minutes, 2)?) as i64 * 60;
            if offset.starts_with('-') { -ahead } else { ahead }
        }
    };
    let is_time = hour < 24 && minute < 60 && second < 61;
    let seconds = days * 86400 + hour * 3600 + minute * 60 + second;
    if is_time { seconds.checked_add_signed(-ahead) } else { None }
}

/// Returns the days from 1970 to a day: the other way round than [`date`], which says whether there is such a day.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let first = (1970..year.min(10_000))
        .map(|year| 365 + u64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)))
        .sum::<u64>();
    (first..first + 366).find(|&at| date(at) == (year, month, day))
}

/// Returns year, month and day of a day since 1970 (Howard Hinnant's `civil_from_days`, for days after the epoch).
fn date(days: u64) -> (u64, u64, u64) {
    // Years start in March, so that the leap day is the last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_795_697_226), "2026-11-26T12:47:06Z");
        assert_eq!(time(4_107_542_400), "2100-03-01T00:00:00Z");
        for seconds in [0, 951_782_399, 951_782_400, 1_795_697_226, 4_107_542_400] {
            assert_eq!(read_time(&time(seconds)), Some(seconds));
        }
        assert_eq!(read_time("2026-11-26T14:17:06.5+01:30"), Some(1_795_697_226));
        for bad in
            ["", "2026-02-30T00:00:00Z", "2026-11-26", "2026-11-26T24:00:00Z", "2026-11-26T00:00:00", "x-1-1T0:0:0Z"]
        {
            assert_eq!(read_time(bad), None, "{bad}");
        }
    }
}
