# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook download and its action, through ansible-playbook, against servers that do what servers on bad days do.

What needs TLS and a real web server is in lab/test_download.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import support

VERSION = 'v1.31.4+k3s1'
ASKED = 'v1.31.4%2Bk3s1'
ARCHIVE = 'k3s-airgap-images-amd64.tar.zst'
SCRIPT = b'#!/bin/sh\n# K3s puts itself in place.\n'
PAGE = b'<!DOCTYPE html><html><title>Please log in</title></html>'
OLD = 'of the release before'
TEMPLATE = "{{ lookup('ansible.builtin.pipe', 'touch MARK') }}"


def listed(**files):
    return ''.join(f'{hashlib.sha256(data).hexdigest()}  {name}\n' for name, data in files.items()).encode()


def make_release():
    """A release of three architectures by path below the version; each list has the archives first, then the binary."""
    result = {}
    for arch in ('amd64', 'arm64', 'arm'):
        files = {f'k3s-airgap-images-{arch}.tar{suffix}': magic + f'images for {arch}'.encode() * 999
                 for suffix, magic in (('', b'./'), ('.gz', b'\x1f\x8b'), ('.zst', b'\x28\xb5\x2f\xfd'))}
        files[support.BINARIES[arch]] = support.elf(arch, body=f'K3s v1.31.4+k3s1 for {arch} '.encode() * 15000)
        result.update(files)
        result[f'sha256sum-{arch}.txt'] = listed(**files)
    return result


RELEASE = make_release()
BINARY = RELEASE['k3s']


