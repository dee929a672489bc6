# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways of docs/k3s-ansible.md, with a role of our own that does things in the order and with the loops of
k3s-ansible's.

The role lives inside a collection, as k3s-ansible does where it was installed from Galaxy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import support

ARCHS = ('amd64', 'arm64', 'arm')
DIRECTORY = "{{ lookup('k3s_artifact', 'directory') }}"


def write_role(folder, copy='ansible.builtin.copy'):
    """Make the collection example.cluster with the role airgap and the playbook site; return the value for
    ANSIBLE_COLLECTIONS_PATH.

    The role takes `machine` and `node_root`, the folder that is the node's root. *copy* is the word in its two tasks
    that the docs ask to change.
    """
    send = [
        {'name': 'Look for the install script',
         'ansible.builtin.stat': {'path': "{{ airgap_dir + '/k3s-install.sh' }}"},
         'delegate_to': 'localhost', 'become': False, 'register': 'script'},
        {'name': 'Download the install script', 'ansible.builtin.fail': {'msg': 'there is no network'},
         'when': 'not script.stat.exists'},
        {'name': 'Send the install script', 'ansible.builtin.copy': {
            'src': '{{ airgap_dir }}/k3s-install.sh',
            'dest': '{{ node_root }}/usr/local/bin/k3s-install.sh', 'mode': '0755'}},
        {'name': 'Name the architecture', 'ansible.builtin.set_fact': {
            'word': "{{ {'aarch64': 'arm64', 'armv7l': 'arm'}[machine] | default('amd64') }}"}},
        {'name': 'Send the binary', copy: {'src': '{{ item }}',
                                           'dest': '{{ node_root }}/usr/local/bin/k3s', 'mode': '0755'},
         'with_first_found': [{'files': ['{{ airgap_dir }}/k3s-{{ word }}', '{{ airgap_dir }}/k3s'], 'skip': True}]},
        {'name': 'Make the images folder', 'ansible.builtin.file': {
            'path': '{{ node_root }}/var/lib/rancher/k3s/agent/images/', 'state': 'directory', 'mode': '0755'}},
        {'name': 'Send the images', copy: {
            'src': '{{ item }}', 'dest': '{{ node_root }}/var/lib/rancher/k3s/agent/images/{{ item | basename }}',
            'mode': '0755'},
         'with_fileglob': ['{{ airgap_dir }}/*.tar.gz', '{{ airgap_dir }}/*.tar.zst', '{{ airgap_dir }}/*.tar']}]
    install = {'name': 'Run the install script',
               'ansible.builtin.command': '{{ node_root }}/usr/local/bin/k3s-install.sh',
               'changed_when': False}
    role = [{'name': 'Without a network', 'when': 'airgap_dir is defined', 'block': [
        {'name': 'Send', 'tags': ['send'], 'block': send}, install]}]
    site = [{'hosts': 'all', 'gather_facts': False, 'roles': ['example.cluster.airgap']}]
    collection = Path(folder) / 'collections' / 'ansible_collections' / 'example' / 'cluster'
    for name, content in (('roles/airgap/tasks/main.yml', role), ('playbooks/site.yml', site)):
        (collection / name).parent.mkdir(parents=True, exist_ok=True)
        (collection / name).write_text(json.dumps(content))
    return str(Path(folder) / 'collections')


def airgap(folder, layout):
    """Make a release with install scripts, as k3s-ansible wants it: in folders of architectures, the binary is called
    k3s."""
    support.release(folder, *ARCHS, layout=layout)
    for place in [folder / arch for arch in ARCHS] if layout == 'per-arch' else [folder]:
        (place / 'k3s-install.sh').write_text('#!/bin/sh\nexit 0\n')
    if layout == 'per-arch':
        for arch in ('arm64', 'arm'):
            (folder / arch / 'k3s').symlink_to(support.BINARIES[arch])
    return folder


def hosts(folder, **variables):
    """Return a host for each arch, whose root is a folder of its own below *folder*."""
    for arch in ARCHS:
        (folder / 'nodes' / arch / 'usr/local/bin').mkdir(parents=True, exist_ok=True)
    return {arch: {'machine': support.MACHINES[arch], 'node_root': str(folder / 'nodes' / arch), **variables}
            for arch in ARCHS}


def override(folder):
    """Return variables that turn the copy of a K3s binary to the folders of :func:`hosts`."""
    return {'k3s_artifact_machine': '{{ machine }}', 'k3s_artifact_dest': '{{ node_root }}/usr/local/bin/k3s',
            'k3s_artifact_probe': False, 'airgap_dir': str(folder)}


def names(folder, arch):
    return sorted(path.name for path in (folder / 'nodes' / arch / 'var/lib/rancher/k3s/agent/images').iterdir())


