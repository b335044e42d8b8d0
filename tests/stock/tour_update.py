#!/usr/bin/env python3
"""What OpenStack's sushy does to update an appliance: it lets it fetch an image, and waits for the end of the task.

    tour_update.py URL USER PASSWORD CA.pem IMAGE-URL
"""

import sys
import time

import sushy

url, user, password, ca, image = sys.argv[1:]
root = sushy.Sushy(url + "/redfish/v1", username=user, password=password, verify=ca)
service = root.get_update_service()
assert service.service_enabled
monitor = service.simple_update(image, transfer_protocol="HTTP")
# What sushy asks is the task, not its monitor: it is there at once, and says itself whether it goes on.
monitor.wait(120)
task = monitor.get_task()
while task.task_state == sushy.TASK_STATE_RUNNING:
    time.sleep(1)
    task.refresh(force=True)
assert task.task_state == sushy.TASK_STATE_COMPLETED, task.json
print([(one.identity, one.version) for one in root.get_update_service().firmware_inventory.get_members()])
print("DONE", task.messages[-1].message_id)
