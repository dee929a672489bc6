# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold for every input: the right program or an error, no file outside the artifact directory, no other
error.

The lookup runs as Ansible loads it, on real files. K3S_ARTIFACT_FUZZ_EXAMPLES sets the number of examples for a long
run.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from ansible import constants as C
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar
from hypothesis import example, given, settings
from hypothesis import strategies as st

import support

lookup_loader.add_directory(str(support.ROOT / 'plugins' / 'lookup'))
DATA_LOADER = DataLoader()
k3s = sys.modules[type(lookup_loader.get('k3s_artifact', loader=DATA_LOADER, templar=None)).__module__]


def examples(count):
    """Return the settings of a property: *count* examples, or as many as a long run asks for."""
    return settings(max_examples=int(os.environ.get('K3S_ARTIFACT_FUZZ_EXAMPLES', count)))


def ask(term, **variables):
    """Return what the lookup gives for *term*, found by Ansible's plugin loader and given variables as in a play."""
    templar = Templar(loader=DATA_LOADER, variables=variables)
    return lookup_loader.get('k3s_artifact', loader=DATA_LOADER, templar=templar).run([term], variables=variables)


@contextlib.contextmanager
def folder():
    path = Path(tempfile.mkdtemp(prefix='k3s-artifact-'))
    try:
        yield path
    finally:
        shutil.rmtree(path)


# --- what the lookup may open -----------------------------------------------------------------------------------------

WATCHED = {'open', 'os.listdir', 'os.scandir'}
SEEN = []
WATCHING = []


def watch(event, arguments):
    if WATCHING and event in WATCHED and isinstance(arguments[0], (str, bytes, os.PathLike)):
        SEEN.append(os.path.realpath(os.fsdecode(arguments[0])))


sys.addaudithook(watch)


@contextlib.contextmanager
def opened_files():
    """Yield the list that has, afterwards, the real path of each file and folder that was opened, by whatever means."""
    SEEN.clear()
    WATCHING.append(True)
    seen = []
    try:
        yield seen
    finally:
        WATCHING.clear()
        seen.extend(SEEN)


def outside(seen, *roots):
    """Return the paths that are below none of *roots*, nor in the run's own temporary folder, nor Python's own
    modules."""
    allowed = [os.path.realpath(root) for root in (*roots, C.DEFAULT_LOCAL_TMP)]
    return [path for path in seen
            if not any(path == root or path.startswith(root + '/') for root in allowed)
            and not path.endswith(('.py', '.pyc', '.so'))]


def test_the_watch_sees_what_is_opened(tmp_path):
    (tmp_path / 'canary').write_text('')
    with opened_files() as seen:
        with k3s.opened(str(tmp_path / 'canary')):
            pass
        os.listdir(tmp_path)
    assert outside(seen) == [str(tmp_path.resolve() / 'canary'), str(tmp_path.resolve())]
    assert outside(seen, tmp_path) == []


# --- (a) the right program or an error --------------------------------------------------------------------------------

FOLDERS = ['', *support.BINARIES, *support.MACHINES.values(), 'armhf']
NAMES = sorted({*support.BINARIES.values(), 'k3s-arm', 'k3s-amd64', 'sha256sum.txt',
                'sha256sum-arm64.txt', 'sha256sum-arm.txt'})
CONTENTS = st.one_of(
    st.sampled_from(sorted(support.ELF)).map(support.elf),
    st.builds(lambda arch, size: support.elf(arch)[:size], st.sampled_from(sorted(support.ELF)), st.integers(0, 70)),
    st.builds(lambda arch, type_: support.elf(arch, type_=type_),
              st.sampled_from(sorted(support.ELF)), st.integers(0, 5)),
    st.sampled_from([b'<html>', b'#!/bin/sh', b'', b'aa' * 32 + b'  k3s\n', None]),
    st.binary(max_size=80),
)
TREES = st.dictionaries(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES)), CONTENTS, max_size=8)


def write(root, tree):
    for (place, name), content in tree.items():
        (root / place).mkdir(exist_ok=True)
        if content is None:
            (root / place / name).symlink_to('gone')
        else:
            (root / place / name).write_bytes(content)


