# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation says what the code does: examples run, tables are those of the code, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys

import pytest
import yaml

import pages
import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')

# Written by hand: test_lookup.py shows that each of these works.
OPTIONS = {
    '_terms': [],
    'dir': ['k3s_artifact_dir', 'airgap_dir', 'K3S_ARTIFACT_DIR', '[k3s_artifact] dir'],
    'machine': ['k3s_artifact_machine'],
    'binary_map': ['k3s_binary_map'],
    'verify': ['k3s_artifact_verify', 'K3S_ARTIFACT_VERIFY', '[k3s_artifact] verify'],
    'keyring': ['k3s_artifact_keyring', 'K3S_ARTIFACT_KEYRING', '[k3s_artifact] keyring'],
    'images': ['k3s_artifact_images'],
}


def sources(option):
    return [entry['name'] for kind in ('vars', 'env') for entry in option.get(kind, ())] + [
        f'[{entry["section"]}] {entry["key"]}' for entry in option.get('ini', ())]


@pytest.fixture(params=['k3s_artifact', 'airgap.k3s.k3s_artifact'])
def ansible_doc(request, tmp_path):
    """Return a function that runs ansible-doc for the lookup, as a loose file and in the collection."""
    env = {'COLUMNS': '200'}
    if '.' in request.param:
        env['ANSIBLE_COLLECTIONS_PATH'] = support.collection_path(tmp_path)
    else:
        support.install_drop_in(tmp_path)

    def run(*arguments):
        where = [] if '.' in request.param else ['--playbook-dir', tmp_path]
        words = ('-t', 'lookup', *where, *arguments, request.param)
        return support.ansible('ansible-doc', *words, folder=tmp_path, env=env)
    return run


def test_ansible_doc_shows_every_option_and_where_it_comes_from(ansible_doc):
    done = ansible_doc()
    assert done.returncode == 0, done.stdout
    assert not re.search('WARNING|ERROR|DEPRECAT', done.stdout), done.stdout
    shown = re.sub(r'\s+', ' ', done.stdout)
    for option, names in OPTIONS.items():
        assert re.search(rf'(^|\s)[-=]?\s?{option}\b', done.stdout), option
        for name in names:
            for word in re.findall(r'\w+', name):
                assert re.search(rf'\b{word}\b', shown), name
    for term in k3s.TERMS:
        assert re.search(rf'\b{term}\b', shown), term


def test_ansible_doc_reads_what_the_file_says(ansible_doc):
    done = ansible_doc('--json')
    assert done.returncode == 0, done.stdout
    document, = json.loads(done.stdout).values()
    assert {name: sources(option) for name, option in document['doc']['options'].items()} == OPTIONS
    assert document['doc']['options']['_terms']['choices'] == list(k3s.TERMS)
    assert document['examples'].strip() == k3s.EXAMPLES.strip()
    assert '_raw' in document['return']


@pytest.fixture(scope='module')
def examples(tmp_path_factory):
    """Run the examples word for word, with the folder that they name in another place; return that and the run."""
    parent = tmp_path_factory.mktemp('examples')
    airgap = parent / 'srv' / 'airgap'
    for arch, path in support.release(airgap, 'amd64', 'arm64', 'arm', layout='per-arch').items():
        path.rename(airgap / arch / 'k3s')
        (airgap / arch / 'k3s-install.sh').write_text('#!/bin/sh\n')
    tasks = yaml.safe_load(k3s.EXAMPLES.replace('/srv/airgap', str(airgap)))
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}]
    hosts = {arch: {'k3s_artifact_machine': support.MACHINES[arch], 'airgap_dir': str(airgap)}
             for arch in ('amd64', 'arm64', 'arm')}
    return airgap, support.play(parent, plays, hosts=hosts)


def test_every_example_runs(examples):
    _airgap, run = examples
    assert run.rc == 0, run.output
    names = {task['name'] for task in yaml.safe_load(k3s.EXAMPLES)}
    assert {(entry['host'], entry['task'], entry['status']) for entry in run.results} == {
        (host, name, 'ok') for host in ('amd64', 'arm64', 'arm') for name in names}
    assert 'WARNING' not in run.output


