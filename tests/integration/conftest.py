# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for nodes behind the stand-in for ssh."""

from __future__ import annotations

import os

import pytest

import support
from standin import Standin

SIZE = 5 << 20  # bytes, so that a transfer can be cut and continued


@pytest.fixture(name='release')
def fixture_release(tmp_path):
    """The binaries of an artifact directory by arch; that of this machine runs, and has five megabytes."""
    paths = support.release(tmp_path / 'airgap', lists=False)
    paths[support.NATIVE].write_bytes(support.program(body=os.urandom(SIZE)))
    return paths


@pytest.fixture(name='standin')
def fixture_standin(tmp_path, release):
    return Standin(tmp_path)