@examples(150)
@given(tree=TREES, arch=st.sampled_from(sorted(support.MACHINES)), verify=st.sampled_from(['auto', 'required']))
@example(tree={('', 'k3s'): support.elf('amd64')}, arch='arm', verify='auto')
@example(tree={('arm', 'k3s'): support.elf('arm')}, arch='arm', verify='auto')
@example(tree={('', 'k3s-arm'): support.elf('arm64'), ('', 'k3s'): support.elf('arm')}, arch='arm', verify='auto')
def test_what_is_returned_is_a_program_for_the_host_or_it_is_an_error(tree, arch, verify):
    with folder() as root:
        write(root, tree)
        try:
            path, = ask('binary', ansible_facts={'architecture': support.MACHINES[arch]}, inventory_hostname='node',
                        airgap_dir=str(root), k3s_artifact_verify=verify)
        except k3s.ArtifactError as error:
            assert "host 'node'" in str(error)
        else:
            assert root in Path(path).parents
            assert support.elf_arch(path) == arch
            assert Path(path).read_bytes()[16:18] in (b'\2\0', b'\3\0', b'\0\2', b'\0\3')


@examples(60)
@given(tree=TREES, arch=st.sampled_from(sorted(support.MACHINES)))
def test_a_folder_that_is_returned_for_k3s_ansible_gives_it_a_program_for_the_host(tree, arch):
    machine = support.MACHINES[arch]
    with folder() as root:
        write(root, tree)
        try:
            place, = ask('directory', ansible_facts={'architecture': machine},
                         inventory_hostname='node', airgap_dir=str(root))
        except k3s.ArtifactError as error:
            assert "host 'node'" in str(error)
        else:
            # the search of k3s-ansible: k3s-arm64, k3s-arm or k3s-amd64, and then k3s
            first = {'aarch64': 'k3s-arm64', 'armv7l': 'k3s-arm'}.get(machine, 'k3s-amd64')
            taken = next(name for name in (first, 'k3s') if os.path.lexists(os.path.join(place, name)))
            assert support.elf_arch(os.path.join(place, taken)) == arch


# --- (b) nothing outside the artifact directory -----------------------------------------------------------------------

HOSTILE = st.one_of(
    st.sampled_from(['../outside', '../../outside', '..', '.', '/', '/etc', 'x/../../outside', '{{ 7*7 }}',
                     "{{ lookup('file', '/etc/passwd') }}",
                     'k3s\0', '~', '~root', '$HOME', '*', '-', 'armv6l', 'aarch64', 'outside', ' ', '\n',
                     'x' * 10000, '\udcff']),
    st.text(max_size=20),
    st.builds('/'.join, st.lists(st.sampled_from(['..', '.', '', 'outside', 'arm64', 'k3s', '~']), max_size=6)),
    st.sampled_from([None, 7, True, 1.5, ['aarch64'], {'aarch64': 1}, b'aarch64']),
)
# The map is the user's own and may be a template. Templates are for facts only here.
OWN = HOSTILE.filter(lambda value: '{' not in str(value))
MAPS = st.one_of(
    st.none(),
    st.dictionaries(OWN.filter(lambda value: not isinstance(value, (list, dict))), OWN, max_size=2),
    st.dictionaries(st.sampled_from(['armv6l', 'aarch64', 'outside']),
                    st.sampled_from(['k3s', 'link', 'folder/k3s', 'arm64/k3s-arm64', '../outside/k3s', '.', './link',
                                     'folder']), min_size=1),
)


@pytest.fixture(scope='module')
def root():
    """An artifact directory with links that leave it, beside a folder with the same files."""
    with folder() as parent:
        root = parent / 'airgap'
        support.release(root)
        support.release(root, 'arm64', 'arm', layout='per-arch')
        support.release(parent / 'outside')
        (parent / 'outside' / 'k3s-install.sh').write_text('')
        (root / 'link').symlink_to('../outside/k3s')
        (root / 'folder').symlink_to('../outside')
        for term in k3s.TERMS:  # let Python import, and Ansible read, what it reads once
            with contextlib.suppress(k3s.ArtifactError):
                ask(term, ansible_architecture='aarch64', airgap_dir=str(root))
        yield root


@examples(200)
@given(fact=st.one_of(HOSTILE, st.sampled_from(['armv6l', 'aarch64', 'outside'])), variable=HOSTILE, binary_map=MAPS,
       term=st.sampled_from(k3s.TERMS), where=st.integers(0, 3))
@example(fact='../outside', variable=None, binary_map={'armv6l': '../outside/k3s'}, term='binary', where=0)
@example(fact='../outside', variable=None, binary_map={'../outside': 'k3s'}, term='binary', where=0)
@example(fact='../outside', variable=None, binary_map=None, term='images', where=1)
@example(fact='../outside', variable=None, binary_map=None, term='directory', where=2)
@example(fact='armv6l', variable=None, binary_map={'armv6l': 'link'}, term='sha256', where=0)
@example(fact='armv6l', variable=None, binary_map={'armv6l': 'folder/k3s'}, term='sha256', where=0)
@example(fact='armv6l', variable=None, binary_map={'x' * 10_000: ''}, term='binary', where=0)
def test_no_file_outside_the_artifact_directory_is_opened_whatever_the_facts_say(root, fact, variable,
                                                                                 binary_map, term, where):
    variables = {'inventory_hostname': 'node', 'airgap_dir': str(root)}
    variables.update([{'ansible_facts': {'architecture': fact}}, {'ansible_architecture': fact},
                      {'ansible_facts': {'architecture': fact}, 'ansible_architecture': variable},
                      {'ansible_facts': {}, 'ansible_architecture': fact}][where])
    if binary_map is not None:
        variables['k3s_binary_map'] = binary_map
    with opened_files() as seen:
        try:
            result = ask(term, **variables)
        except k3s.ArtifactError as error:
            assert str(error).isprintable()
            assert len(str(error)) < 2000
        else:
            assert all(root in Path(value).parents for value in result if term not in ('name', 'arch', 'sha256'))
    assert outside(seen, root) == []


