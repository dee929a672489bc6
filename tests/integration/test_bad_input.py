# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bad input gets: a message of one to three sentences that names the host and the file, and an untouched node.

Every case is a host of one run of ansible-playbook, through the lookup and through copy.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, NamedTuple

import pytest

import support

BEFORE = b'what was on the node before'
LONG_AGO = 1_000_000_000  # seconds
UNKNOWN = 'which is unknown: K3s has releases for amd64, arm64, arm, s390x, riscv64. If you have a build for it'
HTML = b'<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n'
NO_FACT = object()


def nothing(folder):
    pass


def file(data, name='k3s-armhf'):
    def make(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return make


def link(target, name='k3s-armhf'):
    return lambda folder: (folder / name).symlink_to(target)


def closed(name):
    """Make a release whose folder, or file, *name* nobody may read."""
    def make(folder):
        support.release(folder, 'arm', layout='per-arch')
        (folder / name).chmod(0)
    return make


def unix_socket(folder):
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(folder, os.O_RDONLY)
        sock.bind(f'/proc/self/fd/{here}/k3s-armhf')  # the path of a socket may not be long
        os.close(here)


def cut_download(folder):
    """Make a binary whose header says that 70 MB follow."""
    data = bytearray(support.elf('arm'))
    struct.pack_into('<I', data, 32, 70_000_000)  # e_shoff
    struct.pack_into('<HH', data, 46, 40, 9)  # e_shentsize, e_shnum
    (folder / 'k3s-armhf').write_bytes(data)


def checksum_list(text, name='sha256sum-arm.txt'):
    def make(folder):
        support.release(folder, 'arm', lists=False)
        (folder / name).write_text(text)
    return make


def other_archs(folder):
    support.release(folder, 'arm64', lists=False)
    support.release(folder, 'amd64', layout='per-arch')


def leaving(folder):
    (folder / 'airgap').mkdir()
    (folder / 'k3s-armv6').write_bytes(support.elf('arm'))
    (folder / 'airgap' / 'k3s-armv6').symlink_to('../k3s-armv6')


def armhf(folder):
    support.release(folder, 'arm')


class Case(NamedTuple):
    """A host with something wrong: *says* and *shows* (the file or value) are parts of the message that are ours.

    {folder} stands for the case's own folder, which is the artifact directory unless *variables* say otherwise.
    """

    name: str
    says: str
    shows: str
    make: Callable = nothing
    machine: Any = 'armv7l'
    variables: dict = {}
    fact: Any = NO_FACT  # what a module on the node reports as its architecture
    through: tuple = ('lookup', 'copy')


CASES = [
    # the artifact directory
    Case('dir-missing', 'does not exist: there is no', '{folder}/gone', variables={'airgap_dir': '{folder}/gone'}),
    Case('dir-missing-relative', 'does not exist: there is no', '/gone/with/the/wind',
         variables={'airgap_dir': 'gone/with/the/wind'}),
    Case('dir-empty', 'it holds no K3s binary', '{folder}'),
    Case('dir-is-a-file', 'is not a directory', '{folder}/file', file(b'', 'file'),
         variables={'airgap_dir': '{folder}/file'}),
    Case('dir-unreadable', 'cannot be read: permission denied', '{folder}/arm', closed('arm'),
         variables={'airgap_dir': '{folder}/arm'}),
    Case('dir-unreadable-arch', 'cannot be read: permission denied. Make it readable', 'the folder {folder}/arm for',
         closed('arm')),
    Case('dir-not-configured', 'no artifact directory is configured', 'k3s-armhf', variables={'airgap_dir': None}),
    Case('dir-empty-text', 'is an empty text. Set k3s_artifact_dir', 'artifact directory',
         variables={'airgap_dir': ''}),
    Case('dir-list', 'which is no path', "['airgap']", variables={'airgap_dir': ['airgap']}),
    Case('dir-nul', 'which is no path', "'a\\x00\\nb'", variables={'airgap_dir': 'a\0\nb'}),
    Case('dir-loop', 'is a link that leads back to itself', '{folder}/loop', link('loop', 'loop'),
         variables={'airgap_dir': '{folder}/loop'}),
    Case('dir-of-itself', 'is defined by this lookup, which needs it to find the artifact directory', 'airgap_dir',
         variables={'airgap_dir': "{{ lookup('k3s_artifact', 'directory') }}"}),

    # the candidate
    Case('none', 'k3s-arm64 is for arm64; amd64/k3s is for amd64', 'none of arm/k3s-armhf, ', other_archs),
    Case('amd64-for-arm', 'is a binary for amd64 (64-bit, little-endian, ELF machine 62), not for arm (32-bit',
         '{folder}/k3s',
         file(support.elf('amd64'), 'k3s')),
    Case('arm-for-amd64', 'is a binary for arm (32-bit, little-endian, ELF machine 40), not for amd64 (64-bit',
         '{folder}/k3s',
         file(support.elf('arm'), 'k3s'), 'x86_64'),
    Case('amd64-for-arm64', 'is a binary for amd64 (64-bit', '{folder}/arm64/k3s-arm64',
         file(support.elf('amd64'), 'arm64/k3s-arm64'), 'aarch64'),
    Case('32-for-64-bit', 'is a binary for 386 (32-bit, little-endian, ELF machine 3), not for amd64 (64-bit',
         '{folder}/k3s',
         file(support.elf('i386'), 'k3s'), 'x86_64'),
    Case('big-endian', 'is a binary for s390x (64-bit, big-endian, ELF machine 22), not for riscv64',
         '{folder}/k3s-riscv64',
         file(support.elf('s390x'), 'k3s-riscv64'), 'riscv64'),
    Case('little-endian', 'is a binary for riscv64 (64-bit, little-endian, ELF machine 243), not for s390x',
         '{folder}/k3s-s390x',
         file(support.elf('riscv64'), 'k3s-s390x'), 's390x'),
    Case('html', 'is an HTML page, perhaps the error page of a download', '{folder}/k3s-armhf', file(HTML)),
    Case('empty-file', 'is empty', '{folder}/k3s-armhf', file(b'')),
    Case('cut-at-3', 'is cut short: it ends after 3 bytes', '{folder}/k3s-armhf', file(support.elf('arm')[:3])),
    Case('cut-at-17', 'is cut short: its ELF header ends after 17 of 52 bytes', '{folder}/k3s-armhf',
         file(support.elf('arm')[:17])),
    Case('cut-at-51', 'is cut short: its ELF header ends after 51 of 52 bytes', '{folder}/k3s-armhf',
         file(support.elf('arm')[:51])),
    Case('cut-download', 'is cut short: it has 116 of at least 70000360 bytes', '{folder}/k3s-armhf', cut_download),
    Case('script', 'is a script, not a binary', '{folder}/k3s-armhf', file(b'#!/bin/sh\nexec k3s\n')),
    Case('compressed', 'is compressed, not a binary', '{folder}/k3s-armhf', file(b'\x1f\x8b\x08\0')),
    Case('text', 'is not an ELF executable', '{folder}/k3s-armhf', file(b'Not Found')),
    Case('directory', 'is a directory, not a file', '{folder}/k3s-armhf',
         lambda folder: (folder / 'k3s-armhf').mkdir()),
    Case('dangling-link', 'is a dangling link to gone', '{folder}/k3s-armhf', link('gone')),
    Case('link-loop', 'is a link that leads back to itself', '{folder}/k3s-armhf', link('k3s-armhf')),
    Case('fifo', 'is a named pipe, not a file', '{folder}/k3s-armhf', lambda folder: os.mkfifo(folder / 'k3s-armhf')),
    Case('socket', 'is a socket, not a file', '{folder}/k3s-armhf', unix_socket),
    Case('device', 'is a device, not a file', '{folder}/k3s-armhf', link('/dev/zero')),
    Case('unreadable', 'cannot be read: permission denied', '{folder}/arm/k3s-armhf', closed('arm/k3s-armhf')),
    Case('failing-disk', 'cannot be read: Input/output error', '{folder}/k3s-armhf', link('/proc/self/mem')),
    Case('relocatable', 'is a relocatable object file, not an executable', '{folder}/k3s-armhf',
         file(support.elf('arm', type_=1))),
    Case('core-dump', 'is a core dump, not an executable', '{folder}/k3s-armhf', file(support.elf('arm', type_=4))),
    Case('first-that-exists', 'is an HTML page', '{folder}/arm/k3s-armhf',
         # a good one in a later place is no excuse
         support.in_turn(armhf, file(HTML, 'arm/k3s-armhf'))),

    # checksum lists
    Case('digest', 'is not the released file: its SHA-256 is '
         f'{support.hashlib.sha256(support.elf("arm", b"K3s for arm v1.31.4+k3s1 " * 10)).hexdigest()}, '
         f'but sha256sum-arm.txt says {"a1" * 32}', '{folder}/k3s-armhf', checksum_list(f'{"a1" * 32}  k3s-armhf\n')),
    Case('digest-of-a-renamed-one', f'but sha256sum-arm.txt says {"a1" * 32}', '{folder}/k3s',
         support.in_turn(file(support.elf('arm'), 'k3s'),
                         file(f'{"a1" * 32}  k3s-armhf\n'.encode(), 'sha256sum-arm.txt'))),
    Case('digest-generic-list', f'but sha256sum.txt says {"a1" * 32}', '{folder}/k3s-armhf',
         checksum_list(f'{"a1" * 32}  k3s-armhf\n', 'sha256sum.txt')),
    Case('list-malformed', "the checksum list sha256sum-arm.txt beside it is not a checksum list: line 1 is '<html>",
         '{folder}/k3s-armhf',
         checksum_list('<html>404</html>\n')),
    Case('list-short-digest', 'the checksum list sha256sum-arm.txt beside it is not a checksum list: line 2 is ',
         '{folder}/k3s-armhf',
         checksum_list(f'{"a1" * 32}  k3s\n{"a1" * 20}  k3s-armhf\n')),
    Case('list-empty', 'the checksum list sha256sum-arm.txt beside it is empty',
         '{folder}/k3s-armhf', checksum_list('')),
    Case('list-twice', "names 'k3s-armhf' twice, with different digests", '{folder}/k3s-armhf',
         checksum_list(f'{"a1" * 32}  k3s-armhf\n{"b2" * 32}  k3s-armhf\n')),
    Case('list-unreadable', 'sha256sum-arm.txt beside it cannot be read: permission denied', '{folder}/arm/k3s-armhf',
         closed('arm/sha256sum-arm.txt')),
    Case('required-no-list', 'is in no checksum list: none of sha256sum-arm.txt, sha256sum.txt, SHA256SUMS, '
         'k3s-armhf.sha256 beside it names k3s-armhf, '
         'and k3s_artifact_verify is "required"', '{folder}/k3s-armhf', file(support.elf('arm')),
         variables={'k3s_artifact_verify': 'required'}),
    Case('required-no-line', 'is in no checksum list', '{folder}/k3s-armhf',
         checksum_list(f'{"a1" * 32}  k3s-airgap-images-arm.tar\n{"b2" * 32}  k3s\n'),
         variables={'k3s_artifact_verify': 'required'}),

    # what a folder from elsewhere holds
    Case('freebsd', 'is a binary for FreeBSD, not for Linux', '{folder}/k3s-armhf',
         file(support.elf('arm')[:7] + b'\x09' + support.elf('arm')[8:])),
    Case('soft-float', 'is a binary for ARM with software floating point (armel), not for armhf', '{folder}/k3s-armhf',
         file(support.elf('arm')[:36] + b'\0\x02\0\x05' + support.elf('arm')[40:])),
    Case('shared-library', 'is a shared library, not an executable', '{folder}/k3s-armhf',
         file(support.elf('arm', type_=3)[:24] + b'\0' * 4 + support.elf('arm')[28:])),
    Case('damaged-header', 'has a damaged ELF header (program headers of 7 bytes)', '{folder}/k3s-armhf',
         file(support.elf('arm')[:42] + b'\7\0\xff\xff' + support.elf('arm')[46:])),
    Case('another-release', "is K3s v1.31.4+k3s1, but k3s_version is 'v1.30.8+k3s1'", '{folder}/k3s-armhf', armhf,
         variables={'k3s_version': 'v1.30.8+k3s1'}),
    Case('version-undefined', "k3s_version of host 'version-undefined.example' cannot be evaluated",
         "'nope' is undefined", armhf,
         variables={'k3s_version': '{{ nope }}'}),
    Case('dir-undefined', "airgap_dir of host 'dir-undefined.example' cannot be evaluated", "'nope' is undefined",
         armhf, variables={'airgap_dir': '{{ nope }}/x'}),
    Case('version-list', "k3s_version of host 'version-list.example'", "['v1']", armhf,
         variables={'k3s_version': ['v1']}),
    Case('no-version-required', 'holds no K3s version, so it is perhaps another program',
         '{folder}/k3s-armhf',
         support.in_turn(file(support.elf('arm', b'ls')), lambda folder: (folder / 'k3s-armhf.sha256').write_text(
             support.sha256(folder / 'k3s-armhf'))),
         variables={'k3s_artifact_verify': 'required'}),
    Case('name-with-a-template', 'is a binary for amd64', 'k3s-1.2.3-{ { 7*7 }}',
         file(support.elf('amd64'), 'k3s-1.2.3-{{ 7*7 }}')),
    Case('list-larger-than-any', 'is larger than 1 MiB, which no checksum list is', '{folder}/k3s-armhf',
         checksum_list('#' * 1_100_000)),
    Case('list-behind-a-signature', 'stands behind the signature', '{folder}/k3s-armhf', checksum_list(
        f'-----BEGIN PGP SIGNED MESSAGE-----\n\n{"a1" * 32}  k3s\n-----BEGIN PGP SIGNATURE-----\n-----END PGP '
        f'SIGNATURE-----\n{"a1" * 32}  k3s-armhf\n')),

    # the machine
    Case('machine-unknown', UNKNOWN, "'sparc64'", armhf, 'sparc64'),
    *[Case(f'machine-{machine}', f'K3s has no release for the machine {machine} of host',
           'k3s_binary_map', armhf, machine)
      for machine in ('mips64', 'ppc64', 'armv6l', 'armv5tel', 'i686')],
    Case('machine-empty', 'which is not a machine name. Set k3s_artifact_machine', "''", armhf, ''),
    Case('machine-list', 'which is not a machine name', "['armv7l']", armhf, ['armv7l']),
    Case('machine-number', 'which is not a machine name', '386', armhf, 386),
    Case('facts-missing', 'has no fact "architecture", so its K3s binary cannot be told. Gather facts',
         'k3s_artifact_machine', armhf, None,
         through=('lookup',)),  # copy asks the node instead
    Case('fact-path', UNKNOWN, "'../../etc'", armhf, None, fact='../../etc'),
    Case('fact-absolute', UNKNOWN, "'/etc/passwd'", armhf, None, fact='/etc/passwd'),
    Case('fact-template', UNKNOWN, "'{ { 7*7 }}'", armhf, None, fact='{{ 7*7 }}'),
    Case('fact-template-with-effect', UNKNOWN, "lookup(", armhf, None,
         fact="{{ lookup('pipe', 'touch {folder}/effect') }}"),
    Case('fact-long', UNKNOWN, "xxxxxxxx... (10000 characters)", armhf, None, fact='x' * 10000),
    Case('fact-nul-newline', UNKNOWN, "'x86_64\\x00\\nk3s'", armhf, None, fact='x86_64\0\nk3s'),
    Case('fact-escape', UNKNOWN, "'\\x1b[2J\\u202earmv7l'", armhf, None, fact='\x1b[2J\u202earmv7l'),
    Case('fact-shell', UNKNOWN, "'$(touch ", armhf, None, fact='$(touch {folder}/effect)'),
    Case('fact-empty', 'which is not a machine name', "''", armhf, None, fact=''),
    Case('fact-list', 'which is not a machine name', "['armv7l']", armhf, None, fact=['armv7l']),
    Case('fact-mapping', 'which is not a machine name', "{'armv7l': 1}", armhf, None, fact={'armv7l': 1}),
    Case('fact-number', 'which is not a machine name', '7', armhf, None, fact=7),

    # k3s_binary_map
    Case('map-list', 'k3s_binary_map must map machine names to file names', "['k3s']", armhf,
         variables={'k3s_binary_map': ['k3s']}),
    Case('map-text', 'k3s_binary_map must map machine names to file names', "'k3s'", armhf,
         variables={'k3s_binary_map': 'k3s'}),
    Case('map-empty-value', "k3s_binary_map['armv7l'] must be a file name", "''", armhf,
         variables={'k3s_binary_map': {'armv7l': ''}}),
    Case('map-null-value', "k3s_binary_map['armv7l'] must be a file name", 'None', armhf,
         variables={'k3s_binary_map': {'armv7l': None}}),
    Case('map-absolute', 'which is not a file below the artifact directory', "'/etc/passwd'", armhf,
         variables={'k3s_binary_map': {'armv7l': '/etc/passwd'}}),
    Case('map-parent', 'which is not a file below the artifact directory', "'../k3s'", armhf,
         variables={'k3s_binary_map': {'armv7l': '../k3s'}}),
    Case('map-parent-inside', 'which is not a file below the artifact directory', "'a/../../k3s'", armhf,
         variables={'k3s_binary_map': {'armv7l': 'a/../../k3s'}}),
    Case('map-key', 'which is no machine name', "'../etc'", armhf, variables={'k3s_binary_map': {'../etc': 'k3s'}}),
    Case('map-link', 'is a link that leaves the artifact directory', '{folder}/airgap/k3s-armv6', leaving, 'armv6l',
         {'airgap_dir': '{folder}/airgap', 'k3s_binary_map': {'armv6l': 'k3s-armv6'}}),
    Case('map-missing', 'none of armv6l/k3s-armv6, k3s-armv6 is in', '{folder}', armhf, 'armv6l',
         {'k3s_binary_map': {'armv6l': 'k3s-armv6'}}),
    Case('map-wrong-arch', 'is a binary for arm64', '{folder}/k3s-mine',
         file(support.elf('arm64'), 'k3s-mine'), 'armv6l',
         {'k3s_binary_map': {'armv6l': 'k3s-mine'}}),
    Case('map-html', 'is an HTML page', '{folder}/k3s-mine', file(HTML, 'k3s-mine'), 'sparc64',
         {'k3s_binary_map': {'sparc64': 'k3s-mine'}}),

    # how the lookup is asked
    Case('term-unknown', 'which is no term of it. Use one of binary, name, arch', "'binaries'", armhf,
         variables={'term': 'binaries'}, through=('lookup',)),
    Case('term-path', 'which is no term of it. Use one of binary, name, arch', "'../k3s'", armhf,
         variables={'term': '../k3s'}, through=('lookup',)),
    Case('option-unknown', 'which it does not know. Its options are', "'directory'", armhf,
         variables={'options': {'directory': '/srv'}}, through=('lookup',)),
    Case('verify-unknown', 'Use one of auto, required, signed, none', "'sometimes'", armhf,
         variables={'k3s_artifact_verify': 'sometimes'}),
    Case('verify-empty', 'Use one of auto, required, signed, none', "''", armhf, variables={'k3s_artifact_verify': ''}),
    Case('images-unreadable', 'cannot be read: permission denied. Make it readable', '{folder}/arm', closed('arm'),
         variables={'term': 'images'}, through=('lookup',)),
    Case('images-html', 'is an HTML page', 'the image archive {folder}/k3s-airgap-images-arm.tar',
         file(HTML, 'k3s-airgap-images-arm.tar'),
         variables={'term': 'images'}, through=('lookup',)),
    Case('images-empty', 'is empty', 'the image archive {folder}/shared.tar.gz', file(b'', 'shared.tar.gz'),
         variables={'term': 'images'}, through=('lookup',)),

    # the destination
    Case('dest-is-a-directory', 'is a directory', '/nodes/dest-is-a-directory/k3s', armhf, through=('copy',)),
]
NAMES = {case.name: case for case in CASES}

FACTS_MODULE = """
import json
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule({'path': {'type': 'path'}})
with open(module.params['path']) as file:
    module.exit_json(ansible_facts={'ansible_architecture': json.load(file)})
"""

PLAYS = [
    {'name': 'nodes report what they like', 'hosts': 'fact-*', 'gather_facts': False, 'tasks': [
        {'name': 'report', 'report_facts': {'path': '{{ fact_file }}'}}]},
    {'name': 'every case', 'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'lookup',
         'debug': {'msg': "{{ lookup('k3s_artifact', term | default('binary'), **(options | default({}))) }}"},
         'ignore_errors': True, 'timeout': 60},
        {'name': 'copy', 'copy': {'src': 'k3s'}, 'ignore_errors': True, 'timeout': 60}]},
]


