"""Many cells, one after the other: profiles, plans, workers and the journal. Never imports torch."""
