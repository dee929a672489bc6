# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on the controller: each that cannot be read gets its own sentence, and each that can is read once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')


@pytest.fixture
def no_hang():
    """End a test that waits, for a named pipe or a lock."""
    def end(_number, _frame):
        raise TimeoutError('it hangs')
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_socket(path):
    # The path of a socket is limited to some hundred bytes.
    folder = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(folder)


@pytest.mark.parametrize(('make', 'phrase'), [
    (lambda path: path.mkdir(), 'is a directory, not a file'),
    (os.mkfifo, 'is a named pipe, not a file'),
    (make_socket, 'is a socket, not a file'),
    (lambda path: path.symlink_to('/dev/null'), 'is a device, not a file'),
    (lambda path: path.symlink_to('gone'), 'is a dangling link to gone'),
    (lambda path: path.symlink_to(path.name), 'is a link that leads back to itself'),
    (lambda path: None, 'cannot be read: No such file or directory'),
    # opens, and fails when it is read
    (lambda path: path.symlink_to('/proc/self/mem'), 'cannot be read: Input/output error'),
])
def test_what_cannot_be_read_as_a_file_gets_its_own_sentence(tmp_path, no_hang, make, phrase):
    make(tmp_path / 'k3s')
    before = os.listdir('/proc/self/fd')
    with pytest.raises(k3s.ArtifactError) as caught, k3s.opened(str(tmp_path / 'k3s')) as (file, _status):
        file.read(64)
    assert k3s.to_text(caught.value.message).startswith(phrase)
    assert len(os.listdir('/proc/self/fd')) == len(before), 'a file is left open'


def in_processes(count, function):
    """Call *function* in so many processes at once, made as Ansible makes its workers; return their exit codes."""
    fork = multiprocessing.get_context('fork')
    barrier = fork.Barrier(count)

    def work():
        barrier.wait()
        function()
    workers = [fork.Process(target=work) for _number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Let the digests be computed as ever, and write a line into a file each time; return that file."""
    log = tmp_path / 'computed'
    log.write_text('')
    compute = k3s.read_all

    def counting(file):
        with open(log, 'a') as lines:
            lines.write(f'{file.name}\n')
        return compute(file)
    monkeypatch.setattr(k3s, 'read_all', counting)
    monkeypatch.setattr(k3s.C, 'DEFAULT_LOCAL_TMP', str(tmp_path))
    return log


def test_many_processes_that_ask_at_once_compute_a_digest_once(tmp_path, counted):
    path = tmp_path / 'k3s'
    path.write_bytes(os.urandom(8 << 20))
    answers = tmp_path / 'answers'

    def ask():
        with open(path, 'rb') as file:
            answer = k3s.reading(file, str(path))[:2]
        with open(answers, 'a') as file:
            file.write(' '.join(answer) + '\n')
    assert in_processes(12, ask) == [0] * 12
    data = path.read_bytes()
    assert (answers.read_text().splitlines()
            == [f'{hashlib.sha256(data).hexdigest()} {hashlib.sha1(data).hexdigest()}'] * 12)
    assert len(counted.read_text().splitlines()) == 1


def change_content(path):
    path.write_bytes(b'two')


def change_time(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replace(path):
    status = path.stat()
    new = path.with_suffix('.new')
    new.write_bytes(b'TWO')
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.rename(path)


@pytest.mark.parametrize('change', [change_content, change_time, replace])
def test_a_file_that_is_changed_in_between_is_read_again(tmp_path, counted, change):
    path = Path(tmp_path / 'k3s')
    path.write_bytes(b'one')
    os.utime(path, ns=(0, 0))
    for _time in range(2):
        with open(path, 'rb') as file:
            assert k3s.reading(file, str(path))[0] == hashlib.sha256(b'one').hexdigest()
    change(path)
    with open(path, 'rb') as file:
        assert k3s.reading(file, str(path))[0] == support.sha256(path)
    assert len(counted.read_text().splitlines()) == 2


def test_a_record_that_was_left_half_written_is_computed_again(tmp_path, counted):
    path = tmp_path / 'k3s'
    path.write_bytes(b'one')
    with open(path, 'rb') as file:
        k3s.reading(file, str(path))
    record = next(tmp_path.glob('k3s_artifact-*'))
    record.write_text(record.read_text()[:20])
    with open(path, 'rb') as file:
        assert k3s.reading(file, str(path))[0] == hashlib.sha256(b'one').hexdigest()
    assert len(counted.read_text().splitlines()) == 2


def test_a_full_temporary_folder_costs_time_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(k3s.C, 'DEFAULT_LOCAL_TMP', '/dev/full/no')
    (tmp_path / 'k3s').write_bytes(b'one')
    with open(tmp_path / 'k3s', 'rb') as file:
        assert k3s.reading(file, str(tmp_path / 'k3s')).sha256 == hashlib.sha256(b'one').hexdigest()


# --- the release in a binary
# -------------------------------------------------------------------------------------------

V = b'v1.31.4+k3s1'


@pytest.mark.parametrize(('data', 'expected'), [
    (b'', ''),
    (V, 'v1.31.4+k3s1'),
    (b'\0' + V + b'\0', 'v1.31.4+k3s1'),
    (b'\0v1.31.4-rc1+k3s2\0', 'v1.31.4-rc1+k3s2'),
    (b'\0v1.31.4-alpha.1+k3s12\0', 'v1.31.4-alpha.1+k3s12'),
    (b'\0v1.31.4+k3s-0a1b2c3d\0', 'v1.31.4+k3s-0a1b2c3d'),  # built from a commit
    (b'v1.31.4+k3s1v1.2.3', 'v1.31.4+k3s1'),
    (b'v1.31.4+k3s12nd text\0' + V + b'\0', 'v1.31.4+k3s1'),  # "k3s1" and "2nd text": the text with an end counts
    (b'v1.7.23-k3s2\0v3.5.16-k3s1\0v1.2.3\0', ''),  # components
    (b'v1.7.23-k3s2\0' + V + b'\0v3.5.16-k3s1\0', 'v1.31.4+k3s1'),
    (b'v1.21.0+k3s1\0' + (V + b'\0') * 2, 'v1.31.4+k3s1'),  # another release that is mentioned once
    (b'v1.22.0+k3s1\0' + V + b'\0', 'v1.22.0+k3s1'),
    (b'1.31.4+k3s1\0', ''),
    (b'v1.31+k3s1\0', ''),
    (b'v1.31.4+k3s\0', ''),
    (b'v1.2.3.v1.31.4+k3s1"', 'v1.31.4+k3s1'),
    (b'k3s version ' + V + b' (abcdef12)\n', 'v1.31.4+k3s1'),
])
@pytest.mark.parametrize('size', [1, 7, 24, 1 << 20])
def test_the_release_is_read_from_the_bytes_in_blocks_of_any_size(data, expected, size):
    for before in (b'', b'\0' * 100, b'+k3s' * 9 + b'\0'):
        versions = k3s.VersionReader()
        whole = before + data
        for start in range(0, len(whole), size):
            versions.feed(whole[start:start + size])
        assert versions.version() == expected


def test_reading_the_release_takes_no_memory_and_little_time():
    versions, block = k3s.VersionReader(), os.urandom(1 << 20) + b'+k3s' * 1000
    for _number in range(64):
        versions.feed(block)
        assert len(versions.window) < 1000
    assert versions.version() == ''
