# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of gpg and minisign, and folders that are signed with them by these programs, as people do it."""

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import support

NAMES = ('good', 'other', 'expired', 'revoked')
THEN = ('--faked-system-time', '20200102T000000!')  # when the expired key was valid


def gpg(keys, *arguments, data=None, home='home'):
    """Run gpg with the keys in the folder *keys*; return what it prints."""
    (keys / home).mkdir(mode=0o700, exist_ok=True)
    command = ['gpg', '--homedir', str(keys / home), '--batch', '--yes', '--quiet', '--pinentry-mode', 'loopback',
               '--passphrase', '']
    return subprocess.run([*command, *map(str, arguments)], input=data, stdout=subprocess.PIPE, check=True).stdout


@contextlib.contextmanager
def keys():
    """Yield a folder with key pairs (a path as short as a socket needs it), and their public halves as files."""
    with tempfile.TemporaryDirectory(prefix='k3s-') as name:
        folder = Path(name)
        try:
            for key in NAMES:
                then = THEN if key == 'expired' else ()
                gpg(folder, *then, '--quick-generate-key', f'{key}@example.com', 'ed25519', 'sign',
                    '10d' if then else 'never')
            revocation = folder / 'home' / 'openpgp-revocs.d' / f'{fingerprint(folder, "revoked")}.rev'
            for key in NAMES:
                (folder / f'{key}.gpg').write_bytes(gpg(folder, '--export', f'{key}@example.com'))
            (folder / 'revoked.gpg').write_bytes(revoked(folder, revocation.read_bytes()))
            (folder / 'good.asc').write_bytes(gpg(folder, '--armor', '--export', 'good@example.com'))
            both = ('--export', 'other@example.com', 'good@example.com')
            (folder / 'both.gpg').write_bytes(gpg(folder, *both))
            other = gpg(folder, '--armor', '--export', 'other@example.com')
            (folder / 'both.asc').write_bytes((folder / 'good.asc').read_bytes() + other)
            gpg(folder, '--import', folder / 'good.gpg', home='importing')
            shutil.copy(folder / 'importing' / 'pubring.kbx', folder / 'good.kbx')
            (folder / 'secret.asc').write_bytes(gpg(folder, '--armor', '--export-secret-keys', 'good@example.com'))
            for key in ('minisign', 'minisign-other'):
                subprocess.run(['minisign', '-G', '-W', '-f', '-p', folder / f'{key}.pub', '-s', folder / f'{key}.key'],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
            (folder / 'minisign.line').write_text((folder / 'minisign.pub').read_text().splitlines()[1])
            yield folder
        finally:
            subprocess.run(['gpgconf', '--homedir', folder / 'home', '--kill', 'all'], check=False)


def revoked(folder, revocation):
    """Return the public key with its revocation, as gpg exports it from another keyring: its owner can still sign."""
    gpg(folder, '--import', folder / 'revoked.gpg', home='revoking')
    gpg(folder, '--import', data=revocation.replace(b':-----BEGIN', b'-----BEGIN'), home='revoking')
    return gpg(folder, '--export', home='revoking')


def fingerprint(folder, key):
    listed = gpg(folder, '--with-colons', '--list-keys', f'{key}@example.com').decode().splitlines()
    return next(line for line in listed if line.startswith('fpr')).split(':')[9]


def numbers(folder):
    """Return what gpg calls each key in its answers."""
    return {key: fingerprint(folder, key)[-16:] for key in NAMES}


def release(folder):
    """Make a release of three architectures, as airgap.k3s.download leaves it, and a SHA256SUMS; return the folder."""
    for arch, path in support.release(folder, 'amd64', 'arm64', 'arm', layout='per-arch').items():
        path.rename(folder / arch / 'k3s')
        (folder / arch / 'k3s-install.sh').write_text('#!/bin/sh\n')
    list_files(folder)
    return folder


def list_files(folder, name='SHA256SUMS'):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob('*')
                   if path.is_file() and not path.name.startswith('SHA256SUMS'))
    (folder / name).write_text(''.join(f'{support.sha256(folder / file)}  {file}\n' for file in files if file != name))


def without(folder, file):
    """Take the line of *file* out of the list."""
    path = folder / 'SHA256SUMS'
    path.write_text(''.join(line for line in path.read_text().splitlines(True) if not line.endswith(f'  {file}\n')))


def sign(folder, keys, key, output, *arguments):
    then = THEN if key == 'expired' else ()
    gpg(keys, *then, '--local-user', f'{key}@example.com', '--output', folder / output, *arguments,
        folder / 'SHA256SUMS')


def detached(folder, keys, key):
    sign(folder, keys, key, 'SHA256SUMS.asc', '--armor', '--detach-sign')


def detached_binary(folder, keys, key):
    sign(folder, keys, key, 'SHA256SUMS.sig', '--detach-sign')


def by_both(folder, keys, _key):
    sign(folder, keys, 'other', 'SHA256SUMS.asc', '--armor', '--local-user', 'good@example.com', '--detach-sign')


def message(folder, keys, key):
    """Sign with the text inside, which is no detached signature."""
    sign(folder, keys, key, 'SHA256SUMS.asc', '--armor', '--sign')


def in_the_clear_beside(folder, keys, key):
    sign(folder, keys, key, 'SHA256SUMS.asc', '--clear-sign')


def in_the_clear(folder, keys, key):
    in_the_clear_beside(folder, keys, key)
    (folder / 'SHA256SUMS.asc').rename(folder / 'SHA256SUMS')


def minisign(folder, keys, _key):
    subprocess.run(['minisign', '-S', '-m', folder / 'SHA256SUMS', '-s', keys / 'minisign.key'],
                   stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, check=True)
