# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""airgap.k3s.bundle and verify, and the way of the tar to the lookup. Needs gpg and minisign, no nodes."""

import contextlib
import fcntl
import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading

import pytest

import signing
import support

GOOD = 'good@example.com'


@pytest.fixture(scope='module', name='keys')
def fixture_keys():
    with signing.keys() as folder:
        yield folder


@pytest.fixture(name='airgap')
def fixture_airgap(tmp_path):
    folder = signing.release(tmp_path / 'airgap')
    (folder / 'SHA256SUMS').unlink()
    return folder


def bundle(folder, keys, *arguments, env=None, **variables):
    """Run the playbook in *folder*, for the artifact directory in it; return the run."""
    settings = {'k3s_artifact_dir': str(folder / 'airgap'), 'k3s_bundle_download': False, **variables}
    return support.play(folder, 'airgap.k3s.bundle', '-e', json.dumps(settings), *arguments, home='collection',
                        env={'GNUPGHOME': str(keys / 'home'), **(env or {})})


def result(run):
    return run.result('localhost', 'Add what is missing, list, sign and pack')


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def unpack(folder):
    (folder / 'inside').mkdir()
    subprocess.run(['tar', '-C', folder / 'inside', '-xf', folder / 'airgap.tar'], check=True)
    return folder / 'inside' / 'airgap'


def test_what_is_packed_on_one_side_is_handed_out_as_signed_on_the_other(tmp_path, keys, airgap):
    package = tmp_path / 'k3s-selinux-1.6-1.el9.noarch.rpm'
    package.write_bytes(b'rpm')
    run = bundle(tmp_path, keys, k3s_artifact_sign_key=GOOD, k3s_version='v1.31.4+k3s1',
                 k3s_bundle_extra=[str(package), {'path': str(package), 'arch': 'arm64'}])
    assert run.rc == 0, run.output
    tar = tmp_path / 'airgap.tar'
    assert result(run)['size'] == tar.stat().st_size
    assert f'{tar}: 61.4 kB, 17 files, K3s v1.31.4+k3s1 for amd64, arm, arm64, signed (SHA256SUMS.asc).' in run.output
    inside = unpack(tmp_path)
    assert files(inside) == files(airgap)
    assert (inside / package.name).read_bytes() == (inside / 'arm64' / package.name).read_bytes() == b'rpm'
    subprocess.run(['sha256sum', '--check', '--strict', '--quiet', 'SHA256SUMS'], cwd=inside, check=True)
    listed = [line.split('  ')[1] for line in (inside / 'SHA256SUMS').read_text().splitlines()]
    assert listed == sorted(name for name in files(inside) if not name.startswith('SHA256SUMS'))
    manifest = json.loads((inside / 'manifest.json').read_text())
    assert manifest['release'] == 'v1.31.4+k3s1'
    assert {row['file']: (row['size'], row['sha256']) for row in manifest['files']} == {
        name: (len(data), support.hashlib.sha256(data).hexdigest()) for name, data in files(inside).items()
        if not name.startswith(('SHA256SUMS', 'manifest'))}
    arches = {row['file']: row['arch'] for row in manifest['files']}
    assert (arches['arm/k3s'], arches['arm64/k3s-install.sh'], arches[package.name]) == ('arm', 'arm64', None)

    hosts = {arch: {'k3s_artifact_machine': support.MACHINES[arch], 'k3s_artifact_dir': str(inside),
                    'k3s_artifact_verify': 'signed',
                    'k3s_artifact_keyring': str(keys / 'good.gpg')} for arch in ('amd64', 'arm64', 'arm')}
    ask = [{'name': 'ask', 'debug': {'msg': "{{ query('k3s_artifact', 'binary', 'images', 'script') }}"}}]
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': ask}], hosts=hosts)
    assert run.rc == 0, run.output
    assert run.result('arm', 'ask')['msg'] == [
        f'{inside}/arm/{name}' for name in ('k3s', 'k3s-airgap-images-arm.tar.zst', 'k3s-install.sh')]