def assert_each_has_its_own(folder, run):
    assert run.rc == 0, run.output
    for arch in ARCHS:
        binary = folder / 'nodes' / arch / 'usr/local/bin/k3s'
        assert support.elf_arch(binary) == arch
        assert binary.stat().st_mode & 0o7777 == 0o755
        assert names(folder, arch) == [f'k3s-airgap-images-{arch}.tar.zst']


# --- way 1: the lookup in the inventory

GATHER = {'hosts': 'all', 'gather_facts': False, 'tasks': [
    {'name': 'gather', 'ansible.builtin.set_fact': {'architecture': '{{ machine }}', 'cacheable': True}}]}
# Where k3s-ansible asks for airgap_dir without using it, some of it in plays that gather no facts.
CONDITIONS = {'airgap_dir is defined': True, 'airgap_dir is undefined': False, 'airgap_dir is not defined': False,
              'not ansible_check_mode and airgap_dir is undefined and (1 != 0)': False,
              "(airgap_dir is defined or 1 == 2) | ternary('true', 'false')": 'true',
              "{} | combine(airgap_dir is defined and {'skip': 'true'} or {})": {'skip': 'true'}}
ASK = [{'name': text, 'ansible.builtin.debug': {'msg': '{{ %s }}' % text}, 'ignore_errors': True}
       for text in CONDITIONS]


def test_the_lookup_in_the_inventory_gives_an_unedited_role_the_files_of_each_host(tmp_path):
    airgap(tmp_path / 'airgap', 'per-arch')
    env = {'ANSIBLE_COLLECTIONS_PATH': write_role(tmp_path)}
    plays = [GATHER, {'hosts': 'all', 'gather_facts': False, 'roles': ['example.cluster.airgap']},
             {'hosts': 'all', 'gather_facts': False, 'tasks': [
                 *ASK, {'name': 'of another host',
                        'ansible.builtin.debug': {'msg': "{{ hostvars['arm'].airgap_dir }}"}}]}]
    nodes = hosts(tmp_path, k3s_artifact_dir='airgap', airgap_dir=DIRECTORY)
    run = support.play(tmp_path, plays, hosts=nodes, env=env)
    assert_each_has_its_own(tmp_path, run)
    for arch in ARCHS:
        assert {text: run.result(arch, text)['msg'] for text in CONDITIONS} == CONDITIONS
        assert run.result(arch, 'of another host')['msg'] == str(tmp_path / 'airgap' / 'arm')


def test_without_facts_a_question_for_airgap_dir_fails_and_is_never_answered_with_no(tmp_path):
    airgap(tmp_path / 'airgap', 'per-arch')
    conditions = [{'name': f'when: {text}', 'ansible.builtin.debug': {'msg': text}, 'when': text, 'ignore_errors': True}
                  for text in list(CONDITIONS)[:4]]
    loops = [{'name': f'{loop}', 'ansible.builtin.debug': {'msg': '{{ item }}'}, loop: term, 'ignore_errors': True}
             for loop, term in (
        ('with_first_found', [{'files': ['{{ airgap_dir }}/k3s'], 'skip': True}]),
        ('with_fileglob', ['{{ airgap_dir }}/k3s*']))]
    tasks = [*ASK, *conditions, *loops]
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}],
                       hosts={'node': {'k3s_artifact_dir': 'airgap', 'airgap_dir': DIRECTORY}})
    asked = [task['name'] for task in tasks]
    assert [entry['task'] for entry in run.results if entry['status'] == 'failed'] == asked, run.output
    for task in asked:
        assert 'has no fact "architecture"' in run.result('node', task)['msg']
        assert 'Gather facts, or set k3s_artifact_machine' in run.result('node', task)['msg']


def test_a_folder_in_which_k3s_ansible_would_not_find_its_file_is_an_error_or_a_warning(tmp_path):
    cases = {'release name only': (['k3s-armhf'], 'k3s-ansible looks there for k3s-arm and then k3s. Rename or link'),
             'another architecture': ({'k3s': 'amd64'}, 'is a binary for amd64'),
             'its own name first': ({'k3s-arm': 'amd64', 'k3s': 'arm'}, 'is a binary for amd64'),
             'no install script': ({'k3s': 'arm'}, 'holds no k3s-install.sh: k3s-ansible will try to download it'),
             'no folder': (None, 'has no folder for host')}
    for name, (files, _text) in cases.items():
        (tmp_path / name).mkdir()
        if files is not None:
            (tmp_path / name / 'arm').mkdir()
            for file in files:
                arch = files[file] if isinstance(files, dict) else 'arm'
                (tmp_path / name / 'arm' / file).write_bytes(support.elf(arch))
    tasks = [{'name': 'ask', 'ansible.builtin.debug': {'msg': '{{ airgap_dir }}'}, 'ignore_errors': True}]
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}], hosts={
        name: {'k3s_artifact_machine': 'armv7l', 'k3s_artifact_dir': name, 'airgap_dir': DIRECTORY} for name in cases})
    output = ' '.join(run.output.split())
    for name, (_files, text) in cases.items():
        assert text in (output if name == 'no install script' else run.result(name, 'ask')['msg']), name


