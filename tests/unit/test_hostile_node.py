# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that answers every verb at random: whatever it says, what goes to it is what the task says, or a sentence ends
the task.

There is no node: its answers are made up, and spoilt as the stand-in for ssh spoils those of real programs. So ten
thousand nodes take minutes; K3S_ARTIFACT_FUZZ_EXAMPLES sets their number.
"""

from __future__ import annotations

import ast
import hashlib
import os
import random
import re
import shlex
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader

import support

copy = support.load_plugin('plugins/action/copy.py')
stage = support.collection_module('plugins.action.stage')
spoil = support.load_plugin('tests/standin/ssh.py').spoil

EXAMPLES = int(os.environ.get('K3S_ARTIFACT_FUZZ_EXAMPLES', '300'))
CONTENT = bytes(range(256)) * 800  # three blocks and a piece
DIGEST = hashlib.sha256(CONTENT).hexdigest()
DEST = {'binary': '/usr/local/bin/k3s', 'archive': '/data/agent/images/a.tar',
        'script': '/usr/local/bin/k3s-install.sh'}
ARCHS = {machine: arch for arch, machine in support.MACHINES.items()}
HARMLESS = re.compile('[^{]*({(?![{%#])[^{]*)*')
MADE_UP = {  # by the variable that goes into a program, what it may be at most
    'word': '[0-9a-f]{16}', 'proof': '[0-9a-f]{64}', 'start': '[0-9]+', 'old': '((up|dir) [0-9]{1,10})?',
    'waiting': '((up|dir) [0-9]{1,10})?', 'token': '[0-9 ]{0,60}', 'keep': '([0-9]{1,18}:[0-9]{1,18})?',
    'from': '(/tmp/of-the-task/artifact)?', 'probe': '(yes)?', 'version': '(yes)?', 'outside': '(yes)?',
    'only': '(check|place)?', 'machine': '.{0,303}', 'mode': '0[67][0-7]{2}', 'owner': '(root)?',
    'group': '(root)?'}


class Node:
    """What stands for the task's action, its connection and the node behind it."""

    _task = SimpleNamespace(no_log=True)

    def __init__(self, seed, source, streams):
        self.chance, self.source, self.commands, self.sent = random.Random(seed), source, [], []
        if streams:
            self._connection = connection_loader.get('ssh', PlayContext(), os.devnull)
            self._connection.set_options(direct={'reconnection_retries': self.chance.choice([0, 0, 2])})
        else:
            shell = SimpleNamespace(join_path=os.path.join, tmpdir=None)
            self._connection = SimpleNamespace(_shell=shell, become=None)
        self._connection._shell = SimpleNamespace(join_path=os.path.join, tmpdir=None)
        self._connection.put_file = self.put_file
        self.kinds = [self.chance.choice(['absent', 'file', 'same', 'link', 'directory'])
                      if self.chance.random() < 0.2 else self.chance.choice(['absent', 'file']) for _kind in DEST]

    @staticmethod
    def _make_tmp_path():
        return '/tmp/of-the-task'

    def put_file(self, in_path, out_path):
        assert (in_path, out_path) == (self.source, '/tmp/of-the-task/artifact')
        self.breaks(0.1)

    def breaks(self, share):
        if self.chance.random() < share:
            said = spoil(self.chance, b'Connection to node closed by remote host.\n', b'/mark').decode(errors='replace')
            raise AnsibleConnectionFailure(f'Data could not be sent to remote host: {said}')

    def _low_level_execute_command(self, command, in_data=None):
        program = decoded(command)
        self.commands.append(program)
        assert len(self.commands) < 60, 'it goes on for ever'
        self.breaks(0.03)
        send = vars(self._connection).get('_send_initial_data')
        if send:
            with open(os.devnull, 'wb', buffering=0) as sink:
                send(sink, in_data, SimpleNamespace(poll=lambda: None, kill=lambda: None))
        self.breaks(0.1 if send else 0)
        output = '\n'.join(['Welcome!', *self.answers(program)]).encode() + b'\n'
        for _part in range(self.chance.choice([0, 0, 0, 0, 0, 0, 1, 1, 2, 5])):
            output = spoil(self.chance, output, b'/mark')
        noise = spoil(self.chance, b'sh: 1: k3s: not found\n', b'/mark') if self.chance.random() < 0.2 else b''
        return {'rc': self.chance.choice([0, 0, 0, 1, 255]), 'stdout': output.decode('utf-8', 'surrogateescape'),
                'stdout_lines': [], 'stderr': noise.decode('utf-8', 'surrogateescape')}

    def answers(self, program):
        """Return what a node could answer to each verb of a program."""
        words = re.findall(r'(?m)^word=(\w+)$', program)
        status = ['mode=755', f'uid={self.chance.choice([0, 0, 0, "9" * 30])}', 'gid=0', 'owner=root', 'group=root',
                  f'size={len(CONTENT)}']
        for number, word in enumerate(words):
            if re.search('(?m)^look$', program):
                kind = self.kinds[number % len(self.kinds)]
                lines = ['machine=x86_64', 'user=0 root', f'kind={"file" if kind == "same" else kind}', *status,
                         f'head={support.elf("amd64").hex()[:128]}', 'version=k3s version v1.30.0+k3s1 (old)',
                         f'sha256={DIGEST if kind == "same" else "ab" * 32}', 'folder=yes', 'writable=yes',
                         'free=/dev/vda1 100000 40000 60000 40% /', 'beside=old.tar', 'reclaim=7']
                for _part in range(self.chance.choice([0, 0, 1, 2])):
                    length = self.chance.choice([65536, 131072, len(CONTENT), len(CONTENT) + 1])
                    true = hashlib.sha256(CONTENT[:length]).hexdigest()
                    place = self.chance.choice(['up', 'dir', 'up', '../$(id)'])
                    lines.append(f'part={place} {self.chance.randrange(1 << 22)} {length} '
                                 f'{self.chance.choice([true, DIGEST])} {DIGEST}')
            elif self.chance.random() < 0.1:
                kinds = ('machine', 'gone', 'short', 'digest', 'nodigest', 'attributes', 'run', 'busy', 'directory',
                         'rename', 'write', 'folder', 'nonsense')
                yield from (f'{word}failed={self.chance.choice(kinds)}', f'{word}reason=it said {{{{ 7 * 7 }}}}')
                continue
            else:
                lines = ['part=dir 4242', 'version=k3s version v1.31.4+k3s1 (abcdef12)', 'token=12 34 56', *status]
            yield from (word + line for line in [*lines, 'end=yes'])


