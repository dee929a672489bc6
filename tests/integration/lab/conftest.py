# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for tests on real nodes. The lab itself is started and ended by `make lab`."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lab import LAB_VARIABLE, Lab, LabError
from lab_site import RATE, SMALL, Site


@pytest.fixture(scope='session', name='lab')
def fixture_lab():
    """The lab that `make lab` has started, with its nodes as they are."""
    if not os.environ.get(LAB_VARIABLE):
        pytest.exit(f'These tests need running nodes, and {LAB_VARIABLE} is not set: run `make lab` instead.',
                    returncode=4)
    try:
        return Lab.load()
    except LabError as error:
        pytest.exit(f'{error} Run `make lab` instead.', returncode=4)


@pytest.fixture(name='nodes')
def fixture_nodes(lab):
    """The first amd64, arm64 and armhf node by name, each of them as new."""
    chosen = {name: lab.nodes[name] for name in ('amd64', 'arm64', 'armhf')}
    for node in chosen.values():
        node.reset()
    return chosen


@pytest.fixture(name='amd64')
def fixture_amd64(lab):
    """The amd64 node, as new."""
    return as_new(lab.nodes['amd64'])


@pytest.fixture(name='arm64')
def fixture_arm64(lab):
    """The arm64 node, as new."""
    return as_new(lab.nodes['arm64'])


@pytest.fixture(name='armhf')
def fixture_armhf(lab):
    """The armhf node, as new."""
    return as_new(lab.nodes['armhf'])


@pytest.fixture(scope='session', name='extra_nodes')
def fixture_extra_nodes(lab):
    """A function that gives nodes of a kind (`busybox`, `rpm`, `slow`, `amd64`), started when first asked for."""
    started = []

    def give(kind, count=1):
        present = [node for node in lab.nodes.values() if node.kind == kind]
        if len(present) < count:
            added = lab.add(f'{kind}*{count - len(present)}')
            started.extend(added)
            present += added
        return [as_new(node) for node in present[:count]]

    yield give
    lab.remove(*started)


@pytest.fixture(name='short')
def fixture_short():
    """A folder with a short path: that of a socket may have 108 characters."""
    with tempfile.TemporaryDirectory(prefix='k3s-') as folder:
        yield Path(folder)


@pytest.fixture(name='site')
def fixture_site(lab, tmp_path, extra_nodes):
    """A function that gives the :class:`Site` of a node of a kind, as new."""
    sites = []

    def give(kind, size=SMALL):
        node, = extra_nodes(kind)
        if node.rate:
            node.throttle(RATE)
        sites.append(Site(lab, tmp_path, node, size))
        return sites[-1]

    yield give
    for each in sites:
        each.node.reset()
        shutil.rmtree(each.controls)


@pytest.fixture(scope='session', name='injected')
def fixture_injected(request):
    """The names of the faults that were injected and held; their number is printed at the end."""
    names = []
    yield names
    plugins = request.config.pluginmanager
    with plugins.get_plugin('capturemanager').global_and_fixture_disabled():
        plugins.get_plugin('terminalreporter').write_line(
            f'\n{len(names)} faults injected on real nodes; each time the old K3s was intact and the next run complete')


def as_new(node):
    """Resets a node and returns it."""
    node.reset()
    return node
