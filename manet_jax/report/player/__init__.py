"""The player: a page for each video that shows what the model found, for people who look at videos, and an overview."""
