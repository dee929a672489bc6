# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node says of itself chooses no file of the controller and is never evaluated, even when its text is used
again."""

from __future__ import annotations

import json

import pytest

import support

MARK = "{{ lookup('ansible.builtin.pipe', 'touch {folder}/mark') }}"
STATEMENT = "{% if lookup('ansible.builtin.pipe', 'touch {folder}/mark') %}{% endif %}"
SETTINGS = ['k3s_artifact_dir', 'airgap_dir', 'k3s_binary_map', 'k3s_artifact_verify', 'k3s_artifact_machine',
            'k3s_artifact_dest', 'k3s_version',
            'k3s_server_location', 'k3s_artifact_something_new']
TEXTS = {'expression': MARK, 'statement': STATEMENT, 'nested': '{' + MARK + '}', 'long': 'x' * 50 + MARK,
         'brackets': '{' * 30 + MARK}

REPORT = """
import json
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule({'path': {'type': 'path'}})
with open(module.params['path']) as file:
    module.exit_json(ansible_facts=json.load(file))
"""
AGAIN = [
    {'name': 'ask', 'debug': {'msg': "{{ lookup('k3s_artifact', term | default('binary')) }}"}, 'register': 'answer',
     'ignore_errors': True},
    {'name': 'show', 'debug': {'msg': '{{ answer.msg }}'}},
    {'name': 'show all', 'debug': {'var': 'answer'}},
    {'name': 'keep', 'set_fact': {'kept': '{{ answer.msg }}'}},
    {'name': 'show what was kept', 'debug': {'msg': 'it said {{ kept }}'}},
]
PLAYS = [
    {'hosts': 'set-fact*', 'gather_facts': False, 'tasks': [
        {'set_fact': {'airgap_dir': '{{ theirs }}', 'cacheable': '{{ cacheable }}'}}]},
    {'hosts': 'all:!set-fact*', 'gather_facts': False, 'tasks': [{'report': {'path': '{{ fact_file }}'}}]},
    {'hosts': 'all', 'gather_facts': False, 'tasks': AGAIN},
]


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp('facts')
    (folder / 'library').mkdir()
    (folder / 'library' / 'report.py').write_text(REPORT)
    support.release(folder / 'airgap', 'arm64')
    support.release(folder / 'theirs', 'arm64')
    facts = {f'setting-{name}': {name: str(folder / 'theirs')} for name in SETTINGS}
    facts.update({f'machine-{name}': {'ansible_architecture': text.replace('{folder}', str(folder))}
                  for name, text in TEXTS.items()})
    facts['key'] = {'k3s_artifact_' + MARK.replace('{folder}', str(folder)): 'x'}
    facts['good'] = {'ansible_architecture': 'aarch64', 'ansible_hostname': 'k3s', 'my_own_fact': 1}
    hosts = {}
    for name, reported in facts.items():
        (folder / f'{name}.json').write_text(json.dumps(reported))
        hosts[name] = {'airgap_dir': str(folder / 'airgap'), 'fact_file': str(folder / f'{name}.json')}
        if not name.startswith('machine') and name != 'good':
            hosts[name]['k3s_artifact_machine'] = 'aarch64'
    for name, cacheable in (('set-fact', False), ('set-fact-cacheable', True)):
        hosts[name] = {'k3s_artifact_machine': 'aarch64', 'theirs': str(folder / 'theirs'), 'cacheable': cacheable}
    return folder, support.play(folder, PLAYS, hosts=hosts)


def test_the_run_goes_on_and_a_good_node_is_served(ran):
    folder, run = ran
    assert run.rc == 0, run.output
    assert 'Traceback' not in run.output
    assert run.result('good', 'ask')['msg'] == f'{folder}/airgap/k3s-arm64'


@pytest.mark.parametrize('name', SETTINGS)
def test_a_fact_that_is_named_like_a_setting_is_refused(ran, name):
    folder, run = ran
    message = run.result(f'setting-{name}', 'ask')['msg']
    assert (f"host 'setting-{name}' has the fact '{name}', which is a setting of the controller: "
            'facts win over the inventory' in message)
    assert 'use set_fact without cacheable' in message
    assert str(folder / 'theirs') not in message


def test_a_cacheable_set_fact_is_a_fact_and_one_that_is_not_cacheable_is_a_variable(ran):
    folder, run = ran
    assert "has the fact 'airgap_dir'" in run.result('set-fact-cacheable', 'ask')['msg']
    assert run.result('set-fact', 'ask')['msg'] == f'{folder}/theirs/k3s-arm64'


@pytest.mark.parametrize('host', [*(f'machine-{name}' for name in TEXTS), 'key'])
def test_what_a_node_says_is_shown_and_never_evaluated(ran, host):
    folder, run = ran
    assert [entry['status'] for entry in run.results if (entry['host'], entry['task']) == (host, 'ask')] == ['failed']
    for task in ('ask', 'show', 'show what was kept'):
        message = run.result(host, task)['msg']
        assert f"host '{host}'" in message
        assert '{{' not in message and '{%' not in message
    assert not (folder / 'mark').exists()
