# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests import what they share (support, standin) from here, whatever starts pytest: ansible-test brings settings of
its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# There is no usable pytest-ansible for Python 3.9: without it, what it runs is left out.
collect_ignore = [] if importlib.util.find_spec('pytest_ansible') else ['integration/test_adhoc.py']
