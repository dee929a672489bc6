# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests run inside pytest's own process: keep what Ansible writes out of the home of the person who runs them."""

from __future__ import annotations

import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings

LOCAL_TEMP = tempfile.mkdtemp(prefix='k3s-artifact-unit-')
os.environ['ANSIBLE_LOCAL_TEMP'] = LOCAL_TEMP  # read when ansible.constants is imported
for name in [name for name in os.environ if name.startswith('K3S_ARTIFACT_') and name != 'K3S_ARTIFACT_FUZZ_EXAMPLES']:
    del os.environ[name]

# The same examples in every run, unless a long run looks for new ones. How long one takes says how busy the machine is.
settings.register_profile('here', derandomize='K3S_ARTIFACT_FUZZ_EXAMPLES' not in os.environ, deadline=None,
                          database=None,
                          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.load_profile('here')


def pytest_unconfigure():
    shutil.rmtree(LOCAL_TEMP, ignore_errors=True)
