# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After the first install: one step back, what is no longer needed, and whether K3s has imported its images.

Pretend nodes, folders of this machine, whose programs can be cut off at any call.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest

import support

# The pretend nodes are those of another file of tests.
pretend = support.load_plugin('tests/integration/test_stage_action.py')
NODES, looked, recap = pretend.NODES, pretend.looked, pretend.recap

OLD, NEW = 'v1.30.8+k3s1', 'v1.31.4+k3s1'
KEEP = ('-e', 'k3s_artifact_keep_previous=true')
PRUNE = ('-e', 'k3s_artifact_prune=true')
CHANGING = ('ln', 'mv', 'rm', 'chmod', 'sync')  # what a power cut may come before or after


def k3s(version):
    return support.program(f'k3s version {version} (abcdef12)', body=f'\0{version}\0'.encode() + bytes(200000))


class SecondDay(pretend.Cluster):
    """A cluster on which the release OLD runs, with NEW in the artifact directory."""

    def __init__(self, folder):
        super().__init__(folder)
        self.binary.write_bytes(k3s(NEW))
        self.old, self.new = k3s(OLD), self.binary.read_bytes()
        for name in NODES:
            self.installed(name).write_bytes(self.old)
            self.installed(name).chmod(0o755)

    def installed(self, name):
        return self.node(name) / 'bin' / 'k3s'

    def previous(self, name):
        return self.node(name) / 'bin' / 'k3s.previous'

    def images(self, name):
        return self.node(name) / 'k3s' / 'agent' / 'images'

    def cut(self, number, when, files):
        """End the shell of the node "bad" at the given call of a program that changes *files*: before or after it."""
        for name in CHANGING:
            self.program(name, f'''case "$*" in *nodes/bad/{files})
                n=$(cat {self.folder}/count 2>/dev/null || echo 0); n=$((n + 1)); echo $n >{self.folder}/count
                if [ $n = {number} ]; then [ {when} = before ] || $real "$@"; kill -9 $PPID; exit 1; fi ;; esac''')
        (self.folder / 'count').unlink(missing_ok=True)

    def mend(self):
        """Take the programs away that cut it off; return how often they were called."""
        shutil.rmtree(self.folder / 'programs')
        return int((self.folder / 'count').read_text()) if (self.folder / 'count').exists() else 0

    def hidden(self, name):
        return [path.name for path in self.node(name).rglob('.*')]


@pytest.fixture(name='cluster')
def fixture_cluster(tmp_path):
    return SecondDay(tmp_path)


def problems(run, name, task='Look at what each host goes back to'):
    return run.result(name, task)['k3s_artifact']['problems']


# --- one step back ---------------------------------------------------------------------------------------------------


def test_what_an_upgrade_replaces_stays_as_a_link_and_rollback_puts_it_back_on_all_hosts(cluster):
    inodes = {name: cluster.installed(name).stat().st_ino for name in NODES}
    checked = cluster.run('airgap.k3s.stage', '--check', *KEEP)
    assert looked(checked, 'good')['files'][0]['previous'] == str(cluster.previous('good'))
    assert not cluster.previous('good').exists()
    run = cluster.run('airgap.k3s.stage', *KEEP)
    assert run.rc == 0, run.output
    for name in NODES:
        assert cluster.installed(name).read_bytes() == cluster.new
        assert cluster.previous(name).read_bytes() == cluster.old
        assert cluster.previous(name).stat().st_ino == inodes[name]
    again = cluster.run('airgap.k3s.stage', *KEEP)
    assert again.changed() == 0 and cluster.previous('good').stat().st_ino == inodes['good']

    checked = cluster.run('airgap.k3s.rollback', '--check')
    assert checked.rc == 0 and {counts['changed'] for counts in recap(checked).values()} == {1}, checked.output
    assert cluster.installed('good').read_bytes() == cluster.new
    back = cluster.run('airgap.k3s.rollback')
    assert back.rc == 0, back.output
    assert {counts['changed'] for counts in recap(back).values()} == {1}
    for name in NODES:
        assert (cluster.installed(name).stat().st_ino, cluster.previous(name).exists()) == (inodes[name], False)
        assert cluster.hidden(name) == []
    shown = ' '.join(back.output.split())
    assert f'{NEW} -> {OLD}' in shown and 'does not support going back across a change of its datastore' in shown
    assert 'cluster-reset-restore-path' in shown
    nothing = cluster.run('airgap.k3s.rollback')
    assert nothing.rc != 0 and 'so there is no binary to go back to' in problems(nothing, 'good')[0]


