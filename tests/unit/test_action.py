# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the action that take plain values, and the program that it runs on a node, by each shell that is
here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.common.collections import ImmutableDict
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
from hypothesis import example, given
from hypothesis import strategies as st

import support

copy = support.load_plugin('plugins/action/copy.py')

NATIVE, MACHINE = support.NATIVE, support.MACHINES[support.NATIVE]
FOREIGN = 'arm64' if NATIVE == 'amd64' else 'amd64'
ARCHS = {machine: arch for arch, machine in support.MACHINES.items()}
DIGEST, OTHER_DIGEST = 'ab' * 32, 'cd' * 32


def arch_of_program(head):
    """Return the arch of the first bytes of a program, as the lookup does."""
    return next((arch for arch in support.ELF if head[:6] == support.elf(arch)[:6]
                 and head[18:20] == support.elf(arch)[18:20]), None)


def artifact(**values):
    return SimpleNamespace(**{'source': '/airgap/k3s', 'size': 1000, 'sha256': DIGEST, 'checksum': '12' * 20,
                              'arch': 'amd64', 'machine': 'x86_64',
                              'version': 'v1.31.4+k3s1', 'verified': 'elf', **values})


def job(kind='binary', **values):
    dest = {'binary': '/usr/local/bin/k3s', 'archive': '/data/agent/images/a.tar',
            'script': '/usr/local/bin/k3s-install.sh'}[kind]
    mode = '0644' if kind == 'archive' else '0755'
    return copy.Job(**{'artifact': artifact(), 'kind': kind, 'dest': dest, 'mode': mode, 'owner': None, 'group': None,
                       'trial': kind == 'binary', **values})


STATUS = {'mode': '0755', 'uid': 0, 'gid': 0, 'owner': 'root', 'group': 'root', 'size': 1000}
EMPTY = copy.Node(machine='x86_64', arch='amd64', user='root', is_root=True, kind='absent', status={}, sha256=None,
                  holds=None, version='', folder=True,
                  writable=True, fixed=False, blocked='', free=10 ** 9, partials=())
FULL_OF_SAME = EMPTY._replace(kind='file', status=STATUS, sha256=DIGEST, holds='amd64')
DIFFERENT = FULL_OF_SAME._replace(sha256=OTHER_DIGEST)


# --- what is to be done: every state of a node by every wish of a task

WISHES = {
    'binary': job(), 'going back': job(downgrade=True), 'check mode': job(may_come=True),
    'for root': job(owner='root', group=0), 'for root by number': job(owner=0, group=0),
    'for me': job(owner='me'), 'symbolic': job(mode=None), 'archive': job('archive', mode='0755'),
    'script': job('script'),
}
# What a state comes to for a wish: (what is there, what is done), or a piece of the refusal; "else" is for the wishes
# that are not named.
STATES = {
    'nothing there': (EMPTY, {'else': ('absent', 'install')}),
    'the same': (FULL_OF_SAME, {'else': ('same', 'nothing'), 'for me': ('same', 'attributes'),
                                'symbolic': ('same', 'attributes')}),
    'the same, another mode': (FULL_OF_SAME._replace(status={**STATUS, 'mode': '0600'}),
                               {'else': ('same', 'attributes')}),
    'the same, of another user': (FULL_OF_SAME._replace(status={**STATUS, 'uid': 1000, 'owner': 'me'}), {
        'else': ('same', 'nothing'), 'for root': ('same', 'attributes'), 'for root by number': ('same', 'attributes'),
        'symbolic': ('same', 'attributes')}),
    'the same, of another group': (FULL_OF_SAME._replace(status={**STATUS, 'gid': 1000, 'group': 'me'}), {
        'else': ('same', 'nothing'), 'for root': ('same', 'attributes'), 'for root by number': ('same', 'attributes'),
        'for me': ('same', 'attributes'), 'symbolic': ('same', 'attributes')}),
    'the same, another mode, of another user than the one who logs in': (
        FULL_OF_SAME._replace(status={**STATUS, 'mode': '0600'}, user='you', uid='1001', is_root=False), {
            'else': 'the user you cannot set owner, group or mode', 'symbolic': ('same', 'attributes'),
            **dict.fromkeys(['for root', 'for root by number', 'for me'], 'the user you cannot give')}),
    'the same, another mode, of the user who logs in': (
        FULL_OF_SAME._replace(status={**STATUS, 'mode': '0600', 'uid': 1001, 'owner': '?'}, user='me', uid='1001',
                              is_root=False, fixed=True), {
            'else': ('same', 'attributes'),
            **dict.fromkeys(['for root', 'for root by number'], 'the user me cannot give')}),
    'the same, nothing can be written': (FULL_OF_SAME._replace(writable=False, fixed=True, free=0), {
        'else': ('same', 'nothing'), 'for me': 'is immutable, or its file system is read-only',
        'symbolic': ('same', 'attributes')}),
    'the same, its status cannot be read': (FULL_OF_SAME._replace(status={}), {
        # where the mode is symbolic, ansible-core's copy decides
        'else': ('same', 'attributes'), 'symbolic': ('same', 'nothing')}),
    'another file': (DIFFERENT, {'else': ('different', 'replace')}),
    'another architecture': (DIFFERENT._replace(holds='arm64'), {
        'else': ('wrong architecture', 'replace'), 'archive': ('different', 'replace'),
        'script': ('different', 'replace')}),
    'no program': (DIFFERENT._replace(holds=None), {
        'else': ('wrong architecture', 'replace'), 'archive': ('different', 'replace'),
        'script': ('different', 'replace')}),
    'a link': (EMPTY._replace(kind='link'), {'else': ('link', 'replace')}),
    'a directory': (EMPTY._replace(kind='directory'), {'else': 'is a directory, not a file'}),
    'a special file': (EMPTY._replace(kind='other'), {'else': 'is a special file, not a file'}),
    'no folder': (EMPTY._replace(folder=False),
                  {'else': 'does not exist. Create it first', 'check mode': ('absent', 'install'),
                   'archive': ('absent', 'install')}),
    'a file in place of the folder': (EMPTY._replace(folder=False, blocked='/data'),
                                      {'else': '/data is in the way of the folder'}),
    'a folder that cannot be written': (EMPTY._replace(writable=False, user='me'),
                                        {'else': 'the user me cannot write to'}),
    'an old file in such a folder': (DIFFERENT._replace(writable=False), {'else': 'or its file system is read-only'}),
    'an immutable file': (DIFFERENT._replace(fixed=True), {'else': 'it is immutable'}),
    'a file of another user': (DIFFERENT._replace(fixed=True, is_root=False, user='me', uid='1001'), {
        'else': ('different', 'replace'), **dict.fromkeys(['for root', 'for root by number'], 'only root can')}),
    'no program for SHA-256': (DIFFERENT._replace(sha256=None, digests=False), {'else': 'so what arrives cannot be'}),
    'a full disk': (EMPTY._replace(free=999), {'else': 'needs 1000 bytes in'}),
    'just enough room': (EMPTY._replace(free=1000), {'else': ('absent', 'install')}),
    'room that is not known': (EMPTY._replace(free=None), {'else': ('absent', 'install')}),
    'a newer K3s': (DIFFERENT._replace(version='v1.32.0+k3s1'), {
        'else': 'K3s does not support going back', 'going back': ('different', 'replace'),
        'archive': ('different', 'replace'), 'script': ('different', 'replace')}),
    'an older K3s': (DIFFERENT._replace(version='v1.30.8+k3s2'), {'else': ('different', 'replace')}),
    'another machine': (EMPTY._replace(machine='aarch64', arch='arm64'),
                        {'else': "it says that it is 'aarch64', its facts say x86_64 (arch amd64)"}),
    'a machine without a release': (FULL_OF_SAME._replace(machine='mips', arch=None),
                                    {'else': "it says that it is 'mips'"}),
}


