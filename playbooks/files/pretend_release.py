# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make files that look like a K3s release for three architectures, for the demo: pretend_release.py DIRECTORY.

One folder for each architecture, the binary as k3s in each, as download leaves them. Each binary is a valid ELF header
for its machine and nothing more; it is never run.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from pathlib import Path

# arch, binary name, ELF class, ELF machine
ARCHITECTURES = (('amd64', 'k3s', 64, 62), ('arm64', 'k3s-arm64', 64, 183), ('arm', 'k3s-armhf', 32, 40))


def elf(bits, machine):
    """Return an ELF header of an executable for *machine*, little-endian, followed by some text."""
    ident = b'\x7fELF' + bytes([bits // 32, 1, 1]) + bytes(9)
    layout = '<HHIQQQIHHHHHH' if bits == 64 else '<HHIIIIIHHHHHH'
    header = ident + struct.pack(layout, 2, machine, 1, 0x10000, 0, 0, 0, 16 + struct.calcsize(layout), 0, 0, 0, 0, 0)
    return header + f'pretend K3s v1.31.4+k3s1 for ELF machine {machine}\n'.encode() * 1000


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return f'{hashlib.sha256(data).hexdigest()}  {path.name}\n'


def main(directory):
    for arch, name, bits, machine in ARCHITECTURES:
        folder = Path(directory) / arch
        archive = f'k3s-airgap-images-{arch}.tar.zst'
        lines = write(folder / archive, b'\x28\xb5\x2f\xfd' + f'pretend image archive for {arch}\n'.encode() * 1000)
        lines += write(folder / 'k3s', elf(bits, machine)).replace('  k3s', f'  {name}')
        (folder / f'sha256sum-{arch}.txt').write_text(lines)
        write(folder / 'k3s-install.sh', b'#!/bin/sh\necho "This is a pretend install script."\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
