"""One module for each group of bars: what it runs, and the tables it makes of the rows."""
