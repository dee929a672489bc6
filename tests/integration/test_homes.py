# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same two files work wherever a user of Ansible puts plugins."""

from __future__ import annotations

import shutil

import pytest

import support

HOSTS = {arch: {'k3s_artifact_machine': machine, 'k3s_artifact_probe': False,
                'k3s_artifact_dest': '{{ playbook_dir }}/nodes/' + arch + '/k3s'}
         for arch, machine in support.MACHINES.items()}


def stage(action, lookup):
    return [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'folder', 'ansible.builtin.file': {'path': '{{ k3s_artifact_dest | dirname }}', 'state': 'directory'}},
        {'name': 'stage', action: {'src': '{{ playbook_dir }}/airgap/k3s'}},
        {'name': 'ask', 'ansible.builtin.debug': {'msg': "{{ lookup('%s', 'name', 'arch') }}" % lookup},
         'vars': {'airgap_dir': 'airgap'}},
    ]}]


def check(folder, run):
    assert run.rc == 0, run.output
    for arch in support.MACHINES:
        assert support.elf_arch(folder / 'nodes' / arch / 'k3s') == arch
        assert run.result(arch, 'ask')['msg'] == f'{support.BINARIES[arch]},{arch}'
        assert run.result(arch, 'stage')['k3s_artifact']['source'] == str(folder / 'airgap' / support.BINARIES[arch])


@pytest.mark.parametrize('action', ['copy', 'ansible.legacy.copy'])
def test_two_files_beside_the_playbook_give_every_host_its_own_binary(tmp_path, action):
    support.release(tmp_path / 'airgap')
    check(tmp_path, support.play(tmp_path, stage(action, 'k3s_artifact'), hosts=HOSTS))


def test_folders_named_in_ansible_cfg_give_every_host_its_own_binary(tmp_path):
    support.release(tmp_path / 'airgap')
    (tmp_path / 'ansible.cfg').write_text(f'[defaults]\naction_plugins = {support.ROOT}/plugins/action\n'
                                          f'lookup_plugins = {support.ROOT}/plugins/lookup\n')
    run = support.play(tmp_path, stage('copy', 'k3s_artifact'), hosts=HOSTS, home='none',
                       env={'ANSIBLE_CONFIG': str(tmp_path / 'ansible.cfg')})
    check(tmp_path, run)


def test_the_collection_gives_every_host_its_own_binary(tmp_path):
    support.release(tmp_path / 'airgap')
    check(tmp_path, support.play(tmp_path, stage('airgap.k3s.copy', 'airgap.k3s.k3s_artifact'),
                                 hosts=HOSTS, home='collection'))


def test_the_collections_keyword_makes_copy_the_override(tmp_path):
    support.release(tmp_path / 'airgap')
    plays = stage('copy', 'airgap.k3s.k3s_artifact')
    plays[0]['collections'] = ['airgap.k3s']
    check(tmp_path, support.play(tmp_path, plays, hosts=HOSTS, home='collection'))


def test_a_role_that_carries_the_two_files_gives_every_host_its_own_binary(tmp_path):
    support.release(tmp_path / 'roles' / 'airgap' / 'files')
    for source, target in (('plugins/action/copy.py', 'action_plugins'),
                           ('plugins/lookup/k3s_artifact.py', 'lookup_plugins')):
        (tmp_path / 'roles' / 'airgap' / target).mkdir()
        shutil.copy(support.ROOT / source, tmp_path / 'roles' / 'airgap' / target)
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'folder', 'ansible.builtin.file': {'path': '{{ k3s_artifact_dest | dirname }}', 'state': 'directory'}},
        {'name': 'role', 'ansible.builtin.import_role': {'name': 'airgap'}}]}]
    tasks = tmp_path / 'roles' / 'airgap' / 'tasks'
    tasks.mkdir()
    (tasks / 'main.yml').write_text('- name: stage\n  copy:\n    src: k3s\n')
    run = support.play(tmp_path, plays, hosts=HOSTS, home='none')
    assert run.rc == 0, run.output
    for arch in support.MACHINES:
        assert support.elf_arch(tmp_path / 'nodes' / arch / 'k3s') == arch


def test_without_the_lookup_beside_it_the_action_says_which_file_is_missing(tmp_path):
    support.release(tmp_path / 'airgap')
    support.install_drop_in(tmp_path)
    shutil.rmtree(tmp_path / 'lookup_plugins')
    plays = [{'hosts': 'all', 'gather_facts': False,
              'tasks': [{'name': 'stage', 'copy': {'src': '{{ playbook_dir }}/airgap/k3s'}}]}]
    run = support.play(tmp_path, plays, hosts={'amd64': HOSTS['amd64']}, home='none')
    assert run.rc == 2
    assert ('Put k3s_artifact.py into a folder lookup_plugins/ beside the playbook'
            in run.result('amd64', 'stage')['msg'])