@pytest.mark.parametrize('why', ['a folder', 'no links'])
def test_what_keeps_a_binary_from_being_kept_is_found_before_anything_changes_on_any_host(cluster, why):
    if why == 'a folder':
        cluster.previous('bad').mkdir()
        said = 'cannot be kept as .*/k3s.previous: a directory is there'
        assert re.search(said, ' '.join(problems(cluster.run('airgap.k3s.preflight', *KEEP), 'bad',
                                                 'Look at what each host gets')))
    else:
        cluster.program('ln', 'case "$*" in */nodes/bad/bin/*) echo "Operation not permitted" >&2; exit 1 ;; esac')
        said = 'cannot be kept as .*/k3s.previous: Operation not permitted'
    run = cluster.run('airgap.k3s.stage', *KEEP)
    assert run.rc != 0 and re.search(said, json.dumps(run.results)), run.output
    for name in NODES:
        assert cluster.installed(name).read_bytes() == cluster.old
        assert not cluster.previous(name).is_file()


@pytest.mark.parametrize('task, kept', [({}, True), ({'backup': True}, False), ({'mode': 'u=rwx'}, False)],
                         ids=['staged', 'backup', 'symbolic mode'])
def test_a_copy_task_keeps_it_too_or_is_an_error(cluster, task, kept):
    variables = {**cluster.hosts['good'], 'k3s_artifact_keep_previous': 'yes'}
    run = support.play(cluster.folder, [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'stage', 'copy': {'src': str(cluster.binary), 'dest': '/usr/local/bin/k3s', **task}}]}],
        hosts={'good': variables})
    result = run.result('good', 'stage')
    if kept:
        assert run.rc == 0, run.output
        assert result['k3s_artifact']['previous'] == str(cluster.previous('good'))
        assert cluster.previous('good').read_bytes() == cluster.old
    else:
        assert run.rc != 0 and 'is for copy of ansible-core, which keeps no' in result['msg']
        assert cluster.installed('good').read_bytes() == cluster.old


def test_what_was_kept_before_is_replaced_only_by_what_is_replaced_now(cluster):
    cluster.run('airgap.k3s.stage', *KEEP)
    newer = k3s('v1.32.0+k3s1')
    cluster.binary.write_bytes(newer)
    assert cluster.run('airgap.k3s.stage', *KEEP).rc == 0
    assert (cluster.previous('good').read_bytes(), cluster.installed('good').read_bytes()) == (cluster.new, newer)
    cluster.installed('good').unlink()
    assert cluster.run('airgap.k3s.stage', *KEEP).rc == 0
    assert cluster.previous('good').read_bytes() == cluster.new


def test_a_binary_that_cannot_be_kept_is_not_replaced(cluster):
    cluster.previous('bad').mkdir()
    run = cluster.run('airgap.k3s.stage', *KEEP)
    assert run.rc != 0 and 'cannot be kept as' in run.output and cluster.installed('bad').read_bytes() == cluster.old
    cluster.previous('bad').rmdir()
    assert cluster.run('airgap.k3s.stage', *KEEP).rc == 0
    assert cluster.previous('bad').read_bytes() == cluster.old


def does_not_run(path):
    path.write_bytes(support.program('Exec format error', status=126))


def another_architecture(path):
    path.write_bytes(support.elf('s390x'))


