# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image archives: for whom one is, by its name, and which of several compressions is taken."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import subprocess
import tracemalloc

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')


@pytest.mark.parametrize(('name', 'expected'), [
    ('k3s-airgap-images-amd64.tar.zst', ('k3s-airgap-images-amd64', '.tar.zst', ('amd64',))),
    ('k3s-airgap-images-arm64.tar.gz', ('k3s-airgap-images-arm64', '.tar.gz', ('arm64',))),
    ('k3s-airgap-images-arm.tar', ('k3s-airgap-images-arm', '.tar', ('arm',))),
    ('k3s-airgap-images-s390x.tgz', ('k3s-airgap-images-s390x', '.tgz', ('s390x',))),
    ('k3s-airgap-images-riscv64.tzst', ('k3s-airgap-images-riscv64', '.tzst', ('riscv64',))),
    ('mine_x86_64.tar', ('mine_x86_64', '.tar', ('amd64',))),
    ('mine-x86_64.tar', ('mine-x86_64', '.tar', ('amd64',))),
    ('mine.aarch64.tar.bz2', ('mine.aarch64', '.tar.bz2', ('arm64',))),
    ('mine-armv7.tar.lz4', ('mine-armv7', '.tar.lz4', ('arm',))),
    ('mine-armv7l.tbz', ('mine-armv7l', '.tbz', ('arm',))),
    ('mine-armhf.tar', ('mine-armhf', '.tar', ('arm',))),
    ('mine-AMD64.tar', ('mine-AMD64', '.tar', ('amd64',))),
    ('arm64.tar', ('arm64', '.tar', ('arm64',))),
    ('mine-armv6l.tar', ('mine-armv6l', '.tar', ('armv6',))),
    ('mine-armv6.tar', ('mine-armv6', '.tar', ('armv6',))),
    ('mine-386.tar', ('mine-386', '.tar', ('386',))),
    ('mine-ppc64le.tar', ('mine-ppc64le', '.tar', ('ppc64le',))),
    ('shared.tar', ('shared', '.tar', ())),
    ('alarm.tar', ('alarm', '.tar', ())),  # ends in "arm", which is no word of its own
    ('charm64.tar', ('charm64', '.tar', ())),
    ('arm64-tools.tar', ('arm64-tools', '.tar', ('arm64',))),
    ('mine-amd64-v2.tar', ('mine-amd64-v2', '.tar', ('amd64',))),
    ('k3s-airgap-images-amd64-v1.30.8.tar.zst', ('k3s-airgap-images-amd64-v1.30.8', '.tar.zst', ('amd64',))),
    ('v1.386.0.tar', ('v1.386.0', '.tar', ())),  # part of a version
    ('x86_64-tools.tar', ('x86_64-tools', '.tar', ('amd64',))),
    ('mine-amd64-arm64.tar', ('mine-amd64-arm64', '.tar', ('amd64', 'arm64'))),
    ('mine-arm64v8.tar', ('mine-arm64v8', '.tar', ('arm64',))),
    ('k3s-airgap-images-amd64.txt', None),
    ('k3s', None),
    ('images.zst', None),
    ('.hidden-amd64.tar', None),
    ('.tar', None),
    ('images.tar.part', None),
])
def test_an_archive_says_in_its_name_for_whom_it_is(name, expected):
    assert k3s.split_archive(name) == expected


@pytest.mark.parametrize(('places', 'arch', 'expected'), [
    ([('/d', ['i-amd64.tar', 'i-amd64.tar.gz', 'i-amd64.tar.zst'])], 'amd64', ['/d/i-amd64.tar.zst']),
    ([('/d', ['i-amd64.tar', 'i-amd64.tar.gz'])], 'amd64', ['/d/i-amd64.tar.gz']),
    ([('/d', ['i-amd64.tar'])], 'amd64', ['/d/i-amd64.tar']),
    ([('/d', ['i-amd64.tar.zst', 'i-arm64.tar.zst', 'i-arm.tar.zst'])], 'arm', ['/d/i-arm.tar.zst']),
    ([('/d', ['shared.tar', 'i-arm64.tar'])], 'amd64', ['/d/shared.tar']),
    ([('/d', ['shared.tar', 'i-arm64.tar'])], 'arm64', ['/d/i-arm64.tar', '/d/shared.tar']),
    ([('/d/arm64', ['i-arm64.tar', 'own.tar']), ('/d', ['i-arm64.tar.zst', 'shared.tar'])], 'arm64',
     # the own folder comes before the better compression
     ['/d/arm64/i-arm64.tar', '/d/arm64/own.tar', '/d/shared.tar']),
    ([('/d', ['mine-amd64-arm64.tar', 'k3s-airgap-images-amd64-v1.30.8.tar.zst'])], 'arm64',
     ['/d/mine-amd64-arm64.tar']),
    ([('/d', ['k3s', 'sha256sum.txt', '.x-amd64.tar'])], 'amd64', []),
    ([], 'amd64', []),
])
def test_a_host_gets_its_own_and_the_shared_archives_once(places, arch, expected):
    assert k3s.choose_archives(places, arch) == expected


