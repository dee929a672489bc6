# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where people run Ansible: every way to start it, and every way to run a part of a play, gives a node its own files.

The nodes are pretend ones as the demo makes them: folders of this machine, each said to be another machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
import yaml

import support

ARCHS = ('amd64', 'arm64', 'arm')
TASKS = [{'name': 'Begin', 'ansible.builtin.debug': {'msg': 'begun'}},
         {'name': 'Stage', 'ansible.legacy.copy': {'src': '{{ airgap_dir }}/k3s', 'dest': '/usr/local/bin/k3s'}}]
PLAYS = [{'hosts': 'all', 'gather_facts': False, 'tasks': TASKS}]


def make_site(folder):
    """Make a release, the folders of three nodes, the two plugins and site.yml in *folder*; return its inventory."""
    folder.mkdir(exist_ok=True)
    support.release(folder / 'airgap', *ARCHS)
    for arch in ARCHS:
        (folder / 'nodes' / arch).mkdir(parents=True)
    support.install_drop_in(folder)
    (folder / 'site.yml').write_text(json.dumps(PLAYS))
    return support.write_inventory(folder / 'hosts.json', variables(folder))


def variables(folder):
    """Return the variables of the nodes by name."""
    return {arch: {'k3s_artifact_machine': support.MACHINES[arch], 'k3s_artifact_probe': False,
                   'airgap_dir': str(folder / 'airgap'), 'k3s_artifact_dest': str(folder / 'nodes' / arch / 'k3s')}
            for arch in ARCHS}


def staged(folder):
    """Return what is on the nodes: the arch of the program there by the name of the node."""
    return {path.parent.name: support.elf_arch(path) for path in (folder / 'nodes').glob('*/k3s')}


EVERYBODY = {arch: arch for arch in ARCHS}


# --- parts of a play -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('keywords', [
    {'serial': 1}, {'serial': ['34%', '100%']}, {'throttle': 1}, {'strategy': 'free'}, {'strategy': 'host_pinned'},
    {'order': 'reverse_sorted', 'serial': 2}], ids=json.dumps)
def test_each_node_gets_its_own_however_a_play_goes_through_its_hosts(tmp_path, keywords):
    make_site(tmp_path)
    run = support.play(tmp_path, [{**PLAYS[0], **keywords}], hosts=variables(tmp_path))
    assert run.rc == 0, run.output
    assert staged(tmp_path) == EVERYBODY


@pytest.mark.parametrize(('arguments', 'served'), [
    (['--limit', 'arm64'], ['arm64']), (['--limit', 'all:!amd64'], ['arm', 'arm64']),
    (['--start-at-task', 'Stage'], ARCHS), (['--tags', 'never'], []), (['--forks', '1'], ARCHS)], ids=' '.join)
def test_a_part_of_a_play_serves_its_hosts_and_no_other(tmp_path, arguments, served):
    make_site(tmp_path)
    run = support.play(tmp_path, PLAYS, *arguments, hosts=variables(tmp_path))
    assert run.rc == 0, run.output
    assert staged(tmp_path) == {arch: arch for arch in served}
    if '--start-at-task' in arguments:
        assert {entry['task'] for entry in run.results} == {'Stage'}


def test_check_with_diff_says_what_would_change_and_changes_nothing(tmp_path):
    make_site(tmp_path)
    old = support.elf('amd64', body=b'an older K3s')
    (tmp_path / 'nodes' / 'arm' / 'k3s').write_bytes(old)
    run = support.play(tmp_path, PLAYS, '--check', '--diff', hosts=variables(tmp_path))
    assert run.rc == 0 and all(run.result(arch, 'Stage')['changed'] for arch in ARCHS), run.output
    assert staged(tmp_path) == {'arm': 'amd64'} and (tmp_path / 'nodes' / 'arm' / 'k3s').read_bytes() == old
    assert support.BINARIES['arm'] in run.output and '\\x7f' not in run.output and '\x7f' not in run.output


def test_the_preflight_of_a_limit_looks_at_that_host_only(tmp_path):
    make_site(tmp_path)
    hosts = {name: {**own, 'k3s_artifact_become': False} for name, own in variables(tmp_path).items()}
    run = support.play(tmp_path, 'airgap.k3s.preflight', '-e', 'k3s_artifact_hosts=all', '--limit', 'arm', hosts=hosts,
                       home='collection')
    assert run.rc == 0, run.output
    assert {entry['host'] for entry in run.results if entry['task'].startswith('Look')} == {'arm'}
    assert staged(tmp_path) == {}