@pytest.mark.parametrize('key', ['gpg', 'minisign', ''])
def test_the_same_files_give_the_same_bytes_and_a_second_run_changes_nothing(tmp_path, keys, airgap, key):
    variables = {'k3s_artifact_sign_key': {'gpg': GOOD, 'minisign': str(keys / 'minisign.key')}[key]} if key else {}
    assert bundle(tmp_path, keys, **variables).changed() == 1
    first = (tmp_path / 'airgap.tar').read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (*airgap.rglob('*'), tmp_path / 'airgap.tar')}
    again = bundle(tmp_path, keys, **variables)
    assert again.rc == 0 and again.changed() == 0, again.output
    assert stamps == {path: path.stat().st_mtime_ns for path in (*airgap.rglob('*'), tmp_path / 'airgap.tar')}
    for path in airgap.rglob('*'):  # whoever packs it, and when
        os.utime(path, (1, 1))
        os.chown(path, 1234, 1234)
    shutil.copytree(airgap, tmp_path / 'copy')
    shutil.rmtree(airgap)
    (tmp_path / 'copy').rename(airgap)
    (tmp_path / 'airgap.tar').unlink()
    assert bundle(tmp_path, keys, **variables).rc == 0
    assert (tmp_path / 'airgap.tar').read_bytes() == first
    with tarfile.open(tmp_path / 'airgap.tar') as tar:
        names = tar.getnames()
        assert names == sorted(names)
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(315532800, 0, 0, '')}


def test_check_mode_says_what_would_be_and_writes_nothing(tmp_path, keys, airgap):
    before = files(airgap)
    run = bundle(tmp_path, keys, '--check', k3s_artifact_sign_key=GOOD)
    assert run.rc == 0 and result(run)['changed'] and f'{tmp_path}/airgap.tar would have ' in run.output, run.output
    assert files(airgap) == before and not (tmp_path / 'airgap.tar').exists()
    bundle(tmp_path, keys, k3s_artifact_sign_key=GOOD)
    assert not result(bundle(tmp_path, keys, '--check', k3s_artifact_sign_key=GOOD))['changed']


def test_a_changed_file_is_signed_anew_and_no_old_signature_stays(tmp_path, keys, airgap):
    bundle(tmp_path, keys, k3s_artifact_sign_key=GOOD)
    old = (airgap / 'SHA256SUMS.asc').read_bytes()
    (airgap / 'notes.txt').write_text('more')
    unsigned = bundle(tmp_path, keys)
    # Some releases of ansible-core break a warning into lines.
    assert unsigned.rc == 0 and 'is not signed. Set k3s_artifact_sign_key' in ' '.join(unsigned.output.split())
    assert not (airgap / 'SHA256SUMS.asc').exists()
    bundle(tmp_path, keys, k3s_artifact_sign_key=GOOD)
    assert (airgap / 'SHA256SUMS.asc').read_bytes() != old
    bundle(tmp_path, keys, k3s_artifact_sign_key='other@example.com')
    verify = ['gpgv', '--keyring', keys / 'other.gpg', 'SHA256SUMS.asc', 'SHA256SUMS']
    subprocess.run(verify, cwd=airgap, check=True)
    bundle(tmp_path, keys, k3s_artifact_sign_key=str(keys / 'minisign.key'))
    assert not (airgap / 'SHA256SUMS.asc').exists()
    subprocess.run(['minisign', '-V', '-m', 'SHA256SUMS', '-p', keys / 'minisign.pub'], cwd=airgap, check=True)


def test_a_signature_that_was_made_by_hand_is_packed(tmp_path, keys, airgap):
    bundle(tmp_path, keys)
    signing.detached_binary(airgap, keys, 'good')
    run = bundle(tmp_path, keys)
    assert 'signed (SHA256SUMS.sig)' in run.output and 'is not signed' not in run.output
    assert (unpack(tmp_path) / 'SHA256SUMS.sig').exists()


