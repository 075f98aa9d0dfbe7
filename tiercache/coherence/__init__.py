"""What keeps the processes of a cache in step: leases, the bus, debts, locks."""
