# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report through Ansible's front doors: what is printed, registered, written, and never evaluated."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import stat
import struct
import subprocess
import termios

import pytest
import yaml

import support

NAMES = ('pi1', 'pi2', 'pi3', 'pi4')

# Stands for the task that looks at a host: returns, fails or is unreachable as a file says, and marks nothing unsafe.
LOOK = '''
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        import json, os
        with open(os.environ['PRETEND_FILE']) as file:
            host = json.load(file)[task_vars['inventory_hostname']]
        if 'away' in host:
            raise AnsibleConnectionFailure(host['away'])
        if 'fails' in host:
            raise AnsibleActionFail(host['fails'])
        return {'changed': True, 'k3s_artifact': host}
'''

# A callback that writes one JSON text on standard output, as those of ansible.posix do.
JSON_CALLBACK = '''
DOCUMENTATION = "name: json\\ntype: stdout\\nshort_description: JSON\\ndescription: JSON."
import json
from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, 'stdout', 'json'
    seen = {}

    def v2_runner_on_ok(self, result):
        task, data = (getattr(result, name, None) or getattr(result, '_' + name) for name in ('task', 'result'))
        self.seen[task.get_name()] = dict(data)

    def v2_playbook_on_stats(self, stats):
        print(json.dumps(self.seen, default=str))
'''

REPORT = {
    'name': 'report',
    'airgap.k3s.report': {'of': 'looked', 'title': 'What each host gets'},
    'run_once': True,
    'register': 'reported',
}


def host(**fields):
    return {
        'machine': 'aarch64',
        'arch': 'arm64',
        'problems': [],
        'warnings': [],
        'unreachable': False,
        'directory': '/srv/airgap',
        'node_version': '',
        'version': 'v1.31.4+k3s1',
        'bytes_to_send': 65000000,
        'free': None,
        'left_out': [],
        'superseded': [],
        'files': [
            {
                'kind': 'binary',
                'source': '/srv/airgap/k3s-arm64',
                'dest': '/usr/local/bin/k3s',
                'size': 65000000,
                'sha256': '0c' * 32,
                'verified': ['ELF header'],
                'version': 'v1.31.4+k3s1',
                'installed': 'absent',
                'action': 'install',
                'bytes_to_send': 65000000,
                'came': '',
                'free': None,
            }
        ],
        **fields,
    }


@pytest.fixture
def play(tmp_path):
    """Return a function that looks at *hosts*, runs *tasks* after that, and returns the run."""

    def run(hosts, *tasks, arguments=(), env=None, before=()):
        for folder, name, text in (('action_plugins', 'look.py', LOOK), ('callback_plugins', 'json.py', JSON_CALLBACK)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        (tmp_path / 'pretend.json').write_text(json.dumps(hosts))
        look = {'name': 'look', 'look': {}, 'register': 'looked', 'ignore_errors': True, 'ignore_unreachable': True}
        plays = [
            {
                'hosts': 'all',
                'gather_facts': False,
                'strategy': 'ansible.builtin.linear',
                'tasks': [*before, look, *(tasks or (REPORT,))],
            }
        ]
        return support.play(
            tmp_path,
            plays,
            *arguments,
            hosts={name: {} for name in hosts},
            home='collection',
            env={'PRETEND_FILE': str(tmp_path / 'pretend.json'), 'COLUMNS': '100', **(env or {})},
        )

    return run


def mixed():
    return {
        'pi1': host(),
        'pi2': host(problems=['the disk is full']),
        'pi3': {'away': 'No route to host'},
        'pi4': {'fails': 'Bad option.'},
    }


def test_the_default_callback_shows_the_table_as_lines_and_once(play):
    run = play(mixed())
    assert run.rc == 0, run.output
    result = run.result('pi1', 'report')
    assert '\n'.join(result['table']) in run.output
    assert run.output.count('What each host gets') == 1
    assert max(len(line) for line in result['table']) <= 100
    assert result['changed'] is False
    assert [entry['host'] for entry in run.results if entry['task'] == 'report'] == ['pi1']


def test_the_table_is_shown_once_even_without_run_once(play):
    run = play({'pi1': host(), 'pi2': host()}, {key: value for key, value in REPORT.items() if key != 'run_once'})
    assert run.rc == 0, run.output
    assert run.output.count('What each host gets') == 1


@pytest.mark.parametrize('width', [60, 80, 91, 100, 200])
def test_the_table_is_as_wide_as_the_terminal(play, tmp_path, width):
    play({'pi1': host()})  # writes the play, which then runs in a terminal
    env = support.environment(
        tmp_path,
        ANSIBLE_COLLECTIONS_PATH=support.collection_path(tmp_path),
        PRETEND_FILE=str(tmp_path / 'pretend.json'),
    )
    env.pop('COLUMNS', None)
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack('HHHH', 40, width, 0, 0))
    with subprocess.Popen(
        [support.PROGRAMS / 'ansible-playbook', '-i', 'inventory.json', 'site.yml'],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=side,
        stderr=side,
        start_new_session=True,  # what happens to this terminal is no matter of the one that the tests run in
    ):
        os.close(side)
        with open(terminal, encoding='utf-8', errors='replace') as file:
            shown = ''
            with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
                for line in file:
                    shown += line
    assert '-' * min(max(width, 80), 100) in shown.splitlines(), shown


