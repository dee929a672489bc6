# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SELinux packages on a node with dnf: real small ones, built and signed with Debian's rpm."""

import pytest

import support

VERSION = 'v1.31.4+k3s1'
SPEC = """\
Name: {name}
Version: {version}
Release: 1.el9
Summary: A test
License: None
BuildArch: noarch
{requires}
%description
A test
%install
mkdir -p %{{buildroot}}/usr/share/test
echo {name} >%{{buildroot}}/usr/share/test/{name}
%files
/usr/share/test/{name}
"""
BUILD = """
set -e
cd /root
gpg --batch --quiet --passphrase '' --quick-generate-key {key}@example.com rsa2048 sign never
gpg --armor --export {key}@example.com >{key}.asc
for spec in *.spec; do rpmbuild -bb --quiet --define '_topdir /root/build' $spec; done
mkdir -p unsigned signed
find build -name '*.rpm' -exec cp {{}} unsigned \\;
mv unsigned/* signed/ && cp signed/* unsigned/
rpmsign --define '__gpg /usr/bin/gpg' --define '_gpg_name {key}@example.com' --addsign signed/*.rpm >/dev/null
rm -rf build *.spec
"""
PACKAGES = {'selinux-policy': ('38.1', ''), 'container-selinux': ('2.232', 'Requires: selinux-policy >= 38'),
            'k3s-selinux': ('1.6', 'Requires: container-selinux >= 2.107')}


@pytest.fixture(name='packages', scope='module')
def fixture_packages(extra_nodes, tmp_path_factory):
    """A folder with the packages, signed and unsigned, and two public keys, one of which signed them."""
    node, = extra_nodes('rpm')
    for name, (version, requires) in PACKAGES.items():
        node.path(f'/root/{name}.spec').write_text(SPEC.format(name=name, version=version, requires=requires))
    node.run(BUILD.format(key='good'))
    node.run("gpg --batch --quiet --passphrase '' --quick-generate-key other@example.com rsa2048 sign never;"
             'gpg --armor --export other@example.com >/root/other.asc')
    folder = tmp_path_factory.mktemp('packages')
    for place in ('signed', 'unsigned'):
        (folder / place).mkdir()
        for path in node.path(f'/root/{place}').iterdir():
            (folder / place / path.name).write_bytes(path.read_bytes())
    for key in ('good.asc', 'other.asc'):
        (folder / key).write_bytes(node.path(f'/root/{key}').read_bytes())
    assert len(list((folder / 'signed').iterdir())) == 3
    node.reset()
    return folder


@pytest.fixture(name='site_of_rpm')
def fixture_site_of_rpm(tmp_path, lab, extra_nodes, packages, amd64):
    """A function that stages a node with dnf and one without; the node with dnf; the artifact directory."""
    node, = extra_nodes('rpm')
    airgap = tmp_path / 'airgap'
    lab.release(airgap, version=VERSION, size=2_000_000, images_size=1000, arches=['amd64'])
    inventory = lab.inventory(tmp_path / 'inventory.yml', [node, amd64])

    def stage(*arguments, playbook='airgap.k3s.stage', kind='signed', left_out=(), key='good.asc'):
        for path in airgap.glob('*.rpm'):
            path.unlink()
        for path in (packages / kind).iterdir():
            if not path.name.startswith(left_out or 'nothing'):
                (airgap / path.name).write_bytes(path.read_bytes())
        chosen = ('-e', f'k3s_artifact_rpm_key={packages / key}') if key else ()
        return support.play(tmp_path, playbook, '-e', f'k3s_artifact_dir={airgap}', '-e', 'k3s_artifact_hosts=all',
                            *chosen, *arguments, hosts=inventory, home='collection')
    return stage, node, airgap


def installed(node):
    return sorted(node.run("rpm -qa --qf '%{NAME}\\n'").stdout.split())