def no_file(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize('spoil, said', [
    (does_not_run, 'does not run there: it names no release of K3s'),
    (another_architecture, 'is a program for s390x, and the node is'),
    (no_file, r'k3s.previous is no file (directory)'),
    (lambda path: path.unlink(), 'so there is no binary to go back to'),
], ids=['does not run', 'architecture', 'no file', 'absent'])
def test_one_host_that_cannot_go_back_keeps_all_hosts_where_they_are(cluster, spoil, said):
    cluster.run('airgap.k3s.stage', *KEEP)
    spoil(cluster.previous('bad'))
    run = cluster.run('airgap.k3s.rollback')
    assert run.rc != 0 and said in problems(run, 'bad')[0], run.output
    assert recap(run) == {name: {'changed': 0, 'unreachable': 0, 'failed': int(name == 'bad')} for name in NODES}
    assert all(cluster.installed(name).read_bytes() == cluster.new for name in NODES)
    assert all(cluster.previous(name).read_bytes() == cluster.old for name in ('good', 'other'))


def test_a_binary_that_was_exchanged_since_it_was_looked_at_is_not_put_back(cluster):
    cluster.run('airgap.k3s.stage', *KEEP)
    tasks = [{'name': 'look', 'airgap.k3s.rollback': {'step': 'look'}, 'register': 'looked'},
             {'name': 'meanwhile', 'ansible.builtin.command': f'cp /bin/true {cluster.previous("bad")}'},
             {'name': 'place', 'airgap.k3s.rollback': {'step': 'place', 'of': 'looked'}}]
    run = cluster.run([{'hosts': 'bad', 'gather_facts': False, 'tasks': tasks}])
    assert 'was changed or taken away since it was looked at. Run again' in problems(run, 'bad', 'place')[0]
    assert cluster.installed('bad').read_bytes() == cluster.new


@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('playbook', ['stage', 'rollback'])
def test_a_power_cut_at_any_call_loses_neither_binary_and_the_next_run_completes(cluster, playbook, when):
    """The shell of one node is killed at each call in turn that changes something."""
    if playbook == 'rollback':
        assert cluster.run('airgap.k3s.stage', *KEEP).rc == 0
    before = cluster.folder / 'before'
    shutil.copytree(cluster.folder / 'nodes', before, symlinks=True)
    # What happens to a file while it is sent is the same with and without an older one that is kept.
    arguments = (f'airgap.k3s.{playbook}', '--limit', 'bad', *KEEP)
    number = 0
    while True:
        number += 1
        shutil.rmtree(cluster.folder / 'nodes')
        shutil.copytree(before, cluster.folder / 'nodes', symlinks=True)
        cluster.cut(number, when, 'bin/*' if playbook == 'rollback' else 'bin/k3s | *previous*')
        run = cluster.run(*arguments)
        calls = cluster.mend()
        whole = [path.read_bytes() for path in (cluster.installed('bad'), cluster.previous('bad')) if path.is_file()]
        assert set(whole) <= {cluster.old, cluster.new} and cluster.old in whole, (number, run.output)
        assert cluster.installed('bad').read_bytes() in (cluster.old, cluster.new)
        if calls < number:
            break
        again = cluster.run(*arguments)
        assert again.rc == 0 or playbook == 'rollback' and run.rc == 0, (number, again.output)
        there = cluster.installed('bad').read_bytes(), cluster.previous('bad').exists()
        assert there == ((cluster.new, True) if playbook == 'stage' else (cluster.old, False)), number
        if playbook == 'stage':
            assert cluster.previous('bad').read_bytes() == cluster.old
        assert cluster.hidden('bad') == [], number
    assert number > 3


# --- what is no longer needed ----------------------------------------------------------------------------------------

ARCHIVE = f'k3s-airgap-images-{support.NATIVE}.tar'
OTHER = 's390x'
PREDECESSORS = (f'k3s-airgap-images-{OTHER}.tar.zst', f'k3s-airgap-images-{support.NATIVE}.tar.gz',
                f'k3s-airgap-images-{support.NATIVE}-{OLD}.tar')
NOT_OURS = ('k3s-airgap-images-extra.tar', 'k3s-airgap-images-extra-amd64.tar.gz', 'app.tgz', 'notes.txt', 'other.tar')


@pytest.fixture(name='used')
def fixture_used(cluster):
    """A cluster with an archive of its own in the artifact directory, and nodes that have many."""
    (cluster.airgap / 'app.tar').write_bytes(support.image_archive(support.NATIVE))
    for name in NODES:
        cluster.images(name).mkdir(parents=True)
        for archive in (*PREDECESSORS, *NOT_OURS):
            (cluster.images(name) / archive).write_text(archive)
    return cluster


def there(cluster, name):
    return sorted(path.name for path in cluster.images(name).iterdir())


def test_what_a_staged_archive_supersedes_is_removed_where_that_is_asked_for_and_nothing_else_is(used):
    everything = sorted({*PREDECESSORS, *NOT_OURS})
    named = used.run('airgap.k3s.preflight', *PRUNE)
    assert named.rc == 0 and there(used, 'good') == everything, named.output
    assert looked(named, 'good')['pruned'] == sorted(PREDECESSORS)
    assert set(looked(named, 'good')['superseded']) == {*PREDECESSORS, *NOT_OURS[:3]}
    table = ' '.join(named.output.split())
    heading = 'No longer needed, and removed by k3s_artifact_prune:'
    assert f'{heading} - good, bad, other: {sorted(PREDECESSORS)[0]}' in table
    checked = used.run('airgap.k3s.stage', '--check', *PRUNE)
    assert {counts['changed'] for counts in recap(checked).values()} == {1} and there(used, 'good') == everything

    unasked = used.run('airgap.k3s.stage')
    assert unasked.rc == 0 and there(used, 'good') == sorted({*everything, ARCHIVE, 'app.tar'})
    run = used.run('airgap.k3s.stage', *PRUNE)
    assert run.rc == 0, run.output
    assert {counts['changed'] for counts in recap(run).values()} == {1}
    for name in NODES:
        assert there(used, name) == sorted([*NOT_OURS, ARCHIVE, 'app.tar'])
        placed = run.result(name, 'Put everything in place')['k3s_artifact']
        assert placed['pruned'] == sorted(PREDECESSORS)
    again = used.run('airgap.k3s.stage', *PRUNE)
    assert again.rc == 0 and {counts['changed'] for counts in recap(again).values()} == {0}


def test_an_archive_of_ones_own_is_removed_only_if_an_earlier_run_had_it_and_nobody_has_touched_it(used):
    assert used.run('airgap.k3s.stage', *PRUNE).rc == 0
    (used.images('bad') / 'app.tar').write_bytes(b'from somebody else')
    (used.airgap / 'app.tar').rename(used.airgap / 'app.tar.keep')
    (used.airgap / 'app.tar.gz').write_bytes(support.image_file('app.tar.gz', support.NATIVE))
    run = used.run('airgap.k3s.stage', *PRUNE)
    assert run.rc == 0, run.output
    # app.tgz was there before; app.tar is from the run before, where it still is that file
    assert {'app.tgz', 'app.tar.gz'} <= set(there(used, 'good')) and 'app.tar' not in there(used, 'good')
    assert {'app.tgz', 'app.tar.gz', 'app.tar'} <= set(there(used, 'bad'))
    assert looked(run, 'bad')['pruned'] == [] and looked(run, 'good')['pruned'] == ['app.tar']


def test_an_archive_that_cannot_be_removed_is_a_problem_after_everything_is_in_place(used):
    used.program('rm', 'case "$*" in *nodes/bad/*s390x*) echo "rm: Operation not permitted" >&2; exit 1 ;; esac')
    run = used.run('airgap.k3s.stage', *PRUNE)
    problem, = problems(run, 'bad', 'Put everything in place')
    assert run.rc != 0 and 'cannot be removed, ' + PREDECESSORS[0] in problem and 'not permitted' in problem
    assert {ARCHIVE, 'app.tar'} <= set(there(used, 'bad')) and used.installed('bad').read_bytes() == used.new


@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_power_cut_while_predecessors_are_removed_loses_no_archive_and_the_next_run_completes(used, when):
    before, number = used.folder / 'before', 0
    assert used.run('airgap.k3s.stage', '--limit', 'bad').rc == 0
    shutil.copytree(used.folder / 'nodes', before)
    while True:
        number += 1
        shutil.rmtree(used.folder / 'nodes')
        shutil.copytree(before, used.folder / 'nodes')
        used.cut(number, when, '*images*tar* | *placed*')
        run = used.run('airgap.k3s.stage', '--limit', 'bad', *PRUNE)
        calls = used.mend()
        assert {ARCHIVE, 'app.tar', *NOT_OURS} <= set(there(used, 'bad')), run.output
        if calls < number:
            break
        again = used.run('airgap.k3s.stage', '--limit', 'bad', *PRUNE)
        assert again.rc == 0 and there(used, 'bad') == sorted([*NOT_OURS, ARCHIVE, 'app.tar']), again.output
        assert used.hidden('bad') == ['.k3s-artifact-placed']
    assert number > 4


# --- images that are really there ------------------------------------------------------------------------------------

# What `k3s ctr images list` of K3s v1.31 prints: columns that one blank or more divides, a size in two words.
LIST_HEAD = 'REF TYPE DIGEST SIZE PLATFORMS LABELS '
LINE = ('{} application/vnd.docker.distribution.manifest.list.v2+json sha256:{} 78.0 MiB   {} '
        'io.cattle.k3s.pinned=pinned,io.cri-containerd.image=managed ')
NAMES = ('rancher/klipper-helm:v0.9.3', 'rancher/mirrored-pause:3.6', 'busybox')
FULL = ('docker.io/rancher/klipper-helm:v0.9.3', 'docker.io/rancher/mirrored-pause:3.6',
        'docker.io/library/busybox:latest')
HERE = f'linux/{support.NATIVE}'


def saved(*names, arch=support.NATIVE):
    """An archive as `docker save` writes it, with images of these names."""
    manifest = [{'Config': f'{arch}.json', 'RepoTags': [name], 'Layers': []} for name in names]
    configuration = {'architecture': arch, 'os': 'linux', 'rootfs': {}}
    return support.tar([(f'{arch}.json', json.dumps(configuration).encode()),
                        ('manifest.json', json.dumps(manifest).encode())])


def index(*names, arch=support.NATIVE):
    """An OCI archive with images of these names."""
    entries = [{'digest': 'sha256:0', 'platform': {'os': 'linux', 'architecture': arch},
                'annotations': {'io.containerd.image.name': name}} for name in names]
    return support.tar([('oci-layout', b'{}'), ('index.json', json.dumps({'manifests': entries}).encode())])


@pytest.fixture(name='running')
def fixture_running(cluster):
    """A cluster that was staged, with a stand-in for K3s on each node that lists images, all of them at first."""
    (cluster.airgap / ARCHIVE).write_bytes(saved(*NAMES))
    (cluster.airgap / 'app.tar').write_bytes(index('registry.example.com:5000/app:2'))
    assert cluster.run('airgap.k3s.stage').rc == 0
    for name in NODES:
        lists(cluster, name, dict.fromkeys((*FULL, 'registry.example.com:5000/app:2'), HERE))
    return cluster


def lists(cluster, name, images, status=0):
    lines = [LIST_HEAD, *(LINE.format(image, '0' * 64, platforms) for image, platforms in images.items()),
             LINE.format('sha256:' + 'a' * 64, 'a' * 64, HERE)]
    text = '\n'.join(lines) if not status else 'ctr: failed to dial "/run/k3s/containerd/containerd.sock": refused'
    cluster.installed(name).write_text(f"""#!/bin/sh
case "$*" in
    --version) echo 'k3s version {NEW} (abcdef12)' ;;
    'ctr images list') cat <<'END'
{text}
END
    exit {status} ;;
esac
""")


def compared(run, name):
    known = run.result(name, 'Compare the images of each host')['k3s_artifact']
    return {row['kind'] + row['dest'].rpartition('/')[2]: row['came'] for row in known['files']}, known['problems']


def test_a_cluster_that_has_imported_everything_passes(running):
    before = {name: running.files(name) for name in NODES}
    run = running.run('airgap.k3s.check', '-e', f'k3s_artifact_report={running.folder}/report')
    assert run.rc == 0 and run.changed() == 0, run.output
    assert compared(run, 'good') == ({f'archive{ARCHIVE}': 'imported', 'archiveapp.tar': 'imported'}, [])
    assert 'What K3s has imported on each host' in run.output
    assert before == {name: running.files(name) for name in NODES}
    report = json.loads((running.folder / 'report.json').read_text())
    assert report['ok']
    assert 'imported' in (running.folder / 'report.md').read_text()


@pytest.mark.parametrize('images, states, said', [
    ({FULL[0]: HERE, FULL[2]: HERE, 'registry.example.com:5000/app:2': HERE}, ('partly', 'imported'),
     f'1 of the 3 images in .*/{ARCHIVE} are missing: {FULL[1]}[.] K3s imports'),
    (dict.fromkeys(FULL, HERE), ('imported', 'not imported'),
     'K3s has not imported .*/app.tar: none of its 1 images is there'),
    ({FULL[0]: f'linux/arm/v7,{HERE}', FULL[1]: 'linux/s390x', FULL[2]: '-', 'registry.example.com:5000/app:2': HERE},
     ('partly', 'imported'),
     rf'there for another platform, not for {HERE}: {FULL[2]} \(no platform\), {FULL[1]} \(linux/s390x\)'),
    ({}, ('not imported', 'not imported'), f'K3s has not imported .*/{ARCHIVE}: none of its 3 images'),
], ids=['one missing', 'archive not imported', 'another platform', 'nothing'])
def test_what_k3s_has_not_imported_is_named_on_its_host_and_in_every_report(running, images, states, said):
    lists(running, 'bad', images)
    run = running.run('airgap.k3s.check', '-e', f'k3s_artifact_report={running.folder}/report')
    assert run.rc != 0 and recap(run)['good']['failed'] == 0 and recap(run)['bad']['failed'] == 1
    found, problems_of_host = compared(run, 'bad')
    assert found == {f'archive{ARCHIVE}': states[0], 'archiveapp.tar': states[1]}
    assert any(re.search(said, problem) for problem in problems_of_host), problems_of_host
    bad = next(row for row in json.loads((running.folder / 'report.json').read_text())['hosts'] if row['host'] == 'bad')
    lost = {name for file in bad['files'] for name in file['missing']}
    assert lost == {*FULL, 'registry.example.com:5000/app:2'} - set(images)
    assert any(re.search(said, problem) for problem in bad['problems'])


def test_what_stands_in_the_way_of_a_comparison_is_a_problem_and_no_silence(running):
    lists(running, 'bad', {}, status=1)
    (running.images('other') / ARCHIVE).write_bytes(b'another')
    (running.images('good') / 'app.tar').unlink()
    run = running.run('airgap.k3s.check')
    problem, = compared(run, 'bad')[1]
    assert 'K3s does not list its images' in problem and 'failed to dial' in problem
    assert compared(run, 'other')[0][f'archive{ARCHIVE}'] == 'not staged'
    assert 'is not the archive' in compared(run, 'good')[1][0] and '(absent)' in compared(run, 'good')[1][0]
    for path in (*running.airgap.glob('*.tar'),):
        path.unlink()
    run = running.run('airgap.k3s.check')
    assert 'there is no image archive for it' in compared(run, 'good')[1][0]


def test_images_without_a_name_are_not_called_imported(running):
    path = running.airgap / 'app.tar'
    path.write_bytes(support.tar([('x.json', json.dumps({'architecture': support.NATIVE, 'os': 'linux'}).encode()),
                                  ('manifest.json', b'[{"Config": "x.json", "RepoTags": null, "Layers": []}]')]))
    for name in NODES:
        (running.images(name) / 'app.tar').write_bytes(path.read_bytes())
    run = running.run('airgap.k3s.check')
    assert run.rc == 0 and compared(run, 'good')[0]['archiveapp.tar'] == 'unknown', run.output
    assert 'app.tar holds images without a name. Its images are not compared.' in json.dumps(run.results)


def test_what_k3s_lists_is_data(running):
    lists(running, 'bad', {"{{lookup('pipe','touch " + str(running.folder / 'mark') + "')}}": '\x1b[2J', FULL[0]: HERE})
    run = running.run('airgap.k3s.check')
    assert run.rc != 0 and not (running.folder / 'mark').exists() and '\x1b' not in run.output


# --- SELinux packages, without a node that has dnf -------------------------------------------------------------------

PACKAGE = 'k3s-selinux-1.6-1.el9.noarch.rpm'


def test_the_folder_of_an_architecture_without_the_packages_is_warned_of(tmp_path):
    for arch, path in support.release(tmp_path / 'airgap', 'amd64', 'arm64', layout='per-arch').items():
        path.rename(tmp_path / 'airgap' / arch / 'k3s')
        (tmp_path / 'airgap' / arch / 'k3s-install.sh').write_text('#!/bin/sh\n')
    (tmp_path / 'airgap' / PACKAGE).write_bytes(b'rpm')
    (tmp_path / 'airgap' / 'bash-5.rpm').write_bytes(b'rpm')
    (tmp_path / 'airgap' / 'amd64' / PACKAGE).symlink_to(f'../{PACKAGE}')
    hosts = {arch: {'k3s_artifact_machine': support.MACHINES[arch], 'k3s_artifact_dir': str(tmp_path / 'airgap')}
             for arch in ('amd64', 'arm64')}
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'ask', 'debug': {'msg': "{{ lookup('k3s_artifact', 'directory') }}"}}]}], hosts=hosts)
    text = ' '.join(run.output.split())
    assert run.rc == 0 and text.count('k3s-ansible takes SELinux packages') == 1, run.output
    # Up to 2.18, a warning is broken into lines, also in the middle of a word.
    said = f'has {PACKAGE}, and {tmp_path}/airgap/arm64 has not'.replace(' ', '')
    assert said in text.replace(' ', '') and 'bash' not in text


