# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that lose their power, lie, hang or are set up oddly, and controllers that vanish: nothing is lost or wrong."""

import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import lab_system as system
import support
from lab_release import COMPILERS, MEGABYTE
from lab_site import (
    BIG, K3S, NEW, OLD, RATE, SMALL, Proxy, arrived, cut, during, kill_controller, lie, reach, said, spoilt)

IMAGES = '/var/lib/rancher/k3s/agent/images'
ARCHIVE = 'k3s-airgap-images-amd64.tar.zst'
GOING_DOWN = 0x8004587d  # the ioctl of ext4 and XFS that stops a file system at once
WITHOUT_LOG = 2  # and what was not written stays unwritten, as when the power goes


# --- image archives whose folder is elsewhere


class Archives:
    """An old image archive on a node, a newer one on the controller."""

    def __init__(self, here, size=BIG):
        self.here, self.folder = here, here.node.path(IMAGES)
        release = here.lab.release(here.folder / 'images', layout='flat', version=NEW, size=SMALL, images_size=size,
                                   arches=['amd64'])
        self.source = release.images['amd64']
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.seen = set()

    def put_old(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ARCHIVE).write_bytes(b'\x28\xb5\x2f\xfd' + os.urandom(SMALL))
        self.old = support.sha256(folder / ARCHIVE)

    def play(self, **options):
        """Run the task, and note every name and size that the folder has meanwhile."""
        done = threading.Event()
        where = self.here.node.path(IMAGES + '/x').parent

        def watch():
            while not done.wait(0.005):
                for path in where.iterdir():
                    try:
                        self.seen.add((path.name, path.stat().st_size))
                    except OSError:
                        continue
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            return self.here.play(arguments={'src': str(self.source), 'dest': IMAGES + '/', 'mode': '0644'}, **options)
        finally:
            done.set()
            watcher.join()


def bind_mounted(site, archives, size):
    disk = site.node.mount_tmpfs('/mnt/disk', size)
    archives.put_old(disk / 'images')
    archives.folder.mkdir()
    system.mount(disk / 'images', archives.folder, bind=True)
    return disk / 'images'


def bind_mounted_from_the_same_disk(site, archives, _name):
    """The numbers of both devices are equal, and a rename is refused all the same."""
    folder = site.node.path('/mnt/images')
    archives.put_old(folder)
    archives.folder.mkdir()
    system.mount(folder, archives.folder, bind=True)
    return folder


def a_link(site, archives, size):
    disk = site.node.mount_tmpfs('/mnt/disk', size)
    archives.put_old(disk / 'images')
    archives.folder.symlink_to('/mnt/disk/images')
    return disk / 'images'


def a_mount(site, archives, size):
    disk = site.node.mount_tmpfs(IMAGES, size)
    archives.put_old(disk)
    return disk


def a_link_of_the_agent(site, archives, size):
    disk = site.node.mount_tmpfs('/mnt/disk', size)
    archives.put_old(disk / 'agent' / 'images')
    archives.folder.parent.rmdir()
    archives.folder.parent.symlink_to('/mnt/disk/agent')
    return disk / 'agent' / 'images'


@pytest.mark.parametrize('way', [bind_mounted, bind_mounted_from_the_same_disk, a_link, a_mount, a_link_of_the_agent])
def test_an_archive_whose_folder_is_on_another_disk_is_replaced_whole(site, injected, way):
    here = site('amd64')
    archives = Archives(here)
    place = way(here, archives, '40m')
    run = archives.play()
    assert run.rc == 0, run.output
    assert support.sha256(place / ARCHIVE) == support.sha256(archives.source)
    listed = {name: {size for other, size in archives.seen if other == name} for name, _size in archives.seen}
    assert listed.pop(ARCHIVE) <= {SMALL + 4, BIG}, 'a watcher never sees it grow'
    assert not [name for name in listed if not name.startswith('.')] and os.listdir(place) == [ARCHIVE]
    injected.append(f'images: {way.__name__}')


@pytest.mark.parametrize('way', [bind_mounted, a_link, a_mount, a_link_of_the_agent])
def test_an_archive_that_does_not_fit_on_the_disk_of_its_folder_leaves_the_old_one(site, injected, way):
    here = site('amd64')
    archives = Archives(here)
    place = way(here, archives, '8m')
    run = archives.play()
    assert run.rc == 2 and 'Free some space' in said(run), run.output
    assert support.sha256(place / ARCHIVE) == archives.old and os.listdir(place) == [ARCHIVE]
    injected.append(f'images: {way.__name__}, and it is full')


