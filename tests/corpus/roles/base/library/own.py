# SPDX-License-Identifier: GPL-3.0-or-later
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.words import word


def main():
    module = AnsibleModule({"of": {"type": "str"}}, supports_check_mode=True)
    module.exit_json(changed=True, own=word + module.params["of"])


main()
