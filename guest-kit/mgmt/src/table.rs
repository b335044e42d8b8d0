//! Every path of this service: what can be done to it, who may, and the function that does it. Before:
//! [`service`](crate::service). After: [`resources`].
//!
//! `Allow`, 405, HEAD, rights and the answers to strangers all follow from this one table; a resource that is not here
//! does not exist.

use alloc::string::String;

use crate::auth::Right::{self, ConfigureComponents, ConfigureManager, ConfigureSelf, Login, Open};
use crate::http::Method::{self, Delete, Get, Patch, Post, Put};
use crate::resources::{
    Handler, accounts, boot, certificates, clones, console, hardware, images, logs, making, managers, media, metrics,
    network, nics, power, registries, root, schemas, sessions, snapshots, systems,
};

/// One path.
pub struct Route {
    /// The path without a slash at its end; `{}` stands for one segment.
    pub pattern: &'static str,
    /// What can be done to it.
    pub methods: &'static [(Method, Right, Handler)],
}

/// The greatest number of `{}` in a pattern.
pub const MAX_VARIABLES: usize = 2;

/// One account, which its user may always change.
pub const ACCOUNT: &str = "/redfish/v1/AccountService/Accounts/{}";
/// One session, which its user may always end.
pub const SESSION: &str = "/redfish/v1/SessionService/Sessions/{}";