class Handler(BaseHTTPRequestHandler):
    """Serves /<case>/<version>/<file>: the release, unless a function for_<case> does something else."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        if self.path.startswith('http://k3s.invalid/'):  # somebody takes this server for a proxy
            self.path = self.path[len('http://k3s.invalid'):]
        case, _slash, path = self.path.lstrip('/').partition('/')
        self.file = path.rpartition('/')[2]
        self.server.seen.append((case, self.file, self.headers.get('Authorization'), self.headers.get('Range')))
        with_case = getattr(self, 'for_' + case, None)
        try:
            if with_case is None or with_case() is False:
                self.serve()
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = True

    def log_message(self, *_args):
        pass

    def head(self, status, length=None, reason=None, **headers):
        self.send_response(status, reason)
        if length is not None:
            self.send_header('Content-Length', str(length))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Connection', 'close')
        self.end_headers()

    def send(self, data, status=200, **headers):
        self.head(status, len(data), **headers)
        self.wfile.write(data)

    def serve(self, ranges=True):
        data = {**RELEASE, 'install.sh': SCRIPT}.get(self.file)
        if data is None:
            return self.send(PAGE, 404)
        start = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
        if not start or not ranges:
            return self.send(data)
        start = int(start.group(1))
        if start >= len(data):
            return self.send(b'', 416, Content_Range=f'bytes */{len(data)}')
        return self.send(data[start:], 206, Content_Range=f'bytes {start}-{len(data) - 1}/{len(data)}')

    def drip(self, data=b'x', until=8):
        end = time.monotonic() + until
        while time.monotonic() < end:
            self.wfile.write(data)
            self.wfile.flush()
            time.sleep(0.1)

    # --- lists

    def for_list404(self):
        self.send(PAGE, 404)

    def for_list401(self):
        self.send(PAGE, 401, WWW_Authenticate='Basic realm="mirror"')

    def for_list403(self):
        self.send(PAGE, 403, reason=TEMPLATE + '\x1b[31m')

    def for_listpage(self):
        self.send(PAGE)

    def for_listempty(self):
        self.send(b'')

    def for_listtemplate(self):
        self.send(TEMPLATE.encode() + b'\x1b[31m')

    def for_listdrip(self):
        self.head(200, 1000)
        self.drip()

    def for_listheader(self):
        self.wfile.write(b'HTTP/1.1 200 OK\r\nX-Long: ')
        self.drip()

    def for_listcontinue(self):
        self.drip(b'HTTP/1.1 100 Continue\r\n\r\n')

    def for_listsilent(self):
        time.sleep(8)

    def for_listgarbage(self):
        self.wfile.write(b'SSH-2.0-OpenSSH_9.2 ' + TEMPLATE.encode() + b'\r\n')

    def for_listclosed(self):
        pass

    def for_listendless(self):
        self.head(200)
        while True:
            self.wfile.write(RELEASE['sha256sum-amd64.txt'])

    def for_listhuge(self):
        self.head(200, 10 ** 12)

    def for_listchunk(self):
        self.head(200, Transfer_Encoding='chunked')
        self.wfile.write(b'ffff\r\n' + RELEASE['sha256sum-amd64.txt'])

    def for_listloop(self):
        self.send(b'', 302, Location=self.path)

    def for_listfile(self):
        self.send(b'', 302, Location='file:///etc/passwd')

    def for_listftp(self):
        self.send(b'', 302, Location='ftp://localhost/list')

    def for_listuser(self):
        self.send(b'', 302, Location='http://me:secret@localhost/list')

    def for_listplace(self):
        self.send(b'', 302, Location=TEMPLATE + '\x1b[31m://')

    def for_listpart(self):
        self.send(RELEASE['sha256sum-amd64.txt'][:70], 206, Content_Range='bytes 0-69/999')

    def for_listtwice(self):
        self.send(listed(k3s=BINARY) + listed(k3s=b'another'))

    def for_listother(self):
        self.send(listed(**{'../../k3s': BINARY, 'k3s-arm64': BINARY, TEMPLATE: b''}))

    def for_store(self):
        """Says of what it does not have that it is forbidden."""
        return self.file not in RELEASE and self.send(PAGE, 403)

    # --- files

    def only(self, name):
        return self.file == name

    def for_file404(self):
        return self.only('k3s') and self.send(PAGE, 404)

    def for_file500(self):
        return self.only('k3s') and self.send(PAGE, 500)

    def for_filepage(self):
        return self.only('k3s') and self.send(PAGE)

    def for_filewrong(self):
        return self.only('k3s') and self.send(BINARY[:-1] + b'!')

    def for_filecut(self):
        if self.only('k3s') and not self.headers.get('Range'):
            self.head(200, len(BINARY))
            return self.wfile.write(BINARY[:200000])
        return False

    def for_filehuge(self):
        return self.only('k3s') and self.head(200, 10 ** 10) is None and self.drip()

    def for_filedrip(self):
        if not self.only('k3s'):
            return False
        self.head(200)
        return self.drip(b'x' * 99)

    def for_fileredirect(self):
        return self.only('k3s') and self.send(b'', 301, Location='file:///bin/ls')

    # A release whose list is right about files that are none of K3s.

    def serve_instead(self, **files):
        files = {'k3s': BINARY, ARCHIVE: RELEASE[ARCHIVE],
                 **{name.replace('archive', ARCHIVE): data for name, data in files.items()}}
        self.send(listed(**files) if self.file == 'sha256sum-amd64.txt' else files[self.file])

    def for_wrongarch(self):
        self.serve_instead(k3s=support.elf('arm64'))

    def for_notelf(self):
        self.serve_instead(k3s=SCRIPT)

    def for_cutelf(self):
        self.serve_instead(k3s=BINARY[:40])

    def for_emptyarchive(self):
        self.serve_instead(archive=b'')

    def for_pagearchive(self):
        self.serve_instead(archive=PAGE)

    # --- what works, in its own way

    def for_norange(self):
        self.serve(ranges=False)

    def for_otherrange(self):
        if self.headers.get('Range'):
            return self.send(BINARY[7:], 206, Content_Range=f'bytes 7-{len(BINARY) - 1}/{len(BINARY)}')
        return False

    def for_slow(self):
        if not self.file.startswith('k3s'):
            return False
        self.head(200, len(RELEASE[self.file]))
        for at in range(0, len(RELEASE[self.file]), 8000):
            self.wfile.write(RELEASE[self.file][at:at + 8000])
            time.sleep(0.15)

    def for_scriptdrip(self):
        self.head(200)
        self.drip(b'#!')

    def for_mirror(self):
        """Asks for a password, then sends everybody to the other server."""
        if not self.headers.get('Authorization'):
            return self.send(PAGE, 401, WWW_Authenticate='Basic realm="mirror"')
        return self.send(b'', 302, Location=self.server.other + self.path.replace('/mirror', '/elsewhere'))

    def for_demanding(self):
        """Asks for a password where the mirror has sent us."""
        return self.send(PAGE, 401, WWW_Authenticate='Basic realm="mirror"')

    def for_trap(self):
        return self.send(b'', 302, Location=self.server.other + self.path.replace('/trap', '/demanding'))

    def for_lists(self):
        """The path names the kind of list."""
        kind = self.path.split('/')[2]
        return self.file == 'sha256sum-amd64.txt' and self.send(LISTS[kind])


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.seen, self.other = [], None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, case):
        return f'http://127.0.0.1:{self.server_address[1]}/{case}'

    def requests(self):
        """What was asked for since the last time: case, file, credentials, range."""
        seen, self.seen[:] = list(self.seen), []
        return seen


@pytest.fixture(scope='module')
def servers():
    """Two servers that do the same under different addresses."""
    first, second = Server(), Server()
    first.other = f'http://localhost:{second.server_address[1]}'
    yield first, second
    for server in (first, second):
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(servers):
    for each in servers:
        each.requests()
    return servers[0]


NO_PROXY = dict.fromkeys(('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy',
                          'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'NO_PROXY'), '')


def download(tmp_path, server, *arguments, hosts=None, case='good', home='collection', env=None, **settings):
    """Run the playbook for amd64 without an archive and a script, unless *settings* say more; None is not given at
    all."""
    given = {'k3s_version': VERSION, 'k3s_artifact_dir': str(tmp_path / 'airgap'), 'k3s_download_arches': 'amd64',
             'k3s_download_images': 'none',
             'k3s_download_url': server.url(case), 'k3s_download_install_url': '',
             'k3s_download_timeout': 5, **settings}
    given = {name: value for name, value in given.items() if value is not None}
    return support.play(tmp_path, 'airgap.k3s.download', '-e', json.dumps(given), *arguments, home=home,
                        env={**NO_PROXY, **(env or {})},
                        hosts={'localhost': {}, **(hosts or {})})


def succeeds(run):
    assert run.rc == 0, run.output
    return run.result('localhost', 'Fetch and verify what is missing')


def fails(run):
    assert run.rc != 0, run.output
    assert 'Traceback' not in run.output
    return run.result('localhost', 'Fetch and verify what is missing')['msg']


def files(tmp_path):
    """What lies below the artifact directory, and its permissions."""
    root = tmp_path / 'airgap'
    return {str(path.relative_to(root)): f'{path.stat().st_mode & 0o7777:04o}'
            for path in root.rglob('*') if not path.is_dir()}


def partial(tmp_path):
    return [path for path in files(tmp_path) if '/.partial/' in path]


def old_binary(tmp_path, arch='amd64'):
    path = tmp_path / 'airgap' / arch / 'k3s'
    path.parent.mkdir(parents=True)
    path.write_text(OLD)
    return path


# --- what is promised when all is well -------------------------------------------------------------------------------


def test_a_release_arrives_whole_and_only_once(tmp_path, server):
    wanted = {'k3s_download_arches': 'arm', 'k3s_download_images': None,
              'k3s_download_install_url': server.url('good/install.sh')}
    result = succeeds(download(tmp_path, server, **wanted))
    folder, archive = tmp_path / 'airgap' / 'arm', 'k3s-airgap-images-arm.tar.zst'
    assert files(tmp_path) == {'arm/k3s': '0755', 'arm/' + archive: '0644', 'arm/sha256sum-arm.txt': '0644',
                               'arm/k3s-install.sh': '0755'}
    assert not (folder / '.partial').exists()
    assert (folder / 'k3s').read_bytes() == RELEASE['k3s-armhf']
    for name in (archive, 'sha256sum-arm.txt'):
        assert (folder / name).read_bytes() == RELEASE[name]
    assert (folder / 'k3s-install.sh').read_bytes() == SCRIPT
    assert {(file['name'], file['size'], file['sha256'], file['state']) for file in result['files']} == {
        (name, len(data), hashlib.sha256(data).hexdigest(), 'fetched') for name, data in (
            ('k3s-armhf', RELEASE['k3s-armhf']), (archive, RELEASE[archive]),
            ('sha256sum-arm.txt', RELEASE['sha256sum-arm.txt']),
            ('k3s-install.sh', SCRIPT))}
    assert [seen[1] for seen in server.requests()] == ['sha256sum-arm.txt', 'install.sh', 'k3s-armhf', archive]

    run = download(tmp_path, server, **wanted)
    result = succeeds(run)
    assert run.changed() == 0 and {file['state'] for file in result['files']} == {'present'}
    assert [seen[1] for seen in server.requests()] == ['sha256sum-arm.txt', 'install.sh']
    assert len(run.results) == 2, 'The output is to stay short.'


def test_what_came_is_what_the_lookup_takes(tmp_path, server):
    succeeds(download(tmp_path, server, k3s_download_arches='amd64,arm64,arm', k3s_download_images='gz'))
    hosts = {arch: {'k3s_artifact_machine': support.MACHINES[arch]} for arch in ('amd64', 'arm64', 'arm')}
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'look', 'ansible.builtin.debug': {'msg': "{{ query('k3s_artifact', 'binary', 'images', dir=root, "
                                                   "verify='required') }}"}}]}],
        '-e', f'root={tmp_path}/airgap', hosts=hosts)
    for arch in hosts:
        assert (run.result(arch, 'look')['msg']
                == [f'{tmp_path}/airgap/{arch}/{name}' for name in ('k3s', f'k3s-airgap-images-{arch}.tar.gz')])


def test_a_check_changes_nothing_and_says_what_would(tmp_path, server):
    run = download(tmp_path, server, '--check', k3s_download_arches=None,
                   hosts={'pi': {'k3s_artifact_machine': 'armv7l'}, 'other': {}})
    result = succeeds(run)
    assert result['msg'] == (f'K3s {VERSION} would be in {tmp_path}/airgap for amd64, arm, arm64. The release has '
                             'nothing for riscv64, s390x.')
    assert run.changed() == 1 and {file['state'] for file in result['files']} == {'missing'}
    assert not (tmp_path / 'airgap').exists()


@pytest.mark.parametrize('hosts, arches', [
    ({'pi': 'armv7l', 'server': 'x86_64'}, ['amd64', 'arm']),
    ({'pi': 'armv7l', 'other': None}, ['amd64', 'arm', 'arm64']),
])
def test_an_inventory_whose_machines_are_known_decides_what_is_fetched(tmp_path, server, hosts, arches):
    hosts = {name: {'k3s_artifact_machine': machine} if machine else {} for name, machine in hosts.items()}
    result = succeeds(download(tmp_path, server, '--check', k3s_download_arches=None, hosts=hosts))
    assert result['arches'] == arches


def test_cached_facts_tell_the_machines_of_the_inventory_and_are_only_compared(tmp_path, server):
    env = {'ANSIBLE_CACHE_PLUGIN': 'jsonfile', 'ANSIBLE_CACHE_PLUGIN_CONNECTION': str(tmp_path / 'facts')}
    facts = {'ansible_architecture': '{{ said }}', 'cacheable': True}
    support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [{'ansible.builtin.set_fact': facts}]}],
                 env=env, hosts={
        'pi': {'said': 'aarch64'}, 'evil': {'said': '{% raw %}' + TEMPLATE + '{% endraw %}'}})
    result = succeeds(download(tmp_path, server, '--check', k3s_download_arches=None, hosts={'pi': {}}, env=env))
    assert result['arches'] == ['arm64']
    message = fails(download(tmp_path, server, k3s_download_arches=None, hosts={'pi': {}, 'evil': {}}, env=env))
    assert message.startswith('K3s has no release for evil ({ { lookup(') and not list(tmp_path.rglob('MARK'))


def test_machines_of_the_inventory_without_a_release_are_named_with_their_hosts(tmp_path, server):
    hosts = {name: {'k3s_artifact_machine': machine}
             for name, machine in (('server', 'x86_64'), ('pi-zero', 'armv6l'), ('pi-one', 'armv6l'))}
    message = fails(download(tmp_path, server, k3s_download_arches=None, hosts=hosts))
    assert 'K3s has no release for pi-one (armv6l), pi-zero (armv6l). Name the architectures' in message
    assert not server.requests() and not (tmp_path / 'airgap').exists()
    succeeds(download(tmp_path, server, hosts=hosts))


def test_what_belongs_to_another_release_is_removed_and_what_is_ours_to_keep_stays(tmp_path, server):
    folder = old_binary(tmp_path, 'arm').parent
    for name in ('k3s-armhf', 'k3s-arm', 'k3s-airgap-images-arm.tar'):
        (folder / name).write_text(OLD)
    (folder / 'k3s-airgap-images-arm.tar.gz').write_bytes(RELEASE['k3s-airgap-images-arm.tar.gz'])
    (folder / 'my-images.tar').write_text('mine')
    result = succeeds(download(tmp_path, server, k3s_download_arches='arm'))
    assert {path.rpartition('/')[2] for path in result['removed']} == {'k3s-armhf', 'k3s-arm',
                                                                       'k3s-airgap-images-arm.tar'}
    assert files(tmp_path).keys() == {'arm/k3s', 'arm/sha256sum-arm.txt',
                                      'arm/k3s-airgap-images-arm.tar.gz', 'arm/my-images.tar'}


def test_a_store_that_forbids_what_it_does_not_have_has_no_release_of_it(tmp_path, server):
    result = succeeds(download(tmp_path, server, '--check', case='store', k3s_download_arches=None))
    assert (result['arches'], result['arches_without_release']) == (['amd64', 'arm', 'arm64'], ['riscv64', 's390x'])
    asked = fails(download(tmp_path, server, case='store', k3s_download_arches='amd64,riscv64'))
    assert 'No checksum list for riscv64 from' in asked and '403' in asked
    assert 'No checksum list for amd64 from' in fails(download(tmp_path, server, case='list403',
                                                               k3s_download_arches=None))


@pytest.mark.parametrize('whose', ["a bundle's", 'of somebody'])
def test_the_list_of_a_bundle_goes_when_what_it_names_is_replaced(tmp_path, server, whose):
    succeeds(download(tmp_path, server))
    root, made = tmp_path / 'airgap', ['SHA256SUMS', 'SHA256SUMS.asc', 'manifest.json']
    (root / 'SHA256SUMS').write_text(f'{support.sha256(root / "amd64" / "k3s")}  amd64/k3s\n')
    (root / 'SHA256SUMS.asc').write_text('a signature')
    if whose == "a bundle's":
        (root / 'manifest.json').write_text('{}')
    there = sorted(path.name for path in root.iterdir())
    assert download(tmp_path, server).changed() == 0 and sorted(path.name for path in root.iterdir()) == there
    (root / 'SHA256SUMS').write_text(f'{"a1" * 32}  amd64/k3s\n')
    check = download(tmp_path, server, '--check')
    assert sorted(path.name for path in root.iterdir()) == there
    result = succeeds(download(tmp_path, server))
    left = sorted(path.name for path in root.iterdir())
    if whose == "a bundle's":
        assert left == ['amd64'] and check.changed() == 1
        assert sorted(result['removed']) == [str(root / name) for name in made]
    else:
        assert left == there and not result['removed']


def test_a_proxy_of_the_environment_is_used(tmp_path, server):
    run = download(tmp_path, server, k3s_download_url='http://k3s.invalid/good',
                   k3s_download_environment={'http_proxy': server.url('')})
    succeeds(run)
    assert [seen[1] for seen in server.requests()] == ['sha256sum-amd64.txt', 'k3s']
    message = fails(download(tmp_path, server, k3s_download_url='http://k3s.invalid/good', k3s_download_use_proxy=False,
                             k3s_download_environment={'http_proxy': server.url('')}))
    assert 'its name cannot be resolved' in message


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('force', [False, True])
def test_credentials_go_to_the_mirror_and_never_to_where_it_redirects_or_into_the_output(tmp_path,
                                                                                         servers, server, force):
    run = download(tmp_path, server, '-vvvv', case='mirror', k3s_download_username='me',
                   k3s_download_password='geheim{{ 1 + 1 }}',
                   k3s_download_force_basic_auth=force, k3s_download_install_url=servers[1].url('good/install.sh'))
    succeeds(run)
    assert (tmp_path / 'airgap/amd64/k3s').read_bytes() == BINARY
    assert ({seen[2] for seen in server.requests()}
            == ({'Basic bWU6Z2VoZWltMg=='} if force else {None, 'Basic bWU6Z2VoZWltMg=='}))
    elsewhere = servers[1].requests()
    assert {seen[1] for seen in elsewhere} == {'sha256sum-amd64.txt', 'install.sh', 'k3s'}
    assert {seen[2] for seen in elsewhere} == {None}
    assert 'geheim2' not in run.output and 'bWU6' not in run.output
    assert 'geheim2' not in json.dumps(run.results)


def test_a_server_that_was_redirected_to_does_not_get_the_credentials_that_it_asks_for(tmp_path, servers, server):
    message = fails(download(tmp_path, server, case='trap', k3s_download_username='me', k3s_download_password='geheim'))
    assert "it answers 401 (Unauthorized) at 'http://localhost', where it redirects to" in message
    assert [seen[2] for seen in servers[1].requests()] == [None]


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    'no version': ({'version': None}, 'k3s_version is not set'),
    'a version without its v': ({'version': '1.31.4+k3s1'},
                                "k3s_version is '1.31.4+k3s1': give it the name of a K3s release, with its v"),
    'a version with a newline': ({'version': 'v1.31.4+k3s1\n'}, r"k3s_version is 'v1.31.4+k3s1\n': give it the name"),
    'a version with a folder': ({'version': 'v1.31.4/../v1.30.0'}, "k3s_version is 'v1.31.4/../v1.30.0'"),
    'a version with dots': ({'version': 'v1.31.4..'}, "k3s_version is 'v1.31.4..'"),
    'a version with a query': ({'version': 'v1.31.4?x'}, "k3s_version is 'v1.31.4?x'"),
    'no folder': ({'dir': None}, 'Neither k3s_artifact_dir nor airgap_dir is set'),
    'a relative folder': ({'dir': 'airgap'}, "'airgap' is a relative path"),
    'an unknown architecture': ({'arches': 'amd64,mips'},
                                'k3s_download_arches names mips: K3s is released for amd64, arm64, arm'),
    'an architecture that is a path': ({'arches': ['../amd64']},
                                       'k3s_download_arches names ../amd64: K3s is released for'),
    'no architecture': ({'arches': ' , '}, 'k3s_download_arches names nothing'),
    'an unknown compression': ({'images': 'xz'}, "k3s_download_images is 'xz': it can be zst, gz, plain, none."),
    'a password in the address': ({'url': 'https://me:secret@mirror/k3s'}, 'without a name and a password in them'),
    'another protocol': ({'url': 'file:///srv/k3s'}, 'have to be http or https addresses'),
    'an address with a newline': ({'install_url': 'https://get.k3s.io/\nHost: evil'},
                                  'have to be http or https addresses'),
    'no time': ({'timeout': 0}, 'k3s_download_timeout is 0'),
    'no CA file': ({'ca_path': '/nowhere/ca.pem'},
                   "k3s_download_ca_path is '/nowhere/ca.pem', and there is no such file"),
    'a CA file without a CA': ({'ca_path': '/etc/passwd'},
                               "k3s_download_ca_path is '/etc/passwd', and no certificate is in it"),
}

FAULTS = {
    'list404': ['No checksum list for amd64 from', 'it answers 404 (Not Found)',
                'Check that k3s_version names a release'],
    'list401': ['it answers 401 (Unauthorized). Check k3s_download_username'],
    'list403': ['it answers 403 (Forbidden). Check k3s_download_username'],
    'listpage': ["sha256sum-amd64.txt is not a checksum list: line 1 is '<!DOCTYPE html>", 'a page for people'],
    'listempty': ['sha256sum-amd64.txt is empty'],
    'listtemplate': ['sha256sum-amd64.txt is not a checksum list: line 1 is '],
    'listdrip': ['No checksum list for amd64 from', 'bytes came in 1 seconds', 'or try again later'],
    'listheader': ['No checksum list for amd64 from', 'no answer came within 2 seconds'],
    'listcontinue': ['No checksum list for amd64 from', 'no answer came within 2 seconds'],
    'listsilent': ['No checksum list for amd64 from', 'no byte came for 1 seconds'],
    'listgarbage': ['No checksum list for amd64 from', 'what came is not HTTP'],
    'listclosed': ['No checksum list for amd64 from', 'the connection broke off'],
    'listendless': ['No checksum list for amd64 from', 'it is far too large (more than 1048576 bytes)'],
    'listhuge': ['No checksum list for amd64 from', 'it is far too large (1000000000000 bytes)'],
    'listchunk': ['No checksum list for amd64 from', 'the connection broke off'],
    'listloop': ['No checksum list for amd64 from', 'it redirects more than 10 times'],
    'listfile': ["it redirects to 'file:///etc/passwd', which is no http or https address"],
    'listftp': ["it redirects to 'ftp://localhost/list', which is no http or https address"],
    'listuser': ['it redirects to', 'which is no http or https address'],
    'listplace': ['No checksum list for amd64 from'],
    'listpart': ['it answers 206 (Partial Content)'],
    'listtwice': ["names 'k3s' twice, with different digests"],
    'listother': ['does not name k3s'],
    'file404': ['No k3s for amd64 from', 'it answers 404 (Not Found)', 'Nothing in'],
    'file500': ['No k3s for amd64 from', 'it answers 500 (Internal Server Error)', 'try again later'],
    'filepage': ['No k3s for amd64 from', 'what came is not the file that the checksum list names'],
    'filewrong': ['No k3s for amd64 from', 'what came is not the file that the checksum list names'],
    'filecut': ['No k3s for amd64 from', 'the connection broke off in the middle, after 200000 of',
                'continued where it stopped'],
    'filehuge': ['No k3s for amd64 from', 'it is far too large (10000000000 bytes)'],
    'filedrip': ['No k3s for amd64 from', 'bytes came in 1 seconds'],
    'fileredirect': ['No k3s for amd64 from', "it redirects to 'file:///bin/ls'"],
    'wrongarch': ['No k3s for amd64 from', 'what came is a binary for arm64'],
    'notelf': ['No k3s for amd64 from', 'what came is a script, not a binary', 'this is no release of K3s'],
    'cutelf': ['No k3s for amd64 from', 'what came is cut short'],
    'emptyarchive': [f'No {ARCHIVE} for amd64 from', 'what came is empty'],
    'pagearchive': [f'No {ARCHIVE} for amd64 from', 'what came is an HTML page'],
}

SCRIPTS = {
    'filecut/k3s': 'the connection broke off in the middle',
    'listpage': "what came is no script, it begins with '<!DOCTYPE html>",
    'listtemplate': 'what came is no script',
    'listendless': 'it is far too large',
    'scriptdrip': 'bytes came in 1 seconds',
}


@pytest.fixture(scope='module')
def failures(tmp_path_factory, servers):
    """All tasks that are to fail, in one run; return its folder and what each task returned."""
    tmp_path = tmp_path_factory.mktemp('failures')
    base = {'version': VERSION, 'arches': 'amd64', 'images': 'none', 'install_url': '', 'timeout': 1}
    tasks = {}
    for name, (options, _sentence) in REFUSED.items():
        tasks[name] = {'url': servers[0].url('refused'), 'dir': f'{tmp_path}/airgap/refused', **options}
    for case in FAULTS:
        folder = tmp_path / 'airgap' / case / 'amd64'
        folder.mkdir(parents=True)
        (folder / 'k3s').write_text(OLD)
        tasks[case] = {'url': servers[0].url(case), 'dir': str(folder.parent), 'images': 'zst'}
    for case in SCRIPTS:
        tasks[case + ' as script'] = {'url': servers[0].url('good'), 'install_url': servers[0].url(case),
                                      'dir': f'{tmp_path}/airgap/script'}
    plays = [{'hosts': 'node', 'gather_facts': False, 'tasks': [
        {'name': name,
         'airgap.k3s.release': {key: value for key, value in {**base, **options}.items() if value is not None},
         'register': 'one', 'ignore_errors': True} for name, options in tasks.items()] + [
             {'name': 'Say it again', 'ansible.builtin.debug': {'msg': '{{ one.msg }}'}}]}]
    for task in list(plays[0]['tasks'][:-1]):
        plays[0]['tasks'].insert(plays[0]['tasks'].index(task) + 1,
                                 {'name': 'Again', 'ansible.builtin.debug': {'msg': '{{ one.msg }}'}})
    # Each text is evaluated again, as a report or a rescue would: what a server says must not be obeyed.
    run = support.play(tmp_path, plays, home='collection', env=NO_PROXY)
    assert len(run.results) == 2 * len(tasks) + 1, run.output
    return tmp_path, run


def status(run, task):
    return [entry['status'] for entry in run.results if entry['task'] == task][-1]


def message(failures, task):
    result = failures[1].result('node', task)
    assert status(failures[1], task) == 'failed' and not result.get('changed'), result
    assert re.fullmatch('[ -~]+', result['msg']), 'a control character'
    assert len(result['msg']) < 900
    return result['msg']


@pytest.mark.parametrize('case', REFUSED)
def test_a_wrong_setting_is_refused_before_anything_is_asked_for(failures, servers, case):
    assert REFUSED[case][1] in message(failures, case)
    assert not [seen for seen in servers[0].seen if seen[0] == 'refused']
    assert not (failures[0] / 'airgap/refused').exists()


@pytest.mark.parametrize('case', FAULTS)
def test_a_fault_is_named_and_what_was_there_stays(failures, case):
    said = message(failures, case)
    for part in FAULTS[case]:
        assert part in said
    folder = failures[0] / 'airgap' / case
    assert (folder / 'amd64/k3s').read_text() == OLD
    assert ([path for path in sorted(folder.rglob('*')) if '.partial' not in path.parts and not path.is_dir()]
            == [folder / 'amd64/k3s'])


@pytest.mark.parametrize('case', SCRIPTS)
def test_an_install_script_that_is_none_is_refused(failures, case):
    said = message(failures, case + ' as script')
    assert said.startswith('No install script from') and SCRIPTS[case] in said
    assert 'Set k3s_download_install_url to' in said
    assert not (failures[0] / 'airgap/script').exists()


def test_nothing_that_a_server_says_is_obeyed_or_reaches_the_terminal(failures):
    assert not list(failures[0].rglob('MARK'))
    assert '\x1b' not in failures[1].output and 'Traceback' not in failures[1].output


def test_the_playbook_asks_for_its_settings_in_one_sentence(tmp_path, server):
    assert 'k3s_version is not set' in fails(download(tmp_path, server, k3s_version=None))
    assert 'Neither k3s_artifact_dir nor airgap_dir is set' in fails(download(tmp_path, server, k3s_artifact_dir=None))
    succeeds(download(tmp_path, server, '--check', k3s_artifact_dir=None, airgap_dir=str(tmp_path)))


# --- lists -----------------------------------------------------------------------------------------------------------

LINES = RELEASE['sha256sum-amd64.txt'].decode()
LISTS = {
    'plain': LINES.encode(),
    'crlf': LINES.replace('\n', '\r\n').encode(),
    'binary': LINES.replace('  ', ' *').encode(),
    'dot': LINES.replace('  ', '  ./').encode(),
    'path': LINES.replace('  ', '  dist/artifacts/').encode(),
    'one-space': LINES.replace('  ', ' ').encode(),
    'tab': LINES.replace('  ', '\t').encode(),
    'bsd': re.sub(r'(\S+)  (\S+)', r'SHA256 (\2) = \1', LINES).encode(),
    'bom': LINES.encode('utf-8-sig'),
    'utf-16': LINES.encode('utf-16'),
    'upper': re.sub(r'^\w+', lambda match: match.group().upper(), LINES, flags=re.M).encode(),
    'comment': b'# K3s\n\n' + LINES.encode(),
    'prose': b'These are the digests:\n' + LINES.encode(),
    'slash': LINES.replace('  k3s\n', '  k3s/\n').encode(),
    'invalid': LINES.encode() + b'\xff\xfe\n',
}


def test_a_list_that_download_takes_is_one_that_the_lookup_takes(tmp_path, server):
    tasks = []
    for kind in LISTS:
        release = {'version': VERSION, 'arches': 'amd64', 'install_url': '', 'url': server.url(f'lists/{kind}'),
                   'dir': f'{tmp_path}/airgap/{kind}'}
        look = ("{{ query('airgap.k3s.k3s_artifact', 'binary', 'images', "
                "dir=root, verify='required', machine='x86_64') }}")
        tasks += [{'name': 'fetch ' + kind, 'airgap.k3s.release': release, 'register': 'one', 'ignore_errors': True},
                  {'name': 'look ' + kind, 'ansible.builtin.debug': {'msg': look}, 'vars': {'root': release['dir']},
                   'when': 'one is succeeded'}]
    run = support.play(tmp_path, [{'hosts': 'node', 'gather_facts': False, 'tasks': tasks}],
                       home='collection', env=NO_PROXY)
    assert run.rc == 0, run.output
    taken = {kind for kind in LISTS if status(run, 'fetch ' + kind) != 'failed'}
    assert taken >= {'plain', 'crlf', 'binary', 'dot', 'upper', 'comment'} and not taken & {'prose', 'slash'}
    for kind in LISTS:
        folder = tmp_path / 'airgap' / kind / 'amd64'
        if kind in taken:
            assert run.result('node', 'look ' + kind)['msg'] == [str(folder / 'k3s'), str(folder / ARCHIVE)]
            assert (folder / 'sha256sum-amd64.txt').read_bytes() == LISTS[kind]
        else:
            assert not folder.exists() and 'sha256sum-amd64.txt' in run.result('node', 'fetch ' + kind)['msg']


# --- whole or not at all, and on from where it stopped ---------------------------------------------------------------


def test_a_cut_download_is_continued_by_the_next_run(tmp_path, server):
    old = old_binary(tmp_path)
    assert 'the connection broke off' in fails(download(tmp_path, server, case='filecut'))
    assert old.read_text() == OLD and any(path.startswith('amd64/.partial/k3s-') for path in partial(tmp_path))
    server.requests()
    result = succeeds(download(tmp_path, server, case='filecut'))
    assert server.requests()[-1][1:] == ('k3s', None, 'bytes=200000-')
    assert old.read_bytes() == BINARY and 'continued' in [file['state'] for file in result['files']]
    assert not partial(tmp_path)


LEFT = {
    'a beginning, and a server that cannot continue': (BINARY[:5000], 'norange', ['bytes=5000-'], 'fetched'),
    'a beginning, and a server that continues elsewhere': (BINARY[:5000], 'otherrange',
                                                           ['bytes=5000-', None], 'fetched'),
    'the beginning of something else': (b'x' * 5000, 'good', ['bytes=5000-', None], 'fetched'),
    'more than the file': (BINARY + b'x', 'good', [f'bytes={len(BINARY) + 1}-', None], 'fetched'),
    'the whole file': (BINARY, 'good', [], 'continued'),
    'nothing': (b'', 'good', [None], 'fetched'),
}


@pytest.mark.parametrize('left', LEFT)
def test_whatever_an_earlier_run_left_the_right_file_comes(tmp_path, server, left):
    data, case, ranges, state = LEFT[left]
    rest = old_binary(tmp_path).parent / '.partial' / f'k3s-{hashlib.sha256(BINARY).hexdigest()}'
    rest.parent.mkdir()
    rest.write_bytes(data)
    (rest.parent / 'k3s-of-another-release').write_text('half')
    result = succeeds(download(tmp_path, server, case=case))
    assert (tmp_path / 'airgap/amd64/k3s').read_bytes() == BINARY
    assert [seen[3] for seen in server.requests() if seen[1] == 'k3s'] == ranges
    assert [file['state'] for file in result['files'] if file['name'] == 'k3s'] == [state]
    assert not partial(tmp_path)


def family(pid):
    """A process and all that it has started, parents first."""
    children = {}
    for line in subprocess.run(['ps', '-eo', 'ppid=,pid='], check=True, stdout=subprocess.PIPE,
                               text=True).stdout.splitlines():
        parent, child = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found.extend(children.get(each, []))
    return found


def started(tmp_path, server, case, **env):
    """Start the action for arm64 without waiting for it."""
    task = {'airgap.k3s.release': {'version': VERSION, 'arches': 'arm64', 'images': 'none', 'install_url': '',
                                   'url': server.url(case),
                                   'dir': f'{tmp_path}/airgap'}}
    (tmp_path / 'site.yml').write_text(json.dumps([{'hosts': 'localhost', 'gather_facts': False, 'tasks': [task]}]))
    env = support.environment(tmp_path, ANSIBLE_COLLECTIONS_PATH=support.collection_path(tmp_path), **NO_PROXY, **env)
    process = subprocess.Popen([str(support.PROGRAMS / 'ansible-playbook'), '-i', 'localhost,', '-c', 'local',
                                'site.yml'], cwd=tmp_path, env=env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not [path for path in (tmp_path / 'airgap/arm64/.partial').glob('k3s-*') if path.stat().st_size]:
        assert time.time() < deadline and process.poll() is None, 'The download never began.'
        time.sleep(0.05)
    return process


def test_a_killed_run_leaves_what_was_there_and_the_next_run_continues(tmp_path, server):
    old = old_binary(tmp_path, 'arm64')
    (old.parent / 'k3s-arm64').write_text('one of another release, which would be found first')
    before = files(tmp_path)
    process = started(tmp_path, server, 'slow')
    for pid in reversed(family(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert files(tmp_path).keys() - set(partial(tmp_path)) == before.keys() and old.read_text() == OLD

    succeeds(download(tmp_path, server, k3s_download_arches='arm64'))
    assert [seen[3] is not None for seen in server.requests() if seen[1] == 'k3s-arm64'] == [False, True]
    assert files(tmp_path) == {'arm64/k3s': '0755', 'arm64/sha256sum-arm64.txt': '0644'}
    assert old.read_bytes() == RELEASE['k3s-arm64']


def test_a_second_run_stays_out_of_the_first_ones_way_and_progress_is_for_people(tmp_path, server):
    first = started(tmp_path, server, 'slow')
    message = fails(download(tmp_path, server, k3s_download_arches='arm64'))
    assert message == f'Another run is downloading into {tmp_path}/airgap/arm64. Wait until it is done.'
    output, progress = first.communicate(timeout=60)
    assert first.returncode == 0, output + progress
    assert (tmp_path / 'airgap/arm64/k3s').read_bytes() == RELEASE['k3s-arm64']
    assert re.search(r'^arm64/k3s: \d+ % of 0\.4 MB, 0\.\d MB/s, \d+ s left$', progress, re.M), progress
    assert ' s left' not in output


def test_progress_does_not_disturb_a_program(tmp_path, server):
    process = started(tmp_path, server, 'slow', ANSIBLE_STDOUT_CALLBACK='oneline')
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and ' s left' not in output + errors


@pytest.mark.parametrize('name', ['k3s', 'sha256sum-amd64.txt', ARCHIVE, 'k3s-amd64', '.partial'])
def test_what_cannot_be_replaced_is_found_before_anything_is(tmp_path, server, name):
    (tmp_path / 'airgap/amd64' / name).mkdir(parents=True)
    if name == '.partial':
        (tmp_path / 'airgap/amd64' / name).rmdir()
        (tmp_path / 'airgap/amd64' / name).write_text('not a folder')
    message = fails(download(tmp_path, server, k3s_download_images='zst'))
    assert str(tmp_path / 'airgap/amd64') in message
    assert ('is a directory, and a file belongs there' in message
            or name == '.partial' and 'cannot be written' in message)
    assert [seen[1] for seen in server.requests()] == ['sha256sum-amd64.txt']
    assert files(tmp_path).keys() <= {'amd64/.partial'}


def test_a_link_at_the_place_of_a_file_is_replaced_and_its_target_stays(tmp_path, server):
    target = tmp_path / 'elsewhere'
    target.write_text(OLD)
    old_binary(tmp_path).unlink()
    (tmp_path / 'airgap/amd64/k3s').symlink_to(target)
    succeeds(download(tmp_path, server))
    assert (tmp_path / 'airgap/amd64/k3s').read_bytes() == BINARY and not (tmp_path / 'airgap/amd64/k3s').is_symlink()
    assert target.read_text() == OLD


def test_a_port_where_nobody_listens_is_named(tmp_path, server):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        message = fails(download(tmp_path, server, k3s_download_url=f'http://127.0.0.1:{unused.getsockname()[1]}'))
    assert ("the connection failed ('Connection refused'). Check the address, the network, the proxy and the CA"
            in message)


def test_ansible_doc_shows_every_option(tmp_path):
    done = support.ansible('ansible-doc', '--json', 'airgap.k3s.release', folder=tmp_path,
                           env={'ANSIBLE_COLLECTIONS_PATH': support.collection_path(tmp_path)})
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)['airgap.k3s.release']
    assert set(document['doc']['options']) == {'version', 'dir', 'arches', 'images', 'url', 'install_url',
                                               'username', 'password',
                                               'force_basic_auth', 'ca_path', 'use_proxy', 'timeout'}
    page = (support.ROOT / 'docs/download.md').read_text()
    playbook = (support.ROOT / 'playbooks/download.yml').read_text()
    for variable in re.findall(r'k3s_\w+', playbook):
        assert f'`{variable}`' in page, variable
