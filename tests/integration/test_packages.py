# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages hold the product, all of it and nothing else, and are the same bytes wherever they are built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml

import support

VERSION = yaml.safe_load((support.ROOT / 'galaxy.yml').read_text())['version']
# What people have in a folder from which they work, and what builds leave there.
LITTER = ('.env', '.vault_pass', 'vault_pass.txt', 'vault.yml', 'inventory.yml', 'group_vars/all/vault.yml',
          'id_ed25519', 'playbooks/site.yml', 'playbooks/group_vars/all.yml', 'playbooks/vault.yml',
          'playbooks/files/k3s', 'playbooks/files/k3s-arm64', 'airgap/k3s-armhf', 'airgap/sha256sum-arm.txt', 'k3s',
          'k3s-airgap-images-amd64.tar', 'plugins/action/.copy.py.swp', 'plugins/action/copy.py.orig',
          'plugins/action/__pycache__/copy.cpython-311.pyc', 'plugins/lookup/secret.yml', 'docs/vault.yml',
          'build/lib/ansible_collections/airgap/k3s/plugins/action/gone.py', 'build/collections/gone.py',
          'k3s_artifact.egg-info/SOURCES.txt', 'airgap-k3s-0.9.0.tar.gz', 'tests/.env', 'tests/output/x.json',
          '.ansible/x', '.cache/x')
# What the product is: by folder, what the files that make it are called.
PRODUCT = {'.': 'CHANGELOG.rst|COPYING|README.md', 'docs': r'.*\.(md|png|svg)',
           'meta': r'(bindep\.txt|(execution-environment|runtime)\.yml)',
           'playbooks': r'(bundle|check|demo|download|preflight|rollback|stage|verify)\.yml',
           'playbooks/files': r'pretend_release\.py',
           'plugins/action': r'.*\.py', 'plugins/lookup': r'.*\.py', 'plugins/modules': r'.*\.py',
           'plugins/plugin_utils': r'.*\.py'}


# What the pages are made with.
SITE = {f'docs/{name}' for name in ('build.py', 'conf.py', 'demo.cast', 'record.py', 'requirements.txt', 'site.css')}


def product():
    return {str((support.ROOT / folder / path.name).relative_to(support.ROOT)) for folder, names in PRODUCT.items()
            for path in (support.ROOT / folder).iterdir() if path.is_file() and re.fullmatch(names, path.name)}


def build(folder, litter, umask, epoch):
    """Build all three packages from a copy of the repository; return their paths: tarball, wheel, sdist."""
    source, out = folder / 'source', folder / 'out'
    shutil.copytree(support.ROOT, source, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(
        '.git', '.venv*', 'build', '.hypothesis', '.pytest_cache', '.ruff_cache', '__pycache__',
        '.ansible', 'collections'))
    for name in litter:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text('secret')
    env = {'SOURCE_DATE_EPOCH': str(epoch)}
    mask = os.umask(umask)
    try:
        for path in [source, *source.rglob('*')]:
            path.chmod(0o777 & ~umask if path.is_dir() else 0o666 & ~umask)
        done = [support.ansible('ansible-galaxy', 'collection', 'build', '--output-path', out, source, folder=folder,
                                env=env)]
        tarball = out / f'airgap-k3s-{VERSION}.tar.gz'
        done.append(support.ansible('python', source / '.ci' / 'reproducible.py', tarball, folder=folder, env=env))
        for target in ('wheel', 'sdist'):
            done.append(support.ansible('python', '-m', 'hatchling', 'build', '-t', target, '-d', out, folder=source,
                                        env=env))
    finally:
        os.umask(mask)
    assert [one.returncode for one in done] == [0] * 4, '\n'.join(one.stdout for one in done)
    return [tarball, *(out / f'k3s_artifact-{VERSION}{end}' for end in ('-py3-none-any.whl', '.tar.gz'))]


@pytest.fixture(scope='module')
def littered(tmp_path_factory):
    return build(tmp_path_factory.mktemp('littered'), LITTER, 0o077, 1700000000)


def content(path):
    """Return what a package holds: bytes by name, without the folder that all share."""
    if path.suffix == '.whl':
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def test_the_tarball_is_the_product_and_nothing_that_lay_beside_it(littered):
    found = content(littered[0])
    assert set(found) - {'MANIFEST.json', 'FILES.json'} == product()
    assert all(found[name] == (support.ROOT / name).read_bytes() for name in product())


def test_the_wheel_is_the_product_and_nothing_that_lay_beside_it(littered):
    prefix = 'ansible_collections/airgap/k3s/'
    found = {name: data for name, data in content(littered[1]).items() if '.dist-info/' not in name}
    assert set(found) == {prefix + name for name in product() | {'galaxy.yml'}}
    assert all(found[prefix + name] == (support.ROOT / name).read_bytes() for name in product())


