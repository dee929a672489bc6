# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both plugins of the collection in a task without a playbook, through pytest-ansible, which finds the collection."""

from __future__ import annotations

import os
import subprocess
import sys

import support


def test_a_task_without_a_playbook_stages_every_host_its_own_binary_where_the_lookup_says(tmp_path, ansible_adhoc):
    support.release(tmp_path / 'airgap')
    own = {f'of-{arch}': {'k3s_artifact_machine': machine, 'k3s_artifact_probe': False, 'airgap_dir': 'airgap',
                          'k3s_artifact_dest': f"{tmp_path}/{{{{ lookup('airgap.k3s.k3s_artifact', 'arch') }}}}/k3s"}
           for arch, machine in support.MACHINES.items()}
    for arch in support.MACHINES:
        (tmp_path / arch).mkdir()
    inventory = support.write_inventory(tmp_path / 'inventory.json', own)
    hosts = ansible_adhoc(inventory=str(inventory), host_pattern='all', connection='local')
    hosts.options['loader'].set_basedir(str(tmp_path))  # what --playbook-dir does
    results = getattr(hosts.all, 'airgap.k3s.copy')(src=str(tmp_path / 'airgap' / 'k3s'))
    assert {host: results[host].get('changed') for host in own} == dict.fromkeys(own, True)
    for arch in support.MACHINES:
        assert support.elf_arch(tmp_path / arch / 'k3s') == arch


def test_what_tests_write_is_not_copied_into_their_environment_by_what_comes_with_pytest_ansible(tmp_path):
    """As in CI, where a test has a link that leads back to the environment: a copy would never end."""
    environment = tmp_path / 'venv'
    environment.mkdir()
    test = tmp_path / 'test_link.py'
    test.write_text(f"""
def test_link(tmp_path_factory):
    (tmp_path_factory.mktemp('a') / 'link').symlink_to({str(tmp_path)!r})
""")
    env = {**os.environ, 'CI': 'true', 'VIRTUAL_ENV': str(environment)}
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-c', support.ROOT / 'setup.cfg',
                           '--rootdir', tmp_path, '--basetemp', tmp_path / 'written', test],
                          cwd=tmp_path, env=env, text=True, timeout=300, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0 and '1 passed' in done.stdout, done.stdout
    assert list(environment.iterdir()) == []
