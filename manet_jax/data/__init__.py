"""From built sets and video files to batches of clips."""
