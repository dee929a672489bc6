# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pack an artifact directory into one file that can be carried. The documentation is in plugins/modules/bundle.py.

Data flows one way: options, files, their digests, manifest and list, signature, tar. Whatever step a run ends in, each
file is the old one or the new one, and the next run goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import tarfile
from typing import NamedTuple

from ansible import constants as C
from ansible import context
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display

from ansible_collections.airgap.k3s.plugins.action.relay import LOOKUP
from ansible_collections.airgap.k3s.plugins.action.release import (
    MANIFEST, SIGNATURE_NAMES, check_directory, check_version, sync_folder)
from ansible_collections.airgap.k3s.plugins.action.report import is_for_people, size_text
from ansible_collections.airgap.k3s.plugins.lookup.k3s_artifact import (
    BINARY_NAMES, BY_MACHINE, LIST_LIMIT, SIGNATURES, SIGNED_ADVICE, SIGNED_LIST, ArtifactError, archs_in, escapes,
    head_of, is_released_archive, is_versioned_binary, lines_of_list, listed_digest, opened, parse_elf, parse_key,
    read_small, reading, resolve_host, run_folder, shown, signature_of, signed_digest, signed_lines_of, split_archive,
    verified_archive, verified_binary, verified_script)

ARGUMENTS = {
    'dir': {'type': 'path'}, 'path': {'type': 'path'}, 'version': {}, 'extra': {'type': 'list', 'elements': 'raw'},
    'sign_key': {}, 'password': {'no_log': True}, 'verify_only': {'type': 'bool', 'default': False},
    'keyring': {'type': 'path'},
}

MADE = {MANIFEST, SIGNED_LIST, *SIGNATURE_NAMES}
SIGN_SECONDS = 120  # for one signature; a key on a card may wait for a finger
BLOCK = 1 << 20  # bytes
TIME = 315532800  # 1980-01-01, of everything in the tar: tar warns of 0


class File(NamedTuple):
    """A file of the bundle."""

    name: str  # below the artifact directory, with / between
    path: str  # where it is now
    size: int  # bytes
    sha256: str
    mode: int


# --- what belongs to the bundle --------------------------------------------------------------------------------------


def names_below(root, follow=False):
    """Return the names of all files below *root*, sorted, and of the links to folders, if they are not to *follow*.

    What is hidden, and what the bundle makes itself, does not count, and a link to a folder that it is in adds nothing.
    """
    names, links = [], []

    def walk(at, outer):
        with os.scandir(os.path.join(root, at)) as entries:
            for entry in entries:
                name, real = at + entry.name, os.path.realpath(entry.path)
                if entry.name.startswith('.'):
                    continue
                if not os.path.isdir(entry.path):
                    names.append(name)
                elif entry.is_symlink() and not follow:
                    links.append(name)
                elif real not in outer:
                    walk(f'{name}/', {real, *outer})

    walk('', {os.path.realpath(root)})
    return sorted(set(names) - MADE), sorted(links)


def extra_files(extra):
    """Return the paths of the files that k3s_bundle_extra adds, by the name that they get."""
    result = {}
    for item in extra or ():
        item = {'path': item} if isinstance(item, str) else item
        if not isinstance(item, dict) or set(item) - {'path', 'arch'} or not isinstance(item.get('path'), str):
            raise ArtifactError(f'k3s_bundle_extra has the entry {shown(item)}. Write a path, or '
                                f'{{"path": "/a/file", "arch": "arm64"}} for the folder of an architecture.')
        path, arch = os.path.expanduser(item['path']), item.get('arch')
        if not os.path.isabs(path) or '\0' in path:
            raise ArtifactError(f'k3s_bundle_extra has the path {shown(item["path"])}: write the whole path.')
        if arch is not None and arch not in {row.arch for row in BY_MACHINE.values() if row.binary}:
            raise ArtifactError(f'k3s_bundle_extra has the architecture {shown(arch)} for {path}, for which K3s has no '
                                f'release.')
        name = (f'{arch}/' if arch else '') + os.path.basename(path)
        if name in (MADE | result.keys()) or os.path.basename(path).startswith('.'):
            raise ArtifactError(f'k3s_bundle_extra has {path}, and {shown(name)} is a name that a bundle cannot take'
                                f'{" twice" if name in result else ""}. Rename the file.')
        result[name] = path
    return result


