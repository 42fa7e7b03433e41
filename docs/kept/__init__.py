"""What docs/results/ says: as tables and sentences of the pages, and as rows of README."""