def test_the_source_distribution_has_what_builds_and_tests_the_product_and_nothing_that_lay_beside_it(littered):
    prefix = f'k3s_artifact-{VERSION}/'
    found = {name.removeprefix(prefix) for name in content(littered[2])}
    assert product() | SITE | {'galaxy.yml', 'pyproject.toml', 'Makefile', '.ci/run', 'benchmarks/fleets.json',
                               'tests/standin/ssh.py', 'tests/standin/sudo',
                               'tests/integration/lab/lab.py', 'tests/unit/test_elf.py'} <= found
    assert not found & set(LITTER)
    assert b'secret' not in content(littered[2]).values()


def test_the_source_distribution_makes_the_same_wheel(tmp_path, littered):
    with tarfile.open(littered[2]) as archive:
        archive.extractall(tmp_path)
    source = tmp_path / f'k3s_artifact-{VERSION}'
    done = support.ansible('python', '-m', 'hatchling', 'build', '-t', 'wheel', '-d', tmp_path, folder=source,
                           env={'SOURCE_DATE_EPOCH': '1700000000'})
    assert done.returncode == 0, done.stdout
    assert content(tmp_path / littered[1].name) == content(littered[1])


def test_packages_are_the_same_bytes_whenever_wherever_and_by_whom_they_are_built(tmp_path, littered):
    again = build(tmp_path / 'another place', (), 0o022, 1700000000)
    assert [support.sha256(path) for path in again] == [support.sha256(path) for path in littered]


def test_what_git_has_and_no_package_holds_is_for_developers(littered):
    done = subprocess.run(['git', 'ls-files'], cwd=support.ROOT, capture_output=True, text=True, check=False)
    tracked = set(done.stdout.splitlines()) if done.returncode == 0 else product()
    packed = set(content(littered[0]))
    left = {name for name in tracked - packed if not name.startswith(('tests/', 'benchmarks/', 'changelogs/', '.'))}
    assert left - SITE <= {'CONTRIBUTING.md', 'Makefile', 'galaxy.yml', 'noxfile.py', 'pyproject.toml', 'setup.cfg'}


def test_one_place_says_which_version_it_is(littered):
    assert f'Version: {VERSION}\n' in next(data.decode() for name, data in content(littered[1]).items()
                                           if name.endswith('.dist-info/METADATA'))
    for name in ('pyproject.toml', 'Makefile', '.ci/run'):
        assert VERSION not in (support.ROOT / name).read_text(), name
    pages = [support.ROOT / 'README.md', *(support.ROOT / 'docs').glob('*.md')]
    said = {text for page in pages for text in re.findall(r'airgap-k3s-[^/\s`]*\.tar\.gz', page.read_text())}
    assert said == {f'airgap-k3s-{VERSION}.tar.gz'}
    notes = (support.ROOT / 'CHANGELOG.rst').read_text()
    assert f'\nv{VERSION}\n====' in notes, 'CHANGELOG.rst does not say what is in it'


def test_one_place_says_which_ansible_core_is_supported():
    project = (support.ROOT / 'pyproject.toml').read_text()
    rows = re.findall(r'(?m)^"(2\.[0-9]+)" = \["(3\.[0-9]+)", "(3\.[0-9]+)"\]$', project)
    oldest, newest = rows[0][0], rows[-1][0]
    assert len(rows) == int(newest[2:]) - int(oldest[2:]) + 1, 'a row is missing'
    assert f'dependencies = ["ansible-core>={oldest}"]' in project
    assert f'requires-python = ">={rows[0][1]}"' in project
    assert yaml.safe_load((support.ROOT / 'meta/runtime.yml').read_text()) == {'requires_ansible': f'>={oldest}.0'}
    pages = [support.ROOT / 'README.md', support.ROOT / 'CONTRIBUTING.md', *(support.ROOT / 'docs').glob('*.md'),
             *(support.ROOT / 'plugins').rglob('*.py')]
    said = {page.name: re.findall(r'ansible-core\s+(2\.[0-9]+)\s+to\s+(2\.[0-9]+)', page.read_text()) for page in pages}
    assert said['README.md'] and said['CONTRIBUTING.md']
    assert {spoken for found in said.values() for spoken in found} == {(oldest, newest)}


def test_tests_are_found_and_run_without_pytest_ansible():
    """It is no longer maintained: whoever takes it away loses test_adhoc.py and nothing else."""
    def pytest_of(*arguments):
        return subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:pytest-ansible', *arguments],
                              cwd=support.ROOT, capture_output=True, text=True, timeout=300, check=False)
    found = pytest_of('--collect-only', 'tests/unit', 'tests/integration')
    assert found.returncode == 0, found.stdout
    ran = pytest_of('tests/unit/test_rpm.py', 'tests/unit/test_stage.py', 'tests/unit/test_report.py')
    assert ran.returncode == 0, ran.stdout
