# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever fails on the way to a node: the old K3s stays whole and runs, nothing is left behind, the next run repairs
it."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

import support
from lab_release import COMPILERS, MEGABYTE
from lab_site import (
    BIG, K3S, OLD, RATE, arrived, cut, during, kill_controller, lie, reach, said, spoilt, tell_the_truth,
)


# --- faults that are there before the run ----------------------------------------------------------------------------


class Fault(NamedTuple):
    """Something that is wrong with a node or the controller, and what the user is told."""

    inject: object  # a generator function: breaks the site, yields, and mends it as an administrator would
    says: str  # a regular expression
    kinds: tuple = ('amd64',)
    options: dict = {}
    runs: bool = True  # whether the old K3s can run while the fault is there

    def __str__(self):
        return self.inject.__name__


FAULTS = []


def fault(says, *kinds, runs=True, **options):
    """Enter a generator function into the table FAULTS."""
    def enter(inject):
        FAULTS.append(Fault(inject, says, kinds or ('amd64',), options, runs))
        return inject
    return enter


@fault('are free. Free some space. Nothing was changed.', 'amd64', 'arm64', 'busybox')
def the_target_file_system_is_full(site):
    site.node.mount_tmpfs('/usr/local/bin', '4m')
    site.install_old()
    site.node.fill('/usr/local/bin', leave=100_000)
    yield
    site.path.with_name('filler').unlink()


@fault('cannot write to /usr/local/bin on the node, or its file system is read-only|Read-only file system', 'amd64',
       'busybox')
def the_target_is_read_only(site):
    site.node.read_only('/usr/local/bin')
    yield
    site.node.remount('/usr/local/bin', 'rw')


@fault('/usr/local/bin/k3s cannot be replaced:')
def the_old_binary_is_immutable(site):
    site.node.immutable(K3S)
    yield
    site.node.immutable(K3S, on=False)


@fault('cannot write to /usr/local/bin on the node')
def the_folder_of_the_install_path_is_immutable(site):
    site.node.immutable('/usr/local/bin')
    yield
    site.node.immutable('/usr/local/bin', on=False)


@fault('the node cannot run the new binary', 'amd64', 'armhf', 'busybox', runs=False)
def the_file_system_does_not_let_programs_run(site):
    site.node.no_exec('/usr/local/bin')
    yield
    site.node.remount('/usr/local/bin', 'exec')


@fault('the user guest cannot write to /usr/local/bin', user='guest')
def the_user_may_not_write_and_does_not_become_root(site):
    yield


@fault('password', user='guest', play={'become': True})
def the_user_may_not_become_root(site):
    yield


@fault('no-such-sudo', user='admin', play={'become': True}, variables={'ansible_become_exe': '/usr/bin/no-such-sudo'})
def the_program_that_becomes_root_is_missing(site):
    yield


@fault('the user guest cannot write to /usr/local/bin', user='admin', play={'become': True, 'become_user': 'guest'})
def the_user_becomes_another_one_who_may_not_write(site):
    yield


@fault('', variables={'ansible_remote_tmp': '/mnt/tmp'}, arguments={'backup': True})
def the_remote_temporary_folder_is_full(site):
    site.node.mount_tmpfs('/mnt/tmp', '1m')
    site.node.fill('/mnt/tmp')
    yield
    site.node.unmount('/mnt/tmp')


@fault('', variables={'ansible_remote_tmp': '/mnt/file/tmp'}, arguments={'backup': True})
def the_remote_temporary_folder_cannot_be_made(site):
    site.node.path('/mnt/file').write_text('')
    yield
    site.node.path('/mnt/file').unlink()


@fault('', arguments={'backup': True})
def an_option_needs_python_and_the_node_has_none(site):
    python = [path for path in site.node.path('/usr/bin').glob('python3.*') if not path.is_symlink()][0]
    python.rename(python.with_name('hidden'))
    yield
    python.with_name('hidden').rename(python)