@pytest.mark.parametrize('wish', WISHES)
@pytest.mark.parametrize('state', STATES)
def test_what_is_done_for_a_wish_on_a_node_in_a_state(state, wish):
    node, expected = STATES[state]
    expected = expected.get(wish, expected['else'])
    planned = copy.plan(WISHES[wish], node)
    if isinstance(expected, str):
        assert planned.refusal and expected in planned.refusal
        assert not planned.refusal.endswith('.')  # the sentence is ended by who says it
    else:
        assert (planned.installed, planned.action, planned.refusal) == (*expected, None)
    assert planned.to_send == (1000 if planned.action in ('install', 'replace') else 0)


@pytest.mark.parametrize(('resume', 'free', 'start', 'refused'), [
    (0, 999, 0, True), (1, 999, 1, False), (1000, 0, 1000, False), (600, 400, 600, False), (600, 399, 600, True),
    (1001, 999, 0, True)])
def test_what_waits_on_the_node_needs_no_room_and_is_not_sent(resume, free, start, refused):
    planned = copy.plan(job(), EMPTY._replace(free=free), resume)
    assert (planned.start, planned.to_send, bool(planned.refusal)) == (start, 1000 - start, refused)


NODES = st.builds(
    copy.Node, machine=st.sampled_from(['x86_64', 'aarch64', '']),
    arch=st.sampled_from(['amd64', 'amd64', 'amd64', 'arm64', None]), user=st.text(max_size=3),
    is_root=st.booleans(), kind=st.sampled_from(['absent', 'file', 'file', 'link', 'directory', 'other', 'nonsense']),
    status=st.sampled_from([{}, STATUS, {**STATUS, 'mode': '0600'}]),
    sha256=st.sampled_from([None, DIGEST, OTHER_DIGEST]),
    holds=st.sampled_from(['amd64', 'arm64', None]),
    version=st.sampled_from(['', 'v1.31.4+k3s1', 'v9.9.9+k3s1', 'v1.2']), folder=st.booleans(),
    writable=st.booleans(), fixed=st.booleans(), blocked=st.sampled_from(['', '/x']),
    free=st.none() | st.integers(0, 2000), partials=st.just(()))


@given(NODES, st.sampled_from(list(WISHES.values())), st.integers(0, 2000))
def test_any_plan_sends_all_that_is_missing_or_nothing_and_never_to_another_machine(node, wished, resume):
    planned = copy.plan(wished, node, resume)
    sends = planned.action in ('install', 'replace')
    assert planned.action in ('nothing', 'attributes') or sends
    assert planned.start + planned.to_send == (1000 if sends else planned.start)
    assert 0 <= planned.start <= 1000
    assert (planned.action in ('nothing', 'attributes')) == (node.kind == 'file' and node.sha256 == DIGEST)
    assert planned.refusal or (node.arch == 'amd64' and node.kind not in ('directory', 'other'))
    assert planned.refusal or not sends or node.writable and (node.free is None or node.free >= planned.to_send)


@pytest.mark.parametrize(('version', 'other', 'older'), [
    ('v1.30.8+k3s1', 'v1.31.4+k3s1', True), ('v1.31.4+k3s1', 'v1.30.8+k3s1', False),
    ('v1.31.4+k3s1', 'v1.31.4+k3s2', True),
    ('v1.31.4+k3s1', 'v1.31.4+k3s1', False), ('v1.9.0+k3s1', 'v1.10.0+k3s1', True),
    ('v1.31.4-rc1+k3s1', 'v1.31.4+k3s1', True),
    ('v1.31.4+k3s1', 'v1.31.4-rc1+k3s1', False), ('v1.31.4-rc2+k3s1', 'v1.31.4-rc10+k3s1', True),
    ('v1.31.4+k3s9', 'v1.31.4+k3s10', True),
    ('v1.31.4', 'v1.31.5', False), ('', 'v1.31.4+k3s1', False), ('v1.31.4+k3s1', '', False), (None, None, False),
    ('v1.31.4+k3s1', 'dev', False)])
def test_a_release_is_older_than_another(version, other, older):
    assert copy.is_older(version, other) is older


@pytest.mark.parametrize(('mode', 'digits'), [
    (0o755, '0755'), (0o4755, '4755'), (0, '0000'), ('755', '0755'), ('0755', '0755'), ('00755', '0755'),
    ('04755', '4755'), (' 0755\n', '0755'),
    ('u=rwx,go=rx', None), ('preserve', None), ('', None), ('0o755', None), ('0888', None), ('100755', None),
    ('77777', None), (None, None), (True, None),
    (-1, None), (0o100755, None), (7.5, None), (['0755'], None)])
def test_a_mode_in_octal_digits_is_for_the_short_path_and_any_other_is_not(mode, digits):
    assert copy.octal_mode(mode) == digits


# --- what a node says


@pytest.mark.parametrize(('text', 'value'), [('0', 0), ('42', 42), ('9' * 18, 10 ** 18 - 1), ('9' * 19, None),
                                             ('9' * 5000, None), ('', None), (None, None),
                                             ('-1', None), ('1e3', None), ('\u0663', None),
                                             ('1 ', None), ('1\n', None)])
def test_a_number_of_a_node_has_18_digits_at_most(text, value):
    assert copy.number(text) == value


@pytest.mark.parametrize(('text', 'shown'), [
    ('plain text, \u00fcber, \u6f22\u5b57', 'plain text, \u00fcber, \u6f22\u5b57'), ('a\nb\rc\td', 'a\\nb\\rc\\td'),
    ('\x1b[2J\x07', '\\x1b[2J\\x07'),
    ('\x85\x9b', '\\x85\\x9b'),
    ('\u202e\u2066\u200b\ufeff', '\\u202e\\u2066\\u200b\\ufeff'),
    ('\udcff', '\\udcff'), ('x' * 300, 'x' * 300),
    ('{{ a }} {% b %} {# c #} {{{ d', '{ { a }} { % b %} { # c #} { { { d')])
def test_what_a_node_says_is_shown_as_text(text, shown):
    assert copy.plain(text) == shown


def is_harmless(text):
    """Tell whether a text is one line that a terminal prints as it is and that no template begins in."""
    return text.isprintable() and not re.search('{[{%#]', text)


@given(st.text())
@example('\0' * 1000)
@example('\u202e\u2028' * 200)
def test_any_text_of_a_node_becomes_one_short_line(text):
    line = copy.plain(text)
    assert is_harmless(line) and len(line) <= copy.LONGEST_ANSWER + 3


def test_answers_are_read_from_among_whatever_else_a_login_prints():
    text = ('Welcome to wmachine=nowhere!\nWORDmachine=aarch64\r\nlast login: never\nWORDreason=a = b\nWORDempty=\n'
            'wordmachine=no\nWORDpart=1\nWORDpart=2\nWORDend=yes\n')
    assert copy.answers(text, 'WORD') == {'machine': ['aarch64'], 'reason': ['a = b'], 'empty': [''],
                                          'part': ['1', '2'], 'end': ['yes']}


@pytest.mark.parametrize(('found', 'status'), [
    (('755', '0', '0', 'root', 'root', '12'),
     {'mode': '0755', 'uid': 0, 'gid': 0, 'owner': 'root', 'group': 'root', 'size': 12}),
    (('4755', '1000', '100', 'me', 'users', '0'),
     {'mode': '4755', 'uid': 1000, 'gid': 100, 'owner': 'me', 'group': 'users', 'size': 0}),
    (('755', '5', '6', 'domain users', 'the group of all', '1'),
     {'mode': '0755', 'uid': 5, 'gid': 6, 'owner': 'domain users', 'group': 'the group of all', 'size': 1}),
    (('755', '9' * 5000, '0', 'root', 'root', '12'), {}), (('888', '0', '0', 'root', 'root', '12'), {}),
    (('755', '', '0', 'root', 'root', '12'), {}),
    (('', '', '', '', '', ''), {})])
