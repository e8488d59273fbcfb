# SPDX-License-Identifier: GPL-3.0-or-later
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: teller
type: notification
short_description: tells
options: {word: {description: A word., default: said, env: [{name: TELLER}]}}
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "teller"

    def v2_playbook_on_stats(self, stats):
        self._display.display(self.get_option("word") + " at the end")