def host_name(name):
    return name + '.example'  # a word that is in no message by chance


def filled(value, folder):
    if isinstance(value, str):
        return value.replace('{folder}', str(folder))
    if isinstance(value, dict):
        return {key: filled(item, folder) for key, item in value.items()}
    return value


def without_privileges(call):
    """Call *call* so that the programs it starts respect the permissions of files, even if root runs the tests.

    Capabilities are dropped in a thread of its own: what a thread drops, its children lack and the other threads keep.
    """
    def drop_and_call():
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            dropped = ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP
            assert dropped or os.geteuid() != 0
        return call()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(drop_and_call).result()


def snapshot(node):
    """Return everything about the files of a node that a copy could change."""
    return {path.name: (path.lstat().st_ino, path.lstat().st_mode, path.lstat().st_mtime_ns,
                        path.read_bytes() if path.is_file() else None)
            for path in (node, *node.iterdir())}


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    """Run every case; yield the folder of the cases, the run, and the nodes' files before and after."""
    parent = tmp_path_factory.mktemp('bad')
    (parent / 'library').mkdir()
    (parent / 'library' / 'report_facts.py').write_text(FACTS_MODULE)
    hosts, before = {}, {}
    for case in [*CASES, Case('good', '', '', armhf)]:
        folder, node = parent / case.name, parent / 'nodes' / case.name
        folder.mkdir()
        node.mkdir(parents=True)
        if case.name == 'dest-is-a-directory':
            (node / 'k3s').mkdir()
        else:
            (node / 'k3s').write_bytes(BEFORE)
        os.utime(node / 'k3s', (LONG_AGO, LONG_AGO))
        case.make(folder)
        variables = {'airgap_dir': str(folder), 'k3s_artifact_dest': str(node / 'k3s'), 'k3s_artifact_probe': False,
                     **filled(case.variables, folder)}
        if case.machine is not None:
            variables['k3s_artifact_machine'] = case.machine
        if variables['airgap_dir'] is None:
            del variables['airgap_dir']
        if case.fact is not NO_FACT:
            variables['fact_file'] = str(folder / 'fact.json')
            (folder / 'fact.json').write_text(json.dumps(filled(case.fact, folder)))
        hosts[host_name(case.name)] = variables
        before[case.name] = snapshot(node)
    run = without_privileges(lambda: support.play(parent, PLAYS, '--forks', '4', hosts=hosts))
    yield parent, run, before, {name: snapshot(parent / 'nodes' / name) for name in before}
    for path in parent.glob('*/arm'):
        path.chmod(0o700)


