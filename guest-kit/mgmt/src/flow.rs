//! What lasts longer than one request and one answer: a body that is taken as it comes, an answer that grows, a WebSocket.
//! Before: [`resources`](crate::resources), which begin them. After: [`Connection`](crate::http::Connection), which keeps
//! them, and the service, which gives them the hypervisor whenever bytes have come or may go.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Debug;

use crate::events::journal::Journal;
use crate::hypervisor::Hypervisor;
use crate::message::Failure;
use crate::resources::Outcome;

/// Where a streamed body goes. One that is dropped before its end is a broken upload: it keeps nothing that matters.
pub trait Sink: Debug {
    /// Returns whether it wants bytes now. One that does not is asked again, and the peer waits.
    fn is_ready(&mut self, _: &mut dyn Hypervisor) -> bool {
        true
    }

    /// Takes bytes of the body.
    ///
    /// # Errors
    ///
    /// If no more are wanted: the request is refused.
    fn take(&mut self, hypervisor: &mut dyn Hypervisor, now: u64, bytes: &[u8]) -> Result<(), Failure>;

    /// Answers the request, whose body is whole.
    ///
    /// # Errors
    ///
    /// If it is not what was said.
    fn finish(self: Box<Self>, hypervisor: &mut dyn Hypervisor, now: u64) -> Result<Outcome, Failure>;
}

/// An answer that grows, or a conversation.
pub trait Flow: Debug {
    /// Takes what it wants from the front of `input` and appends to `output`, which is empty; returns false if it is over.
    fn drive(&mut self, hypervisor: &mut dyn Hypervisor, input: &mut Vec<u8>, output: &mut Vec<u8>) -> bool;

    /// Appends to `output` what has happened in the service that its reader wants to know; before each [`drive`](Self::drive).
    fn hear(&mut self, _: &Heard<'_>, _: &mut Vec<u8>) {}
}

/// What has happened in the service.
#[derive(Debug)]
pub struct Heard<'a> {
    /// Events.
    pub journal: &'a Journal,
    /// The last metric reports, by their paths, as they are sent.
    pub reports: &'a BTreeMap<String, String>,
    /// The time, in seconds since 1970.
    pub now: u64,
}

impl Heard<'_> {
    /// Returns the metric report at a path.
    pub fn report(&self, path: &str) -> Option<&str> {
        self.reports.get(path).map(|report| &**report)
    }
}

/// A flow, and who may see it.
#[derive(Debug)]
pub struct Live {
    /// The flow.
    pub flow: Box<dyn Flow>,
    /// The session that it belongs to: it ends with it.
    pub session: Option<String>,
}

/// What follows an answer's head and body.
#[derive(Debug, Default)]
pub enum Then {
    /// Nothing.
    #[default]
    End,
    /// This was no answer yet: the request's body goes here.
    Body(Box<dyn Sink>),
    /// The body goes on.
    Flow(Live),
    /// This is not sent: what is comes when this [task](crate::tasks) has come to its end.
    Later(u64),
}
