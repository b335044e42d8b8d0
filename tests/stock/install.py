#!/usr/bin/env python3
"""Puts the collection community.general beside this Python's modules, where Ansible finds it.

It comes from the package `ansible`, which has a hundred other collections: those are left there.
"""

import pathlib
import subprocess
import sys
import sysconfig
import tempfile
import zipfile

PACKAGE = "ansible==12.3.0"
WANTED = "ansible_collections/community/general/"

with tempfile.TemporaryDirectory() as work:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE]
    subprocess.run(pip, check=True)
    (wheel,) = pathlib.Path(work).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(WANTED)]
        archive.extractall(sysconfig.get_path("purelib"), members)