@pytest.mark.parametrize('arch', ['amd64', 'arm64', 'arm'])
def test_every_example_shows_what_its_name_says(examples, arch):
    airgap, run = examples
    binary = airgap / arch / 'k3s'
    shown = {task['name']: run.result(arch, task['name']).get('msg') for task in yaml.safe_load(k3s.EXAMPLES)}
    items = [result['msg'] for result in run.items(arch, 'Show the image archives for each host')]
    assert items == [f'{airgap}/{arch}/k3s-airgap-images-{arch}.tar.zst']
    assert {name: message for name, message in shown.items() if name != 'Show the image archives for each host'} == {
        'Show the binary for each host': f'{arch} gets {binary}',
        'Show names and digests without setting a variable': f'{support.BINARIES[arch]} {support.sha256(binary)}',
        'Name the release file of a machine that is not in the inventory': 'k3s-riscv64',
        'Use a build of your own where K3s has no release': 'k3s-armv6',
        'Give an untouched k3s-ansible the folder of each host\'s architecture': f'{airgap}/{arch}',
    }


# --- the pages -------------------------------------------------------------------------------------------------------

every_page = pytest.mark.parametrize('page', pages.PAGES, ids=lambda page: page.name)


# Where the pages are on the forge, for README: it is shown in other places, too.
FORGE = re.compile(r'https://(?:github\.com|raw\.githubusercontent\.com)/k3s-artifact/k3s-artifact/(?:blob/)?main/')


@every_page
def test_every_link_of_a_page_leads_somewhere(page):
    for text, target in re.findall(r'\[([^\]]*)\]\(([^)]+)\)', pages.prose(page)):
        ours = FORGE.match(target)
        path, _hash, anchor = target[ours.end() if ours else 0:].partition('#')
        if '://' in path:
            continue
        there = (support.ROOT if ours else page.parent) / path if path else page
        assert there.exists(), f'{text}: {target}'
        assert not anchor or anchor in pages.anchors(there), f'{text}: {target}'


def test_every_page_is_in_the_table_of_contents_of_the_site():
    listed = {re.sub('.*<(.*)>', r'\1', line) for block in pages.blocks(pages.DOCS / 'index.md', '{toctree}')
              for line in block.text.splitlines() if line and not line.startswith(':')}
    assert {page.stem for page in pages.DOCS.glob('*.md')} - {'index'} <= listed
    assert listed - {page.stem for page in pages.DOCS.glob('*.md')} <= {
        'fleets', 'plugins/index', 'contributing', 'changelog'}  # what docs/build.py adds


def test_the_readme_links_work_where_it_is_shown_without_the_repository():
    """On PyPI and on Galaxy there is nothing beside it."""
    targets = re.findall(r'\]\(([^)]+)\)', pages.prose(pages.README))
    assert targets and all('://' in target for target in targets)


# --- variables -------------------------------------------------------------------------------------------------------

VARIABLE = re.compile(r'k3s_(?:artifact|bundle|download)_\w+|' + '|'.join(k3s.OTHER_SETTINGS))
LISTS = ('KNOWN_VARIABLES', 'OTHER_SETTINGS')  # which name variables without reading them
PLUGINS = [*(support.ROOT / 'plugins' / 'action').glob('*.py'), support.ROOT / 'plugins' / 'lookup' / 'k3s_artifact.py']
PLAYBOOKS = sorted((support.ROOT / 'playbooks').glob('*.yml'))