def test_a_good_host_in_the_same_run_is_served(ran):
    parent, run, _before, after = ran
    assert run.result(host_name('good'), 'lookup')['msg'] == str(parent / 'good' / 'k3s-armhf')
    assert run.result(host_name('good'), 'copy')['changed'] is True
    assert after['good']['k3s'][3] == (parent / 'good' / 'k3s-armhf').read_bytes()


def test_every_case_runs_and_none_of_them_ends_the_run(ran):
    _parent, run, _before, _after = ran
    assert run.rc == 0, run.output
    assert 'Traceback' not in run.output
    assert ({entry['host'] for entry in run.results if entry['task'] == 'copy'}
            == {host_name(name) for name in (*NAMES, 'good')})


@pytest.mark.parametrize(('name', 'through'), [(case.name, through) for case in CASES for through in case.through])
def test_bad_input_gets_a_message_that_names_host_and_file(ran, name, through):
    parent, run, _before, _after = ran
    case, folder = NAMES[name], parent / name
    host = host_name(name)
    message = run.result(host, through)['msg']
    assert [entry['status'] for entry in run.results if (entry['host'], entry['task']) == (host, through)] == ['failed']
    assert case.says in message
    assert filled(case.shows, folder) in message
    assert host in message
    assert not re.search('traceback|unexpected|unhandled|exception|errno', message, re.IGNORECASE)
    assert message.endswith('.'), message  # with what to do next, not with the words of the system
    assert 1 <= len(re.findall(r'[.!?](?=\s|$)', message)) <= 3, message
    assert message.isprintable()
    assert len(message) < 900


@pytest.mark.parametrize('name', sorted(NAMES))
def test_bad_input_leaves_the_node_untouched(ran, name):
    parent, run, before, after = ran
    if 'copy' in NAMES[name].through:
        assert run.result(host_name(name), 'copy').get('changed', False) is False
        assert after[name] == before[name]
    assert not (parent / name / 'effect').exists()
