# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`, as somebody tries it who has just cloned this, and the recording of it."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import support

RECORD = support.ROOT / 'docs' / 'record.py'
PROOF = re.compile(r'([\w-]+) \(\w+\) has a binary of class and machine (\S+), (\w+) hex')


@pytest.fixture(scope='module', name='clone')
def fixture_clone(tmp_path_factory):
    """Copy what make demo needs into a folder with spaces, with a virtual environment that is ready."""
    clone = tmp_path_factory.mktemp('demo') / 'a clone of mine'
    clone.mkdir()
    for name in ('playbooks', 'plugins', 'meta'):
        shutil.copytree(support.ROOT / name, clone / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('Makefile', 'galaxy.yml', 'pyproject.toml', 'README.md'):
        shutil.copy(support.ROOT / name, clone / name)
    (clone / '.venv').mkdir()
    (clone / '.venv' / 'bin').symlink_to(support.PROGRAMS)
    (clone / '.venv' / 'ready').touch()
    return clone


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob('*')
            if '.venv' not in path.parts and '__pycache__' not in path.parts}


@pytest.mark.parametrize('apart', [
    pytest.param(['--map-user=1000', '--map-group=1000'], id='as a user without root'),
    pytest.param(['--map-user=1000', '--map-group=1000', '--net'], id='and without a network'),
    pytest.param(['--map-root-user', '--net'], id='as root')])
def test_make_demo_works_in_a_path_with_spaces_and_cleans_up(clone, apart):
    before = files(clone)
    with tempfile.TemporaryDirectory(prefix='demo ') as scratch:
        env = support.environment(clone.parent, TMPDIR=scratch)
        done = subprocess.run(['unshare', '--user', *apart, 'make', 'demo'], cwd=clone, env=env, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                              check=False)
        assert done.returncode == 0, done.stdout
        assert os.listdir(scratch) == []
    # Which of the three is done first is not ours to say.
    assert sorted(PROOF.findall(done.stdout)) == [('agent-pi2', '32-bit', '28'), ('agent-pi4', '64-bit', 'b7'),
                                                  ('server-x86', '64-bit', '3e')]
    assert '[WARNING]' not in done.stdout
    assert {path for path in files(clone) - before if not path.startswith('build')} == set()


def test_the_release_of_the_demo_has_the_layout_of_the_readme(tmp_path):
    script = support.ROOT / 'playbooks' / 'files' / 'pretend_release.py'
    subprocess.run([sys.executable, str(script), str(tmp_path / 'srv' / 'airgap')], check=True)
    shown = re.findall(r'^/(srv/airgap/\w+)/\{(.*)\}$', (support.ROOT / 'README.md').read_text(), re.MULTILINE)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.is_file()} == {
        f'{folder}/{name}' for folder, names in shown for name in names.split(',')}


# --- the recording ---------------------------------------------------------------------------------------------------

CAST = (support.ROOT / 'docs' / 'demo.cast').read_text().splitlines()
PICTURE = (support.ROOT / 'docs' / 'demo.svg').read_text()


def test_the_recording_is_one_that_players_know():
    """asciicast v2: a header, then [seconds, "o", text]."""
    header, *events = map(json.loads, CAST)
    assert header['version'] == 2 and header['width'] > 100 and header['height'] > 20
    assert all(kind == 'o' and isinstance(text, str) for _seconds, kind, text in events)
    assert [event[0] for event in events] == sorted(event[0] for event in events)


def test_the_recording_shows_a_demo_of_this_state_that_went_well():
    text = re.sub(r'\x1b\[[0-9;]*m', '', ''.join(event[2] for event in map(json.loads, CAST[1:])))
    assert len(PROOF.findall(text)) == 3 and 'failed=0' in text and 'WARNING' not in text
    tasks = [line.strip() for path in ('demo', 'preflight', 'stage')
             for line in (support.ROOT / 'playbooks' / f'{path}.yml').read_text().splitlines()]
    for name in re.findall(r'^TASK \[(.*)\]', text, re.MULTILINE):
        assert any(line.endswith(f'- name: {name}') or line == f'- name: {name}' for line in tasks), name
    for place in (str(support.ROOT), str(Path.home()) + '/'):
        assert place not in text


def test_the_picture_is_drawn_from_the_recording():
    record = runpy.run_path(str(RECORD))
    assert record['render'](record['read_cast']()) == PICTURE
