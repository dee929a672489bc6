# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the header of an RPM package says. Real packages are in the tests of the lab; these are made byte by byte."""

from __future__ import annotations

import struct

import pytest

import support


@pytest.fixture(name='rpm', scope='module')
def fixture_rpm():
    return support.collection_module('plugins.plugin_utils.rpm')


def header(values):
    index, data = b'', b''
    for tag, value in values.items():
        kind = 6 if isinstance(value, str) else 4 if isinstance(value, int) else 7
        data += b'' if kind != 4 else bytes(-len(data) % 4)
        index += struct.pack('>IIII', tag, kind, len(data), 1)
        data += value.encode() + b'\0' if kind == 6 else struct.pack('>I', value) if kind == 4 else value
    return b'\x8e\xad\xe8\x01' + bytes(4) + struct.pack('>II', len(values), len(data)) + index + data


def package(name='k3s-selinux', version='1.6', release='1.el9', arch='noarch', signature=(268,), **more):
    signed = header({**dict.fromkeys(signature, b'\x89' * 9), 1000: 7})
    padding = bytes(-len(signed[16 + 16 * (len(signature) + 1):]) % 8)
    values = {1000: name, 1001: version, 1002: release, 1022: arch, **more.get('values', {})}
    return b'\xed\xab\xee\xdb' + bytes(92) + signed + padding + header(values) + b'payload'


@pytest.mark.parametrize('data, found', [
    (package(), ('k3s-selinux', '0', '1.6', '1.el9', None, True)),
    (package(arch='x86_64', signature=()), ('k3s-selinux', '0', '1.6', '1.el9', 'amd64', False)),
    (package(arch='aarch64', signature=(1005,), values={1003: 4}), ('k3s-selinux', '4', '1.6', '1.el9', 'arm64', True)),
    (package(arch='armv7hl'), ('k3s-selinux', '0', '1.6', '1.el9', 'arm', True)),
    (package(arch='ppc'), ('k3s-selinux', '0', '1.6', '1.el9', 'ppc', True))])
def test_the_header_says_what_a_package_is(rpm, tmp_path, data, found):
    (tmp_path / 'x.rpm').write_bytes(data)
    assert tuple(rpm.read_package(str(tmp_path / 'x.rpm'))) == found


@pytest.mark.parametrize('data, said', [
    (b'', 'is no RPM package'), (b'<html>404</html>', 'is no RPM package'), (package()[:120], 'is cut short|is an RPM'),
    (package()[:97], 'header is damaged'), (package(name='../etc'), 'header is damaged'),
    (package(name='a b'), 'header is damaged'), (package(version=7), 'header is damaged'),
    (package()[:104] + b'\xff' * 8 + package()[112:], 'header is damaged')])
def test_what_is_no_package_is_said(rpm, tmp_path, data, said):
    (tmp_path / 'x.rpm').write_bytes(data)
    with pytest.raises(rpm.ArtifactError, match=said):
        rpm.read_package(str(tmp_path / 'x.rpm'))


@pytest.mark.parametrize('one, two, order', [
    ('1.0', '1.0', 0), ('1.10', '1.9', 1), ('1.0~rc1', '1.0', -1), ('1.0^git', '1.0', 1), ('1.0.a', '1.0.1', -1),
    ('1.0', '1.0.1', -1), ('01', '1', 0), ('1.0^', '1.0.1', -1), ('2.el9', '2.el10', -1), ('a', 'b', -1),
    ('1.0~rc1', '1.0~rc2', -1), ('1_0', '1.0', 0)])
def test_versions_are_ordered_as_rpm_orders_them(rpm, one, two, order):
    assert rpm.compared(one, two) == order and rpm.compared(two, one) == -order


@pytest.mark.parametrize('one, two, newer', [
    (('n', '0', '1', '2'), ('n', '0', '1', '1'), True), (('n', '1', '1', '1'), ('n', '0', '9', '9'), True),
    (('n', '0', '1', '1'), ('n', '0', '1', '1'), False), (('n', '0', '1', '9'), ('n', '0', '2', '1'), False)])
def test_the_epoch_counts_before_the_version_and_that_before_the_release(rpm, one, two, newer):
    assert rpm.is_newer(rpm.Package(*one), rpm.Package(*two)) is newer


@pytest.mark.parametrize('name, is_one', [
    ('k3s-selinux-1.6-1.el9.noarch.rpm', True), ('container-selinux.rpm', True),
    ('selinux-policy-targeted-38.rpm', True), ('k3s-selinux-1.6-1.el9.src.rpm', False), ('bash-5.rpm', False),
    ('k3s-selinux.txt', False), ('my-k3s-selinux.rpm', False)])
def test_selinux_packages_are_told_by_their_names(rpm, name, is_one):
    assert rpm.is_selinux_package(name) is is_one
