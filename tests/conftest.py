# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import platform

import pytest


@pytest.fixture
def own_machine(request):
    """What this machine calls itself: its fact "architecture", as pytest-ansible gathers it, or what Python says."""
    if not request.config.pluginmanager.hasplugin('ansible'):
        return platform.machine()
    hosts = request.getfixturevalue('ansible_adhoc')(inventory='localhost,', connection='local',
                                                     host_pattern='localhost')
    return hosts.localhost.setup(
        gather_subset='!all,!min,platform')['localhost']['ansible_facts']['ansible_architecture']
