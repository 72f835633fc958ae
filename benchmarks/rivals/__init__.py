"""Other servers with the same members, as their documents show, each in an environment of its own."""