def decoded(command):
    """Return the program in the command that a login shell gets."""
    assert command.startswith('eval "$(printf %b \'') and command.endswith('\')"') and '\n' not in command
    return re.sub(r'\\0([0-7]{3})', lambda match: chr(int(match.group(1), 8)), command[19:-3])


def variables(program):
    """Yield (name, value) of all that was set for the verbs of a program."""
    for name, value in re.findall(r"(?m)^([a-z0-9]+)=((?:[^\s'\\;$`|&]|'[^']*'|\"'\")*)$", program):
        yield name, ''.join(shlex.split(value))


def run(node, seed):
    """Bring files to a node as the actions copy and stage do; return what was said in the end, '' for success."""
    jobs = [copy.Job(SimpleNamespace(source=node.source, size=len(CONTENT), sha256=DIGEST, arch='amd64',
                                     machine='x86_64', version='v1.31.4+k3s1', checksum='', verified=[]),
                     kind, dest, '0644' if kind == 'archive' else '0755', *[node.chance.choice([None, 'root'])] * 2,
                     trial=kind == 'binary') for kind, dest in DEST.items()]
    delivery = copy.Delivery(node, 'node', ARCHS.get, lambda head: 'amd64' if head[:4] == b'\x7fELF' else None)
    found = stage.Findings('node')
    entries = []
    for job, looked in zip(jobs, delivery.look(*(job.target for job in jobs))):
        for text in (looked.machine, looked.user, looked.kind, looked.version, looked.blocked, *looked.beside):
            assert HARMLESS.fullmatch(text) and text.isprintable(), (seed, text)
        planned = delivery.plan(job, looked)
        if planned.refusal:
            raise copy.StagingError(f'node: {planned.refusal}.')
        if planned.action == 'nothing':
            continue
        if seed % 2:
            copy.parse_status(delivery.send_and_install(job, looked, planned)[0])
        else:
            sent = delivery.send(job, looked, planned)
            if sent['waiting']:
                entries.append(stage.sent_entry(job, looked, planned, {**sent, 'came': copy.CAME[sent['way']]}))
    if entries:
        parts = [stage.part_of_entry(ast.literal_eval(repr(entry))) for entry in entries]
        assert None not in parts, (seed, entries)
        _done, error = delivery.place(*parts)
        if error:
            raise error
    return found.problems


def check_commands(node, seed):
    """Check that nothing goes to the node but our programs, with the values of the task and harmless ones."""
    scripts = {copy.LOOK, copy.INSTALL_ONLY, copy.RECEIVE_AND_INSTALL, copy.INSTALL_PARTS}
    for program in node.commands:
        assert any(script.strip('\n') in program for script in scripts), (seed, program)
        own = next(script for script in scripts if script.strip('\n') in program)
        rest = program.replace(own.strip('\n'), '')
        for name, value in variables(rest):
            if name in MADE_UP:
                assert re.fullmatch(MADE_UP[name], value) and value.isprintable(), (seed, name, value)
            else:
                wanted = {'dest': DEST.values(), 'base': map(os.path.basename, DEST.values()),
                          'size': [str(len(CONTENT))], 'sha256': [DIGEST], 'block': [str(copy.BLOCK)],
                          'age': [str(copy.STALE)], 'limit': [str(copy.TRIAL_SECONDS)], 'nobody': [str(copy.NOBODY)],
                          'url': [''], 'previous': ['']}  # neither a mirror nor a binary to keep
                assert value in wanted[name], (seed, name, value)
        left = re.sub(r"(?m)^[a-z0-9]+=(?:[^\s'\\;$`|&]|'[^']*'|\"'\")*$", '', rest).split('\n')
        assert set(left) <= {'', 'look', 'put || exit 1'}, (seed, left)
        start = dict(variables(rest)).get('start')
        assert start is None or int(start) <= len(CONTENT), (seed, start)


@pytest.mark.parametrize('streams', [True, False], ids=['stream', 'put_file'])
def test_whatever_a_node_answers_it_gets_what_the_task_says_or_the_task_ends_with_a_sentence(tmp_path, streams):
    source = tmp_path / 'k3s'
    source.write_bytes(CONTENT)
    ended = {}
    for seed in range(EXAMPLES):
        node = Node(seed, str(source), streams)
        try:
            run(node, seed)
            said = ''
        except (copy.StagingError, stage.StagingError, AnsibleConnectionFailure) as error:
            said = copy.to_text(error.message)
            assert isinstance(error, AnsibleConnectionFailure) or HARMLESS.fullmatch(said), (seed, said)
            assert isinstance(error, AnsibleConnectionFailure) or said.isprintable(), (seed, said)
        check_commands(node, seed)
        ended[bool(said)] = ended.get(bool(said), 0) + 1
    assert min(ended.get(True, 0), ended.get(False, 0)) > EXAMPLES / 20, ended