# --- way 2: one word

@pytest.mark.parametrize('home', ['beside the playbook', 'ansible.cfg, playbook of the collection'])
def test_ansible_legacy_copy_in_a_role_of_a_collection_gives_each_host_its_own_files(tmp_path, home):
    airgap(tmp_path / 'airgap', 'flat')
    env = {'ANSIBLE_COLLECTIONS_PATH': write_role(tmp_path, copy='ansible.legacy.copy')}
    if home != 'beside the playbook':
        (tmp_path / 'ansible.cfg').write_text(f'[defaults]\naction_plugins = {support.ROOT}/plugins/action\n'
                                              f'lookup_plugins = {support.ROOT}/plugins/lookup\n')
        env['ANSIBLE_CONFIG'] = str(tmp_path / 'ansible.cfg')
    playbook = ('example.cluster.site' if 'collection' in home else
                [{'hosts': 'all', 'gather_facts': False, 'roles': ['example.cluster.airgap']}])
    nodes = hosts(tmp_path, **override(tmp_path / 'airgap'))
    run = support.play(tmp_path, playbook, hosts=nodes,
                       home='drop-in' if home == 'beside the playbook' else 'none', env=env)
    assert_each_has_its_own(tmp_path, run)
    handed = {item['item']: item for item in run.items('arm', 'example.cluster.airgap : Send the binary')}
    assert list(handed) == [str(tmp_path / 'airgap' / 'k3s')]
    assert handed[str(tmp_path / 'airgap' / 'k3s')]['k3s_artifact']['source'] == str(tmp_path / 'airgap' / 'k3s-armhf')
    skipped = {os.path.basename(item['item']): item['skip_reason']
               for item in run.items('arm', 'example.cluster.airgap : Send the images') if 'skip_reason' in item}
    assert skipped == {f'k3s-airgap-images-{arch}.tar.zst': f'k3s-airgap-images-{arch}.tar.zst is '
                       f'for {arch}, arm is arm'
                       for arch in ('amd64', 'arm64')}
    if home == 'beside the playbook':
        assert support.play(tmp_path, playbook, hosts=nodes, env=env).changed() == 0


def test_without_the_two_files_the_edited_role_still_runs_as_the_unedited_one(tmp_path):
    """What the edit costs somebody who forgets the plugins: nothing, and no protection either."""
    airgap(tmp_path / 'airgap', 'flat')
    env = {'ANSIBLE_COLLECTIONS_PATH': write_role(tmp_path, copy='ansible.legacy.copy')}
    nodes = {'arm': hosts(tmp_path, **override(tmp_path / 'airgap'))['arm']}
    run = support.play(tmp_path, 'example.cluster.site', hosts=nodes, home='none', env=env)
    assert run.rc == 0, run.output
    assert support.elf_arch(tmp_path / 'nodes/arm/usr/local/bin/k3s') == 'amd64'


# --- PyratLabs' role

def test_a_role_that_copies_k3s_under_its_version_is_served_by_k3s_artifact_dest(tmp_path):
    airgap(tmp_path / 'files', 'flat')
    task = {'name': 'upload', 'ansible.legacy.copy': {'src': 'k3s',
                                                      'dest': '{{ node_root }}/opt/k3s-v1.31.4+k3s1', 'mode': '0755'}}
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'folder', 'ansible.builtin.file': {'path': '{{ node_root }}/opt', 'state': 'directory'}}, task]}]
    nodes = hosts(tmp_path, k3s_artifact_machine='{{ machine }}', k3s_artifact_probe=False,
                  k3s_artifact_dest='{{ node_root }}/opt/k3s-v1.31.4+k3s1')
    run = support.play(tmp_path, plays, hosts=nodes)
    assert run.rc == 0, run.output
    assert 'is not the install path' not in run.output
    for arch in ARCHS:
        assert support.elf_arch(tmp_path / 'nodes' / arch / 'opt/k3s-v1.31.4+k3s1') == arch


# --- image archives as users have them