def described(name, path):
    """Return the :class:`File` at *path*, or raise what stands in the way."""
    if not name.isprintable() or '\\' in name or name != name.strip():
        raise ArtifactError(f'{shown(name)} is a name that a list cannot hold. Rename the file.')
    try:
        with opened(path) as (file, status):
            mode = 0o755 if status.st_mode & 0o100 else 0o644
            return File(name, path, status.st_size, reading(file, path).sha256, mode)
    except ArtifactError as error:
        raise ArtifactError(f'{path} {error}. Correct it, or take it out of the folder.') from error


def arch_of(name, path):
    """Return for which arch a file is, by its folder, its name or its ELF header; None for every arch."""
    architecture = BY_MACHINE.get(name.partition('/')[0]) if '/' in name else None
    if architecture and architecture.binary:
        return architecture.arch
    base = os.path.basename(name)
    archs = archs_in(base)
    if len(archs) == 1:
        return archs[0]
    if not archs and (base in BINARY_NAMES or is_versioned_binary(base)):
        with contextlib.suppress(ArtifactError):
            return parse_elf(head_of(path)).arch
    return None


def examine(root, files, version, verify='auto', keyring=None):
    """Return (name, why) of each file that the lookup would refuse, the release of each binary by name, and the names
    that a checksum list vouches for.

    *verify*: as in the lookup; *keyring*: the path of a public key: then each file must be in the signed list.
    """
    problems, releases, listed = [], {}, set()
    for file in files:
        base, arch, path = os.path.basename(file.name), arch_of(file.name, file.path), file.path
        if not escapes(root, path):  # a link to another file of the folder is signed under the name of that one
            path = os.path.join(root, os.path.relpath(os.path.realpath(path), os.path.realpath(root)))
        machine = next((machine for machine, row in BY_MACHINE.items() if row.arch == arch), None)
        host, artifact = resolve_host('localhost', machine or 'x86_64', {}), None
        try:
            if keyring and file.sha256 != signed_digest(path, (), root, keyring):
                raise ArtifactError('is not the file that was signed: its SHA-256 differs', 'signature')
            if base in BINARY_NAMES or is_versioned_binary(base):
                artifact = verified_binary(path, host, verify, version, root, keyring)
                releases[file.name] = artifact.version
            elif base == 'k3s-install.sh':
                artifact = verified_script(path, host, verify, root, keyring)
            elif machine and is_released_archive(base) and split_archive(base):
                artifact = verified_archive(path, host, verify, root, keyring)
        except ArtifactError as error:
            problems.append((file.name, error))
        if artifact and {*artifact.verified} - {'ELF header', 'images'}:
            listed.add(file.name)
    return problems, releases, listed


def compare(root, files):
    """Return (name, why) of each file that is not what SHA256SUMS of the folder *root* says, and the names in it.

    A line with the path of another machine counts for the file at its end.
    """
    path = os.path.join(root, SIGNED_LIST)
    if not os.path.lexists(path):
        return [], set()
    try:
        lines = lines_of_list(path, path)
        digests = {file.name: listed_digest(lines, file.name) for file in files}
    except ArtifactError as error:
        return [(SIGNED_LIST, error)], set()
    problems = [(file.name, ArtifactError(f'is not the listed file: its SHA-256 is {file.sha256}, but {SIGNED_LIST} '
                                          f'says {digests[file.name]}'))
                for file in files if digests[file.name] not in (None, file.sha256)]
    problems += [(line, ArtifactError(f'is missing, and {SIGNED_LIST} names it')) for line in lines
                 if line not in digests and not any(f'/{line}'.endswith(f'/{file.name}') for file in files)]
    return problems, {name for name, digest in digests.items() if digest}


def one_release(root, releases):
    """Return the one release that the binaries are of, or raise."""
    if not releases:
        raise ArtifactError(f'{root} holds no K3s binary. Download a release into it with airgap.k3s.download.')
    if len(set(releases.values())) > 1:
        said = ', '.join(f'{name} is {version or "without a version"}' for name, version in releases.items())
        raise ArtifactError(f'{root} holds several releases: {said}. Download one of them again, or take the others '
                            f'out.')
    return next(iter(releases.values()))


