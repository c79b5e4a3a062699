"""One module per revision. Never edit a released one."""