@fault('the node cannot run the new binary', 'amd64', 'busybox', 'armhf')
def the_header_is_right_and_the_rest_is_no_program(site):
    """A shell may take what the kernel refuses for a script: the file below would then be one that succeeds."""
    yield from spoilt(site, support.elf(site.node.arch,
                                        body=b'\ntouch /tmp/was-run-as-a-script\necho v1.31.4+k3s1\nexit 0\n'))
    assert not site.node.path('/tmp/was-run-as-a-script').exists()


@fault(r'the node cannot run the new binary \(exit status 3: it is unwell\)')
def the_new_binary_fails(site):
    yield from spoilt(site, support.program('it is unwell', status=3))


def linked_for(site, loader):
    """Return a program for the site's node that needs another dynamic loader than the node has."""
    program = site.folder / 'program'
    source = site.folder / 'program.c'
    source.write_text('int main(void) { return 0; }\n')
    subprocess.run([COMPILERS[site.node.arch], f'-Wl,--dynamic-linker={loader}', '-o', str(program), str(source)],
                   check=True)
    return program.read_bytes()


@fault('the node cannot run the new binary', 'amd64', 'busybox')
def the_loader_of_the_new_binary_is_missing(site):
    yield from spoilt(site, linked_for(site, '/lib/ld-none.so.1'))


@fault('the node cannot run the new binary', 'armhf')
def the_new_binary_is_for_the_soft_float_arm(site):
    yield from spoilt(site, linked_for(site, '/lib/ld-linux.so.3'))


@fault('the node cannot run the new binary', 'armhf')
def the_loader_on_the_node_is_truncated(site):
    loader = site.node.path('/usr/lib/arm-linux-gnueabihf/ld-linux-armhf.so.3')
    broken = site.node.path('/lib/ld-broken.so.3')
    broken.write_bytes(loader.read_bytes()[:5000])
    broken.chmod(0o755)
    yield from spoilt(site, linked_for(site, '/lib/ld-broken.so.3'))
    broken.unlink()


def claims(site, text):
    """Let the node say that its machine is *text*; yield, and let it tell the truth again."""
    lie(site.node, f"printf '%s\\n' {text}")
    yield
    tell_the_truth(site.node)


@fault('no K3s binary for host')
def the_node_claims_an_architecture_that_the_artifact_directory_lacks(site):
    yield from claims(site, 'aarch64')


@fault('the node cannot run the new binary')
def the_node_claims_another_architecture(site):
    """Of those that the controller's kernel cannot run: the nodes share it."""
    other = site.source.with_name('k3s-s390x')
    other.write_bytes(support.elf('s390x', body=os.urandom(MEGABYTE)))
    yield from claims(site, 's390x')


@fault("which is unknown: K3s has releases for")
def the_node_claims_a_path(site):
    yield from claims(site, '../../../../etc/shadow')


@fault("its facts say s390x", play={'gather_facts': True, 'gather_subset': ['!all', '!min', 'platform']})
def the_node_lies_in_its_facts(site):
    site.source.with_name('k3s-s390x').write_bytes(support.elf('s390x'))
    lies = site.node.path('/usr/lib/python3/dist-packages/lies.pth')
    lies.write_text("import platform; platform.machine = lambda: 's390x'\n")
    yield
    lies.unlink()


@pytest.mark.parametrize(('each', 'kind'), [(each, kind) for each in FAULTS for kind in each.kinds], ids=str)
def test_the_old_binary_survives_and_the_next_run_replaces_it(site, injected, each, kind):
    here = site(kind)
    whole = here.files()
    mended = each.inject(here)
    next(mended)
    here.remember()
    run = here.play(**each.options)
    print(run.output)
    assert run.rc != 0
    assert re.search(each.says, said(run))
    here.check_unharmed(each.runs)
    assert next(mended, 'mended') == 'mended'
    here.before = whole
    here.check_repaired(here.play())
    injected.append(f'{each} on {kind}')


