"""What transactions of a connection may do, as its execution options."""

WRITES = "sinkserve_writes"
"""They may write."""
ALONE = "sinkserve_alone"
"""Nobody else writes while one runs."""
