# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide which file of a K3s release belongs to a host, and verify it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_artifact
author: k3s-artifact contributors (@k3s-artifact)
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
    Where none of them exists, a file that is called like a K3s binary with its version (C(k3s-v1.31.4+k3s1-arm64),
    C(k3s-arm64-v1.31.4+k3s1)) is taken if it is the only one that is right for the host.
  - >-
    The release is read from the binary itself. Where the variable C(k3s_version) is set and differs, that is an error;
    it also tells several releases in one folder apart. A binary without a K3s version in it is used with a warning
    where O(verify=auto), and is an error where O(verify=required).
  - >-
    Image archives are found in the same folders. An archive is one by what is in it, C(manifest.json) or C(index.json)
    at its top, not by its name; charts, sources and packages of other programs are left out with a warning. An archive
    whose name has the word of another architecture in it is left out, one without such a word is for every host, and of
    the same archive in several compressions one is taken (zst, then gz, then plain). Where no checksum list names it,
    the platforms of the images in it are compared with the host.
  - >-
    To look into an archive that is compressed with zstd or lz4, the program of that name is needed on the controller
    (for zstd, Python 3.14 does as well). Without it, C(k3s-airgap-images-*) is believed, and any other archive is used
    with a warning.
options:
  _terms:
    description:
      - What to return, one result after the other. Without any term, V(binary).
      - V(binary) is the absolute path of the verified binary.
      - V(name) is the file name of the release, such as C(k3s-arm64). It needs facts only, no artifact directory.
      - V(arch) is the name that K3s has for the architecture, such as C(arm64). It needs facts only.
      - V(images) is the list of absolute paths of the verified image archives for the host, zero or more.
      - V(script) is the absolute path of the verified install script C(k3s-install.sh) beside the image archives, none
        or one.
      - V(directory) is the folder of the host's architecture in the artifact directory, for C(airgap_dir) in the
        inventory of k3s-ansible. The binary that k3s-ansible picks from it is verified, and so are the image archives
        for the host and C(k3s-install.sh) in it. Where the artifact directory has SELinux packages
        (C(k3s-selinux*.rpm)) that the folder lacks, a warning says so.
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
    description:
      - How a file is verified on the controller before it is used.
      - With V(auto), the binary must be an ELF executable of the host's class, byte order and machine, and complete.
        Where a checksum list beside the file names it, the digest must match; a list that does not name it is warned
        of. The lists are C(sha256sum-<arch>.txt), C(sha256sum.txt), C(SHA256SUMS) and C(<file>.sha256), and for a
        folder of the artifact directory also C(sha256sum-<arch>.txt) above it, and C(SHA256SUMS) where that names the
        folder (C(arm64/k3s)). A renamed binary counts under its release name.
      - A list may be what C(sha256sum) or C(sha256sum --tag) prints, in UTF-8 or UTF-16, with paths, and signed in the
        clear.
      - V(required) is as V(auto), and there must be such a line (but for C(k3s-install.sh), which K3s's lists do not
        name).
      - V(signed) is as V(required), and the line must be in a C(SHA256SUMS) with a good signature of a key in
        O(keyring). Whatever is handed out must be in it, C(k3s-install.sh) too. No other list counts. The list is that
        of the artifact directory, with paths below it (C(arm64/k3s)), else one beside the file or in the folder above.
        It is signed in the clear, or by C(SHA256SUMS.asc), C(SHA256SUMS.sig) or C(SHA256SUMS.minisig) beside it. An
        expired or revoked key is refused. List and signature are checked once per run, however many hosts.
      - With V(none), nothing is verified.
    type: str
    default: auto
    choices: [auto, required, signed, none]
    vars:
      - name: k3s_artifact_verify
    env:
      - name: K3S_ARTIFACT_VERIFY
    ini:
      - section: k3s_artifact
        key: verify
  keyring:
    description:
      - With O(verify=signed), the file with the public key that signs. C(gpg --export) writes it, armored or not, or
        it is the public key of minisign. Every key in it is trusted, so keep no other in it, and get it by another way
        than the files.
      - The program C(gpgv) or C(gpg), or C(minisign), is needed on the controller. A relative path is as for O(dir).
    type: str
    vars:
      - name: k3s_artifact_keyring
    env:
      - name: K3S_ARTIFACT_KEYRING
    ini:
      - section: k3s_artifact
        key: keyring
  images:
    description:
      - Patterns for the file names of the image archives that are taken, such as C(k3s-airgap-images-*). Without it,
        all are.
      - A pattern that no file of the artifact directory matches is an error.
    type: list
    elements: str
    vars:
      - name: k3s_artifact_images
notes:
  - The variables are the user's to set. One of them that is also a fact of the host is an error, for facts win over the
    inventory; of all facts only C(architecture) is read. Use C(set_fact) without C(cacheable), or a variable.
  - A file is read once per run of Ansible, however many hosts ask for it, and looked into once.
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
    msg: >-
      {{ lookup('k3s_artifact', 'name') }}
      {{ lookup('k3s_artifact', 'sha256', dir='/srv/airgap', verify='required') }}

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

import base64
import binascii
import bz2
import contextlib
import difflib
import errno
import fcntl
import fnmatch
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ansible import constants as C
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.lookup import LookupBase
from ansible.template import Templar
from ansible.utils.display import Display
from jinja2 import TemplateError

try:
    from compression import zstd  # Python 3.14
except ImportError:
    zstd = None

display = Display()

TERMS = ('binary', 'name', 'arch', 'images', 'script', 'directory', 'sha256')
VERIFY = ('auto', 'required', 'signed', 'none')

MIB = 1 << 20
# A line of a checksum list, as sha256sum and as the programs of BSD write it.
LIST_LINE = re.compile(r'(?P<digest>[0-9a-fA-F]{64})[ \t][ \t*]?(?P<path>\S.*)|'
                       r'SHA(?:2-)?256 ?\((?P<of>.+)\) ?= ?(?P<hex>[0-9a-fA-F]{64})')
LIST_LIMIT = MIB  # bytes of a checksum list, of its signature, of a keyring
SIGNATURE_SECONDS = 60  # for checking one signature
MEMBER_LIMIT = MIB  # bytes of a file in an image archive that is read as JSON
MEMBERS_LIMIT = 100_000  # files in an image archive
LOOK_SECONDS = 120  # for looking into one image archive
LOOK_LIMIT = 64 << 30  # bytes that an image archive may unpack to
WINDOW_LIMIT = 32 * MIB  # of zstd, in K3s: MaxDecoderMemory in rancher/wharfie's pkg/tarfile


class Architecture(NamedTuple):
    """What K3s publishes for one architecture, and the ELF identity of a program for it."""

    arch: str
    machines: tuple  # every value of `uname -m` that runs it, and the aliases people give folders and archives
    binary: str | None  # file name of the release; None: K3s has no release for it
    bits: int  # ELF class: 32 or 64
    byteorder: str  # ELF data encoding: 'little' or 'big'
    elf_machine: int  # ELF e_machine


# File names: setup_verify_arch() and download_hash() of K3s's install.sh. Numbers: ELF specification, e_machine.
ARCHITECTURES = (
    Architecture('amd64', ('x86_64', 'amd64'), 'k3s', 64, 'little', 62),
    Architecture('arm64', ('aarch64', 'arm64'), 'k3s-arm64', 64, 'little', 183),
    Architecture('arm', ('armv7l', 'armv8l', 'armhf', 'arm'), 'k3s-armhf', 32, 'little', 40),
    Architecture('s390x', ('s390x',), 'k3s-s390x', 64, 'big', 22),
    Architecture('riscv64', ('riscv64',), 'k3s-riscv64', 64, 'little', 243),
    # Known machines without a release: a program for them is recognised, and one named in k3s_binary_map is verified.
    Architecture('armv6', ('armv6l', 'armv6', 'armv5tel', 'armel'), None, 32, 'little', 40),
    Architecture('386', ('i686', 'i586', 'i386', '386'), None, 32, 'little', 3),
    Architecture('ppc64le', ('ppc64le',), None, 64, 'little', 21),
    Architecture('ppc64', ('ppc64',), None, 64, 'big', 21),
    Architecture('mips64', ('mips64',), None, 64, 'big', 8),
    Architecture('mips64le', ('mips64el', 'mips64le'), None, 64, 'little', 8),
    Architecture('mips', ('mips',), None, 32, 'big', 8),
    Architecture('loong64', ('loongarch64', 'loong64'), None, 64, 'little', 258),
)
BY_MACHINE = {machine: row for row in ARCHITECTURES for machine in row.machines}
BINARY_NAMES = frozenset(
    name for row in ARCHITECTURES if row.binary for name in (row.binary, 'k3s-' + row.arch)
)

# How archives are compressed, and with which bytes that begins.
DAMAGE = (OverflowError, zlib.error, *((zstd.ZstdError,) if zstd else ()))  # what unpacking raises for a damaged file
ARCHIVE_FORMATS = {'.tar.zst': 'zstd', '.tzst': 'zstd', '.tar.gz': 'gzip', '.tgz': 'gzip', '.tar.bz2': 'bzip2',
                   '.tbz': 'bzip2', '.tar.lz4': 'lz4'}
ARCHIVE_MAGIC = {'zstd': (b'\x28\xb5\x2f\xfd', b'\x50\x2a\x4d\x18'), 'gzip': b'\x1f\x8b', 'bzip2': b'BZh',
                 'lz4': (b'\x04\x22\x4d\x18', b'\x02\x21\x4c\x18')}
# What K3s imports from its images directory, the preferred compression first.
ARCHIVE_SUFFIXES = ('.tar.zst', '.tzst', '.tar.gz', '.tgz', '.tar', '.tar.bz2', '.tbz', '.tar.lz4')
# Other compressions and containers that people keep beside them, which K3s does not import.
OTHER_SUFFIXES = ('.tar.xz', '.txz', '.tar.br', '.zip')
# A part of an archive that was split, by its ending: .aa (split), .part1, .part.aa, .001
ARCHIVE_PART = re.compile(r'(.+\.(?:tar(?:\.(?:zst|gz|bz2|lz4))?|tzst|tgz|tbz))\.'
                          r'(?:(?!bk)[a-c][a-y]|part[-_.]?(?:\d+|[a-c][a-y])|\d{2,4})', re.IGNORECASE)
# By these names K3s publishes its own archives: they are believed where they cannot be looked into.
RELEASED_ARCHIVE = 'k3s-airgap-images-'

# The words by which the names of files say for which arch they are.
ARCH_WORDS = {
    **{name: row.arch for row in ARCHITECTURES for name in (row.arch, *row.machines)},
    'x86-64': 'amd64', 'x64': 'amd64', 'arm64v8': 'arm64', 'armv7': 'arm', 'arm32v7': 'arm',
}
# "386" after a dot is part of a version.
ARCH_WORD = re.compile(r'(?<![a-z0-9])(?!(?<=\.)386)(?:{})(?![a-z0-9])'.format(
    '|'.join(re.escape(word) for word in sorted(ARCH_WORDS, key=len, reverse=True))), re.IGNORECASE)