def test_a_link_at_the_install_path_is_replaced_and_what_it_led_to_is_left_alone(site, injected):
    here = site('amd64')
    elsewhere = here.node.path('/mnt/k3s')
    here.path.rename(elsewhere)
    here.path.symlink_to('/mnt/k3s')
    here.remember()
    run = here.play()
    assert not here.path.is_symlink()
    assert support.sha256(elsewhere) == here.old
    here.check_repaired(run)
    injected.append('a link at the install path')


@pytest.mark.parametrize('link', [False, True], ids=['a directory', 'a link to a directory'])
def test_a_directory_at_the_install_path_is_left_alone_with_all_that_is_in_it(site, injected, link):
    here = site('amd64')
    folder = here.node.path('/mnt/folder') if link else here.path
    here.path.unlink()
    folder.mkdir()
    (folder / 'file').write_text('mine')
    if link:
        here.path.symlink_to('/mnt/folder')
    here.remember()
    run = here.play()
    assert run.rc != 0
    assert f'amd64: {K3S} is a directory, not a file. Remove it' in said(run)
    assert here.files() == here.before
    assert (folder / 'file').read_text() == 'mine'
    here.path.rename(here.path.with_name('k3s.mine'))
    run = here.play()
    here.before = here.files()
    here.check_repaired(run)
    injected.append('a directory at the install path')


@pytest.mark.parametrize('state', ['full', 'missing', 'noexec'])
def test_the_remote_temporary_folder_does_not_matter_to_the_short_path(site, injected, state):
    here = site('amd64')
    if state != 'missing':
        here.node.mount_tmpfs('/mnt/tmp', '1m', 'noexec' if state == 'noexec' else '')
    if state == 'full':
        here.node.fill('/mnt/tmp')
    here.remember()
    here.check_repaired(here.play(variables={'ansible_remote_tmp': '/mnt/tmp'}))
    injected.append(f'the remote temporary folder is {state}')


def test_a_user_who_becomes_an_unprivileged_one_gets_the_binary_where_that_one_may_write(site, injected):
    here = site('amd64')
    run = here.play(user='admin', play={'become': True, 'become_user': 'guest'},
                    variables={'k3s_artifact_dest': '/home/guest/k3s'})
    assert run.rc == 0, run.output
    target = here.node.path('/home/guest/k3s')
    assert support.sha256(target) == here.new and target.stat().st_uid != 0
    injected.append('become to an unprivileged user')


def test_a_node_without_python_gets_its_binary(site, injected):
    here = site('amd64')
    for python in here.node.path('/usr/bin').glob('python3*'):
        python.unlink()
    here.remember()
    here.check_repaired(here.play())
    injected.append('a node without Python')


def test_a_node_that_changes_its_answer_between_plays_keeps_its_old_binary(site, injected):
    here = site('amd64')
    here.source.with_name('k3s-s390x').write_bytes(support.elf('s390x'))
    here.remember()
    lie(here.node, '[ -e /run/lie ] && echo s390x || uname.true "$@"')
    here.before = here.files()
    facts = {'hosts': 'all', 'gather_facts': True, 'gather_subset': ['!all', '!min', 'platform'],
             'tasks': [{'name': 'from now on it lies', 'ansible.builtin.raw': 'touch /run/lie'}]}
    run = here.play(before=[facts])
    assert run.rc == 2
    assert "amd64: it says that it is 's390x', its facts say x86_64" in said(run)
    here.check_unharmed()
    injected.append('a node that changes its answer between plays')


# --- faults in the middle of a transfer ------------------------------------------------------------------------------


def check_resumed(here, run, kept):
    """Check that *run* sent no more than what was missing beyond the *kept* bytes of the partial file."""
    here.check_repaired(run)
    assert run.result('slow', 'stage')['k3s_artifact']['bytes_to_send'] <= BIG - kept + 65536


