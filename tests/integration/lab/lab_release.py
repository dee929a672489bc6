# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that look like a K3s release: real static executables, image archives, checksum lists."""

import hashlib
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

from lab_system import LabError, home, run

MEGABYTE = 1000 * 1000
COMPILERS = {'amd64': 'gcc', 'arm64': 'aarch64-linux-gnu-gcc', 'arm': 'arm-linux-gnueabihf-gcc'}
BINARIES = {'amd64': 'k3s', 'arm64': 'k3s-arm64', 'arm': 'k3s-armhf'}
LAYOUTS = ('per-arch', 'flat')
SCRIPT = 'k3s-install.sh'

SOURCE = """\
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc > 1 && (!strcmp(argv[1], "server") || !strcmp(argv[1], "agent"))) {
        for (;;)
            pause();
    }
    puts("k3s version " VERSION " (abcdef12)\\ngo version go1.22.9");
    return 0;
}
"""

SCRIPT_TEXT = """\
#!/bin/sh
# Stands in for K3s's installer: says what it was called with and changes nothing.
echo "k3s-install.sh $*"
"""


class Release(NamedTuple):
    """Where a release was put: per architecture (amd64, arm64, arm) the path of each file."""

    directory: Path
    version: str
    binaries: dict
    images: dict
    checksums: dict
    scripts: dict


def make_release(directory, layout='per-arch', version='v1.31.4+k3s1', size=65 * MEGABYTE, images_size=10 * MEGABYTE,
                 arches=tuple(BINARIES)):
    """Puts a release's files into a directory and returns a Release.

    `layout` is `per-arch` (a folder per architecture) or `flat` (everything in one).
    `size` and `images_size` are the bytes of each binary and image archive; both are
    incompressible. The files are the caller's own copies, free to be spoilt.
    """
    if layout not in LAYOUTS:
        raise LabError(f'The layout {layout} is unknown; there are {" and ".join(LAYOUTS)}.')
    directory = Path(directory)
    release = Release(directory, version, {}, {}, {}, {})
    for arch in arches:
        folder = directory / arch if layout == 'per-arch' else directory
        folder.mkdir(parents=True, exist_ok=True)
        names = release_names(arch)
        for kind, source in zip(Release._fields[2:], cached_files(arch, version, size, images_size)):
            target = folder / names[kind]
            shutil.copy2(source, target)
            getattr(release, kind)[arch] = target
    return release


def release_names(arch):
    """The release file names of an architecture."""
    return {'binaries': BINARIES[arch], 'images': f'k3s-airgap-images-{arch}.tar.zst',
            'checksums': f'sha256sum-{arch}.txt', 'scripts': SCRIPT}


def cached_files(arch, version, size, images_size):
    """The files of one architecture in the lab's cache, made if they are not there."""
    key = hashlib.sha256(f'{SOURCE}{SCRIPT_TEXT}{arch} {version} {size} {images_size}'.encode()).hexdigest()[:16]
    folder = home() / 'cache' / f'{arch}-{key}'
    names = release_names(arch)
    if not folder.exists():
        partial = folder.with_name(f'{folder.name}.{os.getpid()}')
        partial.mkdir(mode=0o755, parents=True)
        binary, images = partial / names['binaries'], partial / names['images']
        compile_binary(arch, version, size, binary)
        write_images(images, images_size)
        lines = [f'{sha256(path)}  {path.name}\n' for path in (images, binary)]
        (partial / names['checksums']).write_text(''.join(lines), encoding='ascii')
        (partial / names['scripts']).write_text(SCRIPT_TEXT, encoding='ascii')
        (partial / names['scripts']).chmod(0o755)
        partial.rename(folder)
    return [folder / names[kind] for kind in Release._fields[2:]]


def compile_binary(arch, version, size, target):
    """Compiles a static executable that knows its version, padded to `size` bytes."""
    source = target.with_name('k3s.c')
    source.write_text(SOURCE, encoding='ascii')
    run(COMPILERS[arch], '-Os', '-s', '-static', f'-DVERSION="{version}"', '-o', target, source)
    source.unlink()
    missing = size - target.stat().st_size
    if missing < 0:
        raise LabError(f'A release binary of {size} bytes is too small; {target.stat().st_size} is the least.')
    with open(target, 'ab') as binary:
        write_noise(binary, missing, target.name)
    target.chmod(0o755)


def write_images(target, size):
    """Writes an image archive: noise behind the first bytes of a zst file."""
    magic = b'\x28\xb5\x2f\xfd'
    with open(target, 'wb') as archive:
        archive.write(magic[:size])
        write_noise(archive, max(0, size - len(magic)), target.name)


def write_noise(file, length, seed):
    """Writes incompressible bytes, the same ones for the same seed."""
    source = random.Random(seed)
    while length > 0:
        length -= file.write(source.randbytes(min(length, 1 << 20)))


def sha256(path):
    """The hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for piece in iter(lambda: file.read(1 << 20), b''):
            digest.update(piece)
    return digest.hexdigest()
