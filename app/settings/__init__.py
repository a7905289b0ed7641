"""What the operator chose: flags, environment, ``.env`` and defaults as one tree."""

from app.settings.fault import SettingsError
from app.settings.reading import env_name, fields_by_group, flag_name, knob_of, load, worker_specs
from app.settings.tree import Settings
from app.settings.values import PrefillUrl

__all__ = [
    "PrefillUrl",
    "Settings",
    "SettingsError",
    "env_name",
    "fields_by_group",
    "flag_name",
    "knob_of",
    "load",
    "worker_specs",
]
