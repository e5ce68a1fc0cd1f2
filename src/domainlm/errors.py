"""Failures that a user can mend; the command line prints them without a traceback and exits 2."""


class DomainLMError(Exception):
    """Base of every deliberate failure: one sentence with the value, the limit and the fix."""


class ConfigError(DomainLMError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(DomainLMError):
    """Documents, questions or a run folder cannot be used as they are."""


class MissingExtraError(DomainLMError):
    """An optional package is not installed; the message names the command that installs it."""


class ModelError(DomainLMError):
    """A model cannot be found, loaded or reached."""
