"""Errors that a user can act on: each message says what is wrong, where, and what to do."""


class PipelineError(Exception):
    """Base of every error this project raises on purpose; a stage prints it as one sentence."""


class ConfigError(PipelineError):
    """A parameter, an experiment, a method or a run that cannot be used."""


class DataError(PipelineError):
    """A data set that is missing, incomplete or not what its digest says."""


class ArtifactError(PipelineError):
    """A weights, mask or checkpoint file that is damaged or belongs to another network."""


class TrainingError(PipelineError):
    """A training that cannot go on, such as a loss that became NaN."""
