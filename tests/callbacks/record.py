# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write every result of a run to a file, so that tests read data and not the terminal."""

from __future__ import annotations

DOCUMENTATION = r"""
name: record
type: aggregate
short_description: Write every result as a line of JSON
description: For the tests of this project. The file is named in the environment variable RECORD_FILE.
"""

import json
import os

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = 'aggregate'
    CALLBACK_NAME = 'record'
    CALLBACK_NEEDS_ENABLED = True

    def _record(self, status, result, item=False):
        # ansible-core up to 2.18 has the attributes with an underscore only
        host, task, data = (getattr(result, name, None) or getattr(result, '_' + name)
                            for name in ('host', 'task', 'result'))
        entry = {'host': host.get_name(), 'task': task.get_name(), 'status': status, 'item': item, 'result': dict(data)}
        with open(os.environ['RECORD_FILE'], 'a', encoding='utf-8') as file:
            file.write(json.dumps(entry, default=str) + '\n')

    def v2_runner_on_ok(self, result):
        self._record('ok', result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._record('failed', result)

    def v2_runner_on_skipped(self, result):
        self._record('skipped', result)

    def v2_runner_on_unreachable(self, result):
        self._record('unreachable', result)

    def v2_runner_item_on_ok(self, result):
        self._record('ok', result, item=True)

    def v2_runner_item_on_failed(self, result):
        self._record('failed', result, item=True)

    def v2_runner_item_on_skipped(self, result):
        self._record('skipped', result, item=True)
