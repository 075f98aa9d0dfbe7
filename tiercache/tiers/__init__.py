"""The tiers: L1 in memory, L2 in stores behind one protocol."""
