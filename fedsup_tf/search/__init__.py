"""Search for architectures: evolution, costs, latencies, budgets and bounds."""
