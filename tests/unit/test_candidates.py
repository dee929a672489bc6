# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the binary of a host may be, best place first."""

from __future__ import annotations

import re

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')


@pytest.mark.parametrize(('machine', 'binary_map', 'expected'), [
    ('x86_64', {}, ['amd64/k3s', 'amd64/k3s-amd64', 'x86_64/k3s', 'x86_64/k3s-amd64', 'k3s', 'k3s-amd64']),
    ('aarch64', {}, ['arm64/k3s-arm64', 'arm64/k3s', 'aarch64/k3s-arm64', 'aarch64/k3s', 'k3s-arm64', 'k3s']),
    ('armhf', {}, ['arm/k3s-armhf', 'arm/k3s-arm', 'arm/k3s', 'armhf/k3s-armhf', 'armhf/k3s-arm', 'armhf/k3s',
                   'armv7l/k3s-armhf', 'armv7l/k3s-arm', 'armv7l/k3s', 'armv8l/k3s-armhf',
                   'armv8l/k3s-arm', 'armv8l/k3s',
                   'k3s-armhf', 'k3s-arm', 'k3s']),
    ('s390x', {}, ['s390x/k3s-s390x', 's390x/k3s', 'k3s-s390x', 'k3s']),
    ('riscv64', {}, ['riscv64/k3s-riscv64', 'riscv64/k3s', 'k3s-riscv64', 'k3s']),
    # a map names one file: nothing is guessed beside it
    ('armv6l', {'armv6l': 'k3s-armv6'}, ['armv6l/k3s-armv6', 'k3s-armv6']),
    ('sparc64', {'sparc64': 'mine/k3s'}, ['sparc64/mine/k3s', 'mine/k3s']),
    ('aarch64', {'aarch64': 'k3s-mine'}, ['arm64/k3s-mine', 'aarch64/k3s-mine', 'k3s-mine']),
])
def test_the_candidates_of_a_host_in_their_order(machine, binary_map, expected):
    assert k3s.candidates(k3s.resolve_host('node', machine, binary_map)) == expected


def test_the_order_of_the_design_holds_for_every_release():
    for row in k3s.ARCHITECTURES:
        if row.binary:
            found = k3s.candidates(k3s.resolve_host('node', row.machines[0], {}))
            wanted = [f'{row.arch}/{row.binary}', f'{row.arch}/k3s', row.binary, 'k3s']
            assert sorted(set(wanted), key=found.index) == list(dict.fromkeys(wanted))
            assert not any(name.startswith('/') or '..' in name for name in found)


@pytest.mark.parametrize(('path', 'outside'), [
    ('inside', False), ('folder/inside', False), ('link-inside', False), ('link-outside', True),
    ('folder-link/file', True),
    ('missing', False), ('', False), ('../outside', True), ('dangling-outside', True),
])
def test_a_path_that_leaves_the_folder_is_told_with_links_followed(tmp_path, path, outside):
    root = tmp_path / 'root'
    (root / 'folder').mkdir(parents=True)
    (tmp_path / 'outside').write_text('')
    (root / 'inside').write_text('')
    (root / 'folder' / 'inside').write_text('')
    (root / 'link-inside').symlink_to('folder/inside')
    (root / 'link-outside').symlink_to('../outside')
    (root / 'folder-link').symlink_to('..')
    (root / 'dangling-outside').symlink_to('/nonexistent/k3s')
    assert k3s.escapes(str(root), str(root / path)) is outside


def test_what_is_in_the_artifact_directory_is_listed_with_its_arch(tmp_path):
    support.release(tmp_path, 'arm64', lists=False, images=False)
    support.release(tmp_path, 'arm', layout='per-arch', lists=False, images=False)
    (tmp_path / 'k3s').write_text('<html>')
    (tmp_path / 'a' / 'b' / 'c').mkdir(parents=True)
    (tmp_path / 'a' / 'b' / 'c' / 'k3s').write_bytes(b'too deep')
    (tmp_path / 'notes.txt').write_text('')
    assert k3s.listing(str(tmp_path)) == ('k3s is an HTML page, perhaps the error page of a download; '
                                          'k3s-arm64 is for arm64; '
                                          'arm/k3s-armhf is for arm')


def test_an_artifact_directory_without_a_binary_is_listed_as_such(tmp_path):
    assert k3s.listing(str(tmp_path)) == 'it holds no K3s binary'


@pytest.mark.parametrize(('name', 'machine', 'expected'), [
    ('k3s-v1.31.4+k3s1-amd64', 'aarch64', ['k3s-v1.31.4+k3s1-arm64', 'k3s-v1.31.4+k3s1-aarch64']),
    ('k3s-v1.31.4+k3s1-amd64', 'armv7l', ['k3s-v1.31.4+k3s1-armhf', 'k3s-v1.31.4+k3s1-arm', 'k3s-v1.31.4+k3s1-armv7l']),
    ('K3S-AMD64', 'aarch64', ['k3s-arm64', 'k3s-aarch64']),
    ('k3s-arm64-v1.31.4', 's390x', ['k3s-s390x-v1.31.4']),
    ('k3s-1.31.4', 'aarch64', ['k3s-1.31.4-arm64']),
    ('k3s-v1.31.4+k3s1-arm64', 'x86_64', ['k3s-v1.31.4+k3s1-amd64', 'k3s-v1.31.4+k3s1-x86_64', 'k3s-v1.31.4+k3s1']),
])
def test_a_file_that_is_called_after_an_arch_has_siblings(name, machine, expected):
    found = k3s.other_words(name, k3s.resolve_host('node', machine, {}))
    assert [other for other in found if other in expected] == expected, found


@pytest.mark.parametrize(('name', 'expected'), [
    ('k3s-v1.31.4+k3s1-arm64', True), ('k3s-arm64-v1.31.4+k3s1', True), ('K3S_1.31.4', True),
    ('k3s', False), ('k3s-arm64', False),
    ('k3s-airgap-images-amd64-v1.30.8.tar.zst', False), ('k3s-v1.31.4.sha256', False),
    ('k3s-selinux-1.6-1.el9.noarch.rpm', False), ('rke2-v1.31.4', False),
])
def test_a_binary_with_a_version_in_its_name_is_told(name, expected):
    assert k3s.is_versioned_binary(name) is expected


def test_a_misspelt_variable_is_named_with_what_it_resembles():
    variables = {'k3s_artifact_verfy': 1, 'k3s_artifact_dir': 1, 'k3s_download_archs': 1,
                 'k3s_artifact_' + 'q' * 5000: 1, 'k3s_version': 1, 'other': 1, 7: 1}
    assert k3s.misspelt(variables) == [('k3s_artifact_' + 'q' * 5000, ''),
                                       ('k3s_artifact_verfy', 'k3s_artifact_verify'),
                                       ('k3s_download_archs', 'k3s_download_arches')]


def test_every_variable_that_the_playbooks_document_is_known():
    text = ''.join(path.read_text() for path in (support.ROOT / 'playbooks').glob('*.yml'))
    documented = set(re.findall(r'^# (k3s_(?:artifact|bundle|download)_\w+) ', text, re.MULTILINE))
    assert len(documented) >= 8
    assert documented - set(k3s.KNOWN_VARIABLES) == set()
