# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch a K3s release, verified, into one folder per architecture. The documentation is in plugins/modules/release.py.

Data flows one way: options, architectures, checksum lists, what is missing, files that arrived, files in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import netrc
import os
import queue
import re
import shutil
import socket
import ssl
import string
import threading
import time
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit

from ansible.module_utils.urls import open_url
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.airgap.k3s.plugins.action.copy import is_read_by_people
from ansible_collections.airgap.k3s.plugins.lookup.k3s_artifact import (
    BY_MACHINE, ARCHITECTURES, SIGNATURES, SIGNED_LIST, ArtifactError, check_elf, describe_content, lines_of_list,
    opened, parse_checksum_list, reading, resolve_host, shown)

display = Display()

BY_ARCH = {row.arch: row for row in ARCHITECTURES if row.binary}
ARCHES = ', '.join(BY_ARCH)
ARCHIVES = {'zst': '.tar.zst', 'gz': '.tar.gz', 'plain': '.tar', 'none': None}
SCRIPT = 'k3s-install.sh'
# What a bundle has besides SHA256SUMS.
MANIFEST = 'manifest.json'
SIGNATURE_NAMES = [name for names in SIGNATURES.values() for name in names]

ARGUMENTS = {
    'version': {}, 'dir': {'type': 'path'}, 'arches': {'type': 'list', 'elements': 'str'}, 'images': {'default': 'zst'},
    'url': {'default': 'https://github.com/k3s-io/k3s/releases/download'},
    'install_url': {'default': 'https://get.k3s.io/'},
    'username': {}, 'password': {'no_log': True}, 'force_basic_auth': {'type': 'bool', 'default': False},
    'ca_path': {'type': 'path'}, 'use_proxy': {'type': 'bool', 'default': True},
    'timeout': {'type': 'int', 'default': 30},
}

TEXT_LIMIT = 1 << 20  # bytes of a checksum list or an install script; K3s's have 1 and 38 KB
FILE_LIMIT = 2 << 30  # bytes of a binary or an archive; K3s's largest has 0.8 GB
SLOWEST = 4096  # bytes a second
REDIRECTS = 10
BLOCK = 1 << 18  # bytes

NOT_THERE = (403, 404)  # what servers say of a file that they do not have; a store of objects may say the first

PROGRESS_AFTER = PROGRESS_EVERY = 5  # seconds

ADVICE = {
    401: 'Check k3s_download_username and k3s_download_password.',
    403: 'Check k3s_download_username and k3s_download_password.',
    404: 'Check that k3s_version names a release, that the release has this architecture '
         '(https://github.com/k3s-io/k3s/releases), and that k3s_download_url, if it is set, has the same layout.',
}
OTHER_ADVICE = ('Check the address, the network, the proxy and the CA, or try again later: '
                'a file is continued where it stopped.')


class FetchError(ArtifactError):
    """Why an address did not give what it should: a main clause without its full stop, and what to do next."""

    def __init__(self, reason, status=None, advice=None):
        super().__init__(reason)
        self.status = status  # of HTTP, None where there was no answer
        self.advice = advice or ADVICE.get(status, OTHER_ADVICE)


# --- what the options say --------------------------------------------------------------------------------------------


def check_version(version):
    if not version:
        said = 'not set'
    elif re.fullmatch(r'v\d+\.\d+\.\d+([-+.][0-9A-Za-z]+)*', version, re.ASCII):
        return
    else:
        said = shown(version)
    raise ArtifactError(f'k3s_version is {said}: give it the name of a K3s release, with its v and its +, '
                        f'as in -e k3s_version=v1.31.4+k3s1.')


def check_directory(directory):
    example = 'as in -e k3s_artifact_dir=/srv/airgap.'
    if not directory:
        raise ArtifactError(f'Neither k3s_artifact_dir nor airgap_dir is set: '
                            f'say which folder the release goes to, {example}')
    if not os.path.isabs(directory):
        raise ArtifactError(f'{shown(directory)} is a relative path, and this playbook lies inside a collection: '
                            f'write the whole path, {example}')
    if '\0' in directory:
        raise ArtifactError(f'{shown(directory)} is no path: write the whole path, {example}')


