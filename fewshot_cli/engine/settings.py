"""The base of everything that a recipe may say."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo


class Settings(BaseModel):
    """Validated fields that never change: an unknown name in a recipe is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def idle(cls, value: Any, given: ValidationInfo, reason: str) -> Any:
        """The value of a setting that would do nothing, if it is the default; for validators of fields.

        Any other value raises ValueError with the reason. The default passes, since files and records of runs hold
        every setting, whether somebody wrote it or not.
        """
        if value != cls.default_of(given.field_name or ""):
            raise ValueError(f"would do nothing: {reason}")
        return value

    @classmethod
    def default_of(cls, name: str) -> Any:
        """What the setting is where nobody says it."""
        return cls.model_fields[name].get_default(call_default_factory=True)
