"""Cores that learn from reward, preference, demonstration or their own samples."""