def is_address(url):
    """Tell whether *url* is an http or https address, in ASCII, without a name and a password in it."""
    try:
        return bool(re.fullmatch(r'https?://[^/@?#]+([/?#].*)?', url) and re.fullmatch(r'[!-~]+', url)
                    and urlsplit(url).hostname and urlsplit(url).port != 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False


def origin(url):
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {'http': 80, 'https': 443}[parts.scheme]


def check_options(options):
    """Raise :class:`ArtifactError` for the first option that cannot be meant, before anything is asked for."""
    if options['images'] not in ARCHIVES:
        raise ArtifactError(f'k3s_download_images is {shown(options["images"])}: it can be {", ".join(ARCHIVES)}.')
    if not all(is_address(url) for url in (options['url'], options['install_url'] or options['url'])):
        raise ArtifactError('k3s_download_url and k3s_download_install_url have to be http or https addresses without '
                            'a name and a password in them: those belong into k3s_download_username and '
                            'k3s_download_password.')
    if options['timeout'] < 1:
        raise ArtifactError(f'k3s_download_timeout is {options["timeout"]}: it is a number of seconds, one at least.')
    if options['ca_path']:
        said = f'k3s_download_ca_path is {shown(options["ca_path"])}, and'
        try:
            ssl.create_default_context(cafile=options['ca_path'])
        except ssl.SSLError:
            raise ArtifactError(f'{said} no certificate is in it: name a PEM file on this machine.') from None
        except (OSError, ValueError):
            raise ArtifactError(f'{said} there is no such file: name a PEM file on this machine.') from None


def choose_arches(asked, machines):
    """Return the arches to fetch, sorted, and whether that is a guess.

    asked: what the option says, None where it is not given; a part may itself be words with commas between.
    machines: what each host of the inventory calls itself, None where that is not known.
    """
    if asked is not None:
        arches = sorted({word.strip() for part in asked for word in part.split(',')} - {''})
        unknown = [arch for arch in arches if arch not in BY_ARCH]
        if unknown or not arches:
            named = ', '.join(ascii(arch)[1:-1] for arch in unknown)[:200] or 'nothing'
            raise ArtifactError(f'k3s_download_arches names {named}: K3s is released for {ARCHES}.')
        return arches, False
    # The inventory decides only if it knows every host's machine: a gap would show on the wrong side of the air gap.
    if not machines or None in machines.values():
        return sorted(BY_ARCH), True
    without = [f'{name} ({ascii(machine)[1:-1][:60]})' for name, machine in sorted(machines.items())
               if machine not in BY_MACHINE or not BY_MACHINE[machine].binary]
    if without:
        raise ArtifactError(f'K3s has no release for {", ".join(without)}. Name the architectures of the other hosts '
                            f'in k3s_download_arches, which may be any of {ARCHES}.')
    return sorted({BY_MACHINE[machine].arch for machine in machines.values()}), False


# --- HTTP ------------------------------------------------------------------------------------------------------------


def describe_failure(error, timeout):
    """Return what went wrong between us and a server as a main clause. Nothing that the server wrote gets through."""
    while isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, (socket.timeout, TimeoutError)):
        return f'no byte came for {timeout} seconds'
    if isinstance(error, ssl.SSLCertVerificationError):
        return f'its certificate is not trusted ({shown(getattr(error, "verify_message", "no reason given"), 200)})'
    if isinstance(error, ssl.SSLError):
        return f'TLS failed ({shown(getattr(error, "reason", None) or "no reason given", 200)})'
    if isinstance(error, socket.gaierror):
        return f'its name cannot be resolved ({error.strerror})'
    if isinstance(error, (ConnectionResetError, BrokenPipeError, http.client.IncompleteRead)):
        return 'the connection broke off in the middle'
    if isinstance(error, http.client.HTTPException):
        return f'what came is not HTTP ({type(error).__name__})'
    if isinstance(error, OSError) and error.strerror:
        return f'the connection failed ({shown(error.strerror)})'
    if isinstance(error, netrc.NetrcParseError):  # whose text may be a password
        return 'the file ~/.netrc, which may hold credentials for it, cannot be understood'
    return f'it cannot be asked ({type(error).__name__}: {shown(str(error), 200)})'


