#!/usr/bin/env python3
"""What OpenStack's sushy does with one VM: looks, turns it off, on and on again, and has a medium in its drive.

    tour_sushy.py URL USER PASSWORD CA.pem VM
"""

import sys

import requests
import sushy

url, user, password, ca, vm = sys.argv[1:]
root = sushy.Sushy(url + "/redfish/v1", username=user, password=password, verify=ca)
system = root.get_system("/redfish/v1/Systems/" + vm)
assert system.identity in [one.identity for one in root.get_system_collection().get_members()]
print(system.name, system.uuid, system.power_state, system.processors.summary.count)
print([nic.mac_address for nic in system.ethernet_interfaces.get_members()])
assert system.managers[0].manager_type and system.chassis[0].name
for kind, state in [
    (sushy.ResetType.FORCE_OFF, sushy.PowerState.OFF),
    (sushy.ResetType.ON, sushy.PowerState.ON),
    (sushy.ResetType.FORCE_RESTART, sushy.PowerState.ON),
]:
    system.reset_system(kind)
    system.refresh(force=True)
    assert system.power_state == state, (kind, system.power_state)
image = "/redfish/v1/Oem/Salp/Images/sushy"
requests.put(url + image, data=b"medium" * 1000, auth=(user, password), verify=ca).raise_for_status()
(drive,) = system.virtual_media.get_members()
drive.insert_media(image)
drive.refresh(force=True)
assert drive.inserted and drive.image == image
system.set_system_boot_options(target=sushy.BootSource.CD, enabled=sushy.BootSourceOverrideEnabled.ONCE)
system.refresh(force=True)
assert system.boot.target == sushy.BootSource.CD
system.set_system_boot_options(target=sushy.BootSource.NONE, enabled=sushy.BootSourceOverrideEnabled.DISABLED)
drive.eject_media()
drive.refresh(force=True)
assert not drive.inserted
requests.delete(url + image, auth=(user, password), verify=ca).raise_for_status()
print("DONE")
