"""pytest's door: options, marker, fixtures and outcomes. Imports the standard library and pytest only."""