def variables_of_plugin(path):
    """Return the variables that the code of a plugin names: each text that is the name of one."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body
                 if not isinstance(node, ast.Assign) or getattr(node.targets[0], 'id', '') not in LISTS]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if VARIABLE.fullmatch(text)}


def variables_in_code():
    """Return every variable that a plugin or a playbook reads, from their code."""
    found = set().union(*map(variables_of_plugin, PLUGINS))
    for option in yaml.safe_load(k3s.DOCUMENTATION)['options'].values():
        found |= {entry['name'] for entry in option.get('vars', ())}
    for path in PLAYBOOKS:
        found |= set(re.findall(rf'\b(?:{VARIABLE.pattern})\b', re.sub(r'(^|\s)#.*', '', path.read_text())))
    return found


def variables_of(page):
    """Return the variables in the tables of variables of a page, one for each time that it is there."""
    return [name for row in pages.rows(page, 'variable') for name in re.findall(r'`(\w+)`', row[0])]


def test_every_variable_that_is_read_is_in_one_table_and_no_other_is():
    common, download, carry = (variables_of(pages.DOCS / f'{name}.md') for name in ('variables', 'download', 'carry'))
    read = variables_in_code()
    assert {'k3s_artifact_dest', 'k3s_artifact_verify', 'k3s_artifact_report', 'k3s_download_url'} <= read
    of_download = {name for name in read if name.startswith('k3s_download_')}
    of_bundle = {name for name in read if name.startswith(('k3s_bundle_', 'k3s_artifact_sign_'))}
    assert sorted(common) == sorted(read - of_download - of_bundle)
    assert sorted(carry) == sorted(of_bundle)
    assert sorted(download) == sorted(of_download | {'k3s_version', 'k3s_artifact_dir', 'airgap_dir'})


def test_a_variable_that_is_read_is_not_called_misspelt():
    assert not k3s.misspelt(variables_in_code())
    assert set(k3s.OTHER_SETTINGS) <= variables_in_code()


# --- the README ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('page', [pages.README, pages.DOCS / 'architectures.md'], ids=lambda page: page.name)
def test_the_table_of_architectures_is_that_of_the_code(page):
    assert pages.rows(page, '`uname -m`') == [
        [', '.join(row.machines), row.arch, f'`{row.binary}`', f'`k3s-airgap-images-{row.arch}.tar…`',
         f'`sha256sum-{row.arch}.txt`'] for row in k3s.ARCHITECTURES if row.binary]


def test_the_page_of_playbooks_has_each_with_a_command():
    named = {word for words in pages.commands(pages.DOCS / 'playbooks.md') for word in words
             if word.startswith('airgap.k3s.')}
    assert named == {f'airgap.k3s.{path.stem}' for path in PLAYBOOKS}


def test_the_table_of_playbooks_in_the_readme_names_them_all():
    named = sorted(row[0] for row in pages.rows(pages.README, 'playbook'))
    assert named == sorted(f'`airgap.k3s.{path.stem}`' for path in PLAYBOOKS)


ARCHS = {'server-x86': 'amd64', 'agent-pi4': 'arm64', 'agent-pi2': 'arm'}  # what is written beside them there


@pytest.fixture(scope='module', name='layout')
def fixture_layout(tmp_path_factory):
    """Make the folders that the README shows, and a checkout of the plugins; return the folder above them."""
    folder = tmp_path_factory.mktemp('layout')
    shown = re.findall(r'^/srv/(airgap/\w+)/\{(.*)\}$', pages.README.read_text(), re.MULTILINE)
    assert len(shown) == 3
    for place, names in shown:
        arch = place.rpartition('/')[2]
        support.release(folder / 'airgap', arch, layout='per-arch')
        if 'k3s' in names.split(','):
            (folder / place / support.BINARIES[arch]).rename(folder / place / 'k3s')
        (folder / place / 'k3s-install.sh').write_text('#!/bin/sh\n')
        assert sorted(path.name for path in (folder / place).iterdir()) == sorted(names.split(','))
    (folder / 'plugins').symlink_to(support.ROOT / 'plugins')
    return folder


def readme(layout, number):
    """Return the YAML block of the README with this *number*, its paths those of the layout."""
    block = pages.blocks(pages.README, 'yaml')[number]
    return yaml.safe_load(block.text.replace('/srv/airgap', str(layout / 'airgap')))


def nodes(layout, inventory):
    """Write the hosts of the README with the variables of *inventory* as pretend nodes; return the path.

    What the README leaves to real nodes is set for each: its machine, and that it is a folder of this one.
    """
    variables = readme(layout, 0)['k3s_cluster']['children']
    names = [name for group in variables.values() for name in group['hosts']]
    assert set(names) == set(ARCHS)
    hosts = {name: {'ansible_connection': 'local', 'ansible_python_interpreter': sys.executable,
                    'k3s_artifact_machine': support.MACHINES[ARCHS[name]], 'k3s_artifact_probe': False,
                    'k3s_artifact_become': False, 'k3s_artifact_dest': str(layout / name / 'k3s'),
                    'k3s_artifact_data_dir': str(layout / name)} for name in names}
    for name in names:
        (layout / name).mkdir(exist_ok=True)
    text = {'k3s_cluster': {'hosts': hosts, 'vars': inventory['k3s_cluster']['vars']}}
    (layout / 'nodes.json').write_text(json.dumps(text))
    return layout / 'nodes.json'


def run_block(layout, containing):
    """Run the block of commands of the README that contains a text, as it is written there."""
    block, = [block for block in pages.blocks(pages.README, 'sh') if containing in block.text]
    subprocess.run(['bash', '-euc', block.text], cwd=layout, check=True)


def test_way_one_of_the_readme_stages_every_node_with_its_own_inventory(layout):
    hosts = nodes(layout, readme(layout, 0))
    for playbook in ('airgap.k3s.preflight', 'airgap.k3s.stage'):
        assert f'ansible-playbook -i inventory.yml {playbook}\n' in pages.README.read_text()
        run = support.play(layout, playbook, hosts=hosts, home='collection')
        assert run.rc == 0 and 'WARNING' not in run.output and 'no problems' in run.output, run.output
    for name, arch in ARCHS.items():
        assert support.elf_arch(layout / name / 'k3s') == arch
        assert (layout / name / 'k3s-install.sh').exists()
        assert [path.name for path in (layout / name / 'agent' / 'images').iterdir()] == [
            f'k3s-airgap-images-{arch}.tar.zst']


def test_way_two_of_the_readme_gives_every_node_its_own(layout):
    run_block(layout, 'cp plugins/action/copy.py')
    hosts, task = nodes(layout, readme(layout, 0)), readme(layout, 1)[0]
    mine = {key: value for key, value in task['ansible.legacy.copy'].items() if key not in ('owner', 'group')}
    run = support.play(layout, [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {**task, 'name': 'check', 'check_mode': True},  # only root may give a file to root
        {'name': 'stage', 'ansible.legacy.copy': mine}]}], hosts=hosts, home='none')
    assert run.rc == 0 and 'WARNING' not in run.output, run.output
    for name, arch in ARCHS.items():
        assert run.result(name, 'check')['k3s_artifact']['source'] == str(layout / 'airgap' / arch / 'k3s')
        assert support.elf_arch(layout / name / 'k3s') == arch


def test_way_three_of_the_readme_gives_an_untouched_playbook_the_folder_of_every_node(layout):
    """k3s-ansible's own copy, the built-in one, out of the folder that the inventory names."""
    run_block(layout, 'playbooks/lookup_plugins')
    hosts = nodes(layout, readme(layout, 2))
    tasks = [{'name': 'show', 'ansible.builtin.debug': {'msg': '{{ airgap_dir }}'}}] + [
        {'name': name, 'ansible.builtin.copy': {'src': '{{ airgap_dir }}/' + name,
                                                'dest': str(layout) + '/{{ inventory_hostname }}/as-is-' + name}}
        for name in ('k3s', 'k3s-install.sh')]
    (layout / 'playbooks' / 'site.yml').write_text(json.dumps([
        {'hosts': 'k3s_cluster', 'gather_facts': False, 'tasks': tasks}]))
    run = support.play(layout, 'playbooks/site.yml', hosts=hosts, home='none')
    assert run.rc == 0 and 'WARNING' not in run.output, run.output
    for name, arch in ARCHS.items():
        assert run.result(name, 'show')['msg'] == str(layout / 'airgap' / arch)
        assert support.elf_arch(layout / name / 'as-is-k3s') == arch


