# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the action that take plain values and return plain values."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import support

copy = support.load_plugin('plugins/action/copy.py')


@pytest.mark.parametrize(('mode', 'digits'), [
    (0o755, '0755'), (0o4755, '4755'), (0, '0000'), ('755', '0755'), ('0755', '0755'), ('00755', '0755'), ('04755', '4755'), (' 0755\n', '0755'),
    ('u=rwx,go=rx', None), ('preserve', None), ('', None), ('0o755', None), ('0888', None), ('100755', None), (None, None), (True, None),
    (-1, None), (0o100755, None), (7.5, None), (['0755'], None)])
def test_a_mode_in_octal_digits_is_for_the_short_path_and_any_other_is_not(mode, digits):
    assert copy.octal_mode(mode) == digits


@pytest.mark.parametrize(('arguments', 'kept'), [
    (None, ''),
    ('', ''),
    ('-C -o ControlMaster=auto -o ControlPersist=60s', ''),
    ('-o ControlMaster=auto -o ControlPersist=60s', ''),
    ('-o Compression=yes', ''),
    ('-oCompression=yes -p 22', '-p 22'),
    ('-o "Compression yes"', ''),
    ('-o Compression=no', ''),
    ('-4Cq', '-4q'),
    ('-qC -i /keys/C', '-q -i /keys/C'),
    ('-o ProxyJump=C -o ServerAliveInterval=5', '-o ProxyJump=C -o ServerAliveInterval=5'),
    ('-J jump@C.example -C', '-J jump@C.example'),
    ('-o ProxyCommand="ssh -C -W %h:%p jump" -C', "-o 'ProxyCommand=ssh -C -W %h:%p jump'"),
    ('-o controlpath=/tmp/x -oControlPath=/tmp/y -o UserKnownHostsFile=/dev/null', '-o UserKnownHostsFile=/dev/null'),
])
def test_ssh_arguments_lose_compression_and_the_shared_connection_and_nothing_else(arguments, kept):
    assert copy.without_compression(arguments) == kept


WORDS = st.lists(st.sampled_from(['-o', '-C', '-4C', '-v', '-oPort=22', 'ProxyJump=a', 'Compression=yes', 'ControlMaster=auto', '-F', "it's", 'a b', '']))


@given(WORDS)
@example(['-o'])
def test_any_ssh_arguments_come_out_as_arguments_that_do_not_compress(words):
    kept = copy.without_compression(shlex.join(words))
    assert copy.without_compression(kept) == kept


def test_a_report_is_read_from_among_whatever_else_a_login_prints():
    text = 'Welcome to @home=nowhere!\n@machine=aarch64\r\nlast login: never\n@reason=a = b\n@empty=\n @not=this\n@end=yes\n'
    assert copy.parse_report(text) == {'machine': 'aarch64', 'reason': 'a = b', 'empty': '', 'end': 'yes'}


@pytest.mark.parametrize(('text', 'status'), [
    ('755 0 0 root root 12', {'mode': '0755', 'uid': 0, 'gid': 0, 'owner': 'root', 'group': 'root', 'size': 12}),
    ('4755 1000 100 me users 0', {'mode': '4755', 'uid': 1000, 'gid': 100, 'owner': 'me', 'group': 'users', 'size': 0}),
    ('', {}), (None, {}), ('755 0 0', {})])
def test_the_status_of_a_file(text, status):
    assert copy.parse_status(text) == status


def test_a_node_is_read_from_a_report():
    digest = 'ab' * 32
    report = {'machine': 'x86_64', 'kind': 'file', 'stat': '600 1 2 a b 3', 'head': '7f454c46', 'sha256': digest, 'spool': '/usr/local/bin', 'directory': 'yes',
              'writable': 'yes', 'user': 'root', 'free': '/dev/vda1 100000 40000 60000 40% /', 'part': '131072 ' + digest}
    node = copy.parse_node(report)
    assert (node.machine, node.kind, node.sha256, node.spool, node.user) == ('x86_64', 'file', digest, '/usr/local/bin', 'root')
    assert (node.status['mode'], node.head, node.free) == ('0600', b'\x7fELF', 60000 * 1024)
    assert (node.partial, node.stale_partial, node.writable, node.has_directory) == ((131072, digest), False, True, True)


