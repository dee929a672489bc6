# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user sees of a transfer over ssh: how far it is, through which connection it goes, and what the images
directory never holds."""

import json
import re
import shlex
import subprocess
import threading

import pytest

import support
from lab_release import MEGABYTE

BIG = 10 * MEGABYTE
IMAGES = '/var/lib/rancher/k3s/agent/images'
PROGRESS = re.compile(r'^(\S+): k3s (\d+) % \(([\d.]+) of 10\.0 MB, [\d.]+ MB/s, (\d+ s left|done)\)$', re.MULTILINE)


@pytest.fixture(name='airgap', scope='module')
def fixture_airgap(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp('airgap')
    lab.release(folder, layout='flat', size=BIG, images_size=4 * MEGABYTE, arches=['amd64', 'arm64'])
    return folder


def stage(airgap, **keywords):
    return [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'stage', 'copy': {'src': f'{airgap}/k3s', 'dest': '/usr/local/bin/k3s'}, **keywords}]}]


def prepared(node):
    node.path('/usr/local/bin').mkdir(parents=True, exist_ok=True)
    return node


@pytest.mark.parametrize('password', [False, True], ids=['one stream', 'pieces, where become has a password'])
def test_a_long_transfer_says_how_far_it_is_and_a_short_one_says_nothing(tmp_path, lab, extra_nodes,
                                                                         airgap, short, password):
    slow, fast = prepared(extra_nodes('slow')[0]), prepared(extra_nodes('amd64')[0])
    slow.throttle('6mbit')  # fourteen seconds
    inventory = lab.inventory(tmp_path / 'inventory.yml', [slow, fast], user='admin',
                              **({'ansible_become_password': 'none is asked for'} if password else {}))
    run = support.play(tmp_path, stage(airgap, become=True), hosts=inventory,
                       env={'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short)})
    assert run.rc == 0, run.output
    lines = PROGRESS.findall(run.output)
    assert {host for host, *_rest in lines} == {'slow'}, run.output
    percents = [int(percent) for _host, percent, *_rest in lines]
    assert percents == sorted(set(percents)) and percents[-1] == 100 and 0 < percents[0] < 100
    assert [left == 'done' for *_rest, left in lines] == [False] * (len(lines) - 1) + [True]
    assert 2 <= len(lines) <= 5, 'at most one every few seconds'


def test_a_transfer_whose_task_hides_its_result_says_nothing(tmp_path, lab, extra_nodes, airgap, short):
    slow = prepared(extra_nodes('slow')[0])
    slow.throttle('8mbit')
    inventory = lab.inventory(tmp_path / 'inventory.yml', [slow])
    run = support.play(tmp_path, stage(airgap, no_log=True), hosts=inventory,
                       env={'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short)})
    assert run.rc == 0 and ' MB' not in run.output, run.output
    assert support.elf_arch(slow.path('/usr/local/bin/k3s')) == 'amd64'


def test_the_users_ssh_arguments_lead_the_transfer_too_and_the_shared_connection_stays(tmp_path, lab,
                                                                                       nodes, airgap, short):
    """The node's address exists only on the far side of a jump host; a connection without the user's arguments
    fails."""
    node, jump = prepared(nodes['arm64']), nodes['amd64']
    inventory = lab.inventory(tmp_path / 'inventory.yml', [node])
    content = json.loads(inventory.read_text())
    log = tmp_path / 'jumps'
    through = tmp_path / 'through'
    through.write_text(f'#!/bin/sh\necho >>{log}\nexec {shlex.join([*jump.ssh(), "-W", f"{node.host}:{node.port}"])}\n')
    through.chmod(0o755)
    content['all']['hosts']['arm64'].update(ansible_host='node.invalid',
                                            ansible_ssh_extra_args=f'-o ProxyCommand={through}')
    inventory.write_text(json.dumps(content))
    plays = stage(airgap)
    plays[0]['gather_facts'] = True
    run = support.play(tmp_path, plays, hosts=inventory, env={'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short)})
    assert run.rc == 0, run.output
    assert support.elf_arch(node.path('/usr/local/bin/k3s')) == 'arm64'
    assert len(log.read_text().splitlines()) == 2, 'one shared connection and one for the transfer'
    shared, = (path for path in short.iterdir() if not path.name.startswith('k3s-'))
    check = subprocess.run(['ssh', '-O', 'check', '-S', str(shared), 'node.invalid'], capture_output=True,
                           text=True, check=False)
    assert check.returncode == 0, check.stderr


def test_the_images_directory_never_holds_half_an_archive_and_a_right_one_is_not_touched(tmp_path, lab,
                                                                                         extra_nodes, airgap, short):
    slow = extra_nodes('slow')[0]
    slow.throttle('6mbit')
    images = slow.path(IMAGES)
    images.mkdir(parents=True)
    seen, done = set(), threading.Event()

    def watch():
        while not done.wait(0.02):
            seen.update((path.name, path.stat().st_size) for path in images.iterdir())
    watcher = threading.Thread(target=watch)
    watcher.start()
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'stage', 'copy': {'src': '{{ item }}', 'dest': f'{IMAGES}/{{{{ item | basename }}}}'},
         'with_fileglob': [f'{airgap}/*.tar.zst']}]}]
    inventory = lab.inventory(tmp_path / 'inventory.yml', [slow])
    env = {'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short)}
    run = support.play(tmp_path, plays, hosts=inventory, env=env)
    done.set()
    watcher.join()
    assert run.rc == 0, run.output
    assert ({(name, size) for name, size in seen if size or not name.startswith('.')}
            == {('k3s-airgap-images-amd64.tar.zst', 4 * MEGABYTE)})
    archive, = images.iterdir()
    before = archive.stat()
    again = support.play(tmp_path, plays, hosts=inventory, env=env)
    assert (again.rc, again.changed()) == (0, 0), again.output
    assert (archive.stat().st_ino, archive.stat().st_mtime_ns,
            archive.stat().st_ctime_ns) == (before.st_ino, before.st_mtime_ns, before.st_ctime_ns)
