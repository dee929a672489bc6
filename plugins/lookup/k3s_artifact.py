# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide which file of a K3s release belongs to a host, and verify it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_artifact
author: k3s-artifact contributors
version_added: "1.0.0"
short_description: Find the file of a K3s release that is right for a host
description:
  - K3s publishes one binary per architecture under different file names, and every one of them is installed as
    C(/usr/local/bin/k3s). This lookup finds the controller-side file for the host that is being templated, from the
    host's facts, and verifies it before anything is sent.
  - >-
    The machine that a host reports selects a row of this table. K3s has no release for any other machine (armv6l,
    armv5tel, i686, ...): they are an error, unless O(binary_map) names a file for them.
  - "x86_64, amd64: arch amd64, binary k3s, checksum list sha256sum-amd64.txt."
  - "aarch64, arm64: arch arm64, binary k3s-arm64, checksum list sha256sum-arm64.txt."
  - "armv7l, armv8l, armhf, arm: arch arm, binary k3s-armhf, checksum list sha256sum-arm.txt."
  - "s390x: arch s390x, binary k3s-s390x, checksum list sha256sum-s390x.txt."
  - "riscv64: arch riscv64, binary k3s-riscv64, checksum list sha256sum-riscv64.txt."
  - >-
    In the artifact directory these files are looked at, in this order, and the first that exists is the one:
    C(<arch>/<binary name>), C(<arch>/k3s), C(<binary name>), C(k3s). The folder may also be called by a machine name
    of the same row (C(aarch64/), C(x86_64/), C(armhf/)). Right after the binary name, C(k3s-<arch>) is looked at, the
    name under which k3s-ansible searches (C(k3s-arm), C(k3s-amd64)).
  - >-
    Image archives are found in the same folders. One whose name ends in another architecture is left out, one without an
    architecture in its name is for every host, and of the same archive in several compressions one is taken (zst, then gz,
    then plain).
options:
  _terms:
    description:
      - What to return, one result after the other. Without any term, V(binary).
      - V(binary) is the absolute path of the verified binary.
      - V(name) is the file name of the release, such as C(k3s-arm64). It needs facts only, no artifact directory.
      - V(arch) is the name that K3s has for the architecture, such as C(arm64). It needs facts only.
      - V(images) is the list of absolute paths of the verified image archives for the host, zero or more.
      - V(script) is the absolute path of the install script C(k3s-install.sh) beside the image archives, none or one.
      - V(directory) is the folder of the host's architecture in the artifact directory, for C(airgap_dir) in the inventory
        of k3s-ansible. The binary that k3s-ansible picks from it is verified.
      - V(sha256) is the SHA-256 digest of the verified binary, in lower-case hexadecimal digits.
    type: list
    elements: str
    choices: [binary, name, arch, images, script, directory, sha256]
    default: [binary]
  dir:
    description:
      - The artifact directory, the folder on the controller that holds the files of the K3s release.
      - A relative path is relative to the playbook. Where nothing is there, it is relative to the folder in which the
        command was started, which is what a playbook that is run from a collection needs.
      - Without it, the files are searched for in the C(files) folders of the role and the playbook.
    type: str
    vars:
      - name: k3s_artifact_dir
      - name: airgap_dir
    env:
      - name: K3S_ARTIFACT_DIR
    ini:
      - section: k3s_artifact
        key: dir
  machine:
    description:
      - What the host calls itself (C(uname -m)). It is only ever a key into the table or O(binary_map).
      - Without it, the fact C(ansible_facts.architecture) and then C(ansible_architecture).
    type: str
    vars:
      - name: k3s_artifact_machine
  binary_map:
    description:
      - File names by machine, merged over the table, such as C({"armv6l":\ "k3s-armv6"}).
      - A file name is relative to the artifact directory or its folder for the architecture, and may not leave it.
    type: dict
    default: {}
    vars:
      - name: k3s_binary_map
  verify:
    description: How a file is verified on the controller before it is used.
    type: str
    default: auto
    choices:
      auto:
        - The binary must be an ELF executable of the host's class, byte order and machine, and complete.
        - Where a checksum list (C(sha256sum-<arch>.txt), then C(sha256sum.txt)) beside the file names it, the digest must
          match. A renamed binary counts under its release name.
      required: As V(auto), and there must be such a line.
      none: Nothing is verified.
    vars:
      - name: k3s_artifact_verify
    env:
      - name: K3S_ARTIFACT_VERIFY
    ini:
      - section: k3s_artifact
        key: verify
notes:
  - The digest of a file is computed once per run of Ansible, however many hosts ask for it.
  - The names of the binaries and of the checksum lists, and the machines they are for, are those of the functions
    C(setup_verify_arch) and C(download_hash) in K3s's own install script.
seealso:
  - name: k3s-artifact and k3s-ansible
    description: What to change in each release of k3s-ansible.
    link: https://github.com/k3s-artifact/k3s-artifact/blob/main/docs/k3s-ansible.md
"""

EXAMPLES = r"""
- name: Show the binary for each host
  ansible.builtin.debug:
    msg: "{{ inventory_hostname }} gets {{ lookup('k3s_artifact') }}"