@pytest.mark.parametrize('content, manager, said', [
    (b'<html>404</html>', 'dnf', 'is no RPM package. Replace it'), (b'<html>404</html>', None, 'is no RPM package'),
], ids=['dnf', 'no dnf'])
def test_a_package_that_is_none_keeps_every_file_from_every_node(cluster, content, manager, said):
    (cluster.airgap / PACKAGE).write_bytes(content)
    if manager:
        cluster.program(manager, '')
    run = cluster.run('airgap.k3s.stage')
    assert run.rc != 0 and said in ' '.join(run.output.split())
    assert all(cluster.installed(name).read_bytes() == cluster.old for name in NODES)


# --- the whole folder ------------------------------------------------------------------------------------------------


def said_of(cluster, files, listed):
    return (f'No bad file among the {files} in {cluster.airgap}, of which {listed} are in a checksum list that nobody '
            f'vouches for: K3s {NEW}.')


def test_preflight_for_localhost_verifies_the_whole_folder_and_looks_at_no_node(cluster):
    other = next(arch for arch in ('arm64', 'amd64') if arch != support.NATIVE)
    foreign = cluster.airgap / other / 'k3s'
    foreign.parent.mkdir()
    foreign.write_bytes(support.elf(other))
    settings = ('-e', 'k3s_artifact_hosts=localhost', '-e', f'k3s_artifact_dir={cluster.airgap}')
    run = cluster.run('airgap.k3s.preflight', *settings)
    assert run.rc == 0 and said_of(cluster, 4, 0) in run.output, run.output
    assert not any(entry['status'] == 'ok' for entry in run.results if entry['task'].startswith('Look'))
    foreign.write_bytes(b'<html>404</html>')
    (cluster.airgap / 'k3s-install.sh').write_text('<html>404</html>')
    bad = cluster.run('airgap.k3s.preflight', *settings)
    assert bad.rc != 0 and '2 of the files in' in bad.output and f'{other}/k3s is an HTML page' in bad.output