@pytest.mark.parametrize('kind', ['gpg', 'minisign'])
def test_a_key_with_a_password_signs_and_the_password_is_shown_nowhere(tmp_path, keys, airgap, kind):
    password = 'correct horse'
    if kind == 'gpg':
        key = 'locked@example.com'
        subprocess.run(['gpg', '--homedir', keys / 'home', '--batch', '--pinentry-mode', 'loopback', '--passphrase',
                        password, '--quick-generate-key', key, 'ed25519', 'sign', 'never'], check=True)
        subprocess.run(['gpgconf', '--homedir', keys / 'home', '--kill', 'gpg-agent'], check=True)
    else:
        key = str(tmp_path / 'locked.key')
        subprocess.run(['minisign', '-G', '-p', tmp_path / 'locked.pub', '-s', key], input=f'{password}\n{password}\n',
                       text=True, check=True)
    wrong = bundle(tmp_path, keys, k3s_artifact_sign_key=key, k3s_artifact_sign_password='wrong')
    assert wrong.rc == 2 and 'k3s_artifact_sign_password' in result(wrong)['msg']
    run = bundle(tmp_path, keys, '-vvvv', k3s_artifact_sign_key=key, k3s_artifact_sign_password=password)
    assert run.rc == 0, run.output
    assert password not in json.dumps(run.results)


def bad_binary(airgap):
    (airgap / 'arm64' / 'k3s').write_bytes(support.elf('amd64'))


def wrong_arch(airgap):
    path = airgap / 'arm64' / 'k3s'
    path.write_bytes(support.elf('amd64'))
    (airgap / 'arm64' / 'sha256sum-arm64.txt').write_text(f'{support.sha256(path)}  k3s-arm64\n')


def other_release(airgap):
    path = airgap / 'arm64' / 'k3s'
    path.write_bytes(path.read_bytes().replace(b'v1.31.4', b'v1.30.0'))
    (airgap / 'arm64' / 'sha256sum-arm64.txt').unlink()


def two_bad(airgap):
    for name in ('arm64/k3s-airgap-images-arm64.tar.zst', 'amd64/k3s-install.sh'):
        (airgap / name).write_bytes(b'<html>404</html>')


def nothing(airgap):
    shutil.rmtree(airgap)
    airgap.mkdir()


def many(airgap):
    (airgap / 'charts').mkdir()
    for number in range(5000):
        (airgap / 'charts' / f'{number:0140}').touch()


