"""Micro-actions in untrimmed video: when each one starts and ends."""
