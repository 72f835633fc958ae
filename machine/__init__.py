"""What the machine lets this process use. Knows the standard library alone."""