def manifest_of(release, files):
    rows = [{'arch': arch_of(file.name, file.path), 'file': file.name, 'size': file.size, 'sha256': file.sha256}
            for file in files]
    return (json.dumps({'release': release, 'files': rows}, indent=1, sort_keys=True) + '\n').encode()


# --- putting things in place -----------------------------------------------------------------------------------------


def content_of(path):
    """Return the bytes of a small file, None where there is none."""
    try:
        with open(path, 'rb') as file:
            return file.read()
    except FileNotFoundError:
        return None


def put(path, blocks, mode=0o644):
    """Put *blocks* into a file, under another name until it is whole and on the disk.

    What an earlier run has left under that name is kept as far as it is the same.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'.{name}.part')
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), 'r+b') as file:
        same = True
        for block in blocks:
            if same:
                start = file.tell()
                same = file.read(len(block)) == block
                if not same:
                    file.seek(start)
                    file.truncate()
            if not same:
                file.write(block)
        file.truncate(file.tell())
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.rename(part, path)
    sync_folder(folder)


def blocks_of(file):
    """Yield the bytes of a :class:`File`; raise at the end where they are not those that were looked at."""
    digest = hashlib.sha256()
    with opened(file.path) as (data, _status):
        for block in iter(lambda: data.read(BLOCK), b''):
            digest.update(block)
            yield block
    if digest.hexdigest() != file.sha256:
        raise ArtifactError(f'{file.path} was changed while it was packed. Run it again.')


@contextlib.contextmanager
def locked(root):
    """Keep other runs out of the folder *root*."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ArtifactError(f'Another run is packing {root}. Wait until it is done.') from None
    finally:
        os.close(folder)


# --- the tar ---------------------------------------------------------------------------------------------------------


def header(top, file):
    """Return the header of a file in the tar: everything that differs from one machine to another is left out."""
    member = tarfile.TarInfo(f'{top}/{file.name}')
    member.size, member.mode, member.mtime = file.size, file.mode, TIME
    return member.tobuf(tarfile.PAX_FORMAT, 'utf-8', 'surrogateescape')


def tar_size(top, files):
    size = sum(len(header(top, file)) + file.size + -file.size % 512 for file in files) + 1024
    return size + -size % tarfile.RECORDSIZE


def tar_blocks(top, files):
    for file in files:
        yield header(top, file)
        yield from blocks_of(file)
        yield bytes(-file.size % 512)
    size = sum(len(header(top, file)) + file.size + -file.size % 512 for file in files)
    yield bytes(tar_size(top, files) - size)


def is_same(path, size, blocks):
    """Tell whether the file *path* has *size* bytes, and these."""
    try:
        with opened(path) as (file, status):
            return status.st_size == size and all(file.read(len(block)) == block for block in blocks)
    except ArtifactError:
        return False


def check_room(path, size):
    """Raise where *size* bytes do not fit beside *path*; what an earlier run has left counts."""
    folder, name = os.path.split(path)
    status = os.statvfs(folder)
    with contextlib.suppress(FileNotFoundError):
        size -= os.stat(os.path.join(folder, f'.{name}.part')).st_size
    free = status.f_bavail * status.f_frsize
    if size > free:
        raise ArtifactError(f'{path} needs {size_text(size)} more, and {folder} has {size_text(free)} free. Make room, '
                            f'or name another place in k3s_bundle_file.')


# --- the signature ---------------------------------------------------------------------------------------------------


def run_signer(command, secret, env=None):
    """Run gpg or minisign; return the completed process. The secret goes in on standard input."""
    try:
        return subprocess.run(command, input=f'{secret}\n'.encode() if secret else b'', stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, env={**os.environ, 'LC_ALL': 'C', **(env or {})},
                              start_new_session=True, timeout=SIGN_SECONDS, check=False)
    except FileNotFoundError:
        raise ArtifactError(f'{SIGNED_LIST} cannot be signed: {command[0]} is not installed. '
                            f'{SIGNED_ADVICE["program"]}') from None
    except subprocess.TimeoutExpired:
        raise ArtifactError(f'{SIGNED_LIST} cannot be signed: {command[0]} took more than {SIGN_SECONDS} seconds. '
                            f'Unlock the key, or set k3s_artifact_sign_password.') from None


def is_minisign_key(key):
    return os.path.isfile(key) and (content_of(key) or b'').startswith(b'untrusted comment:')