# --- facts and secrets -----------------------------------------------------------------------------------------------


def test_facts_out_of_a_cache_serve_a_later_run_and_those_of_another_machine_are_refused(tmp_path):
    make_site(tmp_path)
    (tmp_path / 'ansible.cfg').write_text('[defaults]\ngathering = smart\nfact_caching = jsonfile\n'
                                          'fact_caching_connection = cache\nfact_caching_timeout = 86400\n')
    env = {'ANSIBLE_CONFIG': str(tmp_path / 'ansible.cfg')}
    support.release(tmp_path / 'airgap')
    own = {'node': {**variables(tmp_path)['amd64'], 'k3s_artifact_dest': str(tmp_path / 'nodes' / 'node')}}
    del own['node']['k3s_artifact_machine']
    gathered = support.play(tmp_path, [{'hosts': 'all', 'tasks': []}], hosts=own, env=env)
    assert gathered.rc == 0, gathered.output
    ask = {'name': 'Ask', 'ansible.builtin.debug': {'msg': "{{ lookup('k3s_artifact', 'arch') }}"}}
    plays = [{**PLAYS[0], 'tasks': [ask, *TASKS]}]
    run = support.play(tmp_path, plays, hosts=own, env=env)
    assert run.rc == 0 and run.result('node', 'Ask')['msg'] == support.NATIVE, run.output
    assert support.elf_arch(tmp_path / 'nodes' / 'node') == support.NATIVE

    other = next(arch for arch in ('amd64', 'arm64') if arch != support.NATIVE)
    cached, = (tmp_path / 'cache').iterdir()
    cached.write_text(cached.read_text().replace(support.MACHINES[support.NATIVE], support.MACHINES[other]))
    run = support.play(tmp_path, plays, hosts=own, env=env)
    assert run.rc == 2 and 'Gather its facts again' in run.result('node', 'Stage')['msg'], run.output
    assert support.elf_arch(tmp_path / 'nodes' / 'node') == support.NATIVE
    run = support.play(tmp_path, [{**plays[0], 'gather_facts': True}], '--flush-cache', hosts=own, env=env)
    assert run.rc == 0 and run.changed() == 0, run.output


def test_an_inventory_in_the_vault_serves_every_host_and_is_not_shown(tmp_path):
    """Whole files of variables, and single texts in an inventory that is not encrypted itself."""
    make_site(tmp_path)
    (tmp_path / 'password').write_text('correct horse\n')
    vault = ['--vault-password-file', tmp_path / 'password']
    (tmp_path / 'group_vars').mkdir()
    (tmp_path / 'group_vars' / 'all.yml').write_text(yaml.safe_dump({
        'k3s_version': 'v1.31.4+k3s1', 'k3s_artifact_verify': 'required', 'token': 'a-secret-token'}))
    done = support.ansible('ansible-vault', 'encrypt', *vault, tmp_path / 'group_vars' / 'all.yml', folder=tmp_path)
    assert done.returncode == 0, done.stdout
    lines = []
    for arch, own in variables(tmp_path).items():
        done = subprocess.run([str(support.PROGRAMS / 'ansible-vault'), 'encrypt_string', *map(str, vault), '--name',
                               'airgap_dir', own.pop('airgap_dir')], env=support.environment(tmp_path), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=True)
        own = {**own, 'ansible_connection': 'local'}
        lines += [f'    {arch}:', *(f'      {name}: {json.dumps(value)}' for name, value in own.items()),
                  *(f'      {line}' for line in done.stdout.splitlines() if line.strip())]
    (tmp_path / 'hosts.yml').write_text('\n'.join(['all:', '  hosts:', *lines, '']))
    run = support.play(tmp_path, PLAYS, '-v', *vault, hosts=tmp_path / 'hosts.yml')
    assert run.rc == 0, run.output
    assert staged(tmp_path) == EVERYBODY
    assert 'a-secret-token' not in run.output and 'WARNING' not in run.output


# --- other programs --------------------------------------------------------------------------------------------------


def test_ad_hoc_commands_beside_the_playbook_stage_and_ask(tmp_path):
    inventory = make_site(tmp_path)
    common = ['-i', inventory, '--playbook-dir', tmp_path, 'all']
    copied = support.ansible('ansible', *common, '-m', 'copy', '-a', f'src={tmp_path}/airgap/k3s', folder=tmp_path)
    assert copied.returncode == 0, copied.stdout
    assert staged(tmp_path) == EVERYBODY and copied.stdout.count('| CHANGED =>') == 3
    asked = support.ansible('ansible', *common, '-m', 'debug', '-a', "msg={{ lookup('k3s_artifact', 'name') }}",
                            folder=tmp_path)
    assert asked.returncode == 0 and all(f'"{support.BINARIES[arch]}"' in asked.stdout for arch in ARCHS), asked.stdout


