# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file, in folders as people have them: versions in names, several releases, charts beside images, lists of all
kinds.

A host is a case of one run of ansible-playbook.
"""

from __future__ import annotations

import gzip
from typing import Any, Callable, NamedTuple

import pytest

import support

V = 'v1.31.4+k3s1'
OLD = 'v1.30.8+k3s1'
IMAGES = support.image_archive(*support.MACHINES)
CHART = support.tar([('chart/Chart.yaml', b'name: chart')])


def program(arch, version=V):
    return support.elf(arch, b'\0' + version.encode() + b'\0')


def files(contents):
    def make(folder):
        for name, data in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return make


def versioned(*versions, form='k3s-{version}-{arch}', archs=('amd64', 'arm64', 'arm')):
    return files({form.format(version=version, arch={'arm': 'armhf'}.get(arch, arch)): program(arch, version)
                  for version in versions for arch in archs})


def listed(name, text, encoding='utf-8', file='k3s-arm64', content=None):
    """Make a binary and a list of that *name*; {good} stands for its digest."""
    def make(folder):
        files({file: content or program('arm64')})(folder)
        (folder / name).write_bytes(text.replace('{good}', support.sha256(folder / file)).encode(encoding))
    return make


def linked(contents, **links):
    """Make files, and links to what is beside them or elsewhere."""
    def make(folder):
        files(contents)(folder)
        for name, target in links.items():
            (folder / name.replace('__', '.')).symlink_to(target)
    return make


def sums(name, contents, as_name=lambda name: name):
    """Make files, and a list of that *name* in which each has the name that *as_name* gives it, or is not."""
    def make(folder):
        files(contents)(folder)
        lines = [f'{support.sha256(folder / each)}  {as_name(each)}\n' for each in contents if as_name(each)]
        (folder / name).write_text(''.join(lines))
    return make


class Case(NamedTuple):
    """A host: *expected* is the list of files that it gets, or a part of the error."""

    name: str
    expected: Any
    make: Callable
    machine: str = 'aarch64'
    variables: dict = {}
    terms: tuple = ('binary',)
    warned: str = ''


WRONG = f'{"a1" * 32}'
REQUIRED = {'k3s_artifact_verify': 'required'}
K3S = {'k3s_version': V}
TWO = {f'k3s-{version}-arm64': program('arm64', version) for version in (V, OLD)}
LISTED_TWICE = support.in_turn(sums('SHA256SUMS', TWO),
                               sums('sha256sum-arm64.txt', TWO, lambda name: 'k3s-arm64' if V in name else ''))
WIDE = b'\x28\xb5\x2f\xfd\x00\x88'  # the header of a zstd frame with a window of 128 MiB
IN_LISTS = {
    'mark': ('{good}  k3s-arm64\n', 'utf-8-sig'), 'utf-16': ('{good}  k3s-arm64\r\n', 'utf-16'),
    'utf-16-le': ('{good}  k3s-arm64\r\n', 'utf-16-le'),
    'bsd': ('SHA256 (k3s-arm64) = {good}\n', 'utf-8'), 'absolute': ('{good}  /srv/airgap/k3s-arm64\n', 'utf-8'),
    'dist': ('{good}  dist/artifacts/k3s-arm64\n', 'utf-8'),
    'signed': ('-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{good}  k3s-arm64\n-----BEGIN PGP '
               'SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n', 'utf-8'),
}

CASES = [
    # versions in names
    *[Case(f'versioned-{arch}', [f'{{folder}}/k3s-{V}-{file}'], versioned(V), support.MACHINES[arch])
      for arch, file in (('amd64', 'amd64'), ('arm64', 'arm64'), ('arm', 'armhf'))],
    Case('versioned-other-order', [f'{{folder}}/k3s-arm64-{V}'], versioned(V, form='k3s-{arch}-{version}')),
    Case('versioned-in-folder', [f'{{folder}}/arm64/k3s-{V}'], files({f'arm64/k3s-{V}': program('arm64')})),
    Case('versioned-without-mine', f'k3s-{V}-amd64 is a binary for amd64 (64-bit, little-endian, ELF machine 62), not '
         'for s390x', versioned(V), 's390x'),
    Case('two-releases', 'several files are a K3s binary for host', versioned(V, OLD)),
    Case('two-releases-one-asked-for', [f'{{folder}}/k3s-{OLD}-arm64'], versioned(V, OLD),
         variables={'k3s_version': OLD}),
    Case('two-releases-another-asked-for', "but k3s_version is 'v1.29.0+k3s1'", versioned(V, OLD),
         variables={'k3s_version': 'v1.29.0+k3s1'}),
    Case('release-name-first', ['{folder}/k3s-arm64'],
         files({'k3s-arm64': program('arm64', OLD), f'k3s-{V}-arm64': program('arm64')})),

    Case('two-releases-in-a-list', [f'{{folder}}/k3s-{OLD}-arm64'], LISTED_TWICE, variables={'k3s_version': OLD}),
    Case('two-releases-in-a-list-none-asked-for', 'several files are a K3s binary for host', LISTED_TWICE),

    # folders that cannot be looked into are not left out in silence
    Case('folder-not-mounted', 'the folder {folder}/arm64 for host',
         linked({'k3s-arm64': program('arm64', OLD)}, arm64='/nowhere')),
    Case('folder-not-mounted-images', 'is a dangling link to /nowhere. Make it readable, or take it away',
         linked({'k3s-arm64': program('arm64', OLD), 'a.tar': IMAGES}, arm64='/nowhere'), terms=('images',)),
    Case('folder-not-mounted-directory', 'the folder {folder}/arm64 for host',
         linked({}, arm64='/nowhere'), terms=('directory',)),
    Case('folder-loops', 'is a link that leads back to itself',
         linked({'k3s-arm64': program('arm64', OLD)}, arm64='arm64')),

    Case('name-of-their-own', 'K3S-ARM64 is for arm64, and is not looked for under this name)',
         files({'K3S-ARM64': program('arm64'), 'notes-k3s.bin': b'x'})),
    Case('notes-beside', ['{folder}/k3s-v1.31.4-arm64'], files({
        'k3s-v1.31.4-arm64': program('arm64'), 'k3s-release-notes-1.31.4.md': b'# Notes\n',
        'k3s-v1.31.4-arm64.sha256sum': b'x'})),

    # the release in the binary
    Case('asked-for', ['{folder}/k3s-arm64'], files({'k3s-arm64': program('arm64')}), variables=K3S),
    Case('asked-for-template', ['{folder}/k3s-arm64'], files({'k3s-arm64': program('arm64')}),
         variables={'k3s_version': 'v{{ x }}+k3s1', 'x': '1.31.4'}),
    Case('not-asked-for', ['{folder}/k3s-arm64'], files({'k3s-arm64': program('arm64', OLD)}),
         variables={'k3s_version': ''}),
    Case('another-release', f"is K3s {OLD}, but k3s_version is '{V}'",
         files({'k3s-arm64': program('arm64', OLD)}), variables=K3S),
    Case('another-release-directory', f"is K3s {OLD}, but k3s_version is '{V}'",
         files({'arm64/k3s': program('arm64', OLD)}), variables=K3S, terms=('directory',)),
    Case('another-release-unverified', ['{folder}/k3s-arm64'], files({'k3s-arm64': program('arm64', OLD)}),
         variables={**K3S, 'k3s_artifact_verify': 'none'}),
    Case('version-undefined', 'k3s_version of host', files({'k3s-arm64': program('arm64')}),
         variables={'k3s_version': '{{ nope }}'}),
    Case('version-undefined-and-not-asked', ['k3s-arm64'], files({}),
         variables={'k3s_version': '{{ nope }}'}, terms=('name',)),
    Case('version-number', 'k3s_version of host', files({'k3s-arm64': program('arm64')}),
         variables={'k3s_version': 1.31}),
    Case('no-version', ['{folder}/k3s-arm64'], files({'k3s-arm64': support.elf('arm64', b'ls')}),
         warned='no-version/k3s-arm64 holds no K3s version: perhaps'),
    Case('no-version-required', 'holds no K3s version, so it is perhaps another program',
         listed('sha256sum.txt', '{good}  k3s-arm64\n', content=support.elf('arm64', b'ls')),
         variables=REQUIRED),

    # checksum lists
    *[Case(f'list-{name}', ['{folder}/k3s-arm64'], listed('sha256sum-arm64.txt', text, encoding), variables=REQUIRED)
      for name, (text, encoding) in IN_LISTS.items()],
    *[Case(f'list-{name}-wrong', 'is not the released file',
           listed('sha256sum-arm64.txt', text.replace('{good}', WRONG), encoding))
      for name, (text, encoding) in IN_LISTS.items()],
    Case('list-sums', ['{folder}/k3s-arm64'], listed('SHA256SUMS', '{good}  k3s-arm64\n'), variables=REQUIRED),
    Case('list-bare', ['{folder}/k3s-arm64'], listed('k3s-arm64.sha256', '{good}\n'), variables=REQUIRED),
    Case('list-bare-wrong', 'is not the released file', listed('k3s-arm64.sha256', WRONG)),
    Case('list-above', ['{folder}/arm64/k3s'],
         listed('SHA256SUMS', WRONG + '  amd64/k3s\n{good}  arm64/k3s\n', file='arm64/k3s'), variables=REQUIRED),
    Case('list-above-wrong', 'but SHA256SUMS says', listed('SHA256SUMS', WRONG + '  arm64/k3s\n', file='arm64/k3s')),
    Case('list-of-the-release-above', ['{folder}/arm64/k3s'],
         support.in_turn(files({'arm64/k3s': program('arm64')}), listed('sha256sum-arm64.txt', '{good}  k3s-arm64\n')),
         variables=REQUIRED),
    Case('list-of-the-release-above-wrong', 'but sha256sum-arm64.txt says',
         listed('sha256sum-arm64.txt', WRONG + '  k3s-arm64\n', file='arm64/k3s')),
    Case('list-of-the-release-above-none', 'the checksum list sha256sum-arm64.txt above it is empty',
         listed('sha256sum-arm64.txt', '', file='arm64/k3s')),
    Case('list-without-the-file', ['{folder}/k3s-arm64'], listed('sha256sum-arm64.txt', WRONG + '  k3s\n'),
         warned='is in no checksum list, though sha256sum-arm64.txt is there'),
    Case('list-too-large', 'is larger than 1 MiB',
         listed('sha256sum-arm64.txt', '{good}  k3s-arm64\n' + '#' * (1 << 20))),

    # image archives
    Case('images-among-others', ['{folder}/k3s-airgap-images-arm64.tar.zst', '{folder}/rancher-images.tar.gz'], files({
        'chart-1.0.tgz': gzip.compress(CHART),
        'helm-linux-arm64.tar.gz': gzip.compress(support.tar([('linux-arm64/helm', b'x')])),
        'cni-plugins-linux-arm64.tgz': gzip.compress(support.tar([('./bridge', b'x')])),
        'zarf-package-x-arm64.tar.zst': support.zst(support.tar([('zarf.yaml', b'')])),
        'rancher-images.tar.gz': gzip.compress(IMAGES), 'k3s-airgap-images-amd64-v1.30.8.tar.zst': support.zst(IMAGES),
        'k3s-airgap-images-arm64.tar.zst': support.zst(IMAGES), 'k3s-airgap-images-arm64.tar': IMAGES}),
        terms=('images',),
        warned='chart-1.0.tgz is left out of the image archives: it holds no image manifest'),
    Case('images-of-another-platform', 'holds images for linux/amd64 and nothing for linux/arm64. If it is for other '
         'hosts, put their architecture into its name',
         files({'k3s-airgap-images-arm64.tar.gz': gzip.compress(support.image_archive('amd64'))}), terms=('images',)),
    Case('images-vouched-for', ['{folder}/k3s-airgap-images-arm64.tar.gz'], listed(
        'SHA256SUMS', '{good}  k3s-airgap-images-arm64.tar.gz\n', file='k3s-airgap-images-arm64.tar.gz',
        content=gzip.compress(support.image_archive('amd64'))), terms=('images',)),
    Case('images-without-a-manifest', 'holds no image manifest',
         files({'k3s-airgap-images-arm64.tar': CHART}), terms=('images',)),
    Case('images-html-in-a-list', 'is an HTML page',
         listed('SHA256SUMS', WRONG + '  mine.tar.zst\n', file='mine.tar.zst', content=b'<html>404'),
         terms=('images',)),
    Case('images-cut', 'is cut short', files({'mine.tar.gz': gzip.compress(IMAGES)[:300]}), terms=('images',)),
    Case('images-split', 'is a part of an image archive, which K3s does not import. Join the parts: cat '
         '{folder}/i-arm64.tar.zst.* > {folder}/i-arm64.tar.zst',
         files({'i-arm64.tar.zst.aa': b'x', 'i-arm64.tar.zst.ab': b'x'}), terms=('images',)),
    Case('images-split-part', 'is a part of an image archive, which K3s does not import. Join the parts: cat '
         '{folder}/i-arm64.tar.zst.* > {folder}/i-arm64.tar.zst',
         files({'i-arm64.tar.zst.part.aa': b'x', 'i-arm64.tar.zst.part.ab': b'x'}), terms=('images',)),
    Case('images-of-another-name', [], files({'k3s-airgap-images-arm64.tar (1).zst': b'x',
                                              'k3s-airgap-images-amd64.tar.lzma': b'x',
                                              'k3s-airgap-images-arm64.tar.zst.sha256': b'x'}), terms=('images',),
         warned='k3s-airgap-images-arm64.tar (1).zst is left out of the image archives: it is of a kind that K3s does'),
    Case('images-of-another-release', [f'{{folder}}/k3s-airgap-images-arm64-{V}.tar'], files({
        f'k3s-airgap-images-arm64-{V}.tar': IMAGES, 'k3s-airgap-images-arm64-v1.30.8-k3s1.tar': IMAGES}),
        terms=('images',), variables=K3S,
        warned="k3s-airgap-images-arm64-v1.30.8-k3s1.tar is left out of the image archives: it is of K3s v1.30.8+k3s1, "
               f"and k3s_version is '{V}'."),
    Case('images-split-of-another-arch', [], files({'i-amd64.tar.zst.aa': b'x'}), terms=('images',)),
    Case('images-split-and-joined', ['{folder}/i-arm64.tar.gz'],
         files({'i-arm64.tar.gz.aa': b'x', 'i-arm64.tar.gz': gzip.compress(IMAGES)}), terms=('images',)),
    Case('images-split-is-not-a-copy', ['{folder}/i.tar'], files({'i.tar': IMAGES, 'j-arm64.tar.gz.bk': b'x'}),
         terms=('images',)),
    Case('images-upper-case', ['{folder}/I-ARM64.TAR.GZ'],
         files({'I-ARM64.TAR.GZ': gzip.compress(IMAGES), 'I-AMD64.TAR.GZ': b'x'}), terms=('images',)),
    Case('images-by-two-names', ['{folder}/i.tar.zst'],
         linked({'store': support.zst(IMAGES)}, i__tar='store', i__tar__zst='store'), terms=('images',),
         warned='images-by-two-names/i.tar is left out of the image archives: it is no tar archive'),
    Case('images-window', 'is compressed with a window of 128 MiB, and K3s unpacks one of 32 MiB at most',
         files({'i.tar.zst': WIDE + b'x' * 100}), terms=('images',)),
    Case('images-damaged-at-the-end', 'is damaged: ',
         files({'i.tar.gz': gzip.compress(IMAGES)[:-8] + bytes(8)}), terms=('images',)),
    Case('images-narrowed', ['{folder}/a.tar'], files({'a.tar': IMAGES, 'b.tar': IMAGES, 'c.tar': b''}),
         variables={'k3s_artifact_images': ['a*']}, terms=('images',)),
    Case('images-narrowed-by-a-text', ['{folder}/a.tar', '{folder}/b.tar'],
         files({'a.tar': IMAGES, 'b.tar': IMAGES, 'c.tar': b''}),
         variables={'k3s_artifact_images': 'a*, b*'}, terms=('images',)),
    Case('images-pattern-of-nothing', "has the pattern 'z*', which no file in {folder} matches",
         files({'a.tar': IMAGES}),
         variables={'k3s_artifact_images': ['a*', 'z*']}, terms=('images',)),
    Case('images-pattern-of-another-folder', [], files({'arm64/k3s': program('arm64'), 'amd64/a.tar': IMAGES}),
         variables={'k3s_artifact_images': ['a.*']}, terms=('images',)),
    Case('images-pattern-wrong', 'Write a list of patterns', files({'a.tar': IMAGES}),
         variables={'k3s_artifact_images': {'a': 1}}, terms=('images',)),

    # what k3s-ansible takes from the folder
    Case('directory-images', 'the image archive {folder}/arm64/a.tar for host',
         files({'arm64/k3s': program('arm64'), 'arm64/a.tar': IMAGES[:700]}), terms=('directory',)),
    Case('directory-script', 'the install script {folder}/arm64/k3s-install.sh for host',
         files({'arm64/k3s': program('arm64'), 'arm64/k3s-install.sh': b'<html>'}), terms=('directory',)),
    Case('directory-unverified', ['{folder}/arm64'],
         files({'arm64/k3s': program('arm64'), 'arm64/a.tar': b'', 'arm64/k3s-install.sh': b'<html>'}),
         terms=('directory',), variables={'k3s_artifact_verify': 'none'}),

    # the install script
    Case('script', ['{folder}/k3s-install.sh'],
         files({'k3s-install.sh': b'#!/bin/sh\n', 'k3s-arm64': program('arm64')}), terms=('script',)),
    Case('script-html', 'the install script {folder}/k3s-install.sh for host',
         files({'k3s-install.sh': b'<html>'}), terms=('script',)),
    Case('script-empty', 'is empty', files({'k3s-install.sh': b''}), terms=('script',)),
    Case('script-digest', 'is not the released file',
         listed('SHA256SUMS', WRONG + '  k3s-install.sh\n', file='k3s-install.sh', content=b'#!/bin/sh\n'),
         terms=('script',)),
]
NAMES = {case.name: case for case in CASES}
PLAYS = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
    {'name': 'ask', 'debug': {'msg': "{{ query('k3s_artifact', *terms) }}"}, 'ignore_errors': True},
    {'name': 'ask again', 'debug': {'msg': "{{ query('k3s_artifact', *terms) }}"}, 'ignore_errors': True}]}]


def filled(value, folder):
    return [filled(item, folder) for item in value] if isinstance(value,
                                                                  list) else value.replace('{folder}', str(folder))


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    parent = tmp_path_factory.mktemp('choice')
    hosts = {}
    for case in CASES:
        (parent / case.name).mkdir()
        case.make(parent / case.name)
        hosts[case.name] = {'airgap_dir': str(parent / case.name), 'k3s_artifact_machine': case.machine,
                            'terms': case.terms, **case.variables}
    return parent, support.play(parent, PLAYS, '--forks', '4', hosts=hosts)


@pytest.mark.parametrize('name', NAMES)
def test_a_host_gets_the_right_file_or_a_sentence(ran, name):
    parent, run = ran
    case = NAMES[name]
    entry, = [entry for entry in run.results if (entry['host'], entry['task']) == (name, 'ask')]
    wanted = filled(case.expected, parent / name)
    if isinstance(wanted, list):
        assert entry['result']['msg'] == wanted
    else:
        assert entry['status'] == 'failed'
        assert wanted in entry['result']['msg']
        assert f"host '{name}'" in entry['result']['msg']
    assert 'Traceback' not in run.output


def test_what_is_odd_is_warned_of_once_and_nothing_else_is(ran):
    parent, run = ran
    output = ''.join(run.output.split())
    for case in CASES:
        if case.warned:
            assert output.count(''.join(case.warned.split())) == 1, case.name
    assert output.count('isleftoutoftheimagearchives') == 8  # seven, and the part of an archive that is there
    assert output.count('[WARNING]') == 8 + 2


# --- what a task names, beside other releases


def staged(folder, named):
    """Run a task with the file *named* for two hosts; return the run, and the release that each has then."""
    hosts = {arch: {'k3s_artifact_machine': support.MACHINES[arch], 'k3s_artifact_probe': False,
                    'k3s_artifact_dest': str(folder / arch / 'k3s')} for arch in ('amd64', 'arm64')}
    for arch in hosts:
        (folder / arch).mkdir(exist_ok=True)
    task = {'name': 'stage', 'copy': {'src': str(folder / 'airgap' / named), 'dest': '{{ k3s_artifact_dest }}'}}
    run = support.play(folder, [{'hosts': 'all', 'gather_facts': False, 'tasks': [task]}], hosts=hosts)
    assert run.rc == 0, run.output
    assert {arch: support.elf_arch(folder / arch / 'k3s') for arch in hosts} == {arch: arch for arch in hosts}
    return run, {run.result(arch, 'stage')['k3s_artifact']['version'] for arch in hosts}


RELEASED = {'k3s': program('amd64', OLD), 'k3s-arm64': program('arm64', OLD)}
NAMED = {f'k3s-{V}-{arch}': program(arch) for arch in ('amd64', 'arm64')}


@pytest.mark.parametrize('arch', ['amd64', 'arm64'])
@pytest.mark.parametrize('make', [
    files({**RELEASED, **NAMED}), sums('SHA256SUMS', {**RELEASED, **NAMED}),
    sums('SHA256SUMS', {**RELEASED, **NAMED}, lambda name: name if name in RELEASED else ''),
    support.in_turn(files(NAMED), sums('sha256sum-amd64.txt', RELEASED)),
], ids=['without a list', 'all in one list', 'a list of the others', "the other release's list"])
def test_of_two_releases_the_one_that_a_task_names_arrives_on_every_host(tmp_path, arch, make):
    make(tmp_path / 'airgap')
    _run, releases = staged(tmp_path, f'k3s-{V}-{arch}')
    assert releases == {V}


def test_where_another_file_takes_the_place_of_a_damaged_one_that_is_named_a_warning_says_so(tmp_path):
    sums('SHA256SUMS', {**RELEASED, **NAMED})(tmp_path / 'airgap')
    path = tmp_path / 'airgap' / f'k3s-{V}-arm64'
    path.write_bytes(path.read_bytes() + b'more')
    run, releases = staged(tmp_path, path.name)
    assert releases == {V, OLD}
    text = ''.join(run.output.split())
    assert f'{path.name}isnotthereleasedfile' in text and 'airgap/k3s-arm64takesitsplace.' in text
