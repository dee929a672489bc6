# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller whose disk fails, whose file server forgets a file, or whose temporary folder is full."""

import errno
import os
import subprocess

import pytest

import lab_system as system
import support
from lab_release import COMPILERS, MEGABYTE
from lab_site import BIG, arrived, during, said

# Put before the C library: a file cannot be read from a byte on, while a mark is there. As a bad sector, or a file that
# a server of NFS has no more.
FAILS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int fails(int fd, size_t count) {
    char link[64], path[4096];
    const char *wanted = getenv("FAILS_AT");
    if (!wanted || access(getenv("FAILS_IF"), F_OK)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    if (strcmp(path, wanted)) return 0;
    if (lseek(fd, 0, SEEK_CUR) + (off_t) count <= atoll(getenv("FAILS_FROM"))) return 0;
    errno = atoi(getenv("FAILS_WITH"));
    return 1;
}
ssize_t read(int fd, void *data, size_t count) {
    static ssize_t (*next)(int, void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "read");
    return fails(fd, count) ? -1 : next(fd, data, count);
}
"""


@pytest.fixture(name='failing')
def fixture_failing(tmp_path):
    """A function that gives the environment in which a file fails from a byte on, and the mark that turns it on."""
    source, library, mark = tmp_path / 'fails.c', tmp_path / 'fails.so', tmp_path / 'fails'
    source.write_text(FAILS)
    subprocess.run([COMPILERS['amd64'], '-shared', '-fPIC', '-o', str(library), str(source), '-ldl'], check=True)

    def give(path, error, start=0):
        return {'LD_PRELOAD': str(library), 'FAILS_AT': str(path), 'FAILS_IF': str(mark), 'FAILS_FROM': str(start),
                'FAILS_WITH': str(error)}, mark
    return give


@pytest.mark.parametrize('error', [errno.EIO, errno.ESTALE], ids=['EIO', 'ESTALE'])
@pytest.mark.parametrize(('what', 'start'), [('the binary', 0), ('the binary', MEGABYTE), ('its checksum list', 0),
                                             ('an image archive', 0)])
def test_a_file_of_the_controller_that_cannot_be_read_is_named_and_nothing_is_sent(site, injected, failing, error,
                                                                                   what, start):
    here = site('amd64')
    path = {'the binary': here.source, 'its checksum list': here.source.with_name('sha256sum-amd64.txt'),
            'an image archive': here.source.with_name('k3s-airgap-images-amd64.tar.zst')}[what]
    env, mark = failing(path, error, start)
    mark.touch()
    here.remember()
    archive = {'src': str(path), 'dest': '/mnt/agent/images/', 'mode': '0644'}
    run = here.play(env=env, arguments=archive if what == 'an image archive' else {})
    print(run.output)
    text = said(run)
    assert run.rc == 2 and path.name in text and os.strerror(error) in text
    assert 'Traceback' not in run.output and '[Errno' not in text
    assert here.files() == here.before and support.sha256(here.path) == here.old
    mark.unlink()
    if what == 'the binary':
        here.check_repaired(here.play(env=env))
    injected.append(f'{errno.errorcode[error]} in {what} from byte {start}')


@pytest.mark.parametrize('error', [errno.EIO, errno.ESTALE], ids=['EIO', 'ESTALE'])
def test_a_file_that_fails_while_it_is_sent_leaves_the_old_one_and_the_next_run_completes(site, injected, failing,
                                                                                          error):
    here = site('slow', BIG)
    env, mark = failing(here.source, error)
    here.remember()
    run = during(here, arrived(here, 0.3), lambda: (mark.touch(), here.node.throttle('30mbit')), env=env)
    print(run.output)
    text = said(run)
    assert run.rc == 2 and f'{here.source} cannot be read any more: {os.strerror(error)}' in text
    assert 'Traceback' not in run.output and '[Errno' not in text
    here.check_unharmed()
    mark.unlink()
    here.check_repaired(here.play(env=env))
    injected.append(f'{errno.errorcode[error]} while the file is sent')


def test_a_full_temporary_folder_of_the_controller_costs_no_binary(site, injected):
    """What the lookup would note there for the hosts that follow, it computes again."""
    here = site('amd64')
    disk = here.folder / 'disk'
    disk.mkdir()
    system.mount('tmpfs', disk, kind='tmpfs', options='size=256k')
    here.remember()
    try:
        (disk / 'local').mkdir()
        with open(disk / 'filler', 'wb') as file:
            os.posix_fallocate(file.fileno(), 0, os.statvfs(disk).f_bfree * os.statvfs(disk).f_frsize)
        env = {'TMPDIR': str(disk), 'ANSIBLE_LOCAL_TEMP': str(disk / 'local')}
        run = here.play(env=env)
        print(run.output)
        here.check_repaired(run)
        again = here.play(env=env)
        assert (again.rc, again.changed()) == (0, 0), again.output
    finally:
        system.unmount_all(disk)
    injected.append('a full temporary folder on the controller')
