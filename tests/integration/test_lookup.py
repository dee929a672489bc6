# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lookup returns in a play: every term, every source of an option, every layout. A host is a case."""

from __future__ import annotations

import gzip
import platform
import re
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

import support

HTML = b'<html>404</html>'
ARM64 = ['arm64/k3s-arm64', 'arm64/k3s', 'aarch64/k3s-arm64', 'aarch64/k3s', 'k3s-arm64', 'k3s']


def content(name, arch):
    """Return a program for *arch*, or for a name with a suffix what that says: an image archive that is for all, or
    text."""
    if '.' not in name:
        return support.elf(arch, name.encode() + b' v1.31.4+k3s1\0')
    pack = {'.gz': gzip.compress, '.zst': support.zst, '.tar': bytes, '.txt': lambda _data: name.encode()}
    return pack[Path(name).suffix](support.image_archive(*support.MACHINES, '386'))


def files(*names, arch='arm64'):
    """Make the folder hold program files for *arch* and text files of the given names."""
    def make(folder):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content(name, arch))
    return make


def flat(folder):
    support.release(folder)


def per_arch(folder):
    for arch in support.BINARIES:
        support.release(folder, arch, layout='per-arch')
        (folder / arch / support.BINARIES[arch]).rename(folder / arch / 'k3s')
        (folder / arch / 'k3s-install.sh').write_text('#!/bin/sh\n')


def listed(*lines, name='sha256sum-arm64.txt', end='\n'):
    """Make a release for arm64 with a checksum list of *lines*; {good} stands for the digest of its binary."""
    def make(folder):
        path = support.release(folder, 'arm64', lists=False)['arm64']
        (folder / name).write_bytes(''.join(line.replace('{good}', support.sha256(path)) + end
                                            for line in lines).encode())
    return make


class Case(NamedTuple):
    """A host, what it asks for, and what it gets. {folder} is the case's own folder, the artifact directory by
    default."""

    name: str
    expected: Any
    make: Callable = flat
    terms: tuple = ()
    machine: str | None = 'aarch64'
    variables: dict = {}
    options: dict = {}


REQUIRED = {'k3s_artifact_verify': 'required'}
NO_DIR = {'airgap_dir': None}

