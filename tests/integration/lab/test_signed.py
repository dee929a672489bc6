# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""k3s_artifact_verify: signed, with real keys of gpg and minisign. Needs these programs, no nodes. A host is a case."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Callable, NamedTuple

import pytest

import signing
import support

SIGNED = {'k3s_artifact_verify': 'signed', 'k3s_artifact_machine': 'aarch64'}
NOTHING_ELSE = ('images', 'script', 'sha256')


class Case(NamedTuple):
    """A folder with a signed release, what is done to it, and what the lookup says: '' where it gives the file."""

    name: str
    said: str
    spoil: Callable = lambda folder, keys: None
    sign: str = 'detached'  # a function of signing.py
    key: str = 'good'  # that signs
    keyring: str = 'good.gpg'  # in the folder of the keys; '' for none
    terms: tuple = ('binary',)
    variables: dict = {}


def unsigned(folder, _keys):
    for path in folder.glob('SHA256SUMS.*'):
        path.unlink()


def unlisted(folder, _keys):
    for path in folder.glob('SHA256SUMS*'):
        path.unlink()


def changed(name):
    """Return what adds a byte to the end of a file, after everything was signed."""
    def spoil(folder, _keys):
        with open(folder / name, 'ab') as file:
            file.write(b'\n')
    return spoil


def another_list(folder, _keys):
    text = (folder / 'SHA256SUMS').read_text()
    digest = support.sha256(folder / 'amd64' / 'k3s')
    (folder / 'SHA256SUMS').write_text(re.sub(r'^\w+(?=  arm64/k3s$)', digest, text, flags=re.MULTILINE))


def clear_text_changed(folder, _keys):
    path = folder / 'SHA256SUMS'
    path.write_text(path.read_text().replace(support.sha256(folder / 'arm64' / 'k3s'),
                                             support.sha256(folder / 'amd64' / 'k3s')))


def clear_text_and_more(folder, _keys):
    path = folder / 'SHA256SUMS'
    path.write_text(f'{path.read_text()}{support.sha256(folder / "arm64" / "k3s")}  arm64/k3s\n')
    changed('arm64/k3s')(folder, _keys)


def replaced(name, data):
    def spoil(folder, _keys):
        (folder / name).write_bytes(data)
    return spoil


def removed(name):
    def spoil(folder, _keys):
        (folder / name).unlink()
    return spoil


def list_of_arm64(folder, _keys):
    signing.list_files(folder / 'arm64', 'sha256sum-arm64.txt')


def signed_without(name, anew=False):
    """Return what signs the list without the file *name*; *anew*: the list is made again before."""
    def spoil(folder, keys):
        if anew:
            signing.list_files(folder)
        signing.without(folder, name)
        signing.detached(folder, keys, 'good')
    return spoil


def added(name, data=b'#!/bin/sh\n'):
    """Return what adds a file that was not there when the list was made."""
    return replaced(name, data)


def list_of_another_folder(folder, keys):
    """The list of the folder above was moved into the folder of the arch, with its signature."""
    for path in folder.glob('SHA256SUMS*'):
        path.rename(folder / 'arm64' / path.name)


def list_of_another_arch(folder, keys):
    signing.list_files(folder / 'amd64')
    signing.detached(folder / 'amd64', keys, 'good')
    unlisted(folder, keys)
    for path in (folder / 'amd64').glob('SHA256SUMS*'):
        shutil.copy(path, folder / 'arm64')


def listed_beside(folder, keys):
    unlisted(folder, keys)
    signing.list_files(folder / 'arm64')
    signing.detached(folder / 'arm64', keys, 'good')


def renamed(folder, _keys):
    (folder / 'arm64' / 'k3s').rename(folder / 'arm64' / 'k3s-other')
    (folder / 'arm64' / 'k3s-other').rename(folder / 'arm64' / 'k3s-arm64')


def unreadable(name):
    def spoil(folder, _keys):
        (folder / name).unlink()
        (folder / name).symlink_to('nowhere')
    return spoil


