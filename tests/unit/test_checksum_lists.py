# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksum lists: the right line for a file, by exact name, in every way that people write them."""

from __future__ import annotations

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')

A, B = 'a1' * 32, 'b2' * 32


@pytest.mark.parametrize(('text', 'expected'), [
    (f'{A}  k3s\n', {'k3s': A}),
    (f'{A}  k3s', {'k3s': A}),
    (f'{A} *k3s\n', {'k3s': A}),
    (f'{A} k3s\n', {'k3s': A}),
    (f'{A}\tk3s\n', {'k3s': A}),
    (f'{A}  ./k3s\n', {'k3s': A}),
    (f'{A}  k3s\r\n{B}  k3s-arm64\r\n', {'k3s': A, 'k3s-arm64': B}),
    (f'{A.upper()}  k3s\n', {'k3s': A}),
    (f'\n# K3s v1.30.0\n\n{A}  k3s   \n', {'k3s': A}),
    (f'{B}  k3s-airgap-images-arm64.tar.zst\n{A}  k3s-arm64\n', {'k3s-airgap-images-arm64.tar.zst': B, 'k3s-arm64': A}),
    (f'{A}  k3s\n{A}  k3s\n', {'k3s': A}),
    (f'{A}  a name with spaces\n', {'a name with spaces': A}),
])
def test_a_list_is_read_as_sha256sum_writes_it(text, expected):
    assert k3s.parse_checksum_list(text) == expected


@pytest.mark.parametrize(('text', 'phrase'), [
    ('', 'is empty'),
    ('\n\n# nothing\n', 'is empty'),
    ('<html>404</html>', "is not a checksum list: line 1 is '<html>404</html>'"),
    (f'{A}  k3s\n{A[:-1]}  k3s-arm64\n', 'is not a checksum list: line 2 is '),
    (f'{A}0  k3s\n', 'is not a checksum list: line 1 is '),
    (f'{A}\n', 'is not a checksum list: line 1 is '),
    (f'{A}k3s\n', 'is not a checksum list: line 1 is '),
    (f'k3s  {A}\n', 'is not a checksum list: line 1 is '),
    (f'{"g1" * 32}  k3s\n', 'is not a checksum list: line 1 is '),
    (f'SHA256 (k3s) = {A}\n', 'is not a checksum list: line 1 is '),
    (f'{A}  k3s\n{B}  k3s\n', "names 'k3s' twice, with different digests"),
    ('\0\x01', "is not a checksum list: line 1 is '\\x00\\x01'"),
])
def test_what_is_no_list_is_refused_with_the_line(text, phrase):
    with pytest.raises(k3s.ArtifactError) as caught:
        k3s.parse_checksum_list(text)
    assert str(caught.value).startswith(phrase)


def expected(folder, arch, *names):
    return k3s.expected_digest(str(folder / 'k3s'), arch, names)


@pytest.mark.parametrize(('lists', 'names', 'found'), [
    ({}, ['k3s'], (None, None)),
    ({'sha256sum-arm64.txt': f'{A}  k3s-arm64'}, ['k3s-arm64', 'k3s'], (A, 'sha256sum-arm64.txt')),
    ({'sha256sum.txt': f'{A}  k3s-arm64'}, ['k3s-arm64', 'k3s'], (A, 'sha256sum.txt')),
    ({'sha256sum.txt': f'{B}  k3s-arm64', 'sha256sum-arm64.txt': f'{A}  k3s-arm64'}, ['k3s-arm64'], (A, 'sha256sum-arm64.txt')),
    ({'sha256sum.txt': f'{B}  k3s-arm64', 'sha256sum-arm64.txt': f'{A}  k3s'}, ['k3s-arm64'], (B, 'sha256sum.txt')),
    ({'sha256sum-amd64.txt': f'{A}  k3s-arm64'}, ['k3s-arm64'], (None, None)),  # the list of another arch
    ({'sha256sum.txt': f'{B}  k3s-arm64.old\n{B}  xk3s-arm64\n{B}  K3S-ARM64'}, ['k3s-arm64'], (None, None)),
    ({'sha256sum.txt': f'{B}  k3s\n{A}  k3s-arm64'}, ['k3s-arm64', 'k3s'], (A, 'sha256sum.txt')),  # the release name comes first
])
def test_the_line_is_found_by_exact_name_in_the_list_of_the_arch_first(tmp_path, lists, names, found):
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    assert expected(tmp_path, 'arm64', *names) == found


@pytest.mark.parametrize(('content', 'phrase'), [
    (b'', 'cannot be verified: the checksum list sha256sum.txt beside it is empty'),
    (b'\xff\xfe\x00', 'cannot be verified: the checksum list sha256sum.txt beside it is not a checksum list: line 1 is '),
    (None, 'cannot be verified: the checksum list sha256sum.txt beside it is a directory, not a file'),
])
def test_a_list_that_cannot_be_read_is_an_error_and_not_a_missing_list(tmp_path, content, phrase):
    if content is None:
        (tmp_path / 'sha256sum.txt').mkdir()
    else:
        (tmp_path / 'sha256sum.txt').write_bytes(content)
    with pytest.raises(k3s.ArtifactError) as caught:
        expected(tmp_path, 'arm64', 'k3s-arm64')
    assert str(caught.value).startswith(phrase)
