"""Host tier: files, clocks, flags and processes. Imported by experiments, never by cores."""
