"""Being on a cluster: connecting to one."""
