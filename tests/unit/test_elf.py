# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ELF headers: which program is for which host, and which file is not whole."""

from __future__ import annotations

import io
import os
import struct
import sys
import tracemalloc

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')


def host(arch):
    return k3s.resolve_host('node', support.MACHINES[arch], {})


def check(data, arch):
    k3s.check_elf(io.BytesIO(data), len(data), host(arch))


def refusal(data, arch):
    with pytest.raises(k3s.ArtifactError) as caught:
        check(data, arch)
    return str(caught.value)


def with_tables(arch, segments=(), sections=0, end=0):
    """Return an ELF file for *arch* with program headers for *segments* (offset, size), *sections* section headers at
    its end."""
    bits, order, machine = support.ELF[arch]
    head_size, entry_size, section_size = (52, 32, 40) if bits == 32 else (64, 56, 64)
    table = b''.join(
        struct.pack(order + 'IIIIIIII', 1, offset, 0, 0, size, size, 5, 0x1000) if bits == 32 else
        struct.pack(order + 'IIQQQQQQ', 1, 5, offset, 0, 0, size, size, 0x1000) for offset, size in segments)
    end = max([end, head_size + len(table)] + [offset + size for offset, size in segments])
    head = b'\x7fELF' + bytes([bits // 32, 1 if order == '<' else 2, 1]) + b'\0' * 9 + struct.pack(
        order + ('HHIIIIIHHHHHH' if bits == 32 else 'HHIQQQIHHHHHH'), 2, machine, 1, 0, head_size,
        end if sections else 0, 0,
        head_size, entry_size, len(segments), section_size, sections, 0)
    return (head + table).ljust(end, b'\0') + b'\0' * (section_size * sections)


@pytest.mark.parametrize('arch', sorted(support.ELF))
def test_a_header_is_read_in_every_class_and_byte_order(arch):
    bits, order, machine = support.ELF[arch]
    elf = k3s.parse_elf(support.elf(arch))
    assert (elf.bits, elf.byteorder, elf.machine, elf.type) == (bits, {'<': 'little', '>': 'big'}[order], machine, 2)
    assert elf.arch == {'i386': '386'}.get(arch, arch)
    assert f'({bits}-bit, ' in str(elf)


def test_a_machine_that_the_table_does_not_hold_is_named_by_its_number():
    data = bytearray(support.elf('amd64'))
    data[18:20] = (999).to_bytes(2, 'little')
    assert k3s.parse_elf(bytes(data)).arch is None
    assert refusal(bytes(data), 'amd64') == (
        'is a binary for another machine (64-bit, little-endian, ELF machine 999), '
        'not for amd64 (64-bit, little-endian, ELF machine 62)')


@pytest.mark.parametrize('wanted', sorted(support.MACHINES))
@pytest.mark.parametrize('arch', sorted(support.ELF))
def test_a_program_is_for_one_arch_and_no_other(arch, wanted):
    if arch == wanted:
        check(support.elf(arch), wanted)
    else:
        assert refusal(support.elf(arch),
                       wanted).startswith(f'is a binary for {k3s.parse_elf(support.elf(arch))}, not for {wanted} (')


@pytest.mark.parametrize(('wanted', 'identity', 'phrase'), [
    # x32
    ('amd64', (32, '<', 62), 'is a binary for another machine (32-bit, little-endian, ELF machine 62), not for amd64'),
    ('arm', (32, '>', 40), 'is a binary for another machine (32-bit, big-endian, ELF machine 40), not for arm'),
    ('arm64', (64, '>', 183), 'is a binary for another machine (64-bit, big-endian, ELF machine 183), not for arm64'),
    ('s390x', (64, '<', 22), 'is a binary for another machine (64-bit, little-endian, ELF machine 22), not for s390x'),
    ('riscv64', (32, '<', 243),
     'is a binary for another machine (32-bit, little-endian, ELF machine 243), not for riscv64'),
])
def test_class_and_byte_order_count_as_much_as_the_machine(monkeypatch, wanted, identity, phrase):
    monkeypatch.setitem(support.ELF, 'odd', identity)
    assert refusal(support.elf('odd'), wanted).startswith(phrase)


@pytest.mark.parametrize(('type_', 'phrase'), [
    (1, 'is a relocatable object file, not an executable'),
    (4, 'is a core dump, not an executable'),
    (0, 'is an ELF file of an unknown type, not an executable'),
    (0xfe00, 'is an ELF file of an unknown type, not an executable'),
])
@pytest.mark.parametrize('arch', ['arm', 'amd64', 's390x'])
def test_an_elf_file_that_is_no_program_is_refused(arch, type_, phrase):
    assert refusal(support.elf(arch, type_=type_), arch) == phrase


@pytest.mark.parametrize(('offset', 'value'), [(4, 0), (4, 3), (5, 0), (5, 3)])
def test_an_unknown_class_or_byte_order_is_a_damaged_header(offset, value):
    data = bytearray(support.elf('amd64'))
    data[offset] = value
    assert refusal(bytes(data), 'amd64') == 'has a damaged ELF header (unknown class or byte order)'


def test_a_position_independent_program_is_an_executable():
    check(support.elf('s390x', type_=3), 's390x')


@pytest.mark.parametrize(('arch', 'length'), [('arm', 52), ('amd64', 64), ('s390x', 64)])
def test_a_header_that_is_cut_anywhere_is_refused(arch, length):
    for size in range(length):
        message = refusal(support.elf(arch)[:size], arch)
        assert message == 'is empty' if size == 0 else message.startswith(
            'is cut short: ') and f' {size} ' in message, (size, message)
    check(support.elf(arch)[:length], arch)


@pytest.mark.parametrize('arch', ['amd64', 'arm', 's390x'])
@pytest.mark.parametrize('tables', [
    {'segments': [(0, 500)]},
    {'segments': [(0, 100), (200, 1000), (300, 5)]},  # the last in the file is not the last in the table
    {'sections': 4, 'end': 900},
    {'segments': [(0, 400)], 'sections': 3},
])
def test_a_file_that_ends_before_its_segments_or_tables_is_refused(arch, tables):
    whole = with_tables(arch, **tables)
    check(whole, arch)
    check(whole + b'appended', arch)
    for size in (len(whole) - 1, len(whole) // 2):
        assert refusal(whole[:size], arch) == f'is cut short: it has {size} of at least {len(whole)} bytes'
    assert refusal(whole[:70], arch).startswith('is cut short: it has 70 of at least ')


def test_a_file_that_ends_inside_its_program_headers_is_refused():
    whole = with_tables('amd64', segments=[(0, 100)] * 5)
    assert refusal(whole[:100], 'amd64') == 'is cut short: it has 100 of at least 344 bytes'


def patched(arch, offset, layout, *values, data=None):
    """Return an ELF file for *arch* with *values* packed at *offset*."""
    data = bytearray(data or support.elf(arch))
    struct.pack_into(support.ELF[arch][1] + layout, data, offset, *values)
    return bytes(data)


@pytest.mark.parametrize('size', [0, 8, 55, 57, 65535])
def test_program_headers_of_a_senseless_size_are_a_damaged_header(size):
    assert refusal(patched('amd64', 54, 'HH', size, 65535),
                   'amd64') == f'has a damaged ELF header (program headers of {size} bytes)'


def test_a_crafted_header_in_a_sparse_file_costs_little(tmp_path):
    """65,535 program headers far away in a file without blocks: a few megabytes are read, not what the header
    claims."""
    data = patched('amd64', 32, 'Q', 1 << 40, data=patched('amd64', 54, 'HH', 56, 65535))
    path = tmp_path / 'k3s'
    path.write_bytes(data)
    os.truncate(path, 1 << 41)
    tracemalloc.start()
    with open(path, 'rb') as file:
        k3s.check_elf(file, 1 << 41, host('amd64'))
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(('system', 'phrase'), [(0, None), (3, None), (9, 'FreeBSD'), (2, 'NetBSD'), (12, 'OpenBSD'),
                                                (6, 'Solaris'), (200, 'the system 200')])
def test_a_program_of_another_system_is_refused_by_its_name(system, phrase):
    data = patched('amd64', 7, 'B', system)
    if phrase:
        assert refusal(data, 'amd64') == f'is a binary for {phrase}, not for Linux'
    else:
        check(data, 'amd64')


@pytest.mark.parametrize(('flags', 'phrase'), [
    (0, None), (0x05000000, None), (0x05000400, None), (0x05000002, None),
    (0x05000200, 'is a binary for ARM with software floating point (armel), not for armhf'),
    (0x04000000, 'is a binary for version 4 of the ARM interface, not for version 5'),
])
def test_an_arm_program_is_for_hard_floating_point_and_the_fifth_interface(flags, phrase):
    data = patched('arm', 36, 'I', flags)
    if phrase:
        assert refusal(data, 'arm') == phrase
    else:
        check(data, 'arm')
    check(patched('s390x', 48, 'I', flags), 's390x')  # elsewhere these bits mean other things


def position_independent(arch, kinds=(1,), dynamic=(), entry=0x1000):
    """Return a position-independent ELF file with segments of *kinds*; the *dynamic* one holds those tags."""
    bits, order, _machine = support.ELF[arch]
    data = bytearray(with_tables(arch, segments=[(0, 64)] * (len(kinds) + 1), end=1024))
    struct.pack_into(order + 'H', data, 16, 3)
    struct.pack_into(order + ('I' if bits == 32 else 'Q'), data, 24, entry)
    head_size, entry_size = (52, 32) if bits == 32 else (64, 56)
    for index, kind in enumerate(kinds):
        struct.pack_into(order + 'I', data, head_size + index * entry_size, kind)
    start = head_size + len(kinds) * entry_size
    tags = b''.join(struct.pack(order + ('II' if bits == 32 else 'QQ'), tag, 1) for tag in dynamic)
    if bits == 32:
        struct.pack_into(order + 'IIIII', data, start, 2, 600, 0, 0, len(tags))
    else:
        struct.pack_into(order + 'IIQQQQ', data, start, 2, 5, 600, 0, 0, len(tags))
    data[600:600 + len(tags)] = tags
    return bytes(data)


@pytest.mark.parametrize('arch', ['amd64', 'arm', 's390x'])
@pytest.mark.parametrize(('made', 'library'), [
    ({}, False),  # a static program
    ({'dynamic': (1, 5, 0)}, False),
    ({'dynamic': (1, 14, 5)}, True),  # it has a name for others to load it by
    ({'entry': 0}, True),
    ({'kinds': (3, 1), 'dynamic': (1, 14), 'entry': 0}, False),  # ld.so starts it
])
def test_a_shared_library_is_no_program(arch, made, library):
    if library:
        assert refusal(position_independent(arch, **made), arch) == 'is a shared library, not an executable'
    else:
        check(position_independent(arch, **made), arch)


@pytest.mark.parametrize('arch', ['amd64', 'arm', 's390x'])
@pytest.mark.parametrize(('interpreter', 'bsd'), [
    ('/lib64/ld-linux-x86-64.so.2', False), ('/lib/ld-linux-armhf.so.3', False), ('/lib/ld-musl-arm.so.1', False),
    ('/libexec/ld-elf.so.1', True), ('/libexec/ld.elf_so', True), ('/usr/libexec/ld.so', True)])
def test_a_program_for_the_interpreter_of_a_bsd_is_none_for_linux(arch, interpreter, bsd):
    bits, order, _machine = support.ELF[arch]
    path = interpreter.encode() + b'\0'
    data = bytearray(with_tables(arch, segments=[(600, len(path))]))
    struct.pack_into(order + 'I', data, 52 if bits == 32 else 64, 3)
    data[600:] = path
    if bsd:
        assert refusal(bytes(data), arch) == 'is a binary for a BSD, by the interpreter that it names, not for Linux'
    else:
        check(bytes(data), arch)


def test_a_real_program_is_whole_and_every_cut_of_it_is_not():
    path = os.path.realpath(sys.executable)
    size = os.stat(path).st_size
    with open(path, 'rb') as file:
        data = file.read()
    identity = k3s.parse_elf(data[:64])
    architecture = k3s.Architecture('own', ('own',), 'own', identity.bits, identity.byteorder, identity.machine)
    own = k3s.Host('node', 'own', 'own', 'own', architecture, False)
    k3s.check_elf(io.BytesIO(data), size, own)
    for cut in (1, 3, 17, 51, 63, 64, 65, 1000, size // 3, size // 2, size * 9 // 10, size - 1):
        with pytest.raises(k3s.ArtifactError, match='is cut short: '):
            k3s.check_elf(io.BytesIO(data[:cut]), cut, own)


@pytest.mark.parametrize(('head', 'phrase'), [
    (b'', 'is empty'),
    (b'\x7f', 'is cut short: it ends after 1 bytes'),
    (b'\x7fEL', 'is cut short: it ends after 3 bytes'),
    (b'<!DOCTYPE html><html>', 'is an HTML page, perhaps the error page of a download'),
    (b'\xef\xbb\xbf\r\n  <HTML lang="en">', 'is an HTML page, perhaps the error page of a download'),
    (b'<?xml version="1.0"?><Error>', 'is an HTML page, perhaps the error page of a download'),
    (b'#!/bin/sh\necho k3s', 'is a script, not a binary'),
    (b'\x1f\x8b\x08', 'is compressed, not a binary'),
    (b'\x28\xb5\x2f\xfd', 'is compressed, not a binary'),
    (b'PK\x03\x04', 'is compressed, not a binary'),
    (b'$ANSIBLE_VAULT;1.1;AES256', 'is encrypted with ansible-vault'),
    (b'Not Found', 'is not an ELF executable'),
    (b'\0' * 64, 'is not an ELF executable'),
    (b'MZ\x90', 'is not an ELF executable'),
])
def test_what_is_no_elf_file_is_told_by_its_first_bytes(head, phrase):
    with pytest.raises(k3s.ArtifactError) as caught:
        k3s.parse_elf(head)
    assert str(caught.value) == phrase