class Answer:
    """One GET request and what came.

    A thread of its own asks, so that no server can keep us longer than the limits say, whatever it does: a socket's
    timeout ends the wait for a byte, not for a name server, a header or a chunk that comes byte by byte.
    """

    def __init__(self, url, timeout, **options):
        self.url, self._timeout = url, timeout
        self._items = queue.Queue(maxsize=8)
        threading.Thread(target=self._ask, args=(options,), daemon=True).start()
        # Twice: a server may have two addresses, the first of them dead.
        head = self._take(2 * timeout)
        if head is None:
            raise FetchError(f'no answer came within {2 * timeout} seconds')
        self.status, self.headers, self.length = head  # length: bytes of the body, None where the server does not say

    def _ask(self, options):
        try:
            with open_url(self.url, timeout=self._timeout, follow_redirects='none', decompress=False,
                          http_agent='k3s-artifact', **options) as response:
                self._items.put((response.status, response.headers, response.length))
                block = True
                while block:
                    block = response.read1(BLOCK)
                    self._items.put(block)
        except HTTPError as error:
            self._items.put((error.code, error.headers, None))
        except Exception as error:  # whatever it is, it is told in one sentence
            self._items.put(error)

    def _take(self, seconds):
        try:
            item = self._items.get(timeout=max(seconds, 0.01))
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise FetchError(describe_failure(item, self._timeout)) from item
        return item

    def blocks(self, limit):
        """Yield the body, at most *limit* bytes, for as long as it comes fast enough."""
        if (self.length or 0) > limit:
            raise FetchError(f'it is far too large ({self.length} bytes)')
        waited = fresh = total = 0
        while True:
            began = time.monotonic()
            block = self._take(self._timeout - waited)
            waited += time.monotonic() - began  # a slow disk of ours is not the server's fault
            if block == b'':
                break
            if block:
                total, fresh = total + len(block), fresh + len(block)
                if total > limit:
                    raise FetchError(f'it is far too large (more than {limit} bytes)')
                yield block
            if waited >= self._timeout:
                if fresh < SLOWEST * self._timeout:
                    raise FetchError(f'{fresh or "no"} bytes came in {self._timeout} seconds')
                waited = fresh = 0
        if self.length is not None and total < self.length:
            raise FetchError(f'the connection broke off in the middle, after {total} of {self.length} bytes')