CASES = [
    # the terms
    *[Case(f'binary-{arch}', ['{folder}/' + binary], machine=support.MACHINES[arch])
      for arch, binary in support.BINARIES.items()],
    *[Case(f'name-{arch}', [binary, arch], terms=('name', 'arch'), machine=support.MACHINES[arch], variables=NO_DIR)
      for arch, binary in support.BINARIES.items()],
    Case('term-binary', ['{folder}/k3s-arm64'], terms=('binary',)),
    Case('term-images', ['{folder}/k3s-airgap-images-arm64.tar.zst'], terms=('images',)),
    Case('term-script', ['{folder}/arm64/k3s-install.sh'], per_arch, ('script',)),
    Case('term-script-none', [], flat, ('script',)),
    Case('term-directory', ['{folder}/arm64'], per_arch, ('directory',)),
    Case('term-sha256', [support.hashlib.sha256(support.elf('arm64', b'K3s for arm64 v1.31.4+k3s1 ' * 10)).hexdigest()],
         terms=('sha256',)),
    Case('terms-in-order', ['arm64', '{folder}/k3s-arm64', 'k3s-arm64', 'arm64'],
         terms=('arch', 'binary', 'name', 'arch')),
    Case('term-list', ['arm64', 'k3s-arm64'], terms=(['arch', 'name'],)),

    # where the machine comes from
    Case('machine-injected-fact', ['arm64'], terms=('arch',), machine=None,
         variables={'ansible_architecture': 'aarch64'}),
    Case('machine-over-fact', ['arm'], terms=('arch',), machine='armv7l',
         variables={'ansible_architecture': 'aarch64'}),
    Case('machine-keyword-over-variable', ['riscv64'], terms=('arch',), machine='armv7l',
         options={'machine': 'riscv64'}),
    Case('machine-template', ['arm'], terms=('arch',), machine='{{ my_machine }}',
         variables={'my_machine': 'armv7{{ "l" }}'}),

    # templates and relative folders
    Case('dir-template', ['{folder}/k3s-arm64'],
         variables={'airgap_dir': '{{ playbook_dir }}/{{ inventory_hostname }}'}),
    Case('dir-nested-template', ['{folder}/k3s-arm64'], variables={
        'airgap_dir': '{{ base }}/{{ inventory_hostname }}', 'base': '{{ higher }}', 'higher': '{{ playbook_dir }}'}),
    Case('dir-relative', ['{folder}/k3s-arm64'], variables={'airgap_dir': 'dir-relative'}),
    Case('dir-relative-dot', ['{folder}/k3s-arm64'], variables={'airgap_dir': './x/../dir-relative-dot/'}),
    Case('dir-of-home', ['{parent}/home/airgap/k3s-arm64'], variables={'airgap_dir': '~/airgap'},
         make=lambda folder: flat(folder.parent / 'home' / 'airgap')),
    Case('dir-with-own-arch', ['{folder}/arm64/k3s'], per_arch, variables={
        'airgap_dir': "{{ playbook_dir }}/{{ inventory_hostname }}/{{ lookup('k3s_artifact', 'arch') }}"}),
    Case('dir-first-variable', ['{folder}/first/k3s-arm64'],
         support.in_turn(lambda folder: flat(folder / 'first'), lambda folder: flat(folder / 'second')),
         variables={'k3s_artifact_dir': '{folder}/first', 'airgap_dir': '{folder}/second'}),
    Case('dir-unused-variable-is-not-expanded', ['{folder}/k3s-arm64'],
         variables={'k3s_artifact_dir': '{folder}', 'airgap_dir': '{{ undefined_one }}'}),
    Case('dir-keyword', ['{folder}/first/k3s-arm64'], lambda folder: flat(folder / 'first'),
         options={'dir': '{folder}/first'},
         variables={'airgap_dir': '{folder}/gone', 'k3s_artifact_dir': '{{ undefined_one }}'}),
    Case('dir-link', ['{folder}/link/k3s-arm64'],
         support.in_turn(lambda folder: flat(folder / 'real'), lambda folder: (folder / 'link').symlink_to('real')),
         variables={'airgap_dir': '{folder}/link'}),
    Case('playbook-files', ['{parent}/files/k3s-arm64'], variables=NO_DIR),
    Case('playbook-files-images', ['{parent}/files/k3s-airgap-images-arm64.tar.zst'],
         terms=('images',), variables=NO_DIR),

    # the order of the candidates: each is taken once those before it are gone
    *[Case(f'order-{index}', ['{folder}/' + name], files(*ARM64[index:])) for index, name in enumerate(ARM64)],
    Case('renamed-by-hand', ['{folder}/k3s'], files('k3s', arch='arm'), machine='armv7l'),
    Case('name-of-k3s-ansible', ['{folder}/k3s-arm'], files('k3s-arm', arch='arm'), machine='armv7l'),
    Case('name-of-k3s-ansible-amd64', ['{folder}/k3s-amd64'], files('k3s-amd64', arch='amd64'), machine='x86_64'),
    Case('release-name-before-that-of-k3s-ansible', ['{folder}/k3s-armhf'],
         files('k3s-armhf', 'k3s-arm', arch='arm'), machine='armv7l'),
    *[Case(f'folder-{folder}', ['{folder}/' + folder + '/k3s'], files(folder + '/k3s', arch=arch), machine=machine)
      for folder, arch, machine in [('x86_64', 'amd64', 'x86_64'), ('aarch64', 'arm64', 'arm64'),
                                    ('armhf', 'arm', 'armv7l'), ('armv7l', 'arm', 'armv8l'),
                                    ('amd64', 'amd64', 'amd64'), ('s390x', 's390x', 's390x')]],

    # k3s_binary_map
    Case('map', ['{folder}/k3s-armv6'], files('k3s-armv6', arch='arm'), machine='armv6l',
         variables={'k3s_binary_map': {'armv6l': 'k3s-armv6'}}),
    Case('map-folder', ['{folder}/armv6l/mine/k3s'],
         support.in_turn(lambda folder: (folder / 'armv6l').mkdir(), files('armv6l/mine/k3s', arch='arm')),
         machine='armv6l', variables={'k3s_binary_map': {'armv6l': 'mine/k3s'}}),
    Case('map-template', ['{folder}/k3s-armv6'], files('k3s-armv6', arch='arm'), machine='armv6l',
         variables={'k3s_binary_map': {'armv6l': 'k3s-{{ build }}'}, 'build': 'armv6'}),
    Case('map-whole-template', ['{folder}/k3s-armv6'], files('k3s-armv6', arch='arm'), machine='armv6l',
         variables={'k3s_binary_map': '{{ my_map }}', 'my_map': {'armv6l': 'k3s-armv6'}}),
    Case('map-keyword', ['k3s-armv6'], terms=('name',), machine='armv6l',
         options={'binary_map': {'armv6l': 'k3s-armv6'}}),
    Case('map-over-table', ['{folder}/k3s-mine'], files('k3s-mine', 'k3s-arm64'),
         variables={'k3s_binary_map': {'aarch64': 'k3s-mine'}}),
    Case('map-of-others', ['{folder}/k3s-arm64'], variables={'k3s_binary_map': {'armv6l': 'k3s-armv6'}}),
    Case('map-link-inside', ['{folder}/k3s-mine'],
         support.in_turn(flat, lambda folder: (folder / 'k3s-mine').symlink_to('k3s-arm64')),
         variables={'k3s_binary_map': {'aarch64': 'k3s-mine'}}),
    Case('map-link-to-the-directory-above', ['{folder}/arm64/k3s-mine'],
         support.in_turn(flat, lambda folder: (folder / 'arm64').mkdir(),
                         lambda folder: (folder / 'arm64' / 'k3s-mine').symlink_to('../k3s-arm64')),
         variables={'k3s_binary_map': {'aarch64': 'k3s-mine'}}),
    Case('map-images', ['{folder}/images-armv6l.tar', '{folder}/shared.tar'],
         files('k3s-armv6', 'images-armv6l.tar', 'images-armv7l.tar', 'shared.tar', arch='arm'),
         terms=('images',), machine='armv6l', variables={'k3s_binary_map': {'armv6l': 'k3s-armv6'}}),

    # verify
    Case('auto-without-list', ['{folder}/k3s-arm64'], files('k3s-arm64')),
    Case('none', ['{folder}/k3s-arm64'], lambda folder: (folder / 'k3s-arm64').write_bytes(HTML),
         variables={'k3s_artifact_verify': 'none'}),
    Case('none-with-a-wrong-digest', ['{folder}/k3s-arm64'], listed(f'{"a1" * 32}  k3s-arm64'),
         options={'verify': 'none'}, variables=REQUIRED),
    Case('verify-template', ['{folder}/k3s-arm64'], lambda folder: (folder / 'k3s-arm64').write_bytes(HTML),
         variables={'k3s_artifact_verify': '{{ mode }}', 'mode': 'none'}),
    Case('required', ['{folder}/k3s-arm64'], variables=REQUIRED),
    Case('list-generic', ['{folder}/k3s-arm64'], listed('{good}  k3s-arm64', name='sha256sum.txt'), variables=REQUIRED),
    Case('list-crlf', ['{folder}/k3s-arm64'],
         listed(f'{"a1" * 32}  k3s', '{good}  k3s-arm64', end='\r\n'), variables=REQUIRED),
    Case('list-star', ['{folder}/k3s-arm64'], listed('{good} *k3s-arm64'), variables=REQUIRED),
    Case('list-images-ahead', ['{folder}/k3s-arm64'],
         listed(f'{"a1" * 32}  k3s-arm64-images.tar', f'{"b2" * 32}  k3s', '{good}  k3s-arm64',
                f'{"c3" * 32}  k3s-arm64.old'), variables=REQUIRED),
    Case('list-upper-case', ['{folder}/k3s-arm64'], variables=REQUIRED, make=support.in_turn(
        flat, lambda folder: (folder / 'sha256sum-arm64.txt').write_text(
            support.sha256(folder / 'k3s-arm64').upper() + '  k3s-arm64\n'))),
    Case('list-renamed', ['{folder}/k3s'],
         support.in_turn(listed('{good}  k3s-arm64'), lambda folder: (folder / 'k3s-arm64').rename(folder / 'k3s')),
         variables=REQUIRED),
    Case('list-beside-the-file', ['{folder}/arm64/k3s'], variables=REQUIRED, make=support.in_turn(
        per_arch, lambda folder: (folder / 'sha256sum-arm64.txt').write_text('a list of another folder\n'))),

    # images
    Case('images-one-of-three', ['{folder}/i-arm64.tar.zst'],
         files('i-arm64.tar', 'i-arm64.tar.gz', 'i-arm64.tar.zst'), ('images',)),
    Case('images-gz-before-plain', ['{folder}/i-arm64.tar.gz'], files('i-arm64.tar', 'i-arm64.tar.gz'), ('images',)),
    Case('images-none', [], files('k3s-arm64'), ('images',)),
    Case('images-of-others', [], files('k3s-arm64', 'i-amd64.tar', 'i-arm.tar', 'i-riscv64.tar', 'i-386.tar'),
         ('images',)),
    *[Case(f'images-endings-{arch}', ['{folder}/' + name for name in names],
           files('a-amd64.tar', 'b_x86_64.tar', 'c.aarch64.tar', 'd-armv7.tar', 'e-AARCH64.tar', 'f-arm.tar', 'g.tar',
                 'h-s390x.tar', 'alarm.tar'), ('images',),
           machine=support.MACHINES[arch])
      for arch, names in [('amd64', ['a-amd64.tar', 'alarm.tar', 'b_x86_64.tar', 'g.tar']),
                          ('arm64', ['alarm.tar', 'c.aarch64.tar', 'e-AARCH64.tar', 'g.tar']),
                          ('arm', ['alarm.tar', 'd-armv7.tar', 'f-arm.tar', 'g.tar']),
                          ('s390x', ['alarm.tar', 'g.tar', 'h-s390x.tar']),
                          ('riscv64', ['alarm.tar', 'g.tar'])]],
    Case('images-shared-beside-folders', ['{folder}/arm64/k3s-airgap-images-arm64.tar.zst', '{folder}/shared.tar'],
         support.in_turn(per_arch, files('shared.tar')), ('images',)),
    Case('images-own-folder-first', ['{folder}/arm64/i-arm64.tar'],
         files('arm64/i-arm64.tar', 'i-arm64.tar.zst'), ('images',)),
]