- name: Show names and digests without setting a variable
  ansible.builtin.debug:
    msg: "{{ lookup('k3s_artifact', 'name') }} {{ lookup('k3s_artifact', 'sha256', dir='/srv/airgap', verify='required') }}"

- name: Show the image archives for each host
  ansible.builtin.debug:
    msg: "{{ item }}"
  loop: "{{ query('k3s_artifact', 'images') }}"

- name: Name the release file of a machine that is not in the inventory
  ansible.builtin.debug:
    msg: "{{ lookup('k3s_artifact', 'name', machine='riscv64') }}"

- name: Use a build of your own where K3s has no release
  ansible.builtin.debug:
    msg: "{{ lookup('k3s_artifact', 'name', machine='armv6l', binary_map={'armv6l': 'k3s-armv6'}) }}"

- name: Give an untouched k3s-ansible the folder of each host's architecture
  ansible.builtin.debug:
    msg: "{{ airgap_dir }}"
  vars:
    k3s_artifact_dir: /srv/airgap
    airgap_dir: "{{ lookup('k3s_artifact', 'directory') }}"
"""

RETURN = r"""
_raw:
  description: One text for each term, in their order; for V(images) as many as there are archives.
  type: list
  elements: str
"""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import os
import re
import stat
import struct
from collections.abc import Mapping
from typing import NamedTuple

from ansible import constants as C
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display
from jinja2 import TemplateError

display = Display()

TERMS = ('binary', 'name', 'arch', 'images', 'script', 'directory', 'sha256')
VERIFY = ('auto', 'required', 'none')


class Release(NamedTuple):
    """What K3s publishes for one architecture, and the ELF identity of a program for it."""

    arch: str
    machines: tuple  # every value of `uname -m` that runs it, and the aliases people give folders and archives
    binary: str | None  # file name of the release; None: K3s has no release for it
    bits: int  # ELF class: 32 or 64
    byteorder: str  # ELF data encoding: 'little' or 'big'
    elf_machine: int  # ELF e_machine


# File names: setup_verify_arch() and download_hash() of K3s's install.sh. Numbers: ELF specification, e_machine.
RELEASES = (
    Release('amd64', ('x86_64', 'amd64'), 'k3s', 64, 'little', 62),
    Release('arm64', ('aarch64', 'arm64'), 'k3s-arm64', 64, 'little', 183),
    Release('arm', ('armv7l', 'armv8l', 'armhf', 'arm'), 'k3s-armhf', 32, 'little', 40),
    Release('s390x', ('s390x',), 'k3s-s390x', 64, 'big', 22),
    Release('riscv64', ('riscv64',), 'k3s-riscv64', 64, 'little', 243),
    # Known machines without a release: a program for them is recognised, and one named in k3s_binary_map is verified.
    Release('armv6', ('armv6l', 'armv6', 'armv5tel', 'armel'), None, 32, 'little', 40),
    Release('386', ('i686', 'i586', 'i386', '386'), None, 32, 'little', 3),
    Release('ppc64le', ('ppc64le',), None, 64, 'little', 21),
    Release('ppc64', ('ppc64',), None, 64, 'big', 21),
    Release('mips64', ('mips64',), None, 64, 'big', 8),
    Release('mips64le', ('mips64el', 'mips64le'), None, 64, 'little', 8),
    Release('mips', ('mips',), None, 32, 'big', 8),
    Release('loong64', ('loongarch64', 'loong64'), None, 64, 'little', 258),
)
BY_MACHINE = {machine: release for release in RELEASES for machine in release.machines}
BINARY_NAMES = frozenset(
    name for release in RELEASES if release.binary for name in (release.binary, 'k3s-' + release.arch)
)

# What K3s imports from its images directory, the preferred compression first.
ARCHIVE_SUFFIXES = ('.tar.zst', '.tzst', '.tar.gz', '.tgz', '.tar', '.tar.bz2', '.tbz', '.tar.lz4')
ARCHIVE_ARCH = {
    **{name: release.arch for release in RELEASES for name in (*release.machines, release.arch)},
    'armv7': 'arm',
    'armv6': 'armv6',
}

# Under these names k3s-ansible looks for the binary in its airgap_dir, before it looks for plain `k3s`.
K3S_ANSIBLE_NAME = {'aarch64': 'k3s-arm64', 'armv7l': 'k3s-arm'}
K3S_ANSIBLE_NAME_OF_ALL_OTHERS = 'k3s-amd64'

# What we read besides the variables that begin with k3s_artifact_.
OTHER_SETTINGS = ('airgap_dir', 'k3s_binary_map', 'k3s_version', 'k3s_server_location')

ELF_TYPES = {1: 'a relocatable object file', 4: 'a core dump'}
ELF_EXECUTABLE_TYPES = (2, 3)  # ET_EXEC, ET_DYN (position-independent)


class ArtifactError(AnsibleLookupError):
    """The one error that leaves this plugin: a sentence for the person who runs the playbook.

    Part of it may be what a node said or what a file is called. Ansible-core up to 2.18 evaluates the text of a result again
    when a later task uses it, so no template survives in it.
    """

    _include_cause_message = False  # ansible-core from 2.19 on would add the system's words to ours

    def __init__(self, message):
        super().__init__(harmless(message))


class Host(NamedTuple):
    """The host that gets a file: its name, what it calls itself, and the release for that."""

    name: str
    machine: str
    arch: str
    binary: str
    release: Release | None  # None for a machine that only k3s_binary_map knows
    mapped: bool  # whether the binary's name is from k3s_binary_map

    def __str__(self):
        return f'host {self.name!r} (machine {self.machine}, arch {self.arch})'

    @property
    def archive_arch(self):
        """What the names of image archives call the host's arch."""
        return self.release.arch if self.release else self.arch


