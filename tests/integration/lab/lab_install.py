# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab needs installed, and how foreign binaries run: packages and binfmt handlers."""

import contextlib
import os
import subprocess
from pathlib import Path

from lab_system import LabError, require_root, run, say

PACKAGES = {
    'qemu-user-static': 'runs arm64 and armhf programs',
    'mmdebstrap': 'makes the root file systems',
    'openssh-server': 'one sshd per node',
    'openssh-client': 'ssh, sftp, ssh-keygen',
    'sshpass': 'password logins',
    'iproute2': 'the slow link',
    'e2fsprogs': 'immutable files, and a file system that loses its power',
    'xfsprogs': 'a file system that loses its power',
    'rsync': 'the benchmark of synchronize',
    'nginx': 'a mirror that downloads are tested against',
    'strace': 'traces which files the controller opens',
    'golang-go': 'programs that are built as K3s builds its own',
    'gnupg': 'signs a bundle, and checks it',
    'minisign': 'signs a bundle, and checks it',
    'gcc': 'the amd64 release binary',
    'libc6-dev': 'the amd64 release binary',
    'gcc-aarch64-linux-gnu': 'the arm64 release binary',
    'libc6-dev-arm64-cross': 'the arm64 release binary',
    'gcc-arm-linux-gnueabihf': 'the armhf release binary',
    'libc6-dev-armhf-cross': 'the armhf release binary',
}

BINFMT = Path('/proc/sys/fs/binfmt_misc')
QEMU = Path('/usr/libexec/qemu-binfmt')
HANDLER = 'k3s-artifact-lab-{}'
POLICY = Path('/usr/sbin/policy-rc.d')

# qemu's name of the machine: ELF header up to e_machine, and which bits of it count
MAGIC = {
    'aarch64': rb'\x7fELF\x02\x01\x01\x00' + rb'\x00' * 8 + rb'\x02\x00\xb7\x00',
    'arm': rb'\x7fELF\x01\x01\x01\x00' + rb'\x00' * 8 + rb'\x02\x00\x28\x00',
}
MASK = rb'\xff' * 7 + rb'\x00' + rb'\xff' * 8 + rb'\xfe\xff\xff\xff'


def install():
    """Installs the packages that are missing, after saying which, and mounts binfmt_misc."""
    require_root()
    missing = missing_packages()
    if missing:
        say(f'will apt-install {len(missing)} of {len(PACKAGES)} packages:')
        for package in missing:
            say(f'    {package:<24} {PACKAGES[package]}')
        apt('update', '-q')
        with no_new_services():
            apt('install', '-q', '-y', '--no-install-recommends', *missing)
    else:
        say(f'all {len(PACKAGES)} packages are installed')
    mount_binfmt()


def missing_packages():
    """The packages of PACKAGES that dpkg does not have, in order."""
    listed = run('dpkg-query', '-W', '-f', '${Package} ${db:Status-Status}\n', *PACKAGES, check=False).stdout
    installed = {line.split()[0] for line in listed.splitlines() if line.endswith(' installed')}
    return [package for package in PACKAGES if package not in installed]


def apt(*words):
    """Runs apt-get with its output visible."""
    environment = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    status = subprocess.call(['apt-get', '-o', 'Dpkg::Use-Pty=0', *words], env=environment, stdin=subprocess.DEVNULL)
    if status:
        raise LabError(f'`apt-get {" ".join(words)}` failed with status {status}; see its output above.')


@contextlib.contextmanager
def no_new_services():
    """Keeps a package that is being installed from starting its service (the system's own sshd)."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text('#!/bin/sh\nexit 101\n', encoding='utf-8')
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def mount_binfmt():
    """Mounts binfmt_misc, unless it is mounted."""
    if not (BINFMT / 'register').exists():
        say(f'mounting binfmt_misc on {BINFMT}')
        try:
            run('mount', '-t', 'binfmt_misc', 'binfmt_misc', BINFMT)
        except LabError as error:
            raise LabError('The kernel or container does not let us mount binfmt_misc, which runs ARM programs: '
                           f'{error}') from error


def register_handlers():
    """Makes the kernel run aarch64 and arm programs through qemu, with the programs' own set-uid bits.

    Debian's own handlers leave the C flag out, so sudo would not work on a foreign
    architecture; ours come first for as long as the lab is up.
    """
    mount_binfmt()
    unregister_handlers()
    for machine, magic in MAGIC.items():
        interpreter = QEMU / f'{machine}-binfmt-P'
        if not interpreter.exists():
            raise LabError(f'{interpreter} is missing; `lab.py install` installs it (package qemu-user-static).')
        fields = [b'', HANDLER.format(machine).encode(), b'M', b'', magic, MASK, os.fsencode(interpreter), b'OCFP']
        (BINFMT / 'register').write_bytes(b':'.join(fields))


def unregister_handlers():
    """Takes the lab's handlers back; those of the system stay as they are."""
    for machine in MAGIC:
        handler = BINFMT / HANDLER.format(machine)
        if handler.exists():
            handler.write_text('-1', encoding='ascii')