def test_who_may_write_the_images_folder_and_not_its_parent_gets_an_archive_there(site, injected):
    here = site('amd64')
    folder = here.node.path('/mnt/agent/images')
    folder.mkdir(parents=True)
    os.chown(folder, 2002, 2002)
    archives = Archives(here)
    run = here.play(user='guest', arguments={'src': str(archives.source), 'dest': '/mnt/agent/images/', 'mode': '0644'})
    assert run.rc == 0, run.output
    assert support.sha256(folder / ARCHIVE) == support.sha256(archives.source) and os.listdir(folder) == [ARCHIVE]
    injected.append('the parent of the images folder is not writable')


# --- the power goes


def loop_disk(here, kind):
    """Give the node an ext4 or XFS for /usr/local/bin; return a function that takes its power and gives it back."""
    image = here.folder / f'{kind}.img'
    with open(image, 'wb') as file:
        file.truncate(400 << 20)
    subprocess.run([f'mkfs.{kind}', '-q', str(image)], check=True)
    target = here.node.path('/usr/local/bin')
    system.mount(image, target, options='loop')
    here.install_old()
    os.sync()

    def lose_power():
        assert os.path.ismount(target), 'never the disk of this machine'
        folder = os.open(target, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, GOING_DOWN, struct.pack('I', WITHOUT_LOG))
        finally:
            os.close(folder)
        # What is still writing there ends, now that it can no longer write.
        system.wait_until(lambda: system.run('umount', target, check=False).returncode == 0, 20,
                          'The disk stays in use.')
        system.mount(image, target, options='loop')
    return lose_power


@pytest.mark.parametrize('kind', ['ext4', 'xfs'])
@pytest.mark.parametrize('what', ['a binary in place of an old one', 'a first binary', 'an attribute'])
def test_what_a_run_calls_staged_is_there_when_the_power_goes_at_once(site, injected, kind, what):
    here = site('amd64')
    lose_power = loop_disk(here, kind)
    if what == 'a first binary':
        here.path.unlink()
        os.sync()
    run = here.play()
    if what == 'an attribute':
        os.sync()
        run = here.play(arguments={'mode': '0700'})
    lose_power()
    assert run.rc == 0, run.output
    assert here.path.exists(), 'it is gone'
    assert support.sha256(here.path) == here.new, f'{here.path.stat().st_size} bytes'
    assert here.path.stat().st_mode & 0o111
    injected.append(f'the power goes after {what} on {kind}')


@pytest.mark.parametrize('kind', ['ext4', 'xfs'])
def test_power_that_goes_in_mid_transfer_leaves_the_old_binary_and_the_next_run_replaces_it(site, injected, kind):
    here = site('slow', BIG)
    lose_power = loop_disk(here, kind)
    here.remember()

    def act():
        cut(here)
        time.sleep(0.5)
        lose_power()
    run = during(here, arrived(here, 0.5), act)
    assert run.rc != 0
    assert support.sha256(here.path) == here.old
    again = here.play()
    assert again.rc == 0, again.output
    assert support.sha256(here.path) == here.new and not list(here.path.parent.glob('.k3s*'))
    injected.append(f'the power goes in mid-transfer on {kind}')


# --- the controller goes


def test_a_controller_that_vanishes_is_replaced_at_once_and_its_old_session_installs_nothing(site, injected):
    """The node believes that the old session is alive: nothing tells it otherwise for hours."""
    here = site('slow', BIG)
    here.remember()
    with Proxy(here.node) as proxy:
        def vanish():
            proxy.freeze()
            kill_controller(here)
        during(here, arrived(here, 0.5), vanish, of_host=proxy.variables)
        here.check_unharmed()
        kept = here.partial.stat().st_size
        run = here.play()
        print(run.output)
        here.check_repaired(run)
        assert run.result('slow', 'stage')['k3s_artifact']['bytes_to_send'] <= BIG - kept + 65536
        installed = here.path.stat()
    time.sleep(3)  # now the old session hears that its connection is gone
    assert (here.path.stat().st_ino, here.path.stat().st_ctime_ns) == (installed.st_ino, installed.st_ctime_ns)
    assert here.files() == here.before | {K3S}
    injected.append('the controller vanishes')


def playbook_of(here):
    """The processes of the run, the one that was started first."""
    return sorted(pid for pid in system.process_ids() if str(here.folder / 'inventory.yml') in system.command_line(pid))


