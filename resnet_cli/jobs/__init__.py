"""The work of each command as a function: it takes values, returns a frozen result and reports to a `Progress`."""