class Elf(NamedTuple):
    """The fields of an ELF header that tell for which machine a file is, and how long it must be at least."""

    bits: int
    byteorder: str
    type: int
    machine: int
    extent: int  # bytes up to the end of its header tables
    segments: tuple  # offset, entry size and number of the program headers

    def __str__(self):
        return f'{self.arch or "another machine"} ({self.bits}-bit, {self.byteorder}-endian, ELF machine {self.machine})'

    @property
    def arch(self):
        """K3s's name of the architecture, or None for one that the table does not hold."""
        return next((release.arch for release in RELEASES if self.runs_on(release)), None)

    def runs_on(self, release):
        return (self.bits, self.byteorder, self.machine) == (release.bits, release.byteorder, release.elf_machine)


def shown(value, limit=60):
    """Return a value that may be hostile as a short printable text for a message, in which nothing is a template."""
    text = harmless(ascii(str(value)) if isinstance(value, str) else ascii(value))
    return text if len(text) <= limit else f'{text[:limit]}... ({len(str(value))} characters)'


def harmless(text):
    """Return *text* with a blank in every mark that begins a template, and control characters as escapes."""
    text = re.sub(r'\{(?=[{%#])', '{ ', text)
    return text if text.isprintable() else ''.join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


# --- settings --------------------------------------------------------------------------------------------------------


def refuse_facts(name, facts):
    """Raise where *facts*, which the node *name* reports, hold a variable that is the user's to set."""
    taken = next((key for key in facts if str(key).startswith('k3s_artifact_') or key in OTHER_SETTINGS), None)
    if taken is not None:
        raise ArtifactError(f'host {name!r} has the fact {shown(taken)}, which is a setting of the controller: facts win over '
                            f'the inventory, so the node would choose what it gets. If a set_fact with "cacheable: true" made '
                            f'it, use set_fact without cacheable or a variable, and run once with --flush-cache.')


def own_error(error):
    """Return the :class:`ArtifactError` that *error* was raised for, or None: a variable may itself be this lookup."""
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ArtifactError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def last_line(error):
    """Return the last line of an error's text, which in every release of ansible-core says what was wrong."""
    lines = to_text(getattr(error, 'message', None) or error).strip().splitlines() or ['']
    return lines[-1].rstrip('.')


# --- machine and arch ------------------------------------------------------------------------------------------------


def checked_binary_map(binary_map):
    """Return *binary_map* if it maps machine names to file names below the artifact directory, else raise."""
    if not isinstance(binary_map, Mapping):
        raise ArtifactError(f'k3s_binary_map must map machine names to file names, it is {shown(binary_map)}. '
                            f'Write it as a mapping, for example {{"armv6l": "k3s-armv6"}}.')
    for machine, name in binary_map.items():
        if not isinstance(machine, str) or not re.fullmatch(r'\w[\w.-]*', machine, re.ASCII):
            raise ArtifactError(f'k3s_binary_map has the key {shown(machine)}, which is no machine name. '
                                f'Use what `uname -m` prints on the host.')
        if not isinstance(name, str) or not name.strip():
            raise ArtifactError(f'k3s_binary_map[{shown(machine)}] must be a file name, it is {shown(name)}. '
                                f'Name a file of the artifact directory.')
        if os.path.isabs(name) or '..' in name.split('/') or '\0' in name or name.endswith('/'):
            raise ArtifactError(f'k3s_binary_map[{shown(machine)}] is {shown(name)}, which is not a file below the artifact '
                                f'directory. Use a file name without a leading slash and without "..".')
    return binary_map


def resolve_host(name, machine, binary_map):
    """Return the :class:`Host` for what the node *name* calls itself.

    *machine* may be anything that a node sent. It is used as a key only: the arch and the binary's name come from
    the table or from *binary_map*, which is the user's own.
    """
    if machine is None:
        raise ArtifactError(f'host {name!r} has no fact "architecture", so its K3s binary cannot be told. '
                            f'Gather facts, or set k3s_artifact_machine to what `uname -m` prints on it.')
    if not isinstance(machine, str) or not machine:
        raise ArtifactError(f'host {name!r} reports {shown(machine)} as its machine, which is not a machine name. '
                            f'Set k3s_artifact_machine to what `uname -m` prints on it.')
    release = BY_MACHINE.get(machine)
    if machine in binary_map:
        machine = next(key for key in binary_map if key == machine)
        arch = release.arch if release and release.binary else machine
        return Host(name, machine, arch, binary_map[machine], release, True)
    if release is None:
        raise ArtifactError(f'host {name!r} reports the machine {shown(machine)}, which is unknown: K3s has releases for '
                            f'{release_names()}. If you have a build for it, name its file in k3s_binary_map.')
    if release.binary is None:
        raise ArtifactError(f'K3s has no release for the machine {machine} of host {name!r}, only for {release_names()}. '
                            f'If you have a build for it, name its file in k3s_binary_map.')
    return Host(name, machine, release.arch, release.binary, release, False)


