# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one table, what a machine selects from it, and what k3s_binary_map may add."""

from __future__ import annotations

import re

import pytest
import yaml

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')

# Written by hand from K3s's install script and the ELF specification, not from the code.
TABLE = [
    # machine, arch, binary, ELF class, byte order, ELF machine
    ('x86_64', 'amd64', 'k3s', 64, 'little', 62),
    ('amd64', 'amd64', 'k3s', 64, 'little', 62),
    ('aarch64', 'arm64', 'k3s-arm64', 64, 'little', 183),
    ('arm64', 'arm64', 'k3s-arm64', 64, 'little', 183),
    ('armv7l', 'arm', 'k3s-armhf', 32, 'little', 40),
    ('armv8l', 'arm', 'k3s-armhf', 32, 'little', 40),
    ('armhf', 'arm', 'k3s-armhf', 32, 'little', 40),
    ('arm', 'arm', 'k3s-armhf', 32, 'little', 40),
    ('s390x', 's390x', 'k3s-s390x', 64, 'big', 22),
    ('riscv64', 'riscv64', 'k3s-riscv64', 64, 'little', 243),
]


@pytest.mark.parametrize(('machine', 'arch', 'binary', 'bits', 'byteorder', 'elf_machine'), TABLE)
def test_a_machine_selects_its_row(machine, arch, binary, bits, byteorder, elf_machine):
    host = k3s.resolve_host('node', machine, {})
    assert (host.name, host.machine, host.arch, host.binary, host.mapped) == ('node', machine, arch, binary, False)
    own = host.architecture
    assert (own.bits, own.byteorder, own.elf_machine) == (bits, byteorder, elf_machine)


def test_no_other_machine_has_a_release():
    assert {machine for machine, row in k3s.BY_MACHINE.items() if row.binary} == {row[0] for row in TABLE}


def test_no_machine_is_in_two_rows():
    machines = [machine for row in k3s.ARCHITECTURES for machine in row.machines]
    assert len(machines) == len(set(machines))


def test_the_documented_table_is_the_table_of_the_code():
    documented = {}
    for line in yaml.safe_load(k3s.DOCUMENTATION)['description']:
        row = re.fullmatch(r'([\w, ]+): arch (\w+), binary ([\w-]+), checksum list sha256sum-(\w+)\.txt\.', line)
        if row:
            assert row.group(4) == row.group(2)
            documented[row.group(2)] = (tuple(row.group(1).split(', ')), row.group(3))
    assert documented == {row.arch: (row.machines, row.binary)
                          for row in k3s.ARCHITECTURES if row.binary}


def test_the_documented_choices_are_those_of_the_code():
    options = yaml.safe_load(k3s.DOCUMENTATION)['options']
    assert tuple(options['_terms']['choices']) == k3s.TERMS
    assert tuple(options['verify']['choices']) == k3s.VERIFY
    described = ' '.join(options['_terms']['description'])
    assert [term for term in k3s.TERMS if f'V({term})' not in described] == []
    assert all(hasattr(k3s.LookupModule, f'_get_{term}') for term in k3s.TERMS)


@pytest.mark.parametrize('machine', ['armv6l', 'armv6', 'armv5tel', 'armel', 'i686', 'i586', 'i386', 'ppc64le', 'ppc64',
                                     'mips64', 'loongarch64'])
def test_a_known_machine_without_a_release_is_an_error_that_says_so(machine):
    with pytest.raises(k3s.ArtifactError) as caught:
        k3s.resolve_host('node', machine, {})
    message = str(caught.value)
    assert message.startswith(f"K3s has no release for the machine {machine} of host 'node'")
    assert 'amd64, arm64, arm, s390x, riscv64' in message
    assert 'k3s_binary_map' in message


HOSTILE = ['../../etc', '/etc/passwd', '{{ 7*7 }}', 'k3s\0', 'x86_64\n', ' x86_64', 'X86_64', 'x86_64/../..', 'sparc64',
           '\udcff', 'x' * 10000]


@pytest.mark.parametrize('machine', HOSTILE)
def test_an_unknown_machine_is_an_error_that_shows_it_short_and_harmless(machine):
    with pytest.raises(k3s.ArtifactError, match="host 'node' reports the machine .*, which is unknown") as caught:
        k3s.resolve_host('node', machine, {})
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    assert ascii(machine)[:60].replace("{{", "{ {") in message


@pytest.mark.parametrize('machine', ['', 7, 0, True, ['x86_64'], {'x86_64': 1}, b'x86_64'])
def test_a_machine_that_is_no_name_is_an_error(machine):
    with pytest.raises(k3s.ArtifactError,
                       match="host 'node' reports .* which is not a machine name. Set k3s_artifact_machine"):
        k3s.resolve_host('node', machine, {})