@pytest.mark.parametrize('playbook', ['verify', 'preflight'])
@pytest.mark.parametrize('place', ['variable', 'environment', 'ansible.cfg'])
def test_where_signatures_are_asked_for_a_folder_without_one_is_not_verified(cluster, playbook, place):
    """The settings count as for a host, whichever of their places they stand in."""
    arguments, env = [], {}
    if place == 'variable':
        arguments = ['-e', f'k3s_artifact_dir={cluster.airgap}', '-e', 'k3s_artifact_verify=signed']
    elif place == 'environment':
        env = {'K3S_ARTIFACT_DIR': str(cluster.airgap), 'K3S_ARTIFACT_VERIFY': 'signed',
               'K3S_ARTIFACT_KEYRING': '/nowhere/key.gpg'}
    else:
        (cluster.folder / 'ansible.cfg').write_text(f'[k3s_artifact]\ndir={cluster.airgap}\nverify=signed\n')
        env = {'ANSIBLE_CONFIG': str(cluster.folder / 'ansible.cfg')}
    run = cluster.run(f'airgap.k3s.{playbook}', '-e', 'k3s_artifact_hosts=localhost', *arguments, env=env)
    said = ('k3s_artifact_keyring /nowhere/key.gpg cannot be read' if place == 'environment' else
            f'{cluster.airgap} cannot be verified: k3s_artifact_verify is "signed", and k3s_artifact_keyring is not '
            f'set')
    assert run.rc != 0 and said in ' '.join(run.output.replace('\\"', '"').split()), run.output


