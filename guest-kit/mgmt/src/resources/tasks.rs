//! Tasks, and their monitors: what becomes of requests that take long. Before: [`table`](crate::table). After:
//! [`tasks`](crate::tasks).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use salp_json::{Value, json};

use super::fields::{Field, Shape, field};
use super::{Call, Outcome, clones, collection, time};
use crate::events::journal::Journal;
use crate::flow::Then;
use crate::http::{Method, Response};
use crate::media::jobs;
use crate::message::Failure;
use crate::service;
use crate::table::Place;
use crate::tasks::fetch::{self, Fetching};
use crate::tasks::{Job, KEEP, Order, Task, Tasks, path};

const SERVICE: &str = "/redfish/v1/TaskService";
const TASKS: &str = "/redfish/v1/TaskService/Tasks";
/// What a client wants that does not wait (RFC 7240).
const RESPOND_ASYNC: &str = "respond-async";
/// How a client says so, to an action that it could wait for.
pub const PREFERENCE: (Method, Place, Field) =
    (Method::Post, Place::Header, field("Prefer", Shape::Text("^respond-async$")));

/// Returns where the monitor of a task is.
fn monitor_path(number: u64) -> String {
    format!("{SERVICE}/TaskMonitors/{number}")
}

impl Call<'_> {
    /// Begins a job for this request, and answers with its task.
    ///
    /// # Errors
    ///
    /// If there are too many tasks.
    pub fn start(&mut self, name: &'static str, kind: &'static str, job: Box<dyn Job>) -> Result<Outcome, Failure> {
        let order = Order {
            name,
            kind,
            user: self.who.map_or("", |who| &who.user).to_string(),
            target: self.request.path.clone(),
            body: Some(String::from_utf8_lossy(&self.request.body).into_owned()),
        };
        self.begin(order, job)
    }

    /// Begins a job of which more is to be said than what the request says, and answers with its task.
    ///
    /// # Errors
    ///
    /// If there are too many tasks.
    pub fn begin(&mut self, order: Order, job: Box<dyn Job>) -> Result<Outcome, Failure> {
        begin(self.tasks, order, job, &mut self.events.journal, self.now).map(Outcome::Answer)
    }

    /// Begins to fetch something. Who does not wait is answered with the task; who does, at its end.
    ///
    /// # Errors
    ///
    /// If there are too many tasks, or fetches.
    pub fn fetch(&mut self, name: &'static str, job: Fetching, waits: bool) -> Result<Outcome, Failure> {
        if self.tasks.count_running(fetch::KIND) >= jobs::MOST {
            let why = "As many media as can be fetched at a time are under way: try again later.";
            return Err(Failure::because(503, why));
        }
        // What a server asks for is nobody else's business.
        let user = self.who.map_or("", |who| &who.user).to_string();
        let order = Order { name, kind: fetch::KIND, user, target: self.request.path.clone(), body: None };
        let number = self.tasks.start(order, Box::new(job), &mut self.events.journal, self.now)?;
        let task = self.tasks.get(number).ok_or_else(|| self.missing())?;
        let answer = running(number, task);
        Ok(Outcome::Answer(match waits {
            true => Response { then: Then::Later(number), ..answer },
            false if self.prefers_task() => answer.field("Preference-Applied", RESPOND_ASYNC),
            false => answer,
        }))
    }

    /// Returns true if the client wants no answer that is held back.
    pub fn prefers_task(&self) -> bool {
        self.request
            .get("prefer")
            .is_some_and(|wishes| wishes.split([',', ';']).any(|wish| wish.trim().eq_ignore_ascii_case(RESPOND_ASYNC)))
    }
}

/// Begins a job, and answers with its task.
///
/// # Errors
///
/// If there are too many tasks.
pub fn begin(
    tasks: &mut Tasks,
    order: Order,
    job: Box<dyn Job>,
    journal: &mut Journal,
    now: u64,
) -> Result<Response, Failure> {
    let number = tasks.start(order, job, journal, now)?;
    let gone = || Failure::new(404, "ResourceMissingAtURI", &[TASKS]);
    tasks.get(number).map(|task| running(number, task)).ok_or_else(gone)
}

/// Answers that a task goes on.
fn running(number: u64, task: &Task) -> Response {
    let response = service::resource(202, value(number, task));
    response.field("Location", monitor_path(number)).field("Retry-After", "1")
}

/// Answers the service of tasks.
pub fn service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": SERVICE,
        "@odata.type": "#TaskService.v1_3_0.TaskService",
        "Id": "TaskService",
        "Name": "Tasks",
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "DateTime": time(call.now),
        "CompletedTaskOverWritePolicy": "Oldest",
        "LifeCycleEventOnTaskStateChange": true,
        "TaskAutoDeleteTimeoutMinutes": KEEP / 60,
        "TaskMonitorAutoExpirySeconds": KEEP,
        "Tasks": { "@odata.id": TASKS },
    })))
}

/// Lists tasks.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = call.tasks.all().map(|(number, _)| path(number));
    Ok(Outcome::Resource(collection(TASKS, "TaskCollection", "Tasks", members)))
}

