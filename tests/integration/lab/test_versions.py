# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The release is read from real Go programs, built as K3s builds its launcher: static, stripped, with a large embedded
file."""

from __future__ import annotations

import os
import subprocess

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')

MEGABYTE = 1 << 20
ARCHES = {'amd64': [], 'arm64': [], 'arm': ['GOARM=7'], 's390x': [], 'riscv64': []}
# Other versions are in it as K3s has them: of components (with a dash), and in texts that stand directly before others.
MAIN = '''package main

import (
\t_ "embed"
\t"fmt"
\t"os"
)

var (
\tVersion    = "dev"
\tGitVersion = "dev"
\tContainerd = "dev"
)

//go:embed data
var data []byte

func main() {
\tif len(os.Args) > 5 {
\t\tfmt.Println("see v1.21.0+k3s1", "upgrade from v1.20.15+k3s", "1v1.19.1", Containerd, GitVersion)
\t}
\tfmt.Printf("k3s version %s %d\\n", Version, len(data))
}
'''


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A Go program that says its version, with 50 MB of embedded noise."""
    folder = tmp_path_factory.mktemp('go')
    (folder / 'main.go').write_text(MAIN)
    (folder / 'go.mod').write_text('module example.invalid/k3s\n\ngo 1.18\n')
    (folder / 'data').write_bytes(os.urandom(50 * MEGABYTE))
    return folder


def build(source, arch, version, *environment):
    path = source / f'k3s-{arch}-{version}'
    flags = (f'-X main.Version={version} -X main.GitVersion={version} -X main.Containerd=v1.7.23-k3s2 '
             '-w -s -extldflags -static')
    variables = dict(entry.split('=') for entry in environment)
    subprocess.run(['go', 'build', '-ldflags', flags, '-o', path], cwd=source, check=True, env={
        **os.environ, 'CGO_ENABLED': '0', 'GOOS': 'linux', 'GOARCH': arch, 'GOFLAGS': '-mod=mod', 'GOPROXY': 'off',
        'GOTOOLCHAIN': 'local', **variables})
    return path


@pytest.mark.parametrize('version', ['v1.31.4+k3s1', 'v1.32.0-rc2+k3s12'])
@pytest.mark.parametrize('arch', ARCHES)
def test_the_release_is_read_from_a_program_that_is_built_as_k3s_is(source, arch, version):
    path = build(source, arch, version, *ARCHES[arch])
    host = k3s.resolve_host('node', support.MACHINES[arch], {})
    artifact = k3s.verified_binary(str(path), host, 'auto', version)
    assert artifact.version == version
    with pytest.raises(k3s.ArtifactError, match='but k3s_version is'):
        k3s.verified_binary(str(path), host, 'auto', 'v1.31.5+k3s1')
    if arch == support.NATIVE:
        said = subprocess.run([path], check=True, capture_output=True, text=True).stdout
        assert said == f'k3s version {version} {50 * MEGABYTE}\n'
    path.unlink()


def test_a_program_of_another_system_is_refused(source):
    path = build(source, 'amd64', 'v1.31.4+k3s1', 'GOOS=freebsd')
    host = k3s.resolve_host('node', 'x86_64', {})
    with pytest.raises(k3s.ArtifactError, match='is a binary for FreeBSD, not for Linux'):
        k3s.verified_binary(str(path), host, 'auto')
    path.unlink()


def test_a_position_independent_program_is_one_and_a_library_is_none(source):
    host = k3s.resolve_host('node', support.MACHINES[support.NATIVE], {})
    (source / 'main.c').write_text('int main(void) { return 0; }\nconst char *version = "v1.31.4+k3s1";\n')
    for flags, right in ((['-static-pie'], True), (['-pie'], True),
                         (['-shared', '-fPIC', '-Wl,-soname,libk3s.so'], False), (['-shared', '-fPIC'], None)):
        subprocess.run(['gcc', *flags, '-o', source / 'program', source / 'main.c'], check=True)
        if right:
            assert k3s.verified_binary(str(source / 'program'), host, 'auto').version == 'v1.31.4+k3s1'
        elif right is False:
            with pytest.raises(k3s.ArtifactError, match='is a shared library'):
                k3s.verified_binary(str(source / 'program'), host, 'auto')