def test_each_host_with_a_problem_is_in_the_result_whatever_ansible_made_of_it(play):
    fail = {
        'name': 'stop',
        'ansible.builtin.fail': {'msg': '{{ reported.problems[inventory_hostname] }}'},
        'when': 'inventory_hostname in reported.problems',
    }
    run = play(mixed(), REPORT, fail)
    result = run.result('pi1', 'report')
    assert {name: len(problems) for name, problems in result['problems'].items()} == {'pi2': 1, 'pi3': 1, 'pi4': 1}
    assert [row['host'] for row in result['hosts']] == list(NAMES)
    for name, text in (
        ('pi2', 'the disk is full'),
        ('pi3', 'pi3 is unreachable: No route to host'),
        ('pi4', 'Bad option.'),
    ):
        assert result['problems'][name] == [text]
        assert '\n'.join(result['table']).count(text) == 1
    assert {entry['host'] for entry in run.results if entry['task'] == 'stop' and entry['status'] == 'failed'} == {
        'pi2',
        'pi3',
        'pi4',
    }


def test_a_host_that_the_play_has_lost_is_a_problem(play):
    lose = {'name': 'lose', 'ansible.builtin.fail': {}, 'when': "inventory_hostname == 'pi2'"}
    run = play({'pi1': host(), 'pi2': host()}, REPORT, before=[lose])
    assert run.result('pi1', 'report')['problems'] == {'pi2': ['pi2 failed or is unreachable: see above.']}


def test_a_callback_that_writes_json_stays_json_and_has_the_same_facts(play):
    run = play(mixed(), env={'ANSIBLE_STDOUT_CALLBACK': 'json'})
    shown = json.loads(run.output.splitlines()[-1])['report']
    assert run.output.count('What each host gets') == 1
    assert shown['table'] == run.result('pi1', 'report')['table']
    assert shown['problems'] == run.result('pi1', 'report')['problems']


@pytest.mark.parametrize('callback', ['minimal', 'oneline'])
def test_a_callback_with_one_text_for_each_result_is_not_interrupted(play, callback):
    run = play({'pi1': host()}, env={'ANSIBLE_STDOUT_CALLBACK': callback})
    assert run.rc == 0, run.output
    assert not any(line == 'What each host gets' for line in run.output.splitlines())
    assert run.result('pi1', 'report')['table'][0] == 'What each host gets'


@pytest.mark.parametrize('check', [True, False])
def test_the_report_is_written_in_check_mode_too(play, tmp_path, check):
    task = {**REPORT, 'airgap.k3s.report': {**REPORT['airgap.k3s.report'], 'path': 'report.json'}}
    run = play(mixed(), task, arguments=['--check'] if check else [])
    assert run.rc == 0, run.output
    assert run.result('pi1', 'report')['changed'] is False
    for name in ('report.json', 'report.md'):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert 'the disk is full' in (tmp_path / name).read_text()
    assert json.loads((tmp_path / 'report.json').read_text())['hosts'] == run.result('pi1', 'report')['hosts']