/// Returns a task as it is shown.
fn value(number: u64, task: &Task) -> Value {
    let mut value = json!({
        "@odata.id": path(number),
        "@odata.type": "#Task.v1_7_4.Task",
        "Id": number.to_string(),
        "Name": &task.name,
        "TaskState": task.state.name(),
        "TaskStatus": task.health(),
        "PercentComplete": task.percent,
        "StartTime": time(task.started),
        "TaskMonitor": monitor_path(number),
        "HidePayload": task.body.is_none(),
        "Messages": match &task.end {
            Some(end) => messages(end.value.as_ref(), &end.messages),
            None => task.said().into(),
        },
    });
    if let Some(body) = &task.body {
        value["Payload"] =
            json!({ "HttpHeaders": [], "HttpOperation": "POST", "JsonBody": body, "TargetUri": &task.target });
    }
    if let Some(ended) = task.ended {
        value["EndTime"] = time(ended).into();
    }
    value
}

/// Returns what there is to say: why it failed, and what went wrong with parts of it.
fn messages(value: Option<&Value>, others: &[Value]) -> Value {
    let why = value.and_then(|value| value["error"]["@Message.ExtendedInfo"].as_array());
    let why = why.into_iter().flatten().filter(|message| !others.contains(message));
    why.chain(others).cloned().collect()
}

fn find<'a>(call: &'a Call<'_>) -> Result<(u64, &'a Task), Failure> {
    let number = call.id()?;
    call.tasks.get(number).map(|task| (number, task)).ok_or_else(|| call.missing())
}

/// Answers a task.
pub fn task(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    find(call).map(|(number, task)| Outcome::Resource(value(number, task)))
}

/// Stops a task that goes on, or forgets one that has ended.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let number = call.id()?;
    if call.tasks.remove(number, &mut call.events.journal, call.now) { Ok(Outcome::Done) } else { Err(call.missing()) }
}

/// Answers what a request will have been answered: that its task goes on, or its own answer in the end; the task where there is
/// none of its own.
pub fn monitor(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    find(call).map(|(number, task)| Outcome::Answer(answer(number, task)))
}

