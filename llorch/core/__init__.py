"""The orchestrator's brain. Pure: no I/O, no clock, no randomness. `brain` conducts; the rooms, by what they are for:

values      job worker session tenant events effects settings hooks policy transitions
memory      state, and what it holds: fleet prefixes queue fairness places sorted_keys timers accounts learned
at the door admission forecast tenants sessions
waiting     waiting queue fairness, promoted and announced by bells
placing     placement dispatch, and asking when a policy script has a say
at work     journey (to the one ending), leases (workers come and go), breaker (and fail)
afterwards  restart (from what was stored), rehearsal stage staging figures (what would have been)

A noun in the singular is a value, in the plural the rules about it: session and sessions, tenant and tenants.
"""
