//! A bundle that is sent, with what is said of it, as parts of a form. Before: [`resources::updates`](crate::resources::updates).
//! After: [`stream`](super::stream), and the [task](super::install) that goes on when all has come.
//!
//! What is refused is swallowed up to its end: a peer that is answered while it sends may not hear it. So the reason comes as the
//! answer to the request.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use salp_hvc::update::layout::SLOT_SIZE;

use super::install::Install;
use super::stream::Stream;
use super::when::{FIELDS, When};
use crate::flow::Sink;
use crate::http::multipart::{Event, Malformed, Reader};
use crate::http::{Method, Request};
use crate::hypervisor::Hypervisor;
use crate::message::Failure;
use crate::resources::body::Body;
use crate::resources::fields::{Field, Shape, field};
use crate::resources::{Outcome, software};
use crate::tasks::Order;

/// The most bytes of a request: a slot's and some more.
pub const MOST: u64 = SLOT_SIZE + (64 << 10);
/// The most bytes of what is said.
const MAX_PARAMETERS: usize = 4096;
/// The names of the parts.
const PARAMETERS: &str = "UpdateParameters";
const FILE: &str = "UpdateFile";

/// What is said of a bundle.
pub const SAID: &[Field] = &[
    field("Targets", Shape::Texts(4, "^/redfish/v1/")),
    field("ForceUpdate", Shape::Only(false)),
    field("Stage", Shape::Flag),
    FIELDS[0],
    FIELDS[1],
];

/// Which part comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Parameters,
    File,
    /// One that nobody asked for.
    Other,
}

/// An upload.
#[derive(Debug)]
pub struct Push {
    reader: Reader,
    order: Order,
    part: Part,
    parameters: Vec<u8>,
    when: Option<When>,
    stream: Option<Stream>,
    /// How many bytes have come.
    received: u64,
    failure: Option<Failure>,
    /// Nobody else uploads as long as this is there.
    lease: Rc<()>,
}

/// Reads what is said of a bundle.
fn read(bytes: &[u8], now: u64) -> Result<When, Failure> {
    let request = Request { body: bytes.to_vec(), ..Request::new(Method::Post, "") };
    let mut body = Body::of_action(&request, PARAMETERS)?;
    let is_known = |target: &str| target == software::MANAGER || target.starts_with(software::FIRMWARE);
    body.texts("Targets", 4, is_known);
    body.only_flag("ForceUpdate", false);
    let stages = body.flag("Stage") == Some(true);
    let when = When::read(&mut body, now);
    body.finish()?;
    Ok(if stages { When::OnRequest } else { when })
}

impl Push {
    /// Returns an upload whose parts `reader` finds, on behalf of `order`.
    pub fn new(reader: Reader, order: Order, lease: Rc<()>) -> Self {
        Self {
            reader,
            order,
            part: Part::Other,
            parameters: Vec::new(),
            when: None,
            stream: None,
            received: 0,
            failure: None,
            lease,
        }
    }

    fn read(&mut self, hypervisor: &mut dyn Hypervisor, now: u64, bytes: &[u8]) -> Result<(), Failure> {
        let Self { reader, part, parameters, when, stream, .. } = self;
        reader.take(bytes, |event| match (event, *part) {
            (Event::Part(FILE), _) if stream.is_some() => {
                Err(Failure::because(400, "There is more than one UpdateFile."))
            }
            (Event::Part(FILE), _) => {
                *part = Part::File;
                *stream = Some(Stream::begin(hypervisor, 0)?);
                Ok(())
            }
            (Event::Part(name), _) => {
                *part = if name == PARAMETERS { Part::Parameters } else { Part::Other };
                Ok(())
            }
            (Event::Bytes(bytes), Part::File) => match stream {
                Some(stream) => stream.push(hypervisor, bytes),
                None => Ok(()),
            },
            (Event::Bytes(bytes), Part::Parameters) => {
                if parameters.len() + bytes.len() > MAX_PARAMETERS {
                    return Err(Failure::because(413, "UpdateParameters has at most 4,096 bytes."));
                }
                parameters.extend_from_slice(bytes);
                Ok(())
            }
            // What is wrong with it is said before anything is written, if it comes first.
            (Event::End, Part::Parameters) => {
                *when = Some(read(parameters, now)?);
                Ok(())
            }
            (Event::Bytes(_) | Event::End, _) => Ok(()),
        })
    }
}

impl Sink for Push {
    fn is_ready(&mut self, hypervisor: &mut dyn Hypervisor) -> bool {
        match &mut self.stream {
            Some(stream) if self.failure.is_none() => {
                let drained = stream.drain(hypervisor);
                drained.unwrap_or_else(|failure| {
                    self.failure = Some(failure);
                    true
                })
            }
            _ => true,
        }
    }

    fn take(&mut self, hypervisor: &mut dyn Hypervisor, now: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.received += bytes.len() as u64;
        if self.received > MOST {
            return Err(too_large());
        }
        if self.failure.is_none() {
            self.failure = self.read(hypervisor, now, bytes).err();
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _: &mut dyn Hypervisor, _: u64) -> Result<Outcome, Failure> {
        let Self { reader, order, parameters, when, stream, failure, lease, .. } = *self;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !reader.is_over() {
            return Err(Malformed.into());
        }
        let stream = stream.ok_or_else(|| Failure::because(400, "There is no part UpdateFile."))?;
        let order = Order { body: Some(String::from_utf8_lossy(&parameters).into_owned()), ..order };
        // From here on the task keeps others off.
        drop(lease);
        Ok(Outcome::Task(order, Box::new(Install::of_upload(stream, when.unwrap_or_default()))))
    }
}

/// Says that a bundle is too large.
pub fn too_large() -> Failure {
    Failure::because(413, "The bundle is refused: too large. A slot has 4 MiB.")
}
