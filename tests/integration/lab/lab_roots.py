# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root file systems: one per architecture, made once by mmdebstrap and only read by the nodes."""

import hashlib
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab_system import LabError, home, mount, mounts, run, stage, unmount_all

RECIPE = 2  # raise it when a function below makes a different root
PACKAGES = ('base-files', 'base-passwd', 'bash', 'coreutils', 'dash', 'debianutils', 'diffutils', 'findutils', 'grep',
            'gzip', 'hostname', 'libc-bin', 'mawk', 'mount', 'ncurses-base', 'procps', 'sed', 'tar', 'util-linux',
            'acl', 'curl', 'e2fsprogs', 'libpam-modules', 'python3', 'rsync', 'sudo', 'wget')
LOGIN_SHELLS = {'tcsh': '/usr/bin/tcsh', 'fish': '/usr/bin/fish', 'zsh': '/usr/bin/zsh', 'mksh': '/usr/bin/mksh',
                'yash': '/usr/bin/yash',
                'posh': '/usr/bin/posh'}  # there is a user for each, who has its name; on the amd64 nodes alone
KINDS = {
    'amd64': ('amd64', (*PACKAGES, *LOGIN_SHELLS, 'opendoas', 'libpam-modules-bin', 'passwd')),
    'arm64': ('arm64', PACKAGES),
    'armhf': ('armhf', PACKAGES),
    'busybox': ('amd64', ('busybox-static',)),
    'rpm': ('amd64', (*PACKAGES, 'dnf', 'rpm', 'gnupg')),  # has dnf, and can build and sign packages
}
ADMIN, GUEST = 'admin', 'guest'
USERS = {'root': (0, '/root'), ADMIN: (2001, '/home/admin'), GUEST: (2002, '/home/guest'),
         **{name: (2101 + index, f'/home/{name}') for index, name in enumerate(LOGIN_SHELLS)}}


def prepare(kinds):
    """Makes the roots of these kinds that are missing or out of date, two at a time.

    The one for amd64 comes first, since it helps to make the foreign ones. Returns kind -> root.
    """
    suite, mirror = main_suite()
    stale = [kind for kind in sorted(set(kinds)) if not is_current(kind, suite)]
    if stale and not is_current('amd64', suite):
        build('amd64', suite, mirror)
        stale = [kind for kind in stale if kind != 'amd64']
    with ThreadPoolExecutor(max_workers=2) as pool:
        for made in [pool.submit(build, kind, suite, mirror) for kind in stale]:
            made.result()
    return {kind: root_of(kind, suite) for kind in kinds}


def main_suite():
    """The code name and mirror of the main suite, from apt's own sources.

    The security and updates suites are left out: their indexes of other architectures
    are at times out of step with the main ones.
    """
    wanted = ('--format', '$(CODENAME) $(REPO_URI)', 'Created-By: Packages', 'Component: main', 'Origin: Debian')
    if not run('apt-get', 'indextargets', *wanted).stdout.strip():
        run('apt-get', 'update')
    for line in run('apt-get', 'indextargets', *wanted).stdout.splitlines():
        suite, _space, mirror = line.partition(' ')
        if '-' not in suite:
            return suite, mirror
    raise LabError("apt's sources name no Debian mirror with a main suite, so there is nothing to make the roots from.")


def root_of(kind, suite):
    """Where the root of a kind is or will be."""
    return home() / 'roots' / f'{suite}-{kind}'


def stamp_of(kind, suite):
    """The file that is written once a root is complete."""
    return home() / 'roots' / f'{suite}-{kind}.stamp'


def recipe(kind, suite):
    """A digest of everything that decides what a root contains."""
    facts = [RECIPE, kind, suite, KINDS[kind], USERS, LOGIN_SHELLS]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def is_current(kind, suite):
    """Whether there is a complete root made by today's recipe."""
    stamp = stamp_of(kind, suite)
    return stamp.is_file() and stamp.read_text(encoding='ascii') == recipe(kind, suite) and root_of(kind,
                                                                                                    suite).is_dir()


def build(kind, suite, mirror):
    """Makes one root under a temporary name; only a complete one gets its name and stamp."""
    root, stamp = root_of(kind, suite), stamp_of(kind, suite)
    partial = root.with_name(root.name + '.partial')
    stamp.unlink(missing_ok=True)
    for leftover in (partial, root):
        remove_tree(leftover)
    root.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with stage(f'making the root {root.name}'):
        extract(kind, suite, mirror, partial)
        if kind == 'busybox':
            link_applets(partial)
        else:
            finish_debian(partial)
            compile_library(partial, partial if kind == 'amd64' else root_of('amd64', suite))
        make_directories(partial)
        add_users(partial)
        partial.chmod(0o755)
        partial.rename(root)
        stamp.write_text(recipe(kind, suite), encoding='ascii')


