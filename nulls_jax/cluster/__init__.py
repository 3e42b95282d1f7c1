"""Several processes that train one run: found, joined, stopped together.

`places` says which process this is, `hub` connects the hosts, `supervisor`
watches over the process that trains, `member` is that process's side of it,
and `preemption` agrees on the step to end at. Only `member` and `preemption`
import JAX, and only when there are several processes.
"""