CASES = [
    # what is good
    Case('gpg-detached', ''),
    Case('gpg-detached-binary', '', sign='detached_binary'),
    Case('gpg-in-the-clear', '', sign='in_the_clear'),
    Case('gpg-in-the-clear-beside', '', sign='in_the_clear_beside'),
    Case('gpg-keyring-armored', '', keyring='good.asc'),
    Case('gpg-keyring-of-several', '', keyring='both.gpg'),
    Case('gpg-keyring-of-several-armored', '', keyring='both.asc'),
    Case('gpg-keyring-keybox', '', keyring='good.kbx'),
    Case('gpg-two-signatures-one-known', '', sign='by_both'),
    Case('minisign', '', sign='minisign', keyring='minisign.pub'),
    Case('minisign-key-alone', '', sign='minisign', keyring='minisign.line'),
    Case('list-beside-the-file', '', listed_beside),
    Case('all-terms', '', terms=('binary', 'images', 'script', 'sha256', 'directory')),
    Case('required-does-not-ask-for-a-signature', '', unsigned, variables={'k3s_artifact_verify': 'required'}),

    # what is not
    Case('no-list', 'is in no signed list: there is no SHA256SUMS in {folder}.', unlisted),
    Case('no-list-but-that-of-the-release', 'is in no signed list: there is no SHA256SUMS in {folder}.',
         support.in_turn(unlisted, list_of_arm64)),
    Case('no-signature', '{folder}/SHA256SUMS has no signature of gpg (no SHA256SUMS.asc and no SHA256SUMS.sig)',
         unsigned),
    Case('no-signature-minisign', '{folder}/SHA256SUMS has no signature of minisign (no SHA256SUMS.minisig)',
         keyring='minisign.pub'),
    Case('list-changed', 'has a bad signature: it is not the list that was signed', another_list),
    Case('list-changed-binary', 'has a bad signature', another_list, sign='detached_binary'),
    Case('list-changed-in-the-clear', 'has a bad signature', clear_text_changed, sign='in_the_clear'),
    Case('list-continued-in-the-clear', 'is not the released file', clear_text_and_more, sign='in_the_clear'),
    Case('list-changed-minisign', 'has a bad signature', another_list, sign='minisign', keyring='minisign.pub'),
    Case('list-gone', '{folder}/SHA256SUMS cannot be read: No such file or directory', removed('SHA256SUMS')),
    Case('signature-damaged', 'has a signature that cannot be read', replaced('SHA256SUMS.asc', b'no signature')),
    Case('signature-empty', 'has a signature that cannot be read', replaced('SHA256SUMS.asc', b'')),
    Case('signature-is-an-html-page', 'has a signature that cannot be read',
         replaced('SHA256SUMS.asc', b'<html>404</html>')),
    Case('signature-damaged-minisign', 'has a signature that cannot be read',
         replaced('SHA256SUMS.minisig', b'no signature'),
         sign='minisign', keyring='minisign.pub'),
    Case('signature-is-a-dangling-link', 'has the signature SHA256SUMS.asc, which is a dangling link',
         unreadable('SHA256SUMS.asc')),
    Case('signature-holds-the-message', 'has a signature that cannot be read', sign='message'),
    Case('another-key', 'is signed with another key, which is not in k3s_artifact_keyring ({other})', key='other'),
    Case('another-key-minisign', 'is signed with another key, which is not in k3s_artifact_keyring', sign='minisign',
         keyring='minisign-other.pub'),
    Case('expired-key', 'is signed with a key that has expired ({expired})', key='expired', keyring='expired.gpg'),
    Case('revoked-key', 'is signed with a key that is revoked ({revoked})', key='revoked', keyring='revoked.gpg'),
    Case('revoked-key-in-the-clear', 'is signed with a key that is revoked', sign='in_the_clear', key='revoked',
         keyring='revoked.gpg'),
    Case('binary-not-in-the-list', '{folder}/arm64/k3s-arm64 is not in the signed list {folder}/SHA256SUMS.',
         support.in_turn(removed('arm64/k3s'), added('arm64/k3s-arm64', support.elf('arm64')), signed_without(
             'arm64/k3s-arm64', anew=True))),
    Case('archive-not-in-the-list', 'arch arm64) is not in the signed list {folder}/SHA256SUMS.', terms=('images',),
         spoil=added('arm64/more-images-arm64.tar', support.image_archive('arm64'))),
    Case('script-not-in-the-list', 'arch arm64) is not in the signed list {folder}/SHA256SUMS.', terms=('script',),
         spoil=signed_without('arm64/k3s-install.sh')),
    Case('directory-with-an-archive-not-in-the-list', 'arch arm64) is not in the signed list {folder}/SHA256SUMS.',
         terms=('directory',),
         spoil=added('arm64/more-images-arm64.tar', support.image_archive('arm64'))),
    Case('directory-with-a-changed-script', 'arch arm64) is not the released file', changed('arm64/k3s-install.sh'),
         terms=('directory',)),
    Case('binary-changed', '{folder}/arm64/k3s is not the released file: its SHA-256 is', changed('arm64/k3s')),
    Case('binary-changed-and-its-own-list-too', 'is not the released file',
         support.in_turn(changed('arm64/k3s'), list_of_arm64)),
    Case('archive-changed', 'arch arm64) is not the released file', changed('arm64/k3s-airgap-images-arm64.tar.zst'),
         terms=('images',)),
    Case('script-changed', 'arch arm64) is not the released file', changed('arm64/k3s-install.sh'), terms=('script',)),
    Case('list-for-another-folder', 'which is for another folder: it names \'amd64/k3s\' and not k3s',
         list_of_another_folder, variables={'k3s_artifact_dir': '{folder}/arm64'}),
    Case('list-for-another-arch', 'is not the released file', list_of_another_arch),

    # the key
    Case('keyring-not-set', 'k3s_artifact_verify is "signed", and k3s_artifact_keyring is not set', keyring=''),
    Case('keyring-missing', 'k3s_artifact_keyring {keys}/nowhere.gpg cannot be read: No such file or directory',
         keyring='nowhere.gpg'),
    Case('keyring-is-a-folder', 'k3s_artifact_keyring {keys}/folder is a directory, not a file', keyring='folder'),
    Case('keyring-unreadable', 'k3s_artifact_keyring {keys}/dangling is a dangling link', keyring='dangling'),
    Case('keyring-empty', 'holds no public key of gpg or minisign', keyring='empty'),
    Case('keyring-is-text', 'holds no public key of gpg or minisign', keyring='text'),
    Case('keyring-is-secret', 'is a secret key, which has no place here', keyring='secret.asc'),
    Case('keyring-is-secret-minisign', 'is a secret key, which has no place here', keyring='minisign.key'),
    Case('keyring-is-a-list', "the keyring of host 'keyring-is-a-list' is",
         variables={'k3s_artifact_keyring': ['a', 'b']}),
]


