# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksum lists: the right line for a file, by exact name, in every way that people write them."""

from __future__ import annotations

import contextlib
import time

import pytest

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')

A, B = 'a1' * 32, 'b2' * 32


SIGNED = """-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

{lines}
-----BEGIN PGP SIGNATURE-----

iHUEARYKAB0WIQ
-----END PGP SIGNATURE-----
"""

LISTS = {
    'as sha256sum writes it': (f'{A}  k3s\n{B}  k3s-arm64\n', {'k3s': A, 'k3s-arm64': B}),
    'without a last line end': (f'{A}  k3s', {'k3s': A}),
    'binary mode': (f'{A} *k3s\n', {'k3s': A}),
    'one blank': (f'{A} k3s\n', {'k3s': A}),
    'tab': (f'{A}\tk3s\n', {'k3s': A}),
    'dot and slash': (f'{A}  ./k3s\n{B} *./k3s-arm64\n', {'k3s': A, 'k3s-arm64': B}),
    'upper case': (f'{A.upper()}  k3s\n', {'k3s': A}),
    'comments and blank lines': (f'\n# K3s v1.30.0\n\n{A}  k3s   \n', {'k3s': A}),
    'the same line twice': (f'{A}  k3s\n{A}  k3s\n', {'k3s': A}),
    'a name with blanks': (f'{A}  a name with spaces\n', {'a name with spaces': A}),
    'absolute path': (f'{A}  /srv/airgap/k3s-arm64\n', {'k3s-arm64': A}),
    'relative path': (f'{A}  dist/artifacts/k3s-arm64\n', {'k3s-arm64': A}),
    'BSD': (f'SHA256 (k3s) = {A}\nSHA256 (dist/k3s-arm64) = {B.upper()}\n', {'k3s': A, 'k3s-arm64': B}),
    'openssl': (f'SHA2-256(k3s)= {A}\nSHA256(dist/k3s-arm64)= {B}\n', {'k3s': A, 'k3s-arm64': B}),
    'a name with a backslash': (f'\\{A}  a\\\\b\\nc\n{B}  k3s\n', {'a\\b\nc': A, 'k3s': B}),
    'BSD, a name with brackets': (f'SHA256 (k3s (1)) = {A}\n', {'k3s (1)': A}),
    'signed in the clear': (SIGNED.format(lines=f'{A}  k3s\n- {B}  -k3s'), {'k3s': A, '-k3s': B}),
    'the name alone before a path': (f'{A}  k3s\n{B}  arm64/k3s\n', {'k3s': A}),
}
ENCODINGS = {'utf-8': '', 'utf-8 with a mark': 'utf-8-sig', 'utf-16 with a mark': 'utf-16', 'utf-16-le': 'utf-16-le',
             'utf-16-be': 'utf-16-be',
             'utf-16-be with a mark': 'utf-16-be', 'latin-1': 'latin-1'}


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'], ids=['lf', 'crlf', 'cr'])
@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('name', LISTS)
def test_a_list_is_read_whoever_wrote_it_and_however_it_is_encoded(name, encoding, end):
    text, expected = LISTS[name]
    data = text.replace('\n', end).encode(ENCODINGS[encoding] or 'utf-8')
    if encoding == 'utf-16-be with a mark':
        data = b'\xfe\xff' + data
    assert k3s.parse_checksum_list(data) == expected


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
    (f'SHA512 (k3s) = {A}{A}\n', 'is not a checksum list: line 1 is '),
    (f'{A}  k3s/\n', "is not a checksum list: line 1 names the folder 'k3s/'"),
    (f'{A}  k3s\n{B}  k3s\n', "names 'k3s' twice, with different digests"),
    (f'{A}  k3s\n{B}  ./k3s\n', "names 'k3s' twice, with different digests"),
    (f'{A}  a/k3s\n{B}  b/k3s\n', "names 'k3s' twice, with different digests"),
    (SIGNED.format(lines=f'{A}  k3s') + f'{B}  k3s-arm64\n',
     'is not signed to its end: line 9 stands behind the signature'),
    (SIGNED.format(lines=f'{A}  k3s')[:150], 'is cut short: the end of its signature is missing'),
    (SIGNED.format(lines=''), 'is empty'),
    ('\0\x01', 'is not a checksum list: line 1 is '),
    (f'{A}  k3s\n' + '#' * (1 << 20), 'is larger than 1 MiB, which no checksum list is'),
])
def test_what_is_no_list_is_refused_with_the_line(text, phrase):
    with pytest.raises(k3s.ArtifactError) as caught:
        k3s.parse_checksum_list(text.encode())
    assert str(caught.value).startswith(phrase)
    assert caught.value.kind == 'list' or phrase == 'is empty'


