# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the action stage: where archives go, whether there is room, and what is believed of a step
before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import support


@pytest.fixture(name='stage', scope='module')
def fixture_stage():
    return support.collection_module('plugins.action.stage')


@pytest.mark.parametrize('variables, found', [
    ({}, ('k3s_artifact_images_dest', '/var/lib/rancher/k3s/agent/images')),
    ({'k3s_server_location': '/data'}, ('k3s_server_location', '/data/agent/images')),
    ({'k3s_server_location': ''}, ('k3s_artifact_images_dest', '/var/lib/rancher/k3s/agent/images')),
    ({'k3s_server_location': '/data', 'k3s_artifact_data_dir': '/other'},
     ('k3s_artifact_data_dir', '/other/agent/images')),
    ({'k3s_artifact_data_dir': '/other', 'k3s_artifact_images_dest': '/images'},
     ('k3s_artifact_images_dest', '/images')),
    ({'k3s_artifact_data_dir': ['/other']}, ('k3s_artifact_data_dir', ['/other']))])
def test_the_images_directory_is_that_of_the_first_variable_that_is_set(stage, variables, found):
    assert stage.images_directory(variables.get) == found


def part(dest, to_send, free, mount):
    return SimpleNamespace(dest=dest), SimpleNamespace(free=free, mount=mount), SimpleNamespace(to_send=to_send)


@pytest.mark.parametrize('parts, said', [
    ([('/a/k3s', 10, 10, '/')], []),
    ([('/a/k3s', 11, 10, '/')], ['11 bytes are needed in /a on the node, 10 are free']),
    ([('/a/k3s', 6, 10, '/'), ('/a/x', 1, 10, '/'), ('/b/y', 4, 10, '/')],
     ['11 bytes are needed in /a and /b on the node, 10 are free']),
    ([('/a/k3s', 6, 10, '/'), ('/b/y', 6, 10, '/var')], []),
    ([('/a/k3s', 11, 10, '/'), ('/b/y', 21, 20, '/var')], ['11 bytes are needed in /a ', '21 bytes are needed in /b ']),
    ([('/a/k3s', 6, 10, ''), ('/b/y', 6, 10, '')], []),  # nothing says that they share a file system
    ([('/a/k3s', 11, None, '')], [])])
def test_room_is_asked_once_for_each_file_system(stage, parts, said):
    found = list(stage.missing_room([part(*each) for each in parts]))
    assert len(found) == len(said) and all(sentence.startswith(text) for sentence, text in zip(found, said)), found


@pytest.mark.parametrize('there, found', [
    ([], []),
    (['k3s-airgap-images-arm64.tar.zst'], []),
    (['k3s-airgap-images-arm64.tar.gz', 'k3s-airgap-images-amd64.tar.zst', 'k3s-airgap-images-arm64-v1.30.8.tar'],
     ['k3s-airgap-images-amd64.tar.zst', 'k3s-airgap-images-arm64-v1.30.8.tar', 'k3s-airgap-images-arm64.tar.gz']),
    (['own.tgz', 'other.tar', 'k3s-airgap-images-notes.txt', 'own'], ['own.tgz'])])
def test_an_archive_takes_the_place_of_its_predecessors_and_of_nothing_else(stage, there, found):
    assert stage.superseded(there, ['k3s-airgap-images-arm64.tar.zst', 'own.tar']) == found


def test_an_archive_of_ones_own_supersedes_none_of_the_release(stage):
    assert stage.superseded(['k3s-airgap-images-arm64.tar.zst'], ['own.tar']) == []