@pytest.fixture(scope='module', name='keys')
def fixture_keys():
    with signing.keys() as folder:
        (folder / 'folder').mkdir()
        (folder / 'dangling').symlink_to('nowhere')
        (folder / 'empty').write_bytes(b'')
        (folder / 'text').write_bytes(b'no key\n')
        yield folder


@pytest.fixture(scope='module', name='signed')
def fixture_signed(tmp_path_factory, keys):
    """All cases as hosts of one run."""
    parent, hosts = tmp_path_factory.mktemp('signed'), {}
    for case in CASES:
        folder = signing.release(parent / case.name)
        getattr(signing, case.sign)(folder, keys, case.key)
        case.spoil(folder, keys)
        keyring = {'k3s_artifact_keyring': str(keys / case.keyring)} if case.keyring else {}
        own = {name: value.format(folder=folder) if isinstance(value, str) else value
               for name, value in case.variables.items()}
        hosts[case.name] = {**SIGNED, 'k3s_artifact_dir': str(folder), **keyring, **own, 'terms': case.terms}
    return parent, support.play(parent, ASK, hosts=hosts)


ASK = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
    {'name': 'ask', 'ansible.builtin.debug': {'msg': "{{ query('k3s_artifact', *terms) }}"}, 'ignore_errors': True}]}]