# --- (c) no other error -----------------------------------------------------------------------------------------------

HEADS = st.one_of(
    st.binary(max_size=100),
    st.binary(max_size=100).map(lambda data: b'\x7fELF' + data),
    st.builds(lambda bits, order, rest: b'\x7fELF' + bytes([bits, order]) + rest, st.integers(0, 3), st.integers(0, 3),
              st.binary(min_size=40, max_size=80)),
)


@examples(300)
@given(HEADS)
def test_reading_a_header_gives_an_identity_or_the_own_error(head):
    try:
        elf = k3s.parse_elf(head)
    except k3s.ArtifactError as error:
        assert str(error).startswith(('is ', 'has '))
    else:
        assert elf.bits in (32, 64)
        assert elf.byteorder in ('little', 'big')
        assert elf.extent >= (52 if elf.bits == 32 else 64)
        assert str(elf).isprintable()


@examples(150)
@given(HEADS, st.binary(max_size=300), st.sampled_from(sorted(support.MACHINES)))
def test_checking_a_file_passes_it_or_gives_the_own_error(head, rest, arch):
    with folder() as root:
        path = root / 'k3s'
        path.write_bytes(head + rest)
        host = k3s.resolve_host('node', support.MACHINES[arch], {})
        try:
            artifact = k3s.verified_binary(str(path), host, 'auto')
        except k3s.ArtifactError as error:
            assert str(error).startswith(('is ', 'has '))
        else:
            assert support.elf_arch(path) == arch
            assert artifact.sha256 == support.sha256(path)


DIGEST = st.one_of(st.sampled_from(['a1' * 32, 'B2' * 32]), st.text('0123456789abcdefABCDEF', min_size=62, max_size=66))
LINES = st.one_of(st.text(max_size=90),
                  st.builds(lambda digest, space, name, end: digest + space + name + end, DIGEST,
                            st.sampled_from([' ', '  ', ' *', '\t', '']),
                            st.one_of(st.just('k3s'), st.text(max_size=12)),
                            st.sampled_from(['\n', '\r\n', '', '\x0b', '\u2028'])))


ARMOUR = ('-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{}\n'
          '-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n')
TEXTS = st.lists(LINES, max_size=4).map(''.join).flatmap(lambda text: st.sampled_from([text, ARMOUR.format(text)]))
LISTS = st.one_of(st.binary(max_size=200), st.builds(lambda text, encoding: text.encode(encoding, 'replace'), TEXTS,
                                                     st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le',
                                                                      'utf-16-be', 'latin-1'])))


@examples(400)
@given(LISTS)
@example(f'{"a1" * 32}  k3s\u202e\n{"b2" * 32}  k3s\u202e\n'.encode())
@example(b'\xff\xfe')
@example(b'\0')
def test_reading_a_checksum_list_gives_digests_or_the_own_error(data):
    try:
        known = k3s.parse_checksum_list(data)
    except k3s.ArtifactError as error:
        assert str(error).startswith(('is ', 'names '))
        assert str(error).isprintable()
    else:
        assert known
        for name, digest in known.items():
            assert digest.lower() == digest and len(digest) == 64 and int(digest, 16) >= 0
            assert name.strip() and '/' not in name


