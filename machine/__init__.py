"""What a process finds where it runs: its cores, and a file of settings. Imports nothing of the project."""