class Client:
    """Asks a mirror, and whoever it redirects to, with the credentials for the mirror only."""

    def __init__(self, options):
        self._mirror, self._timeout = origin(options['url']), options['timeout']
        self._options = {'ca_path': options['ca_path'], 'use_proxy': options['use_proxy']}
        self._credentials = {'url_username': options['username'], 'url_password': options['password'] or '',
                             'force_basic_auth': options['force_basic_auth']}
        self.warnings = []

    def get(self, url, start=0):
        """Return the :class:`Answer` with the file at *url*, and the byte that it begins with.

        That is *start*, or 0 if the server cannot. Redirects are followed here, since each address decides anew who
        sees the credentials.
        """
        headers = {'Range': f'bytes={start}-'} if start else {}
        place = url
        for _hop in range(REDIRECTS):
            credentials = self._credentials if origin(place) == self._mirror else {}
            answer = Answer(place, self._timeout, headers=headers, **self._options, **credentials)
            if answer.status not in (301, 302, 303, 307, 308):
                break
            place = self._redirected(place, answer)
        else:
            raise FetchError(f'it redirects more than {REDIRECTS} times')
        if start and answer.status == 416:
            return self.get(url)
        if answer.status != 200 and not (start and answer.status == 206):
            said = f'it answers {answer.status} ({http.client.responses.get(answer.status, "unknown")})'
            if origin(place) != origin(url):
                said += f' at {shown("://".join(origin(place)[:2]))}, where it redirects to'
            raise FetchError(said, answer.status)
        return answer, start if answer.status == 206 else 0

    def _redirected(self, url, answer):
        said = answer.headers.get('Location') or ''
        location = quote(said, safe=string.punctuation, encoding='latin-1', errors='replace')
        with contextlib.suppress(ValueError):
            location = urljoin(url, location)
        if not is_address(location):
            raise FetchError(f'it redirects to {shown(location)}, which is no http or https address')
        warning = (f'{"://".join(origin(url)[:2])} redirects to an address without TLS: '
                   f'nobody vouches for what came from there.')
        if (origin(url)[0], origin(location)[0]) == ('https', 'http') and warning not in self.warnings:
            self.warnings.append(warning)
        return location

    def text(self, url):
        """Return what is at *url*, a checksum list or a script, as bytes."""
        return b''.join(self.get(url)[0].blocks(TEXT_LIMIT))

    def save(self, url, path, sha256, progress):
        """Bring the file at *url* to *path* if its digest is *sha256*; continue what an earlier run left there.

        Whether what came continues what was there, only the digest says: if it is wrong, all is fetched anew, once.
        Return whether something was continued, None if everything was there. What turns out wrong is not left behind.
        """
        with open(path, 'a+b') as file:
            digest = hash_of(file)
            there = file.tell()
            if digest.hexdigest() == sha256:
                return None
            answer, start = self.get(url, there)
            if not start:
                file.truncate(0)
                digest = hashlib.sha256()
            for block in answer.blocks(FILE_LIMIT - start):
                file.write(block)
                digest.update(block)
                progress.at(file.tell(), start, answer.length)
            to_disk(file)
            if digest.hexdigest() == sha256:
                return bool(start)
            file.truncate(0)
        if start:  # what was continued was the beginning of something else
            return self.save(url, path, sha256, progress)
        raise FetchError('what came is not the file that the checksum list names', advice=(
            'A page for people (a login, an error), a changed file or another release came in its place. '
            'Try again, then check k3s_download_url and the proxy.'))


class Progress:
    """Says on standard error how far a long transfer is, to a person: what reads standard output is not disturbed."""

    def __init__(self, name):
        self._name, self._began = name, time.monotonic()
        self._next = self._began + PROGRESS_AFTER
        self._silent = not is_read_by_people()

    def at(self, done, start, length):
        now = time.monotonic()
        if now >= self._next and not self._silent:
            self._next = now + PROGRESS_EVERY
            display.display(progress_line(self._name, done, start, length, now - self._began), stderr=True)


def readable(size):
    return f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.1f} kB'


def progress_line(name, done, start, length, seconds):
    """Say how far a transfer is: *done* bytes are there, *start* since *seconds* ago; *length* bytes follow *start*."""
    rate = max((done - start) / seconds, 1)
    if length is None:
        return f'{name}: {done / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s'
    total = start + length
    return (f'{name}: {100 * done // max(total, 1)} % of {total / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s, '
            f'{(total - done) / rate:.0f} s left')


# --- files -----------------------------------------------------------------------------------------------------------


def read_list(data):
    """Return the digests of a checksum list by file name, as the lookup reads it behind the gap."""
    return parse_checksum_list(data)


def hash_of(file):
    """Return the SHA-256 object of an open file, which is left at its end."""
    digest = hashlib.sha256()
    file.seek(0)
    for block in iter(lambda: file.read(1 << 20), b''):
        digest.update(block)
    return digest


def sha256_of(path):
    """Return the digest of the file *path*, None where no readable file is."""
    try:
        with opened(path) as (file, _status):
            return hash_of(file).hexdigest()
    except ArtifactError:
        return None


def to_disk(file):
    file.flush()
    os.fsync(file.fileno())


class Item(NamedTuple):
    """A file that belongs into a folder."""

    name: str  # its name there
    released: str  # its name in the release
    sha256: str
    mode: int
    data: bytes | None = None  # what is in it, None for a file that has to be fetched


