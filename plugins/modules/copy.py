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
  - Takes the place of M(ansible.builtin.copy). A task that copies a K3s binary, its install script or an image archive
    to where K3s has it is staged. Every other task does what M(ansible.builtin.copy) does, to the letter.
  - >-
    A task is staged if it has O(src), and neither O(content) nor O(remote_src), and one of the following rules holds,
    the first that does. A C(template) or C(assemble) that copies inside is never staged. The install path is
    C(/usr/local/bin/k3s), unless the variable C(k3s_artifact_dest) moves it.
  - >-
    It is a binary if O(dest) is the install path or C(/usr/local/bin/k3s), however that is written, whatever O(src) is
    called.
  - >-
    It is a binary if O(src) has the name of a K3s binary (C(k3s), C(k3s-arm64), C(k3s-armhf), C(k3s-s390x),
    C(k3s-riscv64), C(k3s-<arch>) as k3s-ansible writes it, or a name in the variable C(k3s_binary_map)), and O(dest) is
    absent or the folder of the install path.
  - >-
    It is a binary if O(src) is an ELF executable, O(dest) ends in the file name of the install path, and the folder of
    O(dest) leads to that of the install path by a link on the node.
  - >-
    It is a binary if O(src) has the name of a K3s binary and is an ELF executable, and O(dest) is anywhere else. The
    file goes to the install path all the same, with a warning.
  - >-
    It is the install script if O(src) is a file C(k3s-install.sh) and O(dest) is the folder of the install path or
    C(k3s-install.sh) in it.
  - >-
    It is an image archive if O(src) is a file with a suffix that K3s imports (C(.tar), C(.tar.zst), C(.tar.gz),
    C(.tar.bz2), C(.tar.lz4), C(.tzst), C(.tgz), C(.tbz)) and O(dest) is in the folder C(k3s_artifact_images_dest) or in
    a folder whose path ends in C(/agent/images).
  - The lookup P(airgap.k3s.k3s_artifact#lookup) verifies the file on the controller before anything is sent, and for a
    binary it finds the right one. The file that O(src) names is taken if it is right for the node. Else the right one
    beside it is taken, by the name of the release or by its own name with the architecture of the node in it
    (C(k3s-v1.31.4+k3s1-arm64) for C(k3s-v1.31.4+k3s1-amd64)), else the one in the artifact directory. Else the task
    fails and what was on the node stays.
  - An image archive for another architecture is skipped, and so is one that a loop over C(with_fileglob) hands over in
    a better compression too, that C(k3s_artifact_images) leaves out, or that holds no images (a chart, sources).
  - With C(delegate_to), the node that gets the file decides. Without facts, the node is asked (C(uname -m)). Facts that
    are not what the node itself says are an error, unless the variable C(k3s_artifact_machine) is set.
  - One command looks at the node and a plan follows from what it says. Where something would stop the task, it fails
    then, also in check mode. What is on the node already is left alone. An older K3s that is to replace a newer one is
    an error, unless C(k3s_artifact_downgrade) is true; for that the K3s that is there is asked for its version where it
    is another file.
  - Otherwise the file is sent to a partial file on the file system of its destination, compared with the digest that
    was verified, run once as C(k3s --version) (binary only, 20 seconds at most, not with C(k3s_artifact_probe=false)),
    and renamed when it is on the disk. What was there before stays until then. An interrupted transfer is continued, by
    the same run as often as the C(retries) of the connection say, else by the next one.
  - >-
    With the variable C(k3s_artifact_url), the address of a web server that serves the artifact directory, the node
    first fetches what is missing itself, from its path below the artifact directory, with C(curl) or C(wget) and into
    the same partial file. The digest is that of the controller, so neither the server nor the way to it is trusted.
    No redirect is followed (by wget of BusyBox, which cannot do otherwise, it is). What sends less than 320 KiB in 20
    seconds is given up. What has not come, or is another file, is sent as without such a server, with a warning, or is
    an error with C(k3s_artifact_url_only=true). C(k3s_artifact_url_username) with C(k3s_artifact_url_password), and
    C(k3s_artifact_url_headers), a dictionary, never are in an argument of a program nor in a log. wget of BusyBox can
    only take them as arguments, so with them it fetches nothing. C(k3s_artifact_url_ca_path) is a file on the node,
    C(k3s_artifact_url_proxy) an address, or V(false) for no proxy. C(k3s_artifact_rate) limits each transfer, fetched
    or sent as a stream, to as many bytes in a second (C(500k), C(2M)).
  - >-
    Every byte that is sent goes through the connection of the task. There are three ways. Over ansible-core's own
    ssh the file is a stream, with progress on standard error after five seconds, without compression, over a
    connection of its own unless the user chose one (C(ControlPath), C(ControlMaster), a forwarding). Where the
    connection plugin is another one, become needs a terminal, or there is no stream to the node, it goes by the
    plugin's C(put_file), and the rest is the same. With options that only ansible-core's copy has (see O(backup)),
    with a symbolic O(mode), or where the task becomes an unprivileged user, ansible-core's copy does
    the rest; it compares SHA-1 digests, does not try the binary, and needs Python on the node.
options:
  src:
    description:
      - The file on the controller, as for M(ansible.builtin.copy).
      - For a binary it need not exist if the right file is beside it or in the artifact directory.
    type: path
  dest:
    description:
      - The path on the node, as for M(ansible.builtin.copy).
      - For a binary under one of K3s's names it may be left out.
    type: path
  content:
    description: See M(ansible.builtin.copy).
    type: str
  mode:
    description:
      - The permissions of the file. For a binary and the install script they are 0755, for an image archive 0644,
        unless the task says otherwise.
    type: raw
  owner:
    description: See M(ansible.builtin.copy).
    type: str
  group:
    description: See M(ansible.builtin.copy).
    type: str
  backup:
    description:
      - See M(ansible.builtin.copy).
      - A task that sets this to V(true), or any of O(force), O(follow), O(unsafe_writes) to something else than the
        default, or one of O(validate), O(checksum), O(attributes), O(seuser), O(serole), O(setype), O(selevel) at all,
        is left to its code, which needs Python on the node.
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
  - A staged file needs a POSIX shell with coreutils and find, or BusyBox, on the node, and no Python.
  - >-
    Variables of the host that are read here are C(k3s_artifact_dest), C(k3s_artifact_images_dest),
    C(k3s_artifact_probe), C(k3s_artifact_downgrade), C(k3s_artifact_keep_previous), C(k3s_artifact_rate) and the
    C(k3s_artifact_url) and those that begin with it. The lookup reads C(k3s_artifact_dir), C(airgap_dir),
    C(k3s_artifact_machine), C(k3s_binary_map), C(k3s_artifact_verify), C(k3s_artifact_keyring), C(k3s_artifact_images)
    and C(k3s_version). A fact of the node with such a name is an error.
  - C(k3s_artifact_probe=false) leaves out both runs of K3s on the node, also the one that tells whether the node has a
    newer K3s.
  - C(k3s_artifact_keep_previous=true) leaves the binary that is replaced beside the new one, as C(k3s.previous), by a
    hard link. The playbook C(airgap.k3s.rollback) puts it back. A task that ansible-core's copy carries out is an error
    then, for that keeps none.
  - Loose, in a folder C(action_plugins/), this plugin is reached by C(copy) and C(ansible.legacy.copy), never by
    C(ansible.builtin.copy). Under any other name that leads to it (a renamed file, C(plugin_routing), the keyword
    C(collections)) it does the same.
  - A value of C(module_defaults) for C(ansible.builtin.copy) goes on applying to C(copy).
  - What a node says is cut, its control characters are shown as text, and it is marked as unsafe, so that no template
    in it is ever evaluated.
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
uid:
  description: Number of its owner.
  returned: when the file is there
  type: int
  sample: 0
gid:
  description: Number of its group.
  returned: when the file is there
  type: int
  sample: 0
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
  description:
    - What was chosen for the node, and what was found on it and done. Of a task that was skipped or failed only what
      was known by then.
  returned: when the task is staged
  type: dict
  contains:
    machine:
      description: What the node calls itself.
      returned: when it is known
      type: str
      sample: aarch64
    arch:
      description: The name that K3s has for it.
      returned: when it is known
      type: str
      sample: arm64
    source:
      description: Absolute path of the file on the controller.
      returned: success or skipped
      type: str
      sample: /srv/airgap/arm64/k3s-arm64
    size:
      description: Size of the file in bytes.
      returned: success
      type: int
      sample: 68157440
    sha256:
      description: SHA-256 digest of the file.
      returned: success
      type: str
      sample: 0c043f8f77dbeee3c4b51aa54811506b28c7b74401710468dccbf0f396ac0f93
    verified:
      description:
        - How the file was verified on the controller. C(ELF header) for a binary, C(images) for an archive that was
          looked into, and the name of a checksum list. Empty without verification.
      returned: success
      type: list
      elements: str
      sample: [ELF header, sha256sum-arm64.txt]
    version:
      description:
        - The release of K3s. It is read from the binary on the controller; where the binary was tried, it is what that
          printed on the node.
        - Empty for other files, and for a program without a K3s version in it.
      returned: success
      type: str
      sample: v1.31.4+k3s1
    kind:
      description: What was staged, V(binary), V(archive) or V(script).
      returned: success
      type: str
      sample: binary
    installed:
      description:
        - What was at the destination before, V(absent), V(same), V(different), V(wrong architecture), V(link),
          V(directory) or V(other).
      returned: success
      type: str
      sample: absent
    action:
      description:
        - What the plan says, V(nothing), V(install), V(replace), or V(attributes) where only owner, group or mode
          differ.
      returned: success
      type: str
      sample: install
    bytes_to_send:
      description:
        - How many bytes the node did not have, before the task sent them. In check mode, how many it would send.
      returned: success
      type: int
      sample: 68157440
    free:
      description:
        - Bytes that were free on the node where the file goes, with those of old partial files. V(null) if the node
          does not say.
      returned: success
      type: int
      sample: 9500000000
    node_version:
      description:
        - The release of the K3s that was at the destination. Empty if there was none, or if it was not asked (image
          archives, install script, C(k3s_artifact_probe=false)).
      returned: success
      type: str
      sample: v1.30.8+k3s1
    previous:
      description: Where the binary that is replaced stays. Empty without C(k3s_artifact_keep_previous=true).
      returned: success
      type: str
      sample: /usr/local/bin/k3s.previous
    came:
      description:
        - V(pushed) if the task sent the file, V(fetched) if the node fetched it from C(k3s_artifact_url), V(there) if
          there was nothing to send. Empty in check mode for a file that is still to be sent.
      returned: success
      type: str
      sample: pushed
    way:
      description:
        - How the file went, V(fetch), V(stream), V(put_file), or V(copy) for ansible-core's. Empty where only
          attributes were set, or where another run was faster.
      returned: changed, not in check mode
      type: str
      sample: stream
skip_reason:
  description: Why an image archive is not for the node.
  returned: when skipped
  type: str
  sample: k3s-airgap-images-amd64.tar.zst is for amd64, pi1 is arm64
"""
