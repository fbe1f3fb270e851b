"""Architecture search: evolution, costs, latencies, budgets and constraints."""