class Folder:
    """The folder of one architecture. Files arrive and are verified in .partial, then all take their places at once."""

    def __init__(self, root, arch, version, archive, listed, script, url):
        """version: the release; archive: the archive's suffix or None; listed: the checksum list; script: None for
        none; url: the list's."""
        self.arch, self._version, binary = arch, version, BY_ARCH[arch].binary
        self.path = os.path.join(root, arch)
        self._partial = os.path.join(self.path, '.partial')
        try:
            digests = read_list(listed)
        except ArtifactError as error:
            raise ArtifactError(f'{url} {error}. Check k3s_download_url and the proxy: a page for people (a login, an '
                                f'error) may have come in place of the file.') from error
        # Every k3s-ansible finds k3s in a folder of its own, and none finds k3s-armhf.
        wanted = [('k3s', binary, 0o755)]
        if archive:
            wanted.append((f'k3s-airgap-images-{arch}{archive}', f'k3s-airgap-images-{arch}{archive}', 0o644))
        missing = [released for _name, released, _mode in wanted if released not in digests]
        if missing:
            named = ', '.join(map(shown, digests))[:500]
            raise ArtifactError(f'{url} does not name {" or ".join(missing)}, only {named}: '
                                f'check k3s_version, k3s_download_images and the mirror.')
        # The list comes first: from then on, the lookup refuses what is of another release.
        texts = [(f'sha256sum-{arch}.txt', listed, 0o644)] + ([(SCRIPT, script, 0o755)] if script else [])
        self.items = [Item(name, name, hashlib.sha256(data).hexdigest(), mode, data) for name, data, mode in texts]
        self.items += [Item(name, released, digests[released], mode) for name, released, mode in wanted]
        # Names under which a file of another release would be found in place of ours, and what digests they may have.
        others = dict.fromkeys((binary, 'k3s-' + arch), digests[binary])
        archives = [f'k3s-airgap-images-{arch}{suffix}' for suffix in ARCHIVES.values() if suffix]
        others.update((name, digests[name]) for name in archives if name in digests)
        ours = [item.name for item in self.items]
        self._others = {name: digest for name, digest in others.items() if name not in ours}

    def look(self):
        """Find out what is missing and what is of another release; raise what stands in the way."""
        for path in map(self._at, [item.name for item in self.items] + list(self._others)):
            if os.path.isdir(path) and not os.path.islink(path):
                raise ArtifactError(f'{path} is a directory, and a file belongs there. Remove or rename it. '
                                    f'Nothing in {self.path} was replaced.')
        self.missing = [item for item in self.items if sha256_of(self._at(item.name)) != item.sha256]
        self.stale = [name for name, digest in self._others.items()
                      if os.path.lexists(self._at(name)) and sha256_of(self._at(name)) != digest]

    def fill(self, client, url):
        """Bring what is missing, verify it, put it in place; return by name how it came."""
        came = {}
        with writing(self.path), self._locked():
            for item in self.missing:
                came[item.name] = self._bring(client, item, f'{url}/{quote(item.released)}')
            self._put_in_place()
            for name in self.stale:
                os.unlink(self._at(name))
            sync_folder(self.path)
            shutil.rmtree(self._partial)
        return came

    def _bring(self, client, item, url):
        path = self._arriving(item)
        if item.data is not None:
            with open(path, 'wb') as file:
                file.write(item.data)
                to_disk(file)
            continued = False
        else:
            try:
                continued = client.save(url, path, item.sha256, Progress(f'{self.arch}/{item.name}'))
                self._check(item, path)
            except FetchError as error:
                raise ArtifactError(f'No {item.released} for {self.arch} from {url}: {error}. {error.advice} '
                                    f'Nothing in {self.path} was replaced.') from error
        os.chmod(path, item.mode)
        return 'fetched' if continued is False else 'continued'

    def _check(self, item, path):
        """Raise :class:`FetchError` for a file that the lookup would refuse, whatever the list says."""
        try:
            with opened(path) as (file, status):
                if item.name == 'k3s':
                    check_elf(file, status.st_size, resolve_host(self.arch, BY_ARCH[self.arch].machines[0], {}))
                    found = reading(file, path).version
                    if found != self._version:
                        raise ArtifactError(f'is K3s {found}' if found else 'holds no K3s version')
                elif (said := describe_content(file.read(64))).startswith(('is empty', 'is an HTML')):
                    raise ArtifactError(said)
        except ArtifactError as error:
            os.unlink(path)
            raise FetchError(f'what came {error}, and has the digest that the checksum list names',
                             advice='Check k3s_version and k3s_download_url: this is no release of K3s.') from error

    def _put_in_place(self):
        """Rename all that arrived to its place. If one rename fails, those before it are taken back."""
        done = []
        try:
            for item in self.missing:
                with contextlib.suppress(OSError):  # nothing was there, or it cannot be linked
                    os.link(self._at(item.name), self._arriving(item) + '.before', follow_symlinks=False)
                os.rename(self._arriving(item), self._at(item.name))
                done.append(item)
        except OSError:
            for item in done:
                os.rename(self._at(item.name), self._arriving(item))
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._arriving(item) + '.before', self._at(item.name))
            raise

    def _at(self, name):
        return os.path.join(self.path, name)

    def _arriving(self, item):
        """Return where a file arrives. The digest keeps releases apart; no suffix makes it an archive."""
        return os.path.join(self._partial, f'{item.name.partition(".")[0]}-{item.sha256}')

    @contextlib.contextmanager
    def _locked(self):
        """Make .partial and keep other runs out of it."""
        os.makedirs(self._partial, exist_ok=True)
        folder = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in os.listdir(self._partial):
                if name.endswith('.before'):  # a run was killed between two renames
                    os.unlink(os.path.join(self._partial, name))
            yield
        except BlockingIOError:
            raise ArtifactError(f'Another run is downloading into {self.path}. Wait until it is done.') from None
        finally:
            os.close(folder)


