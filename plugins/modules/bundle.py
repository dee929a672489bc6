# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.1.0"
short_description: Pack an artifact directory into one file that can be carried
description:
  - Adds files to an artifact directory, writes C(manifest.json) and C(SHA256SUMS) into it, signs the list, and packs
    everything into one tar. It works on the controller, whatever the host of the task is.
  - Every binary, image archive and install script is verified first, as the lookup does it, and all binaries have to
    be of one release.
  - C(SHA256SUMS) names every file, sorted, so that C(sha256sum --check) reads it. C(manifest.json) says the release,
    and the architecture, name, size and digest of each file. What is hidden is not packed, nor is a link to a folder.
  - The tar holds the files below the name of the artifact directory. The same files give the same bytes, whoever packs
    them and when. A signature of gpg has its time in it, and is kept while list and key are the same.
  - What is written takes its place by a rename once it is whole. A run that is killed loses nothing, and the next one
    goes on where it stopped.
options:
  dir:
    description:
      - The artifact directory, a whole path. C(k3s_artifact_dir), else C(airgap_dir) in the playbook.
      - With O(verify_only) and without it, that of the lookup.
    type: path
  path:
    description:
      - The tar, a whole path outside of O(dir). C(k3s_bundle_file) in the playbook.
      - Without it, the name of the artifact directory with C(.tar) behind it.
    type: path
  version:
    description: The release that all binaries have to be of. C(k3s_version) in the playbook.
    type: str
  extra:
    description:
      - More files, such as packages for SELinux. C(k3s_bundle_extra) in the playbook. They are copied into O(dir).
      - An entry is a whole path, or C(path) and C(arch), for the folder of that architecture.
    type: list
    elements: raw
  sign_key:
    description:
      - What signs the list. C(k3s_artifact_sign_key) in the playbook.
      - The path of a secret key of minisign, which gives C(SHA256SUMS.minisig), else what C(gpg --local-user) takes for
        a key of your own keyring, which gives C(SHA256SUMS.asc).
      - Without it, a signature that is there is packed for as long as the list is the same, so that it can be made by
        hand.
    type: str
  password:
    description:
      - The password of the key, where the agent of gpg does not have it.
      - Without it, the variable C(k3s_artifact_sign_password). Callbacks may record the options of a task, but not that
        variable.
    type: str
  verify_only:
    description:
      - Pack nothing. Verify every file in O(dir), for every architecture, and name each that cannot be used. Links to
        folders are followed, as the lookup follows them.
      - What a C(SHA256SUMS) of the folder names is compared with it.
      - With O(keyring), also that each is the one that was signed, and that none is missing. Where the option C(verify)
        of the lookup is V(signed), a missing keyring is an error.
    type: bool
    default: false
  keyring:
    description: The public key for O(verify_only). Without it, that of the lookup, C(k3s_artifact_keyring) for one.
    type: path
attributes:
  check_mode:
    description: Everything is read and verified, what would change is told, and nothing is written or signed.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
"""

EXAMPLES = r"""
- name: Pack what is there, signed with a key of gpg
  airgap.k3s.bundle:
    dir: /srv/airgap
    sign_key: release@example.com

- name: Pack a release with a package for all nodes and one for arm64, signed with minisign
  airgap.k3s.bundle:
    dir: /srv/airgap
    path: /media/stick/k3s.tar
    version: v1.31.4+k3s1
    extra:
      - /srv/rpm/k3s-selinux-1.6-1.el9.noarch.rpm
      - {path: /srv/rpm/container-selinux.rpm, arch: arm64}
    sign_key: /home/me/minisign.key
"""

RETURN = r"""
path:
  description: The tar.
  returned: success, and something is packed
  type: str
size:
  description: Its size in bytes.
  returned: success
  type: int
release:
  description: The release of the binaries.
  returned: success
  type: str
arches:
  description: The architectures that there is a binary for.
  returned: success
  type: list
  elements: str
files:
  description: What was in the artifact directory or added to it.
  returned: success
  type: list
  elements: str
signature:
  description: The names of the signatures, empty where it is not signed.
  returned: success
  type: str
msg:
  description: What is in the tar and how large it is, or what went wrong and what to do next.
  returned: always
  type: str
"""
