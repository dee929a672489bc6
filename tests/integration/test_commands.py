# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command of the pages is understood by the program that it starts, every block is what it says that it is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import pages
import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')

YAML = [(page, block.text) for page in pages.PAGES for block in pages.blocks(page, 'yaml')]
PARSED = [(page, text, yaml.safe_load(text)) for page, text in YAML]
COMMANDS = sorted({shlex.join(words) for page in pages.PAGES for words in pages.commands(page)})
# Programs that pages name, apart from Ansible's own. Those of K3s and of k3s-ansible are on the nodes.
OTHERS = {'.', '.venv/bin/nox', '.venv/bin/python', 'cd', 'cosign', 'cp', 'export', 'gpg', 'gpgv', 'k3s',
          'k3s-install.sh', 'make', 'minisign', 'mkdir', 'pip', 'python3', 'tar'}


def named(program):
    return [command for command in COMMANDS if shlex.split(command)[0] == program]


@pytest.fixture(scope='module', name='site')
def fixture_site(tmp_path_factory):
    """Make the files that the commands name; return (folder, environment)."""
    folder = tmp_path_factory.mktemp('site')
    inventories = [text for page, text in YAML if page == pages.README and 'children:' in text]
    (folder / 'inventory.yml').write_text(inventories[0])
    for page, text, block in PARSED:
        if isinstance(block, list) and page.name == 'getting-started.md':
            (folder / 'start.yml').write_text(text)
        if isinstance(block, dict) and any(name.startswith(('k3s_download_', 'k3s_bundle_')) for name in block):
            for name in ('mirror.yml', 'bundle.yml'):
                (folder / name).write_text(text)
        if isinstance(block, dict) and 'k3s_artifact_keep_previous' in block:
            (folder / 'upgrade.yml').write_text(text)
    (folder / 'playbooks').mkdir()
    env = {'ANSIBLE_COLLECTIONS_PATH': support.collection_path(folder)}
    collection = folder / 'collections' / 'ansible_collections' / 'k3s' / 'orchestration' / 'playbooks'
    collection.mkdir(parents=True)
    for path in (folder / 'playbooks' / 'site.yml', folder / 'playbooks' / 'upgrade.yml', collection / 'site.yml'):
        path.write_text(json.dumps([{'hosts': 'k3s_cluster', 'tasks': [
            {'ansible.builtin.debug': {}, 'tags': 'distribute_artifacts'}]}]))  # in the place of k3s-ansible's
    support.install_drop_in(folder)
    return folder, env


@pytest.mark.parametrize('command', named('ansible-playbook'))
def test_every_run_of_a_playbook_is_one_that_ansible_understands(site, command):
    folder, env = site
    done = support.ansible(*shlex.split(command), '--syntax-check', folder=folder, env=env)
    # The groups that the demo makes itself, and those of an inventory that ansible.cfg names.
    words = re.sub('.*ignoring: k3s_(pretend_nodes|cluster)', '', done.stdout)
    assert done.returncode == 0 and not re.search('WARNING|ERROR', words), done.stdout
    variables = [name for name in re.findall(r'[ \'](\w+)=', command) if name != 'airgap_dir']
    assert not k3s.misspelt(variables) and all(name.startswith(('k3s_', 'airgap_')) for name in variables)


@pytest.mark.parametrize('command', named('ansible-doc') + named('ansible'))
def test_every_look_at_the_documentation_and_every_ad_hoc_command_is_understood(site, command):
    folder, env = site
    more = ['--list-hosts'] if command.startswith('ansible ') else []
    done = support.ansible(*shlex.split(command), *more, folder=folder, env=env)
    assert done.returncode == 0 and not re.search('WARNING|ERROR', done.stdout), done.stdout


@pytest.mark.parametrize('command', named('make'))
def test_every_target_is_there(command):
    targets = set(re.findall(r'^(\w+):', (support.ROOT / 'Makefile').read_text(), re.MULTILINE))
    assert {word for word in shlex.split(command)[1:] if '=' not in word and not word.startswith('-')} <= targets