def filled(value, folder):
    if isinstance(value, str):
        return value.replace('{folder}', str(folder)).replace('{parent}', str(folder.parent))
    if isinstance(value, dict):
        return {key: filled(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(item, folder) for item in value]
    return value


ASK = "{{ query('k3s_artifact', *terms, **options) }}"
DEFINED = "{{ lookup('k3s_artifact', 'directory') }}"
SWAP = f"""
import os, sys
status = os.stat(sys.argv[1])
with open(sys.argv[1], 'r+b') as file:
    file.write({support.elf('arm64', b'two')!r})
os.utime(sys.argv[1], ns=(status.st_atime_ns, status.st_mtime_ns))
"""

PLAYS = [
    {'name': 'every case', 'hosts': 'all:!other-*', 'gather_facts': False, 'tasks': [
        {'name': 'ask', 'debug': {'msg': ASK}, 'ignore_errors': True}]},
    {'name': 'facts of the machine itself', 'hosts': 'other-facts', 'gather_facts': False, 'tasks': [
        {'name': 'facts', 'ansible.builtin.setup': {'gather_subset': ['!all', '!min', 'platform']}},
        {'name': 'ask', 'debug': {'msg': "{{ lookup('k3s_artifact', 'arch', "
                                  "binary_map={ansible_facts.architecture: 'k3s-own'}) }}"}}]},
    {'name': 'a role brings its files', 'hosts': 'other-role', 'gather_facts': False, 'roles': ['carrier']},
    {'name': 'inventory variables that are this lookup', 'hosts': 'other-defined-*', 'gather_facts': False, 'tasks': [
        {'name': 'when', 'debug': {'msg': 'ran'}, 'when': 'airgap_dir is defined', 'ignore_errors': True},
        {'name': 'when not', 'debug': {'msg': 'ran'}, 'when': 'airgap_dir is not defined', 'ignore_errors': True},
        {'name': 'test', 'debug': {'msg': '{{ airgap_dir is defined }}'}, 'ignore_errors': True},
        {'name': 'default', 'debug': {'msg': "{{ airgap_dir | default('nothing') }}"}, 'ignore_errors': True},
        {'name': 'block', 'block': [{'name': 'inside', 'debug': {'msg': 'ran'}, 'ignore_errors': True}],
         'when': 'airgap_dir is defined'}]},
    {'name': 'digests', 'hosts': 'other-digest-*', 'gather_facts': False, 'tasks': [
        {'name': 'first', 'debug': {'msg': "{{ lookup('k3s_artifact', 'sha256') }}"}},
        {'name': 'swap', 'ansible.builtin.command': {'argv': ['{{ ansible_python_interpreter }}', '-c', SWAP,
                                                              '{{ airgap_dir }}/k3s-arm64']}, 'run_once': True},
        {'name': 'second', 'debug': {'msg': "{{ lookup('k3s_artifact', 'sha256') }}"}},
        {'name': 'touch', 'ansible.builtin.command': {'argv': ['touch', '{{ airgap_dir }}/k3s-arm64']},
         'run_once': True},
        {'name': 'third', 'debug': {'msg': "{{ lookup('k3s_artifact', 'sha256') }}"}}]},
]
DIGEST_HOSTS = [f'other-digest-{number}' for number in range(8)]


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    parent = tmp_path_factory.mktemp('lookup')
    hosts = {}
    for case in CASES:
        folder = parent / case.name
        folder.mkdir()
        case.make(folder)
        hosts[case.name] = {'airgap_dir': str(folder), **filled(case.variables, folder), 'terms': case.terms,
                            'options': filled(case.options, folder)}
        if case.machine is not None:
            hosts[case.name]['k3s_artifact_machine'] = case.machine
        if hosts[case.name]['airgap_dir'] is None:
            del hosts[case.name]['airgap_dir']
    support.release(parent / 'files')
    support.release(parent / 'roles' / 'carrier' / 'files', 'arm64', 'arm')
    (parent / 'roles' / 'carrier' / 'tasks').mkdir()
    (parent / 'roles' / 'carrier' / 'tasks' / 'main.yml').write_text('- name: ask\n  debug:\n    msg: "' + ASK + '"\n')
    per_arch(parent / 'per-arch')
    (parent / 'per-arch' / 'arm' / 'k3s-install.sh').unlink()
    support.release(parent / 'unusable', 'arm', layout='per-arch')
    (parent / 'digests').mkdir()
    (parent / 'digests' / 'k3s-arm64').write_bytes(support.elf('arm64', b'one'))
    machine = {'k3s_artifact_machine': 'aarch64'}
    hosts.update({
        'other-facts': {}, 'other-role': {**machine, 'terms': ['binary', 'images'], 'options': {}},
        'other-defined-good': {**machine, 'airgap_dir': DEFINED, 'k3s_artifact_dir': str(parent / 'per-arch')},
        'other-defined-no-script': {'k3s_artifact_machine': 'armv7l', 'airgap_dir': DEFINED,
                                    'k3s_artifact_dir': str(parent / 'per-arch')},
        'other-defined-no-folder': {**machine, 'airgap_dir': DEFINED, 'k3s_artifact_dir': str(parent / 'files')},
        'other-defined-wrong-name': {'k3s_artifact_machine': 'armv7l', 'airgap_dir': DEFINED,
                                     'k3s_artifact_dir': str(parent / 'unusable')},
        'other-defined-by-itself': {**machine, 'airgap_dir': DEFINED},
        **{name: {**machine, 'airgap_dir': str(parent / 'digests')} for name in DIGEST_HOSTS},
    })
    return parent, support.play(parent, PLAYS, '--forks', '8', hosts=hosts)


@pytest.mark.parametrize('case', CASES, ids=[case.name for case in CASES])
def test_a_host_gets_what_it_asks_for(ran, case):
    parent, run = ran
    assert run.result(case.name, 'ask')['msg'] == filled(case.expected, parent / case.name)


def test_nothing_but_a_missing_script_and_a_program_without_a_version_is_warned_of(ran):
    parent, run = ran
    assert 'Traceback' not in run.output
    output = ''.join(run.output.split())
    after = r'\[WARNING\]|\[ERROR\]|TASK\[|PLAY|ok:|skipping:|fatal:|\.\.\.ignoring|changed:'
    warned = re.findall(rf'\[WARNING\]:(.*?)(?={after})', output)
    known = [f'{parent}/per-arch/arm holds no k3s-install.sh: k3s-ansible will try to download it. Put the install '
             'script of the K3s release there.',
             f'{parent}/digests/k3s-arm64 holds no K3s version: perhaps it is another program. It is used, for '
             'k3s_artifact_verify is "auto".',
             f'{parent}/map-link-inside/k3s-mine is in no checksum list, though sha256sum-arm64.txt is there: it is '
             'not compared with a digest.',
             f'{parent}/map-link-to-the-directory-above/arm64/k3s-mine is in no checksum list, though '
             'sha256sum-arm64.txt is there: it is not compared with a digest.']
    assert set(warned) == {''.join(text.split()) for text in known}
    assert warned.count(''.join(known[1].split())) == 1, 'eight hosts use it'
    assert 'DEPRECATION' not in run.output


def test_the_facts_of_a_host_tell_its_arch(ran):
    _parent, run = ran
    assert run.result('other-facts', 'ask')['msg'] == next((arch for arch, machine in support.MACHINES.items()
                                                            if machine == platform.machine()),
                                                           platform.machine())


def test_the_files_of_a_role_come_before_those_of_the_playbook(ran):
    parent, run = ran
    role = parent / 'roles' / 'carrier' / 'files'
    assert run.result('other-role', 'carrier : ask')['msg'] == [str(role / 'k3s-arm64'),
                                                                str(role / 'k3s-airgap-images-arm64.tar.zst')]


def test_an_inventory_variable_that_is_this_lookup_is_the_folder_of_the_host(ran):
    parent, run = ran
    for host, arch in (('other-defined-good', 'arm64'), ('other-defined-no-script', 'arm')):
        assert run.result(host, 'when')['msg'] == run.result(host, 'inside')['msg'] == 'ran'
        assert run.result(host, 'test')['msg'] is True
        assert run.result(host, 'default')['msg'] == str(parent / 'per-arch' / arch)


@pytest.mark.parametrize('task', ['when', 'when not', 'test', 'default', 'inside'])
@pytest.mark.parametrize(('host', 'phrase'), [
    ('other-defined-no-folder', '{parent}/files has no folder for host \'other-defined-no-folder\' (machine aarch64, '
     'arch arm64). Make {parent}/files/arm64'),
    ('other-defined-wrong-name', '{parent}/unusable/arm does not serve host \'other-defined-wrong-name\' (machine '
     'armv7l, arch arm): k3s-ansible looks there '
     'for k3s-arm and then k3s. Rename or link the binary of the release (k3s-armhf) to k3s in it.'),
    ('other-defined-by-itself', 'airgap_dir of host \'other-defined-by-itself\' (machine aarch64, arch arm64) is '
     'defined by this lookup, which needs it to '
     'find the artifact directory. Name the folder in k3s_artifact_dir.'),
])
def test_a_folder_that_does_not_serve_fails_the_condition_and_never_skips(ran, host, phrase, task):
    """A failing lookup behind "airgap_dir is defined" is an error on every ansible-core: k3s-ansible does not go on
    without it."""
    parent, run = ran
    entry = next(entry for entry in run.results if (entry['host'], entry['task']) == (host, task))
    assert entry['status'] == 'failed'
    assert phrase.replace('{parent}', str(parent)) in entry['result']['msg']
    assert 'recursi' not in entry['result']['msg'].lower()


def test_a_digest_is_computed_once_per_run_and_not_per_host(ran):
    """The file changes behind the lookup's back, with size and time kept: who reads it again gets another digest."""
    _parent, run = ran
    one, two = (support.hashlib.sha256(support.elf('arm64', body)).hexdigest() for body in (b'one', b'two'))
    assert [run.result(host, 'first')['msg'] for host in DIGEST_HOSTS] == [one] * 8
    assert run.result(DIGEST_HOSTS[0], 'swap')['rc'] == 0
    assert [run.result(host, 'second')['msg'] for host in DIGEST_HOSTS] == [one] * 8
    assert [run.result(host, 'third')['msg'] for host in DIGEST_HOSTS] == [two] * 8


# --- environment and ansible.cfg
# ---------------------------------------------------------------------------------------

SOURCES = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
    {'name': 'ask', 'debug': {'msg': "{{ lookup('k3s_artifact', **(options | default({}))) }}"},
     'ignore_errors': True}]}]


