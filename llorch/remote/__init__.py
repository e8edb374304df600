"""`llorch`: the operator's tool. SSH to pools, HTTP for jobs and the cluster; it decides nothing and keeps no state."""
