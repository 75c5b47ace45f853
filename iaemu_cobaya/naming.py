"""Names of our parameters in a Cobaya run: the option ``param_map``."""

from __future__ import annotations

from collections.abc import Mapping


class MapsParameters:
    """Mixin for Cobaya components: renames the default parameters as the option ``param_map`` says.

    Done where Cobaya collects defaults, so that the renamed parameters keep prior, proposal and label, and are
    assigned to the component (Cobaya's own ``renames`` does neither).
    """

    @classmethod
    def get_modified_defaults(cls, defaults, input_options=None):
        param_map = (input_options or {}).get("param_map") or {}
        if isinstance(param_map, Mapping) and isinstance(defaults, dict) and defaults.get("params"):
            defaults["params"] = {param_map.get(name, name): info for name, info in defaults["params"].items()}
        return defaults