def sign(text, key, secret, before):
    """Return the name and the bytes of the signature of *text* by *key*.

    A signature of gpg has its time in it: *before*, the one that is there, is kept where it is a good one by this key.
    Minisign's has none here, so that it is the same each time.
    """
    if is_minisign_key(key):
        with run_folder(list=text) as folder:
            done = run_signer(['minisign', '-S', '-q', '-s', key, '-m', f'{folder}/list', '-x', f'{folder}/signature',
                               '-t', SIGNED_LIST], secret)
            signature = content_of(f'{folder}/signature')
        if done.returncode or not signature:
            raise ArtifactError(f'{SIGNED_LIST} cannot be signed with the minisign key {key}: if it has a password, '
                                f'set k3s_artifact_sign_password.')
        return SIGNATURES['minisign'][0], signature
    name = SIGNATURES['gpg'][0]
    gpg = ['gpg', '--batch', '--no-tty', '--status-fd', '1']
    with run_folder(list=text, **({'before': before} if before else {})) as folder:
        if before:
            said = run_signer([*gpg, '--verify', f'{folder}/before', f'{folder}/list'], None).stdout
            words = [line.split() for line in said.decode('utf-8', 'replace').splitlines()]
            signers = {word for line in words if line[1:2] == ['VALIDSIG'] for word in (line[2], line[-1])}
            listed = run_signer(['gpg', '--batch', '--with-colons', '--list-secret-keys', '--', key], None).stdout
            rows = [line.split(':') for line in listed.decode('utf-8', 'replace').splitlines()]
            ours = {row[9] for row in rows if row[0] == 'fpr'}
            if signers & ours and any(line[1:2] == ['GOODSIG'] for line in words):
                return name, before
        unlock = ['--pinentry-mode', 'loopback', '--passphrase-fd', '0'] if secret else []
        done = run_signer([*gpg, *unlock, '--local-user', key, '--armor', '--detach-sign', '--output',
                           f'{folder}/signature', f'{folder}/list'], secret)
        signature = content_of(f'{folder}/signature')
    if b'[GNUPG:] SIG_CREATED ' not in done.stdout or not signature:
        why = ('gpg has no such secret key that can sign' if b'INV_SGNR' in done.stdout else
               'if it has a passphrase, set k3s_artifact_sign_password or unlock it in the agent')
        raise ArtifactError(f'{SIGNED_LIST} cannot be signed with k3s_artifact_sign_key {shown(key)}: {why}.')
    return name, signature


def signed_names(root, keyring):
    """Return the names that the signed list of the folder *root* holds."""
    if not keyring:
        raise ArtifactError(f'{root} cannot be verified: k3s_artifact_verify is "signed", and k3s_artifact_keyring is '
                            f'not set. {SIGNED_ADVICE["key"]}')
    try:
        key = parse_key(read_small(keyring))
    except ArtifactError as error:
        raise ArtifactError(f'k3s_artifact_keyring {keyring} {error}. {SIGNED_ADVICE["key"]}') from error
    signature = signature_of(root, key)
    if signature is None:
        raise ArtifactError(f'{root}/{SIGNED_LIST} has no signature of {key.kind}. {SIGNED_ADVICE["signature"]}')
    try:
        return sorted(signed_lines_of(root, signature, key))
    except ArtifactError as error:
        advice = SIGNED_ADVICE.get(error.kind, SIGNED_ADVICE['signature'])
        raise ArtifactError(f'{root}/{SIGNED_LIST} {error}. {advice}') from error


# --- the action ------------------------------------------------------------------------------------------------------