@given(st.dictionaries(st.sampled_from(['machine', 'kind', 'head', 'sha256', 'spool', 'user', 'free', 'part']), st.text()))
@example({'part': 'stale'})
@example({'part': '12 ' + 'AB' * 32, 'head': '7f4', 'free': 'df: no such file'})
def test_a_node_that_answers_anything_is_still_a_node(report):
    node = copy.parse_node(report)
    assert node.free is None or node.free >= 0
    assert node.partial == (0, None) or node.partial[1]
    assert node.stale_partial == ('part' in report and node.partial == (0, None))


@given(st.dictionaries(st.from_regex(r'[a-z]{1,8}', fullmatch=True), st.text(st.characters(blacklist_characters='\0', blacklist_categories=['Cs'])), max_size=3))
@example({'value': "'; touch /tmp/x; '"})
@example({'value': '$(id) `id` "\n'})
def test_values_reach_a_script_as_they_are(values):
    values = {f'k3s_{name}': value for name, value in values.items()}
    script = copy.shell_command(''.join(f'printf "%s|" "${name}"\n' for name in values) + 'printf .', **values)
    done = subprocess.run(['/bin/sh', '-c', script], stdout=subprocess.PIPE, check=True)
    assert done.stdout == ''.join(value + '|' for value in values.values()).encode() + b'.'


@pytest.mark.parametrize(('done', 'sent', 'seconds', 'line'), [
    (50_000_000, 50_000_000, 10, 'node: k3s 25 % (50.0 of 200.0 MB, 5.0 MB/s, 30 s left)'),
    (150_000_000, 50_000_000, 10, 'node: k3s 75 % (150.0 of 200.0 MB, 5.0 MB/s, 10 s left)'),
    (200_000_000, 50_000_000, 10, 'node: k3s 100 % (200.0 of 200.0 MB, 5.0 MB/s, done)'),
    (0, 0, 10, 'node: k3s 0 % (0.0 of 200.0 MB, 0.0 MB/s, 200000000 s left)')])
def test_a_line_of_progress_has_percent_bytes_rate_and_time_left(done, sent, seconds, line):
    assert copy.progress_line('node', 'k3s', done, 200_000_000, sent, seconds) == line


def partial(content):
    return len(content), hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(('there', 'start'), [
    (b'', 0), (b'abc', 3), (b'abcdef', 6), (b'abX', 0), (b'abcdefg', 0), (None, 0)])
def test_a_partial_file_is_continued_where_it_ends_if_it_is_the_beginning(there, start):
    assert copy.ActionModule._resume_at(io.BytesIO(b'abcdef'), (0, None) if there is None else partial(there)) == start


class Silent:
    def at(self, done):
        pass


@pytest.mark.parametrize('length', [0, 1, copy.BLOCK, copy.PIECE[1] - 1, copy.PIECE[1], copy.PIECE[1] + 1, 5 * copy.PIECE[1] + 7])
@pytest.mark.parametrize('start', [0, 2 * copy.BLOCK, 'all'])
def test_pieces_are_the_rest_of_the_file_and_begin_where_blocks_do(length, start):
    content = os.urandom(length)
    start = length if start == 'all' else min(start, length // copy.BLOCK * copy.BLOCK)
    file = io.BytesIO(content)
    file.seek(start)
    pieces = list(copy.ActionModule._pieces(file, Silent()))
    assert b''.join(data for _offset, data in pieces) == content[start:]
    assert all(offset % copy.BLOCK == 0 for offset, data in pieces if data)
    assert all(content[offset:offset + len(data)] == data for offset, data in pieces)
    assert all(len(data) <= copy.PIECE[2] for _offset, data in pieces)
    assert pieces or start  # an empty file is one empty piece, so that it comes to be


def test_the_archives_and_the_install_path_are_those_of_the_lookup():
    lookup = support.load_plugin('plugins/lookup/k3s_artifact.py')
    assert set(copy.ARCHIVE_SUFFIXES) == set(lookup.ARCHIVE_SUFFIXES)
    assert all(name.startswith('k3s') for name in lookup.BINARY_NAMES)  # only such tasks load the lookup


def test_pieces_are_whole_blocks():
    assert all(size % copy.BLOCK == 0 for size in copy.PIECE)


def test_the_scripts_are_posix_shell():
    for script in (copy.PROBE_SCRIPT, copy.PIECE_SCRIPT, copy.INSTALL_SCRIPT):
        done = subprocess.run(['/bin/sh', '-n'], input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, '')