def test_the_status_of_a_file_is_whole_or_is_none(found, status):
    assert copy.parse_status({key: [value]
                              for key, value in zip(('mode', 'uid', 'gid', 'owner', 'group', 'size'), found)}) == status


def parse(found):
    return copy.parse_node(found, ARCHS.get, arch_of_program)


def test_a_node_is_read_from_its_answers():
    node = parse({'machine': ['aarch64'], 'user': ['0 root'], 'kind': ['file'], 'mode': ['600'], 'uid': ['1'],
                  'gid': ['2'], 'owner': ['a b'], 'group': ['c'],
                  'size': ['3'], 'head': [support.elf('arm').hex()[:128]], 'sha256': [DIGEST],
                  'version': ['k3s version v1.30.8+k3s1 (abc) go1.22'],
                  'folder': ['yes'], 'writable': ['yes'], 'free': ['/dev/vda1 100000 40000 60000 40% /'],
                  'reclaim': ['7', '9' * 5000, '3'],
                  'part': [f'up 12 131072 {DIGEST} {OTHER_DIGEST}', f'dir 13 65536 {DIGEST} {OTHER_DIGEST}',
                           f'dir 1 2 {DIGEST} {DIGEST}', 'dir 1 x'], 'end': ['yes']})
    assert (node.machine, node.arch, node.user, node.is_root, node.kind) == ('aarch64', 'arm64', 'root', True, 'file')
    assert node.status == {'mode': '0600', 'uid': 1, 'gid': 2, 'owner': 'a b', 'group': 'c', 'size': 3}
    assert (node.sha256, node.holds, node.version, node.folder, node.writable,
            node.fixed) == (DIGEST, 'arm', 'v1.30.8+k3s1', True, True, False)
    assert node.free == 60000 * 1024 + 10
    assert node.partial(OTHER_DIGEST) == copy.Partial('up', '12', 131072, DIGEST, OTHER_DIGEST)
    assert (node.partial(DIGEST).length, node.partial('0' * 64)) == (2, None)


@pytest.mark.parametrize(('free', 'bytes_'), [
    ('/dev/a 9 4 5 45% /', 5 * 1024), ('a file system with spaces 10 3 7 30% /mnt/a 5 6 7 8%', 7 * 1024),
    ('- 0 0 0 - /proc', None),
    ('df: no such file', None), ('/dev/a 1 1 -5 100% /', None), (f'/dev/a 1 1 {"9" * 5000} 1% /', None)])
def test_the_room_of_a_node(free, bytes_):
    assert parse({'free': [free]}).free == bytes_


KEYS = ['machine', 'user', 'kind', 'mode', 'uid', 'gid', 'owner', 'group', 'size', 'head', 'sha256', 'version',
        'folder', 'writable', 'fixed', 'blocked', 'free',
        'reclaim', 'part', 'end']
SAID = st.text() | st.sampled_from(['9' * 5000, 'file', '755', '0', f'dir 1 2 {DIGEST} {DIGEST}',
                                    f'up {"9" * 5000} 2 {DIGEST} {DIGEST}', '7f454c4', '{{ 1 }}'])


@given(st.lists(st.tuples(st.sampled_from(KEYS), SAID)))
@example([('part', 'stale')])
@example([('kind', 'file'), ('uid', '9' * 5000), ('gid', '0'), ('mode', '755'), ('size', '1')])
@example([('free', f'/dev/a 1 1 {"9" * 5000} 1% /'), ('reclaim', '9' * 5000), ('head', '7f4')])
def test_a_node_that_answers_anything_is_still_a_node_and_a_plan_for_it_a_plan(said):
    found = copy.answers('\n'.join(f'WORD{key}={value}' for key, value in said), 'WORD')
    node = parse(found)
    texts = [node.machine, node.user, node.kind, node.version, node.blocked, *map(str, node.status.values())]
    assert all(is_harmless(text) and len(text) <= copy.LONGEST_ANSWER + 3 for text in texts)
    assert node.free is None or node.free >= 0
    assert all(partial.place in ('up', 'dir') and partial.pid.isdigit() and partial.length >= 0
               for partial in node.partials)
    assert node.status == {} or {type(node.status[key]) for key in ('uid', 'gid', 'size')} == {int}
    planned = copy.plan(job(), node)
    assert planned.refusal is None or is_harmless(planned.refusal)


@given(st.text(), st.text(), st.integers())
@example('Warning: Permanently added x\n', '', 3)
@example('', '\x1b[2J' * 1000, 1)
def test_what_a_failing_command_says_is_one_short_line(stdout, stderr, status):
    line = copy.said({'stdout': stdout, 'stderr': stderr, 'rc': status})
    assert line and is_harmless(line) and len(line) <= copy.LONGEST_ANSWER + 3


# --- the way through a login shell

POSIX_SHELLS = [words for words in (['dash'], ['bash', '--posix'], ['busybox', 'sh'], ['mksh'], ['posh'],
                                    ['zsh', '--emulate', 'sh'], ['ksh'])
                if shutil.which(words[0])]
LOGIN_SHELLS = [*POSIX_SHELLS, *([words] for words in ('tcsh', 'fish', 'zsh', 'csh', 'yash') if shutil.which(words))]
by_shell = pytest.mark.parametrize('shell', POSIX_SHELLS, ids=' '.join)
by_login_shell = pytest.mark.parametrize('login', LOGIN_SHELLS, ids=' '.join)

HARMFUL = ["'; touch x; '", '$(id) `id` "\n', '!! !x \\! \\\\ \\n %s %b \\0101', "it's\n\ttabs\r",
           '~ * ? [a] {a,b} #c & | ; < >', '\u00fc\u6f22\u5b57', "'''", '\\', '-n', '%', '$x ${x}', '']


@by_login_shell
def test_a_program_and_its_values_reach_sh_through_a_login_shell_as_they_are(login, tmp_path):
    """As ansible-core does it: /bin/sh -c with the command quoted, given to the login shell as one line."""
    values = {f'value_{number}': value for number, value in enumerate(HARMFUL)}
    program = copy.shell_program(''.join(f'printf "%s|" "${name}"\n' for name in values) + 'printf "%s" \'a\\nb\'\n',
                                 **values)
    command = copy.shell_command(program)
    assert '\n' not in command
    done = subprocess.run([*login, '-c', '/bin/sh -c ' + shlex.quote(command)], stdout=subprocess.PIPE,
                          check=True, cwd=tmp_path)
    assert done.stdout.decode() == ''.join(value + '|' for value in HARMFUL) + 'a\\nb'
    assert not list(tmp_path.iterdir())