/// Returns what a request whose task this is will have been answered.
pub fn answer(number: u64, task: &Task) -> Response {
    let Some(end) = &task.end else { return running(number, task) };
    if end.status == 204 {
        return service::plain(204);
    }
    let own = end.made.map(|(first, last)| clones::links(first, last));
    let body = match (end.status >= 400, own, &end.value) {
        (true, _, Some(value)) => value.clone(),
        (false, Some(own), _) => own,
        _ => value(number, task),
    };
    let status = if end.status == 0 { 200 } else { end.status };
    let mut response = service::resource(status, body);
    if let Some(location) = &end.location {
        response = response.field("Location", location.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::{Method, Response};
    use crate::testing::{Client, json, keys};
    use alloc::string::{String, ToString};
    use serde_json::{Value, json};

    const CLONE: &str = "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.InstantClone";
    const DELETE: &str = "/redfish/v1/AggregationService/Actions/Oem/SalpAggregationService.DeleteSystems";

    /// Begins a task, and returns where its monitor is.
    fn begin(client: &mut Client, path: &str, body: &str) -> String {
        let answer = client.post(path, body);
        assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!((&json(&answer)["TaskState"], answer.get("Retry-After")), (&json!("Running"), Some("1")));
        answer.get("Location").unwrap().to_string()
    }

    /// Works until a monitor has its answer.
    fn finish(client: &mut Client, monitor: &str) -> Response {
        for _ in 0..1000 {
            let answer = client.get(monitor);
            if answer.status != 202 {
                return answer;
            }
            client.service.work(client.now);
        }
        panic!("{monitor} does not end");
    }

    fn systems(client: &mut Client) -> u64 {
        client.read("/redfish/v1/Systems?$top=1")["Members@odata.count"].as_u64().unwrap()
    }

    fn told(client: &mut Client) -> alloc::vec::Vec<Value> {
        let all = client.service.events.journal.since(1).1;
        let tasks = all.filter(|event| event.entry.registry.prefix == "TaskEvent");
        tasks.map(|event| json!(event.entry.key)).collect()
    }

    #[test]
    fn many_clones_are_a_task_whose_monitor_has_the_answer_in_the_end() {
        let mut client = Client::new(Role::Operator);
        let nics = r#""NicsToUpdate":[{"Id":"0","Segment":"dmz"}]"#;
        let monitor = begin(&mut client, CLONE, &alloc::format!(r#"{{"Name":"w","Count":100,{nics}}}"#));
        let answer = finish(&mut client, &monitor);
        assert_eq!((answer.status, answer.get("Location")), (201, Some("/redfish/v1/Systems/4")));
        assert_eq!((&json(&answer)["Members@odata.count"], systems(&mut client)), (&json!(100), 102));
        let nic = client.read("/redfish/v1/Systems/103/EthernetInterfaces/0");
        assert_eq!((&nic["Oem"]["Salp"]["Segment"], &nic["InterfaceEnabled"]), (&json!("dmz"), &json!(true)));
        let task = client.read("/redfish/v1/TaskService/Tasks/1");
        assert_eq!((&task["TaskState"], &task["PercentComplete"]), (&json!("Completed"), &json!(100)));
        let told = told(&mut client);
        assert_eq!((&told[0], told.last(), told.len()), (&json!("TaskStarted"), Some(&json!("TaskCompletedOK")), 7));
    }

    #[test]
    fn a_group_is_found_by_a_filter_and_deleted() {
        let mut client = Client::new(Role::Operator);
        let monitor = begin(&mut client, CLONE, r#"{"Name":"w","Count":900}"#);
        assert_eq!(finish(&mut client, &monitor).status, 201);
        let filter = "Oem/Salp/SourceId eq '2'";
        let page = client.read(&alloc::format!("/redfish/v1/Systems?$filter={filter}"));
        assert_eq!((&page["Members@odata.count"], page["Members"].as_array().unwrap().len()), (&json!(900), 200));
        let monitor = begin(&mut client, DELETE, &alloc::format!(r#"{{"Filter":"{filter}"}}"#));
        let answer = finish(&mut client, &monitor);
        assert_eq!((answer.status, &json(&answer)["TaskStatus"], systems(&mut client)), (200, &json!("OK"), 2));
    }

    #[test]
    fn what_fails_in_a_group_is_told() {
        let mut client = Client::new(Role::Operator);
        let reset = "/redfish/v1/AggregationService/Actions/AggregationService.Reset";
        let targets = r#""TargetURIs":[{"@odata.id":"/redfish/v1/Systems/2"},{"@odata.id":"/redfish/v1/Systems/3"}]"#;
        let monitor = begin(&mut client, reset, &alloc::format!(r#"{{"ResetType":"Pause",{targets}}}"#));
        let task = json(&finish(&mut client, &monitor));
        assert_eq!((&task["TaskState"], &task["TaskStatus"]), (&json!("Completed"), &json!("Warning")));
        assert_eq!(task["Messages"][0]["RelatedProperties"], json!(["/redfish/v1/Systems/3"]));
        assert_eq!(client.read("/redfish/v1/Systems/2")["PowerState"], "Paused");
    }

    #[test]
    fn a_task_that_fails_answers_so() {
        let mut client = Client::new(Role::Operator);
        let monitor = begin(&mut client, CLONE, r#"{"Name":"w","Count":1000}"#);
        let answer = finish(&mut client, &monitor);
        assert_eq!((answer.status, keys(&answer).concat()), (507, "CreateLimitReachedForResource".into()));
        assert_eq!(client.read("/redfish/v1/TaskService/Tasks/1")["TaskState"], "Exception");
    }

    #[test]
    fn a_task_that_is_cancelled_is_undone() {
        let mut client = Client::new(Role::Operator);
        let nics = r#""NicsToUpdate":[{"Id":"0","Segment":"dmz"}]"#;
        let monitor = begin(&mut client, CLONE, &alloc::format!(r#"{{"Name":"w","Count":100,{nics}}}"#));
        (0..5).for_each(|_| _ = client.service.work(client.now));
        assert_eq!(systems(&mut client), 102);
        let delete = client.request(Method::Delete, &monitor, "");
        assert_eq!(client.send(&delete).status, 204);
        assert_eq!(client.read("/redfish/v1/TaskService/Tasks/1")["TaskState"], "Cancelling");
        finish(&mut client, &monitor);
        assert_eq!(client.read("/redfish/v1/TaskService/Tasks/1")["TaskState"], "Cancelled");
        assert_eq!(systems(&mut client), 2);
        assert_eq!(client.send(&delete).status, 204);
        assert_eq!(client.get(&monitor).status, 404);
    }

    #[test]
    fn tasks_go_on_or_end_truthfully_after_a_failure_of_the_guest_at_any_step() {
        let nics = r#""NicsToUpdate":[{"Id":"0","Segment":"dmz"}]"#;
        for steps in 0..20 {
            let mut client = Client::new(Role::Operator);
            let monitor = begin(&mut client, CLONE, &alloc::format!(r#"{{"Name":"w","Count":100,{nics}}}"#));
            (0..steps).for_each(|_| _ = client.service.work(client.now));
            // All that this guest remembers is what was kept.
            client.forget();
            let answer = finish(&mut client, &monitor);
            // What was asked for and not answered yet is not known.
            let expected = if steps == 1 { 500 } else { 201 };
            assert_eq!(answer.status, expected, "{steps}: {}", String::from_utf8_lossy(&answer.body));
            let state = client.read("/redfish/v1/TaskService/Tasks/1")["TaskState"].clone();
            assert_eq!(state, if steps == 1 { "Exception" } else { "Completed" }, "{steps}");
            assert_eq!(systems(&mut client), if steps == 1 { 2 } else { 102 }, "{steps}");
            let monitor = begin(&mut client, DELETE, r#"{"Filter":"Oem/Salp/SourceId eq '2'"}"#);
            (0..steps).for_each(|_| _ = client.service.work(client.now));
            client.forget();
            assert_eq!((finish(&mut client, &monitor).status, systems(&mut client)), (200, 2), "{steps}");
        }
    }
}