BAD = [
    ('changed', '1 of the files in {airgap} cannot be used: arm64/k3s is', bad_binary, {}),
    ('wrong-arch', 'arm64/k3s is a binary for amd64', wrong_arch, {}),
    ('two', '2 of the files in {airgap} cannot be used: amd64/k3s-install.sh is an HTML page', two_bad, {}),
    ('two-second', '; arm64/k3s-airgap-images-arm64.tar.zst is', two_bad, {}),
    ('two-releases', '{airgap} holds several releases: amd64/k3s is v1.31.4+k3s1', other_release, {}),
    ('another-release', 'is K3s v1.31.4+k3s1, but k3s_version is', None, {'k3s_version': 'v1.30.0+k3s1'}),
    ('nothing', '{airgap} holds no K3s binary', nothing, {}),
    ('no-folder', 'there is no folder {airgap}', shutil.rmtree, {}),
    ('unreadable', 'arm64/more is a dangling link', lambda airgap: (airgap / 'arm64' / 'more').symlink_to('nowhere'),
     {}),
    ('odd-name', 'is a name that a list cannot hold', lambda airgap: (airgap / 'a\nb').write_text(''), {}),
    ('blank-first', "' notes.txt' is a name that a list cannot hold",
     lambda airgap: (airgap / ' notes.txt').write_text(''), {}),
    ('blank-last', "'notes.txt ' is a name that a list cannot hold",
     lambda airgap: (airgap / 'notes.txt ').write_text(''), {}),
    ('too-many', 'files, more than SHA256SUMS can name in 1048576 bytes. Pack those that belong together', many, {}),
    ('tar-inside-by-a-link', 'write a whole path outside of',
     lambda airgap: (airgap.parent / 'here').symlink_to('airgap'), {'k3s_bundle_file': '{airgap}/../here/all.tar'}),
    ('extra-missing', '/nowhere.rpm cannot be read: No such file or directory', None,
     {'k3s_bundle_extra': ['/nowhere.rpm']}),
    ('extra-relative', 'write the whole path', None, {'k3s_bundle_extra': ['some.rpm']}),
    ('extra-arch', "the architecture 'aarch64'", None, {'k3s_bundle_extra': [{'path': '/a.rpm', 'arch': 'aarch64'}]}),
    ('extra-twice', 'is a name that a bundle cannot take', None, {'k3s_bundle_extra': ['/a/x.rpm', '/b/x.rpm']}),
    ('extra-list', 'is a name that a bundle cannot take', None, {'k3s_bundle_extra': ['/a/SHA256SUMS']}),
    ('extra-odd', 'k3s_bundle_extra has the entry 7', None, {'k3s_bundle_extra': [7]}),
    ('tar-inside', 'write a whole path outside of', None, {'k3s_bundle_file': '{airgap}/all.tar'}),
    ('tar-nowhere', "k3s_bundle_file is '/nowhere/all.tar', and there is no folder /nowhere. Make it", None,
     {'k3s_bundle_file': '/nowhere/all.tar'}),
    ('no-such-key', 'gpg has no such secret key', None, {'k3s_artifact_sign_key': 'nobody@example.com'}),
    ('not-a-path', 'is a relative path', None, {'k3s_artifact_dir': 'airgap'}),
]