def test_an_old_session_that_wakes_up_does_not_undo_a_newer_release(site, injected):
    """The controller was asleep, not gone: what it goes on to say of the node must be what it has done there."""
    here = site('slow', BIG)
    here.remember()
    other = here.lab.release(here.folder / 'other', layout='flat', version='v1.32.0+k3s1', size=SMALL, images_size=1000,
                             arches=['amd64']).binaries['amd64']
    folder = here.folder / 'second'
    folder.mkdir()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(here.play)
        reach(arrived(here, 0.5), first)
        asleep = playbook_of(here)
        system.send(asleep, signal.SIGSTOP)
        here.node.throttle(RATE)
        try:
            second = here.play(folder=folder, arguments={'src': str(other)})
            assert second.rc == 0, second.output
            assert support.sha256(here.path) == support.sha256(other)
        finally:
            system.send(asleep, signal.SIGCONT)
        result = first.result()
    assert support.sha256(here.path) in (support.sha256(other), here.new)
    assert (support.sha256(here.path) == here.new) == (result.rc == 0), 'whoever says so has done it'
    assert here.files() == here.before | {K3S} or all('.k3s-artifact.' in path for path in here.files() - here.before)
    injected.append('a session that was asleep')


@pytest.mark.parametrize('way', ['the worker is killed', 'Ctrl-C', 'the task reaches its timeout', 'the run is killed'])
def test_what_ends_the_run_ends_the_transfer_and_nothing_is_put_in_place_afterwards(site, injected, way):
    here = site('slow', BIG)
    here.node.throttle('8mbit')  # ten seconds
    here.remember()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(here.play, **({'play': {'timeout': 5}} if way == 'the task reaches its timeout' else {}))
        if not way.startswith('the task'):
            reach(lambda: here.partial.exists() and here.partial.stat().st_size > BIG / 5, run)
            first, *workers = playbook_of(here)
            if way == 'Ctrl-C':
                system.send([first, *workers], signal.SIGINT)
            elif way == 'the run is killed':
                system.kill([first, *workers])
            else:
                system.kill(workers)
                time.sleep(2)
                system.kill([first])
        assert run.result().rc != 0
    time.sleep(12)  # as long as the whole transfer would take
    clients = [system.command_line(pid) for pid in system.process_ids() if system.process_name(pid) == 'ssh']
    assert not [words for words in clients if here.node.host in words and '[mux]' not in ' '.join(words)], clients
    here.check_unharmed()
    here.node.throttle(RATE)
    here.check_repaired(here.play())
    injected.append(way)


# --- programs on the node that hang or lie