def release_names():
    return ', '.join(release.arch for release in RELEASES if release.binary)


# --- ELF -------------------------------------------------------------------------------------------------------------


def parse_elf(head):
    """Return the :class:`Elf` of a file that starts with the bytes *head* (64 are enough).

    Raise :class:`ArtifactError` with the second half of a sentence ("is an HTML page ...") for everything else.
    Layout: ELF specification, "ELF Header".
    """
    if not head.startswith(b'\x7fELF'):
        raise ArtifactError(describe_content(head))
    if len(head) < 6:
        raise ArtifactError(f'is cut short: its ELF header ends after {len(head)} bytes')
    bits = {1: 32, 2: 64}.get(head[4])
    byteorder = {1: 'little', 2: 'big'}.get(head[5])
    if bits is None or byteorder is None:
        raise ArtifactError('has a damaged ELF header (unknown class or byte order)')
    length = 52 if bits == 32 else 64
    if len(head) < length:
        raise ArtifactError(f'is cut short: its ELF header ends after {len(head)} of {length} bytes')
    fields = struct.unpack_from(('<' if byteorder == 'little' else '>') + ('HHIIIIIHHHHHH' if bits == 32 else 'HHIQQQIHHHHHH'), head, 16)
    elf_type, machine, _version, _entry, phoff, shoff, _flags, _ehsize, phentsize, phnum, shentsize, shnum, _shstrndx = fields
    extent = max(length, phoff + phentsize * phnum, shoff + shentsize * shnum)
    return Elf(bits, byteorder, elf_type, machine, extent, (phoff, phentsize, phnum))


def segments_end(elf, table):
    """Return the offset in the file at which the last segment of *elf* ends; *table* is its program header table."""
    _offset, size, count = elf.segments
    # p_offset and p_filesz; p_type, p_flags, p_vaddr and p_paddr are skipped.
    layout = ('<' if elf.byteorder == 'little' else '>') + ('4xI8xI' if elf.bits == 32 else '8xQ16xQ')
    if size < struct.calcsize(layout) or len(table) < size * count:
        return 0
    return max((sum(struct.unpack_from(layout, table, index * size)) for index in range(count)), default=0)


def describe_content(head):
    """Say what a file that is no ELF file seems to be, from its first bytes, as the second half of a sentence."""
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if not head:
        return 'is empty'
    if b'\x7fELF'.startswith(head):
        return f'is cut short: it ends after {len(head)} bytes'
    if text.startswith((b'<!doctype', b'<html', b'<?xml', b'<head', b'<body')):
        return 'is an HTML page, perhaps the error page of a download'
    if head.startswith(b'#!'):
        return 'is a script, not a binary'
    if head.startswith((b'\x1f\x8b', b'\x28\xb5\x2f\xfd', b'PK\x03\x04', b'\xfd7zXZ', b'BZh')):
        return 'is compressed, not a binary'
    if head.startswith(b'$ANSIBLE_VAULT'):
        return 'is encrypted with ansible-vault'
    return 'is not an ELF executable'