# --- what is in them
# ---------------------------------------------------------------------------------------------------

OCI = {'index.json': json.dumps({'manifests': [{'platform': {'os': 'linux', 'architecture': arch}}
                                               for arch in ('amd64', 'arm64')]}).encode()}
CONFIG = json.dumps({'os': 'linux', 'architecture': 'arm64'}).encode()
ATTESTATION = json.dumps({'os': 'unknown', 'architecture': 'unknown'}).encode()
CHART = support.tar([('mychart/Chart.yaml', b'name: mychart'), ('mychart/manifest.json', b'[]')])
ZARF = support.tar([('zarf.yaml', b'kind: ZarfPackageConfig'), ('images/index.json', b'{}')])

TARS = {
    'docker': (support.image_archive('arm64'), 'images', ('linux/arm64',)),
    'docker for two': (support.image_archive('amd64', 'arm64'), 'images', ('linux/amd64', 'linux/arm64')),
    'oci layout with an index of all and the files of one': (
        support.tar([('blobs/sha256/aa', CONFIG), ('blobs/sha256/bb', ATTESTATION), *OCI.items(),
                     ('oci-layout', b'{}')]), 'images', ('linux/arm64',)),
    'oci layout with an index only': (support.tar(list(OCI.items())), 'images', ('linux/amd64', 'linux/arm64')),
    'names with a dot': (support.tar([('./x.json', CONFIG), ('./manifest.json', b'[{"Config": "x.json"}]')]),
                         'images', ('linux/arm64',)),
    'a configuration that the manifest does not name': (
        support.tar([('x.json', CONFIG), ('old.json', CONFIG.replace(b'arm64', b's390x')),
                     ('manifest.json', b'[{"Config": "x.json"}]')]),
        'images', ('linux/arm64',)),
    'a manifest that is no JSON': (support.tar([('manifest.json', b'<html>')]), 'images', ()),
    'a manifest of other things': (support.tar([('manifest.json', b'[1, {"Config": 7}]'),
                                                ('index.json', b'{"manifests": [7, {"platform": 7}]}')]), 'images', ()),
    'deep JSON': (support.tar([('x', b'{"a":' * 100_000), ('manifest.json', b'[' * 100_000)]), 'images', ()),
    'chart': (CHART, 'other', ()),
    'zarf': (ZARF, 'other', ()),
    'empty tar': (support.tar([]), 'other', ()),
    'cut': (support.image_archive('arm64')[:3000], 'broken', ()),
    'cut in a header': (support.image_archive('arm64')[:2000], 'broken', ()),
    'no tar': (b'no tar at all' * 100, 'no tar', ()),
}
PACKED = {'.tar': lambda data: data, '.tar.gz': gzip.compress, '.tgz': gzip.compress, '.tar.zst': support.zst,
          '.tar.bz2': bz2.compress}


def held(path):
    return k3s.content(str(path))


@pytest.fixture(autouse=True)
def no_memory_of_other_tests(tmp_path, monkeypatch):
    (tmp_path / 'local').mkdir()
    monkeypatch.setattr(k3s.C, 'DEFAULT_LOCAL_TMP', str(tmp_path / 'local'))


@pytest.mark.parametrize('suffix', PACKED)
@pytest.mark.parametrize('name', TARS)
def test_an_archive_is_what_is_in_it_in_every_compression(tmp_path, name, suffix):
    data, kind, platforms = TARS[name]
    path = tmp_path / ('images' + suffix)
    path.write_bytes(PACKED[suffix](data))
    assert (held(path).kind, held(path).platforms) == (kind, platforms), held(path)
    assert held(path).why == '' if kind == 'images' else held(path).why.startswith(('is ', 'holds '))


