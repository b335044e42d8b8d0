//! What answers say to people and programs: messages of the DMTF Base registry, and failures made of them. Before:
//! [`resources`](crate::resources) and [`service`](crate::service). After: the client.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::status;
use salp_json::{Value, json};

use crate::http::Response;
use crate::http::decoder::Malformed;
use crate::http::multipart;
use crate::hypervisor::Refused;

/// The version of the Base registry that messages are of.
pub const REGISTRY: &str = "Base.1.19";

/// Keys of the registry with severity, text and what to do, in one place.
const MESSAGES: [(&str, &str, &str, &str); 32] = [
    ("Success", "OK", "The request completed successfully.", "None."),
    ("Created", "OK", "The resource was created successfully.", "None."),
    ("GeneralError", "Critical", "%1", "See the message."),
    ("NoOperation", "Warning", "The request body submitted contains no properties to act on.", "Add properties."),
    ("MalformedJSON", "Critical", "The request body contained malformed JSON.", "Send one JSON object."),
    ("UnrecognizedRequestBody", "Warning", "The service received an unrecognized request body.", "Send a JSON object."),
    (
        "PropertyUnknown",
        "Warning",
        "The property %1 is not in the list of valid properties for the resource.",
        "Remove it.",
    ),
    (
        "PropertyMissing",
        "Warning",
        "The property %1 is a required property and must be included in the request.",
        "Add it.",
    ),
    (
        "PropertyNotWritable",
        "Warning",
        "The property %1 is a read-only property and cannot be assigned a value.",
        "Remove it.",
    ),
    (
        "PropertyValueTypeError",
        "Warning",
        "The value '%1' for the property %2 is not a type that the property can accept.",
        "Correct the value.",
    ),
    (
        "PropertyValueFormatError",
        "Warning",
        "The value '%1' for the property %2 is not a format that the property can accept.",
        "Correct the value.",
    ),
    (
        "ActionParameterUnknown",
        "Warning",
        "The action %1 was submitted with the invalid parameter %2.",
        "Remove the parameter.",
    ),
    (
        "ActionParameterMissing",
        "Critical",
        "The action %1 requires the parameter %2 to be present in the request body.",
        "Add the parameter.",
    ),
    (
        "ActionParameterValueTypeError",
        "Warning",
        "The value '%1' for the parameter %2 in the action %3 is not a type that the parameter can accept.",
        "Correct the value.",
    ),
    (
        "ActionParameterValueFormatError",
        "Warning",
        "The value '%1' for the parameter %2 in the action %3 is not a format that the parameter can accept.",
        "Correct the value.",
    ),
    (
        "ActionParameterValueNotInList",
        "Warning",
        "The value '%1' for the parameter %2 in the action %3 is not in the list of acceptable values.",
        "Take one of the allowable values.",
    ),
    ("ResourceMissingAtURI", "Critical", "The resource at the URI %1 was not found.", "Correct the URI."),
    (
        "ResourceNotFound",
        "Critical",
        "The requested resource of type %1 named '%2' was not found.",
        "Take one that is listed.",
    ),
    (
        "ResourceAlreadyExists",
        "Critical",
        "The requested resource of type %1 with the property %2 with the value '%3' already exists.",
        "Take another name.",
    ),
    (
        "ResourceInUse",
        "Warning",
        "The change to the requested resource failed because the resource is in use or in transition.",
        "Try again later.",
    ),
    (
        "CreateLimitReachedForResource",
        "Critical",
        "The create operation failed because the resource has reached the limit of possible resources.",
        "Delete some first.",
    ),
    (
        "ResourceExhaustion",
        "Critical",
        "The resource %1 was unable to satisfy the request due to unavailability of resources.",
        "Delete VMs or snapshots, or ask for less.",
    ),
    ("OperationNotAllowed", "Critical", "The HTTP method is not allowed on this resource.", "See Allow."),
    (
        "PreconditionFailed",
        "Critical",
        "The ETag supplied did not match the ETag required to change this resource.",
        "Read the resource again.",
    ),
    ("HeaderInvalid", "Critical", "Header %1 is invalid.", "Correct the header."),
    ("QueryNotSupported", "Warning", "Querying is not supported by the implementation.", "Remove the query parameter."),
    (
        "QueryParameterValueFormatError",
        "Warning",
        "The value '%1' for the parameter %2 is not a format that the parameter can accept.",
        "Correct the value.",
    ),
    (
        "PasswordChangeRequired",
        "Critical",
        "The password provided for this account must be changed before access is granted.  PATCH the Password property for this account located at the target URI '%1' to complete this process.",
        "Change the password.",
    ),
    (
        "PropertyValueNotInList",
        "Warning",
        "The value '%1' for the property %2 is not in the list of acceptable values.",
        "Take one of the allowable values.",
    ),
    (
        "ResetRequired",
        "Warning",
        "In order to apply the changes, a component reset is required with the Reset action URI '%1' and ResetType '%2'.",
        "Perform the required reset action on the specified component.",
    ),
    ("NoValidSession", "Critical", "There is no valid session established with the implementation.", "Log in."),
    (
        "InsufficientPrivilege",
        "Critical",
        "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.",
        "Log in as somebody with the right.",
    ),
];