# A K3s binary that somebody saved with its version in the name.
VERSIONED_BINARY = re.compile(r'k3s[-_.].*\d+\.\d+\.\d+.*', re.IGNORECASE)
# What people keep beside a file: what it is, its digest, its signature.
BESIDE = ('.txt', '.sha256', '.sha256sum', '.asc', '.sig', '.minisig', '.pem', '.json', '.md', '.yaml', '.yml', '.log')
NO_BINARY = (*ARCHIVE_SUFFIXES, *OTHER_SUFFIXES, *BESIDE, '.sh', '.rpm')

# A release in the name of a file, in whose tags of images - stands for +.
RELEASE_WORD = re.compile(r'(?<![\w.])v?(\d+\.\d+\.\d+(?:-(?:alpha|beta|rc)[\d.]*)?)[-+_](k3s\d+)(?!\w)')

# What K3s's policy for SELinux comes as.
SELINUX_PACKAGE = re.compile(r'(?:k3s-selinux|container-selinux|selinux-policy).*(?<!\.src)\.rpm')

# Under these names k3s-ansible looks for the binary in its airgap_dir, before it looks for plain `k3s`.
K3S_ANSIBLE_NAME = {'aarch64': 'k3s-arm64', 'armv7l': 'k3s-arm'}
K3S_ANSIBLE_NAME_OF_ALL_OTHERS = 'k3s-amd64'

# What we read besides the variables that begin with k3s_artifact_.
OTHER_SETTINGS = ('airgap_dir', 'k3s_binary_map', 'k3s_version', 'k3s_server_location')

ELF_TYPES = {1: 'a relocatable object file', 4: 'a core dump'}
ELF_EXECUTABLE_TYPES = (2, 3)  # ET_EXEC, ET_DYN (position-independent)
# Numbers: ELF specification, EI_OSABI, p_type and d_tag; ELF for the ARM architecture, e_flags.
ELF_LINUX = (0, 3)  # System V, which compilers write for Linux; GNU/Linux
ELF_SYSTEMS = {1: 'HP-UX', 2: 'NetBSD', 6: 'Solaris', 7: 'AIX', 8: 'IRIX', 9: 'FreeBSD', 12: 'OpenBSD',
               97: 'bare ARM', 255: 'no system'}
ELF_ARM = 40
PT_DYNAMIC = 2
PT_INTERP = 3
DT_SONAME = 14


class ArtifactError(AnsibleLookupError):
    """The one error that leaves this plugin: a sentence for the person who runs the playbook.

    Part of it may be what a node said or what a file is called. Ansible-core up to 2.18 evaluates the text of a result
    again when a later task uses it, so no template survives in it.
    """

    _include_cause_message = False  # ansible-core from 2.19 on would add the system's words to ours

    def __init__(self, message, kind=''):
        super().__init__(harmless(message))
        self.kind = kind  # what the advice depends on: 'list', 'version', 'platform', one of SIGNED_ADVICE, or nothing


class Host(NamedTuple):
    """The host that gets a file: its name, what it calls itself, and the release for that."""

    name: str
    machine: str
    arch: str
    binary: str
    architecture: Architecture | None  # None for a machine that only k3s_binary_map knows
    mapped: bool  # whether the binary's name is from k3s_binary_map

    def __str__(self):
        return f'host {self.name!r} (machine {self.machine}, arch {self.arch})'

    @property
    def archive_arch(self):
        """What the names of image archives call the host's arch."""
        return self.architecture.arch if self.architecture else self.arch

    @property
    def platform(self):
        """What image configurations call the host's system and arch, such as linux/arm64."""
        return 'linux/' + {'armv6': 'arm'}.get(self.archive_arch, self.archive_arch)


class Elf(NamedTuple):
    """The fields of an ELF header that tell for which machine a file is, and how long it must be at least."""

    bits: int
    byteorder: str
    type: int
    machine: int
    extent: int  # bytes up to the end of its header tables
    segments: tuple  # offset, entry size and number of the program headers
    system: int  # EI_OSABI
    entry: int
    flags: int  # of the processor

    def __str__(self):
        arch = self.arch or 'another machine'
        return f'{arch} ({self.bits}-bit, {self.byteorder}-endian, ELF machine {self.machine})'

    @property
    def arch(self):
        """K3s's name of the architecture, or None for one that the table does not hold."""
        return next((row.arch for row in ARCHITECTURES if self.runs_on(row)), None)

    def runs_on(self, other):
        return (self.bits, self.byteorder, self.machine) == (other.bits, other.byteorder, other.elf_machine)


def shown(value: object, limit: int = 60) -> str:
    """Return a value that may be hostile as a short printable text for a message, in which nothing is a template."""
    text = harmless(ascii(str(value)) if isinstance(value, str) else ascii(value))
    return text if len(text) <= limit else f'{text[:limit]}... ({len(str(value))} characters)'


def harmless(text: str) -> str:
    """Return *text* with a blank in every mark that begins a template, and control characters as escapes."""
    text = re.sub(r'\{(?=[{%#])', '{ ', text)
    return text if text.isprintable() else ''.join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


# --- settings --------------------------------------------------------------------------------------------------------


def refuse_facts(name: str, facts: Mapping) -> None:
    """Raise where *facts*, which the node *name* reports, hold a variable that is the user's to set."""
    taken = next((key for key in facts if str(key).startswith('k3s_artifact_') or key in OTHER_SETTINGS), None)
    if taken is not None:
        raise ArtifactError(f'host {name!r} has the fact {shown(taken)}, which is a setting of the controller: facts '
                            f'win over the inventory, so the node would choose what it gets. If a set_fact with '
                            f'"cacheable: true" made it, use set_fact without cacheable or a variable, and run once '
                            f'with --flush-cache.')


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
    return '. '.join(dict.fromkeys(lines[-1].rstrip('.').split('. ')))  # up to 2.17 it is there twice


# --- machine and arch ------------------------------------------------------------------------------------------------


def checked_binary_map(binary_map: object) -> Mapping:
    """Return *binary_map* if it maps machine names to file names below the artifact directory, else raise."""
    if not isinstance(binary_map, Mapping):
        raise ArtifactError(f'k3s_binary_map must map machine names to file names, it is {shown(binary_map)}. Write it '
                            f'as a mapping, for example {{"armv6l": "k3s-armv6"}}.')
    for machine, name in binary_map.items():
        if not isinstance(machine, str) or not re.fullmatch(r'\w[\w.-]*', machine, re.ASCII):
            raise ArtifactError(f'k3s_binary_map has the key {shown(machine)}, which is no machine name. Use what '
                                f'`uname -m` prints on the host.')
        if not isinstance(name, str) or not name.strip():
            raise ArtifactError(f'k3s_binary_map[{shown(machine)}] must be a file name, it is {shown(name)}. Name a '
                                f'file of the artifact directory.')
        if os.path.isabs(name) or '..' in name.split('/') or '\0' in name or name.endswith('/'):
            raise ArtifactError(f'k3s_binary_map[{shown(machine)}] is {shown(name)}, which is not a file below the '
                                f'artifact directory. Use a file name without a leading slash and without "..".')
    return binary_map


def resolve_host(name: str, machine: object, binary_map: Mapping) -> Host:
    """Return the :class:`Host` for what the node *name* calls itself.

    *machine* may be anything that a node sent. It is used as a key only: the arch and the binary's name come from
    the table or from *binary_map*, which is the user's own.
    """
    if machine is None:
        raise ArtifactError(f'host {name!r} has no fact "architecture", so its K3s binary cannot be told. Gather '
                            f'facts, or set k3s_artifact_machine to what `uname -m` prints on it.')
    if not isinstance(machine, str) or not machine:
        raise ArtifactError(f'host {name!r} reports {shown(machine)} as its machine, which is not a machine name. Set '
                            f'k3s_artifact_machine to what `uname -m` prints on it.')
    architecture = BY_MACHINE.get(machine)
    if machine in binary_map:
        machine = str(next(key for key in binary_map if key == machine))
        arch = architecture.arch if architecture and architecture.binary else machine
        return Host(name, machine, arch, binary_map[machine], architecture, True)
    if architecture is None:
        raise ArtifactError(f'host {name!r} reports the machine {shown(machine)}, which is unknown: K3s has releases '
                            f'for {release_names()}. If you have a build for it, name its file in k3s_binary_map.')
    if architecture.binary is None:
        raise ArtifactError(f'K3s has no release for the machine {machine} of host {name!r}, only for '
                            f'{release_names()}. If you have a build for it, name its file in k3s_binary_map.')
    return Host(name, machine, architecture.arch, architecture.binary, architecture, False)


def release_names() -> str:
    return ', '.join(row.arch for row in ARCHITECTURES if row.binary)


# --- ELF -------------------------------------------------------------------------------------------------------------


def parse_elf(head: bytes) -> Elf:
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
    layout = ('<' if byteorder == 'little' else '>') + ('HHIIIIIHHHHHH' if bits == 32 else 'HHIQQQIHHHHHH')
    (elf_type, machine, _version, entry, phoff, shoff, flags, _ehsize, phentsize, phnum, shentsize, shnum,
     _shstrndx) = struct.unpack_from(layout, head, 16)
    if phnum and phentsize != (32 if bits == 32 else 56):
        raise ArtifactError(f'has a damaged ELF header (program headers of {phentsize} bytes)')
    extent = max(length, phoff + phentsize * phnum, shoff + shentsize * shnum)
    return Elf(bits, byteorder, elf_type, machine, extent, (phoff, phentsize, phnum), head[7], entry, flags)


def parse_segments(elf: Elf, table: bytes) -> list[tuple]:
    """Return the segments of *elf* as (type, offset, size in the file); *table* is its program header table."""
    _offset, size, count = elf.segments
    if len(table) < size * count:
        return []
    # p_type, p_offset and p_filesz; p_flags, p_vaddr and p_paddr are skipped.
    layout = ('<' if elf.byteorder == 'little' else '>') + ('II8xI' if elf.bits == 32 else 'I4xQ16xQ')
    return [struct.unpack_from(layout, table, index * size) for index in range(count)]


def is_library(elf, segments, file):
    """Tell whether *elf* is a shared library, which nobody can start: one with a name of its own, or without an entry.

    A static program may be position-independent too, and a library for ld.so to start has an interpreter.
    """
    if elf.type != 3 or any(kind == PT_INTERP for kind, _offset, _size in segments):
        return False
    layout = ('<' if elf.byteorder == 'little' else '>') + ('II' if elf.bits == 32 else 'QQ')
    for kind, offset, size in segments:
        if kind == PT_DYNAMIC:
            file.seek(offset)
            data = file.read(min(size, 1 << 16))
            data = data[:len(data) - len(data) % struct.calcsize(layout)]
            if any(tag == DT_SONAME for tag, _value in struct.iter_unpack(layout, data)):
                return True
    return elf.entry == 0


def is_of_bsd(file, start):
    """Tell whether the interpreter whose path begins at *start* is that of a BSD, whose ELF header may name no system.

    Linux has its own in /lib and its like; FreeBSD, NetBSD and OpenBSD have /libexec/ld-elf.so.1, /libexec/ld.elf_so
    and /usr/libexec/ld.so (rtld(1) and ld.so(1) there).
    """
    file.seek(start)
    return file.read(13).startswith((b'/libexec/', b'/usr/libexec/'))