@pytest.fixture
def configured(tmp_path):
    """A playbook in a folder of its own, ansible.cfg beside it in the folder where the command is started."""
    (tmp_path / 'ansible.cfg').write_text(f'[defaults]\nlookup_plugins = {support.ROOT}/plugins/lookup\n'
                                          '[k3s_artifact]\ndir = from-ini\nverify = required\n')
    (tmp_path / 'plays').mkdir()
    (tmp_path / 'plays' / 'site.yml').write_text(support.json.dumps(SOURCES))
    for name in ('from-ini', 'from-env', 'from-airgap-dir', 'from-variable', 'from-keyword', 'unlisted'):
        support.release(tmp_path / 'plays' / name, 'arm64', lists=name != 'unlisted')
    for name in ('from-ini', 'from-env', 'from-start'):
        support.release(tmp_path / name, 'arm64')
    return tmp_path


def ask_configured(folder, env):
    machine = {'k3s_artifact_machine': 'aarch64'}
    airgap = {**machine, 'airgap_dir': 'from-airgap-dir'}
    variable = {**airgap, 'k3s_artifact_dir': 'from-variable'}
    unlisted = {**machine, 'airgap_dir': 'unlisted'}
    run = support.play(folder, Path('plays/site.yml'), home='none', env=env, hosts={
        'configured': machine, 'airgap': airgap, 'variable': variable,
        'keyword': {**variable, 'options': {'dir': 'from-keyword'}},
        'start': {**machine, 'airgap_dir': 'from-start'},
        'absolute': {**machine, 'airgap_dir': str(folder / 'from-env')},
        'unlisted': unlisted, 'unlisted-variable': {**unlisted, 'k3s_artifact_verify': 'auto'},
        'unlisted-keyword': {**unlisted, 'k3s_artifact_verify': 'required', 'options': {'verify': 'none'}}})
    return run, lambda host: run.result(host, 'ask')['msg'].replace(str(folder), '').replace('/k3s-arm64', '')