/// All paths.
pub const ROUTES: &[Route] = &[
    Route { pattern: "/redfish", methods: &[(Get, Open, root::versions)] },
    Route { pattern: "/redfish/v1", methods: &[(Get, Open, root::root)] },
    Route { pattern: "/redfish/v1/odata", methods: &[(Get, Open, root::odata)] },
    Route { pattern: "/redfish/v1/$metadata", methods: &[(Get, Open, root::metadata)] },
    Route { pattern: "/redfish/v1/Schemas/{}", methods: &[(Get, Login, schemas::schema)] },
    Route {
        pattern: "/redfish/v1/SessionService",
        methods: &[(Get, Login, sessions::service), (Patch, ConfigureManager, sessions::patch_service)],
    },
    Route {
        pattern: "/redfish/v1/SessionService/Sessions",
        methods: &[(Get, Login, sessions::list), (Post, Open, sessions::create)],
    },
    Route { pattern: "/redfish/v1/SessionService/Sessions/Members", methods: &[(Post, Open, sessions::create)] },
    Route {
        pattern: SESSION,
        methods: &[(Get, ConfigureSelf, sessions::session), (Delete, ConfigureSelf, sessions::delete)],
    },
    Route {
        pattern: "/redfish/v1/AccountService",
        methods: &[(Get, Login, accounts::service), (Patch, ConfigureManager, accounts::patch_service)],
    },
    Route {
        pattern: "/redfish/v1/AccountService/Accounts",
        methods: &[(Get, ConfigureManager, accounts::list), (Post, ConfigureManager, accounts::create)],
    },
    Route {
        pattern: "/redfish/v1/AccountService/Accounts/Members",
        methods: &[(Post, ConfigureManager, accounts::create)],
    },
    Route {
        pattern: ACCOUNT,
        methods: &[
            (Get, ConfigureSelf, accounts::account),
            (Patch, ConfigureSelf, accounts::patch),
            (Delete, ConfigureManager, accounts::delete),
        ],
    },
    Route { pattern: "/redfish/v1/AccountService/Roles", methods: &[(Get, Login, accounts::roles)] },
    Route { pattern: "/redfish/v1/AccountService/Roles/{}", methods: &[(Get, Login, accounts::role)] },
    Route { pattern: "/redfish/v1/Managers", methods: &[(Get, Login, managers::list)] },
    Route {
        pattern: "/redfish/v1/Managers/salp",
        methods: &[(Get, Login, managers::salp), (Patch, ConfigureManager, managers::patch)],
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/Actions/Manager.Reset",
        methods: &[(Post, ConfigureManager, managers::reset)],
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/NetworkProtocol",
        methods: &[(Get, Login, network::protocol), (Patch, ConfigureManager, network::patch_protocol)],
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS/Certificates",
        methods: &[(Get, Login, certificates::list)],
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS/Certificates/1",
        methods: &[(Get, Login, certificates::certificate)],
    },
    Route { pattern: "/redfish/v1/Managers/salp/EthernetInterfaces", methods: &[(Get, Login, network::list)] },
    Route {
        pattern: "/redfish/v1/Managers/salp/EthernetInterfaces/{}",
        methods: &[(Get, Login, network::nic), (Patch, ConfigureManager, network::patch)],
    },
    Route { pattern: "/redfish/v1/CertificateService", methods: &[(Get, Login, certificates::service)] },
    Route {
        pattern: "/redfish/v1/CertificateService/CertificateLocations",
        methods: &[(Get, Login, certificates::locations)],
    },
    Route {
        pattern: "/redfish/v1/CertificateService/Actions/CertificateService.GenerateCSR",
        methods: &[(Post, ConfigureManager, certificates::generate)],
    },
    Route {
        pattern: "/redfish/v1/CertificateService/Actions/CertificateService.ReplaceCertificate",
        methods: &[(Post, ConfigureManager, certificates::replace)],
    },
    Route { pattern: "/redfish/v1/Managers/salp/LogServices", methods: &[(Get, Login, logs::of_manager)] },
    Route { pattern: "/redfish/v1/Managers/salp/LogServices/Audit", methods: &[(Get, ConfigureManager, logs::audit)] },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Audit/Entries",
        methods: &[(Get, ConfigureManager, logs::audit_entries)],
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Audit/Entries/{}",
        methods: &[(Get, ConfigureManager, logs::audit_entry)],
    },
    Route { pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor", methods: &[(Get, Login, logs::hypervisor)] },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor/Actions/LogService.ClearLog",
        methods: &[(Post, ConfigureManager, logs::clear_hypervisor)],
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor/Entries",
        methods: &[(Get, Login, logs::hypervisor_entries)],
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor/Entries/{}",
        methods: &[(Get, Login, logs::hypervisor_entry)],
    },
    Route { pattern: "/redfish/v1/Chassis", methods: &[(Get, Login, hardware::chassis_list)] },
    Route { pattern: "/redfish/v1/Chassis/1", methods: &[(Get, Login, hardware::chassis)] },
    Route { pattern: "/redfish/v1/Chassis/1/Processors", methods: &[(Get, Login, hardware::cpus)] },
    Route { pattern: "/redfish/v1/Chassis/1/Processors/{}", methods: &[(Get, Login, hardware::cpu)] },
    Route { pattern: "/redfish/v1/Chassis/1/Memory", methods: &[(Get, Login, hardware::machine_memories)] },
    Route { pattern: "/redfish/v1/Chassis/1/Memory/1", methods: &[(Get, Login, hardware::machine_memory)] },
    Route { pattern: "/redfish/v1/Registries", methods: &[(Get, Login, registries::list)] },
    Route { pattern: "/redfish/v1/Registries/{}", methods: &[(Get, Login, registries::registry)] },
    Route { pattern: "/redfish/v1/JsonSchemas", methods: &[(Get, Login, registries::files)] },
    Route { pattern: "/redfish/v1/JsonSchemas/{}", methods: &[(Get, Login, registries::file)] },
    Route {
        pattern: "/redfish/v1/Systems",
        methods: &[(Get, Login, systems::list), (Post, ConfigureComponents, making::create)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}",
        methods: &[
            (Get, Login, systems::system),
            (Patch, ConfigureComponents, making::patch),
            (Delete, ConfigureComponents, systems::delete),
        ],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/ComputerSystem.Reset",
        methods: &[(Post, ConfigureComponents, power::reset)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.InstantClone",
        methods: &[(Post, ConfigureComponents, clones::instant_clone)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Freeze",
        methods: &[(Post, ConfigureComponents, power::freeze)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Unfreeze",
        methods: &[(Post, ConfigureComponents, power::unfreeze)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Snapshot",
        methods: &[(Post, ConfigureComponents, clones::snapshot)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Revert",
        methods: &[(Post, ConfigureComponents, clones::revert)],
    },
    Route { pattern: "/redfish/v1/Systems/{}/BootOptions", methods: &[(Get, Login, boot::options)] },
    Route { pattern: "/redfish/v1/Systems/{}/BootOptions/{}", methods: &[(Get, Login, boot::option)] },
    Route { pattern: "/redfish/v1/Systems/{}/VirtualMedia", methods: &[(Get, Login, media::list)] },
    Route { pattern: "/redfish/v1/Systems/{}/VirtualMedia/{}", methods: &[(Get, Login, media::drive)] },
    Route {
        pattern: "/redfish/v1/Systems/{}/VirtualMedia/{}/Actions/VirtualMedia.InsertMedia",
        methods: &[(Post, ConfigureComponents, media::insert)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/VirtualMedia/{}/Actions/VirtualMedia.EjectMedia",
        methods: &[(Post, ConfigureComponents, media::eject)],
    },
    Route { pattern: "/redfish/v1/Systems/{}/Processors", methods: &[(Get, Login, hardware::processors)] },
    Route { pattern: "/redfish/v1/Systems/{}/Processors/1", methods: &[(Get, Login, hardware::processor)] },
    Route { pattern: "/redfish/v1/Systems/{}/Memory", methods: &[(Get, Login, hardware::memories)] },
    Route { pattern: "/redfish/v1/Systems/{}/Memory/1", methods: &[(Get, Login, hardware::memory)] },
    Route { pattern: "/redfish/v1/Systems/{}/LogServices", methods: &[(Get, Login, logs::of_system)] },
    Route { pattern: "/redfish/v1/Systems/{}/LogServices/Console", methods: &[(Get, Login, logs::console)] },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Console/Entries",
        methods: &[(Get, Login, logs::console_entries)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Console/Entries/{}",
        methods: &[(Get, Login, logs::console_entry)],
    },
    Route { pattern: "/redfish/v1/Systems/{}/LogServices/Events", methods: &[(Get, Login, logs::events)] },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Events/Entries",
        methods: &[(Get, Login, logs::event_entries)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Events/Entries/{}",
        methods: &[(Get, Login, logs::event_entry)],
    },
    Route { pattern: "/redfish/v1/Systems/{}/EthernetInterfaces", methods: &[(Get, Login, nics::list)] },
    Route {
        pattern: "/redfish/v1/Systems/{}/EthernetInterfaces/{}",
        methods: &[(Get, Login, nics::nic), (Patch, ConfigureComponents, nics::patch)],
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Oem/Salp/Console",
        methods: &[(Get, Login, console::read), (Post, ConfigureComponents, console::write)],
    },
    Route { pattern: "/redfish/v1/Systems/{}/Oem/Salp/Memory", methods: &[(Get, Login, systems::memory)] },
    Route { pattern: "/redfish/v1/Oem/Salp/Images", methods: &[(Get, Login, images::list)] },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Images/{}",
        methods: &[
            (Get, Login, images::image),
            (Put, ConfigureComponents, images::put),
            (Patch, ConfigureComponents, images::patch),
            (Delete, ConfigureComponents, images::delete),
        ],
    },
    Route { pattern: "/redfish/v1/Oem/Salp/Snapshots", methods: &[(Get, Login, snapshots::list)] },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Snapshots/{}",
        methods: &[(Get, Login, snapshots::snapshot), (Delete, ConfigureComponents, snapshots::delete)],
    },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Snapshots/{}/Actions/SalpSnapshot.InstantClone",
        methods: &[(Post, ConfigureComponents, snapshots::instant_clone)],
    },
    Route { pattern: "/metrics", methods: &[(Get, Login, metrics::metrics)] },
    Route { pattern: "/healthz", methods: &[(Get, Open, metrics::health)] },
];

/// The segments of a path that stand where a pattern has `{}`.
pub type Variables<'a> = [&'a str; MAX_VARIABLES];

/// Returns the route of a path.
pub fn find(path: &str) -> Option<(&'static Route, Variables<'_>)> {
    let path = path.strip_suffix('/').unwrap_or(path);
    ROUTES.iter().find_map(|route| matches(route.pattern, path).map(|variables| (route, variables)))
}

fn matches<'a>(pattern: &str, path: &'a str) -> Option<Variables<'a>> {
    let mut variables = [""; MAX_VARIABLES];
    let (mut free, mut segments) = (variables.iter_mut(), path.split('/'));
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected == "{}" {
            *free.next()? = segment;
        } else if expected != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(variables)
}

