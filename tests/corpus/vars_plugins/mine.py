# SPDX-License-Identifier: GPL-3.0-or-later
from ansible.plugins.vars import BaseVarsPlugin


class VarsModule(BaseVarsPlugin):
    REQUIRES_ENABLED = False

    def get_vars(self, loader, path, entities, cache=True):
        return {"of_plugin": "a vars plugin"}