@pytest.mark.parametrize('share', [0.1, 0.5, 0.95])
def test_a_cut_connection_leaves_the_old_binary_and_the_next_run_continues(site, injected, share):
    here = site('slow', BIG)
    here.remember()
    run = during(here, arrived(here, share), lambda: cut(here))
    print(run.output)
    assert run.rc == 4
    message = said(run)
    assert 'the connection broke' in message
    assert f'What was at {K3S} before is still there, and the next run continues the transfer' in message
    here.check_unharmed()
    kept = here.partial.stat().st_size
    assert share * BIG <= kept < BIG
    check_resumed(here, here.play(), kept)
    injected.append(f'the connection is cut at {share:.0%}')


def test_after_a_cut_at_90_percent_at_most_12_percent_of_the_bytes_cross_the_network(site, injected):
    here = site('slow', BIG)
    here.remember()
    during(here, arrived(here, 0.9), lambda: cut(here))
    counter = Path(f'/sys/class/net/{here.node.interface}/statistics/tx_bytes')
    before = int(counter.read_text())
    run = here.play()
    sent = int(counter.read_text()) - before
    here.check_repaired(run)
    print(f'{sent} bytes left the controller, {sent / BIG:.1%} of the file')
    assert sent <= 0.12 * BIG
    injected.append('the connection is cut at 90%')


def test_a_killed_controller_leaves_the_old_binary_and_the_next_run_continues(site, injected):
    here = site('slow', BIG)
    here.remember()
    run = during(here, arrived(here, 0.5), lambda: kill_controller(here))
    assert run.rc == -9
    here.check_unharmed()
    kept = here.partial.stat().st_size
    assert kept >= BIG / 2
    check_resumed(here, here.play(), kept)
    injected.append('the controller is killed')


def test_a_task_that_reaches_its_timeout_leaves_the_old_binary_and_the_next_run_continues(site, injected):
    here = site('slow', BIG)
    here.node.throttle('8mbit')
    here.remember()
    run = here.play(play={'timeout': 6})
    assert run.rc == 2 and 'time' in said(run).lower(), run.output
    here.check_unharmed()
    kept = here.partial.stat().st_size
    assert kept < BIG
    here.node.throttle(RATE)
    check_resumed(here, here.play(), kept)
    injected.append('the task reaches its timeout')


def test_an_sshd_that_restarts_does_not_disturb_the_transfer(site, injected):
    here = site('slow', BIG)
    here.remember()

    def restart():
        here.node.restart_sshd()
        here.node.throttle(RATE)
    here.check_repaired(during(here, arrived(here, 0.5), restart))
    injected.append('sshd restarts')


def test_an_sshd_that_goes_with_its_sessions_leaves_the_old_binary_and_the_next_run_continues(site, injected):
    here = site('slow', BIG)
    here.remember()

    def stop():
        here.node.stop_sshd()
        cut(here)
    run = during(here, arrived(here, 0.5), stop)
    assert 'the next run continues the transfer' in said(run)
    kept = here.partial.stat().st_size
    unreachable = here.play()
    assert unreachable.rc == 4
    here.node.start_sshd()
    here.check_unharmed()
    check_resumed(here, here.play(), kept)
    injected.append('sshd ends with its sessions')


def test_a_file_system_that_fills_up_leaves_the_old_binary_and_the_next_run_continues(site, injected):
    here = site('slow', BIG)
    here.node.mount_tmpfs('/usr/local/bin', '16m')
    here.install_old()
    here.remember()
    filler = here.path.with_name('filler')

    def fill():
        here.node.fill('/usr/local/bin', leave=200_000)
        here.node.throttle(RATE)
    run = during(here, arrived(here, 0.5), fill)
    assert 'cannot be written on the node: ' in said(run) and 'No space left on device' in said(run)
    assert f'What was at {K3S} before is still there.' in said(run)
    here.before.add('/usr/local/bin/filler')
    here.check_unharmed()
    kept = here.partial.stat().st_size
    filler.unlink()
    here.before.discard('/usr/local/bin/filler')
    check_resumed(here, here.play(), kept)
    injected.append('the file system fills up')