PROGRAMS = {
    'never ends': 'for (;;) pause();',
    'ignores every signal that can be ignored': 'for (int s = 1; s < 32; s++) signal(s, SIG_IGN); for (;;) pause();',
    'forks, and the children never end':
        'if (fork() == 0) { setsid(); for (;;) pause(); } if (fork() == 0) for (;;) pause(); for (;;) pause();',
    'leaves a child that never ends':
        'if (fork() == 0) { for (;;) pause(); } puts("k3s version v1.31.4+k3s1 (abcdef12)"); fflush(stdout); _exit(0);',
    'prints 300 MB':
        'for (long i = 0; i < 6000000; i++) puts("k3s version v1.31.4+k3s1 {{ 7 * 7 }} whatever comes"); return 3;',
    'reads its input': 'while (getchar() != EOF); for (;;) pause();',
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_a_trial_run_that_does_not_end_is_ended_with_all_that_it_started(site, injected, name):
    here = site('amd64')
    program, source = here.folder / 'program', here.folder / 'program.c'
    source.write_text('#include <stdio.h>\n#include <unistd.h>\n#include <signal.h>\n'
                      f'int main(void) {{ {PROGRAMS[name]} return 0; }}\n')
    subprocess.run([COMPILERS['amd64'], '-static', '-Os', '-o', str(program), str(source)], check=True)
    mended = spoilt(here, program.read_bytes())
    next(mended)
    here.remember()
    began = time.monotonic()
    try:
        run = here.play(play={'timeout': 50})
        took = time.monotonic() - began
        print(run.output)
        running = [system.command_line(pid) for pid in here.node.processes() if '--version' in system.command_line(pid)]
        assert not running
        assert took < 48 and len(run.output) < 20_000
        if name != 'leaves a child that never ends':
            assert run.rc == 2 and 'cannot run the new binary' in said(run)
            here.check_unharmed()
            assert not list(here.path.parent.glob('.k3s*')), 'what was tried and failed is taken away'
    finally:
        system.kill([pid for pid in here.node.processes() if '--version' in system.command_line(pid)])
    assert next(mended, 'mended') == 'mended'
    here.check_repaired(here.play())
    injected.append(f'a trial run that {name}')


def program(node, path, text):
    """Put a shell script in place of a program of the node."""
    target = node.path(path)
    if target.exists() or target.is_symlink():
        target.rename(target.with_name(target.name + '.true'))
    target.write_text(f'#!/bin/sh\n{text}\n')
    target.chmod(0o755)


def test_a_restorecon_that_never_ends_does_not_hold_up_the_run(site, injected):
    here = site('amd64')
    program(here.node, '/usr/sbin/restorecon', 'sleep 1000')
    here.remember()
    began = time.monotonic()
    run = here.play(play={'timeout': 50})
    assert time.monotonic() - began < 48, run.output
    here.check_repaired(run)
    assert not [pid for pid in here.node.processes() if 'restorecon' in ' '.join(system.command_line(pid))]
    injected.append('restorecon never ends')


BROKEN = ['exit 1', 'exit 0', 'echo nonsense', 'cat >/dev/null; printf "%064d *stdin\\n" 0', 'kill -SEGV $$',
          'cat >/dev/null; echo "$(tr -dc a-f0-9 </dev/urandom | head -c 64)"']


@pytest.mark.parametrize('lie_of', BROKEN)
@pytest.mark.parametrize('name', ['openssl', 'python3', 'sha256sum'])
def test_a_digest_program_that_is_broken_or_lies_does_not_block_the_node(site, injected, name, lie_of):
    here = site('amd64')
    program(here.node, f'/usr/bin/{name}', lie_of)
    here.remember()
    run = here.play()
    here.check_repaired(run)
    again = here.play()
    assert (again.rc, again.changed()) == (0, 0), again.output
    injected.append(f'{name} that does: {lie_of}')


def test_a_node_without_any_digest_program_that_works_is_not_sent_the_same_again_and_again(site, injected):
    """It cannot be staged. That is said before anything is sent, or at the latest before it is sent a second time."""
    here = site('amd64')
    for name in ('openssl', 'python3', 'sha256sum', 'shasum', 'busybox', 'perl'):
        program(here.node, f'/usr/bin/{name}', 'exit 1')
    here.remember()
    runs = [here.play(), here.play()]
    assert all(run.rc == 2 for run in runs), runs[0].output
    here.check_unharmed()
    assert re.search('sha256|digest|checksum', said(runs[1]), re.IGNORECASE)
    assert 'was changed during the run' not in said(runs[1])
    here.path.unlink()  # nothing to compare with, so it shows when the file has arrived
    left = []
    for _attempt in range(2):
        assert 'so what arrives cannot be checked' in said(here.play())
        left.append({path.name: path.stat().st_mtime_ns for path in here.path.parent.glob('.k3s-artifact.*')})
    assert left[0] and left[0] == left[1]
    injected.append('no digest program works')


# --- owners, modes and names


def test_an_owner_whose_name_has_a_space_is_kept(site, injected):
    here = site('amd64')
    for name in ('passwd', 'group'):
        with open(here.node.path(f'/etc/{name}'), 'a', encoding='utf-8') as file:
            file.write('DOMAIN\\k3s admins:x:5001:' + ('5001::/:/bin/sh\n' if name == 'passwd' else '\n'))
    os.chown(here.path, 5001, 5001)
    here.remember()
    run = here.play()
    here.check_repaired(run)
    assert (here.path.stat().st_uid, here.path.stat().st_gid) == (5001, 5001)
    result = run.result('amd64', 'stage')
    assert (result['owner'], result['group'], result['uid'], result['gid']) == ('DOMAIN\\k3s admins',
                                                                                'DOMAIN\\k3s admins', 5001, 5001)
    again = here.play()
    assert (again.rc, again.changed()) == (0, 0), again.output
    named = here.play(arguments={'owner': 'DOMAIN\\k3s admins', 'group': 'DOMAIN\\k3s admins'})
    assert (named.rc, named.changed()) == (0, 0), named.output
    injected.append('an owner with a space')


def test_an_owner_that_the_node_has_no_name_for_is_kept(site, injected):
    here = site('amd64')
    os.chown(here.path, 54321, 54321)
    here.remember()
    here.check_repaired(here.play())
    assert (here.path.stat().st_uid, here.path.stat().st_gid) == (54321, 54321)
    assert here.play().changed() == 0
    injected.append('an owner without a name')


@pytest.mark.parametrize('disk', [True, False], ids=['on a disk of its own', 'on the root'])
def test_the_access_list_of_the_old_binary_is_kept(site, injected, disk):
    here = site('amd64')
    if disk:
        here.node.mount_tmpfs('/usr/local/bin', '16m')
        here.install_old()
    here.node.run(f'setfacl -m u:guest:rwx {K3S}')
    wanted = here.node.run(f'getfacl -p {K3S}').stdout
    assert 'user:guest:rwx' in wanted
    run = here.play(arguments={'mode': None})
    assert run.rc == 0, run.output
    assert support.sha256(here.path) == here.new
    assert 'user:guest:rwx' in here.node.run(f'getfacl -p {K3S}').stdout
    injected.append('an access list')


@pytest.mark.parametrize('dest', ['/k3s', '/mnt/' + 'n' * 170, '/mnt/with a space/k3s',
                                  "/mnt/it's/k3s",
                                  '/mnt/$(touch ran)`touch ran`/k3s', '/mnt/-n/-k3s'])
def test_an_unusual_install_path(site, injected, dest):
    here = site('amd64')
    here.node.path(dest).parent.mkdir(parents=True, exist_ok=True)
    for _run in range(2):
        run = here.play(variables={'k3s_artifact_dest': dest}, arguments={'dest': dest})
        assert run.rc == 0, run.output
        target = here.node.path(dest)
        assert support.sha256(target) == here.new and target.stat().st_mode & 0o777 == 0o755
        assert not [path.name for path in target.parent.iterdir() if path.name.startswith('.k3s')]
    assert run.changed() == 0
    assert not [path for path in here.files() if path.endswith('/ran')]
    injected.append(f'the install path {dest}')


# --- what lies about


@pytest.mark.parametrize('number', ['', '.1', '.99999'], ids=['without a number', 'number 1', 'another number'])
@pytest.mark.parametrize('what', ['a FIFO', 'a link', 'a link to nothing', 'a directory', 'too long',
                                  'right and executable for all'])
def test_what_lies_at_the_place_of_a_partial_file_harms_nothing(site, injected, what, number):
    here = site('amd64')
    place, victim = here.path.with_name(f'.k3s-artifact.k3s.{here.new}{number}.part'), here.node.path('/mnt/victim')
    victim.write_bytes(here.source.read_bytes()[:MEGABYTE])
    before = support.sha256(victim)
    if what == 'a FIFO':
        os.mkfifo(place)
    elif what == 'a link':
        place.symlink_to('/mnt/victim')
    elif what == 'a link to nothing':
        place.symlink_to('/mnt/nothing')
    elif what == 'a directory':
        place.mkdir()
    elif what == 'too long':
        place.write_bytes(here.source.read_bytes() + os.urandom(MEGABYTE))
    else:
        shutil.copy(here.source, place)
        place.chmod(0o777)
    run = here.play(play={'timeout': 60})
    print(run.output)
    assert support.sha256(victim) == before and not here.node.path('/mnt/nothing').exists()
    assert run.rc == 0
    assert support.sha256(here.path) == here.new and not here.path.is_symlink()
    assert here.path.stat().st_mode & 0o777 == 0o755
    assert run.result('amd64', 'stage')['k3s_artifact']['bytes_to_send'] >= 0
    injected.append(f'{what} at the partial path {number}')


def test_stale_partial_files_do_not_keep_a_small_disk_full(site, injected):
    here = site('amd64')
    here.node.mount_tmpfs('/usr/local/bin', '6m')
    here.install_old()
    two_days_ago = time.time() - 2 * 86400
    for number, digest in enumerate(('1' * 64, '2' * 64)):
        stale = here.path.with_name(f'.k3s-artifact.k3s.{digest}{"." + str(number) if number else ""}.part')
        stale.write_bytes(os.urandom(SMALL))
        os.utime(stale, (two_days_ago, two_days_ago))
    mine = here.path.with_name('.mine.part')
    mine.write_text('keep')
    os.utime(mine, (two_days_ago, two_days_ago))
    run = here.play()
    assert run.rc == 0, run.output
    assert support.sha256(here.path) == here.new
    assert sorted(path.name for path in here.path.parent.iterdir()) == ['.mine.part', 'k3s']
    injected.append('stale partial files on a small disk')


@pytest.mark.parametrize('shell', ['posh', 'zsh', 'mksh', 'yash'])
def test_what_the_kernel_refuses_is_never_a_script_whatever_shell_is_called_sh(site, injected, shell):
    here = site('amd64')
    here.node.path('/usr/bin/sh').unlink()
    here.node.path('/usr/bin/sh').symlink_to(shell)
    mended = spoilt(here, support.elf('amd64', body=b'\ntouch /tmp/was-run-as-a-script\necho v1.31.4+k3s1\nexit 0\n'))
    next(mended)
    here.remember()
    run = here.play()
    assert run.rc == 2 and 'cannot run the new binary' in said(run), run.output
    assert not here.node.path('/tmp/was-run-as-a-script').exists()
    here.check_unharmed()
    assert next(mended, 'mended') == 'mended'
    here.check_repaired(here.play())
    injected.append(f'no program, and {shell} is sh')


# --- what a node says


SAYINGS = {'escape sequences': "'\\033[2J\\033]0;title\\007x86_64'",
           'lines': "'x86_64\\n@machine=aarch64\\n@kind=absent\\n'", 'a carriage return': "'aarch64\\rx86_64'",
           'too much': "\"$(head -c 100000 /dev/zero | tr '\\0' x)\"",
           'a template': "\"{{ lookup('ansible.builtin.pipe', 'touch MARK') }}\"",
           'a control character': "'x86\\001_64'"}


@pytest.mark.parametrize('saying', SAYINGS)
@pytest.mark.parametrize('way', ['copy', 'preflight'])
def test_what_a_node_says_is_shown_as_text_and_never_obeyed(site, injected, saying, way):
    here = site('amd64')
    mark = here.folder / 'MARK'
    lie(here.node, f'printf {SAYINGS[saying].replace("MARK", str(mark))}')
    here.remember()
    if way == 'copy':
        run = here.play()
    else:
        inventory = here.lab.inventory(here.folder / 'inventory.yml', [here.node])
        run = support.play(here.folder, f'airgap.k3s.{way}', '-e', f'k3s_artifact_dir={here.source.parent}', '-e',
                           'k3s_artifact_hosts=all', hosts=inventory,
                           home='collection', env={'ANSIBLE_SSH_CONTROL_PATH_DIR': here.controls})
    assert not re.search(r'[\x00-\x08\x0b-\x1f\x7f]', run.output), repr(run.output)
    assert len(run.output) < 20_000
    assert not mark.exists() and 'Traceback' not in run.output
    assert support.sha256(here.path) == here.old
    assert run.rc != 0
    injected.append(f'{saying}, in {way}')


# --- many at once


def test_24_names_of_four_nodes_at_once_leave_each_node_with_its_binary(lab, tmp_path, extra_nodes, short, injected):
    nodes = [*extra_nodes('amd64', 2), *extra_nodes('arm64'), *extra_nodes('busybox')]
    release = lab.release(tmp_path / 'airgap', layout='flat', version=NEW, size=SMALL, images_size=1000,
                          arches=['amd64', 'arm64'])
    old = lab.release(tmp_path / 'old', layout='flat', version=OLD, size=MEGABYTE, images_size=1000,
                      arches=['amd64', 'arm64'])
    for node in nodes:
        node.path(K3S).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(old.binaries[node.arch], node.path(K3S))
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes)
    content = json.loads(inventory.read_text())
    hosts = content['all']['hosts']
    for node in nodes:
        for number in range(5):
            hosts[f'{node.name}-alias-{number}'] = dict(hosts[node.name])
    inventory.write_text(json.dumps(content))
    plays = [{'hosts': 'all', 'gather_facts': False,
              'tasks': [{'name': 'stage', 'copy': {'src': str(release.binaries['amd64']), 'dest': K3S}}]}]
    run = support.play(tmp_path, plays, '--forks', '24', hosts=inventory,
                       env={'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short), 'ANSIBLE_TIMEOUT': '60'})
    print(run.output)
    for node in nodes:
        assert support.sha256(node.path(K3S)) == support.sha256(release.binaries[node.arch]), node
        assert [path.name for path in node.path(K3S).parent.iterdir()] == ['k3s'], node
    assert run.rc == 0
    injected.append('24 names of four nodes')
