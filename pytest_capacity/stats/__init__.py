"""What was seen: intervals for shares and quantiles, batch means, digests, series."""