# Per arch, which of the files of one folder a host gets. What is not named here is for nobody.
ARCHIVES = {
    'k3s-airgap-images-amd64.tar.zst': ['amd64'], 'k3s-airgap-images-amd64.tar.gz': [],
    'k3s-airgap-images-amd64.tar': [],
    'k3s-airgap-images-arm64.tar.gz': ['arm64'], 'k3s-airgap-images-arm64.tar': [],
    'k3s-airgap-images-arm.tar': ['arm'],
    'registry.tar': ['amd64', 'arm64', 'arm'],
    'monitoring-v2.1.tar.gz': ['amd64', 'arm64', 'arm'],
    'app-amd64.tar.gz': ['amd64'], 'app_x86_64.tar.zst': ['amd64'], 'app.aarch64.tar': ['arm64'],
    'app-armv7.tar.gz': ['arm'],
    'app-armhf.tar.zst': ['arm'], 'app-s390x.tar.gz': [], 'app-armv6.tar': [],
    'charm.tar': ['amd64', 'arm64', 'arm'],
}


def wanted(arch):
    return sorted(name for name, archs in ARCHIVES.items() if arch in archs)


def test_each_host_gets_its_own_archives_the_shared_ones_and_one_compression(tmp_path):
    """By the lookup, and by a loop over everything that lies there."""
    folder = airgap(tmp_path / 'airgap', 'flat')
    for path in (*folder.glob('*.tar*'), *folder.glob('sha256sum-*')):
        path.unlink()
    for name in ARCHIVES:
        (folder / name).write_bytes(support.image_file(name, *ARCHS))
    (folder / '.k3s-airgap-images-amd64.tar.zst').write_text('half a download')
    tasks = [{'name': 'ask',
              'ansible.builtin.debug': {'msg': "{{ query('k3s_artifact', 'images') | map('basename') }}"}},
             {'name': 'images', 'ansible.legacy.copy': {
                 'src': '{{ item }}', 'dest': '{{ node_root }}/var/lib/rancher/k3s/agent/images/{{ item | basename }}'},
              'with_fileglob': [f'{folder}/*.tar.gz', f'{folder}/*.tar.zst', f'{folder}/*.tar']}]
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}],
                       hosts=hosts(tmp_path, **override(folder)))
    assert run.rc == 0, run.output
    for arch in ARCHS:
        assert sorted(run.result(arch, 'ask')['msg']) == wanted(arch)
        assert names(tmp_path, arch) == wanted(arch)
        reasons = [item['skip_reason'] for item in run.items(arch, 'images') if 'skip_reason' in item]
        assert len(reasons) == len(ARCHIVES) - len(wanted(arch))


def test_shared_archives_lie_beside_the_folders_of_the_architectures(tmp_path):
    folder = airgap(tmp_path / 'airgap', 'per-arch')
    for path, archs in (('registry.tar', ARCHS), ('app-arm64.tar', ['arm64']), ('arm/registry.tar', ['arm']),
                        ('arm64/app-amd64.tar', ['amd64'])):
        (folder / path).write_bytes(support.image_file(path, *archs))
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'ask', 'ansible.builtin.debug': {'msg': "{{ query('k3s_artifact', 'images') }}"}}]}]
    run = support.play(tmp_path, plays, hosts=hosts(tmp_path, **override(folder)))
    own = {arch: f'{arch}/k3s-airgap-images-{arch}.tar.zst' for arch in ARCHS}
    for arch, expected in (('amd64', [own['amd64'], 'registry.tar']),
                           ('arm64', ['app-arm64.tar', own['arm64'], 'registry.tar']),
                           ('arm', [own['arm'], 'arm/registry.tar'])):
        assert run.result(arch, 'ask')['msg'] == [str(folder / path) for path in expected]


def test_the_first_found_loop_over_compressions_gets_the_one_it_found(tmp_path):
    """k3s-ansible 1.0.0 and 1.0.1 name the archive of the node's architecture themselves."""
    folder = airgap(tmp_path / 'airgap', 'flat')
    task = {'name': 'images', 'ansible.legacy.copy': {'src': '{{ item }}', 'dest': '{{ node_root '
                                                      '}}/var/lib/rancher/k3s/agent/images/{{ item | basename }}'},
            'with_first_found': [{'files': [f'{folder}/k3s-airgap-images-{{{{ inventory_hostname }}}}.tar.{end}'
                                            for end in ('zst', 'gz')],
                                  'skip': True}]}
    (folder / 'k3s-airgap-images-arm.tar.zst').unlink()
    (folder / 'k3s-airgap-images-arm.tar.gz').write_bytes(support.image_file('k3s-airgap-images-arm.tar.gz', 'arm'))
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': [task]}]
    (folder / 'sha256sum-arm.txt').unlink()
    run = support.play(tmp_path, plays, hosts=hosts(tmp_path, **override(folder)))
    assert run.rc == 0, run.output
    assert {arch: names(tmp_path, arch) for arch in ARCHS} == {
        arch: [f'k3s-airgap-images-{arch}.tar.{"gz" if arch == "arm" else "zst"}'] for arch in ARCHS}