def failed(run, host):
    return next(entry['status'] for entry in run.results if entry['host'] == host) == 'failed'


@pytest.mark.parametrize('case', CASES, ids=[case.name for case in CASES])
def test_only_what_a_good_signature_vouches_for_is_handed_out(signed, keys, case):
    parent, run = signed
    folder, result = parent / case.name, run.result(case.name, 'ask')
    assert failed(run, case.name) == bool(case.said), result
    if not case.said:
        expected = {'binary': folder / 'arm64' / 'k3s', 'images': folder / 'arm64' / 'k3s-airgap-images-arm64.tar.zst',
                    'script': folder / 'arm64' / 'k3s-install.sh', 'sha256': support.sha256(folder / 'arm64' / 'k3s'),
                    'directory': folder / 'arm64'}
        assert result['msg'] == [str(expected[term]) for term in case.terms]
        return
    said = case.said.format(folder=folder, keys=keys, **signing.numbers(keys))
    assert said in result['msg'], result['msg']
    assert 'Traceback' not in result['msg']


@pytest.fixture(name='bundle')
def fixture_bundle(tmp_path, keys):
    folder = signing.release(tmp_path / 'airgap')
    signing.detached(folder, keys, 'good')
    return folder


def ask(tmp_path, bundle, keyring, path, hosts=('one',), terms=('binary',), **env):
    variables = {**SIGNED, 'k3s_artifact_dir': str(bundle), 'k3s_artifact_keyring': str(keyring), 'terms': terms}
    return support.play(tmp_path, ASK, '--forks', '4', hosts=dict.fromkeys(hosts, variables),
                        env={'PATH': str(path), **env})


def programs(folder, **scripts):
    """Make a folder for PATH that holds *scripts*: the text of a shell script, or the program that is meant."""
    folder.mkdir()
    for name, text in scripts.items():
        if text.startswith('#!'):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        else:
            (folder / name).symlink_to(shutil.which(text))
    return folder


@pytest.mark.parametrize('sign, keyring, said', [
    ('detached', 'good.gpg', 'cannot be checked: neither gpgv nor gpg is installed. Install it on the controller.'),
    ('minisign', 'minisign.pub', 'cannot be checked: minisign is not installed. Install it on the controller.'),
])
def test_a_program_that_is_not_installed_is_asked_for(tmp_path, keys, bundle, sign, keyring, said):
    getattr(signing, sign)(bundle, keys, 'good')
    assert said in ask(tmp_path, bundle, keys / keyring, programs(tmp_path / 'bin')).result('one', 'ask')['msg']


@pytest.mark.parametrize('sign, key, said', [
    ('detached', 'good', ''), ('in_the_clear', 'good', ''), ('detached', 'other', 'another key'),
    ('detached', 'revoked', 'revoked'),
    ('detached', 'expired', 'expired')])
def test_gpg_does_where_there_is_no_gpgv(tmp_path, keys, bundle, sign, key, said):
    getattr(signing, sign)(bundle, keys, key)
    keyring = keys / ('good.gpg' if key == 'other' else f'{key}.gpg')
    run = ask(tmp_path, bundle, keyring, programs(tmp_path / 'bin', gpg='gpg'))
    assert failed(run, 'one') == bool(said) and said in str(run.result('one', 'ask')['msg'])
    assert not (tmp_path / 'home' / '.gnupg').exists(), "the user's own keyring is left alone"


@pytest.mark.parametrize('script', ['#!/bin/sh\necho gpgv: Good signature from good >&2\n',
                                    '#!/bin/sh\necho Good signature\n'])
def test_the_text_of_a_program_and_its_exit_status_decide_nothing(tmp_path, keys, bundle, script):
    run = ask(tmp_path, bundle, keys / 'good.gpg', programs(tmp_path / 'bin', gpgv=script))
    assert failed(run, 'one') and 'has a signature that cannot be read' in run.result('one', 'ask')['msg']