def test_selinux_packages_are_installed_with_their_signature_checked_before_k3s_is_in_place(site_of_rpm, amd64):
    stage, node, airgap = site_of_rpm
    looked = stage(playbook='airgap.k3s.preflight')
    assert looked.rc == 0 and looked.changed() == 0, looked.output
    rows = looked.result('rpm', 'Look at what each host gets')['k3s_artifact']['files']
    found = {row['source'].rpartition('/')[2]: (row['installed'], row['action'], row['version'])
             for row in rows if row['kind'] == 'package'}
    assert found == {f'{name}-{version}-1.el9.noarch.rpm': ('absent', 'install', f'{version}-1.el9')
                     for name, (version, _requires) in PACKAGES.items()}
    assert 'package' not in {row['kind'] for row in looked.result('amd64', 'Look at what each host gets')[
        'k3s_artifact']['files']}
    assert 'k3s-selinux-1.6-1.el9.noarch.rpm' in looked.output.replace('…', '') or 'selinux' in looked.output
    assert not node.path('/var/cache/k3s-artifact').exists()

    run = stage()
    assert run.rc == 0, run.output
    assert set(PACKAGES) <= set(installed(node))
    assert node.path('/usr/share/test/k3s-selinux').read_text() == 'k3s-selinux\n'
    assert not node.path('/var/cache/k3s-artifact').exists()
    for each in (node, amd64):
        assert each.run('/usr/local/bin/k3s --version').stdout.startswith(f'k3s version {VERSION}')
    came = {row['kind']: row['came'] for row in run.result('rpm', 'Put everything in place')['k3s_artifact']['files']}
    assert came['package'] == 'pushed'
    again = stage()
    assert again.rc == 0 and again.changed() == 0, again.output
    without_key = stage(key=None)
    assert without_key.rc == 0, without_key.output  # nothing is to be installed


def test_a_folder_of_installed_packages_that_stays_behind_is_told_of(site_of_rpm):
    stage, node, _airgap = site_of_rpm
    program = node.path('/usr/local/bin/rm')
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\ncase $* in *cache/k3s-artifact) echo busy >&2; exit 1 ;; esac\nexec /bin/rm "$@"\n')
    program.chmod(0o755)
    run = stage()
    assert run.rc == 0 and set(PACKAGES) <= set(installed(node)), run.output
    assert 'the packages are installed, and /var/cache/k3s-artifact cannot be removed: busy' in ' '.join(
        run.output.split())


def test_a_node_without_python_is_told_of_before_anything_is_sent(site_of_rpm, amd64):
    stage, node, _airgap = site_of_rpm
    for path in node.path('/usr/bin').glob('python3*'):
        path.unlink()
    run = stage()
    said = 'packages are installed with Python, and the node has none (container-selinux, k3s-selinux, selinux-policy)'
    assert run.rc != 0 and said in ' '.join(run.output.split()), run.output
    assert not any(path.exists() for each in (node, amd64) for path in (each.path('/usr/local/bin/k3s'),
                                                                        each.path('/var/cache/k3s-artifact')))


@pytest.mark.parametrize('options, said', [
    ({'key': None}, 'container-selinux, k3s-selinux, selinux-policy are to be installed, and k3s_artifact_rpm_key is '
                    'not set'),
    ({'key': 'other.asc'}, 'Failed to validate GPG signature'),
    ({'kind': 'unsigned'}, 'the package is not signed, so nobody vouches for it'),
    ({'left_out': ('selinux-policy',)}, 'nothing provides selinux-policy >= 38'),
], ids=['no key', 'another key', 'unsigned', 'a dependency is missing'])
def test_packages_that_cannot_be_installed_keep_k3s_from_every_node(site_of_rpm, amd64, options, said):
    stage, node, _airgap = site_of_rpm
    run = stage(**options)
    assert run.rc != 0 and said in ' '.join(run.output.replace('\\n', ' ').split()), run.output
    assert 'k3s-selinux' not in installed(node)
    for each in (node, amd64):
        assert not each.path('/usr/local/bin/k3s').exists()
    again = stage()
    assert again.rc == 0 and set(PACKAGES) <= set(installed(node)), again.output


def test_packages_that_cannot_be_installed_keep_k3s_from_that_node_alone_where_each_is_for_itself(site_of_rpm, amd64):
    stage, node, _airgap = site_of_rpm
    run = stage('-e', 'k3s_artifact_keep_going=true', key='other.asc')
    assert run.rc != 0, run.output
    problem, = run.result('rpm', 'Put everything in place')['k3s_artifact']['problems']
    assert 'its SELinux packages are not installed' in problem and 'Failed to validate GPG signature' in problem
    assert not node.path('/usr/local/bin/k3s').exists() and 'k3s-selinux' not in installed(node)
    assert amd64.run('/usr/local/bin/k3s --version').stdout.startswith(f'k3s version {VERSION}')
    again = stage()
    assert again.rc == 0 and set(PACKAGES) <= set(installed(node)), again.output