@contextlib.contextmanager
def writing(path):
    """Turn what the system says about a file of ours into a sentence."""
    try:
        yield
    except OSError as error:
        where = f' ({error.filename})' if error.filename else ''
        raise ArtifactError(f'{path} cannot be written: {error.strerror}{where}. Make room or set its permissions, and '
                            f'run it again: what arrived is kept in {path}/.partial.') from error


def sync_folder(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the action ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def task_environment(environment):
    """Give this process what the keyword `environment` of a play gives to modules."""
    before = dict(os.environ)
    for variables in environment if isinstance(environment, list) else [environment]:
        os.environ.update({str(name): str(value) for name, value in (variables or {}).items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class ActionModule(ActionBase):

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _valid, options = self.validate_argument_spec(ARGUMENTS)
        try:
            with task_environment(self._task.environment):
                self._download(options, task_vars, result)
        except ArtifactError as error:
            # Returned, not raised: up to ansible-core 2.18 the text of an error that is raised is not marked as unsafe.
            result.update(failed=True, msg=str(error))
        return result

    def _download(self, options, task_vars, result):
        check_version(options['version'])
        check_directory(options['dir'])
        arches, guessed = choose_arches(options['arches'], options['arches'] is None and self._machines(task_vars))
        check_options(options)
        if options['password'] is None and 'k3s_download_password' in task_vars:
            options['password'] = str(self._templar.template(task_vars['k3s_download_password']))
        client = Client(options)
        url = f'{options["url"].rstrip("/")}/{quote(options["version"])}'
        lists, without = {}, {}
        for arch in arches:
            try:
                lists[arch] = client.text(f'{url}/sha256sum-{arch}.txt')
            except FetchError as error:
                without[arch] = error
                if not guessed or error.status not in NOT_THERE:
                    raise no_list(url, arch, error) from error
        refused = next((arch for arch, error in without.items() if error.status != 404), None)
        if not lists and refused:
            raise no_list(url, refused, without[refused])
        if not lists:
            raise ArtifactError(f'There is no checksum list below {url}/ (404). {ADVICE[404]}')
        script = self._script(client, options['install_url']) if options['install_url'] else None
        archive = ARCHIVES[options['images']]
        folders = [Folder(options['dir'], arch, options['version'], archive, data, script,
                          f'{url}/sha256sum-{arch}.txt')
                   for arch, data in lists.items()]
        for folder in folders:
            folder.look()
        outdated = outdated_list(options['dir'], folders)

        result.update(changed=False, files=[], removed=[], warnings=client.warnings,
                      arches=[folder.arch for folder in folders],
                      arches_without_release=list(without))
        for path in () if self._task.check_mode else outdated:
            with writing(options['dir']):
                os.unlink(path)
        for folder in folders:
            came = {item.name: 'missing' for item in folder.missing}
            if not self._task.check_mode and (folder.missing or folder.stale):
                came = folder.fill(client, url)
            result['changed'] |= bool(folder.missing or folder.stale)
            result['files'] += [described(folder, item, came.get(item.name, 'present')) for item in folder.items]
            result['removed'] += [os.path.join(folder.path, name) for name in folder.stale]
        result['removed'] += outdated
        result['changed'] |= bool(outdated)
        result['msg'] = summary(options, result, self._task.check_mode)
        result['lines'] = [result['msg'], *map(line, result['files'])]
        result['lines'] += [f'{path}: of another release, removed' for path in result['removed']]

    @staticmethod
    def _machines(task_vars):
        """Return what each host of the inventory calls itself, None for a host of which that is not known."""
        def machine(variables):
            said = variables.get('k3s_artifact_machine') or (variables.get('ansible_facts') or {}).get('architecture')
            return str(said) if isinstance(said, str) else None
        hosts = [name for name in task_vars['groups']['all'] if name != 'localhost']
        return {name: machine(task_vars['hostvars'][name]) for name in hosts}

    @staticmethod
    def _script(client, url):
        """Return the install script. No release and no checksum vouches for it, but TLS, or the mirror."""
        try:
            script = client.text(url)
            if not script.startswith(b'#!'):
                begins = shown(script[:200].decode('utf-8', 'replace').strip(), 40)
                raise FetchError(f'what came is no script, it begins with {begins}')
            return script
        except FetchError as error:
            raise ArtifactError(f'No install script from {url}: {error}. Set k3s_download_install_url to an address '
                                f"that has it, or to '' to go without.") from error


def no_list(url, arch, error):
    return ArtifactError(f'No checksum list for {arch} from {url}/sha256sum-{arch}.txt: {error}. {error.advice}')


def outdated_list(root, folders):
    """Return the paths of a bundle's list in *root*, of what signs and of what describes it, the signature first, where
    it names another file than those that come; [] for a list that somebody else has made."""
    paths = [os.path.join(root, name) for name in (*SIGNATURE_NAMES, SIGNED_LIST, MANIFEST)]
    there = [path for path in paths if os.path.lexists(path)]
    if paths[-1] not in there or paths[-2] not in there:
        return []
    try:
        lines = lines_of_list(paths[-2], root)
    except ArtifactError:
        return []
    names = {f'{folder.arch}/{item.name}': item.sha256 for folder in folders for item in folder.items}
    return there if any(lines.get(name, digest) != digest for name, digest in names.items()) else []


def described(folder, item, state):
    path = os.path.join(folder.path, item.name)
    size = os.stat(path).st_size if state != 'missing' else None
    return {'arch': folder.arch, 'path': path, 'name': item.released, 'size': size, 'sha256': item.sha256,
            'state': state}


def line(file):
    size = '' if file['size'] is None else f'{readable(file["size"])}, '
    return f'{file["arch"]}/{os.path.basename(file["path"])}: {size}sha256 {file["sha256"][:12]}, {file["state"]}'


def summary(options, result, check_mode):
    without = result['arches_without_release']
    said = (f'K3s {options["version"]} {"would be" if check_mode else "is"} in {options["dir"]} '
            f'for {", ".join(result["arches"])}.')
    return said + (f' The release has nothing for {", ".join(without)}.' if without else '')