/// One message, filled in.
#[derive(Clone, Debug)]
pub struct Message {
    key: &'static str,
    arguments: Vec<String>,
    property: Option<String>,
}

impl Message {
    /// Returns the message of this key with these arguments.
    pub fn new(key: &'static str, arguments: &[&str]) -> Self {
        Self { key, arguments: arguments.iter().map(|text| short(text)).collect(), property: None }
    }

    /// Says which property it is about.
    pub fn about(self, property: &str) -> Self {
        Self { property: Some(short(property)), ..self }
    }

    /// Returns the property that it is about.
    pub fn property(&self) -> &str {
        self.property.as_deref().unwrap_or_default()
    }

    /// Returns the message as it is sent.
    pub fn value(&self) -> Value {
        let unknown = ("", "Critical", "%1", "None.");
        let (_, severity, text, resolution) =
            MESSAGES.into_iter().find(|(key, ..)| *key == self.key).unwrap_or(unknown);
        let mut text = text.to_string();
        for (index, argument) in self.arguments.iter().enumerate().rev() {
            text = text.replacen(["%1", "%2", "%3"].get(index).unwrap_or(&"%4"), argument, 1);
        }
        let mut value = json!({
            "@odata.type": "#Message.v1_3_0.Message",
            "MessageId": alloc::format!("{REGISTRY}.{}", self.key),
            "Message": text,
            "MessageSeverity": severity,
            "Resolution": resolution,
        });
        if !self.arguments.is_empty() {
            value["MessageArgs"] = json!(&self.arguments);
        }
        if let Some(property) = &self.property {
            value["RelatedProperties"] = json!([alloc::format!("/{property}")]);
        }
        value
    }
}

/// What a peer sent is repeated to it, but not at any length.
fn short(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(80).collect()
}

/// An answer that says no.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The status code.
    pub status: u16,
    /// Why, at least one.
    pub messages: Vec<Message>,
}

impl Failure {
    /// Returns a failure with one message.
    pub fn new(status: u16, key: &'static str, arguments: &[&str]) -> Self {
        Self { status, messages: Vec::from([Message::new(key, arguments)]) }
    }

    /// Returns a failure that no message of the registry fits.
    pub fn because(status: u16, why: &str) -> Self {
        Self::new(status, "GeneralError", &[why])
    }

    /// Returns the failure of a call that was asked for on `what`, a path of this service.
    pub fn refused(Refused(why): Refused, what: &str) -> Self {
        match why {
            status::NOT_FOUND => Self::new(404, "ResourceMissingAtURI", &[what]),
            status::BUSY => Self::new(409, "ResourceInUse", &[]),
            status::WRONG_STATE => Self::because(409, "The state of the VM does not allow it: look at PowerState."),
            status::NO_MEMORY => Self::new(507, "ResourceExhaustion", &[what]),
            status::TOO_MANY => Self::new(507, "CreateLimitReachedForResource", &[]),
            status::NAME_TAKEN => Self::because(409, "A VM or snapshot has this name already. Take another one."),
            status::IN_USE => Self::because(409, "VMs or snapshots are made from the image: delete those first."),
            status::INVALID => Self::because(400, "The hypervisor finds an argument invalid."),
            _ => Self::because(500, status::word(why)),
        }
    }

    /// Returns the answer.
    pub fn response(&self) -> Response {
        let messages: Vec<Value> = self.messages.iter().map(Message::value).collect();
        let (code, text) = match &messages[..] {
            [only] => (only["MessageId"].clone(), only["Message"].clone()),
            _ => (
                alloc::format!("{REGISTRY}.GeneralError").into(),
                "See @Message.ExtendedInfo: there is more than one reason.".into(),
            ),
        };
        let body = json!({ "error": { "code": code, "message": text, "@Message.ExtendedInfo": messages } });
        Response::new(self.status)
            .field("OData-Version", "4.0")
            .field("Cache-Control", "no-store")
            .content("application/json", body.to_string())
    }
}

impl From<multipart::Malformed> for Failure {
    fn from(_: multipart::Malformed) -> Self {
        Self::because(400, "The body is not made of parts, each with its name, or ends before its last boundary.")
    }
}

/// Returns the answer to a stream that cannot be understood.
pub fn malformed(why: Malformed) -> Response {
    Failure::because(why.status, why.why).response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_put_where_they_belong_and_not_where_they_say() {
        let value = Message::new("ActionParameterValueNotInList", &["%2 %3", "ResetType", "Reset"]).value();
        let text = value["Message"].as_str().unwrap();
        assert!(text.starts_with("The value '%2 %3' for the parameter ResetType in the action Reset is"), "{text}");
    }

    #[test]
    fn what_a_peer_sent_is_not_repeated_at_any_length() {
        let value = Message::new("PropertyUnknown", &[&"x\n".repeat(1000)]).value();
        assert_eq!(value["MessageArgs"][0].as_str(), Some(&*"x".repeat(80)));
    }
}
