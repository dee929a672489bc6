# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: copy
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.0.0"
short_description: Copy files to nodes, and to each node the K3s binary that is right for it
description:
  - Takes the place of M(ansible.builtin.copy). A task that copies a K3s binary or an image archive to where K3s has it
    is staged. Every other task does what M(ansible.builtin.copy) does, to the letter.
  - A task is staged as a binary if the file name of O(src) is that of a K3s binary (C(k3s), C(k3s-arm64), C(k3s-armhf),
    C(k3s-s390x), C(k3s-riscv64), or one in the variable C(k3s_binary_map)), and O(dest) is absent, is the install path
    C(/usr/local/bin/k3s) or its directory, or the file is an ELF executable.
  - The lookup P(airgap.k3s.k3s_artifact#lookup) then finds and verifies the file for the node. The file that O(src)
    names is taken if it is right for the node, else the right one beside it, else the one in the artifact directory.
  - The file always goes to the install path, with a warning where O(dest) is another one. The variable
    C(k3s_artifact_dest) moves the install path on purpose.
  - An image archive on its way to C(/var/lib/rancher/k3s/agent/images/) is skipped for a node of another architecture.
  - With C(delegate_to), the node that gets the file decides. Without facts, the node is asked (C(uname -m)). Facts that
    are not what the node itself says are an error, unless the variable C(k3s_artifact_machine) is set.
  - What is on the node already is left alone. Otherwise the file is sent to a partial file beside its destination,
    compared with the digest that was verified, run once as C(k3s --version), and renamed. What was there before stays
    until then. An interrupted transfer is continued by the next run.
  - The variable C(k3s_artifact_probe) set to V(false) leaves out running the new binary.
options:
  src:
    description:
      - The file on the controller, as for M(ansible.builtin.copy).
      - For a binary it may be any file name of a K3s release. It need not exist if the right file is beside it.
    type: path
  dest:
    description:
      - The path on the node, as for M(ansible.builtin.copy).
      - For a binary it may be left out.
    type: path
  content:
    description: See M(ansible.builtin.copy).
    type: str
  mode:
    description: The permissions of the file. For a binary they are 0755 unless the task says otherwise.
    type: raw
  owner:
    description: See M(ansible.builtin.copy).
    type: str
  group:
    description: See M(ansible.builtin.copy).
    type: str
  backup:
    description: See M(ansible.builtin.copy). This and the following options are left to its code, which needs Python on
      the node.
    type: bool
    default: false
  force:
    description: See M(ansible.builtin.copy).
    type: bool
    default: true
  validate:
    description: See M(ansible.builtin.copy).
    type: str
  checksum:
    description: See M(ansible.builtin.copy). The SHA-1 digest of the file.
    type: str
  remote_src:
    description: See M(ansible.builtin.copy). A file that is on the node already is never staged.
    type: bool
    default: false
  follow:
    description: See M(ansible.builtin.copy).
    type: bool
    default: false
  local_follow:
    description: See M(ansible.builtin.copy).
    type: bool
    default: true
  directory_mode:
    description: See M(ansible.builtin.copy).
    type: raw
  decrypt:
    description: See M(ansible.builtin.copy).
    type: bool
    default: true
  attributes:
    description: See M(ansible.builtin.copy).
    type: str
    aliases: [attr]
  seuser:
    description: See M(ansible.builtin.copy).
    type: str
  serole:
    description: See M(ansible.builtin.copy).
    type: str
  setype:
    description: See M(ansible.builtin.copy).
    type: str
  selevel:
    description: See M(ansible.builtin.copy).
    type: str
  unsafe_writes:
    description: See M(ansible.builtin.copy).
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: full
    details: For a staged file the difference is that of digest, size and mode.
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: posix
notes:
  - A staged file needs a POSIX shell with coreutils or BusyBox on the node, and no Python.
  - Loose, in a folder C(action_plugins/), this plugin is reached by C(copy) and C(ansible.legacy.copy), never by
    C(ansible.builtin.copy).
  - A value of C(module_defaults) for C(ansible.builtin.copy) goes on applying to C(copy).
seealso:
  - module: ansible.builtin.copy
  - plugin: airgap.k3s.k3s_artifact
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Put the right K3s binary on every node
  airgap.k3s.copy:
    src: /srv/airgap/k3s
    dest: /usr/local/bin/k3s
    owner: root
    group: root
    mode: "0755"
  become: true

- name: Put the image archives for each node's architecture on it
  airgap.k3s.copy:
    src: "{{ item }}"
    dest: /var/lib/rancher/k3s/agent/images/
    mode: "0644"
  with_fileglob:
    - /srv/airgap/*.tar.zst
  become: true
"""

RETURN = r"""
dest:
  description: The path on the node.
  returned: success
  type: str
  sample: /usr/local/bin/k3s
checksum:
  description: SHA-1 digest of the file, as M(ansible.builtin.copy) returns it.
  returned: success
  type: str
  sample: 6e642bb8dd5c2e027bf21dd923337cbb4214f827
mode:
  description: Permissions of the file.
  returned: success
  type: str
  sample: "0755"
owner:
  description: Owner of the file.
  returned: when the file is there
  type: str
  sample: root
group:
  description: Group of the file.
  returned: when the file is there
  type: str
  sample: root
size:
  description: Size of the file in bytes.
  returned: success
  type: int
  sample: 68157440
state:
  description: Always V(file).
  returned: success
  type: str
  sample: file
k3s_artifact:
  description: What was chosen for the node, for a task that was staged.
  returned: when the task is staged
  type: dict
  contains:
    machine:
      description: What the node calls itself.
      type: str
      sample: aarch64
    arch:
      description: The name that K3s has for it.
      type: str
      sample: arm64
    source:
      description: Absolute path of the file on the controller.
      type: str
      sample: /srv/airgap/arm64/k3s-arm64
    size:
      description: Size of the file in bytes.
      type: int
      sample: 68157440
    sha256:
      description: SHA-256 digest of the file.
      type: str
      sample: 0c043f8f77dbeee3c4b51aa54811506b28c7b74401710468dccbf0f396ac0f93
    verified:
      description: How the file was verified on the controller, C(ELF header) and the name of a checksum list. Empty
        without verification.
      type: list
      elements: str
      sample: [ELF header, sha256sum-arm64.txt]
    installed:
      description: What was at the destination before, V(absent), V(same), V(different), V(wrong architecture), V(link),
        ...
      type: str
      sample: absent
    version:
      description: The version that the new binary printed on the node, where it was run.
      type: str
      sample: v1.31.4+k3s1
skip_reason:
  description: Why an image archive is not for the node.
  returned: when skipped
  type: str
  sample: k3s-airgap-images-amd64.tar.zst is for amd64, pi1 is arm64
"""
