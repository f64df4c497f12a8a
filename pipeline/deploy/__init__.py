"""A pruned network on its way out: made smaller without a change of its answers, and written for other runtimes."""