def check_elf(file, size, host):
    """Raise what the open *file* of *size* bytes is, if it is not a whole program for *host*. Reads headers only."""
    elf = parse_elf(file.read(64))
    if elf.type not in ELF_EXECUTABLE_TYPES:
        raise ArtifactError(f'is {ELF_TYPES.get(elf.type, "an ELF file of an unknown type")}, not an executable')
    if host.architecture and not elf.runs_on(host.architecture):
        wanted = host.architecture
        raise ArtifactError(f'is a binary for {elf}, not for {wanted.arch} ({wanted.bits}-bit, '
                            f'{wanted.byteorder}-endian, ELF machine {wanted.elf_machine})')
    if elf.system not in ELF_LINUX:
        raise ArtifactError(f'is a binary for {ELF_SYSTEMS.get(elf.system, f"the system {elf.system}")}, not for Linux')
    if elf.machine == ELF_ARM and elf.flags & 0x200:
        raise ArtifactError('is a binary for ARM with software floating point (armel), not for armhf')
    if elf.machine == ELF_ARM and elf.flags >> 24 not in (0, 5):
        raise ArtifactError(f'is a binary for version {elf.flags >> 24} of the ARM interface, not for version 5')
    offset, entry_size, count = elf.segments
    file.seek(min(offset, size))
    segments = parse_segments(elf, file.read(entry_size * count))
    extent = max([elf.extent, *(start + length for _kind, start, length in segments)])
    if extent > size:
        raise ArtifactError(f'is cut short: it has {size} of at least {extent} bytes')
    if any(kind == PT_INTERP and is_of_bsd(file, start) for kind, start, _length in segments):
        raise ArtifactError('is a binary for a BSD, by the interpreter that it names, not for Linux')
    if is_library(elf, segments, file):
        raise ArtifactError('is a shared library, not an executable')


def head_of(path):
    """Return the first bytes of a file, none where it cannot be read."""
    try:
        with opened(path) as (file, _status):
            return file.read(64)
    except ArtifactError:
        return b''


def describe_content(head: bytes) -> str:
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


def describe_os_error(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f'is a dangling link to {os.readlink(path)}'
    if error.errno == errno.ELOOP:
        return 'is a link that leads back to itself'
    if error.errno in (errno.EACCES, errno.EPERM):
        return 'cannot be read: permission denied'
    if error.errno == errno.ENXIO:
        return 'is a socket, not a file'
    return f'cannot be read: {error.strerror}'


def describe_kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, 'a directory'), (stat.S_ISFIFO, 'a named pipe'), (stat.S_ISSOCK, 'a socket'),
             (stat.S_ISCHR, 'a device'), (stat.S_ISBLK, 'a device'))
    return next((text for test, text in kinds if test(mode)), 'something else')