# --- files on the controller -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path):
    """Open a regular file for reading without ever blocking on it; yield the file object and its status.

    Raise :class:`ArtifactError` with the second half of a sentence for everything that cannot be read as a file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(describe_os_error(path, error)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ArtifactError(f'is {describe_kind(status.st_mode)}, not a file')
    with os.fdopen(descriptor, 'rb') as file:
        try:
            yield file, status
        except OSError as error:  # a failing disk, a network file system that went away
            raise ArtifactError(describe_os_error(path, error)) from error


def describe_os_error(path, error):
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f'is a dangling link to {os.readlink(path)}'
    if error.errno == errno.ELOOP:
        return 'is a link that leads back to itself'
    if error.errno in (errno.EACCES, errno.EPERM):
        return 'cannot be read: permission denied'
    if error.errno == errno.ENXIO:
        return 'is a socket, not a file'
    return f'cannot be read: {error.strerror}'


def describe_kind(mode):
    kinds = ((stat.S_ISDIR, 'a directory'), (stat.S_ISFIFO, 'a named pipe'), (stat.S_ISSOCK, 'a socket'),
             (stat.S_ISCHR, 'a device'), (stat.S_ISBLK, 'a device'))
    return next((text for test, text in kinds if test(mode)), 'something else')


def digests(file, path):
    """Return the SHA-256 and the SHA-1 digest of an open file, in hexadecimal digits, each file read once per run.

    Ansible's processes share the result through a file in the run's own temporary folder, which is locked while the first
    that asks computes it. A file that is replaced or changed in between is another file.
    """
    status = os.fstat(file.fileno())
    identity = (os.path.realpath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    name = 'k3s_artifact-' + hashlib.sha256(to_bytes(repr(identity))).hexdigest()
    with open(os.path.join(C.DEFAULT_LOCAL_TMP, name), 'a+', encoding='ascii') as shared:
        fcntl.flock(shared, fcntl.LOCK_EX)
        shared.seek(0)
        known = shared.read().split()
        if len(known) != 2:
            known = read_digests(file)
            shared.truncate(0)
            shared.write(' '.join(known))
        return tuple(known)


def read_digests(file):
    # SHA-1 is what copy returns as "checksum"; nothing here relies on it.
    sha256, sha1 = hashlib.sha256(), hashlib.new('sha1', usedforsecurity=False)
    file.seek(0)
    for block in iter(lambda: file.read(1 << 20), b''):
        sha256.update(block)
        sha1.update(block)
    return [sha256.hexdigest(), sha1.hexdigest()]


# --- checksum lists --------------------------------------------------------------------------------------------------


def parse_checksum_list(text):
    """Return the digests of a checksum list by exact file name.

    A line is what sha256sum prints: 64 hexadecimal digits, a space, a space or an asterisk, the file's name
    (after ./ if it was called with ./*).
    Raise :class:`ArtifactError` with the second half of a sentence where the text is not such a list.
    """
    result = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        match = re.fullmatch(r'([0-9a-fA-F]{64})\s[\s*]?(?:\./)?(\S.*)', line.rstrip())
        if not match:
            raise ArtifactError(f'is not a checksum list: line {number} is {shown(line)}')
        digest, name = match.group(1).lower(), match.group(2)
        if result.setdefault(name, digest) != digest:
            raise ArtifactError(f'names {shown(name)} twice, with different digests')
    if not result:
        raise ArtifactError('is empty')
    return result


def expected_digest(path, arch, names):
    """Return the digest that a checksum list beside *path* gives for the first of *names*, and the list's file name.

    ``(None, None)`` where no list names any of them. Lists: sha256sum-<arch>.txt, then sha256sum.txt.
    """
    for list_name in (f'sha256sum-{arch}.txt', 'sha256sum.txt'):
        list_path = os.path.join(os.path.dirname(path), list_name)
        if not os.path.lexists(list_path):
            continue
        try:
            with opened(list_path) as (file, _status):
                known = parse_checksum_list(to_text(file.read(1 << 20), errors='replace'))
        except ArtifactError as error:
            raise ArtifactError(f'cannot be verified: the checksum list {list_name} beside it {error}') from error
        for name in names:
            if name in known:
                return known[name], list_name
    return None, None


# --- verification ----------------------------------------------------------------------------------------------------


class Artifact(NamedTuple):
    """A verified file for a host."""

    machine: str
    arch: str
    source: str  # absolute path on the controller
    size: int  # bytes
    sha256: str
    checksum: str  # SHA-1, as in the result of copy
    verified: list  # the checks it passed: 'ELF header', the name of a checksum list


def verified_binary(path, host, verify):
    """Return the :class:`Artifact` for *path* if it is the K3s binary for *host*, else raise what it is instead."""
    def check(file, status):
        check_elf(file, status.st_size, host)
        return ['ELF header']
    return verified_file(path, host, (host.binary, os.path.basename(path)), verify, check)


def verified_archive(path, host, verify):
    """Return the :class:`Artifact` for the image archive *path*, or raise what it is instead."""
    def check(file, _status):
        head = file.read(64)
        if not head or describe_content(head).startswith('is an HTML'):
            raise ArtifactError(describe_content(head))
        return []
    return verified_file(path, host, (os.path.basename(path),), verify, check)


def verified_file(path, host, names, verify, check):
    with opened(path) as (file, status):
        wanted, list_name, verified = None, None, []
        if verify != 'none':
            verified = check(file, status)
            wanted, list_name = expected_digest(path, host.arch, names)
        if verify == 'required' and wanted is None:
            raise ArtifactError(f'is in no checksum list: neither sha256sum-{host.arch}.txt nor sha256sum.txt beside it names '
                                f'{" or ".join(dict.fromkeys(names))}, and k3s_artifact_verify is "required"')
        sha256, checksum = digests(file, path)
        if wanted is not None:
            if sha256 != wanted:
                raise ArtifactError(f'is not the released file: its SHA-256 is {sha256}, but {list_name} says {wanted}')
            verified.append(list_name)
        return Artifact(host.machine, host.arch, path, status.st_size, sha256, checksum, verified)


def check_elf(file, size, host):
    elf = parse_elf(file.read(64))
    if elf.type not in ELF_EXECUTABLE_TYPES:
        raise ArtifactError(f'is {ELF_TYPES.get(elf.type, "an ELF file of an unknown type")}, not an executable')
    if host.release and not elf.runs_on(host.release):
        wanted = host.release
        raise ArtifactError(f'is a binary for {elf}, not for {wanted.arch} '
                            f'({wanted.bits}-bit, {wanted.byteorder}-endian, ELF machine {wanted.elf_machine})')
    offset, entry_size, count = elf.segments
    file.seek(min(offset, size))
    extent = max(elf.extent, segments_end(elf, file.read(entry_size * count)))
    if extent > size:
        raise ArtifactError(f'is cut short: it has {size} of at least {extent} bytes')


# --- candidates ------------------------------------------------------------------------------------------------------


def candidates(host):
    """Return the paths, relative to the artifact directory, at which the binary of *host* may be, best first."""
    names = [host.binary] if host.mapped else list(dict.fromkeys((host.binary, 'k3s-' + host.arch, 'k3s')))
    return [os.path.join(folder, name) for folder in (*folders(host), '') for name in names]


def folders(host):
    """Return the names that the folder of the host's architecture may have: its arch, its machine, their aliases."""
    aliases = host.release.machines if host.release and host.release.binary else ()
    return list(dict.fromkeys((host.arch, host.machine, *aliases)))


def escapes(root, path):
    """Tell whether *path*, with every link followed, is outside the folder *root*."""
    root = os.path.realpath(root)
    return os.path.commonpath((root, os.path.realpath(path))) != root


def split_archive(name):
    """Return what an archive's file name says: its name without suffix, the suffix, and its arch or None.

    ``None`` for a file that is not an image archive.
    """
    suffix = next((suffix for suffix in ARCHIVE_SUFFIXES if name.endswith(suffix)), None)
    if suffix is None or name.startswith('.'):
        return None
    stem = name[:-len(suffix)]
    ending = next((ending for ending in sorted(ARCHIVE_ARCH, key=len, reverse=True)
                   if re.search(rf'(^|[-_.]){re.escape(ending)}$', stem, re.IGNORECASE)), None)
    return stem, suffix, ARCHIVE_ARCH.get(ending)


def choose_archives(places, arch):
    """Return the archives for hosts of *arch*, as paths sorted by name.

    *places* are (folder, file names) in the order of preference.
    """
    best = {}
    for rank, (folder, names) in enumerate(places):
        for name in names:
            archive = split_archive(name)
            if archive and archive[2] in (None, arch):
                best.setdefault(archive[0], []).append((rank, ARCHIVE_SUFFIXES.index(archive[1]), os.path.join(folder, name)))
    return [min(found)[2] for _stem, found in sorted(best.items())]


def listing(root):
    """Say which K3s binaries are in the artifact directory and for which architecture each is, for a message."""
    found = []
    def unreadable(error):
        found.append(f'{os.path.relpath(error.filename, root)} {describe_os_error(error.filename, error)}')
    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        if os.path.relpath(folder, root).count(os.sep):
            subfolders.clear()
        for name in sorted(name for name in names if name in BINARY_NAMES):
            path = os.path.join(folder, name)
            try:
                with opened(path) as (file, _status):
                    what = f'is for {parse_elf(file.read(64)).arch or "another machine"}'
            except ArtifactError as error:
                what = str(error)
            found.append(f'{os.path.relpath(path, root)} {what}')
    return '; '.join(found[:12]) or 'it holds no K3s binary'


class LookupModule(LookupBase):

    _expanding: set = set()

    def run(self, terms, variables=None, **kwargs):
        self.prepare(variables, **kwargs)
        terms = self._flatten(terms) or ['binary']
        for term in terms:
            if term not in TERMS:
                raise ArtifactError(f'host {self._name!r} asks k3s_artifact for {shown(term)}, which is no term of it. '
                                    f'Use one of {", ".join(TERMS)}.')
        return [value for term in terms for value in getattr(self, f'_get_{term}')()]

    def prepare(self, variables=None, **options):
        """Take the variables of a host and the options of a call; everything else answers for that host.

        The action plugin calls this, then :meth:`host`, :meth:`binary` and :meth:`archive`.
        """
        self._variables = {} if variables is None else variables
        self._circular = None
        refuse_facts(self._name, self._variables.get('ansible_facts') or {})
        self.set_options(direct=self._expanded_options(options))
        self._verify = self.get_option('verify')
        return self

    # --- options

    def _expanded_options(self, options):
        """Return *options* with the expanded value of the first defined variable of each option that is not given.

        Options that Ansible reads from variables itself arrive as untemplated text in every release.
        """
        result = dict(options)
        for option, definition in self.option_definitions.items():
            for entry in definition.get('vars') or ():
                if option not in result and entry['name'] in self._variables:
                    if option == 'dir' and entry['name'] in self._expanding:
                        # "/srv/{{ lookup('k3s_artifact', 'arch') }}" is fine: only a term that needs the folder fails
                        self._circular, result[option] = entry['name'], None
                    else:
                        result[option] = self.setting(entry['name'])
        unknown = [option for option in options if option not in self.option_definitions]
        if unknown:
            raise ArtifactError(f'host {self._name!r} asks k3s_artifact with the option {shown(unknown[0])}, which it does not '
                                f'know. Its options are dir, machine, binary_map and verify.')
        if isinstance(result.get('dir'), (Mapping, list, tuple)) or '\0' in str(result.get('dir')):
            raise ArtifactError(f'the artifact directory of host {self._name!r} is {shown(result["dir"])}, which is no path. '
                                f'Set k3s_artifact_dir to a folder.')
        if 'binary_map' in result:
            try:
                checked_binary_map(result['binary_map'])
            except ArtifactError as error:
                raise ArtifactError(f'host {self._name!r}: {error}') from None
        if result.get('verify', 'auto') not in VERIFY:
            raise ArtifactError(f'k3s_artifact_verify of host {self._name!r} is {shown(result["verify"])}. '
                                f'Use one of {", ".join(VERIFY)}.')
        machine = result.get('machine')
        if 'machine' in result and (not isinstance(machine, str) or not machine):
            resolve_host(self._name, machine or '', {})
        return result

    def setting(self, name, default=None):
        """Return the expanded value of the host's variable *name*, or *default* where there is none.

        :meth:`prepare` has refused variables of ours that are facts.
        """
        if name not in self._variables:
            return default
        if name in self._expanding:
            raise ArtifactError(f'{name} of host {self._name!r} is defined by this lookup, which needs it. '
                                f'Write down its value instead.')
        self._expanding.add(name)
        try:
            return self._templar.copy_with_new_env(available_variables=self._variables).template(self._variables[name])
        except (AnsibleError, TemplateError) as error:
            own = own_error(error)
            if own:
                raise own from None  # "from error" would be a chain without an end
            raise ArtifactError(f'{name} of host {self._name!r} cannot be evaluated: {shown(last_line(error), 200)}. '
                                f'Correct it, or define what it uses.') from error
        finally:
            self._expanding.discard(name)

    @property
    def _name(self):
        return to_text(self._variables.get('inventory_hostname', 'localhost'))

    @property
    def host(self):
        """The :class:`Host` that gets the file."""
        return resolve_host(self._name, self._machine(), self.get_option('binary_map'))

    def _machine(self):
        machine = self.get_option('machine')
        if machine is None:
            facts = self._variables.get('ansible_facts') or {}
            machine = facts.get('architecture', self._variables.get('ansible_architecture'))
        return machine

    @property
    def root(self):
        """The artifact directory as an absolute path, or None where none is configured."""
        directory = self.get_option('dir')
        if self._circular:
            raise ArtifactError(f'{self._circular} of {self.host} is defined by this lookup, which needs it to find the artifact '
                                f'directory. Name the folder in k3s_artifact_dir.')
        if directory is None:
            return None
        if not directory.strip():
            raise ArtifactError(f'the artifact directory of {self.host} is an empty text. Set k3s_artifact_dir to a folder.')
        places = dict.fromkeys((self._loader.path_dwim(directory), os.path.abspath(os.path.expanduser(directory))))
        root = next((place for place in places if os.path.lexists(place)), None)
        if root is None:
            raise ArtifactError(f'the artifact directory of {self.host} does not exist: there is no {" and no ".join(places)}. '
                                f'Set k3s_artifact_dir to the folder that holds the files of the K3s release.')
        try:
            os.scandir(root).close()
        except OSError as error:
            reason = 'is not a directory' if error.errno == errno.ENOTDIR else describe_os_error(root, error)
            raise ArtifactError(f'the artifact directory {root} of {self.host} {reason}. Set k3s_artifact_dir to the '
                                f'folder that holds the files of the K3s release.') from error
        return root

    # --- what the terms return

    def _get_name(self):
        return [self.host.binary]

    def _get_arch(self):
        return [self.host.arch]

    def _get_binary(self):
        return [self.binary().source]

    def _get_sha256(self):
        return [self.binary().sha256]

    def _get_images(self):
        return [self.archive(path).source for path in self.archives()]

    def _get_script(self):
        scripts = (os.path.join(place, 'k3s-install.sh') for place in self._places())
        return [path for path in scripts if os.path.isfile(path)][:1]

    def _get_directory(self):
        host, root = self.host, self.root
        if root is None:
            raise ArtifactError(f'the folder for {host} cannot be told without an artifact directory. Set k3s_artifact_dir.')
        folder = next((path for path in (os.path.join(root, name) for name in folders(host)) if os.path.isdir(path)), None)
        if folder is None:
            raise ArtifactError(f'{root} has no folder for {host}. Make {root}/{host.arch} and put the binary (as k3s), the '
                                f'image archives and k3s-install.sh for {host.arch} into it.')
        names = (K3S_ANSIBLE_NAME.get(host.machine, K3S_ANSIBLE_NAME_OF_ALL_OTHERS), 'k3s')
        path = next((path for path in (os.path.join(folder, name) for name in names) if os.path.lexists(path)), None)
        if path is None:
            raise ArtifactError(f'{folder} does not serve {host}: k3s-ansible looks there for {" and then ".join(names)}. '
                                f'Rename or link the binary of the release ({host.binary}) to k3s in it.')
        try:
            verified_binary(path, host, self._verify)
        except ArtifactError as error:
            raise ArtifactError(f'{folder} does not serve {host}: {path} {error}. {self._advice(host, (path, error))}') from error
        if not os.path.exists(os.path.join(folder, 'k3s-install.sh')):
            display.warning(f'{folder} holds no k3s-install.sh: k3s-ansible will try to download it. '
                            f'Put the install script of the K3s release there.')
        return [folder]

    # --- what the action asks for

    def binary(self, named=None):
        """Return the verified binary of the host as an :class:`Artifact`.

        *named* is the file that a task asks for: it is taken if it is right for the host, else the right one beside it,
        else the one in the artifact directory.
        """
        host = self.host
        refused, roots = {}, []
        if named is not None:
            named = os.path.abspath(named)
            roots.append(os.path.dirname(named))
            if os.path.lexists(named):
                try:
                    return verified_binary(named, host, self._verify)
                except ArtifactError as error:
                    refused[named] = error
        if named is None or self.root is not None:
            roots.append(self.root)
        for root in dict.fromkeys(roots):
            path = self._first_candidate(host, root)
            if path is None or path in refused:
                continue
            try:
                if host.mapped and escapes(root or path[:-len(host.binary)], path):
                    raise ArtifactError('is a link that leaves the artifact directory, which k3s_binary_map may not')
                return verified_binary(path, host, self._verify)
            except ArtifactError as error:
                refused[path] = error
        raise self._no_binary(host, refused, roots)

    def archives(self):
        """Return the paths of the image archives that the host gets, one for each archive, sorted by name."""
        return choose_archives([(place, self._names_in(place)) for place in self._places()], self.host.archive_arch)

    def knows_machine(self):
        """Tell whether a variable or a fact says what the host calls itself."""
        return self._machine() is not None

    def binary_names(self):
        """Return the file names under which a task may ask for a K3s binary."""
        return BINARY_NAMES | {os.path.basename(name) for name in self.get_option('binary_map').values()}

    def is_elf_executable(self, path):
        try:
            with opened(path) as (file, _status):
                return parse_elf(file.read(64)).type in ELF_EXECUTABLE_TYPES
        except ArtifactError:
            return False

    def elf_arch(self, head):
        """Return the arch of the program that starts with the bytes *head*, None where that is no known one."""
        try:
            return parse_elf(head).arch
        except ArtifactError:
            return None

    def arch_of(self, machine):
        """Return the arch of what a node answered to `uname -m`, None for one that gets no K3s binary."""
        try:
            return resolve_host(self._name, machine, self.get_option('binary_map')).arch
        except ArtifactError:
            return None

    def refuses_archive(self, path, patterns=()):
        """Return why the image archive *path* is not for the host, or None if it is.

        *patterns* are the globs of a loop that hands over more archives: of several compressions it gets one.
        """
        host, (folder, name) = self.host, os.path.split(path)
        arch = split_archive(name)[2]
        if arch not in (None, host.archive_arch):
            return f'{name} is for {arch}, {host.name} is {host.arch}'
        names = [other for other in self._names_in(folder)
                 if other == name or any(fnmatch.fnmatch(os.path.join(folder, other), pattern) for pattern in patterns)]
        chosen = choose_archives([(folder, names)], host.archive_arch)
        stem = split_archive(name)[0]
        better = next(other for other in map(os.path.basename, chosen) if split_archive(other)[0] == stem)
        return None if better == name else f'{name} is the same archive as {better}, which {host.name} gets'

    def archive(self, path):
        """Return the image archive *path* as an :class:`Artifact`, verified."""
        try:
            return verified_archive(path, self.host, self._verify)
        except ArtifactError as error:
            raise ArtifactError(f'the image archive {path} for {self.host} {error}. Replace it by that of the K3s release.') from error

    # --- candidates and messages

    def _places(self):
        """Return the folders that hold what is for the host: those of its arch, then the artifact directory itself."""
        host, root = self.host, self.root
        if root is None:
            path, relative = self._search(host)
            if path is None:
                raise self._no_binary(host, {}, [None])
            root = path[:-len(relative)]
        places = (os.path.join(root, name) for name in (*folders(host), ''))
        return [place for place in places if os.path.isdir(place)]

    def _names_in(self, folder):
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            raise ArtifactError(f'the folder {folder} of the image archives for {self.host} {describe_os_error(folder, error)}. '
                                f'Make it readable.') from error

    def _first_candidate(self, host, root):
        if root is None:
            return self._search(host)[0]
        paths = (os.path.join(root, candidate) for candidate in candidates(host))
        return next((path for path in paths if os.path.lexists(path)), None)

    def _search(self, host):
        """Look for the candidates where other lookups look for files; return the path and the candidate."""
        for candidate in candidates(host):
            path = self.find_file_in_search_path(self._variables, 'files', candidate, ignore_missing=True)
            if path is not None:
                return path, candidate
        return None, None

    def _no_binary(self, host, refused, roots):
        text = '; '.join(f'{path} {reason}' for path, reason in refused.items())
        if not refused:
            places = [root for root in roots if root is not None]
            there = '; '.join(f'in {root} {listing(root)}' for root in places if os.path.isdir(root))
            where = ' or '.join(places) or 'the files folders (no artifact directory is configured)'
            text = f'none of {", ".join(candidates(host))} is in {where}' + (f' ({there})' if there else '')
        return ArtifactError(f'no K3s binary for {host}: {text}. {self._advice(host, next(iter(refused.items()), None))}')

    @staticmethod
    def _advice(host, refused):
        if refused is None:
            return (f'Put {host.binary} of the K3s release into the artifact directory, or set k3s_artifact_dir to the folder '
                    f'that holds it.')
        if 'checksum list' in str(refused[1]):
            return f'Put sha256sum-{host.arch}.txt of the same K3s release beside it.'
        return f'Replace it by {host.binary} of the K3s release, or put that into the folder {host.arch}/ of the artifact directory.'
