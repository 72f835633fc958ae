"""What can go wrong while training.

TrainingError
├── DataError          images or labels are missing, damaged or do not fit together
├── RecipeError        a recipe, or an architecture it names, does not exist or does not fit the images
├── CheckpointError    a checkpoint file is damaged or is not one of ours
├── RunError           a run folder cannot be created, read or resumed
├── DeviceError        the device that was asked for is not there, or has not memory enough
└── DivergenceError    a member's loss stopped being a number

Every message says what came, what was expected and what to do.
"""


class TrainingError(Exception):
    """Root of all errors that training raises on purpose."""


class DataError(TrainingError):
    """Images or labels are missing, damaged or do not fit together."""


class RecipeError(TrainingError):
    """A recipe, or an architecture it names, does not exist or does not fit the images."""


class CheckpointError(TrainingError):
    """A checkpoint file is damaged or is not one of ours."""


class RunError(TrainingError):
    """A run folder cannot be created, read or resumed."""


class DeviceError(TrainingError):
    """The device that was asked for is not there, or has not memory enough."""


class DivergenceError(TrainingError):
    """A member's loss stopped being a number."""