# --- the action copy -------------------------------------------------------------------------------------------------

copy = support.load_plugin('plugins/modules/copy.py')


def test_the_documentation_of_copy_names_every_variable_that_it_and_the_lookup_read():
    options = yaml.safe_load(k3s.DOCUMENTATION)['options'].values()
    read = variables_of_plugin(support.ROOT / 'plugins' / 'action' / 'copy.py') | {'k3s_version'} | {
        entry['name'] for option in options for entry in option.get('vars', ())}
    assert set(re.findall(rf'\b(?:{VARIABLE.pattern})\b', copy.DOCUMENTATION)) == read


def test_the_documentation_of_copy_has_every_key_of_a_result_and_no_other(tmp_path):
    (tmp_path / 'airgap').mkdir()
    (tmp_path / 'airgap' / support.BINARIES[support.NATIVE]).write_bytes(support.program())
    dest = str(tmp_path / 'k3s')
    task = {'copy': {'src': str(tmp_path / 'airgap' / 'k3s'), 'dest': dest}}
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'check', **task, 'check_mode': True}, {'name': 'stage', **task}, {'name': 'again', **task}]}],
        hosts={'node': {'k3s_artifact_dest': dest, 'k3s_artifact_machine': support.MACHINES[support.NATIVE]}})
    assert run.rc == 0, run.output
    documented = yaml.safe_load(copy.RETURN)
    staged = run.result('node', 'stage')
    assert set(staged['k3s_artifact']) == set(documented['k3s_artifact']['contains'])
    own = {key for key in staged if not key.startswith('_') and key not in ('changed', 'failed', 'invocation', 'diff')}
    assert own == set(documented) - {'skip_reason'}
    for name in ('check', 'again'):
        assert set(run.result('node', name)['k3s_artifact']) == set(documented['k3s_artifact']['contains']) - {'way'}