@pytest.mark.parametrize(('env', 'configured_by', 'verify'), [
    ({}, 'from-ini', 'required'),
    ({'K3S_ARTIFACT_DIR': 'from-env', 'K3S_ARTIFACT_VERIFY': 'auto'}, 'from-env', 'auto'),
])
def test_keyword_variable_environment_and_ini_count_in_this_order(configured, env, configured_by, verify):
    run, got = ask_configured(configured, env)
    # relative to the playbook, though the other folder has one too
    assert got('configured') == f'/plays/{configured_by}'
    assert got('airgap') == '/plays/from-airgap-dir'
    assert got('variable') == '/plays/from-variable'
    assert got('keyword') == '/plays/from-keyword'
    assert got('start') == '/from-start'  # nothing of that name is beside the playbook
    assert got('absolute') == '/from-env'
    assert got('unlisted-variable') == got('unlisted-keyword') == '/plays/unlisted'
    if verify == 'auto':
        assert got('unlisted') == '/plays/unlisted'
    else:
        assert 'is in no checksum list' in run.result('unlisted', 'ask')['msg']


def test_an_unknown_value_in_the_environment_is_an_error_that_shows_it(configured):
    run, got = ask_configured(configured, {'K3S_ARTIFACT_VERIFY': 'sometimes'})
    assert 'sometimes' in run.result('configured', 'ask')['msg']
    assert 'verify' in run.result('configured', 'ask')['msg']
    assert [entry['status'] for entry in run.results if entry['host'] == 'configured'] == ['failed']
    assert got('unlisted-variable') == '/plays/unlisted'
