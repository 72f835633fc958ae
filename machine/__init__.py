"""What a process finds where it runs: its cores and its settings. Imports nothing of the project."""