def test_a_folder_from_the_environment_that_does_not_exist_is_named(cluster):
    run = cluster.run('airgap.k3s.verify', env={'K3S_ARTIFACT_DIR': '/nowhere'})
    assert run.rc != 0 and "the artifact directory of host 'localhost' does not exist: there is no /nowhere" in (
        ' '.join(run.output.split())), run.output


def test_links_to_folders_are_followed_where_a_folder_is_verified(cluster):
    """As the lookup follows them; a link to a folder that it is in has no end, and nothing new."""
    other = next(arch for arch in ('arm64', 'amd64') if arch != support.NATIVE)
    (cluster.folder / 'elsewhere').mkdir()
    (cluster.folder / 'elsewhere' / 'k3s').write_bytes(support.elf(other))
    (cluster.airgap / other).symlink_to('../elsewhere')
    (cluster.folder / 'elsewhere' / 'back').symlink_to(cluster.airgap)
    settings = ('-e', f'k3s_artifact_dir={cluster.airgap}')
    run = cluster.run('airgap.k3s.verify', *settings)
    assert run.rc == 0 and said_of(cluster, 4, 0) in run.output, run.output
    (cluster.folder / 'elsewhere' / 'k3s').write_bytes(b'')
    bad = cluster.run('airgap.k3s.verify', *settings)
    assert bad.rc != 0 and f'1 of the files in {cluster.airgap} cannot be used: {other}/k3s is empty' in bad.output