def once_per_run(path, status, what, compute):
    """Return what *compute* returns for the file *path*, which is called once per run: a value that JSON can hold.

    Ansible's processes share it through a file in the run's own temporary folder, which is locked while the first that
    asks computes it. A file that is replaced or changed in between is another file. *what* tells apart what is
    computed.
    """
    identity = (what, os.path.realpath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    name = 'k3s_artifact-' + hashlib.sha256(to_bytes(repr(identity))).hexdigest()
    try:
        shared = open(os.path.join(C.DEFAULT_LOCAL_TMP, name), 'ab+', buffering=0)
    except OSError:  # a full or read-only disk: each host computes it anew
        return compute()
    with shared:
        try:
            fcntl.flock(shared, fcntl.LOCK_EX)
        except OSError:  # a network file system without locks
            return compute()
        shared.seek(0)
        try:
            return json.loads(shared.read())
        except ValueError:  # empty, or what a process that was killed has left
            value = compute()
        with contextlib.suppress(OSError):
            shared.truncate(0)
            shared.write(to_bytes(json.dumps(value)))
        return value


def warn_once(text):
    """Show a warning once per run, on whichever process and however many hosts it comes up."""
    name = 'k3s_artifact-warned-' + hashlib.sha256(to_bytes(text)).hexdigest()
    try:
        os.close(os.open(os.path.join(C.DEFAULT_LOCAL_TMP, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except OSError:
        pass  # a full disk: shown too often is better than not at all
    display.warning(harmless(text))


class Reading(NamedTuple):
    """What one pass over a file gives."""

    sha256: str
    sha1: str  # what copy returns as "checksum"; nothing here relies on it
    version: str  # of K3s, '' where the file holds none


def reading(file, path):
    """Return the :class:`Reading` of an open file, each file read once per run."""
    return Reading(*once_per_run(path, os.fstat(file.fileno()), 'reading', lambda: read_all(file)))


def read_all(file):
    sha256, sha1, versions = hashlib.sha256(), hashlib.new('sha1', usedforsecurity=False), VersionReader()
    file.seek(0)
    for block in iter(lambda: file.read(1 << 20), b''):
        sha256.update(block)
        sha1.update(block)
        versions.feed(block)
    return Reading(sha256.hexdigest(), sha1.hexdigest(), versions.version())


class VersionReader:
    """Finds the K3s version in a Go program that is fed in blocks; memory does not grow with the program.

    K3s's build writes it into variables (`-ldflags "-X .../version.Version=v1.31.4+k3s1 ..."`, scripts/package-cli and
    scripts/build), and the linker ends each such text with a zero byte. Other texts of a Go program follow each other
    without anything in between, so a digit after "k3s1" may belong to the next. A program may name other releases too.
    So the one counts that is followed by a byte that cannot belong to it, if there are such; of several the most
    frequent, since it is in more than one variable; of those the first. Components are versions of their own
    (containerd v1.7.23-k3s2).
    """

    MARK = b'+k3s'
    BEFORE, AFTER = 48, 24  # bytes of a version around its mark, at most
    VERSION = re.compile(rb'v[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}(?:-(?:alpha|beta|rc)[.0-9]{0,8})?\Z')
    BUILD = re.compile(rb'\+k3s(?:[0-9]{1,4}|-[0-9a-f]{8})')

    def __init__(self):
        self.window, self.next = b'', 0  # the last bytes, and where in them a mark is looked for next
        self.ended, self.open = {}, {}  # how often each version occurs, with and without a clear end

    def feed(self, block, last=False):
        self.window += block
        limit = len(self.window) - (0 if last else self.AFTER)
        position = self.window.find(self.MARK, self.next)
        while 0 <= position < limit:
            self.take(position)
            position = self.window.find(self.MARK, position + 1)
        self.next = max(limit, self.next)
        cut = max(0, self.next - self.BEFORE)
        self.window, self.next = self.window[cut:], self.next - cut

    def take(self, position):
        start = self.VERSION.search(self.window[max(0, position - self.BEFORE):position])
        build = self.BUILD.match(self.window, position)
        if start and build:
            after = self.window[build.end():build.end() + 1]
            found = self.open if after.isalnum() or after in (b'.', b'-', b'+', b'_') else self.ended
            version = to_text(start.group() + build.group())
            found[version] = found.get(version, 0) + 1

    def version(self):
        self.feed(b'', last=True)
        found = self.ended or self.open
        return max(found, key=found.get, default='')


# --- checksum lists --------------------------------------------------------------------------------------------------


def parse_checksum_list(data: bytes) -> dict[str, str | None]:
    """Return the digests of a checksum list by file name: the bytes of the list in, ``{name: digest}`` out.

    This is the reader for every list, of the artifact directory and of a download. The last part of a path is the name;
    two lines of one name with different digests are an error. For what is read see :func:`checksum_lines`.
    Raise :class:`ArtifactError` with the second half of a sentence where the bytes are no such list.
    """
    lines = checksum_lines(data)
    return {name: listed_digest(lines, name) for name in {path.rpartition('/')[2] for path in lines}}


def checksum_lines(data: bytes) -> dict[str, str]:
    """Return the digests of a checksum list by path, as it is written there.

    A line is what sha256sum prints (64 hexadecimal digits, a blank, a blank or an asterisk, the path; a backslash
    before all that where the path has one in it) or `sha256sum --tag`, openssl and the programs of BSD (SHA256 (path) =
    digits). Blank lines and those that begin with # do not count. The text may be UTF-8 or UTF-16, with or without a
    byte order mark, its lines end as on any system, and it may be signed in the clear: then only what is inside the
    armour counts, and nothing else may be there.
    """
    if len(data) > LIST_LIMIT:
        raise ArtifactError(f'is larger than {LIST_LIMIT // MIB} MiB, which no checksum list is', 'list')
    result: dict[str, str] = {}
    for number, line in signed_lines(decoded(data).splitlines()):
        if not line.strip() or line.startswith('#'):
            continue
        line = line.rstrip()
        match = LIST_LINE.fullmatch(line.removeprefix('\\'))
        if not match:
            raise ArtifactError(f'is not a checksum list: line {number} is {shown(line)}', 'list')
        path = (match['path'] or match['of']).removeprefix('./')
        if line.startswith('\\'):
            path = re.sub(r'\\(.)', lambda escape: {'n': '\n', 'r': '\r'}.get(escape[1], escape[1]), path)
        digest = (match['digest'] or match['hex']).lower()
        if path.endswith('/'):
            raise ArtifactError(f'is not a checksum list: line {number} names the folder {shown(path)}', 'list')
        if result.setdefault(path, digest) != digest:
            raise ArtifactError(f'names {shown(path)} twice, with different digests', 'list')
    if not result:
        raise ArtifactError('is empty', 'list')
    return result


def decoded(data: bytes) -> str:
    """Return the text of a file that may be UTF-8 or UTF-16, with or without a byte order mark."""
    if data.startswith((b'\xff\xfe', b'\xfe\xff')):
        return data.decode('utf-16', errors='replace')
    if b'\0' in data[:2]:  # the other byte of an ASCII character
        return data.decode('utf-16-be' if data[:1] == b'\0' else 'utf-16-le', errors='replace')
    return data.decode('utf-8-sig', errors='replace')


def signed_lines(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the numbers and texts of the lines that count: all, or those inside a signature (RFC 9580, 7)."""
    if '-----BEGIN PGP SIGNED MESSAGE-----' not in (line.rstrip() for line in lines[:1]):
        yield from enumerate(lines, 1)
        return
    numbered = iter(enumerate(lines[1:], 2))
    for _number, line in numbered:  # the headers, to the first blank line
        if not line.strip():
            break
    for number, line in numbered:
        if line.startswith('-----BEGIN PGP SIGNATURE-----'):
            break
        yield number, line.removeprefix('- ')
    if not any(line.startswith('-----END PGP SIGNATURE-----') for _number, line in numbered):
        raise ArtifactError('is cut short: the end of its signature is missing', 'list')
    for number, line in numbered:
        if line.strip():
            raise ArtifactError(f'is not signed to its end: line {number} stands behind the signature', 'list')


def listed_digest(lines: Mapping[str, str], name: str, folder: str = '') -> str | None:
    """Return the digest that the *lines* of a list give for the file *name*, or None.

    A line that is the name alone comes before one with a path. *folder*: the list is of the folder above, and only
    lines whose path ends in folder/name count.
    """
    path = f'{folder}/{name}' if folder else name
    if path in lines:
        return lines[path]
    found = {digest for other, digest in lines.items() if other.endswith('/' + path)}
    if len(found) > 1:
        raise ArtifactError(f'names {shown(path)} twice, with different digests', 'list')
    return next(iter(found), None)


def list_names(path: str, arch: str) -> list[str]:
    """Return the names of the checksum lists that count for the file *path*, best first."""
    return [f'sha256sum-{arch}.txt', 'sha256sum.txt', 'SHA256SUMS', os.path.basename(path) + '.sha256']


def expected_digest(path, arch, names, root=None):
    """Return the digest that a list gives for the first of *names*, that list's name, and the lists that are there.

    Where no list names any of them, digest and name are None. Lists are beside *path* (:func:`list_names`), and where
    *path* is in a folder of the artifact directory *root*, SHA256SUMS of that and the release's own list. The list of
    one file may be a bare digest.
    """
    folder = os.path.dirname(path)
    places = [(os.path.join(folder, name), '') for name in list_names(path, arch)]
    if root and os.path.dirname(folder) == os.path.normpath(root):
        places += [(os.path.join(root, 'SHA256SUMS'), os.path.basename(folder)),
                   (os.path.join(root, f'sha256sum-{arch}.txt'), '')]
    there, lists = [place for place in places if os.path.lexists(place[0])], {}
    for name in names:
        for list_path, below in there:
            list_name = os.path.basename(list_path)
            try:
                if list_path not in lists:
                    lists[list_path] = lines_of_list(list_path, path)
                digest = listed_digest(lists[list_path], name, below)
            except ArtifactError as error:
                raise ArtifactError(f'cannot be verified: the checksum list {list_name} '
                                    f'{"beside" if os.path.dirname(list_path) == folder else "above"} it {error}',
                                    'list') from error
            if digest:
                return digest, list_name, [list_name]
    return None, None, [os.path.basename(list_path) for list_path, _below in there]


def lines_of_list(list_path, path):
    """Return the digests in a list by path; that of the file *path* alone may be a bare digest."""
    with opened(list_path) as (file, _status):
        data = file.read(LIST_LIMIT + 1)
    bare = decoded(data).strip() if list_path == path + '.sha256' else ''
    return {os.path.basename(path): bare.lower()} if re.fullmatch(r'[0-9a-fA-F]{64}', bare) else checksum_lines(data)


# --- signed lists ----------------------------------------------------------------------------------------------------


SIGNED_LIST = 'SHA256SUMS'
# Where the signature of each kind of key may be, beside the list.
SIGNATURES = {'gpg': (SIGNED_LIST + '.asc', SIGNED_LIST + '.sig'), 'minisign': (SIGNED_LIST + '.minisig',)}
SIGNED_ADVICE = {
    'signature': 'Unpack the bundle again, or pack it again with airgap.k3s.bundle where it comes from.',
    'key': 'Set k3s_artifact_keyring to the file with the public key that signs: what `gpg --export` writes, or '
           'minisign.pub.',
    'program': 'Install it on the controller.',
}
IN_THE_CLEAR = b'-----BEGIN PGP SIGNED MESSAGE-----'

# What a signature is worth that is not good: gnupg's doc/DETAILS, "Format of the --status-fd output". The worst first.
SIGNATURE_FAULTS = {
    'BADSIG': 'has a bad signature: it is not the list that was signed',
    'REVKEYSIG': 'is signed with a key that is revoked',
    'EXPKEYSIG': 'is signed with a key that has expired',
    'EXPSIG': 'has a signature that has expired',
    'NO_PUBKEY': 'is signed with another key, which is not in k3s_artifact_keyring',
    'ERRSIG': 'has a signature of a kind that this gpg cannot check',
}


class Key(NamedTuple):
    """A public key, or for gpg a ring of them."""

    kind: str  # of SIGNATURES
    data: bytes  # what the program reads: a binary keyring, or the one line of a minisign key
    number: bytes = b''  # of a minisign key


def parse_key(data: bytes) -> Key:
    """Return the :class:`Key` in the bytes of a file, or raise the second half of a sentence.

    OpenPGP: RFC 9580, 4.2 (packet tags) and 6.2 (armor); keybox: gnupg's kbx/keybox-blob.c; minisign: its manual, "Key
    and signature formats".
    """
    lines = [line.strip() for line in data.splitlines() if line.strip()]
    number = minisign_number(data, 42)
    if number:
        return Key('minisign', lines[-1], number)
    if data[8:12] == b'KBXf' or data[:1] in (b'\x98', b'\x99', b'\xc6'):
        return Key('gpg', data)
    blocks = re.findall(rb'-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n([A-Za-z0-9+/=\s]+?)'
                        rb'(?:\n=[A-Za-z0-9+/]{4}\s*)?-----END PGP PUBLIC KEY BLOCK-----', data)
    with contextlib.suppress(binascii.Error):
        if blocks:
            return Key('gpg', b''.join(map(base64.b64decode, blocks)))
    secret = b'PGP PRIVATE KEY' in data or b'secret key' in data or data[:1] in (b'\x94', b'\x95', b'\xc5')
    raise ArtifactError('is a secret key, which has no place here' if secret else
                        'holds no public key of gpg or minisign', 'key')


def minisign_number(data: bytes, length: int) -> bytes:
    """Return the number of the key in minisign's file with a key or signature of *length* bytes, b'' for others."""
    lines = [line.strip() for line in data.splitlines() if line.strip()]
    try:
        line = lines[1] if lines[0].startswith(b'untrusted comment:') else lines[0]
        raw = base64.b64decode(line, validate=True)
    except (IndexError, binascii.Error):
        return b''
    return raw[2:10] if len(raw) == length and raw[:2] in (b'Ed', b'ED') else b''


def signed_digest(path, names, root, keyring):
    """Return the digest that a signed list gives for the file *path*, or raise why there is none.

    The list's paths count in full, so that a list for another folder vouches for nothing. A renamed file counts under
    the other of *names* in its folder. *keyring*: the path of the file with the key.
    """
    if not keyring:
        raise ArtifactError('cannot be verified: k3s_artifact_verify is "signed", and k3s_artifact_keyring is not set',
                            'key')
    try:
        key = parse_key(read_small(keyring))
    except ArtifactError as error:
        raise ArtifactError(f'cannot be verified: k3s_artifact_keyring {keyring} {error}', 'key') from error
    folder = os.path.dirname(path)
    tops = [os.path.normpath(root)] if root and f'{path}/'.startswith(os.path.join(os.path.normpath(root), '')) else []
    tops = list(dict.fromkeys((*tops, folder, os.path.dirname(folder))))
    top = next((top for top in tops if signature_of(top, key) is not None), None)
    if top is None:
        top = next((top for top in tops if os.path.lexists(os.path.join(top, SIGNED_LIST))), None)
        missing = (f'there is no {SIGNED_LIST} in {tops[0]}' if top is None else
                   f'{top}/{SIGNED_LIST} has no signature of {key.kind} (no {" and no ".join(SIGNATURES[key.kind])})')
        raise ArtifactError(f'is in no signed list: {missing}', 'signature')
    try:
        lines = signed_lines_of(top, signature_of(top, key), key)
    except ArtifactError as error:
        raise ArtifactError(f'cannot be verified: {top}/{SIGNED_LIST} {error}', error.kind) from error
    wanted = [os.path.relpath(os.path.join(folder, name), top) for name in (os.path.basename(path), *names)]
    digest = next((lines[name] for name in wanted if name in lines), None)
    if digest:
        return digest
    other = next((line for line in lines if line.endswith('/' + wanted[0]) or wanted[0].endswith('/' + line)), None)
    raise ArtifactError(f'is not in the signed list {top}/{SIGNED_LIST}' + (
        f', which is for another folder: it names {shown(other)} and not {wanted[0]}' if other else ''), 'signature')


def signature_of(top, key):
    """Return the path of what signs the list in the folder *top*, the list itself if that is signed; None without."""
    for name in (*SIGNATURES[key.kind], SIGNED_LIST):
        path = os.path.join(top, name)
        if name != SIGNED_LIST and os.path.lexists(path):
            return path
        with contextlib.suppress(ArtifactError):
            if key.kind == 'gpg' and name == SIGNED_LIST and read_small(path).startswith(IN_THE_CLEAR):
                return path
    return None


def read_small(path):
    with opened(path) as (file, _status):
        data = file.read(LIST_LIMIT + 1)
    if len(data) > LIST_LIMIT:
        raise ArtifactError(f'is larger than {LIST_LIMIT // MIB} MiB')
    return data


def signed_lines_of(top, signature, key):
    """Return the lines of the signed list in the folder *top*, once its *signature* is good. Checked once per run."""
    try:
        signed = read_small(signature)
    except ArtifactError as error:
        raise ArtifactError(f'has the signature {os.path.basename(signature)}, which {error}', 'signature') from error
    in_the_clear = key.kind == 'gpg' and signed.startswith(IN_THE_CLEAR)
    listed = signature if in_the_clear else os.path.join(top, SIGNED_LIST)
    with opened(listed) as (_file, status):
        data = b'' if in_the_clear else read_small(listed)

    def check():
        try:
            text = checked_by_gpg(data, signed, key) if key.kind == 'gpg' else checked_by_minisign(data, signed, key)
            return {'lines': checksum_lines(text)}
        except ArtifactError as error:  # an answer like another: it is shared, too
            return {'error': str(error), 'kind': {'list': 'signature'}.get(error.kind, error.kind)}
    what = hashlib.sha256(b''.join(hashlib.sha256(part).digest() for part in (data, signed, key.data))).hexdigest()
    answer = once_per_run(listed, status, f'signed {what}', check)
    if 'error' in answer:
        raise ArtifactError(answer['error'], answer['kind'])
    return answer['lines']


def checked_by_gpg(data, signed, key):
    """Return the text that *signed*, a detached signature of *data* or a text signed in the clear, vouches for.

    The text of a list that is signed in the clear is what the program took it to be. Its exit status says nothing: it
    is 0 for a revoked key, too.
    """
    program = next(filter(None, map(shutil.which, ('gpgv', 'gpg'))), None)
    if program is None:
        raise ArtifactError('cannot be checked: neither gpgv nor gpg is installed', 'program')
    in_the_clear = signed.startswith(IN_THE_CLEAR)
    with run_folder(keyring=key.data, signature=signed, **({} if in_the_clear else {'list': data})) as folder:
        options = [] if program.endswith('gpgv') else ['--batch', '--no-tty', '--no-options', '--no-default-keyring',
                                                       '--trust-model', 'always', '--no-auto-key-retrieve']
        arguments = ['--homedir', folder, *options, '--keyring', f'{folder}/keyring', '--status-fd', '1']
        arguments += ['--output', f'{folder}/text'] if in_the_clear else []
        arguments += [*(() if program.endswith('gpgv') else ('--verify',)), f'{folder}/signature']
        done = run_checker([program, *arguments, *([] if in_the_clear else [f'{folder}/list'])], folder)
        check_status(to_text(done.stdout), in_the_clear)
        return read_small(f'{folder}/text') if in_the_clear else data


def check_status(status: str, in_the_clear: bool) -> None:
    """Raise what is wrong with a signature, by what gpg says on --status-fd: a good one is needed, and no bad one."""
    words = [line.split()[1:] + [''] for line in status.splitlines() if line.startswith('[GNUPG:] ')]
    kinds = [line[0] for line in words]
    fault = next((kind for kind in SIGNATURE_FAULTS if kind in kinds), None)
    good = re.search(r'\bGOODSIG (?:(?:KEY_CONSIDERED|NOTATION_\w+|POLICY_URL) )*VALIDSIG\b', ' '.join(kinds))
    if good and fault != 'BADSIG' and kinds.count('PLAINTEXT') == int(in_the_clear):
        return
    if fault is None:
        raise ArtifactError('has a signature that cannot be read: it is damaged, or something else', 'signature')
    number = next(line[1] for line in words if line[0] == fault)
    raise ArtifactError(f'{SIGNATURE_FAULTS[fault]} ({shown(number)[1:-1]})',
                        'key' if fault == 'NO_PUBKEY' else 'signature')


def checked_by_minisign(data, signed, key):
    """Return *data* if the minisign signature *signed* vouches for it."""
    number = minisign_number(signed, 74)
    if not number:
        raise ArtifactError('has a signature that cannot be read: it is damaged, or something else', 'signature')
    if number != key.number:
        raise ArtifactError(f'{SIGNATURE_FAULTS["NO_PUBKEY"]} ({number[::-1].hex().upper()})', 'key')
    program = shutil.which('minisign')
    if program is None:
        raise ArtifactError('cannot be checked: minisign is not installed', 'program')
    with run_folder(list=data, signature=signed) as folder:
        done = run_checker([program, '-V', '-q', '-m', f'{folder}/list', '-x', f'{folder}/signature',
                            '-P', to_text(key.data)], folder)
    if done.returncode:
        raise ArtifactError(SIGNATURE_FAULTS['BADSIG'], 'signature')
    return data


@contextlib.contextmanager
def run_folder(**files):
    """Yield a folder of our own, in the run's temporary folder, with *files* in it: what is checked is what is used."""
    try:
        with tempfile.TemporaryDirectory(prefix='k3s_artifact-', dir=C.DEFAULT_LOCAL_TMP) as folder:
            for name, data in files.items():
                with open(os.path.join(folder, name), 'wb') as file:
                    file.write(data)
            yield folder
    except OSError as error:
        raise ArtifactError(f'cannot be checked: {error.strerror} ({error.filename})', 'signature') from error


def run_checker(command, folder):
    """Run a program that checks a signature: without a terminal, an input, the user's settings, or for ever."""
    environment = {'PATH': os.environ.get('PATH', os.defpath), 'HOME': folder, 'GNUPGHOME': folder, 'LC_ALL': 'C'}
    try:
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, start_new_session=True, timeout=SIGNATURE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ArtifactError(f'cannot be checked: {os.path.basename(command[0])} took more than {SIGNATURE_SECONDS} '
                            f'seconds', 'signature') from None


# --- image archives --------------------------------------------------------------------------------------------------


class Content(NamedTuple):
    """What is in a file that has the name of an image archive."""

    kind: str  # 'images'; 'other': a tar without images; 'no tar'; 'broken'; 'window': K3s cannot unpack it; 'unknown'
    why: str  # the second half of a sentence, for all but 'images'
    platforms: tuple  # what its image configurations say, such as linux/arm64


class NotThisFormat(Exception):
    """A file is not of the format that its name says."""


def content(path):
    """Return the :class:`Content` of the archive *path*, looked into once per run."""
    with opened(path) as (file, status):
        kind, why, platforms = once_per_run(path, status, f'content {format_of(path)}',
                                            lambda: look_into(file, path, status.st_size))
        return Content(kind, why, tuple(platforms))


def look_into(file, path, size):
    """Return the :class:`Content` of the open archive *file*. The name says how it is compressed, as it does for K3s.

    Memory does not grow with the archive, and neither time nor what it unpacks to is without a limit.
    """
    head = file.read(512)
    file.seek(0)
    if not head or describe_content(head).startswith('is an HTML'):
        return Content('broken', describe_content(head), ())
    window = window_of(head) if format_of(path) == 'zstd' else 0
    if window > WINDOW_LIMIT:
        return Content('window', f'is compressed with a window of {window // MIB} MiB, and K3s unpacks one of '
                                 f'{WINDOW_LIMIT // MIB} MiB at most: compress it with zstd --long=25, or without', ())
    try:
        with unpacked(file, path, head) as stream:
            if stream is None:
                return Content('unknown', 'cannot be looked into: this controller has no program that unpacks it', ())
            clocked = Clocked(stream, time.monotonic() + LOOK_SECONDS)
            found = read_tar(clocked)
            while not clocked.seekable and clocked.read(MIB):  # what checks all that was unpacked is at its end
                pass
            return found
    except NotThisFormat as error:
        return Content('no tar', str(error), ())
    except TimeoutError:
        return Content('unknown', f'cannot be looked into: that took more than {LOOK_SECONDS} seconds', ())
    except EOFError:
        return Content('broken', f'is cut short or damaged: it cannot be unpacked to its end ({size} bytes)', ())
    except DAMAGE as error:
        return Content('broken', f'is damaged: {shown(to_text(error))}', ())
    except OSError as error:
        if error.errno is not None:
            raise
        return Content('broken', f'is damaged: {shown(to_text(error))}', ())  # as gzip and bz2 say it


def format_of(path):
    """Return how an archive is compressed, by its name; None for a plain tar."""
    return next((name for suffix, name in ARCHIVE_FORMATS.items() if path.lower().endswith(suffix)), None)


def window_of(head: bytes) -> int:
    """Return the window in bytes that the first frame of a zstd file asks for, 0 where it names none.

    RFC 8878, 3.1.1.1.2: exponent and mantissa, behind the magic number and a descriptor without "single segment".
    """
    if head[:4] != b'\x28\xb5\x2f\xfd' or len(head) < 6 or head[4] & 0x20:
        return 0
    base = 1 << 10 + (head[5] >> 3)
    return base + base // 8 * (head[5] & 7)


@contextlib.contextmanager
def unpacked(file, path, head):
    """Yield what reads the plain tar in the open archive *file*, or None where this controller has nothing for that."""
    name = format_of(path)
    if name and not head.startswith(ARCHIVE_MAGIC[name]):
        raise NotThisFormat(f'is no {name} file, whatever its name says')
    if name is None:
        yield file
    elif name == 'gzip':
        yield gzip.GzipFile(fileobj=file)
    elif name == 'bzip2':
        yield bz2.BZ2File(file)
    elif name == 'zstd' and zstd:
        yield zstd.ZstdFile(file)
    elif shutil.which(name):
        with program_output([name, '-d', '-c', '-q'], file) as stream:
            yield stream
    else:
        yield None


@contextlib.contextmanager
def program_output(command, file):
    """Yield what *command* prints for the open *file*; it has ended when this does, whatever happens."""
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # where the program begins, whatever Python has read ahead
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        timer = threading.Timer(LOOK_SECONDS + 1, process.kill)
        timer.start()
        try:
            yield process.stdout
        finally:
            timer.cancel()
            process.kill()


class Clocked:
    """Reads a stream in order, up to a point in time and a number of bytes."""

    def __init__(self, stream, deadline):
        self.stream, self.deadline, self.position = stream, deadline, 0
        self.seekable = isinstance(stream, io.BufferedReader) and stream.seekable()

    def read(self, size):
        """Return *size* bytes, fewer only at the end."""
        data = self.stream.read(size)
        if time.monotonic() > self.deadline:
            raise TimeoutError
        self.position += len(data)
        self.limit(0)
        return data

    def limit(self, size):
        if self.position + size > LOOK_LIMIT:
            raise OverflowError(f'unpacks to more than {LOOK_LIMIT >> 30} GiB')

    def skip(self, size):
        """Leave out *size* bytes; raise EOFError where there are not so many."""
        self.limit(size)
        if self.seekable:
            if self.position + size > os.fstat(self.stream.fileno()).st_size:
                raise EOFError
            self.position = self.stream.seek(self.position + size)
            return
        while size:
            block = self.read(min(size, MIB))
            if not block:
                raise EOFError
            size -= len(block)


def read_tar(stream):
    """Return the :class:`Content` of a plain tar.

    An image archive has manifest.json (docker) or index.json (OCI) at its top. Docker writes its manifest last, and the
    image configurations
    anywhere: all small JSON files that name a platform are remembered until it is known which of them count.
    """
    small, manifests, size_of_next = {}, {}, None
    for _number in range(MEMBERS_LIMIT):
        header = stream.read(512)
        if not header.strip(b'\0') and len(header) == 512 or header == b'' and manifests:
            break
        if len(header) < 512 and not (stream.seekable and stream.position < 512):
            raise EOFError  # a whole archive has a block of zeros at its end
        try:
            member = tarfile.TarInfo.frombuf(header, 'utf-8', 'surrogateescape')
        except (tarfile.HeaderError, ValueError) as error:
            if stream.position > 512:
                raise EOFError from error
            raise NotThisFormat('is no tar archive') from error
        size = member.size if size_of_next is None else size_of_next
        size_of_next = None
        if size < 0:
            raise EOFError
        name = member.name.removeprefix('./')
        data = b''
        if size <= MEMBER_LIMIT and (member.isreg() or member.type == tarfile.XHDTYPE):
            data = stream.read(size)
            if len(data) < size:
                raise EOFError
        if member.type == tarfile.XHDTYPE:
            found = re.search(rb'\d+ size=(\d{1,18})\n', data)
            size_of_next = int(found[1]) if found else None
        elif name in ('manifest.json', 'index.json'):
            manifests[name] = data
        elif data.startswith(b'{'):
            platform = platform_of(parse_json(data))
            if platform:
                small[name] = platform
        padding = -size % 512
        stream.skip(padding + (0 if data else size))
    if not manifests:
        return Content('other', 'holds no image manifest (neither manifest.json nor index.json)', ())
    return Content('images', '', tuple(sorted(set(platforms(manifests, small)))))


def platforms(manifests: Mapping[str, bytes], configurations: Mapping[str, str]) -> list[str]:
    """Return the platforms of the images that an archive holds, () where it does not say.

    Of a docker archive those of the configurations that its manifest names; else all that there are, else those that
    the index
    names: an archive of one platform may still have the index of all.
    """
    manifest = parse_json(manifests.get('manifest.json', b''))
    named = [image.get('Config') for image in manifest if isinstance(image, dict)] if isinstance(manifest, list) else []
    found = [configurations[name] for name in named if isinstance(name, str) and name in configurations]
    if found or configurations:
        return found or list(configurations.values())
    index = parse_json(manifests.get('index.json', b''))
    entries = index.get('manifests') if isinstance(index, dict) else None
    return [platform for entry in (entries if isinstance(entries, list) else ())
            for platform in [platform_of(entry.get('platform') if isinstance(entry, dict) else None)] if platform]


def platform_of(value: object) -> str | None:
    """Return the platform that a parsed image configuration names, such as linux/arm64, or None."""
    words = [value.get('os'), value.get('architecture')] if isinstance(value, dict) else []
    known = [word for word in words if isinstance(word, str) and word != 'unknown']
    return '/'.join(known)[:40] if len(known) == 2 else None


def parse_json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


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
    version: str = ''  # of K3s, as the binary itself says; '' where it says none, and for other files
    kind: str = 'binary'  # 'binary', 'archive' or 'script'


def names_in_lists(path, host):
    """Return the names under which a list may have the binary *path* for *host*, best first.

    The release's own name comes first for a file that is called like a release; for any other it counts only where
    no other file has it, since that one may be of another release.
    """
    folder, name = os.path.split(path)
    if name in BINARY_NAMES:
        return host.binary, name
    released = os.path.join(folder, host.binary)
    with contextlib.suppress(OSError):
        if os.path.lexists(released) and not os.path.samefile(released, path):
            return (name,)
    return name, host.binary


def verified_binary(path, host, verify, version='', root=None, keyring=None):
    """Return the :class:`Artifact` for *path* if it is the K3s binary for *host*, else raise what it is instead.

    *version*: the release that it must be, '' for any. *root*: the artifact directory, whose lists count as well.
    *keyring*: the path of the public key, where *verify* is 'signed'.
    """
    def check(file, status, _listed):
        check_elf(file, status.st_size, host)
        return ['ELF header']
    artifact = verified_file(path, host, names_in_lists(path, host), verify, check, root, keyring=keyring)
    if verify == 'none':
        return artifact
    if not artifact.version and verify != 'auto':
        raise ArtifactError(f'holds no K3s version, so it is perhaps another program, and k3s_artifact_verify is '
                            f'"{verify}"', 'version')
    if not artifact.version:
        warn_once(f'{path} holds no K3s version: perhaps it is another program. It is used, for k3s_artifact_verify is '
                  f'"auto".')
    elif version and artifact.version != version:
        raise ArtifactError(f'is K3s {artifact.version}, but k3s_version is {shown(version)}', 'version')
    return artifact


def verified_archive(path, host, verify, root=None, keyring=None):
    """Return the :class:`Artifact` for the image archive *path*, or raise what it is instead."""
    def check(file, _status, listed):
        head = file.read(64)
        if not head or describe_content(head).startswith('is an HTML'):
            raise ArtifactError(describe_content(head))
        held = content(path)
        if held.kind in ('other', 'window') or held.kind in ('broken', 'no tar') and not listed:
            raise ArtifactError(held.why)
        if held.kind == 'unknown' and not is_released_archive(path):
            warn_once(f'{path} is taken for an image archive by its name alone: it {held.why}.')
        if held.platforms and not listed and host.platform not in held.platforms:
            raise ArtifactError(f'holds images for {", ".join(held.platforms[:5])} and nothing for '
                                f'{host.platform}', 'platform')
        return ['images'] if held.kind == 'images' else []
    return verified_file(path, host, (os.path.basename(path),), verify, check, root, 'archive', keyring)


def verified_script(path, host, verify, root=None, keyring=None):
    """Return the :class:`Artifact` for the install script *path*, which K3s's own lists do not name, or raise."""
    def check(file, _status, _listed):
        head = file.read(512)
        if not head.startswith(b'#!'):
            said = describe_content(head)
            raise ArtifactError(said if not head or said.startswith(('is an HTML', 'is encrypted'))
                                else 'is not a script: it does not begin with #!')
        return []
    verify = 'auto' if verify == 'required' else verify
    return verified_file(path, host, (os.path.basename(path),), verify, check, root, 'script', keyring)


def verified_file(path, host, names, verify, check, root=None, kind='binary', keyring=None):
    with opened(path) as (file, status):
        wanted, list_name, there, verified = None, None, [], []
        if verify == 'signed':
            wanted, list_name = signed_digest(path, names, root, keyring), SIGNED_LIST
        elif verify != 'none':
            wanted, list_name, there = expected_digest(path, host.arch, names, root)
        if verify != 'none':
            verified = check(file, status, wanted is not None)
        if verify == 'required' and wanted is None:
            raise ArtifactError(f'is in no checksum list: none of {", ".join(list_names(path, host.arch))} beside it '
                                f'names '
                                f'{" or ".join(dict.fromkeys(names))}, and k3s_artifact_verify is "required"', 'list')
        if there and wanted is None and kind != 'script':
            warn_once(f'{path} is in no checksum list, though {" and ".join(there)} is there: it is not compared with '
                      f'a digest.')
        known = reading(file, path)
        if wanted is not None:
            if known.sha256 != wanted:
                raise ArtifactError(f'is not the released file: its SHA-256 is {known.sha256}, but {list_name} says '
                                    f'{wanted}', 'signature' if verify == 'signed' else '')
            verified += [list_name, 'signature'] if verify == 'signed' else [list_name]
        return Artifact(host.machine, host.arch, path, status.st_size, known.sha256, known.sha1, verified,
                        known.version if kind == 'binary' else '', kind)


# --- candidates ------------------------------------------------------------------------------------------------------


def candidates(host: Host) -> list[str]:
    """Return the paths, relative to the artifact directory, at which the binary of *host* may be, best first."""
    names = [host.binary] if host.mapped else list(dict.fromkeys((host.binary, 'k3s-' + host.arch, 'k3s')))
    return [os.path.join(folder, name) for folder in (*folders(host), '') for name in names]


def folders(host: Host) -> list[str]:
    """Return the names that the folder of the host's architecture may have: its arch, its machine, their aliases."""
    aliases = host.architecture.machines if host.architecture and host.architecture.binary else ()
    return list(dict.fromkeys((host.arch, host.machine, *aliases)))


def escapes(root: str, path: str) -> bool:
    """Tell whether *path*, with every link followed, is outside the folder *root*."""
    root = os.path.realpath(root)
    return os.path.commonpath((root, os.path.realpath(path))) != root


def other_words(name: str, host: Host) -> list[str]:
    """Return the names that the file *name* may have for *host*, in lower case, best first.

    ``k3s-v1.31.4+k3s1-amd64`` is ``k3s-v1.31.4+k3s1-arm64`` for arm64; a name without an arch has one at its end.
    """
    words = list(dict.fromkeys([*re.findall(r'\w+$', host.binary), host.arch, host.machine,
                                *(word for word, arch in ARCH_WORDS.items() if arch == host.archive_arch)]))
    match = ARCH_WORD.search(name)
    head, tail = (name[:match.start()], name[match.end():]) if match else (name + '-', '')
    # The release's own name for amd64 has no arch in it.
    without = [re.sub(r'[-_.]$', '', head) + tail] if match and host.arch == 'amd64' else []
    return [other.lower() for other in (*(head + word + tail for word in words if word in ARCH_WORDS), *without)]


def archs_in(name: str) -> tuple[str, ...]:
    """Return the archs that a file's name says it is for, () where it says none."""
    return tuple(dict.fromkeys(ARCH_WORDS[word.lower()] for word in ARCH_WORD.findall(name)))


def split_archive(name: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return what an archive's file name says: its name without suffix, the suffix, and the archs that it is for.

    () where it names none: it is for every host. ``None`` for a file that K3s does not import.
    """
    suffix = next((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), None)
    if suffix is None or name.startswith('.'):
        return None
    stem = name[:-len(suffix)]
    return stem, suffix, archs_in(stem)


def is_released_archive(path: str) -> bool:
    return os.path.basename(path).startswith(RELEASED_ARCHIVE)


def choose_archives(places: Iterable[tuple[str, Iterable[str]]], arch: str) -> list[str]:
    """Return the archives for hosts of *arch*, as paths sorted by name.

    *places* are (folder, file names) in the order of preference.
    """
    best: dict[str, list[tuple[int, int, str]]] = {}
    for rank, (folder, names) in enumerate(places):
        for name in names:
            archive = split_archive(name)
            if archive and (not archive[2] or arch in archive[2]):
                order = rank, ARCHIVE_SUFFIXES.index(archive[1]), os.path.join(folder, name)
                best.setdefault(archive[0], []).append(order)
    return [min(found)[2] for _stem, found in sorted(best.items())]


def is_versioned_binary(name: str) -> bool:
    """Tell whether a file is called like a K3s binary that somebody saved with its version (k3s-v1.31.4+k3s1-arm64)."""
    return bool(VERSIONED_BINARY.fullmatch(name)) and not name.lower().endswith(NO_BINARY)


def listing(root):
    """Say which K3s binaries are in the artifact directory, and what each is for, for a message."""
    found = []

    def unreadable(error):
        found.append(f'{os.path.relpath(error.filename, root)} {describe_os_error(error.filename, error)}')

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        if os.path.relpath(folder, root).count(os.sep):
            subfolders.clear()
        for name in sorted(name for name in names if 'k3s' in name.lower() and not name.lower().endswith(NO_BINARY)):
            path, known = os.path.join(folder, name), name in BINARY_NAMES or is_versioned_binary(name)
            try:
                with opened(path) as (file, _status):
                    what = f'is for {parse_elf(file.read(64)).arch or "another machine"}'
                what += '' if known else ', and is not looked for under this name'
            except ArtifactError as error:
                what = str(error) if known else ''
            if what:
                found.append(f'{os.path.relpath(path, root)} {what}')
    return '; '.join(found[:12]) or 'it holds no K3s binary'


# --- variables -------------------------------------------------------------------------------------------------------


# Every variable whose name begins with k3s_artifact_, k3s_bundle_ or k3s_download_, and what it is for.
KNOWN_VARIABLES = {
    'k3s_artifact_become': 'false: the playbooks stay the user who logs in',
    'k3s_artifact_dest': 'the install path on the node',
    'k3s_artifact_dir': 'the artifact directory on the controller',
    'k3s_artifact_data_dir': "K3s's data directory on the node",
    'k3s_artifact_downgrade': 'true: an older K3s may replace a newer one',
    'k3s_artifact_hosts': 'the hosts that the playbooks are for',
    'k3s_artifact_images': 'globs that narrow which image archives are taken',
    'k3s_artifact_images_dest': 'the images directory on the node',
    'k3s_artifact_keep_going': 'true: put in place what can be, host by host',
    'k3s_artifact_keep_previous': 'true: the binary that is replaced stays beside the new one',
    'k3s_artifact_keyring': 'the public key of a signed checksum list',
    'k3s_artifact_machine': 'what the node calls itself',
    'k3s_artifact_probe': 'false: the new binary is not tried on the node',
    'k3s_artifact_prune': 'true: image archives that are no longer needed are removed from the nodes',
    'k3s_artifact_rate': 'bytes in a second for each transfer over the link',
    'k3s_artifact_relay_address': 'the address at which the neighbours of a host reach it',
    'k3s_artifact_relay_dir': 'the folder of a relay on the node',
    'k3s_artifact_relay_port': 'the port of a relay',
    'k3s_artifact_relay_seconds': 'after how long a relay ends by itself',
    'k3s_artifact_report': 'where the report is written',
    'k3s_artifact_rpm_key': 'the public key that signed the SELinux packages',
    'k3s_artifact_scratch': 'the scratch folder of the demo',
    'k3s_artifact_sign_key': 'the key that signs a bundle',
    'k3s_artifact_sign_password': 'the password of that key',
    'k3s_artifact_site': 'hosts with the same value are neighbours behind one link',
    'k3s_artifact_site_forks': 'how many hosts of a site use its link at once',
    'k3s_artifact_url': 'the web server from which nodes fetch the artifact directory',
    'k3s_artifact_url_ca_path': 'the CA of that server, a file on the node',
    'k3s_artifact_url_headers': 'headers for that server',
    'k3s_artifact_url_only': 'true: what does not come from that server is an error',
    'k3s_artifact_url_password': 'the password for that server',
    'k3s_artifact_url_proxy': 'the proxy to that server; false: none',
    'k3s_artifact_url_username': 'the user name for that server',
    'k3s_artifact_verify': 'how files are verified on the controller',
    'k3s_bundle_download': 'false: a bundle is packed from what is there',
    'k3s_bundle_extra': 'more files for a bundle',
    'k3s_bundle_file': 'where a bundle is written',
    'k3s_download_arches': 'the architectures to download',
    'k3s_download_ca_path': 'the CA of the mirror to download from',
    'k3s_download_environment': 'environment variables of the download',
    'k3s_download_force_basic_auth': 'true: send the password unasked',
    'k3s_download_images': 'the kind of image archive to download',
    'k3s_download_install_url': 'the address of the install script',
    'k3s_download_password': 'the password for the mirror to download from',
    'k3s_download_timeout': 'seconds without a byte before a download is given up',
    'k3s_download_url': 'the mirror to download from',
    'k3s_download_use_proxy': 'false: download without the proxy of the environment',
    'k3s_download_username': 'the user name for the mirror to download from',
}


def misspelt(variables: Iterable) -> list[tuple[str, str]]:
    """Return (name, the known name that it resembles or '') of what is called like ours and is not ours."""
    names = sorted(name for name in variables if isinstance(name, str) and name not in KNOWN_VARIABLES
                   and name.startswith(('k3s_artifact_', 'k3s_bundle_', 'k3s_download_')))
    return [(name, next(iter(difflib.get_close_matches(name[:80], KNOWN_VARIABLES, 1)), '')) for name in names]


def templar_for(variables, templar, loader):
    """Return a templar with the *variables* of a host. Where ``copy_with_new_env`` is gone, it is a new one."""
    if hasattr(templar, 'copy_with_new_env'):
        return templar.copy_with_new_env(available_variables=variables)
    return Templar(loader, variables)


class LookupModule(LookupBase):
    """The lookup, and what the action plugin beside it asks for.

    Members for the action; everything answers for the host whose variables were given to the first:

    - prepare(variables, **options): take the variables of a host; returns self
    - host: the :class:`Host`; knows_machine(): whether a variable or a fact says what it calls itself
    - setting(name, default): the expanded value of a variable of ours
    - root, keyring: the artifact directory and the public key, as absolute paths, or None
    - is_binary_name(name): whether a task may ask for a K3s binary under this file name
    - binary(named): the verified binary as an :class:`Artifact`
    - archives(), archive(path): the verified image archives of the host; one of them
    - is_archive(path), refuses_archive(path, patterns): whether a file is an image archive; why the host does not get
      it
    - left_out(): what lies in the folders like an archive and is none, as (name, the second half of a sentence)
    - script(path): the install script as an :class:`Artifact`, or None
    - is_elf_executable(path), elf_arch(head), arch_of(machine): what a file, its first bytes or an answer of `uname -m`
      is
    """

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
        """Take the variables of a host and the options of a call; everything else answers for that host."""
        self._variables = {} if variables is None else variables
        self._circular = self._found = None
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
            raise ArtifactError(f'host {self._name!r} asks k3s_artifact with the option {shown(unknown[0])}, which it '
                                f'does not know. Its options are dir, machine, binary_map, verify, keyring and '
                                f'images.')
        for option, what, advice in (('dir', 'artifact directory', 'k3s_artifact_dir to a folder'),
                                     ('keyring', 'keyring', 'k3s_artifact_keyring to a file')):
            if isinstance(result.get(option), (Mapping, list, tuple)) or '\0' in str(result.get(option)):
                raise ArtifactError(f'the {what} of host {self._name!r} is {shown(result[option])}, which is no path. '
                                    f'Set {advice}.')
        if 'binary_map' in result:
            try:
                checked_binary_map(result['binary_map'])
            except ArtifactError as error:
                raise ArtifactError(f'host {self._name!r}: {error}') from None
        if result.get('verify', 'auto') not in VERIFY:
            raise ArtifactError(f'k3s_artifact_verify of host {self._name!r} is {shown(result["verify"])}. Use one of '
                                f'{", ".join(VERIFY)}.')
        result['images'] = self._checked_globs(result.get('images'))
        machine = result.get('machine')
        if 'machine' in result and (not isinstance(machine, str) or not machine):
            resolve_host(self._name, machine or '', {})
        return result

    def _checked_globs(self, globs):
        globs = globs.split(',') if isinstance(globs, str) else globs
        if globs is None:
            return None
        if not isinstance(globs, (list, tuple)) or not all(isinstance(glob, str) and glob.strip() for glob in globs):
            raise ArtifactError(f'k3s_artifact_images of host {self._name!r} is {shown(globs)}. Write a list of '
                                f'patterns for the names of files, for example ["k3s-airgap-images-*"].')
        return [glob.strip() for glob in globs]

    def setting(self, name, default=None):
        """Return the expanded value of the host's variable *name*, or *default* where there is none.

        :meth:`prepare` has refused variables of ours that are facts.
        """
        if name not in self._variables:
            return default
        if name in self._expanding:
            raise ArtifactError(f'{name} of host {self._name!r} is defined by this lookup, which needs it. Write down '
                                f'its value instead.')
        self._expanding.add(name)
        try:
            return templar_for(self._variables, self._templar, self._loader).template(self._variables[name])
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
    def _whom(self):
        """The host in an error, also where nothing says what machine it is."""
        return self.host if self.knows_machine() else f'host {self._name!r}'

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
    def _version(self):
        """The release that k3s_version asks for, '' where it does not or nothing is verified."""
        version = self.setting('k3s_version') if self._verify != 'none' else ''
        version = '' if version is None else version
        if not isinstance(version, str):
            raise ArtifactError(f'k3s_version of {self.host} is {shown(version)}. Write the name of a K3s release, '
                                f'such as "v1.31.4+k3s1".')
        return version.strip()

    @property
    def root(self):
        """The artifact directory as an absolute path, or None where none is configured."""
        directory = self.get_option('dir')
        if self._circular:
            raise ArtifactError(f'{self._circular} of {self.host} is defined by this lookup, which needs it to find '
                                f'the artifact directory. Name the folder in k3s_artifact_dir.')
        if directory is None:
            return None
        if not directory.strip():
            raise ArtifactError(f'the artifact directory of {self._whom} is an empty text. Set k3s_artifact_dir to a '
                                f'folder.')
        places = dict.fromkeys((self._loader.path_dwim(directory), os.path.abspath(os.path.expanduser(directory))))
        root = next((place for place in places if os.path.lexists(place)), None)
        if root is None:
            raise ArtifactError(f'the artifact directory of {self._whom} does not exist: there is no '
                                f'{" and no ".join(places)}. Set k3s_artifact_dir to the folder that holds the files '
                                f'of the K3s release.')
        try:
            os.scandir(root).close()
        except OSError as error:
            reason = 'is not a directory' if error.errno == errno.ENOTDIR else describe_os_error(root, error)
            raise ArtifactError(f'the artifact directory {root} of {self._whom} {reason}. Set k3s_artifact_dir to the '
                                f'folder that holds the files of the K3s release.') from error
        return root

    @property
    def keyring(self):
        """The absolute path of the file with the public key that signs lists, None where none is set."""
        path = self.get_option('keyring')
        if not path:
            return None
        places = (self._loader.path_dwim(path), os.path.abspath(os.path.expanduser(path)))
        return next((place for place in places if os.path.lexists(place)), places[0])

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
        return [archive.source for archive in self.archives()]

    def _get_script(self):
        script = self.script()
        return [script.source] if script else []

    def _get_directory(self):
        host, root = self.host, self.root
        if root is None:
            raise ArtifactError(f'the folder for {host} cannot be told without an artifact directory. Set '
                                f'k3s_artifact_dir.')
        places = (os.path.join(root, name) for name in folders(host))
        folder = next((path for path in places if self._is_folder(path)), None)
        if folder is None:
            raise ArtifactError(f'{root} has no folder for {host}. Make {root}/{host.arch} and put the binary (as '
                                f'k3s), the image archives and k3s-install.sh for {host.arch} into it.')
        names = (K3S_ANSIBLE_NAME.get(host.machine, K3S_ANSIBLE_NAME_OF_ALL_OTHERS), 'k3s')
        path = next((path for path in (os.path.join(folder, name) for name in names) if os.path.lexists(path)), None)
        if path is None:
            raise ArtifactError(f'{folder} does not serve {host}: k3s-ansible looks there for '
                                f'{" and then ".join(names)}. Rename or link the binary of the release ({host.binary}) '
                                f'to k3s in it.')
        version = self._version
        try:
            self._verified(path, root, version)
        except ArtifactError as error:
            raise ArtifactError(f'{folder} does not serve {host}: {path} {error}. '
                                f'{self._advice(host, (path, error))}') from error
        for name in self._names_in(folder) if self._verify != 'none' else ():  # what k3s-ansible copies from it, too
            path = os.path.join(folder, name)
            if split_archive(name) and (self._verify == 'signed' or self.refuses_archive(path) is None):
                self.archive(path)
            if name == 'k3s-install.sh':
                self.script(path)
        if not os.path.exists(os.path.join(folder, 'k3s-install.sh')):
            display.warning(f'{folder} holds no k3s-install.sh: k3s-ansible will try to download it. Put the install '
                            f'script of the K3s release there.')
        lacking = [name for name in self._names_in(root)
                   if SELINUX_PACKAGE.fullmatch(name) and not os.path.exists(os.path.join(folder, name))]
        if lacking:
            warn_once(f'{root} has {", ".join(lacking)}, and {folder} has not: k3s-ansible takes SELinux packages from '
                      f'there only. Link or copy them into it.')
        return [folder]

    # --- what the action asks for

    def binary(self, named=None):
        """Return the verified binary of the host as an :class:`Artifact`.

        *named* is the file that a task asks for: it is taken if it is right for the host, else the right one beside it,
        else the one in the artifact directory.
        """
        host, version, refused, empty = self.host, self._version, {}, []
        for path, root in self._tries(host, named):
            if path is None:
                empty.append(root)
            elif path not in refused:
                try:
                    if host.mapped and path != named and escapes(root, path):
                        raise ArtifactError('is a link that leaves the artifact directory, which k3s_binary_map may '
                                            'not')
                    artifact = self._verified(path, root, version)
                    if named in refused and self.elf_arch(head_of(named)) == host.arch:
                        warn_once(f'{named} {refused[named]}: {path} takes its place.')
                    return artifact
                except ArtifactError as error:
                    refused[path] = error
        if self.root in empty and not host.mapped:
            artifact = self._versioned_binary(version, refused)
            if artifact:
                return artifact
        raise self._no_binary(host, refused, list(dict.fromkeys(empty)))

    def _tries(self, host, named):
        """Yield (path, folder) of what may be the binary of *host*, best first; (None, folder) where none is."""
        if named is not None:
            named = os.path.abspath(named)
            beside, name = os.path.split(named)
            if os.path.lexists(named):
                yield named, beside
            names = self._names_in(beside) if os.path.isdir(beside) else ()
            siblings = {other.lower(): other for other in reversed(names)}
            same = [os.path.join(beside, siblings[word]) for word in other_words(name, host) if word in siblings]
            if name in BINARY_NAMES:
                yield self._first_candidate(host, beside)
            yield from ((path, beside) for path in same)
            if name not in BINARY_NAMES:
                yield self._first_candidate(host, beside)
        if named is None or self.root is not None:
            yield self._first_candidate(host, self.root)

    def _verified(self, path, root, version):
        return verified_binary(path, self.host, self._verify, version, root, self.keyring)

    def _versioned_binary(self, version, refused):
        """Return the one file with a version in its name that is right, or None; add the others to *refused*."""
        right = {}
        for folder in self._places():
            names = []
            with contextlib.suppress(ArtifactError):  # a folder that cannot be read is in the listing
                names = [name for name in self._names_in(folder) if is_versioned_binary(name)
                         and (self._verify != 'none' or self._is_for_host(name))]
            for path in (os.path.join(folder, name) for name in names):
                try:
                    artifact = self._verified(path, self.root, version)
                    right.setdefault(artifact.sha256, artifact)
                except ArtifactError as error:
                    refused[path] = error
        if len(right) > 1:
            several = ', '.join(f'{found.source} ({found.version or "without a version"})' for found in right.values())
            raise ArtifactError(f'several files are a K3s binary for {self.host}: {several}. Set k3s_version to the '
                                f'release that you want, or rename the right one to {self.host.binary}.')
        return next(iter(right.values()), None)

    def archives(self):
        """Return the verified image archives that the host gets, one for each archive, sorted by name."""
        offered, left_out = self._offered()
        for name, why in left_out:
            warn_once(f'{name} is left out of the image archives: it {why}.')
        return [self.archive(path) for path in choose_archives(offered, self.host.archive_arch)]

    def left_out(self):
        """Return (path, why) of what lies in the folders like an image archive of the host and is none.

        What is for another arch, is there in a better compression too, or does not match k3s_artifact_images is not
        among them.
        """
        return self._offered()[1]

    def _offered(self):
        """Return the image archives that are in the folders, as (folder, names), and what :meth:`left_out` returns."""
        if self._found is None:
            offered, left_out, globs = [], [], self.get_option('images')
            for folder in self._places():
                names, images = self._names_in(folder), []
                for name in names:
                    archive, path = split_archive(name), os.path.join(folder, name)
                    part = ARCHIVE_PART.fullmatch(name)
                    if not self._is_for_host(name) or globs and not any(fnmatch.fnmatch(name, glob) for glob in globs):
                        continue
                    if part and part[1] not in names:
                        raise self._part(path, part)
                    why = (self._other_release(name) or self._no_archive(path)) if archive else None
                    if part:
                        why = f'is a part of {part[1]}, which is there'
                    if name.lower().endswith(OTHER_SUFFIXES) or (
                            is_released_archive(name) and not (archive or part or name.lower().endswith(BESIDE))):
                        why = f'is of a kind that K3s does not import ({", ".join(ARCHIVE_SUFFIXES)})'
                    if why:
                        left_out.append((path, why))
                    elif archive:
                        images.append(name)
                offered.append((folder, images))
            self._check_globs(globs or (), [folder for folder, _names in offered])
            self._found = offered, left_out
        return self._found

    def _other_release(self, name):
        """Return why one of K3s's own archives is not of the release that k3s_version asks for, by its name."""
        match = RELEASE_WORD.search(name) if is_released_archive(name) else None
        release, version = f'v{match[1]}+{match[2]}' if match else '', self._version
        if not version or release in ('', version):
            return None
        return f'is of K3s {release}, and k3s_version is {shown(version)}'

    def _is_for_host(self, name):
        """Tell whether the name of a file is without an arch, or has that of the host in it."""
        archs = archs_in(name)
        return not archs or self.host.archive_arch in archs

    def _check_globs(self, globs, folders_of_host):
        """Raise where a pattern matches nothing in the folders of the host, nor in that of another arch."""
        root = folders_of_host[-1]
        for glob in globs:
            others = (os.path.join(root, name) for name in self._names_in(root))
            places = (*folders_of_host, *(place for place in others if os.path.isdir(place)))
            if not any(fnmatch.fnmatch(name, glob) for place in places for name in self._names_in(place)):
                raise ArtifactError(f'k3s_artifact_images of {self.host} has the pattern {shown(glob)}, which no file '
                                    f'in {" or ".join(folders_of_host)} matches. Correct it, or put the archive there.')

    def is_binary_name(self, name):
        """Tell whether a task may ask for a K3s binary under the file name *name*."""
        return name in BINARY_NAMES or name in map(os.path.basename, self.get_option('binary_map').values())

    def is_archive(self, path):
        """Tell whether the file *path* is an image archive: by what is in it, else by its name."""
        name = os.path.basename(path)
        return bool(ARCHIVE_PART.fullmatch(name) or split_archive(name) and not self._no_archive(path))

    @staticmethod
    def _no_archive(path):
        """Return why the file *path*, which is called like an image archive, is none, or None."""
        if is_released_archive(path):
            return None
        try:
            held = content(path)
        except ArtifactError:
            return None  # what is wrong with it is said when it is verified
        return held.why if held.kind in ('other', 'no tar') else None

    def script(self, path=None):
        """Return the verified install script: *path*, else k3s-install.sh of the host's folders; None without one."""
        places = [path] if path else [os.path.join(place, 'k3s-install.sh') for place in self._places()]
        path = next((place for place in places if os.path.lexists(place)), path)
        if path is None:
            return None
        try:
            return verified_script(path, self.host, self._verify, self.root, self.keyring)
        except ArtifactError as error:
            advice = SIGNED_ADVICE.get(error.kind, 'Replace it by https://get.k3s.io of the same K3s release.')
            raise ArtifactError(f'the install script {path} for {self.host} {error}. {advice}') from error

    def knows_machine(self):
        """Tell whether a variable or a fact says what the host calls itself."""
        return self._machine() is not None

    def is_elf_executable(self, path):
        try:
            return parse_elf(head_of(path)).type in ELF_EXECUTABLE_TYPES
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
        host, (folder, name), globs = self.host, os.path.split(path), self.get_option('images')
        stem, _suffix, archs = split_archive(name) or (name, '', ())
        if archs and host.archive_arch not in archs:
            return f'{name} is for {" and ".join(archs)}, {host.name} is {host.arch}'
        if globs and not any(fnmatch.fnmatch(name, glob) for glob in globs):
            return f'{name} is not among k3s_artifact_images'
        why = None if ARCHIVE_PART.fullmatch(name) else self._no_archive(path)
        if why:
            warn_once(f'{name} is left out of the image archives: it {why}.')
            return f'{name} {why}, so K3s is not to import it'
        names = [other for other in self._names_in(folder)
                 if other == name or any(fnmatch.fnmatch(os.path.join(folder, other), pattern) for pattern in patterns)
                 and (split_archive(other) or ('',))[0] == stem and self.is_archive(os.path.join(folder, other))]
        better = next(map(os.path.basename, choose_archives([(folder, names)], host.archive_arch)), name)
        return None if better == name else f'{name} is the same archive as {better}, which {host.name} gets'

    def archive(self, path):
        """Return the image archive *path* as an :class:`Artifact`, verified."""
        part = ARCHIVE_PART.fullmatch(os.path.basename(path))
        if part:
            raise self._part(path, part)
        try:
            return verified_archive(path, self.host, self._verify, self.root, self.keyring)
        except ArtifactError as error:
            advice = SIGNED_ADVICE.get(error.kind, 'Replace it by that of the K3s release.')
            if error.kind == 'platform':
                advice = 'If it is for other hosts, put their architecture into its name.'
            raise ArtifactError(f'the image archive {path} for {self.host} {error}. {advice}') from error

    def _part(self, path, part):
        whole = os.path.join(os.path.dirname(path), part[1])
        return ArtifactError(f'{path} for {self.host} is a part of an image archive, which K3s does not import. Join '
                             f'the parts: cat {whole}.* > {whole}, and take them out of the folder.')

    # --- candidates and messages

    def _places(self):
        """Return the folders that hold what is for the host: those of its arch, then the artifact directory itself."""
        host, root = self.host, self.root
        if root is None:
            path, relative = self._search(host)
            if path is None:
                raise self._no_binary(host, {}, [None])
            root = path[:-len(relative)]
        places = (*(os.path.join(root, name) for name in folders(host)), os.path.normpath(root))
        return [place for place in places if self._is_folder(place)]

    def _names_in(self, folder):
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def _unreadable(self, folder, error):
        return ArtifactError(f'the folder {folder} for {self.host} {describe_os_error(folder, error)}. Make it '
                             f'readable, or take it away.')

    def _first_candidate(self, host, root):
        """Return the first candidate that exists and its folder; without *root* it is searched for. (None, root) for
        none."""
        if root is None:
            path, candidate = self._search(host)
            return path, path[:-len(candidate)] if path else None
        paths = (os.path.join(root, candidate) for candidate in candidates(host))
        return next((path for path in paths if self._is_there(path)), None), root

    def _is_folder(self, path):
        """Tell whether *path* is a folder. A link that leads nowhere, to a medium that is not mounted, is an error."""
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.islink(path):
                return False
            raise self._unreadable(path, error) from error

    def _is_there(self, path):
        """Tell whether there is something at *path*, if only a link. A folder that cannot be entered is an error."""
        folder = os.path.dirname(path)
        try:
            return self._is_folder(folder) and bool(os.lstat(path))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def _search(self, host):
        """Look for the candidates where other lookups look for files; return the path and the candidate."""
        for candidate in candidates(host):
            path = self.find_file_in_search_path(self._variables, 'files', candidate, ignore_missing=True)
            if path is not None:
                return path, candidate
        return None, None

    def _no_binary(self, host, refused, roots):
        shown_of_refused = [f'{path} {reason}' for path, reason in refused.items()]
        more = f'; and {len(refused) - 4} more' if len(refused) > 4 else ''
        text = '; '.join(shown_of_refused[:4]) + more
        if not refused:
            places = [root for root in roots if root is not None]
            there = '; '.join(f'in {root} {listing(root)}' for root in places if os.path.isdir(root))
            where = ' or '.join(places) or 'the files folders (no artifact directory is configured)'
            text = f'none of {", ".join(candidates(host))} is in {where}' + (f' ({there})' if there else '')
        return ArtifactError(f'no K3s binary for {host}: {text}. '
                             f'{self._advice(host, next(iter(refused.items()), None))}')

    @staticmethod
    def _advice(host, refused):
        if refused is None:
            return (f'Put {host.binary} of the K3s release into the artifact directory, or set k3s_artifact_dir to the '
                    f'folder that holds it.')
        if refused[1].kind in SIGNED_ADVICE:
            return SIGNED_ADVICE[refused[1].kind]
        if refused[1].kind == 'list':
            return f'Put sha256sum-{host.arch}.txt of the same K3s release beside it.'
        if refused[1].kind == 'version':
            return (f'Put {host.binary} of the release that you want in its place, or set k3s_version to the one that '
                    f'is there.')
        return (f'Replace it by {host.binary} of the K3s release, or put that into the folder {host.arch}/ of the '
                f'artifact directory.')