class ActionModule(ActionBase):

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _valid, options = self.validate_argument_spec(ARGUMENTS)
        if options['password'] is None and 'k3s_artifact_sign_password' in (task_vars or {}):
            options['password'] = str(self._templar.template(task_vars['k3s_artifact_sign_password']))
        try:
            if options['verify_only']:
                self._verify(options, result, task_vars)
            else:
                self._bundle(options, result)
        except ArtifactError as error:
            result.update(failed=True, msg=str(error))
        except OSError as error:
            place = error.filename or options['dir']
            result.update(failed=True, msg=f'{place}: {error.strerror}. Make room or set its permissions, and run it '
                                           f'again: it goes on where it stopped.')
        return result

    @staticmethod
    def _root(options):
        check_directory(options['dir'])
        if options['version']:
            check_version(options['version'])
        return os.path.normpath(options['dir'])

    @staticmethod
    def _no_folder(root):
        return ArtifactError(f'there is no folder {root}. Set k3s_artifact_dir to the folder that holds the files '
                             f'of the K3s release, or download one into it.')

    def _bundle(self, options, result):
        root = self._root(options)
        path = os.path.normpath(options['path'] or f'{root}.tar')
        if not os.path.isabs(path) or not escapes(root, os.path.dirname(path)):
            raise ArtifactError(f'k3s_bundle_file is {shown(path)}: write a whole path outside of {root}.')
        extra = extra_files(options['extra'])
        if not os.path.isdir(root):
            if self._task.check_mode:
                result.update(changed=True, msg=f'{root} would be packed into {path} once it is there.')
                return
            raise self._no_folder(root)
        if not os.path.isdir(os.path.dirname(path)):
            raise ArtifactError(f'k3s_bundle_file is {shown(path)}, and there is no folder {os.path.dirname(path)}. '
                                f'Make it, or name another place.')
        with locked(root):
            self._pack(root, path, extra, options, result)

    def _verify(self, options, result, task_vars):
        """Look at every file of the folder, for every arch, and raise with all that cannot be used.

        It is as strict as the settings of the lookup say, and never less than by default.
        """
        lookup = lookup_loader.get(LOOKUP, loader=self._loader, templar=self._templar)
        lookup.prepare(task_vars, **({'keyring': options['keyring']} if options['keyring'] else {}))
        options['dir'] = options['dir'] or lookup.root
        root, keyring, verify = self._root(options), lookup.keyring, lookup.get_option('verify')
        if not os.path.isdir(root):
            raise self._no_folder(root)
        verify = 'signed' if keyring else 'auto' if verify == 'none' else verify
        names, _links = names_below(root, follow=True)
        names += [MANIFEST] if os.path.lexists(os.path.join(root, MANIFEST)) else []
        signed, files, problems = signed_names(root, keyring) if verify == 'signed' else (), [], {}
        for name in names:
            try:
                files.append(described(name, os.path.join(root, name)))
            except ArtifactError as error:
                problems[name] = error.__cause__ or error
        different, compared = ([], set()) if signed else compare(root, files)
        refused, releases, listed = examine(root, files, options['version'] or '', verify, keyring)
        problems.update(different)
        problems.update(refused)
        problems.update((name, ArtifactError('is missing, and the signed list names it', 'signature'))
                        for name in signed if name not in names)
        self._raise(root, sorted(problems.items()))
        release = one_release(root, releases)
        result.update(changed=False, release=release, files=names)
        result['msg'] = (f'All {len(names)} files in {root} are those that were signed' if signed else
                         f'No bad file among the {len(names)} in {root}, of which {len(listed | compared)} are in a '
                         f'checksum list that nobody vouches for') + f': K3s {release or "of no known release"}.'
        if is_for_people(C.DEFAULT_STDOUT_CALLBACK, context.CLIARGS):
            Display().display(result['msg'])

    def _pack(self, root, path, extra, options, result):
        names, links = names_below(root)
        result['warnings'] = [f'{root}/{name} is a link to a folder, which is not packed.' for name in links]
        sources = {**{name: os.path.join(root, name) for name in names}, **extra}
        files = [described(name, sources[name]) for name in sorted(sources)]
        problems, releases, _listed = examine(root, files, options['version'] or '')
        earlier = f', or take away {SIGNED_LIST}, the list of an earlier bundle, if they were replaced on purpose'
        self._raise(root, problems, earlier if os.path.lexists(os.path.join(root, SIGNED_LIST)) else '')
        release = one_release(root, releases)

        manifest = manifest_of(release, files)
        made = {MANIFEST: manifest}
        lines = {**{file.name: file.sha256 for file in files}, MANIFEST: hashlib.sha256(manifest).hexdigest()}
        made[SIGNED_LIST] = ''.join(f'{lines[name]}  {name}\n' for name in sorted(lines)).encode()
        if len(made[SIGNED_LIST]) > LIST_LIMIT:
            raise ArtifactError(f'{root} holds {len(files)} files, more than {SIGNED_LIST} can name in {LIST_LIMIT} '
                                f'bytes. Pack those that belong together (charts, packages) into one file.')
        there = {name: content_of(os.path.join(root, name)) for name in (*made, *SIGNATURE_NAMES)}
        stale = [name for name in SIGNATURE_NAMES if there[name] is not None and (
            options['sign_key'] or there[SIGNED_LIST] != made[SIGNED_LIST])]
        if options['sign_key'] and not self._task.check_mode:
            name, signature = sign(made[SIGNED_LIST], os.path.expanduser(options['sign_key']), options['password'],
                                   there[SIGNATURES['gpg'][0]] if there[SIGNED_LIST] == made[SIGNED_LIST] else None)
            made[name] = signature
        stale = [name for name in stale if name not in made]
        if self._task.check_mode and options['sign_key']:  # a signature of this list is taken for the one it would get
            stale = [name for name in stale if there[SIGNED_LIST] != made[SIGNED_LIST]]

        changed = [name for name, source in extra.items()
                   if not (os.path.isfile(os.path.join(root, name))
                           and described(name, os.path.join(root, name)).sha256 == described(name, source).sha256)]
        changed += [name for name, data in made.items() if there[name] != data] + stale
        signatures = [name for name in SIGNATURE_NAMES if name in made or there[name] is not None and name not in stale]
        if not self._task.check_mode:
            files = self._put_in_place(root, files, extra, changed, made, stale)
        result.update(path=path, release=release, files=[file.name for file in files], signature=' '.join(signatures),
                      arches=sorted({arch for arch in (arch_of(name, sources[name]) for name in releases) if arch}))
        files += [self._of_bytes(root, name, made.get(name, there.get(name)) or b'')
                  for name in (MANIFEST, SIGNED_LIST, *signatures)]
        files.sort()
        top, size = os.path.basename(root), tar_size(os.path.basename(root), files)
        same = not (self._task.check_mode and changed) and is_same(path, size, tar_blocks(top, files))
        if not same:
            check_room(path, size)
        if not same and not self._task.check_mode:
            put(path, tar_blocks(top, files))
        result.update(changed=bool(changed) or not same, size=size)
        if not signatures and not options['sign_key']:
            result['warnings'].append(f'{path} is not signed. Set k3s_artifact_sign_key to the name of a gpg key or to '
                                      f"the path of minisign's secret key, or sign {root}/{SIGNED_LIST} and pack "
                                      f"again.")
        signed = f'signed ({result["signature"]})' if signatures else 'not signed'
        verb = ' would have' if self._task.check_mode and result['changed'] else ':'
        result['msg'] = (f'{path}{verb} {size_text(size)}, {len(files)} files, K3s {release or "of no known release"} '
                         f'for {", ".join(result["arches"])}, {signed}.')

    @staticmethod
    def _raise(root, problems, otherwise=''):
        if problems:
            said = '; '.join(f'{name} {error}' for name, error in problems[:20])
            more = f'; and {len(problems) - 20} more' if len(problems) > 20 else ''
            advice = next((SIGNED_ADVICE[error.kind] for _name, error in problems if error.kind in SIGNED_ADVICE),
                          f'Download the release again{otherwise}.')
            raise ArtifactError(f'{len(problems)} of the files in {root} cannot be used: {said}{more}. {advice}')

    @staticmethod
    def _put_in_place(root, files, extra, changed, made, stale):
        """Bring the folder to what is packed: extra files first, then what describes them. Return the files as they
        are there."""
        placed = []
        for file in files:
            at = os.path.join(root, file.name)
            if file.name in extra and file.name in changed:
                os.makedirs(os.path.dirname(at), exist_ok=True)
                put(at, blocks_of(file), file.mode)
            placed.append(file._replace(path=at))
        # A list never stands beside the signature of another one, wherever the run ends.
        for name in (*stale, *(SIGNATURE_NAMES if SIGNED_LIST in changed else ())):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(root, name))
        for name, data in made.items():
            if name in changed or name in SIGNATURE_NAMES and SIGNED_LIST in changed:
                put(os.path.join(root, name), [data])
        return placed

    @staticmethod
    def _of_bytes(root, name, data):
        return File(name, os.path.join(root, name), len(data), hashlib.sha256(data).hexdigest(), 0o644)