def test_every_other_command_is_of_a_program_that_is_known():
    for command in COMMANDS:
        words = [word for word in shlex.split(command) if not re.match(r'\w+=', word)]
        program = words[0].rpartition('/')[2] if words[0].startswith('/') else words[0]
        assert program in OTHERS or (support.PROGRAMS / program).exists(), command


@pytest.mark.parametrize('page', pages.PAGES, ids=lambda page: page.name)
def test_every_block_of_commands_is_a_script_and_every_json_block_is_json(page):
    for language, text in pages.blocks(page):
        assert language, f'a block of {page.name} does not say what it is: {text}'
        if language in ('sh', 'console'):
            done = subprocess.run(['bash', '-n'], input=text, text=True, capture_output=True, check=False)
            assert done.returncode == 0, text + done.stderr
        if language == 'json':
            json.loads(text)


def test_every_yaml_block_is_understood_by_ansible(site):
    """Plays and tasks by a look at their syntax, inventories by a look at their hosts, variables by their names."""
    folder, env = site
    plays = []
    for number, (_page, text, block) in enumerate(PARSED):
        if isinstance(block, list):
            plays += block if 'hosts' in block[0] else [{'hosts': 'all', 'tasks': [
                {'ansible.builtin.debug': {}, **task} if set(task) <= {'name', 'k3s_version'} else task
                for task in block]}]
        elif 'k3s_cluster' in block:
            path = folder / f'inventory-{number}.yml'
            path.write_text(text)
            done = support.ansible('ansible-inventory', '-i', path, '--graph', folder=folder, env=env)
            assert done.returncode == 0 and not re.search('WARNING|ERROR', done.stdout), done.stdout
            block = block['k3s_cluster'].get('vars', {})
        if isinstance(block, dict):
            assert not k3s.misspelt(block), text
    (folder / 'all.yml').write_text(json.dumps([{**play, 'name': str(number)} for number, play in enumerate(plays)]))
    done = support.ansible('ansible-playbook', '-i', folder / 'inventory.yml', 'all.yml', '--syntax-check',
                           folder=folder, env=env)
    assert done.returncode == 0 and not re.search('WARNING|ERROR', done.stdout), done.stdout


def test_the_playbook_that_starts_k3s_runs_the_installer_once_servers_first_and_tells_agents_where_they_are(tmp_path):
    """As it is written, with an installer that notes how it was called."""
    page = pages.DOCS / 'getting-started.md'
    inventory, = [block for block in pages.blocks(page, 'yaml') if 'k3s_cluster' in block.text]
    play, = [block for block in pages.blocks(page, 'yaml') if '- hosts' in block.text or 'hosts: server' in block.text]
    install = tmp_path / 'k3s-install.sh'
    install.write_text(f'#!/bin/sh\necho "$INSTALL_K3S_SKIP_DOWNLOAD $K3S_TOKEN ${{K3S_URL-none}}" >>{tmp_path}/calls\n'
                       f'touch {tmp_path}/k3s${{K3S_URL:+-agent}}.service\n')
    install.chmod(0o755)
    (tmp_path / 'start.yml').write_text(play.text.replace('/usr/local/bin/k3s-install.sh', str(install))
                                        .replace('/etc/systemd/system', str(tmp_path)))
    hosts = yaml.safe_load(inventory.text)
    assert hosts['k3s_cluster']['vars'].pop('ansible_become') is True
    hosts['k3s_cluster']['vars'].update(ansible_connection='local', ansible_python_interpreter=sys.executable)
    (tmp_path / 'inventory.yml').write_text(yaml.safe_dump(hosts))
    env = {'K3S_TOKEN': 'a-long-secret-word'}
    for _time in range(2):
        run = support.play(tmp_path, 'start.yml', '-e', 'ansible_become=false', hosts=tmp_path / 'inventory.yml',
                           home='none', env=env)
        assert run.rc == 0, run.output
    # Once for an agent, since both are this machine: the second finds the unit of the first.
    assert (tmp_path / 'calls').read_text().splitlines() == [
        'true a-long-secret-word none', 'true a-long-secret-word https://192.0.2.10:6443']
