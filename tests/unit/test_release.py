# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the action release, and what only shows between two renames."""

from __future__ import annotations

import hashlib
import http.client
import netrc
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml

import support

release = support.collection_module('plugins.action.release')
DOCUMENTATION = support.collection_module('plugins.modules.release').DOCUMENTATION


@pytest.mark.parametrize('version', ['v1.31.4+k3s1', 'v1.31.4-rc1+k3s1', 'v1.31.4', 'v1.31.4+k3s1.beta-2'])
def test_the_name_of_a_release_is_taken(version):
    release.check_version(version)


@pytest.mark.parametrize('version', [
    None, '', '1.31.4+k3s1', 'v1.31', 'v1.31.4+', 'v1.31.4..', 'v1.31.4+k3s1\n', 'v1.31.4/..',
    '../v1.31.4', 'v1.31.4+k3s1 ',
    'v1.31.4+k3s1%2f', 'v1.31.4+k3s1#', 'v1.31.4+k3s1\0', 'v\u0661.\u0663.\u0664', 'latest',
])
def test_what_is_no_name_of_a_release_is_refused_in_one_line(version):
    with pytest.raises(release.ArtifactError,
                       match='^k3s_version is [ -~]+: give it the name of a K3s release') as caught:
        release.check_version(version)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('url, taken', [
    ('https://github.com/k3s-io/k3s/releases/download', True),
    ('http://mirror', True),
    ('http://mirror:8080/', True),
    ('https://[::1]:8443/k3s', True),
    ('https://mirror?token=a@b', True),
    ('https://mirror/a@b', True),
    ('HTTP://mirror', False),
    ('ftp://mirror/', False),
    ('file:///etc/passwd', False),
    ('https://', False),
    ('https:///k3s', False),
    ('https://me@mirror/', False),
    ('https://me:secret@mirror/', False),
    ('https://mirror:port/', False),
    ('https://mirror:99999/', False),
    ('https://[::1/', False),
    ('https://mirror/ x', False),
    ('https://mirror/\n', False),
    ('https://mirror/\xfc', False),
    ('//mirror/k3s', False),
    ('', False),
])
def test_an_address_is_http_or_https_without_credentials(url, taken):
    assert release.is_address(url) is taken


@pytest.mark.parametrize('one, other, same', [
    ('https://mirror/a', 'https://MIRROR:443/b', True),
    ('http://mirror/', 'http://mirror:80', True),
    ('https://mirror/', 'http://mirror/', False),
    ('https://mirror/', 'https://mirror:8443/', False),
    ('https://mirror/', 'https://mirror.example.com/', False),
])
def test_credentials_are_for_one_protocol_host_and_port(one, other, same):
    assert (release.origin(one) == release.origin(other)) is same


ALL = ['amd64', 'arm', 'arm64', 'riscv64', 's390x']


@pytest.mark.parametrize('asked, machines, chosen', [
    (['arm64', 'amd64,arm'], {}, (['amd64', 'arm', 'arm64'], False)),
    (['arm64', 'arm64', ''], {'pi': 'armv6l'}, (['arm64'], False)),
    (None, {}, (ALL, True)),
    (None, {'a': 'x86_64', 'b': None}, (ALL, True)),
    (None, {'a': 'armv6l', 'b': None}, (ALL, True)),
    (None, {'a': 'x86_64', 'b': 'armv8l', 'c': 'amd64'}, (['amd64', 'arm'], False)),
])
def test_architectures_are_those_asked_for_else_the_inventorys_else_all(asked, machines, chosen):
    assert release.choose_arches(asked, machines) == chosen


@pytest.mark.parametrize('asked, machines, sentence', [
    ([], {}, 'k3s_download_arches names nothing'),
    (['mips', 'amd64'], {}, 'k3s_download_arches names mips: K3s is released for amd64, arm64, arm, s390x, riscv64'),
    (['x86_64'], {}, 'names x86_64'),
    (['arm\x1b[31m'], {}, r'names arm\\x1b\[31m:'),
    (None, {'b': 'armv6l', 'a': 'i686', 'c': 'x86_64'},
     r'no release for a \(i686\), b \(armv6l\)\. Name the architectures'),
    (None, {'a': '{{ x }}\n'}, r'no release for a \({ { x }}\\n\)\.'),
])
def test_architectures_without_a_release_are_named(asked, machines, sentence):
    with pytest.raises(release.ArtifactError, match=sentence):
        release.choose_arches(asked, machines)


@pytest.mark.parametrize('numbers, text', [
    ((30_000_000, 10_000_000, 50_000_000, 10), 'k3s: 50 % of 60.0 MB, 2.0 MB/s, 15 s left'),
    ((30_000_000, 0, None, 10), 'k3s: 30.0 MB, 3.0 MB/s'),
    ((0, 0, 10, 5), 'k3s: 0 % of 0.0 MB, 0.0 MB/s, 10 s left'),
])
def test_progress_says_how_far_and_how_long(numbers, text):
    assert release.progress_line('k3s', *numbers) == text