@pytest.mark.parametrize('name', ['bundle', 'copy', 'images', 'relay', 'release', 'report', 'rollback', 'stage'])
def test_ansible_doc_shows_each_action_without_a_complaint(tmp_path, name):
    env = {'ANSIBLE_COLLECTIONS_PATH': support.collection_path(tmp_path)}
    done = support.ansible('ansible-doc', f'airgap.k3s.{name}', folder=tmp_path, env=env)
    assert done.returncode == 0 and not re.search('WARNING|ERROR|DEPRECAT', done.stdout), done.stdout


# --- what loads when -------------------------------------------------------------------------------------------------

ROLE = {'ansible.builtin.include_role': {'name': 'airgap'}}
BEFORE = {'name': 'before', 'copy': {'content': 'x', 'dest': '{{ playbook_dir }}/x'}}


@pytest.mark.parametrize('tasks, staged', [
    ([{'ansible.builtin.import_role': {'name': 'airgap'}}], True),
    ([BEFORE, {'ansible.builtin.import_role': {'name': 'airgap'}}], True),
    ([ROLE], True), ([BEFORE, ROLE], False)], ids=['import', 'import after a copy', 'include', 'include after a copy'])
def test_what_loads_when_is_as_the_page_says(tmp_path, tasks, staged):
    role = tmp_path / 'roles' / 'airgap'
    (role / 'tasks').mkdir(parents=True)
    support.install_drop_in(role)
    (role / 'tasks' / 'main.yml').write_text(json.dumps([
        {'name': 'stage', 'copy': {'src': '{{ playbook_dir }}/airgap/k3s', 'dest': '{{ k3s_artifact_dest }}'}}]))
    support.release(tmp_path / 'airgap', 'amd64', 'arm64')
    hosts = {'node': {'k3s_artifact_machine': 'aarch64', 'k3s_artifact_probe': False,
                      'k3s_artifact_dest': str(tmp_path / 'k3s')}}
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}], hosts=hosts, home='none')
    assert run.rc == 0, run.output
    assert ('k3s_artifact' in run.result('node', 'airgap : stage')) is staged
    assert support.elf_arch(tmp_path / 'k3s') == ('arm64' if staged else 'amd64')