@pytest.mark.parametrize('name', ['k3s-{}', f'k3s-{NEW}-{{}}'])
@pytest.mark.parametrize('playbook', ['verify', 'bundle'])
def test_a_file_whose_name_says_an_architecture_is_of_that_one_or_bad(cluster, name, playbook):
    """A copy of one architecture's program under the name of another's is right by its own header, and in the list."""
    other = next(arch for arch in ('arm64', 'amd64') if arch != support.NATIVE)
    wrong = cluster.airgap / name.format(other)
    wrong.write_bytes((cluster.airgap / 'k3s').read_bytes())
    run = cluster.run(f'airgap.k3s.{playbook}', '-e', f'k3s_artifact_dir={cluster.airgap}',
                      '-e', '{"k3s_bundle_download": false}')
    assert run.rc != 0 and f'{wrong.name} is a binary for {support.NATIVE}' in ' '.join(run.output.split()), run.output


def test_what_a_list_of_the_folder_names_is_compared_whoever_releases_it(cluster):
    more = cluster.airgap / 'charts' / 'app.tgz'
    more.parent.mkdir()
    more.write_bytes(b'chart')
    names = sorted(str(path.relative_to(cluster.airgap)) for path in cluster.airgap.rglob('*') if path.is_file())
    (cluster.airgap / 'SHA256SUMS').write_text(''.join(
        f'{support.sha256(cluster.airgap / name)}  {name}\n' for name in names))
    settings = ('-e', f'k3s_artifact_dir={cluster.airgap}')
    good = cluster.run('airgap.k3s.verify', *settings)
    assert good.rc == 0 and said_of(cluster, len(names), len(names)) in good.output, good.output
    more.write_bytes(b'')
    (cluster.airgap / 'k3s-install.sh').unlink()
    bad = ' '.join(cluster.run('airgap.k3s.verify', *settings).output.split())
    assert '2 of the files in' in bad and 'charts/app.tgz is not the listed file: its SHA-256 is' in bad, bad
    assert 'k3s-install.sh is missing, and SHA256SUMS names it' in bad, bad
    (cluster.airgap / 'SHA256SUMS').write_text('<html>')
    assert "SHA256SUMS is not a checksum list: line 1 is '<html>'" in cluster.run('airgap.k3s.verify', *settings).output


def test_preflight_that_reaches_no_node_verifies_the_whole_folder_all_the_same(cluster):
    for name in NODES:
        cluster.hosts[name].update(ansible_connection='ssh', ansible_host='127.0.0.1', ansible_port=1)
    task = 'Verify every file for every architecture, where no node is asked or can be reached'
    run = cluster.run('airgap.k3s.preflight')
    assert run.rc != 0 and any('No bad file among the' in entry['result'].get('msg', '') for entry in run.results
                               if entry['task'] == task)
    (cluster.airgap / 'k3s-install.sh').write_text('<html>404</html>')
    bad = cluster.run('airgap.k3s.preflight')
    assert bad.rc != 0 and 'k3s-install.sh is an HTML page' in bad.output