@pytest.mark.parametrize('line', [' ' * 500_000, '(' * 500_000, 'SHA256 (' + ')' * 500_000,
                                  'SHA256 (' + ') = ' * 120_000, A + ' ' * 500_000, A + '  ' + '/' * 500_000 + 'k',
                                  (A + '  k\n') * 10_000, '- ' * 250_000])
def test_a_list_is_read_in_linear_time(line):
    start = time.monotonic()
    with contextlib.suppress(k3s.ArtifactError):
        k3s.parse_checksum_list(line.encode())
    assert time.monotonic() - start < 2


def expected(folder, arch, *names, file='k3s', root=None):
    return k3s.expected_digest(str(folder / file), arch, names, root and str(root))[:2]


@pytest.mark.parametrize(('lists', 'names', 'found'), [
    ({}, ['k3s'], (None, None)),
    ({'sha256sum-arm64.txt': f'{A}  k3s-arm64'}, ['k3s-arm64', 'k3s'], (A, 'sha256sum-arm64.txt')),
    ({'sha256sum.txt': f'{A}  k3s-arm64'}, ['k3s-arm64', 'k3s'], (A, 'sha256sum.txt')),
    ({'SHA256SUMS': f'{A}  k3s-arm64'}, ['k3s-arm64', 'k3s'], (A, 'SHA256SUMS')),
    ({'k3s.sha256': A.upper() + '\n'}, ['k3s-arm64', 'k3s'], (A, 'k3s.sha256')),
    ({'k3s.sha256': f'{A}  k3s-arm64\n'}, ['k3s-arm64', 'k3s'], (A, 'k3s.sha256')),
    ({'k3s.sha256': f'{A}  k3s-riscv64\n'}, ['k3s-arm64', 'k3s'], (None, None)),
    ({'k3s-arm64.sha256': A}, ['k3s-arm64', 'k3s'], (None, None)),  # the digest of another file
    ({'sha256sum.txt': f'{B}  k3s-arm64', 'sha256sum-arm64.txt': f'{A}  k3s-arm64'}, ['k3s-arm64'],
     (A, 'sha256sum-arm64.txt')),
    ({'sha256sum.txt': f'{B}  k3s-arm64', 'sha256sum-arm64.txt': f'{A}  k3s'}, ['k3s-arm64'], (B, 'sha256sum.txt')),
    ({'sha256sum-amd64.txt': f'{A}  k3s-arm64'}, ['k3s-arm64'], (None, None)),  # the list of another arch
    ({'sha256sum.txt': f'{B}  k3s-arm64.old\n{B}  xk3s-arm64\n{B}  K3S-ARM64\n{B}  k3s-arm64/x'},
     ['k3s-arm64'], (None, None)),
    # the release name comes first
    ({'sha256sum.txt': f'{B}  k3s\n{A}  k3s-arm64'}, ['k3s-arm64', 'k3s'], (A, 'sha256sum.txt')),
    ({'SHA256SUMS': f'{A}  amd64/k3s\n{B}  arm64/k3s\n{B}  k3s'}, ['k3s'], (B, 'SHA256SUMS')),  # of this folder itself
])
def test_the_line_is_found_by_exact_name_in_the_list_of_the_arch_first(tmp_path, lists, names, found):
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    assert expected(tmp_path, 'arm64', *names) == found


@pytest.mark.parametrize(('text', 'found'), [
    (f'{A}  amd64/k3s\n{B}  arm64/k3s\n', (B, 'SHA256SUMS')),
    (f'{A}  ./amd64/k3s\n{B}  ./arm64/k3s\n', (B, 'SHA256SUMS')),
    (f'{A}  /srv/airgap/amd64/k3s\n{B}  /srv/airgap/arm64/k3s\n', (B, 'SHA256SUMS')),
    (f'{A}  amd64/k3s\n', (None, None)),
    (f'{A}  k3s\n', (None, None)),  # the file of that name in the folder above
])
def test_the_list_of_the_artifact_directory_counts_for_its_folders(tmp_path, text, found):
    (tmp_path / 'arm64').mkdir()
    (tmp_path / 'SHA256SUMS').write_text(text)
    assert expected(tmp_path / 'arm64', 'arm64', 'k3s', root=tmp_path) == found
    assert expected(tmp_path / 'arm64', 'arm64', 'k3s') == (None, None)  # only for those of the artifact directory
    assert k3s.expected_digest(str(tmp_path / 'arm64' / 'k3s'), 'arm64', ['k3s'], str(tmp_path))[2] == ['SHA256SUMS']


@pytest.mark.parametrize(('content', 'phrase'), [
    (b'', 'cannot be verified: the checksum list sha256sum.txt beside it is empty'),
    (b'\xff\xfe\x00', 'cannot be verified: the checksum list sha256sum.txt beside it is not a '
     'checksum list: line 1 is '),
    (b'#' * 1_100_000, 'cannot be verified: the checksum list sha256sum.txt beside it is larger than 1 MiB'),
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
