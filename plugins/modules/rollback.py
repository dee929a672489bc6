# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work from the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.1.0"
short_description: Put the K3s binary back that the last upgrade replaced
description:
  - Where C(k3s_artifact_keep_previous) was true at the upgrade, the binary that was replaced lies beside the new one,
    as C(k3s.previous). This puts it back by a rename. Nothing is sent.
  - The playbook C(airgap.k3s.rollback) does it on all hosts or on none.
  - K3s goes on running from the old file until it is restarted. It does not support going back across a change of its
    datastore. To go back to an earlier minor version, its manual asks for a copy or a snapshot of the datastore that
    was made under that version, see U(https://docs.k3s.io/upgrades/roll-back).
options:
  step:
    description:
      - V(look) looks at both binaries of the node, and asks each for its version (C(k3s --version), unless
        C(k3s_artifact_probe=false)). It changes nothing and does not fail. Whatever stands in the way is in
        the problems that it returns.
      - V(place) renames C(k3s.previous) to C(k3s), if it is still the file that V(look) found. What was put back is
        noted beside it, so that a run that is cut off is completed by the next one.
      - V(finish) removes that note, once all hosts are back.
      - V(check) fails on the hosts that have problems in the result of the step before, and on no others.
    type: str
    choices: [look, place, finish, check]
    default: look
  of:
    description:
      - The name of the variable that the step before registered. It is read as it is, and never templated.
      - Required for all steps but V(look).
    type: str
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: posix
notes:
  - The variables C(k3s_artifact_dest), C(k3s_artifact_probe) and C(k3s_artifact_machine) are those of
    M(airgap.k3s.stage).
seealso:
  - module: airgap.k3s.stage
  - module: airgap.k3s.report
"""

EXAMPLES = r"""
- name: Look at what each host goes back to
  airgap.k3s.rollback:
    step: look
  register: looked

- name: Stop if a host cannot go back
  airgap.k3s.rollback:
    step: check
    of: looked

- name: Put the binary back
  airgap.k3s.rollback:
    step: place
    of: looked
  register: placed

- name: Fail where it is not back
  airgap.k3s.rollback:
    step: check
    of: placed

- name: Forget what was noted for a run that is cut off
  airgap.k3s.rollback:
    step: finish
    of: placed
"""

RETURN = r"""
k3s_artifact:
  description: What is known of the host, with the keys that M(airgap.k3s.stage) returns.
  returned: for all steps but V(check)
  type: dict
msg:
  description: All problems of the host.
  returned: for V(step=check), if there are any
  type: str
"""
