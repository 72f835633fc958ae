"""Images in, checkpoints out: everything that decides how the members of an ensemble are trained."""
