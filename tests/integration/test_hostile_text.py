# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that a node says is obeyed on the controller: not as a template, not as a setting, not by the terminal.

Each node says in one place what would make a file on the controller, were it ever templated. The results are
registered, shown, and used by later tasks, as playbooks do. Up to 2.18, core does not mark
errors as unsafe itself.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

import support
from standin import Standin

NATIVE, MACHINE = support.NATIVE, support.MACHINES[support.NATIVE]
FOREIGN_MACHINE = 'aarch64' if MACHINE == 'x86_64' else 'x86_64'

SHOWN = [
    {'name': 'show', 'ansible.builtin.debug': {'var': 'it'}},
    {'name': 'use', 'ansible.builtin.debug': {'msg': '{{ it.msg | default("") }} {{ it.k3s_artifact | default({}) }}'}},
    {'name': 'use again', 'ansible.builtin.set_fact': {'told': '{{ it.msg | default(it) }}'}},
    {'name': 'and again', 'ansible.builtin.debug': {'msg': '{{ told }}'}},
    {'name': 'fail', 'ansible.builtin.fail': {'msg': '{{ it.msg | default("none") }}'}, 'ignore_errors': True},
]


def make(standin, name, evil):
    """Make the node *name*, which says *evil* where its name says; return its variables."""
    said = "printf '%s\\n' " + "'" + evil.replace("'", "'\"'\"'") + "'"
    old = support.program('k3s version v1.30.0+k3s1 ' + evil[:60]) if name == 'version' else b'old'
    variables = standin.host(name, None if name == 'uname' else MACHINE, old)
    if name in PROGRAMS:
        program, pattern = PROGRAMS[name]
        standin.program(name, program, pattern.replace('SAID', said))
    if name == 'version':
        standin.installed(name).write_bytes(f'#!/bin/sh\n{said}\necho k3s version "$({said})" v1.30.0+k3s1\n'.encode())
        standin.installed(name).chmod(0o755)
    if name == 'fact':
        variables['ansible_facts'] = {'architecture': evil}
        variables['ansible_architecture'] = evil
    if name == 'destination':
        standin.installed(name).unlink()
        standin.installed(name).mkdir()
        variables['k3s_artifact_dest'] = str(standin.installed(name))
    return variables


ELSE = '*) exec $real "$@" ;; esac'
# What a node says, by the program that says it. $real is the program itself.
PROGRAMS = {
    'uname': ('uname', f'case $* in *m*) SAID ;; {ELSE}'),
    'second uname': ('uname', 'case $* in *m*) if [ -e ../asked ] || [ -e asked ]; then SAID; else touch asked; echo '
                     f'{MACHINE}; fi ;; {ELSE}'),
    'user': ('id', f'case $* in *n*) SAID ;; {ELSE}'),
    'user id': ('id', f'case $* in *u*) SAID ;; {ELSE}'),
    'owner': ('stat', 'for a; do case $a in *uid=*) $real "$@" | while read -r line; do case $line in *owner=*) printf '
              '%s "${line%%=*}="; SAID ;; '
              '*) echo "$line" ;; esac; done; exit ;; esac; done; exec $real "$@"'),
    'whole status': ('stat', 'SAID'),
    'room': ('df', 'SAID; echo "/dev/x 100 100 0 100% /"'),
    'no room': ('df', 'echo "$(SAID) 100 100 0 100% /"'),
    'head': ('od', 'SAID'),
    'digest': ('openssl', 'SAID'),
    'error of dd': ('dd', 'SAID >&2; exit 1'),
    'error of mv': ('mv', 'SAID >&2; exit 1'),
    'error of chmod': ('chmod', f'case $* in *0755*) SAID >&2; exit 1 ;; {ELSE}'),
    'error of sh': ('tail', 'SAID >&2; SAID; kill -9 $PPID'),
    'printf': ('date', 'SAID'),
}
FIELDS = [*PROGRAMS, 'version', 'fact', 'destination']