def overwrite(path):
    with open(path, 'r+b') as file:
        file.seek(-MEGABYTE, os.SEEK_END)
        file.write(b'\0' * 1000)


def replace(path):
    other = path.with_name('other')
    other.write_bytes(path.read_bytes()[:-1000] + b'\0' * 1000)
    other.rename(path)


def truncate(path):
    os.truncate(path, 6 * MEGABYTE)


@pytest.mark.parametrize(('spoil', 'says'),
                         [(overwrite, 'is not the file that was verified'), (truncate, 'arrived incomplete')])
def test_an_artifact_that_changes_while_it_is_sent_is_not_installed(site, injected, spoil, says):
    here = site('slow', BIG)
    good = here.source.read_bytes()
    here.remember()

    def act():
        spoil(here.source)
        here.node.throttle(RATE)
    run = during(here, arrived(here, 0.2), act)
    assert says in said(run) and f'What was at {K3S} before is still there.' in said(run)
    here.check_unharmed()
    here.source.write_bytes(good)
    here.check_repaired(here.play())
    injected.append(f'{spoil.__name__} the artifact while it is sent')


@pytest.mark.parametrize('spoil', [replace, os.unlink])
def test_an_artifact_that_is_replaced_or_deleted_while_it_is_sent_arrives_as_it_was_verified(site, injected, spoil):
    here = site('slow', BIG)
    here.remember()

    def act():
        spoil(here.source)
        here.node.throttle(RATE)
    run = during(here, arrived(here, 0.2), act)
    here.check_repaired(run)
    injected.append(f'{spoil.__name__} the artifact while it is sent')


@pytest.mark.parametrize(('spoil', 'says'), [
    (overwrite, 'is not the file that was verified'), (replace, 'is not the file that was verified'),
    (truncate, 'arrived incomplete'), (os.unlink, 'was there when it was verified and cannot be read now')])
@pytest.mark.parametrize('path', ['short path', 'through core'])
def test_an_artifact_that_changes_between_verifying_and_sending_is_not_installed(site, injected, spoil, says, path):
    """The node holds the run up where it is asked for its machine: after the file was verified, before it is opened."""
    here = site('amd64', BIG)
    good = here.source.read_bytes()
    lie(here.node, 'touch /run/asked; until [ -e /run/go ]; do sleep 0.05; done; uname.true "$@"')
    here.remember()

    def act():
        spoil(here.source)
        here.node.path('/run/go').write_text('')
    run = during(here, here.node.path('/run/asked').exists, act, variables={'k3s_artifact_machine': 'x86_64'},
                 arguments={'backup': True} if path == 'through core' else {})
    print(run.output)
    assert run.rc == 2
    if path == 'short path':
        assert says in said(run)
    here.check_unharmed()
    here.source.write_bytes(good)
    here.check_repaired(here.play())
    injected.append(f'{spoil.__name__} the artifact between verifying and sending, {path}')


# --- more than one run, more than one node ---------------------------------------------------------------------------


def both(here, first, second):
    """Start a second run against the node when the first one is on its way; return both."""
    folders = [here.folder / name for name in ('one', 'two')]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor() as pool:
        one = pool.submit(here.play, folder=folders[0], **first)
        reach(lambda: here.partial.exists() and here.partial.stat().st_size >= 0.2 * BIG, one)
        two = pool.submit(here.play, folder=folders[1], **second)
        return one.result(), two.result()


def test_two_runs_at_once_put_the_same_binary_in_place_once(site, injected):
    here = site('slow', BIG)
    here.remember()
    runs = both(here, {}, {})
    for run in runs:
        here.check_repaired(run)
    assert here.play().changed() == 0
    injected.append('two runs at once')