def extract(kind, suite, mirror, target):
    """Unpacks the packages of a kind and what they depend on; nothing of them is run."""
    architecture, packages = KINDS[kind]
    run('mmdebstrap', '--quiet', '--mode=root', '--variant=extract', f'--architectures={architecture}',
        f'--include={",".join(packages)}', '--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr',
        *proxy_options(), suite, target, f'deb {mirror} {suite} main')


def proxy_options():
    """apt's own proxy settings, as options of mmdebstrap, which does not read them."""
    dump = run('apt-config', 'dump', '--format', '%f "%v";%n').stdout.splitlines()
    return [f'--aptopt={line}' for line in dump if line.lower().startswith(('acquire::http::', 'acquire::https::'))]


def finish_debian(root):
    """Does what the packages' own scripts would have done, as far as the nodes need it."""
    (root / 'usr/bin/awk').symlink_to('mawk')
    for name in ('passwd', 'group'):
        shutil.copyfile(root / f'usr/share/base-passwd/{name}.master', root / 'etc' / name)
    permit = 'auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n'
    (root / 'etc/pam.d/sudo').write_text(permit, encoding='ascii')
    for name in ('doas', 'su'):
        (root / f'etc/pam.d/{name}').write_text('auth sufficient pam_rootok.so\nauth required pam_unix.so\n'
                                                'account required pam_permit.so\nsession required pam_permit.so\n',
                                                encoding='ascii')
    rule = root / 'etc/sudoers.d/admin'
    rule.write_text(f'{ADMIN} ALL=(ALL:ALL) NOPASSWD: ALL\n', encoding='ascii')
    rule.chmod(0o440)


def compile_library(root, helper):
    """Compiles the Python library of `root` with the native Python of the root `helper`.

    Otherwise every task on a fresh node would compile what it imports. Compiled files do
    not depend on the architecture, and under qemu this takes ten times as long.
    """
    place = f'/mnt/{root.name}'
    for library in root.glob('usr/lib/python3.*'):
        (helper / place[1:]).mkdir(parents=True, exist_ok=True)
        mount(library, helper / place[1:], bind=True)
        try:
            run('chroot', helper, '/usr/bin/python3', '-m', 'compileall', '-q', '-j2', '-s', place, '-p',
                f'/usr/lib/{library.name}', place)
        finally:
            unmount_all(helper / place[1:])
            (helper / place[1:]).rmdir()


def link_applets(root):
    """Makes an otherwise empty root out of BusyBox alone: links to its applets."""
    for path in run(root / 'bin/busybox', '--list-full').stdout.split():
        link = root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to('/bin/busybox')


def make_directories(root):
    """Makes the directories that every system has, whether a package brings them or not."""
    for directory in ('dev/pts', 'dev/shm', 'etc', 'home', 'mnt', 'proc', 'run', 'sys', 'tmp', 'usr/local/bin',
                      'usr/local/lib', 'usr/local/sbin', 'usr/local/share', 'var/lib', 'var/log', 'var/tmp'):
        (root / directory).mkdir(mode=0o755, parents=True, exist_ok=True)
    for directory in ('dev/shm', 'tmp', 'var/tmp'):
        (root / directory).chmod(0o1777)


def add_users(root):
    """Adds the lab's users to a root, with their homes; none of them has a password in there."""
    entries = {'passwd': '', 'group': '', 'shadow': ''}
    for name, (number, directory) in USERS.items():
        entries['passwd'] += passwd_line(name)
        entries['group'] += f'{name}:x:{number}:\n'
        entries['shadow'] += f'{name}:*:19000:0:99999:7:::\n'
        (root / directory[1:]).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(root / directory[1:], number, number)
    for file, lines in entries.items():
        path = root / 'etc' / file
        others = path.read_text(encoding='utf-8').splitlines(keepends=True) if path.exists() else []
        path.write_text(lines + ''.join(line for line in others if line.split(':')[0] not in USERS), encoding='utf-8')
    (root / 'etc/shadow').chmod(0o640)


def passwd_line(name):
    """A user's line in /etc/passwd, the same on the controller's side and on the node."""
    number, directory = USERS[name]
    return f'{name}:x:{number}:{number}:{name}:{directory}:{LOGIN_SHELLS.get(name, "/bin/sh")}\n'


def remove_tree(path):
    """Removes a directory with all that is in it, immutable files and left-over mounts too."""
    path = Path(path)
    if not path.exists():
        return
    unmount_all(path)
    if mounts(path):
        raise LabError(f'{mounts(path)[0]} cannot be unmounted, so {path} is not removed.')
    try:
        shutil.rmtree(path)
    except PermissionError:
        subprocess.run(['chattr', '-R', '-f', '-i', '-a', str(path)], check=False, stdin=subprocess.DEVNULL)
        shutil.rmtree(path)