@pytest.mark.parametrize('key', ['good', 'other'])
def test_list_and_signature_are_checked_once_per_run_however_many_hosts(tmp_path, keys, bundle, key):
    signing.detached(bundle, keys, key)
    log = tmp_path / 'log'
    path = programs(tmp_path / 'bin', gpgv=f'#!/bin/sh\necho run >>{log}\nexec {shutil.which("gpgv")} "$@"\n')
    hosts = [f'node{number}' for number in range(12)]
    run = ask(tmp_path, bundle, keys / 'good.gpg', path, hosts, ('binary', 'images', 'script'))
    assert {failed(run, host) for host in hosts} == {key == 'other'}
    assert log.read_text() == 'run\n'


def test_the_program_gets_no_terminal_no_input_and_none_of_the_users_settings(tmp_path, keys, bundle):
    log = tmp_path / 'log'
    path = programs(tmp_path / 'bin', gpgv='#!/bin/sh\nPATH=/usr/bin:/bin\n'
                    f'(env; readlink /proc/self/fd/0; (: </dev/tty) 2>&1) >>{log}\n'
                                           f'exec {shutil.which("gpgv")} "$@"\n')
    assert ask(tmp_path, bundle, keys / 'good.gpg', path, LC_ALL='C.UTF-8', SECRET='x', GPG_TTY='/dev/tty').rc == 0
    seen = log.read_text()
    assert all(part in seen for part in ('LC_ALL=C\n', '/dev/null\n', 'cannot open /dev/tty')), seen
    assert 'SECRET' not in seen and 'GPG_TTY' not in seen
    home = re.search('^GNUPGHOME=(.*)$', seen, re.MULTILINE)[1]
    assert home.startswith(str(tmp_path / 'home' / 'local')) and not Path(home).exists()


def test_a_program_that_does_not_end_is_ended(tmp_path, monkeypatch):
    k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')
    monkeypatch.setattr(k3s, 'SIGNATURE_SECONDS', 0.3)
    pid = tmp_path / 'pid'
    path = programs(tmp_path / 'bin', gpgv=f'#!/bin/sh\necho $$ >{pid}\nexec sleep 60\n')
    monkeypatch.setenv('PATH', f'{path}:{os.environ["PATH"]}')
    monkeypatch.setattr(k3s.C, 'DEFAULT_LOCAL_TMP', str(tmp_path))
    with pytest.raises(k3s.ArtifactError, match=r'gpgv took more than 0\.3 seconds'):
        k3s.checked_by_gpg(b'list', b'signature', k3s.Key('gpg', b'key'))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_copy_that_stages_hands_on_no_file_without_a_good_signature(tmp_path, keys, bundle):
    hosts = {name: {**SIGNED, 'k3s_artifact_dir': str(bundle), 'k3s_artifact_keyring': str(keys / keyring),
                    'k3s_artifact_probe': False,
                    'k3s_artifact_machine': support.MACHINES[support.NATIVE],
                    'k3s_artifact_dest': str(tmp_path / name / 'k3s')}
             for name, keyring in (('right', 'good.gpg'), ('wrong', 'other.gpg'))}
    for name in hosts:
        (tmp_path / name).mkdir()
    source = str(bundle / support.NATIVE / 'k3s')
    tasks = [{'name': 'stage', 'copy': {'src': source, 'dest': '{{ k3s_artifact_dest }}'}}]
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}], hosts=hosts)
    assert run.result('right', 'stage')['k3s_artifact']['verified'] == ['ELF header', 'SHA256SUMS', 'signature']
    assert stat.S_IMODE((tmp_path / 'right' / 'k3s').stat().st_mode) == 0o755
    assert 'is signed with another key' in run.result('wrong', 'stage')['msg']
    assert not (tmp_path / 'wrong' / 'k3s').exists()


def test_a_relative_keyring_is_beside_the_playbook(tmp_path, keys, bundle):
    shutil.copy(keys / 'good.gpg', tmp_path / 'ring.gpg')
    assert ask(tmp_path, bundle, 'ring.gpg', os.environ['PATH']).rc == 0


def test_sha256sum_reads_what_the_tests_sign(bundle):
    """The lists of these tests are what people make with sha256sum."""
    subprocess.run(['sha256sum', '--check', '--strict', '--quiet', 'SHA256SUMS'], cwd=bundle, check=True)
