# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the action images: what an archive calls its images, and the comparison."""

from __future__ import annotations

import gzip
import io
import json

import pytest

import support


@pytest.fixture(name='images', scope='module')
def fixture_images():
    return support.collection_module('plugins.action.images')


@pytest.mark.parametrize('name, full', [
    ('busybox', 'docker.io/library/busybox:latest'), ('rancher/pause:3.6', 'docker.io/rancher/pause:3.6'),
    ('localhost/app', 'localhost/app:latest'), ('r.example.com/a/b:1', 'r.example.com/a/b:1'),
    ('r:5000/a', 'r:5000/a:latest'),
    ('docker.io/rancher/pause:3.6', 'docker.io/rancher/pause:3.6'), ('a/b@sha256:00', 'docker.io/a/b@sha256:00')])
def test_a_name_is_completed_as_containerd_does(images, name, full):
    assert images.full_name(name) == full


INDEX = {'manifests': [
    {'annotations': {'io.containerd.image.name': 'docker.io/a:1', 'org.opencontainers.image.ref.name': '1'}},
    {'annotations': {'org.opencontainers.image.ref.name': 'r.example.com/b:2'}}, {'annotations': 7}, {}, 7]}


@pytest.mark.parametrize('files, names', [
    ({'manifest.json': [{'RepoTags': ['a:1', 'b:2']}, {'RepoTags': None}, 5]},
     ['docker.io/library/a:1', 'docker.io/library/b:2']),
    ({'index.json': INDEX}, ['docker.io/a:1', 'r.example.com/b:2']),
    ({'index.json': INDEX, 'manifest.json': [{'RepoTags': ['a:1']}]}, ['docker.io/a:1', 'r.example.com/b:2']),
    ({'index.json': {'manifests': 5}, 'manifest.json': {'a': 1}}, []),
    ({'./manifest.json': [{'RepoTags': ['a:1']}]}, ['docker.io/library/a:1']),
    ({'deep/manifest.json': [{'RepoTags': ['a:1']}]}, [])])
def test_the_names_of_the_images_are_read_from_the_archive(images, files, names):
    data = support.tar([(name, json.dumps(value).encode()) for name, value in files.items()])
    assert images.names_in(io.BufferedReader(io.BytesIO(data)), 'x.tar') == names
    assert images.names_in(io.BytesIO(gzip.compress(data)), 'x.tar.gz') == names


@pytest.mark.parametrize('data, name', [
    (b'no tar at all' * 99, 'x.tar'), (b'no gzip', 'x.tar.gz'), (b'\x1f\x8b broken', 'x.tgz')])
def test_an_archive_that_cannot_be_read_gives_a_reason(images, data, name):
    assert images.names_in(io.BytesIO(data), name).startswith('cannot be looked into (')


@pytest.mark.parametrize('there, state, missing, elsewhere', [
    ({'a': ['linux/arm/v7'], 'b': ['linux/amd64', 'linux/arm']}, 'imported', [], []),
    ({'a': ['linux/arm']}, 'partly', ['b'], []), ({}, 'not imported', ['a', 'b'], []),
    ({'a': ['linux/arm64'], 'b': []}, 'partly', [], ['a (linux/arm64)', 'b (no platform)']),
    ({'a': ['linux/arm64']}, 'partly', ['b'], ['a (linux/arm64)'])])
def test_the_comparison_is_for_the_platform_of_the_node(images, there, state, missing, elsewhere):
    assert images.compared(['a', 'b'], there, 'linux/arm') == (state, missing, elsewhere)


def test_an_archive_without_names_says_nothing_of_what_is_missing(images):
    assert images.compared([], {}, 'linux/arm') == ('imported', [], [])


def test_many_names_are_cut_in_a_sentence_and_their_number_is_said(images):
    names = [f'image{number}' for number in range(20)]
    sentence, = images.sentences('/x.tar', names, 'partly', names[:19], [], 'linux/arm')
    assert sentence.startswith('19 of the 20 images in /x.tar are missing: image0, ') and 'and 11 more' in sentence