@pytest.fixture(name='hostile')
def fixture_hostile(tmp_path):
    """The stand-in for ssh, the binary, a host for each field, and the file that what it says would make."""
    paths = support.release(tmp_path / 'airgap', lists=False)
    paths[NATIVE].write_bytes(support.program(body=os.urandom(100_000)))
    standin, hosts, marks = Standin(tmp_path), {}, {}
    for name in FIELDS:
        marks[name] = tmp_path / f'mark-{name.replace(" ", "-")}'
        evil = "{{ lookup('ansible.builtin.pipe', 'touch %s') }}" % marks[name]
        hosts[name.replace(' ', '-')] = make(standin, name.replace(' ', '-') if name not in PROGRAMS else name, evil)
        if name in PROGRAMS and ' ' in name:
            (standin.nodes / name).rename(standin.nodes / name.replace(' ', '-'))
            hosts[name.replace(' ', '-')]['k3s_artifact_dest'] = str(standin.installed(name.replace(' ', '-')))
    return standin, paths[NATIVE], hosts, marks


def assert_nothing_was_obeyed(run, marks, task):
    assert not [name for name, mark in marks.items() if mark.exists()], run.output
    assert len({entry['host'] for entry in run.results if entry['task'] == task}) == len(FIELDS), run.output
    assert not [entry for entry in run.results if 'Traceback' in str(entry['result'].get('msg'))]


def test_nothing_that_a_node_says_is_templated_on_the_controller(hostile):
    standin, binary, hosts, marks = hostile
    stage = {'name': 'stage', 'copy': {'src': str(binary)}, 'register': 'it', 'ignore_errors': True,
             'ignore_unreachable': True}
    for tasks in ([{**stage, 'check_mode': True, 'diff': True}, *SHOWN], [stage, *SHOWN]):
        run = standin.stage(hosts, *tasks, arguments=['--forks', '4', '--diff'])
        assert_nothing_was_obeyed(run, marks, 'stage')
    said = json.dumps([entry['result'] for entry in run.results if entry['task'] == 'stage'])
    assert said.count("lookup('ansible.builtin.pipe'") >= 5  # the nodes did say it, and it is shown as text
    for host in hosts:
        found = standin.installed(host)
        assert found.is_dir() or found.read_bytes() in (b'old', binary.read_bytes()) or host == 'version', host


@pytest.mark.parametrize('playbook', ['preflight', 'stage'])
def test_nothing_that_a_node_says_is_templated_by_a_playbook(tmp_path, hostile, playbook):
    standin, binary, hosts, marks = hostile
    run = support.play(tmp_path, f'airgap.k3s.{playbook}', '-e', 'k3s_artifact_hosts=all', '-e',
                       '{k3s_artifact_become: false, k3s_artifact_keep_going: true}', '--forks', '4', '--diff',
                       hosts=hosts, home='collection', env=standin.environment)
    assert run.rc != 0
    assert_nothing_was_obeyed(run, marks, 'Look at what each host gets')
    assert "lookup('ansible.builtin.pipe'" in json.dumps(run.results)
    staged = {host for host in hosts if standin.installed(host).is_file()
              and standin.installed(host).read_bytes() == binary.read_bytes()}
    assert bool(staged) == (playbook == 'stage')