def test_ansible_console_stages_as_a_playbook_does(tmp_path):
    inventory = make_site(tmp_path)
    done = subprocess.run([str(support.PROGRAMS / 'ansible-console'), '-i', str(inventory), '--playbook-dir',
                           str(tmp_path), 'all'], input=f'copy src={tmp_path}/airgap/k3s\nexit\n', cwd=tmp_path,
                          env=support.environment(tmp_path), text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.count('| CHANGED =>') == 3, done.stdout + done.stderr
    assert staged(tmp_path) == EVERYBODY


def test_a_node_that_pulls_its_playbook_gets_its_own_binary(tmp_path):
    """ansible-pull: the node is the controller, and the plugins come with the playbook."""
    source = tmp_path / 'source'
    make_site(source)
    (source / 'local.yml').write_text(json.dumps(PLAYS))
    own = {'localhost': variables(source)['arm64']}
    inventory = support.write_inventory(tmp_path / 'hosts.json', own)
    git = ['git', '-c', 'user.name=x', '-c', 'user.email=x@example.com']
    for words in (['init', '-q'], ['add', 'local.yml', 'action_plugins', 'lookup_plugins'], ['commit', '-qm', 'site']):
        subprocess.run([*git, *words], cwd=source, check=True)
    done = support.ansible('ansible-pull', '-U', f'file://{source}', '-d', tmp_path / 'checkout', '-i', inventory,
                           folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / 'checkout' / 'local.yml').exists() and staged(source) == {'arm64': 'arm64'}


@pytest.mark.parametrize('name', ['runner', 'a folder with spaces'])
def test_ansible_runner_serves_every_host_and_its_events_hold_the_result(tmp_path, name):
    folder = tmp_path / name
    inventory = make_site(folder)
    (folder / 'inventory').mkdir()
    inventory.rename(folder / 'inventory' / 'hosts.json')
    (folder / 'project').mkdir()
    for part in ('site.yml', 'action_plugins', 'lookup_plugins'):
        (folder / part).rename(folder / 'project' / part)
    done = run_runner(folder, 'site.yml')
    assert done.returncode == 0, done.stdout
    assert staged(folder) == EVERYBODY
    results = {event['event_data']['host']: event['event_data']['res'] for event in events(folder)
               if event['event'] == 'runner_on_ok' and event['event_data']['task'] == 'Stage'}
    assert {arch: result['k3s_artifact']['arch'] for arch, result in results.items()} == EVERYBODY


def test_ansible_runner_gets_the_report_of_stage_as_data(tmp_path):
    folder = tmp_path / 'a folder'
    make_site(folder)
    hosts = {arch: {**own, 'k3s_artifact_become': False, 'k3s_artifact_data_dir': str(folder / 'nodes' / arch)}
             for arch, own in variables(folder).items()}
    (folder / 'inventory').mkdir()
    inventory = support.write_inventory(folder / 'inventory' / 'hosts.json', hosts)
    inventory.write_text(json.dumps({'k3s_cluster': json.loads(inventory.read_text())['all']}))
    (folder / 'project').mkdir()
    done = run_runner(folder, 'airgap.k3s.stage', ANSIBLE_COLLECTIONS_PATH=support.collection_path(tmp_path))
    assert done.returncode == 0, done.stdout
    assert staged(folder) == EVERYBODY
    reports = [event['event_data']['res'] for event in events(folder)
               if event['event'] == 'runner_on_ok' and event['event_data']['task'] == 'Report on all hosts']
    assert [sorted(host['host'] for host in report['hosts']) for report in reports] == [sorted(ARCHS)] * 2


def run_runner(folder, playbook, **env):
    """Run *playbook* with ansible-runner, *folder* its folder of private data."""
    env = support.environment(folder, PATH=f'{support.PROGRAMS}{os.pathsep}{os.environ["PATH"]}', **env)
    return subprocess.run([shutil.which('ansible-runner', path=env['PATH']), 'run', str(folder), '-p', playbook],
                          cwd=folder, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=300, check=False)


def events(folder):
    """Return the events that ansible-runner noted of its only run."""
    files = (folder / 'artifacts').glob('*/job_events/*-*.json')
    return [json.loads(path.read_text()) for path in files if not path.name.endswith('-partial.json')]
