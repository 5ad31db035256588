"""Studies: commands that train, compare or strain many runs."""