@by_shell
def test_every_shell_understands_every_verb(shell):
    for script in (copy.LOOK, copy.RECEIVE, copy.INSTALL_ONLY, copy.RECEIVE_AND_INSTALL):
        done = subprocess.run([*shell, '-n'], input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        assert done.returncode == 0, done.stdout


@given(st.dictionaries(st.from_regex(r'[a-z]{1,8}', fullmatch=True),
                       st.text(st.characters(blacklist_characters='\0', blacklist_categories=['Cs'])), max_size=3))
@example({'value': "'; touch /tmp/x; '"})
@example({'value': '$(id) `id` "\n'})
def test_any_values_reach_a_program_as_they_are(values):
    values = {f'k3s_{name}': value for name, value in values.items()}
    program = copy.shell_program(''.join(f'printf "%s|" "${name}"\n' for name in values) + 'printf .', **values)
    done = subprocess.run(['/bin/sh', '-c', copy.shell_command(program)], stdout=subprocess.PIPE, check=True)
    assert done.stdout == ''.join(value + '|' for value in values.values()).encode() + b'.'


# --- the arguments of ssh


@pytest.mark.parametrize(('arguments', 'words'), [
    (None, []), ('', []), ('-v host', [(None, '-v'), (None, 'host')]), ('-o Port=22', [('port', 'Port=22')]),
    ('-oPort=22', [('port', 'Port=22')]),
    ('-o "Port 22"', [('port', 'Port 22')]), ('-o', [('', '')]), ('-S /x', [(None, '-S'), ('', '/x')]),
    ('-F', [(None, '-F'), ('', '')]),
    ('-F -C', [(None, '-F'), ('', '-C')]), ('-J a@b -p 2', [(None, '-J'), ('', 'a@b'), (None, '-p'), ('', '2')])])
def test_the_words_of_ssh_arguments(arguments, words):
    assert list(copy.ssh_words(arguments)) == words


@pytest.mark.parametrize(('arguments', 'chosen'), [
    (None, False), ('', False), ('-C -o ControlMaster=auto -o ControlPersist=60s', False),
    ('-o ControlMaster=AUTO', False), ('-o "ControlMaster auto"', False),
    ('-o ControlMaster=no', True), ('-o ControlMaster=autoask', True), ('-o ControlMaster=yes', True),
    ('-o ControlPath=none', True),
    ('-oControlPath=/tmp/x', True), ('-o controlpath=/tmp/x', True), ('-S /tmp/x', True), ('-S/tmp/x', True),
    ('-S none', True), ('-L 1:a:2', True),
    ('-R 1:a:2', True), ('-D1080', True), ('-w 0:0', True), ('-o RemoteForward="1 a:2"', True),
    ('-o ExitOnForwardFailure=yes', True),
    ('-F /etc/ssh/other', False), ('-i /keys/-S', False), ('-i -S', False), ('-J -L', False),
    ('-o ProxyCommand="ssh -S /x -W %h:%p jump"', False),
    ('-o ServerAliveInterval=5 -p 22', False)])
def test_who_chooses_a_connection_says_so_in_the_arguments(arguments, chosen):
    assert copy.chooses_connection(arguments) is chosen


@pytest.mark.parametrize(('arguments', 'own', 'shared'), [
    (None, '', ''),
    ('', '', ''),
    ('-C -o ControlMaster=auto -o ControlPersist=60s', '', '-o ControlMaster=auto -o ControlPersist=60s'),
    ('-o Compression=yes', '', ''),
    ('-oCompression=yes -p 22', '-p 22', '-p 22'),
    ('-o "Compression yes"', '', ''),
    ('-o Compression=no', '', ''),
    ('-4Cq', '-4q', '-4q'),
    ('-MC', '', '-M'),
    ('-qC -i /keys/C', '-q -i /keys/C', '-q -i /keys/C'),
    ('-i -C', '-i -C', '-i -C'),
    ('-F -oCompression=yes', '-F -oCompression=yes', '-F -oCompression=yes'),
    ('-o ProxyJump=C -o ServerAliveInterval=5', '-o ProxyJump=C -o ServerAliveInterval=5',
     '-o ProxyJump=C -o ServerAliveInterval=5'),
    ('-J jump@C.example -C', '-J jump@C.example', '-J jump@C.example'),
    ('-o ProxyCommand="ssh -C -W %h:%p jump" -C', "-o 'ProxyCommand=ssh -C -W %h:%p jump'",
     "-o 'ProxyCommand=ssh -C -W %h:%p jump'"),
    ('-o controlpath=/tmp/x -o UserKnownHostsFile=/dev/null', '-o UserKnownHostsFile=/dev/null',
     '-o controlpath=/tmp/x -o UserKnownHostsFile=/dev/null'),
])
def test_ssh_arguments_lose_compression_and_for_an_own_connection_the_shared_one_and_nothing_else(arguments, own,
                                                                                                  shared):
    assert (copy.without_compression(arguments, True), copy.without_compression(arguments, False)) == (own, shared)


WORDS = st.lists(st.sampled_from(['-o', '-C', '-4C', '-v', '-oPort=22', 'ProxyJump=a', 'Compression=yes',
                                  'ControlMaster=auto', '-F', '-S', '-M', '-i', "it's",
                                  'a b', '']))


@given(WORDS, st.booleans())
@example(['-o'], True)
@example(['-F'], True)
@example(['-i', '-o', '-C'], False)
def test_any_ssh_arguments_come_out_as_arguments_that_do_not_compress(words, own):
    kept = copy.without_compression(shlex.join(words), own)
    assert copy.without_compression(kept, own) == kept
    assert copy.chooses_connection(kept) <= copy.chooses_connection(shlex.join(words))


@pytest.fixture(name='connection')
def fixture_connection():
    connection = connection_loader.get('ssh', PlayContext(), os.devnull)
    connection.set_options()
    return connection


@pytest.mark.parametrize(('options', 'own'), [
    ({}, True), ({'ssh_args': '-C -o ControlMaster=auto -o ControlPersist=60s'}, True),
    ({'ssh_common_args': '-J jump'}, True), ({'control_path': '/tmp/%h'}, False),
    ({'ssh_args': '-o ControlPath=/tmp/x -C'}, False), ({'ssh_extra_args': '-S none'}, False),
    ({'ssh_common_args': '-R 1:a:2'}, False),
    ({'ssh_extra_args': '-o ControlMaster=no'}, False)])
def test_for_one_call_a_connection_is_its_own_unless_the_user_chose_one_and_afterwards_it_is_as_it_was(connection,
                                                                                                       options, own):
    for name, value in options.items():
        connection.set_option(name, value)
    names = ('ssh_args', 'ssh_common_args', 'ssh_extra_args', 'reconnection_retries', 'control_path')
    before = {name: connection.get_option(name) for name in names}
    method = connection._send_initial_data

    def send(*_args):
        raise AssertionError

    with pytest.raises(KeyboardInterrupt), copy.streaming(connection, send):
        args = connection.get_option('ssh_args')
        assert connection._send_initial_data is send and connection.get_option('reconnection_retries') == 0
        assert '-C' not in shlex.split(args or '')
        assert ('-o ControlPath=none' in args, '-o ControlMaster=no' in args,
                'ClearAllForwardings=yes' in args) == (own, own, own)
        raise KeyboardInterrupt
    assert {name: connection.get_option(name) for name in names} == before
    assert connection._send_initial_data == method and '_send_initial_data' not in vars(connection)


def test_only_the_ssh_plugin_of_ansible_core_is_streamed_through(connection, monkeypatch):
    class Derived(type(connection)):
        transport = 'ssh'

    def made(cls):
        return cls.__new__(cls)

    assert copy.is_core_ssh(connection)
    assert not copy.is_core_ssh(made(Derived))
    assert not copy.is_core_ssh(made(connection_loader.get('local', class_only=True)))
    assert not copy.is_core_ssh(object())
    monkeypatch.delattr(type(connection), '_send_initial_data')
    assert not copy.is_core_ssh(connection)


# --- the stream


class Counted:
    """What a stream says of its progress."""

    def __init__(self):
        self.last = None

    def at(self, done):
        assert self.last is None or done >= self.last
        self.last = done


@pytest.fixture(name='started')
def fixture_started():
    """Return a function that starts a process whose standard input is a pipe; all of them end with the test."""
    processes = []

    def start(*words, **keywords):
        processes.append(subprocess.Popen(words, stdin=subprocess.PIPE, **keywords))
        return processes[-1]
    yield start
    for process in processes:
        process.kill()
        process.wait()


def stream(path, process, start=0, size=None):
    """Stream the file *path* into *process*; return the bytes sent and those that progress was told."""
    counted = Counted()
    with open(path, 'rb', buffering=0) as file:
        file.seek(start)
        sending = copy.Stream(file, str(path), start, os.path.getsize(path) if size is None else size, counted)
        sending(process.stdin, b'', process)
    return sending.sent, counted.last


@pytest.mark.parametrize('length', [0, 1, copy.BLOCK - 1, copy.BLOCK, copy.BLOCK + 1, (1 << 20) + 7, 5 << 20])
@pytest.mark.parametrize('start', [0, copy.BLOCK, 'all'])
def test_a_stream_is_the_rest_of_the_file(tmp_path, started, length, start):
    content = os.urandom(length)
    start = length if start == 'all' else min(start, length // copy.BLOCK * copy.BLOCK)
    (tmp_path / 'k3s').write_bytes(content)
    with open(tmp_path / 'out', 'wb') as out:
        cat = started('cat', stdout=out)
        sent, last = stream(tmp_path / 'k3s', cat, start)
        assert not cat.stdin.closed and cat.poll() is None  # where it ends, the node gives up
        cat.stdin.close()
        assert cat.wait(10) == 0
    assert (tmp_path / 'out').read_bytes() == content[start:]
    assert sent == length - start and last == (length if sent else None)


def test_a_file_that_has_grown_is_sent_as_long_as_it_was(tmp_path, started):
    (tmp_path / 'k3s').write_bytes(b'a' * 70000 + b'grown')
    with open(tmp_path / 'out', 'wb') as out:
        cat = started('cat', stdout=out)
        assert stream(tmp_path / 'k3s', cat, size=70000) == (70000, 70000)
        cat.stdin.close()
        cat.wait(10)
    assert (tmp_path / 'out').read_bytes() == b'a' * 70000


def test_a_file_that_has_become_shorter_ends_the_input(tmp_path, started):
    (tmp_path / 'k3s').write_bytes(b'a' * 70000)
    with open(tmp_path / 'out', 'wb') as out:
        cat = started('cat', stdout=out)
        assert stream(tmp_path / 'k3s', cat, size=70001) == (70000, 70000)
        assert cat.stdin.closed and cat.wait(10) == 0


def test_a_process_that_ends_early_has_said_why_and_that_is_for_the_plugin(tmp_path, started):
    (tmp_path / 'k3s').write_bytes(bytes(5 << 20))
    head = started('head', '-c', '100', stdout=subprocess.DEVNULL)
    sent, _last = stream(tmp_path / 'k3s', head)
    assert sent < 5 << 20 and head.wait(10) == 0


def test_a_process_that_lives_and_takes_nothing_more_is_a_broken_connection_and_ends(tmp_path, started):
    (tmp_path / 'k3s').write_bytes(bytes(5 << 20))
    sleep = started('sh', '-c', 'exec sleep 60 <&-')
    with pytest.raises(AnsibleConnectionFailure, match='ssh takes no more data'):
        stream(tmp_path / 'k3s', sleep)


def test_a_process_that_never_takes_anything_is_a_broken_connection_and_is_ended(tmp_path, started, monkeypatch):
    monkeypatch.setattr(copy, 'STALL_SECONDS', 0.3)
    (tmp_path / 'k3s').write_bytes(bytes(5 << 20))
    sleep = started('sleep', '60')
    with pytest.raises(AnsibleConnectionFailure, match='took no data for 0.3 seconds'):
        stream(tmp_path / 'k3s', sleep)
    assert sleep.wait(10) == -signal.SIGKILL


def test_a_file_that_cannot_be_read_any_more_ends_the_transfer_with_a_sentence(started):
    """The memory of a process cannot be read at its beginning: a real EIO."""
    cat = started('cat', stdout=subprocess.DEVNULL)
    with pytest.raises(copy.StagingError) as caught:
        stream('/proc/self/mem', cat, size=1000)
    assert (caught.value.message
            == f'/proc/self/mem cannot be read any more: {os.strerror(errno.EIO)}. Nothing was put in place.')
    assert cat.wait(10) == -signal.SIGKILL


def test_what_ends_the_task_ends_the_transfer(tmp_path, started):
    """As the time limit of a task does it: an exception out of a signal."""
    class Ended(Exception):
        pass

    def end(_signal, _frame):
        raise Ended
    (tmp_path / 'k3s').write_bytes(bytes(5 << 20))
    sleep = started('sleep', '60')
    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Ended):
            stream(tmp_path / 'k3s', sleep)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sleep.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(('there', 'start'),
                         [(b'', 0), (b'abc', 3), (b'abcdef', 6), (b'abX', 0), (b'abcdefg', 0), (None, 0)])
def test_a_partial_file_is_continued_where_it_ends_if_it_is_the_beginning(there, start):
    partial = None if there is None else copy.Partial('dir', '1', len(there), hashlib.sha256(there).hexdigest(), DIGEST)
    assert copy.resume_at(io.BytesIO(b'abcdef'), 'k3s', partial) == start


# --- progress


@pytest.mark.parametrize(('done', 'sent', 'seconds', 'line'), [
    (50_000_000, 50_000_000, 10, 'node: k3s 25 % (50.0 of 200.0 MB, 5.0 MB/s, 30 s left)'),
    (150_000_000, 50_000_000, 10, 'node: k3s 75 % (150.0 of 200.0 MB, 5.0 MB/s, 10 s left)'),
    (200_000_000, 50_000_000, 10, 'node: k3s 100 % (200.0 of 200.0 MB, 5.0 MB/s, done)'),
    (0, 0, 10, 'node: k3s 0 % (0.0 of 200.0 MB, 0.0 MB/s, 200000000 s left)')])
def test_a_line_of_progress_has_percent_bytes_rate_and_time_left(done, sent, seconds, line):
    assert copy.progress_line('node', 'k3s', done, 200_000_000, sent, seconds) == line


@pytest.mark.parametrize(('after', 'silent', 'lines'), [(0, False, 2), (0, True, 0), (60, False, 0)])
def test_progress_is_for_a_person_on_standard_error_and_only_if_it_lasts(monkeypatch, capsys, after, silent, lines):
    monkeypatch.setattr(copy, 'PROGRESS_AFTER', after)
    monkeypatch.setattr(copy, 'PROGRESS_EVERY', 0)
    progress = copy.Progress('node', 'k3s', 100, 0, silent)
    time.sleep(0.01)
    progress.at(50)
    progress.at(100)
    progress.finish()
    out, err = capsys.readouterr()
    assert (out, err.count('node: k3s ')) == ('', lines)


@pytest.mark.parametrize(('callback', 'one_line', 'people'), [
    ('default', False, True), ('ansible.builtin.default', None, True), ('community.general.yaml', False, True),
    ('json', False, False),
    ('ansible.posix.json', False, False), ('ansible.posix.jsonl', False, False), ('oneline', False, False),
    ('default', True, False)])
def test_progress_is_not_printed_where_a_program_reads(monkeypatch, callback, one_line, people):
    monkeypatch.setattr(C, 'DEFAULT_STDOUT_CALLBACK', callback)
    monkeypatch.setattr(context, 'CLIARGS', ImmutableDict({} if one_line is None else {'one_line': one_line}))
    assert copy.is_read_by_people() is people


def test_the_archives_and_the_install_path_are_those_of_the_lookup():
    lookup = support.load_plugin('plugins/lookup/k3s_artifact.py')
    assert set(copy.ARCHIVE_SUFFIXES) == set(lookup.ARCHIVE_SUFFIXES)
    assert all(name.startswith('k3s') for name in lookup.BINARY_NAMES)  # only such tasks load the lookup


# --- the program on a node: real shells, a folder of this machine, programs in front of its PATH

WORD = 'a1b2c3d4e5f60718'
SHM = Path('/dev/shm')


class Place:
    """A folder that stands for a node, whose /bin/sh and "sh" are one shell."""

    def __init__(self, folder, shell):
        self.shell, self.folder, self.bin, self.programs = shell, folder, folder / 'node' / 'bin', folder / 'programs'
        self.bin.mkdir(parents=True)
        self.programs.mkdir()
        self.dest = self.bin / 'k3s'
        self.program('sh', f'exec {shutil.which(shell[0])} {shlex.join(shell[1:])} "$@"')
        self.content = support.program()
        self.node = None

    def program(self, name, text):
        """Put a shell script in front of the PATH; $real is the program of that name."""
        (self.programs / name).write_text(f'#!/bin/sh\nreal={shutil.which(name)}\n{text}\n')
        (self.programs / name).chmod(0o755)

    def job(self, kind='binary', **values):
        digest = hashlib.sha256(self.content).hexdigest()
        found = artifact(arch=NATIVE, machine=MACHINE, size=len(self.content), sha256=digest)
        return job(kind, **{'artifact': found, 'dest': str(self.dest), **values})

    def start(self, program, limit=10):
        """Start a program as ansible-core does."""
        text = copy.shell_command(copy.shell_program(program, block=copy.BLOCK, age=copy.STALE, limit=limit,
                                                     nobody=copy.NOBODY))
        environment = {**os.environ, 'PATH': f'{self.programs}:{os.environ["PATH"]}'}
        return subprocess.Popen([*self.shell, '-c', text], env=environment, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def run(self, program, data=b'', **limits):
        """Run a program with *data* as its input, which stays open until the program ends; return what it answered."""
        process = self.start(program, **limits)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(data)
            process.stdin.flush()
        out = process.stdout.read()
        process.wait(10)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return copy.answers(out.decode('utf-8', 'replace'), WORD)

    def look(self, wanted=None):
        wanted = wanted or self.job()
        found = self.run(copy.LOOK + copy.shell_program('look', word=WORD, **wanted.target.variables()))
        assert found['end'] == ['yes']
        return parse(found)

    def install(self, wanted=None, script=copy.RECEIVE_AND_INSTALL, data=None, **values):
        """Look, then receive and install; return the answers."""
        wanted = wanted or self.job()
        limits = {name: values.pop(name) for name in ('limit',) if name in values}
        node = self.look(wanted)._replace(machine=values.pop('machine', os.uname().machine))
        program = copy.shell_program(script, **{**copy.variables_of(wanted, node), 'word': WORD, **values})
        return self.run(program, self.content[int(values.get('start', 0)):] if data is None else data, **limits)

    def part(self, content, pid=2 ** 22 + 5, digest=None, age=0, folder=None, base='k3s'):
        """Leave a partial file of the process *pid*, which is none unless it is told; return its path."""
        path = (folder
                or self.bin) / f'.k3s-artifact.{base}.{digest or hashlib.sha256(self.content).hexdigest()}.{pid}.part'
        path.write_bytes(content)
        path.chmod(0o600)
        os.utime(path, (time.time() - age,) * 2)
        return path

    def beside(self):
        return sorted(path.name for path in self.bin.iterdir() if path.name != 'k3s')


@pytest.fixture(name='place', params=POSIX_SHELLS, ids=' '.join)
def fixture_place(tmp_path, request):
    return Place(tmp_path, request.param)


def test_look_says_what_is_at_the_destination(place):
    assert (place.look().kind, place.look().status, place.look().folder,
            place.look().writable) == ('absent', {}, True, True)
    place.dest.write_bytes(place.content)
    place.dest.chmod(0o751)
    node = place.look()
    assert (node.machine, node.arch, node.kind, node.sha256,
            node.holds) == (MACHINE, NATIVE, 'file', hashlib.sha256(place.content).hexdigest(), NATIVE)
    assert node.status == {'mode': '0751', 'uid': os.getuid(), 'gid': os.getgid(), 'owner': node.user,
                           'group': place.dest.group(), 'size': len(place.content)}
    assert node.version == '' and node.is_root == (os.getuid() == 0) and node.free > 10 ** 6
    assert not place.beside()


@pytest.mark.parametrize(('make', 'kind'), [
    (lambda path: path.mkdir(), 'directory'), (os.mkfifo, 'other'), (lambda path: path.symlink_to('nowhere'), 'link'),
    (lambda path: path.symlink_to('.'), 'directory')])
def test_look_does_not_stop_at_what_is_no_file(place, make, kind):
    make(place.dest)
    assert place.look().kind == kind


def test_look_asks_a_file_of_another_content_for_its_version(place):
    place.dest.write_bytes(support.program('k3s version v1.30.8+k3s2 (other)'))
    assert place.look().version == ''  # it is not executable
    place.dest.chmod(0o755)
    assert place.look().version == 'v1.30.8+k3s2'
    assert place.look(place.job(trial=False)).version == ''


@pytest.mark.parametrize(('folder', 'blocked'), [('a/b', None), ('file/b', 'file'), ('dangling/b', 'dangling')])
def test_look_finds_what_is_in_the_way_of_a_folder(place, folder, blocked):
    (place.bin / 'file').write_text('')
    (place.bin / 'dangling').symlink_to('nowhere')
    node = place.look(place.job(dest=f'{place.bin}/{folder}/k3s'))
    assert (node.folder, node.blocked) == (False, f'{place.bin}/{blocked}' if blocked else '')


def test_a_path_with_anything_in_it_is_one_path(place):
    place.dest = place.bin / "it's $(touch x) `id` \\ \u00fc  \t!"
    place.dest = place.dest.parent / place.dest.name
    answer = place.install()
    assert answer['end'] == ['yes'] and place.dest.read_bytes() == place.content and place.look().kind == 'file'
    assert [path.name for path in place.bin.iterdir()] == [place.dest.name]


def test_a_file_is_received_tried_and_put_in_place_with_its_attributes(place):
    place.dest.write_bytes(b'old')
    witness = place.bin.parent / 'witness'
    os.link(place.dest, witness)
    answer = place.install(place.job(mode='0711', owner=str(os.getuid()), group=str(os.getgid())))
    assert answer['version'] == ['k3s version v1.31.4+k3s1 (abcdef12)']
    assert copy.parse_status(answer)['mode'] == '0711' and 'failed' not in answer
    assert place.dest.read_bytes() == place.content and place.beside() == []
    assert witness.read_bytes() == b'old'  # a rename: a K3s that runs keeps its file


@pytest.mark.parametrize('length', [0, 1, copy.BLOCK - 1, copy.BLOCK, copy.BLOCK + 1, 3 * copy.BLOCK, 1_000_003])
def test_every_length_arrives_whole(place, length):
    place.content = os.urandom(length)
    answer = place.install(place.job(trial=False))
    assert answer.get('end') == ['yes'], answer
    assert place.dest.read_bytes() == place.content and place.beside() == []


@pytest.mark.parametrize('living', [False, True], ids=['of a dead process', 'of a living process'])
@pytest.mark.parametrize('length', [copy.BLOCK, 2 * copy.BLOCK + 7, 300_000],
                         ids=['a block', 'more than blocks', 'the whole file'])
def test_what_an_earlier_run_left_is_taken_over_and_continued(place, living, length, started):
    """A living process keeps its own file, which is another one from then on: it can write to it and disturbs
    nothing."""
    place.content = os.urandom(300_000)
    writer = started('sleep', '60').pid if living else 2 ** 22 + 5
    left = place.part(place.content[:length], pid=writer)
    with open(left, 'ab') as old_session:
        wanted = place.job(trial=False)
        node = place.look(wanted)
        partial = node.partial(wanted.artifact.sha256)
        if living and length == len(place.content):
            assert partial is None, 'it is about to put that in place itself'
            return
        usable = length if length == 300_000 else length // copy.BLOCK * copy.BLOCK
        assert (partial.place, partial.pid, partial.length) == ('dir', str(writer), usable)
        assert partial.digest == hashlib.sha256(place.content[:usable]).hexdigest()
        answer = place.install(wanted, start=usable, old=f'dir {writer}')
        if living:
            old_session.write(b'late')
            old_session.flush()
    assert answer['end'] == ['yes'] and place.dest.read_bytes() == place.content and place.beside() == []


def test_a_partial_file_that_grows_is_not_offered(place, started):
    place.content = os.urandom(2_000_000)
    left = place.part(place.content[:copy.BLOCK], pid=os.getpid())
    started('sh', '-c', f'while sleep 0.2; do echo more >>{left}; done')
    assert place.look().partials == ()


@pytest.mark.parametrize('what', ['longer than the file', 'too old', 'a pipe', 'a link', 'a directory'])
def test_a_partial_file_that_is_none_is_not_continued_and_does_no_harm(place, what):
    place.content = os.urandom(200_000)
    path = place.part(place.content[:copy.BLOCK], age=2 * 86400 if what == 'too old' else 0)
    precious = place.bin.parent / 'precious'
    precious.write_bytes(place.content[:copy.BLOCK])
    if what == 'longer than the file':
        path.write_bytes(place.content + b'x' * copy.BLOCK)
    elif what != 'too old':
        path.unlink()
        {'a pipe': os.mkfifo, 'a link': lambda path: path.symlink_to(precious), 'a directory': os.mkdir}[what](path)
    wanted = place.job(trial=False)
    node = place.look(wanted)
    if what == 'longer than the file':
        assert copy.resume_at(io.BytesIO(place.content), 'k3s', node.partial(wanted.artifact.sha256)) == 0
    else:
        assert node.partials == ()
    assert place.install(wanted)['end'] == ['yes']
    assert place.dest.read_bytes() == place.content and precious.read_bytes() == place.content[:copy.BLOCK]
    assert place.beside() == ([path.name] if what == 'a directory' else [])


def test_stale_partial_files_are_swept_counted_as_room_and_others_left(place, started):
    """Of another digest: those of nobody. Of another name: those of yesterday. What is not ours, or written to by a
    process that lives, stays."""
    living = started('sleep', '60').pid
    swept = [place.part(b'x' * 10000, digest='1' * 64),
             place.part(b'x' * 10000, digest='2' * 64, base='other', age=2 * 86400),
             place.part(b'x' * 10000, age=2 * 86400)]
    kept = [place.part(b'x', digest='3' * 64, pid=living), place.part(b'x', digest='4' * 64, base='other'),
            place.part(b'x', digest='5' * 64, base='k3s.more.tar')]
    without_number = place.bin / f'.k3s-artifact.k3s.{"6a" * 32}.part'  # as of release 1.0.0
    without_number.write_bytes(b'x' * 10000)
    swept.append(without_number)
    (place.bin / 'not-ours.part').write_text('keep')
    (place.bin / '.k3s-artifact.k3s.d').mkdir()
    place.program('df', 'echo "Filesystem 1024-blocks Used Available Capacity Mounted on"; echo '
                  '"/dev/x 100 100 0 100% /"')
    assert place.look().free == 40000
    assert place.install()['end'] == ['yes']
    assert place.beside() == sorted(['not-ours.part', '.k3s-artifact.k3s.d', *(path.name for path in kept)])
    assert not any(path.exists() for path in swept)


def test_an_archive_waits_above_the_folder_that_k3s_watches(place):
    """Looked at in the middle of the transfer: nothing of it is in the folder, and nothing has an archive's suffix."""
    images = place.bin.parent / 'agent' / 'images'
    images.mkdir(parents=True)
    place.dest, place.content = images / 'a.tar', os.urandom(200_000)
    wanted = place.job('archive', dest=str(place.dest), trial=False)
    node = place.look(wanted)
    program = copy.shell_program(copy.RECEIVE_AND_INSTALL, **copy.variables_of(wanted, node), word=WORD)
    process = place.start(program)
    process.stdin.write(place.content[:150_000])
    process.stdin.flush()
    end = time.monotonic() + 10
    while not any(path.stat().st_size for path in images.parent.glob('.k3s-artifact*.part')):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not list(images.iterdir())
    process.stdin.write(place.content[150_000:])
    process.stdin.flush()
    assert b'end=yes' in process.stdout.read()
    process.stdin.close()
    process.wait()
    assert place.dest.read_bytes() == place.content and [path.name for path in images.parent.iterdir()] == ['images']


@pytest.mark.skipif(not os.access(SHM, os.W_OK), reason='there is no second file system here')
def test_an_images_folder_on_another_file_system_has_its_partial_file_there(place, request):
    """A link to another disk: a rename from outside would be a copy. So it waits in the folder itself."""
    disk = SHM / f'k3s-artifact-test-{os.getpid()}-{abs(hash(request.node.name))}'
    disk.mkdir()
    try:
        (place.bin.parent / 'agent').mkdir()
        (place.bin.parent / 'agent' / 'images').symlink_to(disk)
        place.dest = place.bin.parent / 'agent' / 'images' / 'a.tar'
        place.dest.write_bytes(b'old')
        wanted = place.job('archive', dest=str(place.dest), trial=False)
        answer = place.install(wanted)
        assert answer['end'] == ['yes'] and answer['part'][0].startswith('dir ')
        assert (disk / 'a.tar').read_bytes() == place.content
        assert [path.name for path in disk.iterdir()] == ['a.tar']
        assert [path.name for path in (place.bin.parent / 'agent').iterdir()] == ['images']
    finally:
        shutil.rmtree(disk)


def refused(place, kind, reason='', kept=b'old', **values):
    """Install over an old file, for which *kind* is what it is refused for; nothing may have changed. Return the
    answers."""
    place.dest.write_bytes(b'old')
    answer = place.install(**values)
    assert answer.get('failed') == [kind], answer
    assert reason in answer['reason'][0] and 'end' not in answer
    assert place.dest.read_bytes() == kept
    return answer


def test_a_node_that_is_another_machine_than_before_gets_nothing(place):
    refused(place, 'machine', os.uname().machine, machine='sparc64')


def test_a_file_that_arrives_damaged_is_thrown_away(place):
    refused(place, 'digest', data=b'X' + place.content[1:])
    assert place.beside() == []


@pytest.mark.parametrize(('text', 'status'), [('no luck', 1), ('', 127)])
def test_a_program_that_the_node_cannot_run_is_thrown_away(place, text, status):
    place.content = support.program(text, status=status)
    refused(place, 'run', f'exit status {status}: {text or "it printed nothing"}')
    assert place.beside() == []


def test_what_the_kernel_does_not_run_is_not_run_as_a_script(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place.content = support.elf(NATIVE, body=b'\ntouch ran\necho k3s version v1.31.4+k3s1\nexit 0\n')
    refused(place, 'run', 'exit status ')
    assert place.beside() == [] and not Path('ran').exists()


ENDLESS = {
    'sleeps': 'sleep 600', 'ignores what ends it': "trap '' TERM HUP INT PIPE; while :; do sleep 600; done",
    'prints for ever': 'yes',
    'leaves a child behind': 'sleep 600 & echo k3s version v1; exit 1', 'has children': 'sleep 600 & sleep 601 & wait',
    'in a loop of its own': 'while :; do :; done'}


def descendants_of(marker):
    """Return the processes whose environment has *marker*."""
    found = []
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            if marker.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append((path.parent / 'cmdline').read_bytes().replace(b'\0', b' '))
        except OSError:
            pass
    return found


@pytest.mark.parametrize('what', ENDLESS)
def test_a_trial_run_ends_in_time_with_its_children_and_nothing_is_installed(place, what, monkeypatch):
    marker = f'K3S_ARTIFACT_TEST={place.bin}'
    monkeypatch.setenv(*marker.split('='))
    place.content = b'#!/bin/bash\n' + ENDLESS[what].encode() + b'\n'
    began = time.monotonic()
    refused(place, 'run', {'leaves a child behind': 'exit status 1',
                           'prints for ever': ''}.get(what, 'it did not end within 1 seconds'), limit=1)
    assert time.monotonic() - began < 15
    assert place.beside() == []
    end = time.monotonic() + 10
    while descendants_of(marker):
        assert time.monotonic() < end, descendants_of(marker)
        time.sleep(0.05)


def test_a_program_that_prints_a_gigabyte_is_cut(place):
    place.content = b'#!/bin/bash\necho k3s version v1.31.4+k3s1\nhead -c 1000000000 /dev/zero\n'
    began = time.monotonic()
    answer = place.install(limit=2)
    assert time.monotonic() - began < 20
    assert all(len(value) <= copy.LONGEST_ANSWER + 3 for values in answer.values() for value in values)
    assert place.beside() == []


def test_a_program_that_dies_leaves_no_core_file(place, tmp_path, monkeypatch):
    """Whatever the node allows: what it is let run finds that none may be written."""
    monkeypatch.setattr(place, 'shell', ['prlimit', '--core=unlimited', *place.shell])
    limits = tmp_path / 'limits'
    place.content = f'#!/bin/bash\necho "trial $(ulimit -c)" >>{limits}\necho k3s version v1.31.4+k3s1\n'.encode()
    place.program('openssl', f'echo "digest $(ulimit -c)" >>{limits}; exec $real "$@"')
    assert place.install()['end'] == ['yes']
    assert set(limits.read_text().splitlines()) == {'trial 0', 'digest 0'}


def test_a_program_gets_no_input(place):
    place.content = b'#!/bin/bash\nread line && exit 3\necho k3s version v1.31.4+k3s1\n'
    assert place.install()['end'] == ['yes']


def test_a_trial_that_ends_at_once_leaves_no_clock_behind(place):
    """The clock may be no more than a fork of the shell yet when it is stopped, which loses a TERM."""
    limit = 1_000_000 + id(place) % 1_000_000
    program = copy.shell_program(copy.COMMON + 'i=0; while [ $i -lt 60 ]; do guarded true; i=$((i + 1)); done',
                                 word=WORD)
    for process in [place.start(program, limit=limit) for _number in range(8)]:
        process.communicate(timeout=120)
    time.sleep(0.5)
    clocks = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            if path.read_bytes() == f'sleep\0{limit}\0'.encode():
                clocks.append(int(path.parent.name))
                os.kill(clocks[-1], signal.SIGKILL)
    assert clocks == []


def test_a_restorecon_that_never_ends_does_not_hold_the_run(place):
    place.program('restorecon', 'exec sleep 600')
    began = time.monotonic()
    assert place.install(limit=1)['end'] == ['yes']
    assert time.monotonic() - began < 15 and place.dest.read_bytes() == place.content


DIES_OF_A_FILE = 't=$(mktemp); cat >"$t"; [ "$(wc -c <"$t")" -gt 20 ] || $real "$@" <"$t"; rm "$t"'


@pytest.mark.parametrize('broken', [
    {'openssl': DIES_OF_A_FILE}, {'openssl': 'exit 1', 'python3': 'cat >/dev/null; printf %064d'},
    {'openssl': 'exit 1', 'python3': 'echo Loading the environment; exec $real "$@"'},
    {'openssl': 'exit 1'}, {'openssl': 'echo 0000 *stdin'}, {'openssl': 'cat >/dev/null; echo %s' % ('0' * 64)},
    {'openssl': 'exit 1', 'python3': 'exit 1'},
    {'openssl': 'echo', 'python3': 'echo ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'}])
def test_a_broken_digest_program_is_passed_over(place, broken):
    for name, text in broken.items():
        place.program(name, text)
    assert place.install()['end'] == ['yes']
    assert place.dest.read_bytes() == place.content
    assert place.look().sha256 == hashlib.sha256(place.content).hexdigest()


def test_without_any_digest_program_that_works_nothing_is_installed(place):
    for name in ('openssl', 'python3', 'sha256sum'):
        place.program(name, 'cat >/dev/null; echo %s -' % ('0' * 64))
    refused(place, 'nodigest')


def test_what_no_program_can_read_is_not_called_the_fault_of_the_programs(place):
    place.program('openssl', DIES_OF_A_FILE)
    place.program('python3', 'exit 1')
    place.program('sha256sum', DIES_OF_A_FILE)
    refused(place, 'digest')


def test_a_partial_file_that_is_taken_away_before_its_last_bytes_is_not_made_anew(place):
    place.content = os.urandom(200_001)
    place.program('dd', f'case $* in *count=1) rm -f {place.bin}/.k3s-artifact.*.part ;; esac; exec $real "$@"')
    refused(place, 'gone', wanted=place.job(trial=False))


def test_what_cannot_be_written_says_why_and_is_kept_for_the_next_run(place):
    place.content = os.urandom(200_000)
    place.program('dd', 'case $* in *of=*) head -c 65536 | $real "$@"; echo "No space left on device" >&2; exit 1 ;; '
                  '*) exec $real "$@" ;; esac')
    refused(place, 'write', 'No space left', wanted=place.job(trial=False))
    [name] = place.beside()
    path = place.bin / name
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() == place.content[:path.stat().st_size]


@pytest.mark.parametrize('moment', ['in the middle of the transfer', 'while the new binary is tried'])
def test_when_the_input_ends_nothing_is_put_in_place(place, moment):
    place.dest.write_bytes(b'old')
    place.content = b'#!/bin/bash\nsleep 1.5\necho k3s version v1\n' + b'#' * 200_000
    wanted = place.job()
    node = place.look(wanted)
    program = copy.shell_program(copy.RECEIVE_AND_INSTALL, **copy.variables_of(wanted, node), word=WORD)
    process = place.start(program, limit=20)
    process.stdin.write(place.content if moment != 'in the middle of the transfer' else place.content[:150_000])
    process.stdin.flush()
    time.sleep(0.7)
    process.stdin.close()
    answer = copy.answers(process.stdout.read().decode(), WORD)
    process.wait(10)
    assert answer['failed'] == ['short' if moment == 'in the middle of the transfer'
                                else 'gone'] and 'end' not in answer, answer
    time.sleep(1.5)
    assert place.dest.read_bytes() == b'old'


def test_checked_first_and_put_in_place_later(place):
    place.dest.write_bytes(b'old')
    wanted = place.job()
    answer = place.install(wanted, only='check')
    assert answer['end'] == ['yes'] and place.dest.read_bytes() == b'old'
    [name] = place.beside()
    assert (place.bin / name).stat().st_mode & 0o777 == 0o600
    waiting, token = answer['part'][0], answer['token'][0]
    assert re.fullmatch(r'dir [0-9]{1,10}', waiting) and re.fullmatch(r'[0-9 ]{1,60}', token)
    placed = place.install(wanted, copy.INSTALL_ONLY, only='place', waiting=waiting, token=token)
    assert placed['end'] == ['yes'] and place.dest.read_bytes() == place.content and place.beside() == []


def test_what_was_changed_since_it_was_checked_is_not_put_in_place(place):
    wanted = place.job()
    answer = place.install(wanted, only='check')
    [name] = place.beside()
    (place.bin / name).write_bytes(b'#' * len(place.content))
    os.utime(place.bin / name, (1, 1))
    refused(place, 'gone', wanted=wanted, script=copy.INSTALL_ONLY, only='place', waiting=answer['part'][0],
            token=answer['token'][0])


def test_a_destination_that_has_become_a_directory_stays_one(place):
    wanted = place.job()
    answer = place.install(wanted, only='check')
    place.dest.mkdir()
    placed = place.install(wanted, copy.INSTALL_ONLY, only='place', waiting=answer['part'][0], token=answer['token'][0])
    assert placed['failed'] == ['directory'] and not list(place.dest.iterdir())


def test_attributes_alone_leave_the_file(place):
    place.dest.write_bytes(place.content)
    inode = place.dest.stat().st_ino
    answer = place.install(place.job(mode='0700'), copy.INSTALL_ONLY)
    assert answer['end'] == ['yes'] and copy.parse_status(answer)['mode'] == '0700'
    assert (place.dest.stat().st_ino, place.dest.stat().st_mode & 0o777) == (inode, 0o700)
    failed = place.install(place.job(owner='no-such-user'), copy.INSTALL_ONLY)
    assert failed['failed'] == ['attributes'] and 'no-such-user' in failed['reason'][0]


def test_an_owner_that_does_not_exist_leaves_the_old_file(place):
    refused(place, 'attributes', 'no-such-user', wanted=place.job(owner='no-such-user'))


def test_a_file_of_the_node_is_taken_in_place_of_the_input(place):
    (place.bin.parent / 'sent').write_bytes(place.content)
    answer = place.install(data=b'', **{'from': str(place.bin.parent / 'sent')})
    assert answer['end'] == ['yes'] and place.dest.read_bytes() == place.content
