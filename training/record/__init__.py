"""What a run leaves: logs, weights and models, written and read."""

from training.record.reader import read_log

__all__ = ["read_log"]