impl Route {
    /// Returns who may do `method` to it and the function, if it can be done; HEAD is GET.
    pub fn method(&self, method: Method) -> Option<(Right, Handler)> {
        let method = if method == Method::Head { Get } else { method };
        self.methods.iter().find(|(known, ..)| *known == method).map(|&(_, right, handler)| (right, handler))
    }

    /// Returns the value of `Allow`.
    pub fn allow(&self) -> String {
        let mut allow = String::new();
        for (method, ..) in self.methods {
            let words = if *method == Get { "GET, HEAD" } else { &alloc::format!("{method}") };
            allow.push_str(if allow.is_empty() { "" } else { ", " });
            allow.push_str(words);
        }
        allow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_path_comes_before_one_with_a_variable() {
        let (route, _) = find("/redfish/v1/SessionService/Sessions/Members").unwrap();
        assert_eq!(route.allow(), "POST");
        let (route, [id, _]) = find("/redfish/v1/SessionService/Sessions/x/").unwrap();
        assert_eq!((route.allow().as_str(), id), ("GET, HEAD, DELETE", "x"));
    }

    #[test]
    fn no_pattern_hides_a_later_one() {
        for (index, route) in ROUTES.iter().enumerate() {
            let hides = |earlier: &&Route| matches(earlier.pattern, route.pattern).is_some();
            assert!(ROUTES[..index].iter().find(hides).is_none(), "{}", route.pattern);
        }
    }

    #[test]
    fn other_paths_are_nothing() {
        for path in
            ["", "/", "//", "/redfish/v2", "/redfish/v1//", "/redfish/v1/Systems/1/", "/redfish//v1", "redfish/v1"]
        {
            assert_eq!(find(path).is_some(), path == "/redfish/v1/Systems/1/", "{path}");
        }
    }
}
