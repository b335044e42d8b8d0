//! What an address leads to, fetched, and what is done with it. Before: resources that are told addresses. After:
//! [`jobs`](crate::media::jobs), which have the connections.
//!
//! One that was under way when this guest failed begins anew, unless it needs a password, which is not kept, or would start a VM
//! that may have been started.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use salp_json::{Parsed, Value, json};

use super::{End, Job, Step, Tools};
use crate::auth::hex;
use crate::images::IMAGES;
use crate::images::label::Kind;
use crate::images::upload::hex_digest;
use crate::media::fetch::Order;
use crate::media::jobs::{self, Then};
use crate::media::url::Url;
use crate::message::Failure;

/// The kind of these jobs.
pub const KIND: &str = "Fetch";

/// A fetch, as a task.
#[derive(Debug)]
pub struct Fetching {
    order: Order,
    /// The address as it was told.
    address: String,
    then: Then,
    /// The number of the job; none before it has begun.
    number: Option<u64>,
    is_cancelled: bool,
}

impl Fetching {
    /// Returns the job of fetching this.
    pub fn new(order: Order, address: &str, then: Then) -> Self {
        Self { order, address: address.to_string(), then, number: None, is_cancelled: false }
    }

    fn end(&self) -> End {
        let location = self.order.image.as_ref().map(|(name, _)| [IMAGES, name].join("/"));
        End { status: if location.is_some() { 201 } else { 204 }, location, ..End::default() }
    }
}

impl Job for Fetching {
    fn step(&mut self, tools: &mut Tools<'_>) -> Step {
        let wait = |percent| Step::Wait { percent, until: tools.now + 1 };
        if self.is_cancelled {
            self.number.into_iter().for_each(|number| tools.jobs.cancel(number));
            return Step::End(Failure::because(409, "It was cancelled.").into());
        }
        let Some(number) = self.number else {
            if let Then::Insert(vm) = self.then
                && jobs::is_inserted(tools.hypervisor, vm, &self.address)
            {
                return Step::End(self.end());
            }
            self.number = tools.jobs.begin(self.order.clone(), &self.address, self.then);
            return wait(0);
        };
        match tools.jobs.take(number) {
            Some(Ok(())) => Step::End(self.end()),
            Some(Err(why)) => Step::End(why.into()),
            None => match tools.jobs.progress(number) {
                Some((received, Some(size))) => wait(received * 100 / size.max(1)),
                _ => wait(0),
            },
        }
    }

    fn cancel(&mut self) -> Result<(), End> {
        self.is_cancelled = true;
        Ok(())
    }

    fn kept(&self) -> Value {
        let then = match self.then {
            Then::Keep => json!(["keep"]),
            Then::Insert(vm) => json!(["insert", vm]),
            Then::Start(_) | Then::Install => return Value::Null,
        };
        if self.order.authorization.is_some() {
            return Value::Null;
        }
        let image = self.order.image.as_ref().map(|(name, kind)| (name, kind.name()));
        json!({ "address": &self.address, "digest": self.order.digest.map(|digest| hex(&digest)), "image": image, "then": then })
    }
}

/// Goes on with what was kept of a job: from its beginning.
pub fn revive(kept: &Parsed) -> Option<Box<dyn Job>> {
    let address = kept["address"].as_str()?;
    let then = match (kept["then"][0].as_str()?, kept["then"][1].as_u64()) {
        ("keep", _) => Then::Keep,
        ("insert", Some(vm)) => Then::Insert(vm),
        _ => return None,
    };
    let digest = match kept["digest"].as_str() {
        Some(text) => Some(hex_digest(text).ok()?),
        None => None,
    };
    let image = match kept["image"][0].as_str() {
        Some(name) => Some((name.to_string(), Kind::new(kept["image"][1].as_str()?)?)),
        None => None,
    };
    let order = Order { url: Url::parse(address)?, authorization: None, digest, image };
    Some(Box::new(Fetching::new(order, address, then)))
}