def test_without_a_machine_the_error_asks_for_facts():
    with pytest.raises(k3s.ArtifactError,
                       match='host \'node\' has no fact "architecture".* Gather facts, or set k3s_artifact_machine'):
        k3s.resolve_host('node', None, {})


@pytest.mark.parametrize(('machine', 'name', 'arch', 'archive_arch', 'elf_machine'), [
    ('armv6l', 'k3s-armv6', 'armv6l', 'armv6', 40),  # known, without a release: still verified against its ELF identity
    ('x86_64', 'k3s-mine', 'amd64', 'amd64', 62),  # the map wins over the table
    ('sparc64', 'builds/k3s-sparc64', 'sparc64', 'sparc64', None),
])
def test_the_map_names_the_binary_of_a_machine(machine, name, arch, archive_arch, elf_machine):
    host = k3s.resolve_host('node', machine, {machine: name})
    assert (host.machine, host.arch, host.binary, host.mapped, host.archive_arch) == (machine, arch,
                                                                                      name, True, archive_arch)
    assert (host.architecture.elf_machine if host.architecture else None) == elf_machine


def test_the_map_is_merged_over_the_table():
    assert k3s.resolve_host('node', 'aarch64', {'armv6l': 'k3s-armv6'}).binary == 'k3s-arm64'


@pytest.mark.parametrize(('binary_map', 'phrase'), [
    (['k3s'], "must map machine names to file names, it is ['k3s']"),
    ('k3s', "must map machine names to file names, it is 'k3s'"),
    (None, 'must map machine names to file names, it is None'),
    ({1: 'k3s'}, 'has the key 1, which is no machine name'),
    ({'': 'k3s'}, "has the key '', which is no machine name"),
    ({'../etc': 'k3s'}, "has the key '../etc', which is no machine name"),
    ({'a/b': 'k3s'}, "has the key 'a/b', which is no machine name"),
    ({'..': 'k3s'}, "has the key '..', which is no machine name"),
    ({'armv6l\n': 'k3s'}, "has the key 'armv6l\\n', which is no machine name"),
    ({'armv6l': ''}, "['armv6l'] must be a file name, it is ''"),
    ({'armv6l': ' '}, "['armv6l'] must be a file name, it is ' '"),
    ({'armv6l': None}, "['armv6l'] must be a file name, it is None"),
    ({'armv6l': ['k3s']}, "['armv6l'] must be a file name, it is ['k3s']"),
    ({'armv6l': '/etc/passwd'}, "['armv6l'] is '/etc/passwd', which is not a file below the artifact directory"),
    ({'armv6l': '../k3s'}, "['armv6l'] is '../k3s', which is not a file below the artifact directory"),
    ({'armv6l': 'a/../../k3s'}, "['armv6l'] is 'a/../../k3s', which is not a file below the artifact directory"),
    ({'armv6l': 'k3s\0'}, "['armv6l'] is 'k3s\\x00', which is not a file below the artifact directory"),
    ({'armv6l': 'k3s/'}, "['armv6l'] is 'k3s/', which is not a file below the artifact directory"),
])
def test_a_map_that_is_wrong_is_an_error_that_shows_the_entry(binary_map, phrase):
    with pytest.raises(k3s.ArtifactError) as caught:
        k3s.checked_binary_map(binary_map)
    assert 'k3s_binary_map' + (' ' if not phrase.startswith('[') else '') + phrase in str(caught.value)


@pytest.mark.parametrize('binary_map',
                         [{}, {'armv6l': 'k3s-armv6'}, {'armv6l': 'builds/k3s..6'}, {'sparc_64.v9-a': 'k3s'}])
def test_a_map_of_machines_to_files_below_the_directory_is_taken(binary_map):
    assert k3s.checked_binary_map(binary_map) == binary_map


@pytest.mark.parametrize(('value', 'expected'), [
    ('x86_64', "'x86_64'"),
    ('', "''"),
    (7, '7'),
    ('a\nb\0', "'a\\nb\\x00'"),
    ('\u202e\udcff', "'\\u202e\\udcff'"),
    ('x' * 58, "'" + 'x' * 58 + "'"),
    ('x' * 59, "'" + 'x' * 59 + '... (59 characters)'),
    ('x' * 10000, "'" + 'x' * 59 + '... (10000 characters)'),
    (['y' * 100], "['" + 'y' * 58 + '... (104 characters)'),
])
def test_a_value_is_shown_short_and_printable(value, expected):
    assert k3s.shown(value) == expected
