# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: report
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.0.0"
short_description: Show what each host gets, or got, as one table, JSON and Markdown
description:
  - Takes what a task registered on each host of the play, and makes one report of it. Runs on the controller, once for
    all hosts.
  - A callback that writes text for people (V(default), V(debug), V(yaml), V(dense), V(unixy), ...) shows the table as
    lines of at most 100 columns. For every other one, such as V(json), V(minimal) or that of ansible-runner, the same
    is in the result only.
  - A host that the play has lost, or that has no result, is a problem in the report. Whether the play goes on is for
    the playbook to decide, by RV(problems).
options:
  of:
    description:
      - The name of the variable that a task of M(airgap.k3s.stage) registered on each host.
      - Required unless O(check_only=true). It is read as it is, and never templated.
    type: str
  path:
    description:
      - Where the report is also written, as C(<path>.json) and C(<path>.md), with mode 0600. The suffix C(.json) or
        C(.md) may be left in the name. Empty means that no file is written.
      - The folder has to be there. A relative path starts at the folder from which Ansible was started.
    type: str
    default: ''
  title:
    description: What stands above the report.
    type: str
    default: K3s artifacts
  hosts:
    description:
      - The pattern that the play is for. With O(check_only=true), an inventory without any host is an error, unless the
        pattern is V(localhost). Ansible itself warns, does nothing, and succeeds.
    type: str
    default: ''
    version_added: "1.1.0"
  check_only:
    description:
      - Only find out whether a report can be written to O(path), and fail if not. Meant for the start of a play.
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details: The files of the report are written in check mode, too.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
  bypass_host_loop:
    description: Forces a 'global' task that does not execute per host.
    support: full
    details: C(run_once=true) is needed all the same where the result is used on other hosts than the first. The
      strategy V(free) refuses such a task.
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: posix
seealso:
  - module: airgap.k3s.stage
"""

EXAMPLES = r"""
- name: Find out whether the report can be written
  airgap.k3s.report:
    path: /var/tmp/k3s-report
    check_only: true
  run_once: true

- name: Look at what each host gets
  airgap.k3s.stage:
  check_mode: true
  register: looked

- name: Report on all hosts
  airgap.k3s.report:
    of: looked
    path: /var/tmp/k3s-report
    title: What each host gets
  register: reported
  run_once: true

- name: Stop if a host cannot be served
  ansible.builtin.fail:
    msg: "{{ reported.problems[inventory_hostname] }}"
  when: inventory_hostname in reported.problems
"""

RETURN = r"""
msg:
  description: The report in one line.
  returned: unless O(check_only=true)
  type: str
  sample: 1 host of 3 with problems, 130.0 MB to send.
table:
  description: The lines of the table.
  returned: unless O(check_only=true)
  type: list
  elements: str
problems:
  description: Sentences by host, for the hosts that have problems.
  returned: unless O(check_only=true)
  type: dict
  sample: {pi1: ['pi1 is unreachable: No route to host']}
hosts:
  description:
    - What is known of each host, in the order of the inventory. The page C(docs/report.md) names the fields.
    - What is not printable is written as Python does, C(\\x1b).
  returned: unless O(check_only=true)
  type: list
  elements: dict
"""
