"""Where images meet pools: observes the host, plans, and carries out actions as durable runs."""
