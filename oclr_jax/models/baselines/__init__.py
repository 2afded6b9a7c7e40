"""Models to compare with; each takes windows of flow and returns layers, as OCLR does."""
