"""The fixtures and the guards are the harness's; see tests/harness/plugin.py."""

pytest_plugins = ["harness.plugin"]