@pytest.mark.parametrize('said, spoil, variables', [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_cannot_be_packed_is_said_in_a_sentence_and_nothing_is_written(tmp_path, keys, airgap, said, spoil,
                                                                            variables):
    if spoil:
        spoil(airgap)
    before = files(airgap)
    variables = {name: value.format(airgap=airgap) if isinstance(value, str) else value
                 for name, value in variables.items()}
    run = bundle(tmp_path, keys, **variables)
    assert run.rc == 2, run.output
    assert said.format(airgap=airgap) in result(run)['msg'], result(run)['msg']
    assert 'Traceback' not in run.output
    assert files(airgap) == before and not (tmp_path / 'airgap.tar').exists()


# The process of Ansible that packs is killed, with its group, at the n-th call of a system function that matters.
CUT = """
import os, signal
def cutting(function):
    def cut(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        return function(*arguments, **options)
    return cut
if os.environ.get('CUT'):
    left = int(os.environ['CUT'])
    import ansible_collections.airgap.k3s.plugins.action.bundle as bundle
    for name in ('rename', 'unlink', 'fsync'):
        setattr(bundle.os, name, cutting(getattr(os, name)))
"""
RUNNER = """
import os, sys
sys.argv[0] = 'ansible-playbook'
from ansible.cli.playbook import main
from ansible.plugins.loader import init_plugin_loader, action_loader
original = action_loader.get
def get(name, *arguments, **options):
    found = original(name, *arguments, **options)
    if name == 'airgap.k3s.bundle':
        exec(open(os.environ['CUT_FILE']).read(), {})
    return found
action_loader.get = get
sys.exit(main())
"""


def test_a_power_cut_in_any_step_loses_nothing_and_the_next_run_completes(tmp_path, keys, airgap):
    package = tmp_path / 'some.rpm'
    package.write_bytes(b'rpm')
    variables = {'k3s_artifact_sign_key': GOOD, 'k3s_bundle_extra': [str(package)]}
    assert bundle(tmp_path, keys, k3s_artifact_sign_key=GOOD).rc == 0
    old, old_tar = files(airgap), (tmp_path / 'airgap.tar').read_bytes()
    (tmp_path / 'cut.py').write_text(CUT)
    (tmp_path / 'runner.py').write_text(RUNNER)
    settings = {'k3s_artifact_dir': str(airgap), 'k3s_bundle_download': False, **variables}
    env = support.environment(tmp_path, GNUPGHOME=str(keys / 'home'),
                              ANSIBLE_COLLECTIONS_PATH=support.collection_path(tmp_path),
                              CUT_FILE=str(tmp_path / 'cut.py'))
    cuts = 0
    for step in range(1, 40):
        shutil.rmtree(airgap)
        for name, data in old.items():
            (airgap / name).parent.mkdir(parents=True, exist_ok=True)
            (airgap / name).write_bytes(data)
        (tmp_path / 'airgap.tar').write_bytes(old_tar)
        done = subprocess.run([sys.executable, str(tmp_path / 'runner.py'), '-i', 'localhost,', 'airgap.k3s.bundle',
                               '-e', json.dumps(settings)],
                              cwd=tmp_path, env={**env, 'CUT': str(step)}, start_new_session=True,
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL or 'A worker was found in a dead state' in done.stdout, done.stdout
        cuts += 1
        now = files(airgap)
        assert {name: now[name] for name in old if not name.startswith(('SHA256SUMS', 'manifest'))} == {
            name: data for name, data in old.items() if not name.startswith(('SHA256SUMS', 'manifest'))}
        if {'SHA256SUMS', 'SHA256SUMS.asc'} <= set(now):
            subprocess.run(['gpgv', '--keyring', keys / 'good.gpg', 'SHA256SUMS.asc', 'SHA256SUMS'], cwd=airgap,
                           stderr=subprocess.DEVNULL, check=True)
        with tarfile.open(tmp_path / 'airgap.tar') as tar:
            names = tar.getnames()
        assert (tmp_path / 'airgap.tar').read_bytes() == old_tar or 'airgap/some.rpm' in names
        again = bundle(tmp_path, keys, **variables)
        assert again.rc == 0, again.output
        assert not [*airgap.rglob('.*'), *tmp_path.glob('.*.part')]
        subprocess.run(['sha256sum', '--check', '--strict', '--quiet', 'SHA256SUMS'], cwd=airgap, check=True)
        with tarfile.open(tmp_path / 'airgap.tar') as tar:
            assert tar.extractfile('airgap/SHA256SUMS.asc').read() == (airgap / 'SHA256SUMS.asc').read_bytes()
    assert cuts >= 15, cuts


def test_a_tar_that_was_cut_is_continued(tmp_path, keys, airgap):
    bundle(tmp_path, keys)
    whole = (tmp_path / 'airgap.tar').read_bytes()
    (tmp_path / 'airgap.tar').unlink()
    part = tmp_path / '.airgap.tar.part'
    part.write_bytes(whole[:30000])
    inode = part.stat().st_ino
    assert bundle(tmp_path, keys).rc == 0
    assert (tmp_path / 'airgap.tar').read_bytes() == whole and (tmp_path / 'airgap.tar').stat().st_ino == inode


def test_two_runs_at_once_are_refused(tmp_path, keys, airgap):
    folder = os.open(airgap, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        assert 'Another run is packing' in result(bundle(tmp_path, keys))['msg']
    finally:
        os.close(folder)


@pytest.fixture(name='mirror')
def fixture_mirror(tmp_path):
    """A web server that has two releases as K3s publishes them; the variables that name it."""
    support.release(tmp_path / 'mirror' / 'v1.31.4+k3s1', 'amd64', 'arm64', 'arm')
    for path in support.release(tmp_path / 'mirror' / 'v1.32.1+k3s1', 'amd64', 'arm64', 'arm').values():
        before = support.sha256(path)
        path.write_bytes(path.read_bytes().replace(b'v1.31.4', b'v1.32.1'))
        for each in path.parent.glob('sha256sum-*'):
            each.write_text(each.read_text().replace(before, support.sha256(path)))
    (tmp_path / 'mirror' / 'install.sh').write_text('#!/bin/sh\n')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'mirror')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}'
        yield {'k3s_download_url': url, 'k3s_download_install_url': f'{url}/install.sh'}
        server.shutdown()


def test_a_release_is_packed_where_another_was_packed_before(tmp_path, keys, mirror):
    """The list of the first bundle says nothing of the second release, nor of an install script that has changed."""
    for version in ('v1.31.4+k3s1', 'v1.32.1+k3s1', 'v1.32.1+k3s1'):
        run = bundle(tmp_path, keys, k3s_bundle_download=True, k3s_version=version, k3s_artifact_sign_key=GOOD,
                     k3s_download_images='none', **mirror)
        assert run.rc == 0 and f'K3s {version} for' in run.output, run.output
        (tmp_path / 'mirror' / 'install.sh').write_text(f'#!/bin/sh\n# after {version}\n')
        assert verify(tmp_path, keys / 'good.gpg').rc == 0
    (tmp_path / 'airgap' / 'arm64' / 'k3s-install.sh').write_text('#!/bin/sh\n# of somebody\n')
    said = result(bundle(tmp_path, keys))['msg']
    assert 'arm64/k3s-install.sh is not the released file' in said and (
        'take away SHA256SUMS, the list of an earlier bundle, if they were replaced on purpose' in said)


@contextlib.contextmanager
def stand_in_for_k3s(installed):
    """Put a program that lists no images in the place of K3s, which cannot run here."""
    kept = installed.with_name('kept')
    installed.rename(kept)
    installed.write_text('#!/bin/sh\necho "REF TYPE DIGEST SIZE PLATFORMS LABELS"\n')
    installed.chmod(0o755)
    yield
    kept.rename(installed)


def test_every_command_of_the_page_runs_in_its_order(tmp_path, keys, mirror):
    page = (support.ROOT / 'docs' / 'carry.md').read_text().replace('/srv/', f'{tmp_path}/srv/')
    for folder in ('srv/rpm', 'srv/inside', 'node/bin', 'node/agent/images'):
        (tmp_path / folder).mkdir(parents=True)
    for name in ('k3s-selinux-1.6-1.el9.noarch.rpm', 'container-selinux.rpm'):
        (tmp_path / 'srv' / 'rpm' / name).write_bytes(b'rpm')
    for name, variables in zip(('bundle.yml', 'upgrade.yml'),
                               re.findall(r'^```yaml\n(.*?)^```', page, re.MULTILINE | re.DOTALL)):
        (tmp_path / name).write_text(variables)
    node = {'ansible_connection': 'local', 'ansible_python_interpreter': sys.executable,
            'k3s_artifact_machine': 'aarch64',
            'k3s_artifact_probe': False, 'k3s_artifact_become': False, 'k3s_artifact_dest': f'{tmp_path}/node/bin/k3s',
            'k3s_artifact_images_dest': f'{tmp_path}/node/agent/images'}
    (tmp_path / 'inventory.yml').write_text(json.dumps({'k3s_cluster': {'hosts': {'node': node}}}))
    (tmp_path / 'connected.yml').write_text(json.dumps({'all': {'vars': mirror}}))
    env = support.environment(tmp_path, ANSIBLE_COLLECTIONS_PATH=support.collection_path(tmp_path),
                              GNUPGHOME=str(keys / 'page'),
                              ANSIBLE_INVENTORY=str(tmp_path / 'connected.yml'),
                              PATH=f'{support.PROGRAMS}:{os.environ["PATH"]}')
    (keys / 'page').mkdir(mode=0o700)
    old, new = (tmp_path / 'mirror' / version / 'k3s-arm64' for version in ('v1.31.4+k3s1', 'v1.32.1+k3s1'))
    installed, staged = tmp_path / 'node' / 'bin' / 'k3s', []
    try:
        for block in re.findall(r'^```console\n(.*?)^```', page, re.MULTILINE | re.DOTALL):
            runs = contextlib.nullcontext() if 'airgap.k3s.check' not in block else stand_in_for_k3s(installed)
            with runs:
                done = subprocess.run(['sh', '-ec', block], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, check=False)
            assert done.returncode == 0, done.stdout
            if installed.exists() and support.sha256(installed) not in staged[-1:]:
                staged.append(support.sha256(installed))
    finally:
        subprocess.run(['gpgconf', '--homedir', keys / 'page', '--kill', 'all'], check=False)
    assert staged == [support.sha256(old), support.sha256(new), support.sha256(old)]
    inside = tmp_path / 'srv' / 'inside' / 'airgap'
    assert (tmp_path / 'srv' / 'inside' / 'v1.32.1' / 'SHA256SUMS.asc').exists()
    assert sorted(path.name for path in inside.iterdir()) == ['SHA256SUMS', 'SHA256SUMS.asc', 'amd64', 'arm', 'arm64',
                                                              'manifest.json']
    with tarfile.open(tmp_path / 'srv' / 'k3s.tar') as tar:
        assert {'airgap/SHA256SUMS.minisig', 'airgap/k3s-selinux-1.6-1.el9.noarch.rpm',
                'airgap/arm64/container-selinux.rpm'} <= set(tar.getnames())


def verify(folder, keyring):
    settings = {'k3s_artifact_dir': str(folder / 'airgap')}
    settings.update({'k3s_artifact_keyring': str(keyring)} if keyring else {})
    return support.play(folder, 'airgap.k3s.verify', '-e', json.dumps(settings), home='collection')


def test_a_link_within_the_folder_is_as_good_as_what_it_leads_to(tmp_path, keys, airgap):
    assert bundle(tmp_path, keys, k3s_artifact_sign_key=GOOD).rc == 0
    (airgap / 'aarch64').symlink_to('arm64')
    (airgap / 'arm64' / 'k3s-arm64').symlink_to('k3s')
    good = verify(tmp_path, keys / 'good.gpg')
    assert good.rc == 0 and 'are those that were signed' in good.output, good.output
    (airgap / 'loop').symlink_to('loop')
    (airgap / 'armv7l').symlink_to('amd64')
    said = verify(tmp_path, keys / 'good.gpg').result('localhost', 'Verify every file')['msg']
    assert 'loop is a link that leads back to itself' in said and 'armv7l/k3s is a binary for amd64' in said, said


def test_the_whole_folder_is_verified_for_every_architecture_and_each_bad_file_is_named(tmp_path, keys, airgap):
    assert bundle(tmp_path, keys, k3s_artifact_sign_key=GOOD).rc == 0
    for keyring, said in ((keys / 'good.gpg', f'All 13 files in {airgap} are those that were signed'),
                          (None, f'No bad file among the 13 in {airgap}, of which 13 are in a checksum list that '
                                 'nobody vouches for')):
        good = verify(tmp_path, keyring)
        assert good.rc == 0 and good.changed() == 0, good.output
        assert f'{said}: K3s v1.31.4+k3s1.' in good.output
    other = verify(tmp_path, keys / 'other.gpg')
    assert other.rc == 2 and f'{airgap}/SHA256SUMS is signed with another key' in other.output

    (airgap / 'arm' / 'k3s').write_bytes(b'<html>404</html>')
    (airgap / 'arm64' / 'k3s-install.sh').unlink()
    (airgap / 'amd64' / 'sha256sum-amd64.txt').unlink()
    (airgap / 'amd64' / 'sha256sum-amd64.txt').symlink_to('nowhere')
    (airgap / 'more.rpm').write_bytes(b'rpm')
    before = files(airgap)
    bad = verify(tmp_path, keys / 'good.gpg')
    said = bad.result('localhost', 'Verify every file')['msg']
    assert bad.rc == 2 and said.startswith(f'4 of the files in {airgap} cannot be used: '), said
    for part in ('amd64/sha256sum-amd64.txt is a dangling link to nowhere', 'arm/k3s is not the file that was signed',
                 'arm64/k3s-install.sh is missing, and the signed list names it', 'more.rpm is not in the signed list'):
        assert part in said, said
    assert files(airgap) == before