def test_what_a_server_says_that_lets_nobody_in_is_not_templated(tmp_path):
    """The banner of an ssh server reaches the message of an unreachable host."""
    paths = support.release(tmp_path / 'airgap', lists=False)
    standin, mark = Standin(tmp_path, logins=0), tmp_path / 'mark'
    evil = "{{ lookup('ansible.builtin.pipe', 'touch %s') }}" % mark
    ssh = tmp_path / 'ssh'
    ssh.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{evil}\n\033[2J{evil}\nEND\nexit 255\n")
    ssh.chmod(0o755)
    hosts = {'refused': standin.host('refused', MACHINE),
             'banner': standin.host('banner', MACHINE, ansible_ssh_executable=str(ssh))}
    run = standin.stage(hosts, {'name': 'stage', 'copy': {'src': str(paths[NATIVE])}, 'register': 'it',
                                'ignore_errors': True, 'ignore_unreachable': True}, *SHOWN)
    assert not mark.exists(), run.output
    assert {entry['status'] for entry in run.results if entry['task'] == 'stage'} <= {'unreachable', 'failed', 'ok'}
    assert not standin.installed('banner').exists() and not standin.installed('refused').exists()
    assert '\033' not in run.output
    assert "lookup('ansible.builtin.pipe'" in run.output


def test_no_control_character_of_a_node_reaches_the_terminal(tmp_path):
    paths = support.release(tmp_path / 'airgap', lists=False)
    paths[NATIVE].write_bytes(support.program(body=os.urandom(100_000)))
    standin = Standin(tmp_path)
    hosts = {'uname': standin.host('uname', MACHINE, b'old'), 'mv': standin.host('mv', MACHINE, b'old')}
    evil = "printf '\\033[2J\\033]0;title\\007ok: [forged]\\rchanged: [forged]\\302\\233x\\n'"
    standin.program('uname', 'uname', f'case $* in *m*) {evil} ;; {ELSE}')
    standin.program('mv', 'mv', f'{evil} >&2; exit 1')
    run = standin.stage(hosts, {'name': 'stage', 'copy': {'src': str(paths[NATIVE])}, 'ignore_errors': True})
    assert {entry['status'] for entry in run.results if entry['task'] == 'stage'} == {'failed'}
    assert not re.search('[\x00-\x08\x0b-\x1f\x7f\x9b]', run.output), repr(run.output)
    assert not re.search(r'^(ok|changed): \[forged\]', run.output, flags=re.MULTILINE)


# --- facts are what a node says of itself, and decide nothing but its architecture

SETTINGS = {
    'k3s_artifact_dir': '/etc', 'airgap_dir': '/etc', 'k3s_binary_map': {MACHINE: '../../etc/passwd'},
    'k3s_artifact_verify': 'none', 'k3s_artifact_dest': '/tmp/fact-k3s',
    'k3s_artifact_images_dest': '/etc', 'k3s_artifact_probe': False, 'k3s_artifact_downgrade': True,
    'k3s_artifact_machine': FOREIGN_MACHINE, 'k3s_artifact_images': ['*'],
    'k3s_version': 'v1.0.0+k3s1',
}
SETUP = '''#!/usr/bin/python
# A node's own answer to the module that gathers facts.
import json
from ansible.module_utils.basic import AnsibleModule
AnsibleModule(argument_spec={}, supports_check_mode=True).exit_json(ansible_facts=json.loads(%r))
'''


@pytest.mark.parametrize('way', ['a module that says what the node likes', 'a cacheable set_fact'])
def test_a_fact_never_takes_the_place_of_a_setting(tmp_path, way):
    """Facts win over the inventory in Ansible; so a setting that is a fact is refused with a sentence that names it."""
    paths = support.release(tmp_path / 'airgap', lists=False)
    paths[NATIVE].write_bytes(support.program(body=os.urandom(100_000)))
    standin, hosts = Standin(tmp_path), {}
    interpreter = sys.executable
    (tmp_path / 'library').mkdir()
    for name, value in SETTINGS.items():
        (tmp_path / 'library' / f'facts_{name}.py').write_text(SETUP % json.dumps({name: value}))
        hosts[name] = standin.host(name, MACHINE, b'old', ansible_python_interpreter=str(interpreter))
    hosts['honest'] = standin.host('honest', MACHINE, b'old')
    tasks = [{'name': f'say {name}', **({f'facts_{name}': {}} if way.startswith('a module')
                                        else {'ansible.builtin.set_fact': {name: value, 'cacheable': True}}),
              'when': f'inventory_hostname == "{name}"'} for name, value in SETTINGS.items()]
    run = standin.stage(hosts, *tasks, {'name': 'stage', 'copy': {'src': str(paths[NATIVE])}, 'ignore_errors': True},
                        arguments=['--forks', '4'])
    said = [entry for entry in run.results if entry['task'].startswith('say ') and entry['status'] == 'ok']
    assert len(said) == len(SETTINGS), run.output
    assert standin.installed('honest').read_bytes() == paths[NATIVE].read_bytes(), run.output
    assert not Path('/tmp/fact-k3s').exists()
    for name in SETTINGS:
        [(status, said)] = [(entry['status'], entry['result'].get('msg', ''))
                            for entry in run.results if (entry['host'], entry['task']) == (name, 'stage')]
        assert status == 'failed' and name in said and 'fact' in said, (name, status, said)
        assert standin.installed(name).read_bytes() == b'old', name