@pytest.mark.parametrize('name, is_own', [
    ('k3s-airgap-images-arm64.tar.gz', True), ('k3s-airgap-images-amd64-v1.30.8.tar', True),
    ('k3s-airgap-images-v1.30.8+k3s1-armhf.tar.zst', True), ('k3s-airgap-images.tar', False),
    ('k3s-airgap-images-amd64-v1.30.8-k3s1.tar.zst', True), ('k3s-airgap-images-amd64-v1.32.0-rc1+k3s1.tar', True),
    ('k3s-airgap-images-v1.32.0-rc1-k3s1-arm64.tar', True), ('k3s-airgap-images-beta.tar', False),
    ('k3s-airgap-images-amd64-beta.tar', False), ('k3s-airgap-images-amd64-k3s1.tar', False),
    ('k3s-airgap-images-extra.tar', False), ('k3s-airgap-images-extra-arm64.tar', False),
    ('k3s-airgap-images-arm64.tar.xz', False), ('k3s-airgap-images-arm64', False), ('own.tgz', None),
    ('../k3s-airgap-images-arm64.tar.gz', False), ('k3s-airgap-images-arm64\n.tar.gz', False), ('other.tar', False)])
def test_only_what_k3s_calls_its_own_is_removed_without_a_note_of_an_earlier_run(stage, name, is_own):
    """None: with a note; what has K3s's prefix and another word is never removed."""
    own, others = stage.prunable([name, 'k3s-airgap-images-arm64.tar.zst', 'own.tar'],
                                 ['k3s-airgap-images-arm64.tar.zst', 'own.tar'])
    assert (own, others) == ([name] if is_own else [], [name] if is_own is None else [])


ENTRY = {'kind': 'binary', 'source': '/srv/k3s', 'dest': '/usr/local/bin/k3s', 'size': 7, 'sha256': 'ab' * 32,
         'owner': 'root', 'machine': 'x86_64',
         'uid': 0, 'gid': 0, 'waiting': 'dir 123', 'token': '12 34 7', 'came': 'pushed'}


def test_what_a_step_noted_of_a_file_comes_back_as_a_job(stage):
    job, node, waiting, token = stage.part_of_entry(ENTRY)
    assert (job.dest, job.mode, job.owner, job.artifact.sha256, job.trial) == ('/usr/local/bin/k3s', '0755',
                                                                               'root', 'ab' * 32, False)
    assert (node.machine, node.status, waiting, token) == ('x86_64', {'uid': 0, 'gid': 0}, 'dir 123', '12 34 7')


@pytest.mark.parametrize('change', [
    {'kind': 'key'}, {'kind': None}, {'dest': 'bin/k3s'}, {'dest': '/a\0b'}, {'sha256': '$(id)'}, {'sha256': 'ab'},
    {'size': '7'}, {'size': None},
    {'uid': '0;id'}, {'owner': 'root; id'}, {'waiting': 'dir 1;id'}, {'waiting': '../.. 1'}, {'token': '$(id)'},
    {'token': None}, {'machine': 5}])
def test_what_no_step_can_have_noted_goes_into_no_command(stage, change):
    assert stage.part_of_entry({**ENTRY, **change}) is None


@pytest.mark.parametrize('entry', [None, 'text', [], {}])
def test_what_is_no_entry_goes_into_no_command(stage, entry):
    assert stage.part_of_entry(entry) is None


@pytest.mark.parametrize('result', [{}, {'k3s_artifact': 'x'}, {'k3s_artifact': {}}, {'k3s_artifact': {'files': 'x'}},
                                    {'k3s_artifact': {'files': [{}]}}])
def test_a_result_of_another_task_is_a_problem_and_not_a_host_without_problems(stage, result):
    assert stage.known_of('pi1', result)['problems'] == ['The step before noted nothing of this host.']


@pytest.mark.parametrize('word', ['failed', 'unreachable'])
def test_a_step_that_was_ended_is_the_problem_that_ansible_names(stage, word):
    found = stage.known_of('pi1', {word: True, 'msg': 'Timed out after 20 second(s).'})
    assert 'Timed out after 20 second(s).' in found['problems'][0] and found['unreachable'] == (word == 'unreachable')


def test_a_problem_is_noted_once_as_one_line_without_control_characters(stage):
    found = stage.Findings('node')
    for _time in range(2):
        found.note('no\n\x1b[2Jroom')
    assert found.problems == ['no \\x1b[2Jroom']