def test_a_folder_that_is_not_there_is_said_before_anything_is_done(play, tmp_path):
    check = {'name': 'check', 'airgap.k3s.report': {'path': 'out/rep', 'check_only': True}, 'run_once': True}
    run = play({'pi1': host()}, before=[check])
    assert run.rc != 0
    assert run.result('pi1', 'check')['msg'].endswith(
        f'the folder {tmp_path}/out does not exist on the controller. Create it first, or name another one.'
    )
    assert not any(entry['task'] == 'look' for entry in run.results)
    (tmp_path / 'out').mkdir()
    run = play({'pi1': host()}, before=[check])
    assert (run.rc, run.result('pi1', 'check')['changed'], os.listdir(tmp_path / 'out')) == (0, False, [])


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ({}, 'of'),
        ({'of': 'nowhere'}, 'No host has a result in the variable nowhere'),
        ({'of': 'looked', 'paht': 'x'}, 'paht'),
    ],
)
def test_a_wrong_option_is_one_sentence(play, arguments, says):
    run = play({'pi1': host()}, {'name': 'report', 'airgap.k3s.report': arguments, 'run_once': True})
    assert run.rc != 0
    assert says in run.result('pi1', 'report')['msg']
    assert 'Traceback' not in run.output


def test_nothing_that_a_node_says_is_evaluated_as_a_template(play, tmp_path):
    mark = tmp_path / 'MARK'
    evil = "{{ lookup('ansible.builtin.pipe', 'touch " + str(mark) + "') }}"
    hosts = {
        'pi1': host(machine=evil, node_version=evil, problems=[evil], warnings=[evil], superseded=[evil]),
        'pi2': {'fails': evil},
        'pi3': {'away': evil},
    }
    hosts['pi1']['files'][0]['version'] = evil
    again = {
        'name': 'again',
        'ansible.builtin.debug': {
            'msg': '{{ reported.table }} {{ reported.hosts }} {{ hostvars.pi1.reported.hosts[0].machine }}'
        },
    }
    keep = {
        'name': 'keep',
        'ansible.builtin.set_fact': {'kept': '{{ reported.problems.pi1[0] }}', 'row': '{{ reported.hosts[0] }}'},
    }
    use = {'name': 'use', 'ansible.builtin.debug': {'msg': '{{ kept }} {{ row.machine }} {{ row.files[0].version }}'}}
    var = {'name': 'var', 'ansible.builtin.debug': {'var': 'reported'}}
    task = {**REPORT, 'airgap.k3s.report': {**REPORT['airgap.k3s.report'], 'path': f'{tmp_path}/report'}}
    run = play(hosts, task, again, keep, use, var)
    assert run.rc == 0, run.output
    assert not mark.exists()
    assert evil in run.result('pi1', 'report')['hosts'][0]['machine']
    assert evil in run.result('pi1', 'use')['msg']


def test_what_a_terminal_would_obey_is_shown_as_text(play):
    run = play({'pi1': host(machine='\x1b]0;owned\x07', problems=['\x1b[31mred\x9b0m'])})
    assert run.rc == 0, run.output
    assert '\x1b' not in run.output and '\x9b' not in run.output and '\x07' not in run.output
    assert '\\x1b[31mred\\x9b0m' in run.output


def test_ansible_doc_shows_the_options(tmp_path):
    done = support.ansible(
        'ansible-doc',
        '--json',
        'airgap.k3s.report',
        folder=tmp_path,
        env={'ANSIBLE_COLLECTIONS_PATH': support.collection_path(tmp_path)},
    )
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)['airgap.k3s.report']
    assert set(document['doc']['options']) == {'of', 'path', 'title', 'hosts', 'check_only'}
    assert set(document['return']) == {'msg', 'table', 'problems', 'hosts'}
    shown = support.ansible(
        'ansible-doc',
        'airgap.k3s.report',
        folder=tmp_path,
        env={'ANSIBLE_COLLECTIONS_PATH': support.collection_path(tmp_path)},
    )
    assert shown.returncode == 0 and 'WARNING' not in shown.stdout, shown.stdout


def test_the_documented_example_runs(play, tmp_path):
    documentation = support.load_plugin('plugins/modules/report.py')
    check, look, report, stop = yaml.safe_load(documentation.EXAMPLES.replace('/var/tmp', str(tmp_path)))
    assert list(look)[1] == 'airgap.k3s.stage'
    report['airgap.k3s.report']['of'] = 'looked'
    run = play({'pi1': host(), 'pi2': host(problems=['the disk is full'])}, report, stop, before=[check])
    assert run.rc != 0
    assert (tmp_path / 'k3s-report.json').exists()
    assert run.result('pi2', stop['name'])['msg'] == ['the disk is full']
    assert [entry['host'] for entry in run.results if entry['status'] == 'failed'] == ['pi2']