@examples(100)
@given(digest=st.text('0123456789abcdefABCDEF', min_size=64, max_size=64),
       name=st.text(st.characters(blacklist_categories=['Cs', 'Cc', 'Z']), min_size=1, max_size=20),
       form=st.sampled_from(['{d}  {n}', '{d} *{n}', '{d}  ./{n}', '{d}  /srv/{n}', 'SHA256 ({n}) = {d}']),
       encoding=st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16']))
def test_the_list_that_lookup_and_download_read_is_the_same(digest, name, form, encoding):
    if '/' in name or name.startswith('*'):
        return
    data = (form.format(d=digest, n=name) + '\r\n').encode(encoding)
    with folder() as root:
        (root / 'sha256sum.txt').write_bytes(data)
        assert k3s.expected_digest(str(root / name[:5]), 'arm64',
                                   [name])[0] == k3s.parse_checksum_list(data)[name] == digest.lower()


@examples(200)
@given(st.text(max_size=40))
def test_an_archive_is_for_at_most_one_arch(name):
    archive = k3s.split_archive(name + '.tar')
    if archive:
        stem, suffix, archs = archive
        assert stem + suffix == name + '.tar'
        assert [other for other in support.MACHINES if k3s.choose_archives([('/d', [name + '.tar'])], other)] \
            == [other for other in support.MACHINES if not archs or other in archs]


# --- (d) folders as people have them ----------------------------------------------------------------------------------

ANY_NAMES = st.builds(lambda *words: '-'.join(word for word in words if word) or 'x',
                      st.sampled_from(['k3s', 'K3S', 'rke2']),
                      st.sampled_from(['', 'v1.31.4+k3s1', 'v1.30.8+k3s1']),
                      st.sampled_from(['', *k3s.ARCH_WORDS, 'AMD64']), st.sampled_from(['', 'old', 'v1.31.4+k3s1']))
PROGRAMS = st.builds(lambda arch, version: support.elf(arch, version.encode() + b'\0'),
                     st.sampled_from(sorted(support.ELF)),
                     st.sampled_from(['v1.31.4+k3s1', 'v1.30.8+k3s1', 'v9', '']))


@examples(200)
@given(contents=st.dictionaries(ANY_NAMES, st.one_of(PROGRAMS, CONTENTS.filter(bool)), min_size=1, max_size=8),
       pick=st.integers(0, 7),
       arch=st.sampled_from(sorted(support.MACHINES)), version=st.sampled_from(['', 'v1.31.4+k3s1']),
       configured=st.booleans())
@example(contents={'k3s-v1.31.4+k3s1-amd64': support.elf('amd64')}, pick=0, arch='arm', version='', configured=False)
def test_whatever_a_task_names_the_program_is_for_the_host_or_it_is_an_error(contents, pick, arch, version, configured):
    with folder() as root:
        for name, data in contents.items():
            (root / name).write_bytes(data)
        named = sorted(contents)[pick % len(contents)]
        variables = {'inventory_hostname': 'node', 'k3s_artifact_machine': support.MACHINES[arch],
                     'k3s_version': version}
        if configured:
            variables['airgap_dir'] = str(root)
        templar = Templar(loader=DATA_LOADER, variables=variables)
        lookup = lookup_loader.get('k3s_artifact', loader=DATA_LOADER, templar=templar).prepare(variables)
        try:
            artifact = lookup.binary(str(root / named))
        except k3s.ArtifactError as error:
            assert "host 'node'" in str(error)
        else:
            assert root in Path(artifact.source).parents
            assert support.elf_arch(artifact.source) == arch
            assert not version or artifact.version in (version, '')  # without one it is used with a warning


TARS = {'images': support.image_archive(*support.MACHINES), 'chart': support.tar([('chart/Chart.yaml', b'')]),
        'text': b'text', 'cut': support.image_archive('arm64')[:700]}
PACKERS = {'.tar': bytes, '.tar.gz': gzip.compress, '.tgz': gzip.compress, '.tar.zst': support.zst,
           '.tar.bz2': bz2.compress}


@examples(60)
@given(files=st.dictionaries(st.tuples(st.sampled_from(['k3s-airgap-images-arm64', 'k3s-airgap-images', 'mine',
                                                        'mine-arm64-v2', 'chart', 'mine-amd64']),
                                       st.sampled_from(sorted(PACKERS))), st.sampled_from(sorted(TARS)), max_size=6),
       vouched=st.booleans())
def test_no_archive_without_an_image_manifest_is_chosen(files, vouched):
    with folder() as root:
        for (name, suffix), kind in files.items():
            (root / (name + suffix)).write_bytes(PACKERS[suffix](TARS[kind]))
        if vouched and files:
            (root / 'SHA256SUMS').write_text(''.join(f'{support.sha256(path)}  {path.name}\n'
                                                     for path in root.iterdir()))
        try:
            chosen = ask('images', inventory_hostname='node', k3s_artifact_machine='aarch64', airgap_dir=str(root))
        except k3s.ArtifactError as error:
            assert "host 'node'" in str(error)
        else:
            kinds = {name + suffix: kind for (name, suffix), kind in files.items()}
            # A released archive that a list vouches for is what K3s has published, even where it cannot be unpacked
            # here.
            assert all(kinds[Path(path).name] == 'images' or vouched
                       and kinds[Path(path).name] in ('cut', 'text') for path in chosen)
            assert not any('amd64' in Path(path).name for path in chosen)
