# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image archives: for whom one is, by its name, and which of several compressions is taken."""

from __future__ import annotations

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')


@pytest.mark.parametrize(('name', 'expected'), [
    ('k3s-airgap-images-amd64.tar.zst', ('k3s-airgap-images-amd64', '.tar.zst', 'amd64')),
    ('k3s-airgap-images-arm64.tar.gz', ('k3s-airgap-images-arm64', '.tar.gz', 'arm64')),
    ('k3s-airgap-images-arm.tar', ('k3s-airgap-images-arm', '.tar', 'arm')),
    ('k3s-airgap-images-s390x.tgz', ('k3s-airgap-images-s390x', '.tgz', 's390x')),
    ('k3s-airgap-images-riscv64.tzst', ('k3s-airgap-images-riscv64', '.tzst', 'riscv64')),
    ('mine_x86_64.tar', ('mine_x86_64', '.tar', 'amd64')),
    ('mine-x86_64.tar', ('mine-x86_64', '.tar', 'amd64')),
    ('mine.aarch64.tar.bz2', ('mine.aarch64', '.tar.bz2', 'arm64')),
    ('mine-armv7.tar.lz4', ('mine-armv7', '.tar.lz4', 'arm')),
    ('mine-armv7l.tbz', ('mine-armv7l', '.tbz', 'arm')),
    ('mine-armhf.tar', ('mine-armhf', '.tar', 'arm')),
    ('mine-AMD64.tar', ('mine-AMD64', '.tar', 'amd64')),
    ('arm64.tar', ('arm64', '.tar', 'arm64')),
    ('mine-armv6l.tar', ('mine-armv6l', '.tar', 'armv6')),
    ('mine-armv6.tar', ('mine-armv6', '.tar', 'armv6')),
    ('mine-386.tar', ('mine-386', '.tar', '386')),
    ('mine-ppc64le.tar', ('mine-ppc64le', '.tar', 'ppc64le')),
    ('shared.tar', ('shared', '.tar', None)),
    ('alarm.tar', ('alarm', '.tar', None)),  # ends in "arm", which is no word of its own
    ('charm64.tar', ('charm64', '.tar', None)),
    ('arm64-tools.tar', ('arm64-tools', '.tar', None)),
    ('mine-amd64-v2.tar', ('mine-amd64-v2', '.tar', None)),
    ('k3s-airgap-images-amd64.txt', None),
    ('k3s', None),
    ('images.zst', None),
    ('.hidden-amd64.tar', None),
    ('.tar', None),
    ('images.tar.part', None),
])
def test_an_archive_says_in_its_name_for_whom_it_is(name, expected):
    assert k3s.split_archive(name) == expected


@pytest.mark.parametrize(('places', 'arch', 'expected'), [
    ([('/d', ['i-amd64.tar', 'i-amd64.tar.gz', 'i-amd64.tar.zst'])], 'amd64', ['/d/i-amd64.tar.zst']),
    ([('/d', ['i-amd64.tar', 'i-amd64.tar.gz'])], 'amd64', ['/d/i-amd64.tar.gz']),
    ([('/d', ['i-amd64.tar'])], 'amd64', ['/d/i-amd64.tar']),
    ([('/d', ['i-amd64.tar.zst', 'i-arm64.tar.zst', 'i-arm.tar.zst'])], 'arm', ['/d/i-arm.tar.zst']),
    ([('/d', ['shared.tar', 'i-arm64.tar'])], 'amd64', ['/d/shared.tar']),
    ([('/d', ['shared.tar', 'i-arm64.tar'])], 'arm64', ['/d/i-arm64.tar', '/d/shared.tar']),
    ([('/d/arm64', ['i-arm64.tar', 'own.tar']), ('/d', ['i-arm64.tar.zst', 'shared.tar'])], 'arm64',
     ['/d/arm64/i-arm64.tar', '/d/arm64/own.tar', '/d/shared.tar']),  # the own folder comes before the better compression
    ([('/d', ['k3s', 'sha256sum.txt', '.x-amd64.tar'])], 'amd64', []),
    ([], 'amd64', []),
])
def test_a_host_gets_its_own_and_the_shared_archives_once(places, arch, expected):
    assert k3s.choose_archives(places, arch) == expected