@pytest.mark.parametrize('number', ['', '.1'], ids=['an older release of ours', 'a shell'])
def test_a_run_takes_over_what_another_one_still_writes_and_that_one_can_do_no_harm(site, injected, number):
    """A program that is open for writing cannot be run. So what is tried and installed is a file that nobody else has
    open."""
    here = site('amd64')
    here.remember()
    partial = here.path.with_name(f'.k3s-artifact.k3s.{here.new}{number}.part')
    shutil.copy(here.source, partial)
    partial.chmod(0o600)
    with open(partial, 'r+b') as other:
        run = here.play()
        other.write(b'what a session that lives on writes')
    here.check_repaired(run)
    injected.append('another run is writing')


def test_two_runs_at_once_with_two_releases_leave_one_of_them_complete(site, injected):
    here = site('slow', BIG)
    here.remember()
    other = here.lab.release(here.folder / 'other', layout='flat', version='v1.32.0+k3s1', size=BIG,
                             images_size=1000, arches=['amd64'])
    either = {'variables': {'k3s_artifact_downgrade': True}}
    runs = both(here, either, {**either, 'arguments': {'src': str(other.binaries['amd64'])}})
    assert 0 in [run.rc for run in runs]
    for run in runs:
        assert run.rc == 0 or 'perhaps by another run against this node. Run again.' in said(run)
    assert support.sha256(here.path) in (here.new, support.sha256(other.binaries['amd64']))
    here.check_repaired(here.play(**either))
    injected.append('two runs at once with two releases')


def test_one_dead_node_of_twenty_does_not_hold_up_the_others(site, injected, extra_nodes):
    here = site('amd64')
    nodes = extra_nodes('amd64', 20)
    for node in nodes:
        shutil.copy2(here.source.parents[1] / 'old' / 'k3s', node.path(K3S))
    dead = nodes[7]
    dead.stop_sshd()
    run = here.play(nodes=nodes, words=('--forks', '20'))
    assert run.rc == 4
    assert [entry['host'] for entry in run.results if entry['status'] == 'unreachable'] == [dead.name]
    for node in nodes:
        assert support.sha256(node.path(K3S)) == (here.old if node is dead else here.new)
        assert not list(node.path(K3S).parent.glob('.*'))
    dead.start_sshd()
    assert dead.run(f'{K3S} --version').stdout.startswith(f'k3s version {OLD}')
    again = here.play(nodes=nodes, words=('--forks', '20'))
    assert again.rc == 0, again.output
    assert again.changed() == 1
    assert all(support.sha256(node.path(K3S)) == here.new for node in nodes)
    injected.append('one dead node of twenty')


def test_one_dead_node_keeps_stage_from_changing_any(site, injected, extra_nodes):
    here = site('amd64')
    one, dead = extra_nodes('amd64', 2)
    for node in (one, dead):
        shutil.copy2(here.source.parents[1] / 'old' / 'k3s', node.path(K3S))
    inventory = here.lab.inventory(here.folder / 'inventory.yml', [one, dead])
    dead.stop_sshd()
    words = ('airgap.k3s.stage', '-e', f'k3s_artifact_dir={here.source.parent}', '-e', 'k3s_artifact_hosts=all')
    env = {'ANSIBLE_SSH_CONTROL_PATH_DIR': here.controls}
    run = support.play(here.folder, *words, hosts=inventory, home='collection', env=env)
    assert run.rc != 0
    assert f'{dead.name} is unreachable' in run.output
    assert [support.sha256(node.path(K3S)) for node in (one, dead)] == [here.old, here.old]
    dead.start_sshd()
    run = support.play(here.folder, *words, hosts=inventory, home='collection', env=env)
    assert run.rc == 0, run.output
    assert [support.sha256(node.path(K3S)) for node in (one, dead)] == [here.new, here.new]
    injected.append('one dead node and stage')