@pytest.mark.parametrize('error, sentence', [
    (URLError(socket.gaierror(-2, 'Name or service not known')),
     'its name cannot be resolved (Name or service not known)'),
    (URLError(ConnectionRefusedError(111, 'Connection refused')), "the connection failed ('Connection refused')"),
    (URLError(socket.timeout('timed out')), 'no byte came for 30 seconds'),
    (TimeoutError(), 'no byte came for 30 seconds'),
    (ConnectionResetError(104, 'reset'), 'the connection broke off in the middle'),
    (http.client.RemoteDisconnected('gone'), 'the connection broke off in the middle'),
    (http.client.IncompleteRead(b'secret'), 'the connection broke off in the middle'),
    (http.client.BadStatusLine('{{ secret }}'), 'what came is not HTTP (BadStatusLine)'),
    (http.client.LineTooLong('secret'), 'what came is not HTTP (LineTooLong)'),
    (ssl.SSLError(1, 'secret'), "TLS failed ('no reason given')"),
    (netrc.NetrcParseError('bad token secret'),
     'the file ~/.netrc, which may hold credentials for it, cannot be understood'),
    (ValueError('x\n\x1b' * 999), r"it cannot be asked (ValueError: 'x\n\x1b"),
])
def test_a_failure_is_told_in_our_words(error, sentence):
    said = release.describe_failure(error, 30)
    assert said.startswith(sentence) and 'secret' not in said and len(said) < 300


class Endless(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b'x' * 1000)
        except OSError:
            pass

    def log_message(self, *_args):
        pass


def test_a_body_without_an_end_is_given_up_at_its_limit():
    with HTTPServer(('127.0.0.1', 0), Endless) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        answer = release.Answer(f'http://127.0.0.1:{server.server_address[1]}/', 5, use_proxy=False)
        got = 0
        with pytest.raises(release.FetchError, match='far too large'):
            for block in answer.blocks(5_000_000):
                got += len(block)
        assert 4_000_000 < got <= 5_000_000


MIRROR = 'http://127.0.0.1:1'  # nobody is there
CLIENT = release.Client({'url': MIRROR, 'username': None, 'password': None, 'force_basic_auth': False,
                         'ca_path': None, 'use_proxy': False,
                         'timeout': 5})
FILES = {'k3s': support.elf('amd64'), 'k3s-airgap-images-amd64.tar.zst': b'images'}


def folder(root):
    """Return the folder of a release that has FILES."""
    listed = ''.join(f'{hashlib.sha256(data).hexdigest()}  {name}\n' for name, data in FILES.items()).encode()
    return release.Folder(str(root), 'amd64', 'v1.31.4+k3s1', '.tar.zst', listed, b'#!/bin/sh\n', MIRROR + '/list')


def arrived(one):
    """Put what a run would have fetched where it arrives."""
    Path(one.path, '.partial').mkdir(parents=True)
    for item in one.items:
        Path(one._arriving(item)).write_bytes(item.data or FILES[item.released])


def test_if_one_rename_fails_those_before_it_are_taken_back(tmp_path):
    one, place = folder(tmp_path), tmp_path / 'amd64'
    arrived(one)
    for item in one.items[:-2]:
        (place / item.name).write_text('old ' + item.name)
    one.look()
    last = place / one.items[-1].name
    last.mkdir()  # came between the look and the renames
    (last / 'file').write_text('')
    with pytest.raises(OSError):
        one._put_in_place()
    assert {path.name: path.read_text() for path in place.iterdir() if path.is_file()} == {
        item.name: 'old ' + item.name for item in one.items[:-2]}

    (last / 'file').unlink()
    last.rmdir()
    one.look()
    one.fill(CLIENT, MIRROR)  # all has arrived: nobody is asked
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {
        item.name: item.data or FILES[item.released] for item in one.items}


@pytest.mark.parametrize('placed', range(4))
def test_a_run_that_was_killed_between_two_renames_is_completed_by_the_next(tmp_path, placed):
    one, place = folder(tmp_path), tmp_path / 'amd64'
    arrived(one)
    (place / 'k3s').write_text('old')
    one.look()
    one.missing = one.missing[:placed]
    one._put_in_place()

    again = folder(tmp_path)
    again.look()
    assert len(again.missing) == 4 - placed
    again.fill(CLIENT, MIRROR)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {
        item.name: item.data or FILES[item.released] for item in one.items}


def test_the_documentation_says_what_the_action_takes():
    options = yaml.safe_load(DOCUMENTATION)['options']
    assert {name: (option['type'], option.get('elements'), option.get('default'))
            for name, option in options.items()} == {
        name: (spec.get('type', 'str'), spec.get('elements'), spec.get('default'))
        for name, spec in release.ARGUMENTS.items()}
    assert options['images']['choices'] == list(release.ARCHIVES)
    assert (release.TEXT_LIMIT, release.FILE_LIMIT, release.SLOWEST) == (2 ** 20, 2 * 2 ** 30, 4096)
    text = ' '.join(DOCUMENTATION.split())
    assert '1 MiB, any other file 2 GiB' in text and 'less than 4 KiB a second' in text
