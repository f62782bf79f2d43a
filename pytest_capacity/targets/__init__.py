"""How it is said: targets encode requests before the load and judge replies by importable functions."""