@pytest.mark.parametrize(('suffix', 'damage'), [
    (suffix, damage) for damage in (lambda data: data[:len(data) // 2], lambda data: data[:30], lambda data: data[:5],
                                    lambda data: data[:20] + b'\xff' * 40 + data[60:])
    for suffix in ('.tar.gz', '.tar.bz2', '.tar.zst')][:-1])  # blocks that are not compressed have no digest
def test_a_damaged_compression_is_told(tmp_path, suffix, damage):
    path = tmp_path / ('images' + suffix)
    path.write_bytes(damage(PACKED[suffix](support.image_archive('arm64', members=[('noise', os.urandom(300_000))]))))
    assert held(path).kind == 'broken', held(path)


@pytest.mark.parametrize(('name', 'data', 'kind', 'phrase'), [
    ('i.tar', b'', 'broken', 'is empty'),
    ('i.tar.gz', b'', 'broken', 'is empty'),
    ('i.tar.zst', b'<html>404</html>', 'broken', 'is an HTML page'),
    ('i.tar.zst', b'text', 'no tar', 'is no zstd file'),
    ('i.tar.gz', support.image_archive('arm64'), 'no tar', 'is no gzip file'),
    ('i.tar', gzip.compress(support.image_archive('arm64')), 'no tar', 'is no tar archive'),
], ids=['empty', 'empty gz', 'a page', 'a text', 'a tar as gz', 'a gz as tar'])  # gzip's data say the time
def test_what_is_not_of_the_kind_that_its_name_says_is_told(tmp_path, name, data, kind, phrase):
    (tmp_path / name).write_bytes(data)
    assert held(tmp_path / name).kind == kind
    assert held(tmp_path / name).why.startswith(phrase)


@pytest.mark.parametrize('program', ['zstd', 'lz4'])
def test_a_program_of_the_system_unpacks_what_python_cannot(tmp_path, program):
    path = tmp_path / 'images.tar'
    path.write_bytes(support.image_archive('arm64', members=[('noise', os.urandom(3_000_000))]))
    packed = tmp_path / {'zstd': 'i.tar.zst', 'lz4': 'i.tar.lz4'}[program]
    with open(packed, 'wb') as out:
        subprocess.run([program, '-q', '-c', path], stdout=out, check=True)
    assert held(packed) == k3s.Content('images', '', ('linux/arm64',))


def test_without_a_program_an_archive_cannot_be_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(k3s, 'zstd', None)
    monkeypatch.setenv('PATH', str(tmp_path))
    (tmp_path / 'i.tar.zst').write_bytes(support.zst(support.image_archive('arm64')))
    assert held(tmp_path / 'i.tar.zst').kind == 'unknown'


@pytest.mark.parametrize('suffix', ['.tar', '.tar.gz', '.tar.zst'])
def test_a_bomb_costs_neither_memory_nor_time_without_end(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(k3s, 'LOOK_LIMIT', 1 << 28)
    head = bytearray(support.tar([('zeros', b'')])[:512])
    head[124:136] = b'%011o\0' % (1 << 32)  # the size of the file that follows
    head[148:156] = b' ' * 8
    head[148:156] = b'%06o\0 ' % sum(head)
    path = tmp_path / ('bomb' + suffix)
    tracemalloc.start()
    if suffix == '.tar':
        path.write_bytes(head)
        os.truncate(path, 1 << 33)
    else:
        program = ['gzip', '-1'] if suffix == '.tar.gz' else ['zstd', '-1', '-q']
        with open(path, 'wb') as out, subprocess.Popen([*program, '-c'], stdin=subprocess.PIPE, stdout=out) as packer:
            packer.stdin.write(head + bytes(3 << 20))
    assert held(path).kind == 'broken'
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_an_archive_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(k3s, 'LOOK_SECONDS', 0)
    (tmp_path / 'i.tar.gz').write_bytes(gzip.compress(support.image_archive('arm64')))
    assert held(tmp_path / 'i.tar.gz').kind == 'unknown'


def test_an_archive_is_looked_into_once_per_run(tmp_path, monkeypatch):
    path = tmp_path / 'i.tar'
    path.write_bytes(support.image_archive('arm64'))
    status = path.stat()
    assert held(path).kind == 'images'
    path.write_bytes(b'x' * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert held(path).kind == 'images'
    os.utime(path, ns=(0, 0))
    assert held(path).kind == 'no tar'


@pytest.mark.parametrize(('name', 'whole'), [
    ('i.tar.zst.aa', 'i.tar.zst'), ('i.tar.gz.ab', 'i.tar.gz'), ('i.tar.part1', 'i.tar'), ('i.tgz.001', 'i.tgz'),
    ('i.tar.zst.part-02', 'i.tar.zst'),
    ('i.tar.gz', None), ('i.tar.bz2', None), ('i.tar.bz', None), ('i.tar.xz', None), ('i.tar.zst.sha256', None),
    ('i.tar.zst', None), ('k3s.aa', None),
])
def test_a_part_of_a_split_archive_is_told_by_its_name(name, whole):
    match = k3s.ARCHIVE_PART.fullmatch(name)
    assert (match[1] if match else None) == whole
