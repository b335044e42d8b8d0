#!/usr/bin/env python3
"""Tries the published OpenAPI document against a service, by schemathesis.

    contract.py URL USER PASSWORD [CA.pem] [-- OPTIONS OF schemathesis run]

It makes what paths can be of, then lets schemathesis invent requests. This file is also schemathesis' hooks: half of the
identifiers in paths are of things that are there, and what would stop the run is left out (the administrator's own account, a
console that is followed for ever, events without end, hundreds of clones).
"""

import os
import sys
import time

import requests

PLACES = {
    "SystemId": "/redfish/v1/Systems",
    "SnapshotId": "/redfish/v1/Oem/Salp/Snapshots",
    "ImageId": "/redfish/v1/Oem/Salp/Images",
    "AccountId": "/redfish/v1/AccountService/Accounts",
    "SessionId": "/redfish/v1/SessionService/Sessions",
    "RoleId": "/redfish/v1/AccountService/Roles",
    "RegistryId": "/redfish/v1/Registries",
    "JsonSchemaId": "/redfish/v1/JsonSchemas",
    "SubscriptionId": "/redfish/v1/EventService/Subscriptions",
    "MetricDefinitionId": "/redfish/v1/TelemetryService/MetricDefinitions",
    "MetricReportDefinitionId": "/redfish/v1/TelemetryService/MetricReportDefinitions",
    "MetricReportId": "/redfish/v1/TelemetryService/MetricReports",
    "TriggerId": "/redfish/v1/TelemetryService/Triggers",
    "TaskId": "/redfish/v1/TaskService/Tasks",
    "TaskMonitorId": "/redfish/v1/TaskService/Tasks",
}
FILLED = ["SystemId", "SnapshotId", "ImageId", "AccountId"]
FIXED = {"EthernetInterfaceId": "0", "SchemaId": "SalpImage_v1.xml", "EntryId": "1", "PartId": "Salp.1.0.0.json"}
CERTIFICATES = "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS/Certificates"
LINKS = {
    "Kernel": PLACES["ImageId"] + "/kernel",
    "CertificateCollection": CERTIFICATES,
    "CertificateUri": CERTIFICATES + "/1",
}
# What runs in a VM of the tests: it waits for interrupts, for ever.
FLAT = bytes.fromhex("7f2003d5ffffff17")


class Service:
    """The service, with what is needed to fill it."""

    def __init__(self, url, user, password, verify):
        self.url = url.rstrip("/")
        self.session = requests.Session()
        self.session.auth = (user, password)
        self.session.verify = verify
        self.user = user
        self.known = {}

    def send(self, method, path, **rest):
        return self.session.request(method, self.url + path, timeout=60, **rest)

    def members(self, path):
        answer = self.send("GET", path)
        answer.raise_for_status()
        return [member["@odata.id"].rsplit("/", 1)[1] for member in answer.json()["Members"]]

    def fill(self):
        """Makes what is missing, and removes clones above ten."""
        accounts = PLACES["AccountId"]
        account = {"UserName": "somebody", "Password": "a long password", "RoleId": "ReadOnly"}
        self.send("POST", accounts, json=account)
        images, systems = PLACES["ImageId"], PLACES["SystemId"]
        self.send("PUT", images + "/kernel", data=FLAT)
        order = {
            "Name": "fuzzed",
            "MemorySummary": {"TotalSystemMemoryGiB": 0.0625},
            "Oem": {"Salp": {"Kernel": {"@odata.id": images + "/kernel"},
                             "NetworkInterfaces": [{"Segment": "lan"}]}},
        }
        made = self.send("POST", systems, json=order)
        if made.status_code == 201:
            path = made.headers["Location"]
            self.send("POST", path + "/Actions/ComputerSystem.Reset", json={"ResetType": "On"})
            self.send("POST", path + "/Actions/Oem/SalpComputerSystem.Snapshot", json={"Name": "kept"})
        for path in [systems, PLACES["SnapshotId"], images]:
            for one in self.members(path)[10:]:
                self.send("DELETE", f"{path}/{one}")

    def one_of(self, name, number):
        """Returns an identifier of something that is there; what is there is looked up now and then."""
        if name in FIXED:
            return FIXED[name]
        count, found = self.known.get(name, (0, []))
        if count % 16 == 0:
            if name in FILLED:
                self.fill()
            found = [one for one in self.members(PLACES[name]) if one != self.user]
        self.known[name] = (count + 1, found)
        return found[number % len(found)] if found else None

    def link(self, name, number):
        """Returns where a link of this name can lead."""
        if name in LINKS:
            return LINKS[name]
        kinds = {"Snapshot": "SnapshotId", "TargetURIs": "SystemId", "MetricReportDefinitions": "MetricReportDefinitionId"}
        one = self.one_of(kinds[name], number) if name in kinds else None
        return f"{PLACES[kinds[name]]}/{one}" if one else None


def main():
    words = sys.argv[1:]
    options = words[words.index("--") + 1:] if "--" in words else []
    words = words[:words.index("--")] if "--" in words else words
    url, user, password = words[:3]
    verify = words[3] if len(words) > 3 else None
    service = Service(url, user, password, verify or False)
    service.fill()
    os.environ.update(SALP_URL=url, SALP_USER=user, SALP_PASSWORD=password, SALP_CA=verify or "",
                      SCHEMATHESIS_HOOKS=os.path.basename(__file__).removesuffix(".py"),
                      PYTHONPATH=os.path.dirname(os.path.abspath(__file__)))
    program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    here = os.path.dirname(os.path.abspath(__file__))
    command = [program, "--config-file", os.path.join(here, "schemathesis.toml"), "run",
               url.rstrip("/") + "/redfish/v1/openapi.yaml", "--url", url, "--auth", f"{user}:{password}",
               "--tls-verify", verify or "false", "--exclude-path", "/redfish/v1/EventService/SSE", *options]
    os.execv(program, command)


if __name__ == "__main__":
    main()
elif "SALP_URL" in os.environ:
    import schemathesis

    SERVICE = Service(os.environ["SALP_URL"], os.environ["SALP_USER"], os.environ["SALP_PASSWORD"],
                      os.environ["SALP_CA"] or False)
    COUNT = [0]

    @schemathesis.hook
    def map_path_parameters(context, path_parameters):
        COUNT[0] += 1
        for name in path_parameters or {}:
            real = SERVICE.one_of(name, COUNT[0] // 2) if COUNT[0] % 2 else None
            if real is not None:
                path_parameters[name] = real
            elif path_parameters[name] == SERVICE.user:
                path_parameters[name] = "nobody"
        return path_parameters

    @schemathesis.hook
    def map_query(context, query):
        # An answer that goes on for ever.
        if isinstance(query, dict):
            query.pop("follow", None)
            if len(query) > 1 and COUNT[0] % 8:
                query.pop("only", None)
        return query

    def lead(body, number):
        """Lets links of a body lead to what is there."""
        for name, value in body.items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict) and "@odata.id" in item:
                    item["@odata.id"] = SERVICE.link(name, number) or item["@odata.id"]
                elif isinstance(item, dict):
                    lead(item, number)

    @schemathesis.hook
    def map_body(context, body):
        if isinstance(body, dict) and COUNT[0] % 2:
            lead(body, COUNT[0] // 2)
        if isinstance(body, dict) and isinstance(body.get("Count"), int):
            body["Count"] = min(body["Count"], 3)
        return body
