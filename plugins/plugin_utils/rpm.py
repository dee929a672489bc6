# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the header of an RPM package says, for the action stage.

Sources: the RPM file format and the order of versions, of rpm's own manual (rpm-software-management/rpm, docs/manual).
"""

from __future__ import annotations

import re
import struct
from itertools import zip_longest
from typing import NamedTuple

from ansible_collections.airgap.k3s.plugins.lookup.k3s_artifact import (
    BY_MACHINE, SELINUX_PACKAGE, ArtifactError, opened)

LEAD = 96  # bytes
LEAD_MAGIC, HEADER_MAGIC = b'\xed\xab\xee\xdb', b'\x8e\xad\xe8\x01'
HEADER_LIMIT = 16 << 20  # bytes
SIGNATURE_TAGS = {267, 268, 278, 1002, 1005}  # DSA, RSA, OpenPGP, PGP, GPG
NAME, VERSION, RELEASE, EPOCH, ARCH = 1000, 1001, 1002, 1003, 1022
STRING, INT32 = 6, 4
MACHINES = {'armv7hl': 'arm', 'armv7hnl': 'arm'}  # what RPM calls machines that call themselves otherwise


class Package(NamedTuple):
    """A package: of a file, or as a node says it. Without an arch it is for all."""

    name: str
    epoch: str
    version: str
    release: str
    arch: str | None = None  # K3s's name
    is_signed: bool = False

    def __str__(self):
        return f'{self.version}-{self.release}'


def is_selinux_package(name):
    return bool(SELINUX_PACKAGE.fullmatch(name))


def read_package(path):
    """Return the :class:`Package` that the file *path* is, or raise what it is instead."""
    with opened(path) as (file, _status):
        if not file.read(LEAD).startswith(LEAD_MAGIC):
            raise ArtifactError('is no RPM package')
        signature, size = read_header(file)
        file.read(-size % 8)
        header, _size = read_header(file)
    texts = [header.get(tag) for tag in (NAME, VERSION, RELEASE, ARCH)]
    if not all(isinstance(text, str) and re.fullmatch(r'[\w.+~^-]+', text, re.ASCII) for text in texts):
        raise ArtifactError('is an RPM package whose header is damaged')
    name, version, release, machine = texts
    known = MACHINES.get(machine) or (BY_MACHINE[machine].arch if machine in BY_MACHINE else machine)
    return Package(name, str(header.get(EPOCH, 0)), version, release, None if machine == 'noarch' else known,
                   bool(SIGNATURE_TAGS & signature.keys()))


def read_header(file):
    """Return the values of a header by tag (texts and numbers; True for all others) and how many bytes its data has."""
    start = file.read(16)
    if len(start) < 16 or not start.startswith(HEADER_MAGIC):
        raise ArtifactError('is an RPM package whose header is damaged')
    count, size = struct.unpack('>II', start[8:])
    if 16 * count + size > HEADER_LIMIT:
        raise ArtifactError('is an RPM package whose header is damaged')
    index, data = file.read(16 * count), file.read(size)
    if len(index) < 16 * count or len(data) < size:
        raise ArtifactError('is an RPM package that is cut short')
    values = {}
    for tag, kind, offset, _number in struct.iter_unpack('>IIII', index):
        if kind == STRING:
            values[tag] = data[offset:].split(b'\0', 1)[0].decode('utf-8', 'replace') if offset < size else ''
        elif kind == INT32 and offset + 4 <= size:
            values[tag], = struct.unpack_from('>I', data, offset)
        else:
            values[tag] = True
    return values, size


def is_newer(package, other):
    """Tell whether a package is newer than another one of its name."""
    for field in ('epoch', 'version', 'release'):
        order = compared(getattr(package, field), getattr(other, field))
        if order:
            return order > 0
    return False


def compared(one, two):
    """Return 1, 0 or -1 for versions as RPM orders them: segments of digits or letters, a tilde before the end of a
    version and a caret after it."""
    for first, second in zip_longest(segments(one), segments(two), fillvalue=''):
        if first != second:
            return 1 if rank(first) > rank(second) else -1 if rank(first) < rank(second) else 0
    return 0


def segments(version):
    return re.findall(r'[0-9]+|[A-Za-z]+|~|\^', version)


def rank(segment):
    kind = {'~': 0, '': 1, '^': 2}.get(segment, 4 if segment.isdigit() else 3)
    return kind, int(segment) if segment.isdigit() else 0, segment if segment.isalpha() else ''
